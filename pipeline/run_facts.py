"""What run.json says of a run besides its outcome."""

import dataclasses
import importlib.metadata
import json
import platform
import re
from collections.abc import Mapping, Sequence
from typing import Any

from apache_beam.options.pipeline_options import PipelineOptions

from pipeline.config import JobConfig
from pipeline.destination import Destination, destination_facts
from transforms.models.model_description import ModelDescription
from transforms.records import CarriedColumn, OutputLayout, Precision, Preprocessing

#: The packages whose versions can change a vector or a file.
REPORTED_PACKAGES = (
    "apache-beam",
    "embed-images",
    "keras",
    "numpy",
    "pillow",
    "pillow-heif",
    "tensorflow",
    "tensorflow-hub",
    "tfx-bsl",
)


def run_facts(
    config: JobConfig,
    options: PipelineOptions,
    destination: Destination,
    description: ModelDescription,
    precision: Precision,
    preprocessing: Preprocessing,
    layout: OutputLayout,
    columns: Sequence[CarriedColumn],
) -> Mapping[str, Any]:
    """Return what run.json says of the run besides its outcome."""
    return {
        **destination_facts(destination),
        "model": {
            "handle": redacted(config.model.handle),
            "fingerprint": description.fingerprint,
            "untrained": description.untrained,
            "embedding_width": layout.embedding_width or None,
            "precision": precision,
        },
        "outputs": {
            "embedding_width": layout.embedding_width,
            "classes": layout.classes,
            "writes_logits": layout.writes_logits,
            "top_classes": layout.top_classes,
            "labels": config.model.labels,
        },
        "preprocessing": {
            **dataclasses.asdict(preprocessing),
            "fingerprint": preprocessing.fingerprint(),
        },
        "columns": [dataclasses.asdict(column) for column in columns],
        "config": redacted(config.model_dump(mode="json", exclude={"beam"})),
        "beam_options": _without_secrets(options),
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in REPORTED_PACKAGES},
        },
    }


def holds_secret(text: str) -> bool:
    """Return whether a text holds what looks like a secret, such as the signature of a URL.

    Example:
        >>> holds_secret("https://example.org/model.tar.gz?X-Goog-Signature=0a1b")
        True
    """
    return bool(redacted(text) != text)


def redacted(value: Any) -> Any:
    """Return a text, or all texts of a JSON value, without what looks like a secret.

    Example:
        >>> redacted("https://example.org/model.tar.gz?sig=0a1b")
        'https://example.org/model.tar.gz?sig=(not shown)'
    """
    if isinstance(value, dict):
        return {name: redacted(item) for name, item in value.items()}
    if isinstance(value, list):
        return [redacted(item) for item in value]
    if isinstance(value, str):
        without_users = re.sub(_USER_OF_URL, rf"\1{_HIDDEN}@", value)
        return re.sub(_SECRET_VALUE, rf"\1{_HIDDEN}", without_users)
    return value


def _without_secrets(options: PipelineOptions) -> dict[str, Any]:
    """Return Beam's options, wherever they came from, but for what looks like a secret."""
    given = options.get_all_options(drop_default=True, retain_unknown_options=True)
    return {
        name: _HIDDEN if re.search(_SECRET_NAME, name) else redacted(value)
        for name, value in json.loads(json.dumps(given, default=str)).items()
    }


_HIDDEN = "(not shown)"
_SECRET_NAME = "secret|token|password|credential|access_key|private_key|connection_string"
#: The likes of AccountKey=..., x_token=..., sig=...
_SECRET_VALUE = r"(?i)(\b\w*(?:key|token|secret|password|signature|sig)=)[^;&,\s]+"
_USER_OF_URL = r"(\b\w+://)[^/?#\s@]+@"
