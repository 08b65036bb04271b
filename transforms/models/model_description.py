"""What a model takes and gives, found without loading it."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from transforms.errors import UnusableModel
from transforms.models.hub_attachments import attached_image_size
from transforms.models.model_fingerprint import fingerprint_model
from transforms.models.model_outputs import ModelOutput, choose_outputs
from transforms.models.saved_model import CALL, is_flat, read_meta_graph
from transforms.records import ModelKind, ModelRequest

#: An optional file beside saved_model.pb that says what the graph does not.
DESCRIPTION_FILE = "model.json"


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """What is known of a model before it is loaded."""

    path: str
    """The local folder of the SavedModel."""
    input_height: int | None
    """In pixels; None where the model takes any size and nothing names a usual one."""
    input_width: int | None
    """In pixels; None where the model takes any size and nothing names a usual one."""
    outputs: tuple[ModelOutput, ...]
    """What the model is run for, in the order in which its vectors hold it."""
    fingerprint: str
    """16 hexadecimal digits, see `transforms.models.model_fingerprint`."""
    untrained: bool
    """The weights are random: good for trying out and for measuring speed, not for search."""
    fixed_size: bool
    """Whether the model takes images of input_height x input_width only."""
    tags: tuple[str, ...] | None = None
    """Of the graph to load, where TensorFlow 1 saved the model; else None."""
    kind: ModelKind | None = None
    """What the model is, where model.json or the request says it."""

    @property
    def embedding_width(self) -> int | None:
        """The width of all outputs together; None where only a trial tells it."""
        widths = [output.width for output in self.outputs]
        return None if None in widths else sum(width or 0 for width in widths)

    @property
    def entry_point(self) -> str:
        """What is run for the first output: a signature, or `__call__` for the object itself."""
        return self.outputs[0].entry_point.name

    @property
    def input_key(self) -> str | None:
        """Of the input of the first output's signature; None for `__call__`."""
        entry = self.outputs[0].entry_point
        return None if entry.name == CALL else entry.inputs[0].name

    @property
    def output_key(self) -> str | None:
        """Of the first output, among several named results; None where it has no name."""
        return self.outputs[0].key


def describe_model(path: str, request: ModelRequest | None = None) -> ModelDescription:
    """Return what the SavedModel in the folder `path` takes and gives, and its fingerprint.

    The network is not built, and the weights are read one variable at a time. Models of
    TensorFlow 2 and 1 and of the TF1 Hub format are read; which signature or call gives which
    output is told in `transforms.models.model_outputs.choose_outputs`. A call is made with
    `training=False` (https://www.tensorflow.org/hub/reusable_saved_models).

    The input size is that of the graph; where the graph leaves it open, that of `model.json` or
    of the module's attached image size. `model.json` beside saved_model.pb is a JSON object with
    any of input_height, input_width, embedding_width, kind (feature_vector or classification)
    and untrained. Of a staged model it also says for which signature, output and outputs it was
    staged, which count where the request names none, and the fingerprint of these. That is
    compared with the model's own, never taken on trust: computing it takes a third of a second
    for 54 million weights.

    Args:
        path: the folder.
        request: what is wanted of the model; None: its embedding.

    Raises:
        UnusableModel: the folder holds no model that gives this, or another one than was staged
            there; the message says what it holds.

    Example:
        >>> describe_model("models/mobilenet").embedding_width # doctest: +SKIP
        1024
    """
    meta_graph = read_meta_graph(path)
    facts = _read_facts(path)
    request = _as_staged(path, facts, request or ModelRequest())
    kind = _stated_kind(path, facts) or request.kind
    outputs = choose_outputs(path, meta_graph, request, kind)
    height, width = _input_size(path, outputs)
    usual = attached_image_size(meta_graph) or (None, None)
    fingerprint = fingerprint_model(path, meta_graph, outputs)
    _refuse_another_than_staged(path, facts, request, fingerprint)
    return ModelDescription(
        path=path,
        input_height=_agreed(path, facts, "input_height", height) or usual[0],
        input_width=_agreed(path, facts, "input_width", width) or usual[1],
        outputs=tuple(_with_stated_width(path, facts, output) for output in outputs),
        fingerprint=fingerprint,
        untrained=bool(facts.get("untrained", False)),
        fixed_size=None not in (height, width),
        tags=tuple(meta_graph.meta_info_def.tags) if is_flat(meta_graph) else None,
        kind=kind,
    )


def _as_staged(path: str, facts: dict[str, Any], request: ModelRequest) -> ModelRequest:
    """Return the request with the signature and output that the model was staged for.

    They name where the embedding is, or the logits where these alone are wanted.
    """
    stated = {name: facts.get(name) for name in ("signature", "output")}
    for name, value in stated.items():
        if not isinstance(value, str | None):
            raise UnusableModel(f"{Path(path) / DESCRIPTION_FILE} has {name} {value!r}; use text")
    same_first = ("embedding" in request.wanted) == ("embedding" in _staged_outputs(facts))
    if not same_first or request.signature is not None or request.output is not None:
        return request
    return replace(request, signature=stated["signature"], output=stated["output"])


def _staged_outputs(facts: dict[str, Any]) -> tuple[str, ...]:
    return tuple(facts.get("outputs") or ModelRequest().wanted)


def _refuse_another_than_staged(
    path: str, facts: dict[str, Any], request: ModelRequest, fingerprint: str
) -> None:
    staged = facts.get("fingerprint", fingerprint)
    asked = (request.signature, request.output, request.wanted)
    staged_for = (facts.get("signature"), facts.get("output"), _staged_outputs(facts))
    # Another output of the same model has another fingerprint.
    if asked == staged_for and staged != fingerprint:
        raise UnusableModel(
            f"{path} is not the model that was staged there: its fingerprint is {fingerprint}, and "
            f"{DESCRIPTION_FILE} says {staged}; stage it again"
        )


def _input_size(path: str, outputs: tuple[ModelOutput, ...]) -> tuple[int | None, int | None]:
    """Return the height and width that the graph states."""
    images = {output.entry_point.inputs[0].shape for output in outputs}
    if len(images) > 1:
        names = " and ".join(sorted({output.entry_point.name for output in outputs}))
        raise UnusableModel(
            f"{path} takes images of different sizes in {names}; ask for one output"
        )
    (shape,) = images
    assert shape is not None  # Else it would be no entry point for images.
    return shape[1], shape[2]


def _with_stated_width(path: str, facts: dict[str, Any], output: ModelOutput) -> ModelOutput:
    if output.name != "embedding":
        return output
    return replace(output, width=_agreed(path, facts, "embedding_width", output.width))


def _stated_kind(path: str, facts: dict[str, Any]) -> ModelKind | None:
    kind: ModelKind | None = facts.get("kind")
    if kind not in (None, *get_args(ModelKind)):
        kinds = " or ".join(get_args(ModelKind))
        raise UnusableModel(f"{Path(path) / DESCRIPTION_FILE} has kind {kind!r}; use {kinds}")
    return kind


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
