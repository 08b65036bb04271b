"""From the description of a model to its network in memory."""

import inspect
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transforms.models.model_description import ModelDescription
from transforms.models.model_outputs import ModelOutput
from transforms.models.named_tensor import give_out
from transforms.models.saved_model import CALL, EntryPoint, read_meta_graph

RunNetwork = Callable[[Any], list[Any]]
"""float32 `[n, height, width, 3]` -> one tensor for each output of the description."""


def load_network(description: ModelDescription) -> tuple[Any, RunNetwork]:
    """Load a model; return the object that holds its variables, and how to run it.

    Outputs of one entry point, or of one graph that TensorFlow 1 saved, come from one run of
    the network. Two signatures of an object run it twice: TensorFlow shares nothing between
    them (Inception-ResNet-v2, 2 CPU cores: 2.1 times as long as one).

    Raises:
        ValueError, TypeError, OSError, tensorflow.errors.OpError: it cannot be loaded.
    """
    import tensorflow as tf

    if description.tags is not None:
        # Without tags TensorFlow refuses a module that holds a graph for training too.
        network = tf.saved_model.load(description.path, tags=list(description.tags))
        parts = _parts_of_graph(network, description)
    else:
        network = _load_object(description)
        parts = _parts_of_object(network, description)

    def run(images: Any) -> list[Any]:
        tensors: dict[str, Any] = {}
        for part in parts:
            tensors |= part(images)
        return [_float_tensor(tensors[output.name]) for output in description.outputs]

    return network, run


def _load_object(description: ModelDescription) -> Any:
    import tensorflow as tf
    from tensorflow.core.protobuf import saved_model_pb2

    named = [(i.entry_point, i.tensor) for i in description.outputs if i.tensor is not None]
    if not named:
        return tf.saved_model.load(description.path)
    saved_model = saved_model_pb2.SavedModel(saved_model_schema_version=1)
    saved_model.meta_graphs.append(read_meta_graph(description.path))
    for entry, tensor in named:
        give_out(saved_model.meta_graphs[0], entry, tensor)
    with tempfile.TemporaryDirectory() as folder:
        changed = Path(folder)
        (changed / "saved_model.pb").write_bytes(saved_model.SerializeToString())
        for part in ("variables", "assets"):
            if (Path(description.path) / part).exists():
                (changed / part).symlink_to((Path(description.path) / part).absolute())
        return tf.saved_model.load(folder)


_Part = Callable[[Any], dict[str, Any]]


def _parts_of_graph(network: Any, description: ModelDescription) -> list[_Part]:
    """Return one function for each place where images enter a flat graph."""
    import tensorflow as tf

    def part(place: str) -> _Part:
        fetches = {
            output.name: output.tensor.reference
            if output.tensor
            else next(i.tensor for i in output.entry_point.outputs if i.name == output.key)
            for output in description.outputs
            if output.entry_point.inputs[0].tensor == place
        }
        specification = tf.TensorSpec(network.graph.get_tensor_by_name(place).shape, tf.float32)
        function = network.prune(
            place, list(fetches.values()), input_signature=((specification,), {})
        )
        return lambda images: dict(zip(fetches, function(images), strict=True))

    places = [output.entry_point.inputs[0].tensor for output in description.outputs]
    return [part(place) for place in dict.fromkeys(places) if place is not None]


def _parts_of_object(network: Any, description: ModelDescription) -> list[_Part]:
    """Return one function for each entry point of an object that TensorFlow 2 saved."""

    def part(entry: EntryPoint) -> _Part:
        outputs = [output for output in description.outputs if output.entry_point == entry]
        function = _entry_function(network, entry)
        gives_pair = any(output.tensor for output in outputs)

        def call(images: Any) -> dict[str, Any]:
            result, named = function(images) if gives_pair else (function(images), None)
            return {i.name: named if i.tensor else _taken(result, i) for i in outputs}

        return call

    return [part(entry) for entry in dict.fromkeys(i.entry_point for i in description.outputs)]


def _entry_function(network: Any, entry: EntryPoint) -> Callable[[Any], Any]:
    if entry.name == CALL:
        call = network.__call__
        takes_training = "training" in inspect.signature(call).parameters
        arguments = {"training": False} if takes_training else {}
        return lambda images: call(images, **arguments)
    signature, key = network.signatures[entry.name], entry.inputs[0].name
    return lambda images: signature(**{str(key): images})


def _taken(result: Any, output: ModelOutput) -> Any:
    if output.key is None:
        return result
    # A sequence of results has numbers for keys.
    return result[output.key] if isinstance(result, dict) else result[int(output.key)]


def _float_tensor(tensor: Any) -> Any:
    import tensorflow as tf

    if not tensor.dtype.is_floating:
        raise TypeError(f"the tensor {tensor.name} holds {tensor.dtype.name}, not floats")
    return tf.cast(tensor, tf.float32)
