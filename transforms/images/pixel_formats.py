"""Every way of storing samples that Pillow opens, brought to 8-bit RGB or grey."""

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image

from transforms.errors import UndecodableImage


def stored_layout(image: Image.Image) -> str:
    """Return how Pillow says that the file stores its samples, such as "I;16B"; "" if unknown.

    Ask before the pixels are loaded: Pillow forgets it then.
    """
    # The raw mode: the mode alone does not tell how many bits the file has.
    tiles = getattr(image, "tile", None)
    if not tiles:
        return ""
    arguments = tiles[0][3]
    return str(arguments if isinstance(arguments, str) else (arguments or ("",))[0])


def rgb_or_grey(image: Image.Image, layout: str, background: tuple[int, int, int]) -> Image.Image:
    """Return the image in mode RGB or L (8 bits), without transparency.

    Args:
        image: in any mode, its pixels loaded.
        layout: by `stored_layout`, from before they were.
        background: RGB, what shows through transparent pixels.

    Raises:
        UndecodableImage: 32-bit samples, for which no black and white is stated.
    """
    if image.mode == "F" or (image.mode == "I" and not layout.startswith("I;16")):
        raise UndecodableImage(
            f"32-bit samples (Pillow's mode {image.mode}) have no stated black and white; "
            "store the image with 8 or 16 bits a sample"
        )
    if image.mode.startswith("I"):
        image = _highest_eight_bits(image, layout)
    if image.has_transparency_data:
        transparent = _with_8_bit_colour_key(image, layout).convert("RGBA")
        opaque = Image.new("RGB", image.size, background)
        opaque.paste(transparent, mask=transparent)
        return opaque
    if image.mode in ("RGB", "L"):
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def _highest_eight_bits(image: Image.Image, layout: str) -> Image.Image:
    # Pillow's own conversion clips at 255. Shifting is what Pillow does to 16-bit RGB.
    samples: npt.NDArray[Any] = np.asarray(image)
    if image.mode == "I":
        samples = samples + 32768  # signed 16 bits
    grey = (samples >> (4 if layout == "I;12" else 8)).astype(np.uint8)
    tags = getattr(image, "tag_v2", {})
    if tags.get(ExifTags.Base.PhotometricInterpretation) == 0:
        grey = 255 - grey  # white is zero, which Pillow heeds for 8 bits only
    colour_key = image.info.get("transparency")
    if colour_key is None:
        return Image.fromarray(grey)
    alpha = np.where(samples == colour_key, 0, 255).astype(np.uint8)
    return Image.merge("LA", (Image.fromarray(grey), Image.fromarray(alpha)))


def _with_8_bit_colour_key(image: Image.Image, layout: str) -> Image.Image:
    # A PNG states its transparent colour in samples of the file's own depth, and Pillow
    # compares it with samples of 8 bits.
    colour_key: Any = image.info.get("transparency")
    if layout in ("L;2", "L;4"):
        colour_key = colour_key * (85 if layout == "L;2" else 17)
    elif layout == "RGB;16B":
        colour_key = tuple(sample >> 8 for sample in colour_key)
    else:
        return image
    keyed = image.copy()
    keyed.info["transparency"] = colour_key
    return keyed
