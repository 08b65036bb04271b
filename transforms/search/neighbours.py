"""Exact nearest neighbours by cosine, in plain numpy."""

from typing import Any

import numpy as np
import numpy.typing as npt

from transforms.records import Vector

#: Numbers taken up at once: 32 MiB as float64, whatever the number of vectors.
BLOCK_VALUES = 1 << 22


def nearest_neighbours(
    vectors: npt.NDArray[np.floating[Any]], query: npt.NDArray[np.floating[Any]], count: int
) -> tuple[npt.NDArray[np.intp], Vector]:
    """Find the rows of `vectors` that point most nearly the way `query` points.

    Every row is compared, so the answer is exact. `vectors` may be a memory map: it is read
    in blocks, and besides a block of 32 MiB only one number a row is kept. A zero vector has no
    direction; its cosine to anything counts as 0.

    Args:
        vectors: `float32 [n, width]`.
        query: `float32 [width]`.
        count: how many rows are wanted; all n come back where it is larger.

    Returns:
        The row numbers `int [min(count, n)]`, nearest first, and their cosines `float32`, from
        -1 to 1. Among equal cosines the lower row number comes first.

    Raises:
        ValueError: shapes that do not fit each other, a count below 1, or NaN or infinity.

    Example:
        >>> rows, cosines = nearest_neighbours(np.eye(3), np.array([0.0, 3.0, 4.0]), 2)
        >>> rows.tolist(), [round(float(cosine), 2) for cosine in cosines]
        ([2, 1], [0.8, 0.6])
    """
    if vectors.ndim != 2:
        raise ValueError(f"vectors has shape {vectors.shape}; give it two axes, [n, width]")
    if query.shape != vectors.shape[1:]:
        raise ValueError(
            f"query has shape {query.shape} and vectors {vectors.shape}; "
            f"give a query of shape {vectors.shape[1:]}"
        )
    if count < 1:
        raise ValueError(f"count is {count}; ask for at least 1 neighbour")

    direction = query.astype(np.float64)
    with np.errstate(invalid="ignore"):
        direction /= float(np.linalg.norm(direction)) or 1.0
    cosines = np.empty(len(vectors), np.float64)
    rows_at_once = max(1, BLOCK_VALUES // max(1, vectors.shape[1]))
    for start in range(0, len(vectors), rows_at_once):
        # In float64 the square of any float32 is finite.
        block = vectors[start : start + rows_at_once].astype(np.float64)
        lengths = np.sqrt(np.einsum("ij,ij->i", block, block))
        products = block @ direction
        with np.errstate(invalid="ignore"):
            found = np.divide(products, lengths, out=np.zeros_like(products), where=lengths != 0)
        cosines[start : start + len(block)] = found
    if np.isnan(cosines).any():
        raise ValueError("there is NaN or infinity among the numbers; drop those vectors first")
    nearest = np.argsort(-cosines, kind="stable")[:count]
    # Rounding can carry a cosine of 1 a little beyond it.
    return nearest, np.clip(cosines[nearest], -1.0, 1.0).astype(np.float32)
