"""From the logits of a classifier to its likeliest classes and their probabilities."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

#: How far the sum of probabilities in float32 may lie from 1.
_SUM_TOLERANCE = 1e-3


class TopClasses(NamedTuple):
    """The likeliest classes of each image, the likeliest first."""

    indices: npt.NDArray[np.int64]
    """`int64 [n, count]`"""
    probabilities: npt.NDArray[np.float32]
    """`float32 [n, count]`, among all classes; so the sum of a row is at most 1."""


def softmax(logits: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Return the probabilities that the logits along the last axis stand for.

    Computed in float64, and finite for any finite logits.

    Example:
        >>> softmax(np.array([[1000.0, 1000.0]])).tolist()
        [[0.5, 0.5]]
    """
    wide = logits.astype(np.float64)
    # The largest exponent is 0, so nothing overflows.
    powers = np.exp(wide - wide.max(axis=-1, keepdims=True))
    probabilities: npt.NDArray[np.float64] = powers / powers.sum(axis=-1, keepdims=True)
    return probabilities


def top_classes(logits: npt.NDArray[np.float32], count: int) -> TopClasses:
    """Return the `count` likeliest classes of each row; of equal logits the lower class first.

    Args:
        logits: `float32 [n, classes]`, finite.
        count: from 1 to the number of classes.

    Raises:
        ValueError: the logits are not two-dimensional, or have fewer classes.

    Example:
        >>> top = top_classes(np.array([[0.0, 2.0, 2.0]], np.float32), 2)
        >>> top.indices.tolist(), top.probabilities.round(3).tolist()
        ([[1, 2]], [[0.46799999475479126, 0.46799999475479126]])
    """
    if logits.ndim != 2 or not 1 <= count <= logits.shape[1]:
        raise ValueError(f"the logits are {list(logits.shape)}; {count} classes cannot be taken")
    # Probabilities too small for a float64 are all zero; the logits still tell their order.
    indices = np.argsort(-logits, axis=1, kind="stable")[:, :count].astype(np.int64)
    probabilities = np.take_along_axis(softmax(logits), indices, axis=1)
    return TopClasses(indices, probabilities.astype(np.float32))


def are_probabilities(values: npt.NDArray[np.float32]) -> bool:
    """Whether a row of several values is a distribution already, as behind a softmax layer.

    The softmax of probabilities would be nearly the same for every class.

    Example:
        >>> are_probabilities(np.array([0.9, 0.1, 0.0], np.float32))
        True
    """
    total = float(values.sum(dtype=np.float64))
    return values.size > 1 and bool((values >= 0).all()) and abs(total - 1) < _SUM_TOLERANCE
