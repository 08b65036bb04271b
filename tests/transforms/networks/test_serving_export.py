"""The signatures for other engines, held against the pipeline's own pixels and vectors."""

import io
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.util import assert_that
from hub_modules import save_hub_module
from hub_networks import TinyNetwork
from PIL import Image
from sample_images import (
    corrupt_images,
    encode,
    exif_with_orientation,
    image_bytes,
    jpeg_bytes,
    natural_image,
    png_bytes,
    png_from_samples,
)
from tfx_bsl.public.beam import run_inference
from tfx_bsl.public.proto import model_spec_pb2
from tiny_models import save_tiny_model

from transforms.images.image_codec import decode_image
from transforms.models.model_description import describe_model
from transforms.networks.hub_model import HubImageModel
from transforms.networks.serving_export import export_serving
from transforms.records import ModelRequest, Preprocessing

SIDE = 64
CONTRACT = Preprocessing(height=SIDE, width=SIDE)

#: What docs/models.md promises.
TOLERANCE = 5e-4


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> HubImageModel:
    folder = save_tiny_model(tmp_path_factory.mktemp("m"), image_height=None, image_width=None)
    return HubImageModel.load(describe_model(folder), height=SIDE, width=SIDE)


@pytest.fixture(scope="module")
def served(model: HubImageModel, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = str(tmp_path_factory.mktemp("serving"))
    export_serving(model, folder, height=SIDE, width=SIDE)
    return folder


@pytest.fixture(scope="module")
def signatures(served: str) -> Any:
    loaded = tf.saved_model.load(served)
    return loaded.signatures


def vectors_of_pipeline(model: HubImageModel, *contents: bytes) -> npt.NDArray[np.float32]:
    return model.embed(np.stack([decode_image(each, CONTRACT).pixels for each in contents]))


def distances(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    a, b = (each.astype(np.float64) for each in (a, b))
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.asarray(1 - (a * b).sum(axis=1) / lengths)


def example(content: bytes) -> bytes:
    feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[content]))
    features = tf.train.Features(feature={"image/encoded": feature})
    return bytes(tf.train.Example(features=features).SerializeToString())


def random_samples(*shape: int, values: int) -> npt.NDArray[np.integer[Any]]:
    return np.asarray(np.random.default_rng(0).integers(0, values, shape))


def with_transparency(mode: str) -> bytes:
    image = natural_image(200, 150).convert("RGBA")
    image.putalpha(natural_image(200, 150, seed=5).convert("L"))
    return encode(image.convert(mode), "PNG")


def palette(colours: int, **options: Any) -> bytes:
    return encode(natural_image(200, 150).quantize(colours), "PNG", **options)


READABLE = {
    "JPEG": jpeg_bytes(200, 150),
    "JPEG of a camera's size": jpeg_bytes(2400, 1800, quality=80),
    "JPEG smaller than the input": jpeg_bytes(40, 30),
    "JPEG without chroma subsampling": jpeg_bytes(200, 150, subsampling=0),
    "progressive JPEG": jpeg_bytes(200, 150, progressive=True),
    "grey JPEG": encode(natural_image(200, 150).convert("L"), "JPEG"),
    "CMYK JPEG": encode(natural_image(200, 150).convert("CMYK"), "JPEG"),
    "PNG": png_bytes(200, 150),
    "PNG of noise": png_from_samples(random_samples(300, 400, 3, values=256), 8),
    "grey PNG": encode(natural_image(200, 150).convert("L"), "PNG"),
    "black and white PNG": encode(natural_image(200, 150).convert("1"), "PNG"),
    "PNG of 2 bits with a transparent grey": png_from_samples(
        random_samples(60, 70, values=4), 2, (1,)
    ),
    "palette PNG of 2 bits with a transparent colour": palette(4, bits=2, transparency=1),
    "grey PNG of 2 bits": png_from_samples(random_samples(60, 70, values=4), 2),
    "grey PNG of 4 bits": png_from_samples(random_samples(60, 70, values=16), 4),
    "grey PNG of 16 bits": png_from_samples(random_samples(60, 70, values=65536), 16),
    "RGB PNG of 16 bits": png_from_samples(random_samples(60, 70, 3, values=65536), 16),
    "palette PNG": palette(64),
    "palette PNG of 2 bits": palette(4, bits=2),
    "palette PNG with a transparent colour": palette(64, transparency=3),
    "PNG with a transparent colour": png_from_samples(
        random_samples(60, 70, 3, values=8) * 30, 8, (0, 30, 60)
    ),
    "RGBA PNG": with_transparency("RGBA"),
    "grey PNG with alpha": with_transparency("LA"),
}


@pytest.mark.parametrize("name", READABLE)
def test_a_file_gets_the_vector_of_the_pipeline(
    name: str, model: HubImageModel, signatures: Any
) -> None:
    content = READABLE[name]
    served = signatures["from_bytes"](tf.constant([content]))["embedding"].numpy()
    assert distances(served, vectors_of_pipeline(model, content)).max() < TOLERANCE


def test_the_pixels_differ_by_one_level_in_one_of_a_hundred(tmp_path: Path) -> None:
    class Flatten(tf.Module):  # type: ignore[misc]
        @tf.function(input_signature=[tf.TensorSpec([None, SIDE, SIDE, 3])])
        def __call__(self, images: Any) -> Any:
            return tf.reshape(images, [-1, SIDE * SIDE * 3])

    tf.saved_model.save(Flatten(), str(tmp_path / "model"))
    model = HubImageModel.load(describe_model(str(tmp_path / "model")), height=SIDE, width=SIDE)
    export_serving(model, str(tmp_path / "serving"), height=SIDE, width=SIDE)
    from_bytes = tf.saved_model.load(str(tmp_path / "serving")).signatures["from_bytes"]
    for name in ("JPEG of a camera's size", "PNG of noise", "grey JPEG"):
        own = vectors_of_pipeline(model, READABLE[name])
        served = from_bytes(image_bytes=tf.constant([READABLE[name]]))["embedding"].numpy()
        levels = np.rint(np.abs(own - served) * 255)
        assert levels.max() <= 1
        assert levels.mean() < 0.01


def test_the_tolerance_would_notice_wrong_pixels(model: HubImageModel) -> None:
    # Else the test above could not fail: without antialias, and at the wrong scale.
    content = READABLE["PNG of noise"]
    right = vectors_of_pipeline(model, content)
    with Image.open(io.BytesIO(content)) as image:
        nearest = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.NEAREST))
    dark = decode_image(content, CONTRACT).pixels // 2
    for pixels in (nearest, dark):
        assert distances(model.embed(pixels[None]), right).max() > TOLERANCE


def test_each_signature_takes_a_batch_and_gives_the_same(
    model: HubImageModel, signatures: Any
) -> None:
    contents = [READABLE[name] for name in ("JPEG", "PNG", "grey JPEG", "RGBA PNG")]
    pixels = np.stack([decode_image(content, CONTRACT).pixels for content in contents])
    results = [
        signatures["serving_default"](pixels=tf.constant(pixels / 255, tf.float32)),
        signatures["from_bytes"](image_bytes=tf.constant(contents)),
        signatures["from_example"](examples=tf.constant([example(each) for each in contents])),
    ]
    for result in results:
        assert list(result) == ["embedding"]
        assert distances(result["embedding"].numpy(), model.embed(pixels)).max() < TOLERANCE


def test_an_orientation_in_exif_is_not_followed(model: HubImageModel, signatures: Any) -> None:
    turned = jpeg_bytes(200, 150, exif=exif_with_orientation(6))
    served = signatures["from_bytes"](tf.constant([turned]))["embedding"].numpy()
    assert distances(served, vectors_of_pipeline(model, turned)).max() > TOLERANCE
    assert distances(served, vectors_of_pipeline(model, jpeg_bytes(200, 150))).max() < TOLERANCE


@pytest.mark.parametrize("image_format", ["WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF"])
def test_other_formats_are_refused(image_format: str, signatures: Any) -> None:
    assert decode_image(image_bytes(image_format), CONTRACT).format == image_format
    with pytest.raises(tf.errors.InvalidArgumentError, match="neither a JPEG nor a PNG"):
        signatures["from_bytes"](image_bytes=tf.constant([image_bytes(image_format)]))


@pytest.mark.parametrize("name", ["empty", "truncated JPEG", "truncated PNG", "HTML page"])
def test_one_corrupt_file_fails_the_batch(name: str, signatures: Any) -> None:
    contents = [jpeg_bytes(), corrupt_images()[name]]
    with pytest.raises(tf.errors.InvalidArgumentError):
        signatures["from_bytes"](image_bytes=tf.constant(contents))


def test_the_weights_are_saved_once(model: HubImageModel, served: str) -> None:
    def variables(folder: str) -> dict[str, Any]:
        reader = tf.train.load_checkpoint(f"{folder}/variables/variables")
        return {
            key: shape
            for key, shape in reader.get_variable_to_shape_map().items()
            if key.endswith("VARIABLE_VALUE") and "save_counter" not in key
        }

    own = variables(model.description.path)
    assert sorted(variables(served).values()) == sorted(own.values())


def test_the_value_range_of_the_model_is_inside(tmp_path: Path, model: HubImageModel) -> None:
    ranged = HubImageModel.load(model.description, height=SIDE, width=SIDE, value_range=(-1.0, 1.0))
    export_serving(ranged, str(tmp_path), height=SIDE, width=SIDE)
    served = tf.saved_model.load(str(tmp_path)).signatures
    pixels = decode_image(READABLE["JPEG"], CONTRACT).pixels[None]
    result = served["serving_default"](pixels=tf.constant(pixels / 255, tf.float32))["embedding"]
    assert distances(result.numpy(), ranged.embed(pixels)).max() < 1e-6
    assert distances(result.numpy(), model.embed(pixels)).max() > TOLERANCE


@pytest.mark.parametrize(
    ("form", "request_"),
    [
        ("feature_vector/1", ModelRequest()),
        ("feature_vector/3", ModelRequest()),
        ("feature_vector/5", ModelRequest()),
        ("classification/1", ModelRequest(wanted=("embedding", "logits"))),
        (
            "classification/4",
            ModelRequest(output="TinyNet/SpatialSqueeze", wanted=("embedding", "logits")),
        ),
    ],
)
def test_every_form_can_be_exported(form: Any, request_: ModelRequest, tmp_path: Path) -> None:
    folder = save_hub_module(tmp_path / "module", form, TinyNetwork(), size=(SIDE, SIDE))
    model = HubImageModel.load(describe_model(folder, request_), height=SIDE, width=SIDE)
    export_serving(model, str(tmp_path / "serving"), height=SIDE, width=SIDE)
    pixels = decode_image(READABLE["JPEG"], CONTRACT).pixels[None]
    own = model.embed_each(pixels)
    del model
    served = tf.saved_model.load(str(tmp_path / "serving")).signatures["from_bytes"]
    result = served(image_bytes=tf.constant([READABLE["JPEG"]]))
    assert set(result) == set(request_.wanted)
    for name, vectors in zip(request_.wanted, own, strict=True):
        assert distances(result[name].numpy(), vectors).max() < TOLERANCE


def test_tfx_bsl_runs_from_example_and_gets_the_vectors_of_the_pipeline(
    model: HubImageModel, served: str
) -> None:
    contents = {name: READABLE[name] for name in ("JPEG", "PNG", "RGBA PNG", "progressive JPEG")}
    spec = model_spec_pb2.InferenceSpecType(
        saved_model_spec=model_spec_pb2.SavedModelSpec(
            model_path=served, signature_name=["from_example"]
        )
    )

    def vector(keyed: Any) -> tuple[str, list[float]]:
        name, log = keyed
        (row,) = tf.make_ndarray(log.predict_log.response.outputs["embedding"])
        return name, row.tolist()

    own = {name: vectors_of_pipeline(model, content) for name, content in contents.items()}

    def check(rows: list[tuple[str, list[float]]]) -> None:
        assert {name for name, _ in rows} == set(own)
        for name, values in rows:
            assert distances(np.array([values], np.float32), own[name]).max() < TOLERANCE

    with TestPipeline(runner="FnApiRunner") as pipeline:
        rows = (
            pipeline
            | beam.Create([(name, example(content)) for name, content in contents.items()])
            | run_inference.RunInference(spec)
            | beam.Map(vector)
        )
        assert_that(rows, check)
