"""Which result of a model of a user's own is taken, and how the user names it."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from transforms.errors import UnusableModel
from transforms.models.model_description import describe_model
from transforms.models.model_outputs import kind_of_handle
from transforms.networks.hub_model import HubImageModel
from transforms.records import ModelRequest


def embed(
    path: str, request: ModelRequest, pixels: npt.NDArray[np.uint8]
) -> npt.NDArray[np.float32]:
    return HubImageModel.load(describe_model(path, request), height=16, width=16).embed(pixels)


def images(count: int) -> npt.NDArray[np.uint8]:
    return np.random.RandomState(1).randint(0, 256, (count, 16, 16, 3), np.uint8)


@pytest.mark.parametrize(
    ("handle", "kind"),
    [
        (
            "https://tfhub.dev/google/imagenet/inception_resnet_v2/classification/4",
            "classification",
        ),
        ("https://tfhub.dev/google/imagenet/inception_resnet_v2/feature_vector", "feature_vector"),
        ("google/imagenet/inception_resnet_v2/feature_vector/5", "feature_vector"),
        ("google/inception-resnet-v2/tensorFlow2/feature-vector/2", "feature_vector"),
        (
            "https://www.kaggle.com/models/google/inception-resnet-v2/tensorFlow2/classification/1",
            "classification",
        ),
        ("gs://models/mirror/classification/5.tar.gz", "classification"),
        ("/models/classification/4", None),
        ("https://tfhub.dev/google/faster_rcnn/openimages_v4/inception_resnet_v2/1", None),
        ("untrained:inception_resnet_v2", None),
    ],
)
def test_the_handle_tells_what_was_published(handle: str, kind: str | None) -> None:
    assert kind_of_handle(handle) == kind


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model of a user's own, with two signatures of several results each."""
    import tensorflow as tf

    def signature(scale: float) -> Any:
        def results(pictures: Any) -> dict[str, Any]:
            means = tf.reduce_mean(pictures, [1, 2]) * scale
            return {"means": means, "sums": means * 256.0, "map": pictures}

        specification = tf.TensorSpec([None, 16, 16, 3], tf.float32)
        return tf.function(results, input_signature=[specification])

    folder = str(tmp_path_factory.mktemp("many"))
    signatures = {"for_search": signature(1.0), "for_display": signature(2.0)}
    tf.saved_model.save(tf.train.Checkpoint(), folder, signatures=signatures)
    return folder


def test_a_signature_and_an_output_can_be_named(many: str) -> None:
    pixels = images(3)
    means = (pixels / 255).mean(axis=(1, 2))
    request = ModelRequest(signature="for_display", output="sums")
    assert describe_model(many, request).output_key == "sums"
    np.testing.assert_allclose(embed(many, request, pixels), means * 512, rtol=1e-5)
    both = ModelRequest(signature="for_search", output="sums", wanted=("embedding", "logits"))
    vectors = embed(many, both, pixels)
    np.testing.assert_allclose(vectors, np.hstack([means * 256, means]), rtol=1e-5)


@pytest.mark.parametrize(
    ("request_", "told"),
    [
        (ModelRequest(), "for_display gives several vectors .*model.output"),
        (
            ModelRequest(signature="for_serch"),
            "no signature 'for_serch'; did you mean 'for_search'.*it has for_display, for_search",
        ),
        (
            ModelRequest(signature="for_search"),
            r"gives several vectors \(map float32 \[n, 16, 16, 3\], means .*, sums .*model.output",
        ),
        (
            ModelRequest(signature="for_search", output="map"),
            "'map' of for_search in .* is map float32 .*not one vector of floats",
        ),
        (
            ModelRequest(signature="for_search", output="mean"),
            "no tensor 'mean'; did you mean 'means'.*its results are map, means, sums",
        ),
    ],
)
def test_what_is_not_clear_is_refused_with_the_names(
    many: str, request_: ModelRequest, told: str
) -> None:
    with pytest.raises(UnusableModel, match=told):
        describe_model(many, request_)


def test_of_several_unknown_signatures_one_must_be_named(tmp_path: Path) -> None:
    import tensorflow as tf

    specification = tf.TensorSpec([None, 16, 16, 3], tf.float32)
    signatures = {
        name: tf.function(
            lambda pictures: {"means": tf.reduce_mean(pictures, [1, 2])},
            input_signature=[specification],
        )
        for name in ("left", "right")
    }
    tf.saved_model.save(tf.train.Checkpoint(), str(tmp_path / "two"), signatures=signatures)
    with pytest.raises(UnusableModel, match=r"left gives .*right gives .*model.signature"):
        describe_model(str(tmp_path / "two"))
    right = describe_model(str(tmp_path / "two"), ModelRequest(signature="right"))
    assert right.entry_point == "right"
    signatures.pop("left")
    tf.saved_model.save(tf.train.Checkpoint(), str(tmp_path / "one"), signatures=signatures)
    assert describe_model(str(tmp_path / "one")).entry_point == "right"


@pytest.mark.parametrize(
    ("wanted", "told"),
    [((), "no output is wanted"), (("logits", "logits"), "once"), (("labels",), "labels")],
)
def test_a_request_that_makes_no_sense_is_refused(wanted: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        ModelRequest(wanted=wanted)
