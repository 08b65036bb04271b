"""Images for the tests, encoded: good ones of every format, and the ways a file goes wrong.

Everything is generated, and the same arguments give the same bytes.
"""

import io
import struct
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
import pillow_heif
from PIL import ExifTags, Image

pillow_heif.register_heif_opener()

#: The formats that the pipeline reads, as Pillow calls them.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF")

Samples = npt.NDArray[np.integer[Any]]


def natural_image(width: int, height: int, seed: int = 0) -> Image.Image:
    """An RGB image with a photograph's mixture: slow shades, hard edges and a little grain."""
    random = np.random.default_rng(seed)
    coarse = random.integers(30, 226, (5, 7, 3), dtype=np.uint8)
    shades = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    pixels = shades.astype(np.float64)
    for _ in range(6):
        left, top = random.integers(0, width), random.integers(0, height)
        patch = np.s_[top : top + max(1, height // 4), left : left + max(1, width // 4)]
        pixels[patch] += random.uniform(-70, 70, 3)
    pixels += random.normal(0, 4, pixels.shape)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def one_colour(colour: tuple[int, int, int], side: int = 40) -> Image.Image:
    """A square RGB image of one colour."""
    return Image.new("RGB", (side, side), colour)


def encode(image: Image.Image, image_format: str, **options: Any) -> bytes:
    """The image as a file of that format; `options` go to Pillow's `save`."""
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def image_bytes(
    image_format: str, width: int = 64, height: int = 48, seed: int = 0, **options: Any
) -> bytes:
    """A natural-looking image as a file of any of `FORMATS`."""
    return encode(natural_image(width, height, seed), image_format, **options)


def jpeg_bytes(width: int = 64, height: int = 48, seed: int = 0, **options: Any) -> bytes:
    """A natural-looking JPEG."""
    return image_bytes("JPEG", width, height, seed, **{"quality": 90, **options})


def png_bytes(width: int = 64, height: int = 48, seed: int = 0, **options: Any) -> bytes:
    """A natural-looking PNG."""
    return image_bytes("PNG", width, height, seed, **options)


def exif_with_orientation(orientation: int) -> bytes:
    """An EXIF block for the `exif` option of `encode` that says how to turn the image."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return exif.tobytes()


def png_from_samples(
    samples: Samples, bit_depth: int, transparent: tuple[int, ...] | None = None
) -> bytes:
    """A PNG of the very samples given, for the depths that Pillow does not write.

    Args:
        samples: `[height, width]` for grey, `[height, width, 3]` for RGB.
        bit_depth: 2, 4, 8 or 16 for grey, 8 or 16 for RGB.
        transparent: the sample values that are to be transparent, one a channel.
    """
    height, width = samples.shape[:2]
    if bit_depth < 8:
        bits = np.unpackbits(samples.astype(np.uint8)[..., None], axis=-1)[..., 8 - bit_depth :]
        rows = [np.packbits(row).tobytes() for row in bits.reshape(height, -1)]
    else:
        rows = [row.astype(">u2" if bit_depth == 16 else "u1").tobytes() for row in samples]
    colour_type = 2 if samples.ndim == 3 else 0
    chunks = [_png_header(width, height, bit_depth, colour_type)]
    if transparent is not None:
        chunks.append(_png_chunk(b"tRNS", struct.pack(f">{len(transparent)}H", *transparent)))
    chunks.append(_png_chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows))))
    return b"".join([*chunks, _png_chunk(b"IEND", b"")])


def tiff_from_samples(
    samples: Samples, bit_depth: int = 16, signed: bool = False, white_is_zero: bool = False
) -> bytes:
    """An uncompressed little-endian TIFF of the very samples given.

    Args:
        samples: `[height, width]` for grey, `[height, width, 3]` for RGB.
        bit_depth: 12 (grey, even width), 16 or 32.
        signed: the samples are two's complement.
        white_is_zero: photometric interpretation 0 instead of 1; grey only.
    """
    height, width = samples.shape[:2]
    if bit_depth == 12:
        pairs = samples.reshape(-1, 2)
        first, second = pairs[:, 0], pairs[:, 1]
        packed = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], axis=1)
        data = packed.astype(np.uint8).tobytes()
    else:
        data = samples.astype(f"<{'i' if signed else 'u'}{bit_depth // 8}").tobytes()
    channels = 1 if samples.ndim == 2 else samples.shape[2]
    photometric = 2 if channels == 3 else int(not white_is_zero)
    # (tag, type 3 = 16 bits or 4 = 32 bits, values), ascending as the format wants it
    fields = [
        (256, 4, [width]),
        (257, 4, [height]),
        (258, 3, [bit_depth] * channels),
        (259, 3, [1]),
        (262, 3, [photometric]),
        (273, 4, [8]),
        (277, 3, [channels]),
        (278, 4, [height]),
        (279, 4, [len(data)]),
        (339, 3, [2 if signed else 1] * channels),
    ]
    directory_at = 8 + len(data)
    overflow_at = directory_at + 2 + 12 * len(fields) + 4
    entries, overflow = b"", b""
    for tag, kind, values in fields:
        packed_values = struct.pack(f"<{len(values)}{'H' if kind == 3 else 'I'}", *values)
        if len(packed_values) > 4:
            offset = struct.pack("<I", overflow_at + len(overflow))
            overflow += packed_values
            packed_values = offset
        entries += struct.pack("<HHI", tag, kind, len(values)) + packed_values.ljust(4, b"\0")
    header = b"II*\0" + struct.pack("<I", directory_at)
    return header + data + struct.pack("<H", len(fields)) + entries + b"\0" * 4 + overflow


def png_claiming(width: int, height: int) -> bytes:
    """A small PNG whose header promises `width` x `height` RGB pixels."""
    data = _png_chunk(b"IDAT", zlib.compress(b"\0" * 1000))
    return _png_header(width, height, 8, 2) + data + _png_chunk(b"IEND", b"")


def truncated(content: bytes, keep: float = 0.6) -> bytes:
    """The first part of a file, as a broken transfer leaves it."""
    return content[: int(len(content) * keep)]


def corrupt_images() -> dict[str, bytes]:
    """Files that are no readable image, by what is wrong with them; small ones."""
    return {
        "empty": b"",
        "truncated JPEG": truncated(jpeg_bytes()),
        "truncated PNG": truncated(png_bytes()),
        "JPEG without its end": jpeg_bytes()[:300],
        "HTML page": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
        "text": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
        "random bytes": np.random.default_rng(0).bytes(2000),
        "huge header": png_claiming(60_000, 60_000),
    }


def _png_header(width: int, height: int, bit_depth: int, colour_type: int) -> bytes:
    fields = struct.pack(">IIBBBBB", width, height, bit_depth, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _png_chunk(b"IHDR", fields)


def _png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
