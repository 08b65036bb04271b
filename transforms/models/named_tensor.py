"""A tensor inside the graph of a model that is none of its results, found and pulled out.

The features of a classifier that gives logits only are such a tensor. TensorFlow 2 keeps the
graph in functions that call each other, so each of them is made to give the tensor out.
Everything here works on protocol buffers
(https://github.com/tensorflow/tensorflow/blob/master/tensorflow/core/framework/function.proto).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from transforms.errors import UnusableModel
from transforms.models.saved_model import CALL, EntryPoint, child, known_shape

_CALLS = ("PartitionedCall", "StatefulPartitionedCall")

#: The attribute that holds an operation's type of result, by precedence.
_TYPES = ("DstT", "dtype", "T")
_FLOAT = 1

_RESULT = "named_tensor"


@dataclass(frozen=True, slots=True)
class NamedTensor:
    """Where a tensor lies."""

    calls: tuple[str, ...]
    """The operations that call the functions around it, the outermost first."""
    reference: str
    """As its function writes it, such as `avg_pool/Mean:output:0`; in a flat graph
    `avg_pool/Mean:0`."""
    shape: tuple[int | None, ...] | None
    """None where the graph does not state it."""

    def __str__(self) -> str:
        return "/".join((*self.calls, self.reference.partition(":")[0]))


def find_tensor(meta_graph: Any, function: str | None, name: str) -> NamedTensor | None:
    """Return the tensor called `name` in a function and those that it calls.

    Args:
        meta_graph: the `MetaGraphDef` of the model.
        function: of its library; None for the flat graph of a model that TensorFlow 1 saved.
        name: of the operation, with or without the `:0` of its result. Where several functions
            hold that name, the names of the calls stand before it with slashes, as TensorFlow
            writes it when it puts functions in the place of their calls.

    Raises:
        UnusableModel: several tensors have this name.
    """
    operation, colon, result = name.partition(":")
    result = result if colon else "0"
    whole: list[NamedTensor] = []
    plain: list[NamedTensor] = []
    for calls, body, node in _operations(meta_graph, function):
        if operation in (node.name, "/".join((*calls, node.name))):
            # To ask a map of protocol buffers for a missing key would add it.
            known = "_output_shapes" in node.attr
            shapes = node.attr["_output_shapes"].list.shape if known else ()
            position = int(re.findall(r"\d+$", result)[0]) if result[-1:].isdigit() else 0
            shape = known_shape(shapes[position]) if position < len(shapes) else None
            found = [
                NamedTensor(calls, reference, shape)
                for reference in _references_to(body, node.name, result)
            ]
            (plain if operation == node.name and calls else whole).extend(found)
    candidates = whole or plain
    if len(candidates) > 1:
        several = ", ".join(f"{i} ({i.reference})" for i in candidates)
        raise UnusableModel(f"the model holds several tensors called {name!r}: {several}; name one")
    return candidates[0] if candidates else None


def operation_names(meta_graph: Any, function: str | None) -> list[str]:
    """Return the names under which `find_tensor` finds what a function computes."""
    return [node.name for _, _, node in _operations(meta_graph, function)]


def give_out(meta_graph: Any, entry: EntryPoint, tensor: NamedTensor) -> None:
    """Make an entry point of an object give the pair of its own result and a tensor on the way.

    Args:
        meta_graph: the `MetaGraphDef` of the model, which is changed.
        entry: of that model, with a function.
        tensor: of that function.
    """
    objects, functions = meta_graph.object_graph_def, meta_graph.graph_def.library.function
    library = {each.signature.name: each for each in functions}

    def copied(name: str) -> Any:
        # The function stays in use elsewhere under its name.
        body = functions.add()
        body.CopyFrom(library[name])
        body.signature.name = f"{name}_with_{_RESULT}"
        return body

    assert entry.function is not None
    bodies, calls = [copied(entry.function)], []
    for name in tensor.calls:
        calls.append(next(node for node in bodies[-1].node_def if node.name == name))
        bodies.append(copied(calls[-1].attr["f"].func.name))
        calls[-1].attr["f"].func.name = bodies[-1].signature.name
    operation = tensor.reference.partition(":")[0]
    kind = _result_type(next(node for node in bodies[-1].node_def if node.name == operation))
    bodies[-1].signature.output_arg.add(name=_RESULT, type=kind)
    bodies[-1].ret[_RESULT] = tensor.reference
    for call, body in zip(reversed(calls), reversed(bodies[:-1]), strict=True):
        body.signature.output_arg.add(name=_RESULT, type=kind)
        body.ret[_RESULT] = f"{call.name}:output:{len(call.attr['Tout'].list.type)}"
        call.attr["Tout"].list.type.append(kind)
        call.attr.pop("_output_shapes", None)

    concrete = objects.concrete_functions[bodies[0].signature.name]
    concrete.CopyFrom(objects.concrete_functions[entry.function])
    own = type(concrete.output_signature)()
    own.CopyFrom(concrete.output_signature)
    pair = concrete.output_signature.tuple_value.values
    pair.add().CopyFrom(own)
    pair.add().tensor_spec_value.dtype = kind
    pair[1].tensor_spec_value.shape.unknown_rank = True
    _replace_function(objects, entry, bodies[0].signature.name)


def _replace_function(objects: Any, entry: EntryPoint, name: str) -> None:
    if entry.name == CALL:
        traces = objects.nodes[child(objects, 0, CALL)].function.concrete_functions
        traces[list(traces).index(entry.function)] = name
    else:
        signatures = child(objects, 0, "signatures")
        assert signatures is not None
        node = objects.nodes[child(objects, signatures, entry.name)]
        node.bare_concrete_function.concrete_function_name = name


def _result_type(node: Any) -> int:
    if node.op in _CALLS:
        return int(node.attr["Tout"].list.type[0])
    return next((int(node.attr[name].type) for name in _TYPES if name in node.attr), _FLOAT)


def _operations(
    meta_graph: Any, function: str | None
) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    """Yield the calls above, the nodes beside and the node itself, of every operation."""
    graph_def = meta_graph.graph_def
    if function is None:
        for node in graph_def.node:
            yield (), graph_def, node
        return
    library = {each.signature.name: each for each in graph_def.library.function}
    waiting: list[tuple[tuple[str, ...], str]] = [((), function)]
    while waiting:
        calls, name = waiting.pop(0)
        for node in library[name].node_def:
            yield calls, library[name], node
            if node.op in _CALLS:
                waiting.append(((*calls, node.name), node.attr["f"].func.name))


def _references_to(body: Any, name: str, result: str) -> list[str]:
    """Return how a body refers to one result of an operation, once for each way."""
    if not hasattr(body, "node_def"):
        return [f"{name}:{result}"]
    references = (*(i for node in body.node_def for i in node.input), *body.ret.values())
    # A function writes `name:output:0`, where the word is the operation's own.
    return sorted(
        {
            reference
            for reference in references
            if re.fullmatch(rf"{re.escape(name)}:(?:\w+:)?{re.escape(result)}", reference)
        }
    )
