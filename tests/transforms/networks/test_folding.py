"""Folding graphs that are hard to fold; what `fitted_function` makes up for does not count here."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import awkward_models
import numpy as np
import pytest
from awkward_models import SIDE, Network, save_network

from transforms.networks.folding import fold
from transforms.networks.frozen_graph import FrozenGraph, freeze, to_function
from transforms.networks.golden_vectors import generated_images


def saved_function(path: str) -> Any:
    """Return the network of a SavedModel, from uint8 to vectors."""
    import tensorflow as tf

    network = tf.saved_model.load(path)

    def embed(pixels: Any) -> Any:
        return network(tf.cast(pixels, tf.float32) / 255.0)

    specification = tf.TensorSpec([None, SIDE, SIDE, 3], tf.uint8)
    function = tf.function(embed, input_signature=[specification]).get_concrete_function()
    # The graph does not keep the variables alive.
    function.network = network
    return function


def operations(graph: FrozenGraph) -> Counter[str]:
    return Counter(node.op for node in graph.nodes.values())


@pytest.mark.parametrize(
    "network",
    [
        awkward_models.unstacked_scale,
        awkward_models.split_kernel,
        awkward_models.attention,
        awkward_models.singular_vectors,
        awkward_models.complex_product,
        awkward_models.half_precision,
        awkward_models.weights_beside_the_sum,
        awkward_models.grouped,
        awkward_models.long_string,
    ],
)
def test_folding_changes_no_vector(tmp_path: Path, network: Network) -> None:
    import tensorflow as tf

    function = saved_function(save_network(tmp_path, network))
    images = tf.constant(generated_images(SIDE, SIDE))
    (folded,) = to_function(fold(freeze(function)))(images)
    expected = function(images).numpy()
    assert np.ptp(expected) > 0
    np.testing.assert_allclose(folded.numpy(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("network", "products", "biases"),
    [
        (awkward_models.unstacked_scale, 1, 1),
        (awkward_models.attention, 4, 3),
        (awkward_models.complex_product, 1, 0),
        # The first convolution is none in groups.
        (awkward_models.grouped, 3, 1),
    ],
)
def test_what_can_be_folded_is_folded(
    tmp_path: Path, network: Network, products: int, biases: int
) -> None:
    found = operations(fold(freeze(saved_function(save_network(tmp_path, network)))))
    assert found["Conv2D"] + found["MatMul"] == products
    assert found["BiasAdd"] == biases


def test_a_grouped_convolution_runs_without_onednn(tmp_path: Path) -> None:
    code = (
        "import sys; sys.path[:0] = sys.argv[2:]\n"
        "import numpy as np, tensorflow as tf\n"
        "from test_folding import *\n"
        "function = saved_function(sys.argv[1])\n"
        "images = tf.constant(generated_images(SIDE, SIDE))\n"
        "(folded,) = to_function(fold(freeze(function)))(images)\n"
        "print(float(np.abs(folded - function(images)).max()))\n"
    )
    path = save_network(tmp_path, awkward_models.grouped)
    folders = [str(Path(__file__).parent), str(Path(awkward_models.__file__).parent)]
    # It is read once, when TensorFlow is loaded.
    environment = {**os.environ, "TF_ENABLE_ONEDNN_OPTS": "0"}
    result = subprocess.run(
        [sys.executable, "-c", code, path, *folders],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert float(result.stdout) < 1e-5
