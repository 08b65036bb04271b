"""The full Inception-ResNet-v2 in every form it is published in: the same weights, one vector."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hub_modules import Form, save_hub_module
from hub_networks import KerasNetwork
from keras_files import CLASSES, save, with_top
from sample_images import natural_image

from transforms.models.model_description import describe_model
from transforms.models.model_resolution import resolve_model
from transforms.models.untrained_model import UNTRAINED_HANDLE, load_statistics, seeded_network
from transforms.networks.hub_model import HubImageModel
from transforms.records import ModelRequest

pytestmark = pytest.mark.slow

SIZE = 299

#: From the reference. Vectors so near to it are within 1e-5 of each other: for small angles the
#: cosine distance grows with the square of the angle.
TOLERANCE = 1e-5 / 4


@pytest.fixture(scope="module")
def network() -> Any:
    """The network with the weights of the untrained model, which is in no form yet."""
    network = seeded_network()
    load_statistics(network)
    return network


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that does not outlive the test: each form has 220 MB."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def pixels() -> npt.NDArray[np.uint8]:
    return np.stack([np.asarray(natural_image(SIZE, SIZE, seed)) for seed in (1, 2)])


@pytest.fixture(scope="module")
def expected(network: Any, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """What Keras itself gives for pixels from -1 to 1."""
    vectors = np.asarray(network(pixels / np.float32(127.5) - 1, training=False))
    assert cosine_distances(vectors[:1], vectors[1:]).min() > 1e-2
    return vectors


def cosine_distances(left: npt.NDArray[Any], right: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    left, right = left.astype(np.float64), right.astype(np.float64)
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    distances: npt.NDArray[np.float64] = 1 - (left * right).sum(axis=1) / norms
    return distances


def embed(
    path: str, pixels: npt.NDArray[np.uint8], request: ModelRequest | None = None
) -> npt.NDArray[np.float32]:
    model = HubImageModel.load(describe_model(path, request), height=SIZE, width=SIZE)
    return model.embed(pixels)


@pytest.mark.parametrize("form", ["feature_vector/1", "feature_vector/3", "feature_vector/5"])
def test_a_hub_form_gives_the_vectors_of_the_network(
    folder: Path,
    network: Any,
    pixels: npt.NDArray[np.uint8],
    expected: npt.NDArray[np.float32],
    form: Form,
) -> None:
    path = save_hub_module(folder / "module", form, KerasNetwork(network))
    assert cosine_distances(embed(path, pixels), expected).max() < TOLERANCE


def test_the_untrained_model_which_has_form_4_gives_the_vectors_of_the_network(
    pixels: npt.NDArray[np.uint8], expected: npt.NDArray[np.float32]
) -> None:
    vectors = embed(resolve_model(UNTRAINED_HANDLE), pixels)
    assert cosine_distances(vectors, expected).max() < TOLERANCE


@pytest.mark.parametrize(
    ("name", "top"), [("model.keras", False), ("model.h5", True)], ids=["keras", "h5 with top"]
)
def test_a_keras_file_gives_the_vectors_of_the_network(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    network: Any,
    pixels: npt.NDArray[np.uint8],
    expected: npt.NDArray[np.float32],
    name: str,
    top: bool,
) -> None:
    monkeypatch.setenv("EMBED_IMAGES_CACHE", str(folder / "cache"))
    model = with_top(network) if top else network
    path = resolve_model(f"keras:inception_resnet_v2?weights={save(model, folder, name)}")
    request = ModelRequest(wanted=("embedding", "logits") if top else ("embedding",))
    outputs = embed(path, pixels, request)
    width = expected.shape[1]
    assert outputs.shape == (2, width + (CLASSES if top else 0))
    assert cosine_distances(outputs[:, :width], expected).max() < TOLERANCE
