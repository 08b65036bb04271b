"""What a model takes and gives, found without loading it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transforms.errors import UnusableModel
from transforms.model_fingerprint import fingerprint_model
from transforms.saved_model import (
    CALL,
    SERVING_SIGNATURE,
    EntryPoint,
    TensorInfo,
    entry_points,
    read_meta_graph,
)

#: An optional file beside saved_model.pb that says what the graph does not.
DESCRIPTION_FILE = "model.json"

_FLOATS = ("float16", "bfloat16", "float32", "float64")

_WANTED = (
    "an image feature model takes one float32 [n, height, width, 3] and gives one vector of "
    "floats an image, [n, width]"
)


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """What is known of a model before it is loaded."""

    path: str
    """The local folder of the SavedModel."""
    input_height: int | None
    """In pixels; None where the model takes any size and no model.json names a usual one."""
    input_width: int | None
    """In pixels; None where the model takes any size and no model.json names a usual one."""
    embedding_width: int | None
    """None where neither the graph nor model.json states it."""
    fingerprint: str
    """16 hexadecimal digits, see `transforms.model_fingerprint`."""
    entry_point: str
    """`serving_default`, or `__call__` for a call of the object itself."""
    input_key: str | None
    """Of the signature's input; None for `__call__`."""
    output_key: str | None
    """Of the vector among several named results; None where the result has no name."""
    untrained: bool
    """The weights are random: good for trying out and for measuring speed, not for search."""
    fixed_size: bool
    """Whether the model takes images of input_height x input_width only."""


def describe_model(path: str) -> ModelDescription:
    """Return what the SavedModel in the folder `path` takes and gives, and its fingerprint.

    The network is not built, and the weights are read one variable at a time. The signature
    `serving_default` is preferred; a model without a usable one is called as an object, with
    `training=False` (https://www.tensorflow.org/hub/reusable_saved_models). Where the graph
    leaves the input size or the width open, `model.json` beside saved_model.pb may state
    them: a JSON object with any of input_height, input_width, embedding_width and untrained.

    Raises:
        UnusableModel: the folder holds no image feature model; the message says what it holds.

    Example:
        >>> describe_model("models/mobilenet").embedding_width # doctest: +SKIP
        1024
    """
    meta_graph = read_meta_graph(path)
    entries = entry_points(meta_graph)
    usable = [entry for entry in entries if _objection(entry) is None]
    if not usable:
        found = "; ".join(f"{entry.name} {_objection(entry)}" for entry in entries) or (
            f"it has neither a signature {SERVING_SIGNATURE!r} nor a trace of {CALL} for "
            "tensors with training=False"
        )
        raise UnusableModel(f"{path} holds no image feature model: {found}; {_WANTED}")
    entry = usable[0]
    image, vector = entry.inputs[0], _vectors(entry)[0]
    assert image.shape is not None  # Else there would be an objection.
    facts = _read_facts(path)
    width = vector.shape[1] if vector.shape else None
    return ModelDescription(
        path=path,
        input_height=_agreed(path, facts, "input_height", image.shape[1]),
        input_width=_agreed(path, facts, "input_width", image.shape[2]),
        embedding_width=_agreed(path, facts, "embedding_width", width),
        fingerprint=fingerprint_model(path, meta_graph, entry.function, vector.name),
        entry_point=entry.name,
        input_key=None if entry.name == CALL else image.name,
        output_key=vector.name,
        untrained=bool(facts.get("untrained", False)),
        fixed_size=None not in image.shape[1:3],
    )


def _objection(entry: EntryPoint) -> str | None:
    """Return why images cannot go in there, or no vectors come out; None if they do."""
    takes = ", ".join(str(tensor) for tensor in entry.inputs)
    gives = ", ".join(str(tensor) for tensor in entry.outputs)
    if len(entry.inputs) != 1:
        return f"takes {len(entry.inputs)} tensors ({takes})"
    shape = entry.inputs[0].shape
    if entry.inputs[0].dtype != "float32" or shape is None or len(shape) != 4 or shape[3] != 3:
        return f"takes {takes}, which is no batch of RGB images, and gives {gives}"
    if shape[0] is not None:
        return f"takes {takes}, so batches of {shape[0]} only; save it with any batch size"
    vectors = _vectors(entry)
    if len(vectors) > 1:
        return f"gives several vectors ({gives}), and none of them is called 'default'"
    if not vectors:
        dimensions = {len(tensor.shape) for tensor in entry.outputs if tensor.shape}
        kind = "a 4-D feature map, " if dimensions == {4} else ""
        hint = "; a pooling layer would make it a vector" if kind else ""
        return f"gives {kind}{gives or 'nothing'}{hint}"
    return None


def _vectors(entry: EntryPoint) -> list[TensorInfo]:
    """Return the results that may be the vector: the one called default, or all 2-D floats."""
    floats = [tensor for tensor in entry.outputs if tensor.dtype in _FLOATS]
    # A shape that the graph leaves open is seen at the trial batch.
    vectors = [tensor for tensor in floats if tensor.shape and len(tensor.shape) == 2] or [
        tensor for tensor in floats if tensor.shape is None
    ]
    return [tensor for tensor in vectors if tensor.name == "default"] or vectors


def _read_facts(path: str) -> dict[str, Any]:
    file = Path(path) / DESCRIPTION_FILE
    if not file.exists():
        return {}
    try:
        facts = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise UnusableModel(f"{file} is no JSON file: {error}") from error
    if not isinstance(facts, dict):
        raise UnusableModel(f"{file} must hold a JSON object, not {type(facts).__name__}")
    return facts


def _agreed(path: str, facts: dict[str, Any], name: str, graph: int | None) -> int | None:
    """Return what the graph states, or else what model.json does."""
    stated = facts.get(name)
    if stated is None:
        return graph
    file = Path(path) / DESCRIPTION_FILE
    if type(stated) is not int or stated < 1:
        raise UnusableModel(f"{file} has {name} {stated!r}; use a positive whole number")
    if graph is not None and stated != graph:
        raise UnusableModel(
            f"{file} says {name} {stated}, but the model itself has {graph}; correct the file"
        )
    return stated
