"""The image codec: every format and kind of pixels, resizing as TensorFlow does it, bad files."""

import io
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from sample_images import (
    FORMATS,
    corrupt_images,
    encode,
    exif_with_orientation,
    image_bytes,
    jpeg_bytes,
    natural_image,
    png_bytes,
    png_claiming,
    png_from_samples,
    tiff_from_samples,
    truncated,
)

from transforms.errors import ImageError, ImageTooLarge, UndecodableImage
from transforms.images import image_codec
from transforms.images.image_codec import (
    DEFAULT_MAX_PIXELS,
    decode_image,
    decodes_smaller,
    preprocess_image,
)
from transforms.records import Fit, Kernel, Orientation, Pixels, Preprocessing
from transforms.workers.memory_budget import MemoryBudget

# Pillow's warnings are silenced for the process; pytest brings them back for each test.
pytestmark = pytest.mark.filterwarnings(r"ignore:::PIL\.")

BACKGROUND = (10, 200, 90)
LEFT = (200, 60, 30)
RIGHT = (40, 90, 220)
HALF_TRANSPARENT = 128

# What turns a stored array upright, from the words of the EXIF standard ("the 0th row is at
# the visual ... of the image, the 0th column is at the visual ...").
UPRIGHT: dict[int, Callable[[Pixels], Pixels]] = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.transpose(1, 0, 2),
    6: lambda stored: stored.transpose(1, 0, 2)[:, ::-1],
    7: lambda stored: stored.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda stored: stored.transpose(1, 0, 2)[::-1],
}


def original_size(content: bytes, **settings: Any) -> Pixels:
    """The decoded pixels without any resizing."""
    width, height = Image.open(io.BytesIO(content)).size
    contract = Preprocessing(height=height, width=width, background=BACKGROUND, **settings)
    return decode_image(content, contract).pixels


def two_halves(mode: str) -> Image.Image:
    """A flat left and a flat right half; the right one half transparent where `mode` can be."""
    image = Image.new("RGBA", (32, 16), (*LEFT, 255))
    image.paste((*RIGHT, HALF_TRANSPARENT), (16, 0, 32, 16))
    if mode == "P":
        return image.convert("RGB").quantize(4)
    if mode == "I;16":
        return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    return image.convert(mode) if mode in ("RGBA", "LA") else image.convert("RGB").convert(mode)


def expected_halves(mode: str) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    left, right = np.array(LEFT, float), np.array(RIGHT, float)
    if mode in ("1", "L", "LA", "I;16"):
        luma = np.array([0.299, 0.587, 0.114])
        left, right = np.full(3, left @ luma), np.full(3, right @ luma)
    if mode in ("RGBA", "LA"):
        opacity = HALF_TRANSPARENT / 255
        right = opacity * right + (1 - opacity) * np.array(BACKGROUND)
    return left, right


@pytest.mark.parametrize(
    ("image_format", "modes", "tolerance"),
    [
        ("JPEG", ["L", "RGB", "CMYK"], 4),
        ("PNG", ["L", "LA", "P", "RGB", "RGBA", "I;16"], 1.5),
        ("WEBP", ["L", "RGB", "RGBA"], 5),
        ("GIF", ["L", "P", "RGB"], 1.5),
        ("BMP", ["L", "P", "RGB"], 1.5),
        ("TIFF", ["L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"], 2),
        ("AVIF", ["L", "RGB", "RGBA"], 6),
        ("HEIF", ["L", "RGB", "RGBA"], 6),
    ],
)
def test_the_colours_of_every_format_and_mode_survive(
    image_format: str, modes: list[str], tolerance: float
) -> None:
    for mode in modes:
        content = encode(two_halves(mode), image_format)
        contract = Preprocessing(height=16, width=32, background=BACKGROUND)
        decoded = decode_image(content, contract)
        assert decoded.format == image_format
        assert (decoded.height, decoded.width) == (16, 32)
        assert decoded.pixels.dtype == np.uint8
        assert decoded.pixels.shape == (16, 32, 3)
        left, right = expected_halves(mode)
        assert np.abs(decoded.pixels[8, 6] - left).max() <= tolerance, mode
        assert np.abs(decoded.pixels[8, 26] - right).max() <= tolerance, mode


@pytest.mark.parametrize("image_format", ["PNG", "BMP", "TIFF", "GIF"])
def test_one_bit_images_are_black_and_white(image_format: str) -> None:
    image = Image.new("1", (32, 16), 0)
    image.paste(1, (16, 0, 32, 16))
    pixels = original_size(encode(image, image_format))
    assert np.all(pixels[:, :16] == 0)
    assert np.all(pixels[:, 16:] == 255)


def test_a_jpeg_compressed_tiff_keeps_its_colours() -> None:
    pixels = original_size(encode(two_halves("RGB"), "TIFF", compression="jpeg"))
    assert np.abs(pixels[8, 6] - np.array(LEFT)).max() <= 4
    assert np.abs(pixels[8, 26] - np.array(RIGHT)).max() <= 4


def test_lab_tiff_keeps_its_colour() -> None:
    lab = Image.new("LAB", (8, 8), (136, 208, 195))  # CIE L*a*b* 53, 80, 67: pure red
    pixels = original_size(encode(lab, "TIFF"))
    assert pixels[4, 4, 0] > 230
    assert pixels[4, 4, 1:].max() < 50


@pytest.mark.parametrize("image_format", ["PNG", "GIF"])
def test_the_transparent_entry_of_a_palette_shows_the_background(image_format: str) -> None:
    image = two_halves("P")
    right_entry = image.getpixel((26, 8))
    pixels = original_size(encode(image, image_format, transparency=right_entry))
    assert pixels[8, 26].tolist() == list(BACKGROUND)
    assert pixels[8, 6].tolist() == list(LEFT)


def test_a_palette_with_degrees_of_opacity_is_blended() -> None:
    image = two_halves("P")
    opacities = bytearray([255] * 4)
    right_entry = image.getpixel((26, 8))
    assert isinstance(right_entry, int)
    opacities[right_entry] = HALF_TRANSPARENT
    pixels = original_size(encode(image, "PNG", transparency=bytes(opacities)))
    assert np.abs(pixels[8, 26] - expected_halves("RGBA")[1]).max() <= 1.5


def test_transparency_is_composited_before_resizing() -> None:
    # Transparent black next to opaque red: resizing first would mix the black in.
    samples = np.zeros((8, 8, 4), np.uint8)
    samples[:, ::2] = (255, 0, 0, 255)
    content = encode(Image.fromarray(samples), "PNG")
    contract = Preprocessing(height=1, width=1, background=(255, 255, 255))
    assert np.abs(decode_image(content, contract).pixels[0, 0] - [255, 127.5, 127.5]).max() <= 1


@pytest.mark.parametrize("depth", [2, 4, 8, 16])
def test_the_transparent_grey_of_a_png_counts_in_the_depth_of_the_file(depth: int) -> None:
    white = 2**depth - 1
    samples = np.array([[0, white // 3, 2 * (white // 3), white]] * 4)
    pixels = original_size(png_from_samples(samples, depth, transparent=(white // 3,)))
    assert pixels[0, 1].tolist() == list(BACKGROUND)
    assert pixels[0, 0].tolist() == [0] * 3
    assert pixels[0, 2].tolist() == [170] * 3
    assert pixels[0, 3].tolist() == [255] * 3


@pytest.mark.parametrize("depth", [8, 16])
def test_the_transparent_colour_of_a_png_counts_in_the_depth_of_the_file(depth: int) -> None:
    samples = np.array([[LEFT, RIGHT]] * 2)
    if depth == 16:
        samples = samples * 256 + 7
    transparent = tuple(samples[0, 1].tolist())
    pixels = original_size(png_from_samples(samples, depth, transparent))
    assert pixels[0].tolist() == [list(LEFT), list(BACKGROUND)]


RAMP = np.linspace(0, 65535, 256).round().astype(np.int64).reshape(8, 32)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(png_from_samples(RAMP, 16), id="PNG"),
        pytest.param(tiff_from_samples(RAMP), id="TIFF"),
        pytest.param(
            encode(Image.fromarray(RAMP.astype(np.uint16)), "TIFF", compression="tiff_lzw"),
            id="TIFF with LZW",
        ),
        pytest.param(encode(Image.fromarray(RAMP.astype(">u2")), "TIFF"), id="big-endian TIFF"),
        pytest.param(tiff_from_samples(RAMP - 32768, signed=True), id="signed TIFF"),
        pytest.param(tiff_from_samples(65535 - RAMP, white_is_zero=True), id="white is zero"),
        pytest.param(tiff_from_samples(RAMP >> 4, bit_depth=12), id="12 bits"),
        pytest.param(png_from_samples(np.stack([RAMP] * 3, axis=-1), 16), id="RGB PNG"),
        pytest.param(tiff_from_samples(np.stack([RAMP] * 3, axis=-1)), id="RGB TIFF"),
    ],
)
def test_sixteen_bits_are_scaled_and_never_clipped(content: bytes) -> None:
    pixels = original_size(content)
    steps = pixels[..., 0].reshape(-1).astype(int)
    assert np.abs(steps - np.arange(256)).max() <= 1
    assert np.all(pixels == pixels[..., :1])


@pytest.mark.parametrize(("mode", "dtype"), [("I", np.int32), ("F", np.float32)])
def test_32_bit_samples_are_refused_because_they_state_no_range(mode: str, dtype: Any) -> None:
    image = Image.fromarray(np.full((4, 4), 7, dtype))
    assert image.mode == mode
    with pytest.raises(UndecodableImage, match=rf"32-bit samples .*mode {mode}.* 8 or 16 bits"):
        decode_image(encode(image, "TIFF"), Preprocessing(height=4, width=4))
    with pytest.raises(UndecodableImage, match="32-bit samples"):
        preprocess_image(image, Preprocessing(height=4, width=4))


@pytest.mark.parametrize("image_format", ["GIF", "WEBP", "PNG", "TIFF", "AVIF"])
def test_the_first_frame_stands_for_an_animation(image_format: str) -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in (LEFT, RIGHT)]
    content = encode(frames[0], image_format, save_all=True, append_images=frames[1:])
    assert np.abs(original_size(content)[8, 8] - np.array(LEFT)).max() <= 6


def test_a_multi_picture_jpeg_counts_as_jpeg() -> None:
    frames = [natural_image(64, 48, seed) for seed in (0, 1)]
    content = encode(frames[0], "MPO", save_all=True, append_images=frames[1:])
    assert Image.open(io.BytesIO(content)).format == "MPO"
    decoded = decode_image(content, Preprocessing(height=48, width=64))
    assert decoded.format == "JPEG"
    assert np.abs(decoded.pixels.astype(int) - np.asarray(frames[0])).mean() < 12


def test_a_grey_image_gives_three_equal_channels_as_its_rgb_copy_does() -> None:
    grey = natural_image(150, 100).convert("L")
    for antialias in (True, False):
        contract = Preprocessing(height=37, width=41, antialias=antialias)
        pixels = preprocess_image(grey, contract)
        np.testing.assert_array_equal(pixels, preprocess_image(grey.convert("RGB"), contract))


SIZES = [
    pytest.param((400, 300), (299, 299), id="a little smaller"),
    pytest.param((1001, 667), (75, 131), id="much smaller, odd"),
    pytest.param((97, 61), (299, 301), id="larger, odd"),
    pytest.param((600, 50), (40, 90), id="smaller and larger"),
    pytest.param((299, 299), (299, 299), id="the same"),
    pytest.param((1, 1), (5, 7), id="one pixel"),
]


def tensorflow_resize(pixels: Pixels, size: tuple[int, int], kernel: str, antialias: bool) -> Any:
    import tensorflow as tf

    resized = tf.image.resize(pixels, size, method=kernel, antialias=antialias).numpy()
    return np.clip(resized, 0, 255)


@pytest.mark.parametrize(("from_size", "to_size"), SIZES)
@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("kernel", ["bilinear", "bicubic", "lanczos3"])
def test_resizing_agrees_with_tensorflow(
    kernel: Kernel, antialias: bool, from_size: tuple[int, int], to_size: tuple[int, int]
) -> None:
    image = natural_image(*from_size)
    contract = Preprocessing(to_size[0], to_size[1], kernel=kernel, antialias=antialias)
    ours = preprocess_image(image, contract).astype(float)
    difference = np.abs(ours - tensorflow_resize(np.asarray(image), to_size, kernel, antialias))
    assert difference.mean() < 0.6
    assert np.quantile(difference, 0.999) < 1.25
    if not antialias:
        assert difference.max() < 0.75
    elif kernel == "bilinear":
        assert difference.max() < 1.5
    else:
        # Pillow rounds and clips to 8 bits between its two passes, and these kernels overshoot:
        # it shows at hard edges of black and white.
        assert difference.max() < 6


@pytest.mark.parametrize(
    ("from_size", "to_size"), [*SIZES, pytest.param((64, 48), (24, 32), id="ties: exactly half")]
)
def test_nearest_takes_the_pixels_that_tensorflow_takes(
    from_size: tuple[int, int], to_size: tuple[int, int]
) -> None:
    image = natural_image(*from_size)
    contract = Preprocessing(to_size[0], to_size[1], kernel="nearest", antialias=False)
    np.testing.assert_array_equal(
        preprocess_image(image, contract),
        tensorflow_resize(np.asarray(image), to_size, "nearest", False),
    )


def test_no_antialias_is_clearly_another_image() -> None:
    # Guards the comparison above: it has to be able to tell the two forms apart.
    image = natural_image(1001, 667)
    smooth, plain = (
        preprocess_image(image, Preprocessing(75, 131, antialias=antialias)).astype(float)
        for antialias in (True, False)
    )
    assert np.abs(smooth - plain).mean() > 1.5
    reference = tensorflow_resize(np.asarray(image), (75, 131), "bilinear", True)
    assert np.abs(plain - reference).mean() > 1.5


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize(
    ("size", "crop"),
    [
        ((400, 200), (150, 0, 250, 200)),
        ((200, 400), (0, 0, 200, 400)),
        ((100, 900), (0, 350, 100, 550)),
    ],
)
def test_center_crop_takes_the_largest_centred_part_of_the_right_proportions(
    antialias: bool, size: tuple[int, int], crop: tuple[int, int, int, int]
) -> None:
    image = natural_image(*size)
    contract = Preprocessing(height=80, width=40, fit="center_crop", antialias=antialias)
    ours = preprocess_image(image, contract).astype(float)
    cropped = np.asarray(image.crop(crop))
    reference = tensorflow_resize(cropped, (80, 40), "bilinear", antialias)
    # Within, because at the border the kernel sees beyond the crop.
    assert np.abs(ours - reference)[2:-2, 2:-2].max() < 2


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("fit", ["center_crop", "pad"])
def test_no_proportions_break_the_fit(fit: Fit, seed: int) -> None:
    width, height, target_width, target_height = np.random.default_rng(seed).integers(1, 400, 4)
    contract = Preprocessing(int(target_height), int(target_width), fit=fit)
    pixels = preprocess_image(Image.new("RGB", (int(width), int(height)), LEFT), contract)
    assert pixels.shape == (target_height, target_width, 3)
    assert np.all(pixels == LEFT, axis=-1).any()


@pytest.mark.parametrize("antialias", [True, False])
def test_pad_keeps_the_whole_image_between_bands_of_the_background(antialias: bool) -> None:
    contract = Preprocessing(60, 60, fit="pad", antialias=antialias, background=BACKGROUND)
    image = natural_image(400, 200)
    pixels = preprocess_image(image, contract)
    assert np.all(pixels[:15] == BACKGROUND)
    assert np.all(pixels[45:] == BACKGROUND)
    reference = tensorflow_resize(np.asarray(image), (30, 60), "bilinear", antialias)
    assert np.abs(pixels[15:45] - reference).max() < 2
    turned = preprocess_image(image.transpose(Image.Transpose.ROTATE_90), contract)
    assert np.all(turned[:, :15] == BACKGROUND)
    assert np.all(turned[:, 45:] == BACKGROUND)
    assert not np.any(np.all(turned[:, 15:45] == BACKGROUND, axis=(0, 2)))


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("size", [(96, 64), (64, 96)])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_all_eight_orientations_stand_upright(
    orientation: int, size: tuple[int, int], antialias: bool
) -> None:
    stored = natural_image(*size)
    content = encode(stored, "JPEG", quality=95, exif=exif_with_orientation(orientation))
    upright = UPRIGHT[orientation](np.asarray(Image.open(io.BytesIO(content))))
    for fit in ("squash", "center_crop", "pad"):
        contract = Preprocessing(45, 31, antialias=antialias, fit=fit)
        decoded = decode_image(content, contract)
        assert (decoded.height, decoded.width) == upright.shape[:2]
        reference = preprocess_image(Image.fromarray(upright), contract).astype(int)
        assert np.abs(decoded.pixels - reference).max() <= (1 if antialias else 0)
    as_stored = decode_image(content, Preprocessing(size[1], size[0], orientation="ignore"))
    assert (as_stored.width, as_stored.height) == size
    np.testing.assert_array_equal(as_stored.pixels, np.asarray(Image.open(io.BytesIO(content))))


@pytest.mark.parametrize("orientation", [2, 6, 8])
@pytest.mark.parametrize(
    ("image_format", "options"),
    [
        ("PNG", {}),
        ("WEBP", {"lossless": True}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("AVIF", {"quality": 100, "subsampling": "4:4:4"}),
        ("HEIF", {"quality": 100}),
    ],
)
def test_no_format_is_turned_twice(
    image_format: str, options: dict[str, Any], orientation: int
) -> None:
    stored = natural_image(96, 64)
    exif = exif_with_orientation(orientation)
    content = encode(stored, image_format, exif=exif, **options)
    upright = UPRIGHT[orientation](np.asarray(stored))
    height, width = upright.shape[:2]
    decoded = decode_image(content, Preprocessing(height, width))
    assert (decoded.height, decoded.width) == (height, width)
    assert np.abs(decoded.pixels - upright.astype(float)).mean() < 8


@pytest.mark.parametrize("options", [{}, {"compression": "tiff_lzw"}])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_tiff_stays_as_stored_when_its_orientation_is_ignored(
    orientation: int, options: dict[str, str]
) -> None:
    stored = natural_image(96, 64)
    content = encode(stored, "TIFF", exif=exif_with_orientation(orientation), **options)
    decoded = decode_image(content, Preprocessing(64, 96, orientation="ignore"))
    assert (decoded.height, decoded.width) == (64, 96)
    np.testing.assert_array_equal(decoded.pixels, np.asarray(stored))


@pytest.mark.parametrize("turn", ["exif", "ignore"])
@pytest.mark.parametrize(
    ("fit", "orientation", "scaled_to"),
    [
        # 1601 x 1203 stored. Twice the target of 150 x 100 (high x wide) has to remain of it.
        ("squash", 1, {"exif": (401, 301), "ignore": (401, 301)}),
        ("squash", 6, {"exif": (401, 301), "ignore": (401, 301)}),
        ("center_crop", 1, {"exif": (401, 301), "ignore": (401, 301)}),
        # The whole image in 150 x 100 is 75 high or 133 high.
        ("pad", 1, {"exif": (201, 151), "ignore": (201, 151)}),
        ("pad", 6, {"exif": (401, 301), "ignore": (201, 151)}),
    ],
)
def test_scaled_decoding_keeps_twice_the_target_and_tells_the_original_size(
    fit: Fit, orientation: int, scaled_to: dict[str, tuple[int, int]], turn: Orientation
) -> None:
    content = jpeg_bytes(1601, 1203, exif=exif_with_orientation(orientation))
    settings: dict[str, Any] = {"height": 150, "width": 100, "fit": fit, "orientation": turn}
    auto = Preprocessing(**settings, scaled_decoding="auto")
    opened = Image.open(io.BytesIO(content))
    pixels = preprocess_image(opened, auto)
    assert opened.size == scaled_to[turn]
    assert decodes_smaller(content, Preprocessing(**settings))

    decoded = decode_image(content, auto)
    turned = turn == "exif" and orientation == 6
    assert (decoded.width, decoded.height) == ((1203, 1601) if turned else (1601, 1203))
    np.testing.assert_array_equal(decoded.pixels, pixels)
    full = decode_image(content, Preprocessing(**settings))
    assert np.abs(decoded.pixels - full.pixels.astype(int)).mean() < 1.5


@pytest.mark.parametrize(
    ("content", "smaller"),
    [
        (jpeg_bytes(400, 400), True),
        (jpeg_bytes(400, 399), False),
        (png_bytes(400, 400), False),
        (jpeg_bytes(400, 400)[:100], False),
        (b"", False),
    ],
)
def test_only_large_jpegs_are_decoded_at_a_smaller_scale(content: bytes, smaller: bool) -> None:
    assert decodes_smaller(content, Preprocessing(100, 100)) is smaller


def test_scaled_decoding_leaves_the_edges_in_place() -> None:
    # 1001 columns at an eighth give 126, of which the last shows one column only.
    stripes = np.zeros((1001, 1001, 3), np.uint8)
    stripes[:, 500:] = 255
    content = encode(Image.fromarray(stripes), "JPEG")
    full = decode_image(content, Preprocessing(50, 50)).pixels.astype(int)
    scaled = decode_image(content, Preprocessing(50, 50, scaled_decoding="auto")).pixels
    assert np.abs(full - scaled).max() <= 6


@pytest.mark.parametrize("image_format", FORMATS)
def test_a_truncated_file_is_undecodable(image_format: str) -> None:
    content = image_bytes(image_format, 200, 150)
    for keep in (0.1, 0.5, 0.9):
        with pytest.raises(UndecodableImage):
            decode_image(truncated(content, keep), Preprocessing(32, 32))


@pytest.mark.parametrize("name", corrupt_images())
def test_a_corrupt_file_is_an_image_error_of_one_short_line(name: str) -> None:
    with pytest.raises(ImageError) as caught:
        decode_image(corrupt_images()[name], Preprocessing(32, 32))
    message = str(caught.value)
    assert 10 < len(message) <= 200
    assert message.isprintable()


def test_an_empty_file_is_called_empty() -> None:
    with pytest.raises(UndecodableImage, match="the file is empty"):
        decode_image(b"", Preprocessing(32, 32))


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"<!DOCTYPE html><html>secret", "an HTML page"),
        (b"\n<html lang=en>secret", "an HTML page"),
        (b"<?xml version='1.0'?><svg width='9'>secret", "an SVG drawing"),
        (b"<?xml version='1.0'?><Error>secret</Error>", "an XML document"),
        (b'{"error": "secret"}', "JSON"),
        (b"\xef\xbb\xbfsecret words\r\nin two lines", "text"),
        (b"%PDF-1.7 secret", "a PDF document"),
        (b"8BPS\0\1 secret", "a Photoshop document"),
        (b"\0\0\0\x18ftypmp42 secret", "a video"),
        (b"\0" * 100 + b"secret", "zeros"),
        (b"\xff\xd8\xff\xe0\0\0secret", "a JPEG with a broken or unsupported header"),
        (b"\x89PNG\r\n\x1a\nsecret", "a PNG with a broken or unsupported header"),
        (b"\x93secret\xfe\x01", "of no known kind"),
    ],
)
def test_what_is_no_image_is_named_and_never_quoted(content: bytes, kind: str) -> None:
    with pytest.raises(UndecodableImage, match=kind) as caught:
        decode_image(content, Preprocessing(32, 32))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\0\0",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0" + b"\x07" * 40,
        exif_with_orientation(6)[:-12],
    ],
)
@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
def test_corrupt_exif_does_not_cost_the_image(image_format: str, exif: bytes) -> None:
    content = image_bytes(image_format, exif=exif)
    clean = image_bytes(image_format)
    contract = Preprocessing(48, 64)
    np.testing.assert_array_equal(
        decode_image(content, contract).pixels, decode_image(clean, contract).pixels
    )


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_turns_nothing(orientation: int) -> None:
    content = jpeg_bytes(exif=exif_with_orientation(orientation))
    np.testing.assert_array_equal(original_size(content), original_size(jpeg_bytes()))


@pytest.mark.parametrize("image_format", FORMATS)
def test_random_damage_gives_pixels_or_an_image_error(image_format: str) -> None:
    random = np.random.default_rng(FORMATS.index(image_format))
    whole = image_bytes(image_format, exif=exif_with_orientation(6))
    contract = Preprocessing(16, 16)
    messages = []
    for attempt in range(300):
        damaged = bytearray(whole)
        if attempt % 3 == 0:
            damaged = damaged[: random.integers(1, len(damaged))]
        else:
            # Every other time in the header, where a flipped byte does most harm.
            end = len(damaged) if attempt % 3 == 1 else min(200, len(damaged))
            for place in random.integers(0, end, random.integers(1, 9)):
                damaged[place] = random.integers(0, 256)
        try:
            assert decode_image(bytes(damaged), contract).pixels.shape == (16, 16, 3)
        except ImageError as error:
            messages.append(str(error))
    assert len(messages) > 50
    assert max(map(len, messages)) <= 200


def test_a_huge_header_is_refused_before_memory_or_time_is_spent() -> None:
    tracemalloc.start()
    started = time.perf_counter()
    try:
        with pytest.raises(ImageTooLarge, match="3600000000 pixels"):
            decode_image(png_claiming(60_000, 60_000), Preprocessing(32, 32))
        with pytest.raises(ImageTooLarge, match=r"10000 x 10000 = 100000000 .* 89478485"):
            decode_image(png_claiming(10_000, 10_000), Preprocessing(32, 32))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2_000_000
    assert time.perf_counter() - started < 1


@pytest.mark.parametrize("image_format", FORMATS)
def test_the_pixel_limit_holds_for_every_format_and_includes_its_own_value(
    image_format: str,
) -> None:
    content = image_bytes(image_format, 64, 48)
    decode_image(content, Preprocessing(32, 32), max_pixels=64 * 48)
    with pytest.raises(ImageTooLarge, match=f"{image_format} has 64 x 48 = 3072 .* 3071"):
        decode_image(content, Preprocessing(32, 32), max_pixels=64 * 48 - 1)


def test_a_limit_that_cannot_be_kept_is_refused() -> None:
    assert Image.MAX_IMAGE_PIXELS == DEFAULT_MAX_PIXELS
    decode_image(png_bytes(), Preprocessing(32, 32), max_pixels=2 * DEFAULT_MAX_PIXELS)
    with pytest.raises(ValueError, match=r"178956971.*178956970"):
        decode_image(png_bytes(), Preprocessing(32, 32), max_pixels=2 * DEFAULT_MAX_PIXELS + 1)
    with pytest.raises(ValueError, match="max_pixels is 0"):
        decode_image(png_bytes(), Preprocessing(32, 32), max_pixels=0)


def test_an_opened_image_gives_the_same_pixels_as_its_bytes_and_stays_as_it_was() -> None:
    content = encode(natural_image(96, 64).convert("LA"), "PNG", exif=exif_with_orientation(6))
    contract = Preprocessing(31, 45, background=BACKGROUND)
    opened = Image.open(io.BytesIO(content))
    np.testing.assert_array_equal(
        preprocess_image(opened, contract), decode_image(content, contract).pixels
    )
    assert (opened.mode, opened.size) == ("LA", (96, 64))
    np.testing.assert_array_equal(
        preprocess_image(opened, contract), decode_image(content, contract).pixels
    )


def test_metadata_warnings_do_not_reach_the_terminal(tmp_path: Any) -> None:
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(jpeg_bytes(exif=b"Exif\0\0II*\0\x08\0\0\0\x09\0"))
    read = f"from PIL import Image; Image.open({str(photo)!r}).getexif()"
    noisy = subprocess.run([sys.executable, "-c", read], capture_output=True, text=True, check=True)
    assert "Corrupt EXIF" in noisy.stderr
    decode = (
        "from transforms.images.image_codec import decode_image\n"
        "from transforms.records import Preprocessing\n"
        f"decode_image(open({str(photo)!r}, 'rb').read(), Preprocessing(32, 32))"
    )
    quiet = subprocess.run(
        [sys.executable, "-c", decode], capture_output=True, text=True, check=True
    )
    assert quiet.stdout + quiet.stderr == ""


def test_threads_wait_for_each_other_rather_than_hold_all_originals_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    content = encode(Image.new("RGB", (400, 300), "teal"), "JPEG")
    alone = decode_image(content, Preprocessing(8, 8)).pixels
    held: list[int] = []

    class Budget(MemoryBudget):
        @contextmanager
        def hold(self, byte_count: int) -> Iterator[None]:
            with super().hold(byte_count):
                held.append(byte_count)
                assert sum(held) <= 4 * 400 * 300
                yield
                held.remove(byte_count)

    monkeypatch.setattr(image_codec, "_ORIGINALS", Budget(4 * 400 * 300))
    with ThreadPoolExecutor(4) as pool:
        decoded = list(pool.map(lambda _: decode_image(content, Preprocessing(8, 8)), range(40)))
    assert all(np.array_equal(each.pixels, alone) for each in decoded)
