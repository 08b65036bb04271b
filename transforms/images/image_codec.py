"""Encoded image in, RGB pixels at the model's input size out: the codec of the job.

Pillow and pillow-heif decode, Pillow resizes with antialias, numpy without. Nothing here
knows of Beam or TensorFlow, so the same functions serve a notebook.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from io import BytesIO
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.Image import Resampling, Transpose
from pillow_heif import register_heif_opener

from transforms.errors import ImageError, ImageTooLarge, UndecodableImage
from transforms.images.file_signatures import describe_content
from transforms.images.pixel_formats import rgb_or_grey, stored_layout
from transforms.images.resampling import resample
from transforms.records import DEFAULT_MAX_PIXELS, Kernel, Pixels, Preprocessing
from transforms.workers.memory_budget import MemoryBudget

register_heif_opener()

# Pillow and pillow-heif warn about odd metadata and large images, once for each new text,
# which on millions of images drowns the log; what matters becomes an error here. The filter
# is set once because warnings.catch_warnings is not safe with the threads of a worker.
warnings.filterwarnings("ignore", module=r"(PIL|pillow_heif)\.")

# The most frequent first: Pillow tries them in this order.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF")

_MAX_MESSAGE = 200

#: Of an image in Pillow's memory, whose RGB has a fourth byte for alignment.
_BYTES_PER_PIXEL = 4

#: What the originals may take that all threads of a process decode at the same time: ten of twelve
#: megapixels, or one of the largest that Pillow opens by default (`DEFAULT_MAX_PIXELS`).
_ORIGINALS = MemoryBudget(512 * 2**20)

_RESAMPLING: dict[Kernel, Resampling] = {
    "bilinear": Resampling.BILINEAR,
    "bicubic": Resampling.BICUBIC,
    "lanczos3": Resampling.LANCZOS,
}

# What turns the stored pixels upright, by the value of EXIF's tag 274, Orientation.
_TURNS = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}
_QUARTER_TURNS = (5, 6, 7, 8)
# The others are their own inverse.
_INVERSE = {6: 8, 8: 6}


class DecodedPixels(NamedTuple):
    """One decoded image at the model's input size."""

    pixels: Pixels
    """`uint8 [target height, target width, 3]`, RGB, read-only."""
    format: str
    """JPEG, PNG, WEBP, GIF, BMP, TIFF, AVIF or HEIF."""
    height: int
    """Of the original, in pixels, after its orientation was applied."""
    width: int
    """Of the original, in pixels, after its orientation was applied."""


def decode_image(
    content: bytes, preprocessing: Preprocessing, max_pixels: int = DEFAULT_MAX_PIXELS
) -> DecodedPixels:
    """Decode one image file and bring it to the size that `preprocessing` asks for.

    Reads JPEG (MPO too), PNG, WebP, GIF (first frame), BMP, TIFF (first page), AVIF and
    HEIC. Grey, CMYK and palette images become RGB, the background shows through transparent
    pixels, of 9 to 16 bits a sample the highest 8 are kept, and the EXIF orientation is
    applied. The pixel limit is checked on the header, before memory is spent on pixels. Threads
    that decode at the same time wait for each other where their originals would together take
    more than half a gigabyte.

    Args:
        content: The whole file.
        preprocessing: The contract that the pixels keep.
        max_pixels: The most pixels (width times height) that the original may have; up to
            twice Pillow's `Image.MAX_IMAGE_PIXELS`, above which Pillow opens nothing.

    Raises:
        UndecodableImage: empty, truncated or corrupt content, another format, or 32-bit
            samples, for which no black and white is stated.
        ImageTooLarge: more pixels than `max_pixels`.
        ValueError: `max_pixels` is below 1 or above what Pillow opens.

    Example:
        >>> decoded = decode_image(content, Preprocessing(height=299, width=299))  # doctest: +SKIP
        >>> decoded.pixels.shape, decoded.format  # doctest: +SKIP
        ((299, 299, 3), 'JPEG')
    """
    _check_max_pixels(max_pixels)
    if not content:
        raise UndecodableImage("the file is empty")
    with _only_image_errors():
        try:
            image = Image.open(BytesIO(content), formats=_FORMATS)
        except UnidentifiedImageError:
            raise UndecodableImage(
                f"no decoder ({', '.join(_FORMATS)}) opens the file: {describe_content(content)}"
            ) from None
        image_format = "JPEG" if image.format == "MPO" else str(image.format)
        width, height = image.size
        if width * height > max_pixels:
            raise ImageTooLarge(
                f"the {image_format} has {width} x {height} = {width * height} pixels; "
                f"the limit is {max_pixels}"
            )
        pixels, height, width = _load_and_resize(image, preprocessing)
    return DecodedPixels(pixels, image_format, height, width)


def decodes_smaller(content: bytes, preprocessing: Preprocessing) -> bool:
    """Return whether `scaled_decoding="auto"` decodes the file at a smaller scale than its own.

    Only the header is looked at. What cannot be opened is not decoded at all, so False.

    Args:
        content: The whole file.
        preprocessing: Whose `scaled_decoding` does not count: it is taken for `auto`.

    Example:
        >>> decodes_smaller(b"no image", Preprocessing(height=8, width=8))
        False
    """
    try:
        with _only_image_errors():
            image = Image.open(BytesIO(content), formats=("JPEG",))
            original_size = image.size
            _draft(image, replace(preprocessing, scaled_decoding="auto"))
            return image.size != original_size
    except ImageError:
        return False


def preprocess_image(image: Image.Image, preprocessing: Preprocessing) -> Pixels:
    """Bring an opened image to the model's input, as `decode_image` does from its bytes.

    The image stays as it was, but for Pillow loading its pixels (of a JPEG with scaled
    decoding, at the smaller scale). There is no pixel limit: whoever opened the image has
    accepted its size.

    Returns:
        `uint8 [preprocessing.height, preprocessing.width, 3]`, RGB, read-only.

    Raises:
        UndecodableImage: the pixels cannot be loaded, or have 32-bit samples, for which no
            black and white is stated.

    Example:
        >>> image = Image.new("RGB", (640, 480))
        >>> preprocess_image(image, Preprocessing(height=8, width=9)).shape
        (8, 9, 3)
    """
    with _only_image_errors():
        pixels, _, _ = _load_and_resize(image, preprocessing)
    return pixels


class _Loaded(NamedTuple):
    """8-bit RGB or grey pixels in memory, and what is still to be done with them."""

    image: Image.Image
    turn: int
    """The EXIF orientation still to be applied; 1 for none."""
    region: tuple[float, float]
    """Width and height of the original in pixels of `image`. A JPEG 1001 pixels wide gives
    501 when decoded at half its size, and the original covers 500.5 of them."""
    height: int
    """Of the original, in pixels, after its orientation was applied."""
    width: int
    """Of the original, in pixels, after its orientation was applied."""


def _check_max_pixels(max_pixels: int) -> None:
    if max_pixels < 1:
        raise ValueError(f"max_pixels is {max_pixels}; it needs at least 1")
    if Image.MAX_IMAGE_PIXELS is not None and max_pixels > 2 * Image.MAX_IMAGE_PIXELS:
        raise ValueError(
            f"max_pixels is {max_pixels}; Pillow opens nothing above "
            f"{2 * Image.MAX_IMAGE_PIXELS} (twice PIL.Image.MAX_IMAGE_PIXELS), so lower it"
        )


@contextmanager
def _only_image_errors() -> Iterator[None]:
    # A decoder raises whatever its parsing stumbles on: IndexError, SyntaxError, ValueError,
    # TypeError, struct.error, ZeroDivisionError, MemoryError from a lying header.
    try:
        yield
    except ImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageTooLarge(_one_line(str(error))) from error
    except Exception as error:
        raise UndecodableImage(
            _one_line(f"the image cannot be decoded: {type(error).__name__}: {error}")
        ) from error


def _one_line(text: str) -> str:
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= _MAX_MESSAGE else line[: _MAX_MESSAGE - 3] + "..."


def _load_and_resize(image: Image.Image, preprocessing: Preprocessing) -> tuple[Pixels, int, int]:
    """Return the pixels for the model, and height and width of the original, turned."""
    original_size = image.size
    region = _draft(image, preprocessing)
    with _ORIGINALS.hold(_BYTES_PER_PIXEL * image.width * image.height):
        loaded = _load(image, preprocessing, original_size, region)
        return _resize(loaded, preprocessing), loaded.height, loaded.width


def _draft(image: Image.Image, preprocessing: Preprocessing) -> tuple[float, float] | None:
    """Have a JPEG decoded at a smaller size, if asked for; return the part that the original is."""
    if preprocessing.scaled_decoding == "off" or image.format not in ("JPEG", "MPO"):
        return None
    turn = _orientation(image) if preprocessing.orientation == "exif" else 1
    _, content_size = _placement(image.size, preprocessing, turn)
    drafted = image.draft(None, (2 * content_size[0], 2 * content_size[1]))
    return None if drafted is None else drafted[1][2:]


def _load(
    image: Image.Image,
    preprocessing: Preprocessing,
    original_size: tuple[int, int],
    region: tuple[float, float] | None,
) -> _Loaded:
    layout = stored_layout(image)
    orientation = _orientation(image)
    image.load()
    remaining = _orientation(image)
    if preprocessing.orientation == "exif":
        turn = remaining
    elif remaining == orientation:
        turn = 1
    else:
        # Pillow turns a TIFF while it loads it, whether asked to or not: turn it back.
        turn = _INVERSE.get(orientation, orientation)
    if region is None:
        # Pillow has turned some originals while it loaded them.
        region = original_size = image.size
    width, height = original_size[::-1] if turn in _QUARTER_TURNS else original_size
    pixels = rgb_or_grey(image, layout, preprocessing.background)
    return _Loaded(pixels, turn, region, height, width)


def _orientation(image: Image.Image) -> int:
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:
        # Corrupt EXIF says nothing about the orientation, and the pixels may still be good.
        return 1
    return orientation if orientation in _TURNS else 1


def _placement(
    region: tuple[float, float], preprocessing: Preprocessing, turn: int
) -> tuple[tuple[float, float, float, float], tuple[int, int]]:
    """The box (left, top, right, bottom) to take, and the (width, height) to give it.

    All of it in the orientation that the pixels have before `turn`.
    """
    width, height = region
    target = (preprocessing.width, preprocessing.height)
    target_width, target_height = target[::-1] if turn in _QUARTER_TURNS else target
    if preprocessing.fit == "center_crop":
        crop_width = min(width, height * target_width / target_height)
        crop_height = min(height, width * target_height / target_width)
        left, top = (width - crop_width) / 2, (height - crop_height) / 2
        box = (left, top, min(left + crop_width, width), min(top + crop_height, height))
        return box, (target_width, target_height)
    if preprocessing.fit == "pad":
        scale = min(target_width / width, target_height / height)
        content = max(1, round(width * scale)), max(1, round(height * scale))
        return (0, 0, width, height), content
    return (0, 0, width, height), (target_width, target_height)


def _resize(loaded: _Loaded, preprocessing: Preprocessing) -> Pixels:
    image, turn, region = loaded.image, loaded.turn, loaded.region
    if turn != 1 and not preprocessing.antialias:
        # Only the antialiasing kernels see the same thing from both sides: where two pixels
        # are equally near, "nearest" takes the right one. So these turn first.
        image = image.transpose(_TURNS[turn])
        region = region[::-1] if turn in _QUARTER_TURNS else region
        turn = 1
    box, size = _placement(region, preprocessing, turn)
    if preprocessing.antialias:
        image = image.resize(size, _RESAMPLING[preprocessing.kernel], box)
    else:
        image = Image.fromarray(resample(np.asarray(image), box, size, preprocessing.kernel))
    if turn != 1:
        # After resizing, because turning twelve million pixels costs as much as the resize.
        image = image.transpose(_TURNS[turn])
    if image.mode != "RGB":
        image = image.convert("RGB")
    target = (preprocessing.width, preprocessing.height)
    if image.size != target:
        canvas = Image.new("RGB", target, preprocessing.background)
        canvas.paste(image, ((target[0] - image.width) // 2, (target[1] - image.height) // 2))
        image = canvas
    pixels: Pixels = np.asarray(image)
    return pixels
