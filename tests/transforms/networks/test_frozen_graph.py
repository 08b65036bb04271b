"""Freezing and folding real graphs."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from awkward_models import save_branching_network
from convolutional_models import save_convolutional_model
from tiny_models import save_tiny_model

from transforms.errors import BatchRejected
from transforms.models.model_description import describe_model
from transforms.networks.folding import fold
from transforms.networks.frozen_graph import FrozenGraph, constant_values, freeze, to_function
from transforms.networks.golden_vectors import generated_images
from transforms.networks.hub_model import HubImageModel


def load(path: str) -> HubImageModel:
    return HubImageModel.load(describe_model(path), height=32, width=32)


def plain_function(model: HubImageModel) -> Any:
    """Return the network as it was saved, from uint8 to vectors."""
    import tensorflow as tf

    def embed(pixels: Any) -> Any:
        return model.run_network(tf.cast(pixels, tf.float32) / 255.0)

    specification = tf.TensorSpec([None, 32, 32, 3], tf.uint8)
    return tf.function(embed, input_signature=[specification]).get_concrete_function()


def plain_vectors(model: HubImageModel, images: np.ndarray) -> np.ndarray:
    import tensorflow as tf

    return np.asarray(plain_function(model)(tf.constant(images))[0])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> HubImageModel:
    return load(save_convolutional_model(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def graph(model: HubImageModel) -> FrozenGraph:
    return freeze(plain_function(model))


def operations(graph: FrozenGraph) -> Counter[str]:
    return Counter(node.op for node in graph.nodes.values())


def run(graph: FrozenGraph, images: np.ndarray) -> np.ndarray:
    import tensorflow as tf

    (vectors,) = to_function(graph)(tf.constant(images))
    return np.asarray(vectors)


def test_a_frozen_graph_gives_the_very_vectors(model: HubImageModel, graph: FrozenGraph) -> None:
    images = generated_images(32, 32)
    np.testing.assert_allclose(
        run(graph, images), plain_vectors(model, images), rtol=1e-5, atol=1e-5
    )
    assert not {"ReadVariableOp", "StatefulPartitionedCall"} & operations(graph).keys()


def test_folding_takes_every_batch_norm_and_scale_and_changes_no_vector(
    model: HubImageModel, graph: FrozenGraph
) -> None:
    folded, images = fold(graph), generated_images(32, 32)
    np.testing.assert_allclose(
        run(folded, images), plain_vectors(model, images), rtol=1e-4, atol=1e-5
    )
    before, after = operations(graph), operations(folded)
    assert before["FusedBatchNormV3"] == 1
    assert not {"FusedBatchNormV3", "Rsqrt"} & after.keys()
    # Those that bring the images into their ranges; that of the residual is gone as well.
    assert after["Mul"] == 2
    assert after["BiasAdd"] == 3
    assert after["Conv2D"] == before["Conv2D"] == 4


def test_every_node_comes_after_its_inputs(graph: FrozenGraph) -> None:
    seen: set[str] = set()
    for name, node in fold(graph).nodes.items():
        assert {each.removeprefix("^").partition(":")[0] for each in node.input} <= seen
        seen.add(name)


def test_constants_are_told_from_what_depends_on_the_images(graph: FrozenGraph) -> None:
    values = constant_values(graph, set(graph.nodes))
    assert values
    roots = [node for node in graph.nodes.values() if node.op == "Rsqrt"]
    assert all(node.name in values for node in roots)
    assert not [
        node.name for node in graph.nodes.values() if node.op == "Relu" and node.name in values
    ]


def test_a_scale_that_others_use_too_stays(tmp_path: Path) -> None:
    import tensorflow as tf

    kernel = tf.Variable(np.random.RandomState(0).standard_normal((3, 3, 3, 4)).astype(np.float32))

    def call(images: tf.Tensor) -> tf.Tensor:
        maps = tf.nn.conv2d(images, kernel, 1, "SAME")
        # The convolution is used twice, so that its weights may not change.
        return tf.reduce_mean(maps * 3.0, [1, 2]) + tf.reduce_max(maps, [1, 2])

    module = tf.train.Checkpoint(kernel=kernel)
    module.__call__ = tf.function(
        call, input_signature=[tf.TensorSpec([None, 32, 32, 3], tf.float32)]
    )
    tf.saved_model.save(module, str(tmp_path), signatures={})
    model, images = load(str(tmp_path)), generated_images(32, 32)
    folded = fold(freeze(plain_function(model)))
    np.testing.assert_allclose(
        run(folded, images), plain_vectors(model, images), rtol=1e-5, atol=1e-5
    )


def test_what_the_network_checks_is_still_checked(tmp_path: Path) -> None:
    model = load(save_convolutional_model(tmp_path, refuses_red=True))
    red = np.full((1, 32, 32, 3), (255, 0, 0), np.uint8)
    with pytest.raises(BatchRejected, match="pure red"):
        model.embed(red)
    assert model.embed(255 - red).shape == (1, 24)


def test_a_network_with_a_table_is_refused(tmp_path: Path) -> None:
    model = load(save_convolutional_model(tmp_path, looks_up=True))
    with pytest.raises(ValueError, match=r"no plain variable .*LookupTable"):
        freeze(plain_function(model))
    # It is run as it is.
    images = generated_images(32, 32)
    np.testing.assert_array_equal(model.embed(images), plain_vectors(model, images))


def test_models_of_other_operations_are_frozen_too(tmp_path: Path) -> None:
    model, images = load(save_tiny_model(tmp_path)), generated_images(32, 32)
    folded = fold(freeze(plain_function(model)))
    np.testing.assert_allclose(
        run(folded, images), plain_vectors(model, images), rtol=1e-4, atol=1e-4
    )


def test_branches_of_tensorflow_1_are_refused_and_run_as_they_are(tmp_path: Path) -> None:
    model = load(save_branching_network(tmp_path))
    with pytest.raises(ValueError, match="branches of TensorFlow 1"):
        freeze(plain_function(model))
    white = np.full((1, 32, 32, 3), 255, np.uint8)
    # Each takes another branch.
    for images in (generated_images(32, 32), white):
        np.testing.assert_allclose(model.embed(images), plain_vectors(model, images), rtol=1e-6)
