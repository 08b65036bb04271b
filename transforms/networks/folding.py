"""Batch norms and scales folded into the convolutions and matrix products before them."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from transforms.networks.frozen_graph import (
    PRODUCTS,
    Array,
    FrozenGraph,
    attribute,
    changed_node,
    constant_values,
    data_inputs,
    free_name,
    full_name,
    producer,
    tensor_name,
    with_nodes,
)

_BATCH_NORMS = ("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3")
_ADDITIONS = ("Add", "AddV2", "BiasAdd")


def fold(graph: FrozenGraph) -> FrozenGraph:
    """Return a graph with the same results, whose batch norms lie in the weights before them.

    What multiplies or adds one constant to each channel, right behind a convolution or a matrix
    product, goes into its weights and into one `BiasAdd`. Arithmetic in 16 bits or on complex
    numbers stays as it is, and so do grouped convolutions: with a `BiasAdd` behind them they do
    not run on a CPU without oneDNN.
    """
    uses = Counter(name for node in graph.nodes.values() for name in data_inputs(node))
    uses.update(map(tensor_name, graph.outputs))
    # Nodes of which more than the first result is used; a `BiasAdd` has but one.
    several = {producer(name) for name in uses if ":" in name}
    arithmetic = (*PRODUCTS, *_BATCH_NORMS, *_ADDITIONS, "Mul", "Sub")
    values = constant_values(
        graph,
        {
            name
            for node in graph.nodes.values()
            if node.op in arithmetic
            for name in data_inputs(node)
        },
    )
    foldable = _foldable_products(graph, values)
    ends: dict[str, _Product] = {}
    for node in graph.nodes.values():
        inputs = data_inputs(node)
        if node.name in foldable:
            ends[node.name] = _Product(node, values[inputs[1]])
            continue
        before = next((name for name in inputs if name in ends), None)
        if before is None or uses[before] != 1 or node.name in several:
            continue
        change = _change(node, inputs, before, values)
        if change is not None and all(ends[before].fits(each) for each in change):
            ends[node.name] = ends.pop(before).then(*change)
    nodes, weights = dict(graph.nodes), dict[str, Array]()
    for name, product in ends.items():
        if product.changes:
            names = [free_name(f"{name}/{part}", nodes) for part in ("weights", "bias", "product")]
            weights |= zip(names, product.folded(), strict=False)
            nodes.update((node.name, node) for node in _biased_product(product.node, name, *names))
    return with_nodes(graph, nodes, weights)


def _foldable_products(graph: FrozenGraph, values: Mapping[str, Array]) -> set[str]:
    """Return the names of the products whose weights can take in what follows them."""
    import tensorflow as tf

    exact = (tf.float32.as_datatype_enum, tf.float64.as_datatype_enum)
    products = {
        node.name: node
        for node in graph.nodes.values()
        if node.op in PRODUCTS
        and data_inputs(node)[1] in values
        and attribute(node, "T").type in exact
        and channels_last(node)
    }
    convolutions = [node for node in products.values() if node.op == "Conv2D"]
    shapes = _shapes(graph, [data_inputs(node)[0] for node in convolutions])
    for node, shape in zip(convolutions, shapes, strict=True):
        inputs = values[data_inputs(node)[1]].shape[2]
        if shape.rank != 4 or shape[3] != inputs:
            del products[node.name]
    return set(products)


def _shapes(graph: FrozenGraph, tensors: list[str]) -> list[Any]:
    """Return the `TensorShape`s of tensors."""
    import tensorflow as tf

    graph_def = tf.compat.v1.GraphDef(node=graph.nodes.values(), library=graph.library)
    names = [full_name(tensor) for tensor in tensors]
    with tf.Graph().as_default():
        found = tf.graph_util.import_graph_def(graph_def, return_elements=names, name="")
    return [tensor.shape for tensor in found]


@dataclass(frozen=True, slots=True)
class _Product:
    """A convolution or matrix product, and what happens to each channel behind it."""

    node: Any
    weights: Array
    scale: Array | float = 1.0
    bias: Array | float = 0.0

    @property
    def channels(self) -> int:
        depthwise = self.node.op == "DepthwiseConv2dNative"
        return int(np.prod(self.weights.shape[-2:] if depthwise else self.weights.shape[-1:]))

    @property
    def changes(self) -> bool:
        """Whether anything happens to a channel."""
        return bool(np.any(np.not_equal(self.scale, 1)) or np.any(self.bias))

    def fits(self, values: Array) -> bool:
        """Whether there is one value for all channels, or one for each."""
        rank = 2 if self.node.op == "MatMul" else 4
        for_each = values.size == self.channels and values.shape[-1:] == (self.channels,)
        return values.ndim <= rank and (values.size == 1 or for_each)

    def then(self, scale: Array, bias: Array) -> "_Product":
        """Return the product with one more thing that happens to its channels."""
        scale, bias = scale.ravel(), bias.ravel()
        return replace(self, scale=self.scale * scale, bias=self.bias * scale + bias)

    def folded(self) -> tuple[Array, Array]:
        """Return weights and biases that do all of it."""
        scale, dtype = np.asarray(self.scale), self.weights.dtype
        if self.node.op == "DepthwiseConv2dNative" and scale.size > 1:
            scale = scale.reshape(self.weights.shape[-2:])
        bias = np.broadcast_to(np.asarray(self.bias), (self.channels,))
        return (self.weights * scale).astype(dtype), bias.astype(dtype)


def _biased_product(
    node: Any, name: str, weights: str, bias: str, product_name: str
) -> tuple[Any, Any]:
    """Return the nodes of a product with other weights and a bias behind it, called `name`."""
    import tensorflow as tf

    product = changed_node(node, name=product_name, inputs={1: weights})
    end = tf.compat.v1.NodeDef(name=name, op="BiasAdd", input=[product_name, bias])
    end.attr["T"].CopyFrom(node.attr["T"])
    end.attr["data_format"].s = b"NHWC"
    return product, end


def channels_last(node: Any) -> bool:
    """Return whether channels come last, both in what a node gives and in its weights."""
    layout = attribute(node, "data_format").s or b"NHWC"
    return layout == b"NHWC" and not attribute(node, "transpose_b").b


def _change(
    node: Any, inputs: list[str], before: str, values: Mapping[str, Array]
) -> tuple[Array, Array] | None:
    """Return what a node multiplies each channel with and then adds; None: it does other things.

    Args:
        node: the one behind a product.
        inputs: the names of the tensors it takes.
        before: the one of them that is the product.
        values: of those of them that are constants.
    """
    if len(inputs) < len(node.input) or not channels_last(node):
        return None  # It waits for another node besides.
    one, zero = np.ones(()), np.zeros(())
    if node.op == "Identity":
        return one, zero
    others = [values[name].astype(np.float64) for name in inputs if name in values]
    if len(others) != len(inputs) - 1:
        return None
    if node.op in _BATCH_NORMS and inputs[0] == before and not node.attr["is_training"].b:
        gamma, beta, mean, variance = others
        scale = gamma / np.sqrt(variance + node.attr["epsilon"].f)
        return scale, beta - mean * scale
    if node.op == "Mul":
        return others[0], zero
    if node.op == "Sub":
        return (one, -others[0]) if inputs[0] == before else (-one, others[0])
    return (one, others[0]) if node.op in _ADDITIONS else None
