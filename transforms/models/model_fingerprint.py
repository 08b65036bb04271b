"""The fingerprint of a SavedModel: what decides its vectors, and nothing else.

Two folders have the same fingerprint when they hold the same weights under the same names
and the same computation. Their paths, the names that TensorFlow counts up within a process,
the machine that saved them and the bytes of saved_model.pb have no part in it.
"""

import hashlib
from collections import ChainMap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from transforms.errors import UnusableModel
from transforms.models.model_outputs import ModelOutput
from transforms.models.saved_model import EntryPoint, TensorInfo, is_flat

#: What is no weight: the object graph and the number of times that a checkpoint was saved.
_NOT_WEIGHTS = ("_CHECKPOINTABLE_OBJECT_GRAPH", "save_counter/.ATTRIBUTES/VARIABLE_VALUE")

#: Attributes that do not change a result: where and how a call runs, and the names of
#: resources, some of which are random.
_IDLE_ATTRIBUTES = frozenset(
    {"config_proto", "executor_type", "container", "shared_name", "debug_name"}
)


#: The operations that stand for a variable in a graph that TensorFlow 1 saved.
_VARIABLES = ("VarHandleOp", "VariableV2", "Variable")


def fingerprint_model(path: str, meta_graph: Any, outputs: Sequence[ModelOutput]) -> str:
    """Return the first 16 hexadecimal digits of a SHA-256 over weights, computation and assets.

    - The variables: sorted by checkpoint key, with dtype, shape and bytes. They are read one
      at a time.
    - The computation of every output: a Merkle hash (https://en.wikipedia.org/wiki/Merkle_tree)
      over the operations that its entry point reaches. An operation is its type, its attributes
      and the hashes of its inputs; an argument is its position, a variable its checkpoint key.
    - The files in `assets`.

    Args:
        path: the folder of the SavedModel.
        meta_graph: its `MetaGraphDef`.
        outputs: what is taken from the model, in this order.

    Raises:
        UnusableModel: the weights are missing or broken.
    """
    import tensorflow as tf

    weights = hashlib.sha256()
    keys: dict[int, str] = {}
    prefix = Path(path) / "variables" / "variables"
    try:
        if prefix.with_suffix(".index").exists():
            checkpoint = tf.train.load_checkpoint(str(prefix))
            for key in sorted(checkpoint.get_variable_to_shape_map()):
                if key not in _NOT_WEIGHTS:
                    weights.update(_digest(key, *_array_parts(checkpoint.get_tensor(key))))
            if not is_flat(meta_graph):
                keys = _checkpoint_keys(meta_graph, checkpoint)
        names = sorted(asset.filename for asset in meta_graph.asset_file_def)
        assets = [_digest(i, (Path(path) / "assets" / i).read_bytes()) for i in names]
    # The checkpoint reader turns some of TensorFlow's errors into Python's.
    except (tf.errors.OpError, OSError, RuntimeError, ValueError, IndexError) as error:
        raise UnusableModel(
            f"the weights or assets in {path} are incomplete or corrupt ({error}); copy the "
            "model again"
        ) from error
    graph = _GraphDigest(meta_graph, keys)
    computations = [part for output in outputs for part in graph.of_output(output)]
    return _digest(weights.digest(), *computations, *assets).hex()[:16]


def _digest(*parts: str | bytes) -> bytes:
    """Return the SHA-256 over parts whose borders count."""
    whole = hashlib.sha256()
    for part in parts:
        encoded = part.encode() if isinstance(part, str) else part
        whole.update(len(encoded).to_bytes(8, "little"))
        whole.update(encoded)
    return whole.digest()


def _array_parts(values: Any) -> tuple[str | bytes, ...]:
    """Return the dtype, shape and bytes of an array; strings come as an array of Python objects."""
    content = _digest(*values.ravel()) if values.dtype == object else values.tobytes()
    return values.dtype.name, str(values.shape), content


def _checkpoint_keys(meta_graph: Any, checkpoint: Any) -> dict[int, str]:
    """Return the checkpoint key of every variable of the SavedModel's object graph.

    Both know an object by the names that lead to it from the root, so both are walked together.
    """
    from tensorflow.core.protobuf import trackable_object_graph_pb2

    stored = trackable_object_graph_pb2.TrackableObjectGraph()
    stored.ParseFromString(checkpoint.get_tensor(_NOT_WEIGHTS[0]))
    objects = meta_graph.object_graph_def
    keys = {}
    pairs = [(0, 0)]
    seen = {0}
    while pairs:
        node_id, stored_id = pairs.pop()
        for attribute in stored.nodes[stored_id].attributes:
            if attribute.name == "VARIABLE_VALUE":
                keys[node_id] = attribute.checkpoint_key
        stored_children = {i.local_name: i.node_id for i in stored.nodes[stored_id].children}
        for reference in objects.nodes[node_id].children:
            if reference.local_name in stored_children and reference.node_id not in seen:
                seen.add(reference.node_id)
                pairs.append((reference.node_id, stored_children[reference.local_name]))
    return keys


class _GraphDigest:
    """Hashes functions of one SavedModel; each function, and each captured object, once."""

    def __init__(self, meta_graph: Any, checkpoint_keys: Mapping[int, str]) -> None:
        self._meta_graph = meta_graph
        self._objects = meta_graph.object_graph_def
        self._checkpoint_keys = checkpoint_keys
        self._nodes = {node.name: node for node in meta_graph.graph_def.node}
        self._library = {f.signature.name: f for f in meta_graph.graph_def.library.function}
        self._functions: dict[str, bytes] = {}
        self._captures: dict[int, bytes] = {}

    def of_output(self, output: ModelOutput) -> tuple[str | bytes, ...]:
        """Return the hash of the computation, and which of its results is taken."""
        entry, tensor = output.entry_point, output.tensor
        if entry.function is None:
            image = _source(entry.inputs[0].tensor or "")
            taken = tensor.reference if tensor else _result(entry, output.key).tensor or ""
            arguments = {image: _digest("argument", "0")}
            return _digest(*self._of_graph(self._nodes, arguments, [taken], flat=True)), ""
        if tensor is None:
            return self.of_concrete_function(entry.function), output.key or ""
        captures = self._objects.concrete_functions[entry.function].bound_inputs
        parts: list[str | bytes] = [self._of_capture(i) for i in captures]
        body = self._library[entry.function]
        for call in tensor.calls:
            (node,) = (node for node in body.node_def if node.name == call)
            parts.append(self._of_body(body, list(node.input)))
            body = self._library[node.attr["f"].func.name]
        return _digest(*parts, self._of_body(body, [tensor.reference])), "named tensor"

    def of_concrete_function(self, name: str) -> bytes:
        """Return the hash of a function together with the objects that it captures."""
        captures = self._objects.concrete_functions[name].bound_inputs
        return _digest(self._of_function(name), *(self._of_capture(i) for i in captures))

    def _of_capture(self, node_id: int) -> bytes:
        if node_id not in self._captures:
            # A table's initialiser captures the table, so the table needs a hash before.
            kind = self._objects.nodes[node_id].WhichOneof("kind")
            self._captures[node_id] = _digest("being hashed", kind)
            self._captures[node_id] = _digest(kind, *self._capture_parts(node_id, kind))
        return self._captures[node_id]

    def _capture_parts(self, node_id: int, kind: str) -> Iterable[str | bytes]:
        node = self._objects.nodes[node_id]
        if kind == "variable":
            if node_id not in self._checkpoint_keys:
                raise UnusableModel(
                    f"the weights lack the variable {node.variable.name!r}; copy the model again, "
                    "with its folder 'variables'"
                )
            return [self._checkpoint_keys[node_id]]
        if kind == "constant":
            return [self._of_operation(self._nodes[node.constant.operation])]
        if kind == "asset":
            return [self._meta_graph.asset_file_def[node.asset.asset_file_def_index].filename]
        return [
            self.of_concrete_function(function)
            for reference in sorted(node.children, key=lambda reference: reference.local_name)
            for function in self._function_names(reference.node_id)
        ]

    def _function_names(self, node_id: int) -> list[str]:
        node = self._objects.nodes[node_id]
        if node.WhichOneof("kind") == "bare_concrete_function":
            return [node.bare_concrete_function.concrete_function_name]
        return list(node.function.concrete_functions)

    def _of_function(self, name: str) -> bytes:
        if name not in self._functions:
            function = self._library[name]
            results = [function.ret[output.name] for output in function.signature.output_arg]
            effects = [f"^{node}" for node in function.control_ret.values()]
            self._functions[name] = self._of_body(function, [*results, *effects])
        return self._functions[name]

    def _of_body(self, function: Any, results: Sequence[str]) -> bytes:
        nodes = {node.name: node for node in function.node_def}
        arguments = {
            argument.name: _digest("argument", str(position))
            for position, argument in enumerate(function.signature.input_arg)
        }
        return _digest(*self._of_graph(nodes, arguments, results))

    def _of_graph(
        self,
        nodes: Mapping[str, Any],
        arguments: Mapping[str, bytes],
        results: Sequence[str],
        flat: bool = False,
    ) -> Iterable[bytes]:
        """Return Merkle hashes of the results, made without recursion because networks are deep."""
        digests = dict(arguments)
        # Only a loop of TensorFlow 1's control flow leads back to an operation that is open.
        loops: dict[str, bytes] = {}
        known = ChainMap(digests, loops)
        entered: set[str] = set()
        stack = [_source(reference) for reference in results]
        while stack:
            name = stack[-1]
            if name in digests:
                stack.pop()
                continue
            sources = [_source(reference) for reference in nodes[name].input]
            unknown = [source for source in sources if source not in digests]
            if name not in entered:
                entered.add(name)
                stack.extend(source for source in unknown if source not in entered)
                continue
            loops.update((source, _digest("loop", nodes[source].op)) for source in unknown)
            digests[name] = _digest(
                self._of_operation(nodes[name], flat), *_references(nodes[name].input, known)
            )
        return _references(results, digests)

    def _of_operation(self, node: Any, flat: bool = False) -> bytes:
        parts: list[str | bytes] = [node.op]
        for name in sorted(node.attr):
            if not name.startswith("_") and name not in _IDLE_ATTRIBUTES:
                parts += [name, *self._attribute_parts(node.attr[name])]
        if flat and node.op in _VARIABLES:
            # Its key in the checkpoint.
            shared = "shared_name" in node.attr and node.attr["shared_name"].s
            parts += ["name", shared or node.name]
        return _digest(*parts)

    def _attribute_parts(self, attribute: Any) -> Iterable[str | bytes]:
        import tensorflow as tf

        kind = attribute.WhichOneof("value")
        if kind == "func":
            return [self._of_function(attribute.func.name)]
        if kind == "list" and attribute.list.func:
            return [self._of_function(function.name) for function in attribute.list.func]
        if kind == "tensor":
            # The same values may be written down in several ways.
            return _array_parts(tf.make_ndarray(attribute.tensor))
        return [attribute.SerializeToString(deterministic=True)]


def _result(entry: EntryPoint, key: str | None) -> TensorInfo:
    (result,) = (result for result in entry.outputs if result.name == key)
    return result


def _source(reference: str) -> str:
    """Return the operation or argument behind `name`, `name:output:0` or `^name`."""
    return reference.removeprefix("^").partition(":")[0]


def _references(references: Iterable[str], digests: Mapping[str, bytes]) -> Iterable[bytes]:
    """Yield the hashes of data inputs in their order, then those of control inputs in no order."""
    control = []
    for reference in references:
        digest = digests[_source(reference)]
        if reference.startswith("^"):
            control.append(digest)
        else:
            result = reference.partition(":")[2]
            # A flat graph writes the first result of an operation with or without its number.
            yield _digest(digest, "" if result == "0" else result)
    yield _digest("after", *sorted(set(control)))
