"""Tensors inside functions that call each other, found by name and given out."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from transforms.errors import UnusableModel
from transforms.models.model_description import describe_model
from transforms.models.named_tensor import find_tensor
from transforms.models.saved_model import read_meta_graph
from transforms.networks.hub_model import HubImageModel
from transforms.records import ModelRequest


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model that calls one function twice: means of the image, and of the doubled image."""
    import tensorflow as tf

    weight = tf.Variable([1.0, 10.0, 100.0])

    @tf.function
    def block(images: Any) -> Any:
        return tf.reduce_sum(tf.reduce_mean(images * weight, [1, 2], name="pool"), 1, True)

    def call(images: Any) -> Any:
        doubled = tf.multiply(images, 2.0, name="doubled")
        return tf.concat([block(images), block(doubled)], axis=1, name="both")

    model = tf.train.Checkpoint(weight=weight)
    specification = tf.TensorSpec([None, 16, 16, 3], tf.float32)
    model.__call__ = tf.function(call, input_signature=[specification])
    folder: Path = tmp_path_factory.mktemp("model")
    tf.saved_model.save(model, str(folder), signatures={})
    return str(folder)


def embed(path: str, name: str) -> Any:
    description = describe_model(path, ModelRequest(output=name))
    model = HubImageModel.load(description, height=16, width=16)
    return model.embed(np.full((2, 16, 16, 3), 255, np.uint8))


def test_a_tensor_behind_a_call_is_named_like_the_inlined_one(path: str) -> None:
    np.testing.assert_allclose(embed(path, "StatefulPartitionedCall/pool"), [[1, 10, 100]] * 2)
    np.testing.assert_allclose(embed(path, "StatefulPartitionedCall_1/pool:0"), [[2, 20, 200]] * 2)


def test_a_name_that_several_calls_hold_is_refused_with_the_full_names(path: str) -> None:
    with pytest.raises(UnusableModel, match=r"PartitionedCall/pool .*, .*PartitionedCall_1/pool"):
        describe_model(path, ModelRequest(output="pool"))


def test_the_two_calls_have_two_fingerprints(path: str) -> None:
    first, second = (
        describe_model(path, ModelRequest(output=f"{call}/pool")).fingerprint
        for call in ("StatefulPartitionedCall", "StatefulPartitionedCall_1")
    )
    assert first != second


def test_looking_changes_nothing(path: str) -> None:
    meta_graph = read_meta_graph(path)
    before = meta_graph.SerializeToString(deterministic=True)
    objects = meta_graph.object_graph_def
    for function in objects.concrete_functions:
        assert find_tensor(meta_graph, function, "no_such_tensor") is None
        find_tensor(meta_graph, function, "doubled")
    assert meta_graph.SerializeToString(deterministic=True) == before
