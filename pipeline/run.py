"""From a valid request to the end of the job: check, plan, build the graph, run it, sum it up."""

import contextlib
import dataclasses
import datetime
import importlib.metadata
import json
import platform
import re
import uuid
from collections.abc import Mapping
from typing import Any

import apache_beam as beam
from apache_beam.io.filesystem import BeamIOError
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
from apache_beam.runners.runner import PipelineResult, PipelineState

from pipeline.config import JobConfig
from pipeline.graph import Job, build_graph
from pipeline.input_size import settle_preprocessing
from pipeline.model_handle import complete_handle
from pipeline.output_layout import (
    model_request,
    read_labels,
    refuse_probabilities,
    settle_layout,
)
from pipeline.progress import Counts, ProgressLine
from pipeline.quiet import Console
from pipeline.report import explain_failure, metric_counts, read_report, summarise
from transforms.embedding_table import Provenance
from transforms.errors import RequestError
from transforms.file_listing import is_remote, storage_path
from transforms.keras_handle import is_keras_handle
from transforms.list_images import list_input
from transforms.model_description import ModelDescription, describe_model
from transforms.model_handler import HubImageModelHandler, ModelSettings, load_once_per_process
from transforms.model_resolution import resolve_model
from transforms.output_folder import (
    check_output,
    claim_output,
    prepare_output,
    schema_path,
    write_text,
)
from transforms.records import OutputLayout, Preprocessing
from transforms.tally import PROCESS_TALLY
from transforms.tf_example import embeddings_schema_text
from transforms.untrained_model import UNTRAINED_HANDLE

#: So many objects of a bucket are looked at before the job starts: an image among them is enough.
_CHECKED_OBJECTS = 1000

#: Without and with the background.
IMAGENET_CLASSES = (1000, 1001)

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


def run_job(
    config: JobConfig, options: PipelineOptions, console: Console, *, wait: bool = True
) -> int:
    """Run the job; return the exit status: 0 done (or submitted), 1 failed.

    Progress and problems go to the console, and the summary of a complete run to standard output.

    Raises:
        RequestError: what was asked for cannot be done; nothing was begun.
    """
    # What is looked at before the pipeline exists needs Beam's flags for storages as well.
    FileSystems.set_options(options)
    try:
        config = with_absolute_paths(config)
    except FileNotFoundError as error:
        raise RequestError("the folder that this command was started in is gone") from error
    refuse_local_paths_on_dataflow(config, options)
    for location in config.input.patterns:
        check_input(location, config.input.extensions)
    check_output(config.output.path, overwrite=config.output.overwrite)
    labels = read_labels(config.model.labels) if config.model.labels else None
    once = " (building it takes half a minute, once)" if _is_built(config) else ""
    console.say(f"looking up the model {config.model.handle}{once}")
    try:
        description, preprocessing = find_model(config)
    except OSError as error:
        raise RequestError(f"the model {config.model.handle} cannot be read: {error}") from error
    height, width = preprocessing.height, preprocessing.width
    untrained = " (untrained weights)" if description.untrained else ""
    console.say(
        f"the model takes {height} x {width} pixels, its "
        f"fingerprint is {description.fingerprint}{untrained}; trying it on a batch"
    )
    # The driver's copy of the model stays loaded, so that workers in this process share it.
    trial = load_once_per_process(_model_settings(config, description, preprocessing))
    if description.kind is None and description.embedding_width in IMAGENET_CLASSES:
        console.say(
            f"warning: the vectors of {config.model.handle} have {description.embedding_width} "
            "values, as many as ImageNet has classes; if it is a classifier, these are its logits, "
            "and model.output can name the tensor of the embedding"
        )
    layout = settle_layout(config.model, description, trial.embedding_width(), labels)
    if layout.top_classes:
        refuse_probabilities(trial, layout, height, width)
    job = plan_job(config, options, description, preprocessing, layout)
    pipeline = beam.Pipeline(options=options)
    build_graph(pipeline, job)
    # Only now, when nothing is left that could be refused: it removes an older output.
    prepare_output(config.output.path, overwrite=config.output.overwrite)
    claim_output(config.output.path, job.facts["run_id"])
    write_text(schema_path(config.output.path), embeddings_schema_text(layout))
    if config.model.share_between_processes:
        del trial
    state, problem = run_pipeline(pipeline, console, wait=wait)
    if problem:
        console.say(f"error: {problem}")
        console.say(f"the job failed, and {config.output.path} holds no _SUCCESS")
        return 1
    if state != PipelineState.DONE:
        console.say(f"submitted; {config.output.path} is complete once it holds _SUCCESS")
        return 0
    # Whoever reads our output may have had enough of it: head, say.
    with contextlib.suppress(BrokenPipeError):
        print(summarise(read_report(config.output.path), config.output.path), flush=True)
    return 0


def refuse_local_paths_on_dataflow(config: JobConfig, options: PipelineOptions) -> None:
    """Refuse inputs and outputs that only this machine can see.

    Raises:
        RequestError: the runner is Dataflow's, and a path is local. A local model may be part of
            the workers' image, so it is let pass; a worker without it stops the job.
    """
    if "Dataflow" not in (options.view_as(StandardOptions).runner or ""):
        return
    paths = (config.output.path, *(path.removeprefix("@") for path in config.input.patterns))
    for path in paths:
        if not is_remote(path):
            raise RequestError(
                f"Dataflow's workers cannot see {path}, which is on this machine; use a gs:// path"
            )


def with_absolute_paths(config: JobConfig) -> JobConfig:
    """Make the local paths absolute: workers may run elsewhere, and outputs outlive a folder."""
    labels = config.model.labels
    return config.model_copy(
        update={
            "input": config.input.model_copy(
                update={"patterns": tuple(map(_absolute_input, config.input.patterns))}
            ),
            "output": config.output.model_copy(update={"path": storage_path(config.output.path)}),
            "model": config.model.model_copy(
                update={
                    "handle": complete_handle(config.model.handle, config.model.weights),
                    "weights": None,
                    "labels": storage_path(labels) if labels else labels,
                }
            ),
        }
    )


def _absolute_input(location: str) -> str:
    return f"@{storage_path(location[1:])}" if location[0] == "@" else storage_path(location)


def check_input(location: str, extensions: tuple[str, ...]) -> None:
    """Check that an input names at least one image, without listing all of them.

    Raises:
        RequestError: it names none, or it cannot be listed.
    """
    try:
        if any(file.is_image for file in list_input(location, extensions, _CHECKED_OBJECTS)):
            return
    except FileNotFoundError as error:
        raise RequestError(f"--input {location}: {error}") from error
    except PermissionError as error:
        raise RequestError(
            f"--input {location}: this user may not read {error.filename}"
        ) from error
    except (OSError, BeamIOError, ValueError) as error:
        raise RequestError(f"--input {location}: it cannot be listed: {error}") from error
    raise RequestError(f"--input {location}: nothing matched, so there is nothing to embed")


def find_model(config: JobConfig) -> tuple[ModelDescription, Preprocessing]:
    """Find the model and settle the preprocessing; load nothing yet.

    Raises:
        RequestError: the model handle or the input size cannot be used.
    """
    path = resolve_model(config.model.handle)
    description = describe_model(path, model_request(config.model))
    return description, settle_preprocessing(config.preprocess, config.model.handle, description)


def plan_job(
    config: JobConfig,
    options: PipelineOptions,
    description: ModelDescription,
    preprocessing: Preprocessing,
    layout: OutputLayout,
) -> Job:
    """Return all that the graph is built from."""
    provenance = Provenance(
        model_handle=config.model.handle,
        model_fingerprint=description.fingerprint,
        preprocess_fingerprint=preprocessing.fingerprint(),
        precision=config.model.precision,
    )
    handler = HubImageModelHandler(
        _model_settings(config, description, preprocessing),
        share_between_processes=config.model.share_between_processes,
        copies=config.model.copies,
    )
    facts = run_facts(config, options, description, preprocessing, layout)
    return Job(config, preprocessing, provenance, handler, facts, layout)


def _is_built(config: JobConfig) -> bool:
    return config.model.handle == UNTRAINED_HANDLE or is_keras_handle(config.model.handle)


def _model_settings(
    config: JobConfig, description: ModelDescription, preprocessing: Preprocessing
) -> ModelSettings:
    return ModelSettings(
        handle=config.model.handle,
        fingerprint=description.fingerprint,
        height=preprocessing.height,
        width=preprocessing.width,
        value_range=preprocessing.value_range,
        batch_size=config.model.batch_size,
        request=model_request(config.model),
    )


def run_facts(
    config: JobConfig,
    options: PipelineOptions,
    description: ModelDescription,
    preprocessing: Preprocessing,
    layout: OutputLayout,
) -> Mapping[str, Any]:
    """Return what run.json says of the run besides its outcome."""
    started_at = datetime.datetime.now(datetime.UTC)
    return {
        "run_id": f"{started_at:%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:8]}",
        "started_at": started_at.isoformat(timespec="milliseconds"),
        "model": {
            "handle": config.model.handle,
            "fingerprint": description.fingerprint,
            "untrained": description.untrained,
            "embedding_width": layout.embedding_width or None,
            "precision": config.model.precision,
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
        "config": config.model_dump(mode="json", exclude={"beam"}),
        "beam_options": _without_secrets(options),
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in REPORTED_PACKAGES},
        },
    }


def _without_secrets(options: PipelineOptions) -> dict[str, Any]:
    """Return Beam's options, wherever they came from, but for what looks like a secret."""
    given = options.get_all_options(drop_default=True, retain_unknown_options=True)
    return {
        name: _HIDDEN if re.search(_SECRET_NAME, name) else _redacted(value)
        for name, value in json.loads(json.dumps(given, default=str)).items()
    }


def _redacted(value: Any) -> Any:
    if isinstance(value, list):
        return [_redacted(item) for item in value]
    if isinstance(value, str):
        return re.sub(_SECRET_VALUE, rf"\1{_HIDDEN}", value)
    return value


_HIDDEN = "(not shown)"
_SECRET_NAME = "secret|token|password|credential|access_key|private_key|connection_string"
#: The likes of AccountKey=..., x_token=..., sig=...
_SECRET_VALUE = r"(?i)(\b\w*(?:key|token|secret|password|signature|sig)=)[^;&,\s]+"


def run_pipeline(
    pipeline: beam.Pipeline, console: Console, *, wait: bool
) -> tuple[str | None, str | None]:
    """Run the pipeline; return the state it is in, and why it failed, or None."""
    before = PROCESS_TALLY.snapshot()
    result: PipelineResult | None = None

    def counts() -> Counts:
        # Workers in this process are counted here; others report through Beam's metrics.
        now = PROCESS_TALLY.snapshot()
        local = {name: count - before.get(name, 0) for name, count in now.items()}
        return local if local.get("found") or result is None else metric_counts(result)

    try:
        with ProgressLine(counts, console.stream):
            result = pipeline.run()
            state = result.wait_until_finish() if wait else result.state
    except Exception as error:
        return None, explain_failure(error)
    if state == PipelineState.DONE or (not wait and not PipelineState.is_terminal(state)):
        return state, None
    return state, f"the runner ended with the state {state}"
