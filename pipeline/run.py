"""From a valid request to the end of the job: check, plan, build the graph, run it, sum it up."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import apache_beam as beam
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions

from pipeline.config import TABLE_PREFIX, JobConfig
from pipeline.dataflow import refuse_what_dataflow_cannot_run, warn_of_the_internet
from pipeline.destination import (
    prepare_destination,
    refuse_other_models,
    set_of,
    settle_destination,
)
from pipeline.graph import Job, build_graph
from pipeline.input_size import settle_preprocessing
from pipeline.inputs import carried_columns, check_inputs, run_queries
from pipeline.options import workers_are_here
from pipeline.output_layout import (
    known_layout,
    model_request,
    read_labels,
    refuse_probabilities,
    settle_layout,
)
from pipeline.paths import refuse_local_paths_on_dataflow, with_absolute_paths
from pipeline.precision import check_workers_here, precision_by_trial, settle_precision
from pipeline.quiet import Console
from pipeline.run_facts import holds_secret, run_facts
from pipeline.submission import NotSubmitted, report_outcome, run_pipeline
from transforms.errors import RequestError
from transforms.folders.earlier_claim import EarlierClaim
from transforms.formats.embedding_table import Provenance
from transforms.ledgers.incremental_runs import VectorSet
from transforms.model_handler import HubImageModelHandler, ModelSettings, load_once_per_process
from transforms.models.keras_handle import is_keras_handle
from transforms.models.model_description import ModelDescription, describe_model
from transforms.models.model_resolution import resolve_model
from transforms.models.untrained_model import UNTRAINED_HANDLE
from transforms.networks.batch_isolation import IsolatingEmbedder
from transforms.records import CarriedColumn, OutputLayout, Precision, Preprocessing

#: Without and with the background.
IMAGENET_CLASSES = (1000, 1001)


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
    refuse_what_dataflow_cannot_run(config, options)
    for warning in warn_of_the_internet(config, options):
        console.say(warning)
    columns = carried_columns(config.input)
    check_inputs(config, columns)
    destination, earlier = settle_destination(config.output, options)
    labels = read_labels(config.model.labels) if config.model.labels else None
    model = find_model(config, console)
    precision = settle_precision(
        config.model,
        model.provenance,
        earlier,
        lambda: precision_by_trial(
            config.model.batch_size,
            config.gpu,
            model.description,
            model.preprocessing,
            options,
            console.say,
        ),
    )
    model = in_precision(model, precision)
    not_here = check_workers_here(config.gpu, precision, options, console.say)
    if not config.output.allow_other_models:
        refuse_other_models(earlier, model.provenance)
    layout = layout_of_earlier_runs(config, model, earlier, columns, labels)
    trial = None
    if layout is None:
        tried = model if workers_are_here(options) else on_any_device(model)
        if not_here:
            console.say(f"{not_here}, so the model is tried in float32; workers take {precision}")
            tried = in_precision(tried, "float32")
        trial, layout = try_model(config, tried, labels, console)
    else:
        console.say("the output holds vectors of this very model; it is loaded once it is needed")
    queries = run_queries(config, destination.run_id, columns)
    job = Job(
        config=config,
        destination=destination,
        preprocessing=model.preprocessing,
        provenance=model.provenance,
        handler=HubImageModelHandler(
            model.settings,
            share_between_processes=config.model.share_between_processes,
            copies=config.model.copies,
        ),
        facts=run_facts(
            config,
            options,
            destination,
            model.description,
            precision,
            model.preprocessing,
            layout,
            columns,
        ),
        layout=layout,
        columns=columns,
        query_rows=queries,
    )
    pipeline = beam.Pipeline(options=options)
    build_graph(pipeline, job)
    local = workers_are_here(options)
    earlier_claim = None if local else EarlierClaim.read(destination.run_folder)
    # Only now, when nothing is left that could be refused here: it removes an older output. A
    # service may still refuse the job, and cannot be asked beforehand.
    prepare_destination(destination, config.output, layout, columns, model.provenance)
    if config.model.share_between_processes:
        del trial
    try:
        state, problem = run_pipeline(pipeline, console, wait=wait)
    except NotSubmitted as refusal:
        state, problem = None, str(refusal)
        if earlier_claim is not None and earlier_claim.give_back(destination.run_id):
            console.say("the job that is at work in this folder goes on; it has its claim back")
    return report_outcome(destination, state, problem, console)


@dataclass(frozen=True, slots=True)
class FoundModel:
    """The model of a run, which is found and not loaded yet."""

    description: ModelDescription
    preprocessing: Preprocessing
    provenance: Provenance
    settings: ModelSettings


def in_precision(model: FoundModel, precision: Precision) -> FoundModel:
    """Return the model for a run in another precision."""
    return replace(
        model,
        provenance=replace(model.provenance, precision=precision),
        settings=replace(model.settings, precision=precision),
    )


def on_any_device(model: FoundModel) -> FoundModel:
    """Return the model for a machine that need not have the GPU that workers must have."""
    return replace(model, settings=replace(model.settings, gpu="optional"))


def find_model(config: JobConfig, console: Console) -> FoundModel:
    """Find the model, in float32, and settle the preprocessing; load nothing yet.

    Raises:
        RequestError: the model handle or the input size cannot be used.
    """
    handle = config.model.handle
    _refuse_secrets(handle)
    once = " (building it takes half a minute, once)" if _is_built(handle) else ""
    console.say(f"looking up the model {handle}{once}")
    request = model_request(config.model)
    try:
        description = describe_model(resolve_model(handle), request)
        preprocessing = settle_preprocessing(config.preprocess, handle, description)
    except OSError as error:
        raise RequestError(f"the model {handle} cannot be read: {error}") from error
    untrained = " (untrained weights)" if description.untrained else ""
    console.say(
        f"the model takes {preprocessing.height} x {preprocessing.width} pixels, its fingerprint "
        f"is {description.fingerprint}{untrained}"
    )
    return FoundModel(
        description=description,
        preprocessing=preprocessing,
        provenance=Provenance(
            model_handle=handle,
            model_fingerprint=description.fingerprint,
            preprocess_fingerprint=preprocessing.fingerprint(),
            precision="float32",
        ),
        settings=ModelSettings(
            handle=handle,
            fingerprint=description.fingerprint,
            height=preprocessing.height,
            width=preprocessing.width,
            value_range=preprocessing.value_range,
            batch_size=config.model.batch_size,
            request=request,
            gpu=config.gpu,
        ),
    )


def _refuse_secrets(handle: str) -> None:
    if re.match(r"\w+://[^/?#]*@", handle):
        found = "user name"
    elif not is_keras_handle(handle) and holds_secret(handle.partition("?")[2]):
        found = "signature or a token"
    else:
        return
    raise RequestError(
        f"the model handle holds a {found}, which would stand in every output; give it without, or "
        "name a copy: `embed-images stage-model HANDLE FOLDER`"
    )


def _is_built(handle: str) -> bool:
    return handle == UNTRAINED_HANDLE or is_keras_handle(handle)


def layout_of_earlier_runs(
    config: JobConfig,
    model: FoundModel,
    earlier: Mapping[str, Sequence[VectorSet]],
    columns: tuple[CarriedColumn, ...],
    labels: tuple[str, ...] | None,
) -> OutputLayout | None:
    """Return the layout of an incremental run whose outputs hold its model's vectors already.

    Such a model has been tried before, and is not loaded to learn what is known; if nothing is
    new it is not loaded at all. None: the model has to be tried.

    Raises:
        RequestError: the run would write something else than stands in one of its outputs, also
            in a table that it is not to go on from.
    """
    layouts = []
    for output, sets in earlier.items():
        found = set_of(sets, model.provenance)
        if found is not None:
            grows = output.startswith(TABLE_PREFIX)
            layouts.append(
                known_layout(config.model, found, columns, labels, output, columns_may_grow=grows)
            )
    if not config.output.incremental or len(layouts) < len(earlier):
        return None
    return layouts[-1]


def try_model(
    config: JobConfig, model: FoundModel, labels: tuple[str, ...] | None, console: Console
) -> tuple[IsolatingEmbedder, OutputLayout]:
    """Load the model and run it on a batch; return it, with the layout of its vectors.

    Raises:
        RequestError: the model cannot be used, or not for these outputs.
    """
    console.say("trying the model on a batch")
    # The driver's copy of the model stays loaded, so that workers in this process share it.
    trial = load_once_per_process(model.settings)
    description = model.description
    if description.kind is None and description.embedding_width in IMAGENET_CLASSES:
        console.say(
            f"warning: the vectors of {config.model.handle} have {description.embedding_width} "
            "values, as many as ImageNet has classes; if it is a classifier, these are its logits, "
            "and model.output can name the tensor of the embedding"
        )
    layout = settle_layout(config.model, description, trial.embedding_width(), labels)
    if layout.top_classes:
        refuse_probabilities(trial, layout, model.preprocessing.height, model.preprocessing.width)
    return trial, layout
