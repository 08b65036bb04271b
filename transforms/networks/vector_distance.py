"""How far vectors lie from others, of the same images."""

from typing import Any

import numpy as np
import numpy.typing as npt

from transforms.records import Vector

Output = npt.NDArray[Any]
"""Of a network: one part for each image, of any shape and type."""


def relative_distance(vectors: Vector, others: Vector) -> float:
    """Return how far any vector lies from its other one, in parts of the longer one's length.

    Args:
        vectors: `float32 [n, width]`.
        others: the same shape.

    Example:
        >>> relative_distance(np.float32([[3, 4]]), np.float32([[3, 3]]))
        0.2
    """
    first, second = vectors.astype(np.float64), others.astype(np.float64)
    lengths = np.maximum(np.linalg.norm(first, axis=1), np.linalg.norm(second, axis=1))
    return float((np.linalg.norm(first - second, axis=1) / np.maximum(lengths, 1e-30)).max())


def cosine_distances(vectors: Vector, others: Vector) -> npt.NDArray[np.float64]:
    """Return the cosine distance of each vector to its other one.

    Two vectors of length zero are 0 apart, and one of them is 1 apart from any other. The distance
    is infinite where a vector is not finite.

    Args:
        vectors: `float32 [n, width]`.
        others: the same shape.

    Example:
        >>> cosine_distances(np.float32([[3, 4], [0, 0]]), np.float32([[6, 8], [0, 0]])).tolist()
        [0.0, 0.0]
    """
    first, second = vectors.astype(np.float64), others.astype(np.float64)
    lengths = np.linalg.norm(first, axis=1), np.linalg.norm(second, axis=1)
    product = lengths[0] * lengths[1]
    with np.errstate(invalid="ignore"):
        cosines = (first * second).sum(axis=1) / np.where(product == 0, 1.0, product)
    distances = np.where((lengths[0] == 0) & (lengths[1] == 0), 0.0, 1 - cosines)
    finite: npt.NDArray[np.float64] = np.where(np.isfinite(distances), distances, np.inf)
    return finite


def largest_move(outputs: list[Output], others: list[Output]) -> float:
    """Return how far the vectors of any output lie from their other ones, as `relative_distance`.

    Values that are not finite count as equal where both are the same; else, and where shapes
    differ, the distance is infinite.

    Args:
        outputs: one array for each output of a network.
        others: the same.

    Example:
        >>> largest_move([np.float32([[3, 4, np.nan]])], [np.float32([[3, 3, np.nan]])])
        0.2
    """
    if [each.shape for each in outputs] != [each.shape for each in others]:
        return float("inf")
    return max((_move(*pair) for pair in zip(outputs, others, strict=True)), default=0.0)


def _move(output: Output, other: Output) -> float:
    if not output.size:
        return 0.0
    count = len(output) if output.ndim else 1
    first, second = (each.astype(np.float64).reshape(count, -1) for each in (output, other))
    finite = np.isfinite(first) & np.isfinite(second)
    if not np.array_equal(first[~finite], second[~finite], equal_nan=True):
        return float("inf")
    return relative_distance(np.where(finite, first, 0), np.where(finite, second, 0))
