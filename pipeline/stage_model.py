"""`embed-images stage-model`: find a model, check it, and write it where workers read it."""

import datetime
import importlib.metadata
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.command_line import StageModelRequest
from pipeline.config import ModelJobConfig, PreprocessConfig
from pipeline.input_size import settle_preprocessing
from pipeline.model_handle import complete_handle
from pipeline.output_layout import model_request
from pipeline.quiet import Console, print_answer
from pipeline.run_facts import redacted
from transforms.errors import JobError, RequestError
from transforms.models.model_description import DESCRIPTION_FILE, ModelDescription, describe_model
from transforms.models.model_resolution import resolve_model
from transforms.models.model_staging import (
    FILES_KEY,
    SERVING_FOLDER,
    check_destination,
    files_below,
    model_files,
    write_model,
)
from transforms.models.untrained_model import UNTRAINED_NOTE
from transforms.networks.hub_model import HubImageModel, try_outputs
from transforms.networks.serving_export import SERVING_SIGNATURES, export_serving
from transforms.records import ModelRequest, Preprocessing
from transforms.storage.file_listing import is_remote, storage_path

#: The packages that made the files, or that say whether they can be loaded.
_REPORTED_PACKAGES = ("embed-images", "keras", "tensorflow", "tensorflow-hub")

#: What the graph of `--serving` can follow of the preprocessing.
_SERVED_KEYS = {"size", "value_range"}


def stage_model(request: StageModelRequest, config: ModelJobConfig, console: Console) -> int:
    """Stage the model; return the exit status: 0 done, 1 it could not be written.

    Problems go to the console, and a table about the staged model to standard output.

    Raises:
        RequestError: the handle, the destination or the settings cannot be used; nothing was
            written.
    """
    handle = complete_handle(request.handle, config.model.weights)
    if request.serving:
        _refuse_what_is_not_served(config.preprocess)
    check_destination(request.destination, overwrite=request.overwrite)
    if _place(handle) == _place(request.destination):
        raise RequestError(
            f"{request.destination} is the model itself; give another folder to stage it to"
        )

    console.say(f"looking up the model {redacted(handle)}")
    named = config.model.model_copy(update={"handle": handle})
    wanted = model_request(named)
    description = describe_model(resolve_model(handle), wanted)
    preprocessing = settle_preprocessing(config.preprocess, handle, description)
    size = {"height": preprocessing.height, "width": preprocessing.width}
    console.say(f"trying it on images of {size['height']} x {size['width']}")
    value_range = preprocessing.value_range
    model = HubImageModel.load(
        description, height=size["height"], width=size["width"], value_range=value_range
    )
    widths = try_outputs(model, **size)
    outputs: dict[str, int] = {
        output.name: width for output, width in zip(description.outputs, widths, strict=True)
    }
    facts = _facts(handle, wanted, description, preprocessing, outputs)

    with tempfile.TemporaryDirectory(prefix="embed-images-") as workplace:
        files = model_files(description.path)
        if request.serving:
            console.say("exporting the signatures for serving")
            folder = f"{workplace}/{SERVING_FOLDER}"
            export_serving(model, folder, **size)
            exported = files_below(folder)
            files |= {f"{SERVING_FOLDER}/{name}": path for name, path in exported.items()}
        facts[FILES_KEY] = sorted({*files, DESCRIPTION_FILE})
        files[DESCRIPTION_FILE] = Path(workplace) / DESCRIPTION_FILE
        files[DESCRIPTION_FILE].write_text(json.dumps(facts, indent=2) + "\n")
        console.say(f"writing it to {request.destination}")
        bytes_written = sum(path.stat().st_size for path in files.values())
        try:
            write_model(files, request.destination)
        except JobError as error:
            console.say(f"error: {error}")
            return 1
    print_answer(_summary(request, facts, description, len(files), bytes_written))
    return 0


def _place(location: str) -> str:
    """Return the same text for every way to write a place."""
    if is_remote(location):
        return location.rstrip("/")
    return os.path.realpath(storage_path(location))


def _refuse_what_is_not_served(preprocess: PreprocessConfig) -> None:
    default = PreprocessConfig()
    for key in PreprocessConfig.model_fields:
        if key not in _SERVED_KEYS and getattr(preprocess, key) != getattr(default, key):
            raise RequestError(
                f"preprocess.{key} cannot be exported; --serving decodes and resizes as the "
                f"default does, so leave it out (only {' and '.join(sorted(_SERVED_KEYS))} count)"
            )


def _facts(
    handle: str,
    wanted: ModelRequest,
    description: ModelDescription,
    preprocessing: Preprocessing,
    widths: Mapping[str, int],
) -> dict[str, Any]:
    """Return what model.json holds; `describe_model` reads most of it back."""
    return {
        # Whoever reads the copy reads this, too.
        "handle": redacted(handle),
        "fingerprint": description.fingerprint,
        "input_height": preprocessing.height,
        "input_width": preprocessing.width,
        "embedding_width": widths.get("embedding"),
        "outputs": dict(widths),
        "kind": description.kind,
        "entry_point": description.entry_point,
        "signature": wanted.signature,
        "output": wanted.output,
        "untrained": description.untrained,
        "staged_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": {name: importlib.metadata.version(name) for name in _REPORTED_PACKAGES},
    }


def _summary(
    request: StageModelRequest,
    facts: Mapping[str, Any],
    description: ModelDescription,
    file_count: int,
    byte_count: int,
) -> str:
    untrained = UNTRAINED_NOTE if facts["untrained"] else ""
    fixed = "no other" if description.fixed_size else "other sizes work too"
    outputs = ", ".join(f"{name} of {width:,} values" for name, width in facts["outputs"].items())
    lines = {
        "model": f"{facts['handle']}{untrained}",
        "fingerprint": facts["fingerprint"],
        "input": f"{facts['input_height']} x {facts['input_width']} pixels, {fixed}",
        "gives": f"{outputs}, from {facts['entry_point']}",
        "size": f"{byte_count / 1e6:,.1f} MB in {file_count} files",
        "staged to": storage_path(request.destination.rstrip("/")),
    }
    if request.serving:
        lines["serving"] = f"{SERVING_FOLDER}/ with {', '.join(SERVING_SIGNATURES)}"
    return "\n".join(f"{name:<13}{text}" for name, text in lines.items())
