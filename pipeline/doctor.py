"""`embed-images doctor`: look at the machine, the model and the storage before a job pays."""

import importlib.util
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from pipeline.command_line import DoctorRequest
from pipeline.config import JobConfig
from pipeline.config_layers import resolve_without_paths
from pipeline.doctor_bigquery import check_bigquery, uses_bigquery
from pipeline.doctor_machine import (
    check_bfloat16,
    check_gpu,
    check_memory,
    check_packages,
    check_precision,
)
from pipeline.doctor_report import exit_status, format_json, format_table
from pipeline.doctor_storage import check_storage, storage_locations
from pipeline.input_size import settle_preprocessing
from pipeline.model_handle import complete_handle
from pipeline.output_layout import model_request
from pipeline.quiet import Console, print_answer
from transforms.errors import RequestError, UnusableModel
from transforms.images.image_codec import decode_image
from transforms.models.model_cache import cache_folder, missing_file
from transforms.models.model_description import ModelDescription, describe_model
from transforms.models.model_handles import hub_address
from transforms.models.model_resolution import resolve_model
from transforms.networks.golden_vectors import generated_images, golden_vectors
from transforms.networks.hub_model import HubImageModel
from transforms.networks.model_checks import Finding, check_model, run_check
from transforms.records import Pixels, Preprocessing
from transforms.storage.file_listing import local_path

#: Of the scikit-image wheel: a person, a cat, a cup, a rocket at dusk.
PHOTOGRAPHS = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")


def run_doctor(request: DoctorRequest, console: Console) -> int:
    """Check everything, and print a table or JSON to standard output.

    Returns:
        The exit status: 0 no check failed, 1 a check failed.

    Raises:
        RequestError: the configuration itself is wrong; nothing was checked.
    """
    config = resolve_without_paths(request.settings)
    findings = examine(config, console.say)
    print_answer(format_json(findings) if request.json_output else format_table(findings))
    return exit_status(findings)


def examine(config: JobConfig, say: Callable[[str], None]) -> list[Finding]:
    """Return what every check found, in the order of the table.

    Args:
        config: of the job; without input and output these are left out.
        say: takes a line on what is being looked at.
    """
    say("looking at this machine")
    machine = [
        *_run_checks("packages", check_packages),
        run_check("gpu", check_gpu),
        run_check("bfloat16", check_bfloat16),
    ]
    locations = storage_locations(config)
    if locations:
        say(f"looking at {', '.join(locations)}")
    storage = _run_checks("cloud storage", lambda: check_storage(locations))
    reachable = dict(zip(locations, storage, strict=False))
    if uses_bigquery(config):
        say("looking at BigQuery")
    storage += _run_checks("bigquery", lambda: check_bigquery(config))
    handle = config.model.handle
    if handle in reachable and reachable[handle].verdict == "failed":
        # TensorFlow would try for minutes.
        seen = f"{handle} was not looked for: see 'cloud storage'"
        return [*machine, Finding("model", "skipped", seen), *storage]
    say(f"looking at the model {handle}")
    return [*machine, *_run_checks("model", lambda: check_configured_model(config)), *storage]


def _run_checks(name: str, check: Callable[[], list[Finding]]) -> list[Finding]:
    """Run a check of several rows; see `run_check`."""
    found: list[Finding] = []

    def run() -> Finding:
        found.extend(check())
        return found.pop()

    last = run_check(name, run)
    return [*found, last]


def check_configured_model(config: JobConfig) -> list[Finding]:
    """Find, load and run the model as a job would, as far as it can be done."""
    handle = config.model.handle
    damage = damaged_copy(handle)
    try:
        handle = complete_handle(handle, config.model.weights)
        folder = resolve_model(handle)
        description = describe_model(folder, model_request(config.model))
    except UnusableModel as error:
        advice = "embed-images stage-model brings a model to a place where every worker reads it"
        unusable = Finding("model", "failed", str(error), advice)
        return [unusable, *([_lost(damage, mended=False)] if damage else [])]
    found = [
        Finding("model", "ok", _in_words(description)),
        _lost(damage, mended=True)
        if damage
        else run_check("model files", lambda: _complete(folder)),
    ]
    return [*found, *_run_checks("size", lambda: _check_run(config, handle, description))]


def _check_run(config: JobConfig, handle: str, description: ModelDescription) -> list[Finding]:
    try:
        preprocessing = settle_preprocessing(config.preprocess, handle, description)
        model = HubImageModel.load(
            description,
            height=preprocessing.height,
            width=preprocessing.width,
            value_range=preprocessing.value_range,
        )
    except RequestError as error:
        advice = "leave preprocess.size out, or name a size that the model takes"
        return [Finding("size", "failed", str(error), advice)]
    size = Finding("size", "ok", _size_in_words(description, preprocessing))
    images = probe_images(preprocessing)
    # First, before anything else has raised the highest memory of this process.
    memory = run_check(
        "memory",
        lambda: check_memory(model, images, config.model.batch_size, config.model.copies),
    )
    found = [size, *check_model(model, images, golden=golden_vectors(handle)), memory]
    if config.model.precision != "float32":
        height, width = preprocessing.height, preprocessing.width
        found.append(
            run_check("precision", lambda: check_precision(config.model, model, height, width))
        )
    return found


def damaged_copy(handle: str) -> tuple[Path, str] | None:
    """Return the folder that holds a model without all of its files, and the missing one.

    To be asked before `resolve_model`, which mends a cache where it can.
    """
    for folder in _folders(handle):
        missing = missing_file(folder)
        if missing is None:
            return None
        if (folder / "saved_model.pb").exists() or (folder / "variables").exists():
            return folder, missing
    return None


def _folders(handle: str) -> list[Path]:
    path = local_path(handle)
    if os.path.isdir(path):
        return [Path(path)]
    try:
        address = hub_address(handle)
    except UnusableModel:
        return []
    return [cache_folder(each) for each in (address.url, *address.spellings)] if address else []


def _lost(damage: tuple[Path, str], *, mended: bool) -> Finding:
    folder, missing = damage
    seen = f"{folder} had lost {missing}" if mended else f"{folder} has lost {missing}"
    advice = (
        "the model was fetched again just now; look for what clears that folder by age, and set "
        "TFHUB_CACHE_DIR to another"
        if mended
        else "copy or fetch the model again"
    )
    return Finding("model files", "failed", seen, advice)


def _complete(folder: str) -> Finding:
    size = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
    return Finding("model files", "ok", f"all are in {folder}, {size / 1e6:.0f} MB")


def _in_words(description: ModelDescription) -> str:
    width = description.embedding_width
    return (
        f"{description.entry_point}, "
        + (f"vectors of {width} values, " if width else "")
        + f"fingerprint {description.fingerprint}"
        + (" (untrained weights: not for search)" if description.untrained else "")
    )


def _size_in_words(description: ModelDescription, preprocessing: Preprocessing) -> str:
    asked = f"{preprocessing.height} x {preprocessing.width} pixels"
    if description.fixed_size:
        return f"{asked}, the only size that the model takes"
    own = (description.input_height, description.input_width)
    if own in ((None, None), (preprocessing.height, preprocessing.width)):
        return f"{asked}; the model takes other sizes too"
    return f"{asked}; the model names {own[0]} x {own[1]}, and takes other sizes too"


def probe_images(preprocessing: Preprocessing) -> Pixels:
    """Return generated images, and photographs where scikit-image is installed.

    Returns:
        `uint8 [6 or 10, height, width, 3]`.
    """
    photographs = [decode_image(file.read_bytes(), preprocessing).pixels for file in _photographs()]
    generated = generated_images(preprocessing.height, preprocessing.width)
    return np.concatenate([np.stack(photographs), generated]) if photographs else generated


def _photographs() -> Iterator[Path]:
    package = importlib.util.find_spec("skimage")
    if package is not None and package.origin is not None:
        files = (Path(package.origin).parent / "data" / name for name in PHOTOGRAPHS)
        yield from (file for file in files if file.is_file())
