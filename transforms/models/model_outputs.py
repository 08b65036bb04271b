"""Which result of a model is the embedding, and which the logits.

Three things tell: names that the model's publisher gave its signatures and results, what is
known of the model as a whole (`model.json`, the handle), and what the user names. A width of
1001 tells nothing: vectors may have any width.
"""

import difflib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from transforms.errors import UnusableModel
from transforms.models.named_tensor import NamedTensor, find_tensor, operation_names
from transforms.models.saved_model import CALL, EntryPoint, TensorInfo, entry_points
from transforms.records import ModelKind, ModelRequest, OutputName

#: The signatures that say what they give (https://www.tensorflow.org/hub/common_signatures/images).
_TASKS: dict[str, OutputName] = {
    "image_feature_vector": "embedding",
    "image_classification": "logits",
}

#: The entry points that give whatever the model is for, in the order of preference.
_GENERIC = ("serving_default", "default", CALL)

_FLOATS = ("float16", "bfloat16", "float32", "float64")

_WANTED = (
    "an image feature model takes one float32 [n, height, width, 3] and gives one vector of "
    "floats an image, [n, width]"
)


@dataclass(frozen=True, slots=True)
class ModelOutput:
    """One vector an image that the model gives."""

    name: OutputName
    key: str | None
    """Of the result of the entry point; None for the nameless result of a call, and where
    `tensor` names it."""
    width: int | None
    """None where only a trial tells it."""
    entry_point: EntryPoint
    """What is run for it."""
    tensor: NamedTensor | None = None
    """Set where it is no result of the entry point, but a tensor on the way."""


def kind_of_handle(handle: str) -> ModelKind | None:
    """Return what the handle says the model is, by the names of tfhub.dev and Kaggle.

    Example:
        >>> kind_of_handle("https://tfhub.dev/google/imagenet/mobilenet_v2_050_128/classification/4")
        'classification'
        >>> kind_of_handle("models/mine") is None
        True
    """
    published = r"(?:\w+://|/imagenet/|/tensorflow[12]?/).*?\b(classification|feature[-_]vector)"
    named = re.search(published + r"(?:/\d+)?(?:\.tar\.gz|\.tgz)?/?(?:\?|$)", handle, re.I)
    if named is None:
        return None
    return "classification" if named[1].lower() == "classification" else "feature_vector"


def choose_outputs(
    path: str, meta_graph: Any, request: ModelRequest, kind: ModelKind | None
) -> tuple[ModelOutput, ...]:
    """Return where the wanted outputs come from, in the order of `request.wanted`.

    - `image_feature_vector` gives the embedding, `image_classification` the logits.
    - `serving_default`, `default` and `__call__` give what the model is for: logits where it has
      `image_classification` or `kind` is classification, the embedding where it has
      `image_feature_vector` alone or `kind` is feature_vector. Of any other model nobody can
      know, so they give what is asked for; where both are, there must be two results.
    - A result called `embedding` or `logits` is that. Of several others it is `default`.
    - `request.signature` says which entry point to take, and `request.output` which result of
      it or tensor on the way, whatever the names above say.

    Args:
        path: of the model, for the messages.
        meta_graph: its `MetaGraphDef`.
        request: what is wanted.
        kind: of the model as a whole; None where nothing says it.

    Raises:
        UnusableModel: it gives no such output; the message says what it gives.
    """
    chooser = _Chooser(path, meta_graph, entry_points(meta_graph), request, kind)
    chosen: dict[OutputName, ModelOutput] = {}
    # The embedding first: the logits are what is left beside it.
    for name in sorted(request.wanted):
        chosen[name] = chooser.choose(name, chosen.get("embedding"))
    return tuple(chosen[name] for name in request.wanted)


@dataclass(frozen=True, slots=True)
class _Chooser:
    path: str
    meta_graph: Any
    entries: list[EntryPoint]
    request: ModelRequest
    kind: ModelKind | None

    def choose(self, name: OutputName, embedding: ModelOutput | None) -> ModelOutput:
        entries = self._candidates(name, embedding)
        if self.request.output is not None and embedding is None:
            return self._named(name, self.request.output, entries)
        for entry in entries:
            vectors = self._vectors(entry, name, embedding)
            if _input_objection(entry) is None and len(vectors) == 1:
                return _output(name, entry, vectors[0])
        raise UnusableModel(self._refusal(name, entries, embedding))

    def _candidates(self, name: OutputName, embedding: ModelOutput | None) -> list[EntryPoint]:
        """Return the entry points that may give this output, the likeliest first."""
        by_name = {entry.name: entry for entry in self.entries}
        if embedding is not None:
            # Of a model that tells nothing, two entry points would give the same vector twice.
            own = embedding.entry_point
            told = [entry for entry in self.entries if self._gives(entry) == name]
            return [own, *(entry for entry in self._ranked(name, told) if entry != own)]
        if self.request.signature is None:
            return list(self._ranked(name, self.entries))
        if self.request.signature not in by_name:
            raise UnusableModel(
                f"{self.path} has no signature {self.request.signature!r}"
                f"{_nearest(self.request.signature, by_name)}; it has {_listed(by_name)}"
            )
        return [_without_hyperparameters(by_name[self.request.signature])]

    def _ranked(self, name: OutputName, entries: Iterable[EntryPoint]) -> Iterator[EntryPoint]:
        by_name = {entry.name: entry for entry in entries}
        own_task = [task for task, output in _TASKS.items() if output == name]
        usual = [by_name.pop(i) for i in (*own_task, *_GENERIC) if i in by_name]
        yield from usual
        others = list(by_name.values())
        usable = [i for i in others if not _input_objection(i) and self._vectors(i, name, None)]
        # One of several would be a guess.
        yield from others if len(usable) == 1 or self.request.output else ()

    def _gives(self, entry: EntryPoint) -> OutputName | None:
        """Return what an entry point is for, where anything says it."""
        if entry.name in _TASKS:
            return _TASKS[entry.name]
        told = {_TASKS[each.name] for each in self.entries if each.name in _TASKS}
        if self.kind == "classification" or (self.kind is None and "logits" in told):
            return "logits"
        return "embedding" if self.kind == "feature_vector" or told else None

    def _vectors(
        self, entry: EntryPoint, name: OutputName, embedding: ModelOutput | None
    ) -> list[TensorInfo]:
        """Return the results of an entry point that may be this output."""
        vectors = _all_vectors(entry)
        if embedding is not None and embedding.entry_point == entry and embedding.tensor is None:
            vectors = [vector for vector in vectors if vector.name != embedding.key]
        called = [vector for vector in vectors if vector.name == name]
        if called:
            return called
        if self._gives(entry) not in (None, name):
            return []
        rest = [vector for vector in vectors if vector.name not in ("embedding", "logits")]
        return [vector for vector in rest if vector.name == "default"] or rest

    def _named(self, name: OutputName, wanted: str, entries: list[EntryPoint]) -> ModelOutput:
        usable = [entry for entry in entries if _input_objection(entry) is None]
        if not usable:
            raise UnusableModel(self._refusal(name, entries, None))
        for entry in usable:
            for result in entry.outputs:
                if result.name == wanted:
                    if result not in _all_vectors(entry):
                        raise UnusableModel(
                            f"the output {wanted!r} of {entry.name} in {self.path} is {result}, "
                            "not one vector of floats an image"
                        )
                    return _output(name, entry, result)
        for entry in usable:
            tensor = find_tensor(self.meta_graph, entry.function, wanted)
            if tensor is not None:
                return self._tensor_output(name, entry, tensor)
        keys = {result.name for entry in usable for result in entry.outputs if result.name}
        tensors = {i for entry in usable for i in operation_names(self.meta_graph, entry.function)}
        gives = f"its results are {_listed(keys)}" if keys else "its result has no name"
        raise UnusableModel(
            f"{self.path} has no output and no tensor {wanted!r}"
            f"{_nearest(wanted, keys | tensors)}; {gives}"
        )

    def _tensor_output(
        self, name: OutputName, entry: EntryPoint, tensor: NamedTensor
    ) -> ModelOutput:
        shape = tensor.shape
        if shape is not None and len(shape) != 2:
            kind = f"a {len(shape)}-D feature map" if len(shape) > 2 else "no vector"
            described = TensorInfo(None, "", shape)
            raise UnusableModel(
                f"the tensor {tensor} in {self.path} is {kind} {described}, not one vector an "
                "image; name one behind the pooling"
            )
        return ModelOutput(name, None, shape[1] if shape else None, entry, tensor)

    def _refusal(
        self, name: OutputName, entries: list[EntryPoint], embedding: ModelOutput | None
    ) -> str:
        other: OutputName = "logits" if name == "embedding" else "embedding"
        usable = [entry for entry in self.entries if _input_objection(entry) is None]
        giving = [entry for entry in usable if self._vectors(entry, other, None)]
        gives = "; ".join(f"{i.name} gives {_described(i.outputs)}" for i in giving[:3])
        ambiguous = any(len(self._vectors(i, name, embedding)) > 1 for i in entries)
        told = self.kind or any(self._gives(entry) or _calls_it(entry) for entry in giving)
        if giving and not ambiguous and (told or embedding):
            unsaid = embedding is not None and self._gives(embedding.entry_point) is None
            if name == "embedding" or unsaid:
                return (
                    f"{self.path} gives logits only ({gives}), so there is no embedding in its "
                    "results; name the tensor of the embedding with model.output, or use a "
                    "feature_vector model"
                )
            return (
                f"{self.path} gives a feature vector only ({gives}), and no logits; use a "
                "classification model, or leave the logits out"
            )
        if self.request.signature and (objection := _input_objection(entries[0])):
            return (
                f"the signature {entries[0].name} of {self.path} {objection}, so images alone do "
                "not run it; name another with model.signature"
            )
        shown = entries if self.request.signature else self.entries
        found = "; ".join(f"{entry.name} {self._objection(entry, name)}" for entry in shown)
        if ambiguous:
            return f"{self.path} does not say which vector is wanted: {found}"
        if len([entry for entry in usable if self._vectors(entry, name, embedding)]) > 1:
            return (
                f"{self.path} does not say which signature is wanted: {found}; name one of them "
                "with model.signature"
            )
        found = found or (
            f"it has no signature, and no trace of {CALL} for tensors with training=False"
        )
        return f"{self.path} holds no image feature model: {found}; {_WANTED}"

    def _objection(self, entry: EntryPoint, name: OutputName) -> str:
        """Return why no images go in there, or no vector comes out, or what it gives."""
        objection = _input_objection(entry)
        if objection:
            return objection
        gives = _described(entry.outputs)
        vectors = self._vectors(entry, name, None)
        if len(vectors) > 1:
            return (
                f"gives several vectors ({gives}), and none of them is called 'default'; name "
                "one with model.output"
            )
        dimensions = {len(tensor.shape) for tensor in entry.outputs if tensor.shape}
        if dimensions == {4}:
            return f"gives a 4-D feature map, {gives}; a pooling layer would make it a vector"
        return f"gives {gives or 'nothing'}"


def _without_hyperparameters(entry: EntryPoint) -> EntryPoint:
    """Return the entry point of a flat graph without the numbers that only training reads.

    `image_feature_vector_with_bn_hparams` of TF Hub's modules takes `batch_norm_momentum` beside
    the images; nothing that leads to its results depends on it in the graph without training.
    """
    images = tuple(tensor for tensor in entry.inputs if tensor.shape != ())
    flat = all(tensor.tensor is not None for tensor in entry.inputs)
    return replace(entry, inputs=images) if flat and len(images) == 1 else entry


def _input_objection(entry: EntryPoint) -> str | None:
    """Return why images cannot go in there; None if they can."""
    takes, gives = _described(entry.inputs), _described(entry.outputs)
    if len(entry.inputs) != 1:
        return f"takes {len(entry.inputs)} tensors ({takes})"
    shape = entry.inputs[0].shape
    if entry.inputs[0].dtype != "float32" or shape is None or len(shape) != 4 or shape[3] != 3:
        return f"takes {takes}, which is no batch of RGB images, and gives {gives}"
    if shape[0] is not None:
        return f"takes {takes}, so batches of {shape[0]} only; save it with any batch size"
    return None


def _all_vectors(entry: EntryPoint) -> list[TensorInfo]:
    floats = [tensor for tensor in entry.outputs if tensor.dtype in _FLOATS]
    # A shape that the graph leaves open is seen at the trial batch.
    return [tensor for tensor in floats if tensor.shape and len(tensor.shape) == 2] or [
        tensor for tensor in floats if tensor.shape is None
    ]


def _output(name: OutputName, entry: EntryPoint, result: TensorInfo) -> ModelOutput:
    return ModelOutput(name, result.name, result.shape[1] if result.shape else None, entry)


def _calls_it(entry: EntryPoint) -> bool:
    return any(result.name in ("embedding", "logits") for result in entry.outputs)


def _described(tensors: Iterable[TensorInfo]) -> str:
    return ", ".join(str(tensor) for tensor in tensors)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"


def _nearest(wanted: str, names: Iterable[str]) -> str:
    """Return "; did you mean ...?", or nothing where no name is near."""
    unique = sorted(set(names))
    holding = [name for name in unique if wanted.partition(":")[0].lower() in name.lower()]
    near = list(dict.fromkeys([*difflib.get_close_matches(wanted, unique), *holding]))[:3]
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
