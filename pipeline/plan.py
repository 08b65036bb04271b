"""`embed-images plan`: what a job will find, how long it will take, and what it will cost."""

import os
import platform
from collections.abc import Callable
from dataclasses import replace

from apache_beam.io.filesystems import FileSystems

from pipeline.config import TABLE_PREFIX, JobConfig
from pipeline.config_layers import resolve_without_paths
from pipeline.inputs import carried_columns, check_inputs, examples_of
from pipeline.options import beam_options
from pipeline.output_layout import read_labels
from pipeline.paths import with_absolute_paths
from pipeline.plan_choice import choose
from pipeline.plan_estimate import (
    MachineEstimate,
    Share,
    Work,
    estimate_kinds,
    expected_shares,
    machine_estimate,
)
from pipeline.plan_measure import DecodedSample, decode_sample, inference_rate, processor_count
from pipeline.plan_notes import plan_notes
from pipeline.plan_profile import PlanProfile, Rate, load_profile
from pipeline.plan_report import Plan, format_json, format_table, median_megapixels
from pipeline.plan_request import PlanRequest
from pipeline.plan_sample import Listing, list_and_sample
from pipeline.precision import precision_by_trial
from pipeline.progress import Counts, ProgressLine, format_duration
from pipeline.quiet import Console, print_answer
from pipeline.run import FoundModel, find_model, in_precision, try_model
from transforms.errors import BrokenModel, JobError, RequestError
from transforms.networks.device import device_kind, why_not
from transforms.records import OutputLayout

#: Of the row of the machine that the plan runs on.
HERE = "here"


def run_plan(request: PlanRequest, console: Console) -> int:
    """Make a plan, and print it as a table or JSON to standard output.

    Returns:
        The exit status: 0 done, 1 it failed.

    Raises:
        RequestError: the configuration or the profile is wrong, an input cannot be planned or
            listed, a storage fails, or the model cannot be used. Nothing is ever written.
    """
    try:
        _plan(request, console)
    except (JobError, OSError) as error:
        console.say(f"error: {type(error).__name__}: {' '.join(str(error).split())}")
        return 1
    return 0


def _plan(request: PlanRequest, console: Console) -> None:
    load, *_ = os.getloadavg()
    profile = load_profile(request.profile)
    config = resolve_without_paths(request.settings)
    _refuse_what_is_not_planned(config)
    FileSystems.set_options(beam_options(config.beam, ()))
    config = with_absolute_paths(config)
    columns = carried_columns(config.input)
    check_inputs(config, columns)
    model = find_model(config, console)

    listing = Listing()
    console.say("listing the inputs")
    with _progress(lambda: {"found": listing.images}, console, "images listed"):
        list_and_sample(config.input, columns, config.output.path, request.sample, listing)
    sample = DecodedSample()
    console.say(f"reading and decoding {len(listing.sample):,} of {listing.images:,} images")
    with _progress(lambda: {"found": sample.done}, console, "images of the sample decoded"):
        decode_sample(
            listing.sample,
            config.input,
            model.preprocessing,
            config.model.batch_size,
            sample,
        )
    plan = make_plan(request, config, profile, model, listing, sample, console)
    if sample.formats and load > processor_count():
        busy = (
            f"this machine was busy before the plan began, with a load of {load:.1f} on "
            f"{processor_count()} processor threads: what was measured here is too low"
        )
        plan = replace(plan, notes=(busy, *plan.notes))
    print_answer(format_json(plan) if request.json_output else format_table(plan))


def _refuse_what_is_not_planned(config: JobConfig) -> None:
    for location in config.input.patterns:
        if location.startswith(TABLE_PREFIX):
            raise RequestError(
                f"--input {location}: a table costs to ask, so plan does not; export its URIs to "
                "a manifest and plan with --input @FILE.csv"
            )
    if config.input.query is not None:
        raise RequestError(
            "--input-query: a query costs to run, so plan does not; export its rows to a manifest "
            "and plan with --input @FILE.csv"
        )
    for location in examples_of(config.input):
        raise RequestError(
            f"--input {location}: plan does not count the images inside TFRecords; plan with the "
            "files that they were made of"
        )
    if not config.input.patterns:
        raise RequestError("--input is missing; see embed-images plan --help")


def _progress(counts: Callable[[], Counts], console: Console, what: str) -> ProgressLine:
    def in_words(now: Counts, seconds: float, _: Counts, __: float) -> str:
        return f"{now['found']:,} {what}, {format_duration(seconds)} elapsed"

    return ProgressLine(counts, console.stream, in_words)


def make_plan(
    request: PlanRequest,
    config: JobConfig,
    profile: PlanProfile,
    model: FoundModel,
    listing: Listing,
    sample: DecodedSample,
    console: Console,
) -> Plan:
    """Return the plan of what was listed and decoded; the model is measured here.

    Raises:
        RequestError: the model cannot be used.
    """
    batch_size = config.model.batch_size
    precision, inference, layout = _inference(config, profile, model, sample, console)
    width = (
        layout.embedding_width + (layout.classes if layout.writes_logits else 0)
        if layout
        else (model.description.embedding_width)
    )
    references, bad_rows = listing.references, listing.bad_rows.total()
    failed = {**sample.failures, "any": sample.failures.total()}
    shares = expected_shares(failed, len(listing.sample), references) if listing.sample else {}
    any_failure = shares.get("any", Share(0, 0.0, 0.0, 0.0))
    failures, low, high = (
        bad_rows + share * references
        for share in (any_failure.expected, any_failure.low, any_failure.high)
    )
    # Where every image of the sample fails, nobody knows what the others are like.
    work = Work(references, 1 - any_failure.expected if sample.formats else 0.0)
    gain = sample.scaled_decoding_gain
    vector_bytes = None if width is None else (listing.images - failures) * width * 4.0
    here = _here(work, profile, sample, inference)
    machines = estimate_kinds(work, profile, here, precision)
    given = any(setting.path == "model.batch_size" for setting in request.settings)
    choice = choose(
        here,
        machines,
        profile,
        batch_size=batch_size,
        batch_size_is_given=given,
        precision=precision,
        shards=config.output.shards,
        vector_bytes=vector_bytes,
    )
    unknown_bytes = (
        sample.unknown_bytes / sample.unknown_sizes * listing.unknown_sizes
        if sample.unknown_sizes
        else None
    )
    return Plan(
        images=listing.images,
        ignored_files=listing.ignored,
        bytes_listed=listing.known_bytes,
        images_of_unknown_size=listing.unknown_sizes,
        bytes_estimated=unknown_bytes if listing.unknown_sizes else 0.0,
        sample=len(listing.sample),
        formats=dict(sample.formats),
        megapixels_median=median_megapixels(sample.megapixels),
        megapixels_largest=max(sample.megapixels, default=None),
        bad_rows=dict(listing.bad_rows),
        failures=shares,
        expected_failures=failures,
        expected_failures_low=low,
        expected_failures_high=high,
        model=config.model.handle,
        model_fingerprint=model.description.fingerprint,
        untrained=model.description.untrained,
        batch_size=batch_size,
        precision=precision,
        embedding_width=width,
        vector_bytes=vector_bytes,
        scaled_decoding=gain,
        here=here,
        machines=tuple(machines),
        prices=profile.prices,
        target_hours=profile.target_hours,
        profile=request.profile,
        choice=choice,
        notes=tuple(plan_notes(config, profile, listing, (low, high), here, machines, gain)),
    )


def _here(
    work: Work, profile: PlanProfile, sample: DecodedSample, inference: Rate | None
) -> MachineEstimate:
    processors = processor_count()
    decoded = sample.decoded_per_second
    measured = decoded and Rate(
        images_per_second=decoded,
        kind="measured",
        source=f"here, {sample.read:,} images of the sample on {processors} threads at once",
    )
    return machine_estimate(
        work,
        HERE,
        f"{processors} processor threads, {platform.machine()}",
        processors=processors,
        gpu="GPU" if device_kind() == "gpu" else None,
        decode=profile.here.decode or measured or None,
        inference=inference,
        usd_hour=profile.here.usd_hour,
        target_hours=profile.target_hours,
        max_workers=1,
    )


def _inference(
    config: JobConfig,
    profile: PlanProfile,
    model: FoundModel,
    sample: DecodedSample,
    console: Console,
) -> tuple[str, Rate | None, OutputLayout | None]:
    """Return the precision of the job, and the rate and layout of the model where it was loaded."""
    precision = config.model.precision
    if profile.here.inference is not None:
        return precision, profile.here.inference, None
    options = beam_options(config.beam, ())
    if precision == "auto":
        # A GPU of the workers need not be here.
        precision = precision_by_trial(
            config.model.batch_size,
            "optional",
            model.description,
            model.preprocessing,
            options,
            console.say,
        )
    reason = why_not(precision)
    if reason is not None:
        console.say(f"this machine does not compute in {precision}: {reason}; not measured")
        return precision, None, None
    tried = in_precision(model, precision)
    tried = replace(tried, settings=replace(tried.settings, gpu="optional"))
    labels = read_labels(config.model.labels) if config.model.labels else None
    try:
        embedder, layout = try_model(config, tried, labels, console)
    except BrokenModel as error:
        raise RequestError(str(error)) from error
    if not sample.pixels:
        return precision, None, layout
    batch_size = config.model.batch_size
    console.say(f"measuring the model on batches of {batch_size} in {precision}")
    rate = Rate(
        images_per_second=inference_rate(embedder, sample.pixels, batch_size),
        kind="measured",
        source=f"here, on the {device_kind().upper()}",
    )
    return precision, rate, layout
