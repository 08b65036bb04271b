"""16-bit arithmetic on real graphs; a processor without it computes the same, slowly."""

from pathlib import Path
from typing import Any

import awkward_models
import ml_dtypes
import numpy as np
import pytest
from awkward_models import Network, save_network
from convolutional_models import save_convolutional_model
from tiny_models import save_tiny_model

from transforms.errors import BatchRejected, UnusableModel
from transforms.models.model_description import describe_model
from transforms.networks.folding import fold
from transforms.networks.frozen_graph import PRODUCTS, FrozenGraph, freeze, to_function
from transforms.networks.golden_vectors import generated_images
from transforms.networks.hub_model import HubImageModel, try_model
from transforms.networks.reduced_precision import (
    LEAST_SUMMED,
    reduce_precision,
    round_without_shift,
)
from transforms.networks.vector_distance import cosine_distances

ROOT = Path(__file__).parents[3]
DATA = ROOT.parent / "shared" / "data"
MOBILENET = DATA / "models" / "mobilenet_v1_feature_vector"

#: The largest cosine distance to float32 that is allowed, for eight and eleven digits.
BOUNDS = {"bfloat16": 1e-4, "float16": 2e-6}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> HubImageModel:
    path = save_convolutional_model(tmp_path_factory.mktemp("model"))
    return HubImageModel.load(describe_model(path), height=32, width=32)


def flat_graph(model: HubImageModel) -> FrozenGraph:
    import tensorflow as tf

    def embed(pixels: Any) -> Any:
        return model.run_network(tf.cast(pixels, tf.float32) / 255.0)

    specification = tf.TensorSpec([None, 32, 32, 3], tf.uint8)
    return fold(freeze(tf.function(embed, input_signature=[specification]).get_concrete_function()))


@pytest.mark.parametrize("precision", BOUNDS)
def test_vectors_stay_close_to_float32(model: HubImageModel, precision: Any) -> None:
    images = np.concatenate([generated_images(32, 32, 12), np.zeros((1, 32, 32, 3), np.uint8)])
    reduced = model.in_precision(precision)
    assert reduced.precision == precision
    vectors = reduced.embed(images)
    assert vectors.dtype == np.float32
    distance = cosine_distances(model.embed(images), vectors).max()
    # It is another arithmetic, too.
    assert 0 < distance < BOUNDS[precision]


@pytest.mark.parametrize("precision", BOUNDS)
def test_the_trial_passes_in_every_precision(model: HubImageModel, precision: Any) -> None:
    assert try_model(model.in_precision(precision), 32, 32, 32) == 24


def test_large_products_are_short_and_small_ones_are_not(model: HubImageModel) -> None:
    import tensorflow as tf

    graph = flat_graph(model)
    reduced = reduce_precision(graph, "bfloat16", generated_images(32, 32))
    summed = {}
    for node in reduced.nodes.values():
        if node.op in PRODUCTS:
            name = node.input[1].partition(":")[0]
            weights = reduced.weights[name]
            kind = tf.as_dtype(node.attr["T"].type).name
            assert weights.dtype.name == kind
            depthwise = node.op == "DepthwiseConv2dNative"
            size = weights.shape[0] * weights.shape[1] if depthwise else weights[..., 0].size
            summed.setdefault(kind, []).append(int(size))
    # The last stands for itself: its results are the vectors.
    assert sorted(summed["float32"]) == [9, 27, 32, 192]
    assert sorted(summed["bfloat16"]) == [144, 288]
    assert 32 < LEAST_SUMMED <= 144
    kinds = {
        node.op: tf.as_dtype(node.attr["T"].type).name
        for node in reduced.nodes.values()
        if node.op in ("Relu6", "MaxPool", "Mean")
    }
    # What only hands short results on is short; what sums them up is not.
    assert kinds == {"Relu6": "float32", "MaxPool": "bfloat16", "Mean": "float32"}


def test_rounding_without_shift_brings_vectors_closer(model: HubImageModel) -> None:
    import tensorflow as tf

    graph, images = flat_graph(model), generated_images(32, 32, 12)
    exact = model.embed(images)
    # Black images have no means, so that nothing is rounded otherwise than to the nearest.
    black = np.zeros((1, 32, 32, 3), np.uint8)
    nearest = to_function(reduce_precision(graph, "bfloat16", black))(tf.constant(images))[0]
    better = to_function(reduce_precision(graph, "bfloat16", images))(tf.constant(images))[0]
    assert (
        cosine_distances(exact, better.numpy()).max()
        < cosine_distances(exact, nearest.numpy()).max()
    )


@pytest.mark.parametrize("name", BOUNDS)
def test_rounded_weights_are_exact_in_the_short_type_and_keep_the_mean(name: str) -> None:
    import tensorflow as tf

    dtype = tf.as_dtype(name).as_numpy_dtype
    random = np.random.RandomState(0)
    weights = random.standard_normal((3, 3, 64, 16)).astype(np.float32)
    bias = random.standard_normal(16).astype(np.float32)
    means = random.uniform(0, 2, 64).astype(np.float32)
    rounded = round_without_shift(weights, bias, means, dtype)
    assert rounded.shape == weights.shape
    np.testing.assert_array_equal(rounded, rounded.astype(dtype).astype(np.float32))
    nearest = weights.astype(dtype).astype(np.float32)

    def shift(values: Any) -> Any:
        lost = bias - bias.astype(dtype).astype(np.float32)
        return np.abs(np.einsum("hwio,i->o", weights - values, means) + lost)

    assert shift(rounded).max() < 0.05 * shift(nearest).max()
    # Each is one of the two neighbours.
    assert (np.abs(rounded - weights) <= np.abs(weights) * ml_dtypes.finfo(dtype).eps + 1e-30).all()


@pytest.mark.parametrize(
    "network",
    [
        awkward_models.attention,
        awkward_models.two_splits,
        awkward_models.two_splits_side_by_side,
        awkward_models.grouped_with_bias,
        awkward_models.channels_first,
        awkward_models.large_depthwise,
    ],
)
def test_what_is_hard_to_rewrite_stays_close_too(tmp_path: Path, network: Network) -> None:
    import tensorflow as tf

    model = HubImageModel.load(describe_model(save_network(tmp_path, network)), height=32, width=32)
    images = generated_images(32, 32, 12)
    # Without the comparison that a model makes when it is loaded.
    reduced = to_function(reduce_precision(flat_graph(model), "bfloat16", images))
    (vectors,) = reduced(tf.constant(images))
    assert 0 < cosine_distances(model.embed(images), vectors.numpy()).max() < 1e-4


@pytest.mark.parametrize(
    "network", [awkward_models.grouped_with_bias, awkward_models.channels_first]
)
def test_weights_whose_channel_means_are_not_known_are_rounded_to_the_nearest(
    tmp_path: Path, network: Network
) -> None:
    path = save_network(tmp_path, network)
    graph = flat_graph(HubImageModel.load(describe_model(path), height=32, width=32))
    reduced = reduce_precision(graph, "bfloat16", generated_images(32, 32))
    (short,) = (each for each in reduced.weights.values() if each.size > 10_000)
    (exact,) = (each for each in graph.weights.values() if each.size > 10_000)
    np.testing.assert_array_equal(short, exact.astype(ml_dtypes.bfloat16))


def test_a_model_without_large_products_is_refused(tmp_path: Path) -> None:
    description = describe_model(save_tiny_model(tmp_path))
    with pytest.raises(UnusableModel, match=r"sums up 128 numbers .*model.precision=float32"):
        HubImageModel.load(description, height=32, width=32, precision="bfloat16")


def test_a_model_that_cannot_be_frozen_is_refused(tmp_path: Path) -> None:
    description = describe_model(save_convolutional_model(tmp_path, looks_up=True))
    assert (
        HubImageModel.load(description, height=32, width=32).embed(generated_images(32, 32)).any()
    )
    with pytest.raises(UnusableModel, match=r"cannot be run in bfloat16: .*no plain variable"):
        HubImageModel.load(description, height=32, width=32, precision="bfloat16")


def test_a_refused_image_rejects_its_batch_in_16_bits_too(tmp_path: Path) -> None:
    description = describe_model(save_convolutional_model(tmp_path, refuses_red=True))
    model = HubImageModel.load(description, height=32, width=32, precision="bfloat16")
    red = np.full((1, 32, 32, 3), (255, 0, 0), np.uint8)
    with pytest.raises(BatchRejected, match="pure red"):
        model.embed(np.concatenate([generated_images(32, 32), red]))


def test_another_value_range_keeps_the_precision(model: HubImageModel) -> None:
    images = generated_images(32, 32)
    changed = model.in_precision("bfloat16").for_value_range(-1.0, 1.0)
    assert changed.precision == "bfloat16"
    exact = model.for_value_range(-1.0, 1.0).embed(images)
    assert cosine_distances(exact, changed.embed(images)).max() < BOUNDS["bfloat16"]


@pytest.mark.skipif(not MOBILENET.exists(), reason=f"no real MobileNet at {MOBILENET}")
def test_bfloat16_changes_nothing_that_a_user_of_a_real_mobilenet_sees() -> None:
    from transforms.images.image_codec import decode_image
    from transforms.records import Preprocessing

    files = sorted((DATA / "photos").glob("*/*.jpg"))
    labels = np.array([file.parent.name for file in files])
    contract = Preprocessing(height=224, width=224)
    images = np.stack([decode_image(file.read_bytes(), contract).pixels for file in files])
    model = HubImageModel.load(describe_model(str(MOBILENET)), height=224, width=224)

    def vectors_of(network: HubImageModel) -> Any:
        parts = [network.embed(images[i : i + 32]) for i in range(0, len(images), 32)]
        vectors = np.concatenate(parts).astype(np.float64)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def recall_at_1(vectors: Any) -> float:
        cosines = vectors @ vectors.T
        np.fill_diagonal(cosines, -1)
        return float((labels[cosines.argmax(axis=1)] == labels).mean())

    exact, reduced = vectors_of(model), vectors_of(model.in_precision("bfloat16"))
    assert (exact * reduced).sum(axis=1).mean() >= 0.9999
    assert recall_at_1(reduced) == recall_at_1(exact)
