"""Images that every machine generates alike, and what models of known weights make of them."""

import io
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np
import numpy.typing as npt

from transforms.models.untrained_model import UNTRAINED_HANDLE
from transforms.records import Pixels, Vector

GOLDEN_FILES = {UNTRAINED_HANDLE: "untrained_inception_resnet_v2_golden.npz"}


@dataclass(frozen=True, slots=True, eq=False)
class GoldenVectors:
    """What a model of known weights gives for generated images."""

    height: int
    width: int
    vectors: Vector
    """`float32 [n, width of the model]`, of the first n of `generated_images(height, width)`
    with values in [0, 1]."""


def golden_vectors(handle: str) -> GoldenVectors | None:
    """Return the golden vectors of a model; None where nobody knows them.

    `benchmarks/make_golden_vectors.py` has made them.
    """
    if handle not in GOLDEN_FILES:
        return None
    content = resources.files(__package__).joinpath(GOLDEN_FILES[handle]).read_bytes()
    with np.load(io.BytesIO(content)) as file:
        height, width = (int(side) for side in file["size"])
        return GoldenVectors(height, width, file["vectors"])


def generated_images(height: int, width: int, count: int = 6) -> Pixels:
    """Return images with the many scales of a photograph, the same bytes on every machine.

    Sums of smooth noise, half as strong at half the size, with more or less contrast: only
    integers of `numpy.random.RandomState`, whose stream is frozen, additions and products.

    Returns:
        `uint8 [count, height, width, 3]`.

    Example:
        >>> generated_images(8, 8, count=2).shape
        (2, 8, 8, 3)
    """
    random = np.random.RandomState(7)
    images = np.empty((count, height, width, 3), np.uint8)
    for place in range(count):
        values = np.zeros((height, width, 3)) + random.randint(48, 208, 3)
        contrast = 0.5 + 0.25 * (place % 4)
        for octave in range(5):
            cells = 2 << octave
            grid = random.randint(-128, 128, (cells, cells, 3)) * (contrast / (1 << octave))
            values += _enlarged(_enlarged(grid, height).swapaxes(0, 1), width).swapaxes(0, 1)
        images[place] = np.clip(np.rint(values), 0, 255)
    return images


def _enlarged(grid: npt.NDArray[np.floating[Any]], length: int) -> npt.NDArray[np.floating[Any]]:
    """Interpolate linearly along the first axis."""
    places = np.arange(length) * (len(grid) - 1) / max(length - 1, 1)
    before = np.minimum(places.astype(np.intp), len(grid) - 2)
    part = (places - before)[:, None, None]
    enlarged: npt.NDArray[np.floating[Any]] = grid[before] * (1 - part) + grid[before + 1] * part
    return enlarged
