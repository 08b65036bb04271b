"""Which outputs of the model are wanted, where they lie in its vectors, what is written of them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import get_args

import numpy as np

from pipeline.config import ModelConfig
from transforms.errors import ImageError, RequestError, UnusableModel
from transforms.folders.output_folder import open_file
from transforms.formats.top_classes import are_probabilities
from transforms.ledgers.incremental_runs import VectorSet
from transforms.models.model_description import ModelDescription
from transforms.models.model_outputs import kind_of_handle
from transforms.networks.batch_isolation import IsolatingEmbedder
from transforms.records import CarriedColumn, ModelRequest, OutputLayout, OutputName


def model_request(model: ModelConfig) -> ModelRequest:
    """Return what the configuration wants of the model.

    The order of `model.outputs` means nothing, so that it does not change the fingerprint.

    Example:
        >>> model_request(ModelConfig(outputs=("top_classes", "embedding"))).wanted
        ('embedding', 'logits')
    """
    outputs = set(model.outputs)
    needed = {"embedding": "embedding" in outputs, "logits": bool(outputs - {"embedding"})}
    wanted: tuple[OutputName, ...] = tuple(name for name in get_args(OutputName) if needed[name])
    request = ModelRequest(signature=model.signature, output=model.output, wanted=wanted)
    return request_for_handle(request, model.handle)


def request_for_handle(request: ModelRequest, handle: str) -> ModelRequest:
    """Return the request with what the handle says of its model, where it says nothing itself."""
    return replace(request, kind=request.kind or kind_of_handle(handle))


def read_labels(path: str) -> tuple[str, ...]:
    """Return the names of the classes: one a line, UTF-8, that of class 0 first.

    Raises:
        RequestError: the file cannot be read, or holds no text.
    """
    try:
        with open_file(path) as file:
            text = file.read().decode("utf-8-sig")
    except FileNotFoundError as error:
        raise RequestError(f"model.labels: there is no file {path}") from error
    except UnicodeDecodeError as error:
        raise RequestError(f"model.labels: {path} is no UTF-8 text: {error}") from error
    except OSError as error:
        raise RequestError(f"model.labels: {path} cannot be read: {error}") from error
    # Not splitlines(), which also splits at signs that may stand in a name.
    lines = text.removesuffix("\n").split("\n")
    return tuple(line.removesuffix("\r") for line in lines)


def settle_layout(
    model: ModelConfig,
    description: ModelDescription,
    width: int,
    labels: tuple[str, ...] | None = None,
) -> OutputLayout:
    """Return where the outputs lie in the model's vectors, and what is written of them.

    Args:
        model: the configuration.
        description: of the model, for `model_request(model)`.
        width: of its vectors, as a trial told it.
        labels: of the classes, from `read_labels`.

    Raises:
        RequestError: the number of classes does not go with `model.top_classes` or the labels.
        UnusableModel: neither the model nor model.json tells where the embedding ends.
    """
    widths = {output.name: output.width for output in description.outputs}
    if len(widths) == 2 and not any(widths.values()):
        raise UnusableModel(
            f"{description.path} gives an embedding and logits, {width} values together, and does "
            "not say how many are the embedding; write embedding_width into a model.json beside "
            "its saved_model.pb"
        )
    known = sum(each or 0 for each in widths.values())
    settled = {name: each or width - known for name, each in widths.items()}
    try:
        return OutputLayout(
            embedding_width=settled.get("embedding", 0),
            classes=settled.get("logits", 0),
            writes_logits="logits" in model.outputs,
            top_classes=model.top_classes if "top_classes" in model.outputs else 0,
            labels=labels,
        )
    except ValueError as error:
        # It begins with the key.
        raise RequestError(f"model.{error}") from error


def known_layout(
    model: ModelConfig,
    earlier: VectorSet,
    columns: Sequence[CarriedColumn],
    labels: tuple[str, ...] | None,
    output: str,
    *,
    columns_may_grow: bool = False,
) -> OutputLayout:
    """Return the layout of the vectors that an output holds, for a run that adds to them.

    Rows of one set all say the same things: else a row that a run replaces in a table, whose
    other columns it leaves alone, would be of two runs.

    Args:
        model: the configuration of the run.
        earlier: what the output holds of the same model.
        columns: that the run carries along.
        labels: of the classes, from `read_labels`.
        output: where the vectors are, for the message.
        columns_may_grow: whether the run may carry further columns along, which the rows that
            are there do not have: those of a table have null there.

    Raises:
        RequestError: the run would write something else, or the labels are too few or too many.
    """
    wanted = (
        "embedding" in model.outputs,
        "logits" in model.outputs,
        model.top_classes if "top_classes" in model.outputs else 0,
        labels is not None,
    )
    found = (
        earlier.layout.embedding_width > 0,
        earlier.layout.writes_logits,
        earlier.layout.top_classes,
        earlier.facts["outputs"].get("labels") is not None,
    )
    fits = (
        set(earlier.columns) <= set(columns)
        if columns_may_grow
        else tuple(earlier.columns) == tuple(columns)
    )
    if wanted != found or not fits:
        more = ", to which columns may be added" if columns_may_grow else ""
        raise RequestError(
            f"{output} holds {_contents(*found, earlier.columns)}, and this run would write "
            f"{_contents(*wanted, columns)}; use another output, or the same model.outputs, "
            f"model.top_classes, model.labels and input.carry{more}"
        )
    try:
        return replace(earlier.layout, labels=labels)
    except ValueError as error:
        # It begins with the key.
        raise RequestError(f"model.{error}") from error


def _contents(
    embedding: bool,
    logits: bool,
    top_classes: int,
    labels: bool,
    columns: Sequence[CarriedColumn],
) -> str:
    classes = f"{top_classes} top classes with{'' if labels else 'out'} labels"
    parts = [
        *(["an embedding"] if embedding else []),
        *(["logits"] if logits else []),
        *([classes] if top_classes else []),
        *(f"the column {column.name} ({column.kind})" for column in columns),
    ]
    return ", ".join(parts)


def refuse_probabilities(
    embedder: IsolatingEmbedder, layout: OutputLayout, height: int, width: int
) -> None:
    """Refuse a classifier that ends in a softmax, by what it says to a plain grey image.

    Args:
        embedder: the model.
        layout: of its vectors, with top classes.
        height: of its images.
        width: of its images.

    Raises:
        UnusableModel: it gives probabilities in place of logits.
    """
    (answer,) = embedder.embed_images([np.full((height, width, 3), 128, np.uint8)])
    if not isinstance(answer, ImageError) and are_probabilities(answer.vector[layout.logits]):
        raise UnusableModel(
            "the model gives probabilities (none below 0, their sum 1) in place of logits, so the "
            "probabilities of model.outputs=[top_classes] would be wrong; name the tensor before "
            "the softmax with model.output, or write the values as they are with "
            "model.outputs=[logits]"
        )
