"""`FinishRun`: the last step of the graph, which alone may say that a run is complete."""

import datetime
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, NamedTuple

import apache_beam as beam
from apache_beam.pvalue import AsIter, AsSingleton
from apache_beam.typehints.decorators import no_annotations

from transforms.errors import ForeignOutput, IncompleteRun, JobError, TooManyFailures
from transforms.output_folder import (
    one_shard_set,
    output_files,
    read_claim,
    run_report_path,
    success_path,
    write_text,
)
from transforms.records import Embedding, Failure, ImageRef

#: So many dead letters are quoted in run.json and in the message of a failed run.
QUOTED_FAILURES = 5


class RunParts(NamedTuple):
    """What `FinishRun` looks at."""

    found: beam.PCollection[ImageRef]
    ignored: beam.PCollection[str]
    """Files of a folder that did not count as images."""
    embedded: beam.PCollection[Embedding]
    failed: beam.PCollection[Failure]
    waited_on: beam.PCollection[Any]
    """What the sinks and the checks return once they are done; only waited on."""


@dataclass(eq=False)
class FinishRun(beam.PTransform):
    """Wait on every sink, check the counts, write `run.json` and, last, `_SUCCESS`.

    The counts are counted from the PCollections of `RunParts`, never from Beam counters, which
    count retried bundles twice.

    It is a step of the graph and not code behind `wait_until_finish()`, which a launcher that
    exits after submission never reaches. Running it twice leaves the same state.

    Raises (in the worker, which fails the job):
        IncompleteRun: found is not embedded + failed, nothing was found, or the folder holds
            the shards or the claim of another run.
        TooManyFailures: more than `max_failure_ratio` of the images failed.

    Example:
        >>> done = RunParts(...) | FinishRun(folder, facts, 0.1)  # doctest: +SKIP
    """

    folder: str
    facts: Mapping[str, Any]
    """What is known before the run and belongs into run.json; JSON values only. The `run_id`
    must be that of the claim that `output_folder.claim_output` left in the folder."""
    max_failure_ratio: float

    @no_annotations  # Beam warns of the tuple.
    def expand(self, parts: RunParts) -> beam.PCollection[str]:
        """Return the name of the run report, once the run is complete."""
        found, ignored, embedded, failed, waited_on = parts
        counts = {
            "ignored": ignored | "CountIgnored" >> beam.combiners.Count.Globally(),
            "found": found | "CountFound" >> beam.combiners.Count.Globally(),
            "embedded": embedded | "CountEmbedded" >> beam.combiners.Count.Globally(),
            "failed": failed | "CountFailed" >> beam.combiners.Count.Globally(),
        }
        mean_batch_slots = (
            embedded
            | "BatchSlots" >> beam.Map(attrgetter("batch_slots"))
            | "MeanBatchSlots" >> beam.combiners.Mean.Globally()
        )
        reasons = (
            failed
            | "Reasons" >> beam.Map(attrgetter("error"))
            | "CountReasons" >> beam.combiners.Count.PerElement()
        )
        quoted = failed | "QuoteSome" >> beam.combiners.Top.Smallest(
            QUOTED_FAILURES, key=attrgetter("uri")
        )
        return (
            found.pipeline
            | "Once" >> beam.Create([None])
            | "Finish"
            >> beam.Map(
                _finish,
                self.folder,
                self.facts,
                self.max_failure_ratio,
                **{name: AsSingleton(count) for name, count in counts.items()},
                mean_batch_slots=AsSingleton(mean_batch_slots),
                reasons=AsIter(reasons),
                quoted=AsSingleton(quoted),
                _waited_on=AsIter(waited_on),
            )
        )


def _finish(
    _: None,
    folder: str,
    facts: Mapping[str, Any],
    max_failure_ratio: float,
    _waited_on: Iterable[Any],
    **observed: Any,
) -> str:
    # The names of the written files are not used: a file sink whose renaming was tried again
    # leaves out those that the first attempt had renamed. The folder itself is listed.
    return finish_run(folder, facts, max_failure_ratio, **observed)


def finish_run(
    folder: str,
    facts: Mapping[str, Any],
    max_failure_ratio: float,
    *,
    ignored: int,
    found: int,
    embedded: int,
    failed: int,
    mean_batch_slots: float,
    reasons: Iterable[tuple[str, int]],
    quoted: Iterable[Failure],
) -> str:
    """Write run.json, and `_SUCCESS` if the run is complete; return the name of run.json.

    Raises:
        IncompleteRun: the counts do not add up.
        TooManyFailures: the failure ratio is above `max_failure_ratio`.
    """
    failures_by_error = dict(sorted(reasons, key=lambda reason: (-reason[1], reason[0])))
    examples = [
        {"uri": failure.uri, "error": failure.error, "message": failure.message}
        for failure in quoted
    ]
    problem = find_intruder(folder, facts.get("run_id")) or find_problem(
        found, embedded, failed, max_failure_ratio, failures_by_error, examples
    )
    finished_at = datetime.datetime.now(datetime.UTC)
    report = {
        "status": "failed" if problem else "complete",
        "problem": str(problem) if problem else None,
        "counts": {"found": found, "embedded": embedded, "failed": failed},
        "ignored_files": ignored,
        "failures_by_error": failures_by_error,
        "example_failures": examples,
        "mean_batch_fill": None if math.isnan(mean_batch_slots) else round(1 / mean_batch_slots, 4),
        "finished_at": finished_at.isoformat(timespec="seconds"),
        "files": output_files(folder),
        **facts,
    }
    started_at = facts.get("started_at")
    if started_at is not None:
        elapsed = finished_at - datetime.datetime.fromisoformat(started_at)
        report["seconds"] = round(elapsed.total_seconds(), 3)
    if isinstance(problem, ForeignOutput):
        # The folder is another run's by now, and so is its report.
        raise problem
    write_text(run_report_path(folder), json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    if problem:
        raise problem
    write_text(success_path(folder), "")
    return run_report_path(folder)


def find_intruder(folder: str, run_id: str | None) -> JobError | None:
    """Return what says that another run has written into the folder meanwhile, or None."""
    claim = read_claim(folder)
    if claim is not None and claim != run_id:
        return ForeignOutput(
            f"another run ({claim}) began in {folder} while this one ({run_id}) was at work, so "
            "this one's output is not complete; give each run a folder of its own"
        )
    try:
        one_shard_set(folder)
    except (ValueError, FileNotFoundError) as error:
        return IncompleteRun(str(error))
    return None


def find_problem(
    found: int,
    embedded: int,
    failed: int,
    max_failure_ratio: float,
    failures_by_error: Mapping[str, int],
    examples: Iterable[Mapping[str, str]],
) -> JobError | None:
    """Return what forbids to call the run complete, or None."""
    if found != embedded + failed:
        return IncompleteRun(
            f"found {found:,} images, but embedded {embedded:,} and failed {failed:,} make "
            f"{embedded + failed:,}; the output is not complete, run the job again"
        )
    if found == 0:
        return IncompleteRun("no image was found")
    if failed > max_failure_ratio * found:
        by_error = ", ".join(f"{count:,} {error}" for error, count in failures_by_error.items())
        first = next(iter(examples))
        return TooManyFailures(
            f"{failed:,} of {found:,} images failed ({by_error}), a ratio of "
            f"{failed / found:.3f}, above the limit of {max_failure_ratio:g} "
            f"(--max-failure-ratio); for example {first['uri']}: {first['message']}"
        )
    return None
