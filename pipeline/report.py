"""What is said of a run: its counts while it goes on, its summary, why it failed."""

import json
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from apache_beam.io.filesystems import FileSystems
from apache_beam.metrics import MetricsFilter
from apache_beam.runners.portability.portable_runner import PipelineResult as PortableResult
from apache_beam.runners.runner import PipelineResult

import transforms.errors
from transforms.folders.output_folder import run_report_path
from transforms.models.untrained_model import UNTRAINED_NOTE

_STOPPING = {
    name
    for name, value in vars(transforms.errors).items()
    if isinstance(value, type) and issubclass(value, transforms.errors.JobError)
}
_OUR_ERRORS = "|".join(
    name
    for name, value in vars(transforms.errors).items()
    if isinstance(value, type) and issubclass(value, Exception)
)

#: Lines that say nothing, but for where in Java something happened.
_JAVA_STACK = re.compile(r"|at \S+\(.*\)|\.\.\. \d+ more|Driver stacktrace:")


def metric_counts(result: PipelineResult) -> Mapping[str, int]:
    """Return found, skipped, embedded and failed as the runner's metrics have them so far.

    For showing only: retried bundles count twice.
    """
    if isinstance(result, PortableResult):
        # It keeps the first answer of the job server, and returns that one for ever.
        result._metrics = None
    counts: Counter[str] = Counter()
    for metric in result.metrics().query(MetricsFilter())["counters"]:
        name = metric.key.metric.name
        if metric.key.metric.namespace == "CheckRun":
            continue  # The same again, once the run is over.
        value = metric.committed if metric.committed is not None else metric.attempted
        if name.startswith("failed-"):
            counts["failed"] += value
        elif name in ("images-found", "images-skipped", "images-embedded"):
            counts[name.removeprefix("images-")] += value
    return counts


def explain_failure(error: BaseException) -> str:
    """Return in one sentence why a run failed.

    Runners hand on a worker's error as text, stack and all; what counts is the innermost error
    of our own, or else the last line.
    """
    kind = type(error).__name__
    text = f"{kind}: {error}"
    named = re.findall(
        rf"^(?:transforms\.errors\.)?({_OUR_ERRORS}): (.+)$", text, flags=re.MULTILINE
    )
    if named:
        # A chain of errors may hold that of an image as well as what stopped the job.
        name, message = next((pair for pair in named if pair[0] in _STOPPING), named[0])
        return f"{name}: {_without_step(message)}"
    lines = [line.strip() for line in str(error).splitlines()]
    lines = [line.removeprefix("Caused by: ") for line in lines if not _JAVA_STACK.fullmatch(line)]
    if not lines:
        return kind
    # The last line of a stack names the error itself.
    named_itself = re.match(r"[\w.]+(Error|Exception|Interrupt|Exit)\b", lines[-1])
    return _without_step(lines[-1] if named_itself else f"{kind}: {lines[-1]}")


def _without_step(message: str) -> str:
    return re.sub(r" \[while running .*", "", message)


def read_report(folder: str) -> dict[str, Any]:
    """Return what `FinishRun` wrote into run.json."""
    with FileSystems.open(run_report_path(folder)) as file:
        report: dict[str, Any] = json.loads(file.read())
        return report


def summarise(report: Mapping[str, Any], output: str, run_folder: str) -> str:
    """Return the few lines that end a complete run.

    Args:
        report: the content of run.json.
        output: where the embeddings are.
        run_folder: where run.json and the dead letters are.
    """
    counts = report["counts"]
    model = report["model"]
    seconds = report["seconds"]
    untrained = UNTRAINED_NOTE if model["untrained"] else ""
    failures = "".join(
        f"\n           {count:,} {error}" for error, count in report["failures_by_error"].items()
    )
    ignored = report["ignored_files"]
    ignored_line = (
        f"ignored    {ignored:,} files of folders that are no images\n" if ignored else ""
    )
    fill = report["mean_batch_fill"]
    batches = "" if fill is None else f"; batches {fill:.0%} full"
    skipped_line = f"skipped    {counts['skipped']:,} done before\n" if counts["skipped"] else ""
    pruned = "pruned" if counts["pruned"] else "not pruned (--prune)"
    gone_line = (
        f"gone       {counts['gone']:,} of earlier runs, {pruned}\n" if counts["gone"] else ""
    )
    run_line = "" if run_folder == output else f"\nrun        {run_folder}"
    return (
        f"found      {counts['found']:,} images\n"
        f"{ignored_line}"
        f"{skipped_line}"
        f"embedded   {counts['embedded']:,}\n"
        f"failed     {counts['failed']:,}{failures}\n"
        f"{gone_line}"
        f"rate       {counts['embedded'] / seconds:.1f} images/s over {seconds:.1f} s, start-up "
        f"included{batches}\n"
        f"model      {model['handle']}{untrained}\n"
        f"output     {output}{run_line}"
    )
