"""Resizing without antialias, which Pillow does not offer: numpy, to the letter of TensorFlow."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from transforms.records import Kernel, Pixels

_Floats = npt.NDArray[np.floating[Any]]


def _triangle(x: _Floats) -> _Floats:
    return np.where(np.abs(x) < 1, 1 - np.abs(x), 0)


def _keys_cubic(x: _Floats) -> _Floats:
    # Keys, "Cubic convolution interpolation for digital image processing", 1981, a = -0.5.
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0))


def _lanczos3(x: _Floats) -> _Floats:
    return np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0)


# (the kernel, its radius in pixels)
_KERNELS: dict[Kernel, tuple[Callable[[_Floats], _Floats], int]] = {
    "bilinear": (_triangle, 1),
    "bicubic": (_keys_cubic, 2),
    "lanczos3": (_lanczos3, 3),
}


def resample(
    pixels: Pixels,
    box: tuple[float, float, float, float],
    size: tuple[int, int],
    kernel: Kernel,
) -> Pixels:
    """Resize as `tf.image.resize(antialias=False)`: half-pixel centres, the kernel never widened.

    Args:
        pixels: `uint8 [height, width]` or `[height, width, channels]`.
        box: left, top, right and bottom of the part to take, in pixels of the input.
        size: width and height of the output, in pixels.
        kernel: the filter.

    Returns:
        `uint8`, of the output's size.

    Example:
        >>> resample(np.zeros((4, 6, 3), np.uint8), (0, 0, 6, 4), (3, 2), "bilinear").shape
        (2, 3, 3)
    """
    left, top, right, bottom = box
    width, height = size
    # Rows first: what lies between the two steps has the target's height, not the original's.
    rows = _gather(pixels, 0, _taps(pixels.shape[0], top, bottom, height, kernel))
    both = _gather(rows, 1, _taps(pixels.shape[1], left, right, width, kernel))
    return np.clip(np.rint(both), 0, 255).astype(np.uint8)


def _taps(
    length: int, start: float, stop: float, count: int, kernel: Kernel
) -> tuple[npt.NDArray[np.intp], _Floats]:
    """Which input samples each of `count` outputs mixes, and how: two `[count, taps]` arrays."""
    # float32, as TensorFlow computes it: it decides which of two equally near is "nearest".
    scale = np.float32((stop - start) / count)
    centres = (np.arange(count, dtype=np.float32) + np.float32(0.5)) * scale + np.float32(start)
    if kernel == "nearest":
        nearest = np.minimum(np.floor(centres).astype(np.intp), length - 1)
        return nearest[:, None], np.ones((count, 1), np.float32)
    weigh, radius = _KERNELS[kernel]
    centres -= np.float32(0.5)
    first = np.floor(centres).astype(np.intp) - radius + 1
    indices = first[:, None] + np.arange(2 * radius)
    weights = weigh(centres[:, None] - indices)
    weights[(indices < 0) | (indices >= length)] = 0
    weights /= weights.sum(axis=1, keepdims=True)
    return np.clip(indices, 0, length - 1), weights.astype(np.float32)


def _gather(
    samples: npt.NDArray[Any], axis: int, taps: tuple[npt.NDArray[np.intp], _Floats]
) -> _Floats:
    indices, weights = taps
    shape = [1] * samples.ndim
    shape[axis] = -1
    total: _Floats = np.zeros((), np.float32)
    for tap in range(indices.shape[1]):
        total = total + np.take(samples, indices[:, tap], axis) * weights[:, tap].reshape(shape)
    return total
