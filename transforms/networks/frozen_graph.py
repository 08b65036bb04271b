"""A model as one flat graph with known weights.

Such a graph can be rewritten node by node, as `transforms.networks.folding` and
`transforms.networks.reduced_precision` do. The weights stand beside it, not inside as constants,
which TensorFlow's own conversion makes of them: that one holds each weight many times over
(Inception-ResNet-v2: 4.9 GB in place of 2.2 GB, and 7 seconds in place of one).

Tensors have the names that nodes give their inputs: `split` is the first result of a node, and
`split:1` its second.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Nodes = Mapping[str, Any]
"""The `NodeDef`s of a graph by their names."""

#: Operations that multiply what comes in with the weights in their second input, and sum up.
PRODUCTS = ("Conv2D", "DepthwiseConv2dNative", "MatMul")

#: Branches and loops of TensorFlow 1. What runs in a branch hangs on control edges alone, and a
#: branch that is not taken has no values, so that nothing may be moved or computed beforehand.
_CONTROL_FLOW = (
    *("Switch", "RefSwitch", "_SwitchN", "Merge", "RefMerge", "Enter", "RefEnter"),
    *("Exit", "RefExit", "NextIteration", "RefNextIteration", "LoopCond"),
)


@dataclass(frozen=True, slots=True)
class FrozenGraph:
    """A graph without variables: one tensor of images goes in, and one comes out an output."""

    nodes: Nodes
    """Those that the outputs depend on; each comes after its inputs. Weights are placeholders."""
    weights: Mapping[str, Array]
    """What the placeholders stand for, by their names."""
    library: Any
    """A `FunctionDefLibrary`."""
    images: str
    """Name of the tensor that goes in."""
    outputs: tuple[str, ...]
    """Names of the tensors that come out."""


def freeze(function: Any) -> FrozenGraph:
    """Return the graph of a function, with the present values of its variables.

    Args:
        function: a `ConcreteFunction` of one tensor. Of what it does, only that is kept which its
            outputs depend on, be it by control edges.

    Raises:
        ValueError: it holds something besides variables, such as a table; it uses variables in
            loops or branches; or it has loops or branches of TensorFlow 1.
    """
    import tensorflow as tf

    graph_def = _inlined(function)
    given = {inside.op.name: outside for outside, inside in function.graph.captures}
    nodes: dict[str, Any] = {node.name: node for node in graph_def.node}
    weights: dict[str, Array] = {}
    read: dict[str, Array] = {}
    for name, node in nodes.items():
        if name in given and given[name].dtype not in (tf.resource, tf.variant):
            weights[name] = _values_of(given[name])
        source = _variable(node, nodes)
        if source in given:
            if source not in read:
                dtype = tf.as_dtype(node.attr["dtype"].type)
                variable = tf.raw_ops.ReadVariableOp(resource=given[source], dtype=dtype)
                read[source] = _values_of(variable)
            weights[name] = read[source]
    nodes.update((name, placeholder(name, values)) for name, values in weights.items())
    graph = FrozenGraph(
        nodes=nodes,
        weights=weights,
        library=graph_def.library,
        images=function.inputs[0].name,
        outputs=tuple(tensor.name for tensor in function.outputs),
    )
    graph = with_nodes(graph, nodes)
    if any(node.op in _CONTROL_FLOW for node in graph.nodes.values()):
        raise ValueError("it has branches of TensorFlow 1")
    left = given.keys() & graph.nodes.keys() - weights.keys()
    if left:
        users = set[str]()
        for node in graph.nodes.values():
            if not left.isdisjoint(map(producer, data_inputs(node))):
                if node.op == "Identity":
                    left = left | {node.name}
                else:
                    users.add(node.op)
        named = ", ".join(sorted(users))
        raise ValueError(f"it holds what is no plain variable (used by {named})")
    return _without_idle_waits(graph)


def _values_of(tensor: Any) -> Array:
    values = tensor.numpy()
    # A single string comes as bytes; numpy's own strings would lose the zeros at its end.
    return np.array(values, object) if isinstance(values, bytes) else np.asarray(values)


def _inlined(function: Any) -> Any:
    """Return the graph of a function as a `GraphDef`, with what it calls in the place of calls."""
    from tensorflow.core.protobuf import config_pb2
    from tensorflow.python.framework.convert_to_constants import disable_lower_using_switch_merge
    from tensorflow.python.grappler import tf_optimizer
    from tensorflow.python.training.saver import export_meta_graph

    graph_def = disable_lower_using_switch_merge(function.graph.as_graph_def())
    meta_graph = export_meta_graph(graph_def=graph_def, graph=function.graph)
    kept = meta_graph.collection_def["train_op"].node_list.value
    kept.extend(tensor.name for tensor in (*function.inputs, *function.outputs))
    config = config_pb2.ConfigProto()
    config.graph_options.rewrite_options.min_graph_nodes = -1
    config.graph_options.rewrite_options.optimizers.append("function")
    return tf_optimizer.OptimizeGraph(config, meta_graph, verbose=False)


def _variable(node: Any, nodes: Nodes) -> str:
    """Return the name of the node that holds the variable which a node reads, or the empty one."""
    if node.op != "ReadVariableOp":
        return ""
    source = nodes[producer(node.input[0])]
    while source.op == "Identity":
        source = nodes[producer(source.input[0])]
    return str(source.name)


def to_function(
    graph: FrozenGraph, then: Callable[[list[Any]], list[Any]] = lambda outputs: outputs
) -> Any:
    """Return the `ConcreteFunction` that runs the graph.

    Args:
        graph: what to run.
        then: what to do with its outputs, inside the function.
    """
    import tensorflow as tf

    # Several places may hold the same weights.
    tensors = {id(values): tf.constant(values) for values in graph.weights.values()}
    graph_def = tf.compat.v1.GraphDef(node=graph.nodes.values(), library=graph.library)

    def run(*images: Any) -> list[Any]:
        given = {
            f"{name}:0": tf.identity(tensors[id(values)]) for name, values in graph.weights.items()
        }
        given.update(dict.fromkeys([graph.images], *images) if images else {})
        return then(tf.graph_util.import_graph_def(graph_def, given, list(graph.outputs), name=""))

    specification = []
    if graph.images:
        attributes = graph.nodes[producer(graph.images)].attr
        shape = tf.TensorShape(attributes["shape"].shape)
        specification.append(tf.TensorSpec(shape, tf.as_dtype(attributes["dtype"].type)))
    function = tf.function(run, input_signature=specification, autograph=False)
    return function.get_concrete_function()


def producer(tensor: str) -> str:
    """Return the name of the node that a tensor, or an input of a node, comes from.

    Example:
        >>> producer("conv:0"), producer("^check")
        ('conv', 'check')
    """
    return tensor.removeprefix("^").partition(":")[0]


def data_inputs(node: Any) -> list[str]:
    """Return the names of the tensors that a node takes, in order.

    Example:
        >>> import tensorflow as tf
        >>> data_inputs(tf.compat.v1.NodeDef(input=["conv:0", "split:1", "^check"]))
        ['conv', 'split:1']
    """
    return [tensor_name(name) for name in node.input if not name.startswith("^")]


def tensor_name(tensor: str) -> str:
    """Return the name that a tensor has as an input of a node.

    Example:
        >>> tensor_name("split:0"), tensor_name("split:1")
        ('split', 'split:1')
    """
    return tensor.removesuffix(":0")


def free_name(wanted: str, taken: Collection[str]) -> str:
    """Return a name that no node has, as near to the wanted one as can be.

    Example:
        >>> free_name("conv/bias", {"conv/bias"}), free_name("conv/bias", {})
        ('conv/bias_', 'conv/bias')
    """
    while wanted in taken:
        wanted += "_"
    return wanted


def attribute(node: Any, name: str) -> Any:
    """Return an attribute as an `AttrValue`, empty where there is none.

    Reading it from the node itself would add it, and spoil the node.
    """
    from tensorflow.core.framework import attr_value_pb2

    return node.attr[name] if name in node.attr else attr_value_pb2.AttrValue()


def placeholder(name: str, values: Array) -> Any:
    """Return the node that stands for weights in a graph."""
    import tensorflow as tf

    node = tf.compat.v1.NodeDef(name=name, op="Placeholder")
    node.attr["dtype"].type = tf.as_dtype(values.dtype).as_datatype_enum
    node.attr["shape"].shape.CopyFrom(tf.TensorShape(values.shape).as_proto())
    return node


def changed_node(
    node: Any, *, name: str | None = None, inputs: Mapping[int, str] | None = None
) -> Any:
    """Return a copy of a node with another name and other inputs, these by their places."""
    import tensorflow as tf

    copy = tf.compat.v1.NodeDef()
    copy.CopyFrom(node)
    copy.name = name or node.name
    for place, tensor in (inputs or {}).items():
        copy.input[place] = tensor
    return copy


def with_nodes(
    graph: FrozenGraph, nodes: Nodes, weights: Mapping[str, Array] = MappingProxyType({})
) -> FrozenGraph:
    """Return the graph with other nodes: those that its outputs depend on, in order.

    Args:
        graph: whose images and outputs stay.
        nodes: by their names.
        weights: further ones, for which a placeholder of their name is added.

    Raises:
        ValueError: the nodes depend on each other in a loop.
    """
    known = {**graph.weights, **weights}
    nodes = {**nodes, **{name: placeholder(name, values) for name, values in weights.items()}}
    # The images stay, even where nothing depends on them.
    wanted = [producer(name) for name in (graph.images, *graph.outputs) if name]
    kept = {node.name: node for node in _in_order(nodes, wanted)}
    left = {name: values for name, values in known.items() if name in kept}
    return replace(graph, nodes=kept, weights=left)


def _in_order(nodes: Nodes, wanted: list[str]) -> Iterator[Any]:
    opened, done = set[str](), set[str]()
    stack = wanted[::-1]
    while stack:
        name = stack[-1]
        missing = [each for each in map(producer, nodes[name].input) if each not in done]
        if name in done or not missing:
            stack.pop()
            if name not in done:
                done.add(name)
                yield nodes[name]
            continue
        if name in opened:
            raise ValueError("it has a loop of TensorFlow 1")
        opened.add(name)
        stack.extend(missing)


def _without_idle_waits(graph: FrozenGraph) -> FrozenGraph:
    """Return the graph without the control edges that nothing but arithmetic hangs on."""
    acting: set[str] = set()
    nodes: dict[str, Any] = {}
    for name, node in graph.nodes.items():
        if _acts(node) or not acting.isdisjoint(map(producer, node.input)):
            acting.add(name)
        needed = [i for i in node.input if not i.startswith("^") or producer(i) in acting]
        if len(needed) < len(node.input):
            node = changed_node(node)
            del node.input[:]
            node.input.extend(needed)
        nodes[name] = node
    return with_nodes(graph, nodes)


def _acts(node: Any) -> bool:
    """Return whether a node may do more than compute its results from its inputs."""
    from tensorflow.python.framework import op_def_registry

    definition = op_def_registry.get(node.op)
    return definition is None or (definition.is_stateful and node.op != "Placeholder")


def constant_values(graph: FrozenGraph, tensors: set[str]) -> dict[str, Array]:
    """Return the values of those of the named tensors that depend on constants and weights alone.

    Args:
        graph: where they are.
        tensors: as `data_inputs` names them.
    """
    import tensorflow as tf

    constant: set[str] = set()
    for name, node in graph.nodes.items():
        inputs = data_inputs(node)
        computed = inputs and constant.issuperset(map(producer, inputs)) and not _acts(node)
        if node.op == "Const" or name in graph.weights or computed:
            constant.add(name)
    values: dict[str, Array] = {}
    others = []
    for tensor in sorted(tensors):
        if producer(tensor) not in constant:
            continue
        source = tensor
        # The name of a node is that of its first result.
        while source in graph.nodes and graph.nodes[source].op == "Identity":
            source = data_inputs(graph.nodes[source])[0]
        if source in graph.weights:
            values[tensor] = graph.weights[source]
        elif source in graph.nodes and graph.nodes[source].op == "Const":
            values[tensor] = tf.make_ndarray(graph.nodes[source].attr["value"].tensor)
        else:
            others.append(tensor)
    if others:
        # Data alone decides the values, whatever else is waited for.
        free = {name: _without_waits(graph.nodes[name]) for name in constant}
        outputs = tuple(map(full_name, others))
        results = to_function(with_nodes(replace(graph, images="", outputs=outputs), free))()
        values |= {name: result.numpy() for name, result in zip(others, results, strict=True)}
    return values


def full_name(tensor: str) -> str:
    """Return the name of a tensor as graphs know it, whichever way it is named.

    Example:
        >>> full_name("split"), full_name("split:1")
        ('split:0', 'split:1')
    """
    return tensor if ":" in tensor else f"{tensor}:0"


def _without_waits(node: Any) -> Any:
    if not any(name.startswith("^") for name in node.input):
        return node
    free = changed_node(node)
    del free.input[:]
    free.input.extend(name for name in node.input if not name.startswith("^"))
    return free
