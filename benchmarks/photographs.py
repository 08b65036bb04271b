"""Distinct photographs to measure with: a folder of one's own, or crops of those of two packages.

The crops come from the photographs that scikit-image and scikit-learn carry, at places and scales
drawn from a seeded generator, with grain, without which enlarged pictures would be smaller files
and faster to decode than those of a camera. Nothing is downloaded.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.demo import PHOTOGRAPHS, find_photographs

ORDINARY = (500, 375)
"""Width and height of the photographs of ImageNet and Caltech-101, by and large."""
TWELVE_MEGAPIXELS = (4000, 3000)
"""Of a telephone's camera."""

_SMALLEST_SOURCE = 300
_GRAIN = 5.0
"""Standard deviation of the grain, in levels of 0 to 255."""
_QUALITY = 90


def own_photographs(folder: Path, count: int) -> list[str]:
    """Return the paths of up to `count` JPEGs below a folder, in the order of their names."""
    found = [path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg")]
    return [str(path) for path in sorted(found)[:count]]


def make_photographs(folder: Path, count: int, size: tuple[int, int]) -> list[str]:
    """Write `count` distinct JPEGs of the size; return their paths. The same ones every time."""
    sources = _sources()
    random = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    grains = [_grain(random, size) for _ in range(4)]
    paths = []
    for number in range(count):
        source = sources[number % len(sources)]
        image = source.resize(size, Image.Resampling.BICUBIC, _crop(random, source.size, size))
        pixels = np.asarray(image).astype(np.int16) + grains[random.integers(len(grains))]
        path = folder / f"photograph-{number:06d}.jpg"
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path, quality=_QUALITY)
        paths.append(str(path))
    return paths


def link_photographs(paths: Sequence[str], folder: Path) -> str:
    """Bring some files together in a new folder, as a job reads them; return its path."""
    folder.mkdir(parents=True)
    for number, path in enumerate(paths):
        target = folder / f"{number:06d}-{Path(path).name}"
        try:
            target.hardlink_to(path)
        except OSError:  # Another file system.
            shutil.copyfile(path, target)
    return str(folder)


def _sources() -> list[Image.Image]:
    images = []
    for path in (path for package in PHOTOGRAPHS for path in find_photographs(package)):
        with Image.open(path) as image:
            if min(image.size) >= _SMALLEST_SOURCE:
                images.append(image.convert("RGB"))
    return images


def _crop(
    random: np.random.Generator, source: tuple[int, int], size: tuple[int, int]
) -> tuple[float, float, float, float]:
    """Return a box (left, top, right, bottom) of the proportions of `size`."""
    largest = min(source[0] / size[0], source[1] / size[1])
    scale = largest * random.uniform(0.6, 1.0)
    width, height = size[0] * scale, size[1] * scale
    left, top = random.uniform(0, source[0] - width), random.uniform(0, source[1] - height)
    return left, top, left + width, top + height


def _grain(random: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    return np.rint(random.normal(0.0, _GRAIN, (size[1], size[0], 1))).astype(np.int16)
