"""What a SavedModel can be asked for, read from its protocol buffers without loading it.

The format: https://github.com/tensorflow/tensorflow/tree/master/tensorflow/core/protobuf,
`saved_model.proto`, `meta_graph.proto` and `saved_object_graph.proto`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transforms.errors import UnusableModel

CALL = "__call__"

#: A signature of TensorFlow's own, which initialises and is not for users.
_INITIALIZER = "__saved_model_init_op"


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor that an entry point takes or gives."""

    name: str | None
    """Its key in the signature, or None for the only, nameless result of a call."""
    dtype: str
    """TensorFlow's name for it, such as float32."""
    shape: tuple[int | None, ...] | None
    """None for an unknown number of dimensions, None within for one of any size."""
    tensor: str | None = None
    """Its name in a graph that TensorFlow 1 saved, such as `hub_input/images:0`."""

    def __str__(self) -> str:
        if self.shape is None:
            sizes = "of unknown shape"
        else:
            first, *rest = ("any" if size is None else str(size) for size in self.shape or (1,))
            sizes = f"[{', '.join(['n' if first == 'any' else first, *rest])}]"
        return " ".join(part for part in (self.name, self.dtype, sizes) if part)


@dataclass(frozen=True, slots=True)
class EntryPoint:
    """One way to run the model: a signature, or a call of the whole object."""

    name: str
    function: str | None
    """The name of its concrete function in the graph's library; None for a graph that
    TensorFlow 1 saved, which is flat: an entry point is a pair of places in it."""
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]


def read_meta_graph(path: str) -> Any:
    """Return the `MetaGraphDef` that serves, from the SavedModel in the folder `path`.

    It is the one tagged `serve`, or in the TF1 Hub format the one without tags
    (https://www.tensorflow.org/hub/tf1_hub_module); never one for training.

    Raises:
        UnusableModel: there is none, or it is broken.
    """
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf import saved_model_pb2

    file = Path(path) / "saved_model.pb"
    saved_model = saved_model_pb2.SavedModel()
    try:
        saved_model.ParseFromString(file.read_bytes())
    except OSError as error:
        raise UnusableModel(f"{file} cannot be read: {error.strerror}") from error
    except DecodeError as error:
        raise UnusableModel(f"{file} is cut or corrupt; copy the model again") from error
    tags = [sorted(meta_graph.meta_info_def.tags) for meta_graph in saved_model.meta_graphs]
    serving = [own for own in tags if "serve" in own] or [own for own in tags if not own]
    if not serving:
        raise UnusableModel(
            f"{file} holds no graph tagged 'serve' and none without tags; the tags of its graphs "
            f"are {tags}"
        )
    # The shortest: others are for a device.
    return saved_model.meta_graphs[tags.index(min(serving, key=len))]


def is_flat(meta_graph: Any) -> bool:
    """Whether TensorFlow 1 saved it: one flat graph and signatures, without an object."""
    return not meta_graph.object_graph_def.nodes


def entry_points(meta_graph: Any) -> list[EntryPoint]:
    """Return what can be run: every signature by name, then `__call__` if there is one.

    Of the traces of `__call__` it is the one that `model(images, training=False)` would run.
    """
    signatures = (
        _signature(meta_graph, name)
        for name in sorted(meta_graph.signature_def)
        if name != _INITIALIZER
    )
    found = (*signatures, None if is_flat(meta_graph) else _call(meta_graph))
    return [entry for entry in found if entry is not None]


def child(object_graph: Any, node_id: int, name: str) -> int | None:
    """Return the id of the node that `node_id` holds under `name`."""
    for reference in object_graph.nodes[node_id].children:
        if reference.local_name == name:
            return int(reference.node_id)
    return None


def known_shape(shape: Any) -> tuple[int | None, ...] | None:
    """Return the sizes that a `TensorShapeProto` states; see `TensorInfo.shape`."""
    if shape.unknown_rank:
        return None
    return tuple(None if dimension.size < 0 else int(dimension.size) for dimension in shape.dim)


def _signature(meta_graph: Any, name: str) -> EntryPoint | None:
    signature = meta_graph.signature_def[name]
    function = None
    if not is_flat(meta_graph):
        objects = meta_graph.object_graph_def
        signatures = child(objects, 0, "signatures")
        node = None if signatures is None else child(objects, signatures, name)
        if node is None:
            return None
        function = objects.nodes[node].bare_concrete_function.concrete_function_name

    def tensors(infos: Any) -> tuple[TensorInfo, ...]:
        return tuple(
            TensorInfo(
                key,
                _dtype_name(infos[key].dtype),
                known_shape(infos[key].tensor_shape),
                None if function else infos[key].name,
            )
            for key in sorted(infos)
        )

    return EntryPoint(name, function, tensors(signature.inputs), tensors(signature.outputs))


def _call(meta_graph: Any) -> EntryPoint | None:
    objects = meta_graph.object_graph_def
    node = child(objects, 0, CALL)
    if node is None:
        return None
    function = objects.nodes[node].function
    argument_names, defaults = _arguments(function)
    traces = []
    for name in function.concrete_functions:
        concrete = objects.concrete_functions[name]
        positional, by_key = _plain(concrete.canonicalized_input_signature)
        arguments = {**dict(zip(argument_names, positional, strict=False)), **by_key}
        tensors = {key: value for key, value in arguments.items() if isinstance(value, TensorInfo)}
        rest = {key: value for key, value in arguments.items() if key not in tensors}
        usual = {**defaults, "training": False}
        if all(key in usual and usual[key] == value for key, value in rest.items()):
            inputs = tuple(TensorInfo(key, i.dtype, i.shape) for key, i in tensors.items())
            outputs = tuple(_leaves(_plain(concrete.output_signature)))
            traces.append(EntryPoint(CALL, name, inputs, outputs))
    return min(traces, key=lambda trace: len(trace.inputs), default=None)


def _arguments(function: Any) -> tuple[list[str], dict[str, Any]]:
    """Return the names of the arguments by position, and the defaults of those that have one."""
    specification = _plain(function.function_spec.fullargspec)
    names = list(specification["args"])
    defaults = specification["defaults"] or ()
    with_default = names[len(names) - len(defaults) :]
    known = dict(zip(with_default, defaults, strict=True))
    if function.function_spec.is_method:
        names = names[1:]
    return names, known | (specification["kwonlydefaults"] or {})


def _plain(value: Any) -> Any:
    """Return a `StructuredValue` as Python objects, with a `TensorInfo` for every tensor."""
    kind = value.WhichOneof("kind")
    if kind in ("tensor_spec_value", "bounded_tensor_spec_value"):
        spec = getattr(value, kind)
        return TensorInfo(spec.name, _dtype_name(spec.dtype), known_shape(spec.shape))
    if kind in ("tuple_value", "list_value"):
        return tuple(_plain(item) for item in getattr(value, kind).values)
    if kind == "dict_value":
        return {key: _plain(item) for key, item in value.dict_value.fields.items()}
    if kind == "named_tuple_value":
        return {pair.key: _plain(pair.value) for pair in value.named_tuple_value.values}
    if kind == "none_value":
        return None
    return getattr(value, kind)


def _leaves(structure: Any) -> Iterator[TensorInfo]:
    """Yield the tensors of a result: of one tensor, of a dictionary, or of a sequence."""
    if isinstance(structure, TensorInfo):
        yield TensorInfo(None, structure.dtype, structure.shape)
        return
    items = structure.items() if isinstance(structure, dict) else enumerate(structure or ())
    for key, item in sorted(items):
        if isinstance(item, TensorInfo):
            yield TensorInfo(str(key), item.dtype, item.shape)


def _dtype_name(enum: int) -> str:
    import tensorflow as tf

    return str(tf.dtypes.as_dtype(enum).name)
