"""How the vectors of an output were made, as the run itself has recorded it in run.json."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel

from pipeline.config import InputConfig, ModelConfig, PreprocessConfig
from pipeline.output_layout import model_request
from transforms.errors import RequestError
from transforms.formats.embedding_table import Provenance
from transforms.records import ModelRequest, Preprocessing
from transforms.storage.http_source import HttpSettings

_Section = TypeVar("_Section", bound=BaseModel)

_MODEL_KEYS = ("handle", "signature", "output", "outputs")
_INPUT_KEYS = (
    *("patterns", "max_bytes", "max_pixels"),
    *("http_timeout_seconds", "allow_private_addresses"),
)


@dataclass(frozen=True, slots=True)
class RecordedRun:
    """All that another image needs to get a vector that can be compared."""

    provenance: Provenance
    request: ModelRequest
    """With it the model has the fingerprint of the provenance."""
    preprocess: PreprocessConfig
    """With the input size in it."""
    preprocessing: Preprocessing
    embedding_width: int
    """How many of the model's values, from the first on, are the embedding."""
    untrained: bool
    max_bytes: int
    max_pixels: int
    http: HttpSettings


def recorded_run(report: Mapping[str, Any], place: str) -> RecordedRun:
    """Return what the report of a run says of how its vectors were made.

    Keys that a newer version may have added are passed over: the fingerprints tell whether
    anything that matters is different.

    Args:
        report: the content of run.json.
        place: where it lies, for messages.

    Raises:
        RequestError: it is the report of no complete run, no embeddings were written, or this
            version cannot repeat the preprocessing.
    """
    if report.get("status") != "complete":
        raise RequestError(
            f"{place} is of a run whose status is {report.get('status')!r}; run the job again"
        )
    try:
        model, config = report["model"], report["config"]
        settings = _section(ModelConfig, config["model"], _MODEL_KEYS)
        limits = _section(InputConfig, {"patterns": ["-"], **config["input"]}, _INPUT_KEYS)
        width = int(report.get("outputs", model)["embedding_width"] or 0)
        recorded = dict(report["preprocessing"])
        fingerprint = recorded.pop("fingerprint")
        size = (recorded.pop("height"), recorded.pop("width"))
        preprocess = PreprocessConfig.model_validate_json(json.dumps({"size": size, **recorded}))
        provenance = Provenance(
            model_handle=model["handle"],
            model_fingerprint=model["fingerprint"],
            preprocess_fingerprint=fingerprint,
            precision=model["precision"],
        )
    # pydantic's ValidationError is a ValueError.
    except (KeyError, TypeError, ValueError) as error:
        raise RequestError(
            f"{place} does not say how its vectors were made, as far as this version can read it "
            f"({type(error).__name__}: {' '.join(str(error).split())[:200]}); use the version "
            "that wrote it"
        ) from error
    if not width:
        raise RequestError(
            f"{place} is of a run that wrote no embeddings (model.outputs is "
            f"{list(settings.outputs)}); run the job with embedding among model.outputs"
        )
    preprocessing = preprocess.contract(*size)
    if preprocessing.fingerprint() != fingerprint:
        raise RequestError(
            f"{place} names the preprocessing {fingerprint}, and this version of the same settings "
            f"is {preprocessing.fingerprint()}, so the vectors cannot be compared; use the version "
            "that wrote it, or run the job again"
        )
    return RecordedRun(
        provenance=provenance,
        request=model_request(settings),
        preprocess=preprocess,
        preprocessing=preprocessing,
        embedding_width=width,
        untrained=bool(model.get("untrained")),
        max_bytes=limits.max_bytes,
        max_pixels=limits.max_pixels,
        http=HttpSettings(
            timeout_seconds=limits.http_timeout_seconds,
            allow_private_addresses=limits.allow_private_addresses,
        ),
    )


def _section(kind: type[_Section], section: Mapping[str, Any], keys: Sequence[str]) -> _Section:
    """Return a section of the configuration with these keys only, so far as they are there."""
    known = {key: section[key] for key in keys if key in section}
    return kind.model_validate_json(json.dumps(known))
