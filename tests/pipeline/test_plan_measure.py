"""What `plan` measures of a sample: decoding as the job does it, and with scaled decoding."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sample_images import jpeg_bytes, png_bytes

from pipeline.config import InputConfig
from pipeline.plan_measure import DecodedSample, decode_sample
from transforms.images.image_codec import decode_image
from transforms.records import ImageRef, Preprocessing

#: Twice 100 x 100 remains of images of 400 x 400 pixels and more at half their size.
PREPROCESSING = Preprocessing(100, 100)

LARGE = {f"large{number}.jpg": jpeg_bytes(800, 600, seed=number) for number in range(3)}
OTHERS = {
    "small.jpg": jpeg_bytes(390, 390),
    "large.png": png_bytes(800, 600),
    "cut.jpg": jpeg_bytes(800, 600)[:5000],
    "text.jpg": b"no image",
}


def decoded(
    folder: Path, files: dict[str, bytes], preprocessing: Preprocessing = PREPROCESSING
) -> DecodedSample:
    for name, content in files.items():
        (folder / name).write_bytes(content)
    sample = DecodedSample()
    refs = [ImageRef(str(folder / name)) for name in files]
    config = InputConfig(patterns=(str(folder),))
    decode_sample(refs, config, preprocessing, len(refs), sample)
    return sample


def test_large_jpegs_are_decoded_at_a_smaller_scale_as_well(tmp_path: Path) -> None:
    sample = decoded(tmp_path, {**LARGE, "small.jpg": OTHERS["small.jpg"]})
    gain = sample.scaled_decoding_gain

    assert gain is not None
    assert (gain.images, gain.sample) == (3, 4)
    assert gain.times_as_fast == sample.decoding_seconds / sample.scaled_decoding_seconds
    assert sample.scaled_decoding_seconds != sample.decoding_seconds
    # What is counted, and what the model is measured with, is what the job makes of them.
    assert sample.formats == {"JPEG": 4}
    for pixels, content in zip(sample.pixels, LARGE.values(), strict=False):
        np.testing.assert_array_equal(pixels, decode_image(content, PREPROCESSING).pixels)


def test_what_cannot_be_decoded_counts_once(tmp_path: Path) -> None:
    sample = decoded(tmp_path, {**LARGE, **OTHERS})

    assert sample.formats == {"JPEG": 4, "PNG": 1}
    assert sample.failures == {"UndecodableImage": 2}
    assert (sample.read, sample.done) == (7, 7)


@pytest.mark.parametrize(
    ("files", "preprocessing"),
    [
        (OTHERS | {"cut.jpg": b""}, PREPROCESSING),
        (LARGE, replace(PREPROCESSING, scaled_decoding="auto")),
        (LARGE, Preprocessing(301, 301)),
    ],
)
def test_nothing_is_compared_where_scaled_decoding_changes_nothing(
    tmp_path: Path, files: dict[str, bytes], preprocessing: Preprocessing
) -> None:
    sample = decoded(tmp_path, files, preprocessing)

    assert sample.scaled_decoding_gain is None
    assert sample.scaled_decoding_seconds == sample.decoding_seconds > 0


def test_what_is_no_image_gives_no_rate(tmp_path: Path) -> None:
    sample = decoded(tmp_path, {f"{number}.jpg": b"no image" for number in range(20)})

    assert sample.read == 20
    assert sample.decoded_per_second is None
