"""A frozen graph in 16-bit arithmetic: what takes it, what stays in float32, how weights round.

Convolutions and matrix products are where the time goes, and they add up in float32 inside
(https://uxlfoundation.github.io/oneDNN/dev_guide_data_types.html). What only hands their results
on is in 16 bits as well: else conversions would cost what the products gain.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from transforms.networks.folding import channels_last
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
    to_function,
    with_nodes,
)
from transforms.records import Pixels, ShortFloat

#: A product whose results are sums of fewer numbers than this stays in float32. The first
#: convolution of a network, which sees the pixels, and depthwise ones are such: the errors of
#: few numbers do not average out, and they take little of the time.
LEAST_SUMMED = 128

_FOLLOWERS = (
    *("BiasAdd", "Add", "AddV2", "Mul", "Relu", "Relu6", "MaxPool", "ConcatV2", "Identity"),
)

#: How many weights of a channel may be rounded the other way, to keep its mean.
_ROUNDED_OTHERWISE = 64


def reduce_precision(graph: FrozenGraph, precision: ShortFloat, images: Pixels) -> FrozenGraph:
    """Return a graph that computes in 16 bits where it pays; images and outputs stay as they are.

    Weights are rounded such that no channel moves on average: rounding each to the nearest shifts
    a channel by the sum of its weights' errors times the mean of what they are multiplied with,
    and these shifts add up from layer to layer ("biased error", Nagel et al. 2019,
    https://arxiv.org/abs/1906.04721; they mend it in the bias, which is short itself here). The
    means are those of the given images.

    With it, and with LEAST_SUMMED, the vectors of a trained MobileNet move by a cosine distance of
    5.7e-5 (mean of 128 photographs) in bfloat16; with every operation in bfloat16 and rounded to
    the nearest, as OpenVINO does it too, by 2.7e-3.

    Args:
        graph: in float32, folded (`transforms.networks.folding.fold`).
        precision: of the products and of what only hands their results on.
        images: `uint8 [n, height, width, 3]`; the same ones on every worker, so that all of them
            round alike.

    Raises:
        ValueError: nothing in the graph would be computed in 16 bits.
    """
    import tensorflow as tf

    constants = _constants(graph)
    short = _short_nodes(graph, constants)
    products = [name for name in short if graph.nodes[name].op in PRODUCTS]
    if not products:
        raise ValueError(
            f"it has no convolution or matrix product that sums up {LEAST_SUMMED} numbers or more"
        )
    constants |= _rounded_weights(graph, products, constants, precision, images)
    types = {name: tf.as_dtype(precision) for name in short}
    nodes: dict[str, Any] = {}
    weights: dict[str, Array] = {}
    converted: dict[tuple[str, Any], str] = {}
    taken = set(graph.nodes)
    for name, node in graph.nodes.items():
        own = types.get(name, tf.float32)
        inputs = {}
        for place, tensor in enumerate(_values_in(node)):
            given = types.get(producer(tensor), tf.float32)
            if own == given:
                continue
            if (tensor, own) not in converted:
                # `split:1` is another tensor than the first one of a node `split_1`.
                wanted = f"{tensor.replace(':', '/output_')}/{own.name}"
                converted[tensor, own] = short_name = free_name(wanted, taken)
                taken.add(short_name)
                if tensor in constants:
                    weights[short_name] = constants[tensor].astype(own.as_numpy_dtype)
                else:
                    nodes[short_name] = _cast(short_name, tensor, given, own)
            inputs[place] = converted[tensor, own]
        nodes[name] = changed_node(node, inputs=inputs) if inputs or name in short else node
        if name in short:
            nodes[name].attr["T"].type = own.as_datatype_enum
    return with_nodes(graph, nodes, weights)


def _values_in(node: Any) -> list[str]:
    """Return the tensors of numbers that a node computes with, from its first input on."""
    tensors = data_inputs(node)
    return tensors[:-1] if node.op == "ConcatV2" else tensors


def _constants(graph: FrozenGraph) -> dict[str, Array]:
    """Return the values of the constants that could be in 16 bits."""
    able = [node for node in graph.nodes.values() if node.op in (*PRODUCTS, *_FOLLOWERS)]
    return constant_values(graph, {each for node in able for each in _values_in(node)})


def _short_nodes(graph: FrozenGraph, constants: Mapping[str, Array]) -> list[str]:
    """Return the names of the nodes that are computed in 16 bits."""
    import tensorflow as tf

    last = _last_nodes(graph)
    short: dict[str, None] = {}
    for node in graph.nodes.values():
        if node.name in last or attribute(node, "T").type != tf.float32.as_datatype_enum:
            continue
        inputs = _values_in(node)
        if node.op in PRODUCTS:
            if inputs[1] in constants and _summed(node, constants[inputs[1]]) >= LEAST_SUMMED:
                short[node.name] = None
        elif node.op in _FOLLOWERS:
            computed = [name for name in inputs if name not in constants]
            if computed and all(name in short for name in computed):
                short[node.name] = None
    return list(short)


def _last_nodes(graph: FrozenGraph) -> set[str]:
    """Return the names of the nodes whose results are handed on to an output as they are.

    Were they short, the vectors would have eight binary digits.
    """
    last: set[str] = set()
    waiting = [producer(name) for name in graph.outputs]
    while waiting:
        node = graph.nodes[waiting.pop()]
        if node.name not in last:
            last.add(node.name)
            waiting.extend(map(producer, data_inputs(node) if node.op in _FOLLOWERS else []))
    return last


def _summed(node: Any, weights: Array) -> int:
    """Return how many products make one number of the result."""
    if node.op == "DepthwiseConv2dNative":
        return int(weights.shape[0] * weights.shape[1])
    channels = weights.shape[0] if attribute(node, "transpose_b").b else weights.shape[-1]
    return int(weights.size // max(channels, 1))


def _cast(name: str, tensor: str, given: Any, wanted: Any) -> Any:
    import tensorflow as tf

    node = tf.compat.v1.NodeDef(name=name, op="Cast", input=[tensor])
    node.attr["SrcT"].type = given.as_datatype_enum
    node.attr["DstT"].type = wanted.as_datatype_enum
    return node


def _rounded_weights(
    graph: FrozenGraph,
    products: list[str],
    constants: Mapping[str, Array],
    precision: ShortFloat,
    images: Pixels,
) -> dict[str, Array]:
    """Return the weights of those products that have a bias behind them, rounded."""
    import tensorflow as tf

    biases = {
        data_inputs(node)[0]: constants[data_inputs(node)[1]]
        for node in graph.nodes.values()
        if node.op == "BiasAdd" and data_inputs(node)[1] in constants
    }
    # The others are left to the nearest: those that share their weights, have them turned, or
    # whose channels do not come last; of grouped convolutions, see below.
    shared = Counter(data_inputs(graph.nodes[name])[1] for name in products)
    rounded = [
        node
        for node in (graph.nodes[name] for name in products)
        if node.name in biases
        and node.op != "DepthwiseConv2dNative"
        and channels_last(node)
        and shared[data_inputs(node)[1]] == 1
        and not attribute(node, "transpose_a").b
    ]
    means = _channel_means(graph, [data_inputs(node)[0] for node in rounded], images)
    dtype = tf.as_dtype(precision).as_numpy_dtype
    result: dict[str, Array] = {}
    for node in rounded:
        maps, name = data_inputs(node)
        # Each group of a grouped convolution sees other channels than its weights number.
        if means[maps].size == constants[name].shape[-2]:
            bias = biases[node.name]
            result[name] = round_without_shift(constants[name], bias, means[maps], dtype)
    return result


def _channel_means(graph: FrozenGraph, tensors: list[str], images: Pixels) -> dict[str, Array]:
    import tensorflow as tf

    unique = list(dict.fromkeys(tensors))
    outputs = tuple(map(full_name, unique))

    def mean_of(tensor: Any) -> Any:
        return tf.reduce_mean(tensor, axis=tf.range(tf.rank(tensor) - 1))

    function = to_function(
        with_nodes(replace(graph, outputs=outputs), graph.nodes),
        lambda tensors: [mean_of(tensor) for tensor in tensors],
    )
    means = function(tf.constant(images)) if unique else []
    return {name: mean.numpy() for name, mean in zip(unique, means, strict=True)}


def round_without_shift(weights: Array, bias: Array, means: Array, dtype: Any) -> Array:
    """Round weights so that what comes out stays the same on average.

    Each is rounded to the nearest; then of those that most is multiplied with, a few are rounded
    the other way, wherever that brings the mean of their channel closer to what it was.

    Args:
        weights: `float32 [..., inputs, channels]`.
        bias: `float32 [channels]`, added behind, in the same short type.
        means: `float32 [inputs]`, of what the weights are multiplied with.
        dtype: the short type, as numpy knows it.

    Returns:
        `float32`, of the shape of the weights; `dtype` holds each value exactly.

    Example:
        >>> weights = np.full((4, 1), 1 + 2**-11, np.float32)
        >>> rounded = round_without_shift(weights, np.zeros(1), np.ones(4), np.float16)
        >>> bool(rounded.sum() == weights.sum())
        True
    """
    nearest = weights.astype(dtype).astype(np.float32).reshape(-1, weights.shape[-1])
    error = weights.reshape(nearest.shape) - nearest
    mean = np.tile(means, len(nearest) // len(means)).astype(np.float32)
    shift = mean @ error + (bias - bias.astype(dtype).astype(np.float32))
    for place in np.argsort(-np.abs(mean), kind="stable")[:_ROUNDED_OTHERWISE]:
        beyond = np.where(error[place] > 0, np.inf, -np.inf).astype(dtype)
        other = np.nextafter(nearest[place].astype(dtype), beyond).astype(np.float32)
        left = shift - (other - nearest[place]) * mean[place]
        better = np.isfinite(other) & (np.abs(left) < np.abs(shift))
        shift = np.where(better, left, shift)
        nearest[place] = np.where(better, other, nearest[place])
    return nearest.reshape(weights.shape)
