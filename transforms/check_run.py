"""`CheckRun`: wait until everything is written, and see whether the run is complete."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from operator import attrgetter
from typing import Any, NamedTuple

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.pvalue import AsIter, AsSingleton
from apache_beam.typehints.decorators import no_annotations

from transforms.errors import ForeignOutput
from transforms.folders.output_folder import FileFormat
from transforms.folders.run_report import (
    RecordRun,
    Report,
    RunCounts,
    RunLimits,
    find_intruder,
    find_lost_rows,
    find_problem,
    make_report,
    quote_failure,
    write_report,
)
from transforms.records import Embedding, Failure
from transforms.step_parts.count_all import CountAll

#: So many dead letters are quoted in run.json and in the message of a failed run.
QUOTED_FAILURES = 5


class RunParts(NamedTuple):
    """What `CheckRun` looks at."""

    found: tuple[beam.PCollection[Any], ...]
    """Together one element for each image that the inputs name."""
    ignored: beam.PCollection[str]
    """Files of a folder that did not count as images."""
    skipped: tuple[beam.PCollection[Any], ...]
    """One or more collections: images that the output holds already."""
    inferred: beam.PCollection[Embedding]
    """What the model gave, one for each image."""
    refused: beam.PCollection[Failure]
    """Those of `failed` that the model did embed, and that an output would not take."""
    failed: beam.PCollection[Failure]
    gone: beam.PCollection[Any]
    """Images of earlier runs that the inputs no longer hold."""
    ledger_rows: beam.PCollection[int]
    """One number, that of the rows of the manifest; none where the run writes none."""
    table_rows: beam.PCollection[int]
    """One number, that of the rows that wait to go into the table; none where the run writes
    into none."""
    waited_on: beam.PCollection[Any]
    """What the sinks and the checks return once they are done; only waited on."""


@dataclass(eq=False)
class CheckRun(beam.PTransform):
    """Wait on every sink, check the counts, and hand on the report of a run that is complete.

    The counts are counted from the PCollections of `RunParts`, never from Beam counters, which
    count retried bundles twice. Of a run that is not complete the report is written at once, as
    run.json with the status "failed", and the job fails.

    Raises (in the worker, which fails the job):
        IncompleteRun: found is not skipped + embedded + failed, nothing was found, an output has
            not the rows that it must have, or the folder holds the shards or the claim of another
            run.
        TooManyFailures: more than `limits.max_failure_ratio` of the images failed.
        TooManyPruned: more than `limits.max_pruned_ratio` of the images are gone.

    Example:
        >>> report = RunParts(...) | CheckRun(folder, facts, RunLimits(0.1))  # doctest: +SKIP
    """

    folder: str
    """Of the run."""
    facts: Mapping[str, Any]
    """What is known before the run and belongs into run.json; JSON values only. The `run_id`
    must be that of the claim that `output_folder.claim_output` left in the folder."""
    limits: RunLimits
    formats: tuple[FileFormat, ...] = ("tfrecord",)
    """Of the embeddings that the run writes into the folder."""
    has_manifest: bool = False
    """Whether it writes a manifest."""
    prune: bool = False
    """Whether the rows of images that are gone are taken out of the output behind this step."""
    record: RecordRun | None = None
    """What else is told of a run that is not complete."""

    @no_annotations  # Beam warns of the tuple.
    def expand(self, parts: RunParts) -> beam.PCollection[Report]:
        """Return the one report, once the run is complete."""
        to_count = {
            "found": parts.found,
            "ignored": (parts.ignored,),
            "skipped": parts.skipped,
            "inferred": (parts.inferred,),
            "refused": (parts.refused,),
            "failed": (parts.failed,),
            "gone": (parts.gone,),
        }
        counted = {
            name: collections | f"Count{name.capitalize()}" >> CountAll()
            for name, collections in to_count.items()
        }
        mean_batch_slots = (
            parts.inferred
            | "BatchSlots" >> beam.Map(attrgetter("batch_slots"))
            # A twin of another image was in no batch.
            | "InABatch" >> beam.Filter(bool)
            | "MeanBatchSlots" >> beam.combiners.Mean.Globally()
        )
        reasons = (
            parts.failed
            | "Reasons" >> beam.Map(attrgetter("error"))
            | "CountReasons" >> beam.combiners.Count.PerElement()
        )
        quoted = parts.failed | "QuoteSome" >> beam.combiners.Top.Smallest(
            QUOTED_FAILURES, key=attrgetter("uri")
        )
        return (
            parts.found[0].pipeline
            | "Once" >> beam.Create([None])
            | "Check"
            >> beam.Map(
                _check,
                self,
                **{name: AsSingleton(count) for name, count in counted.items()},
                mean_batch_slots=AsSingleton(mean_batch_slots),
                reasons=AsIter(reasons),
                quoted=AsSingleton(quoted),
                ledger_rows=AsSingleton(parts.ledger_rows, default_value=None),
                table_rows=AsSingleton(parts.table_rows, default_value=None),
                _waited_on=AsIter(parts.waited_on),
            )
        )


def _check(
    _: None,
    step: CheckRun,
    _waited_on: Iterable[Any],
    **observed: Any,
) -> Report:
    # The names of the written files are not used: a file sink whose renaming was tried again
    # leaves out those that the first attempt had renamed. The folder itself is listed.
    return check_run(step, **observed)


def check_run(
    step: CheckRun,
    *,
    found: int,
    ignored: int,
    skipped: int,
    inferred: int,
    refused: int,
    failed: int,
    gone: int,
    mean_batch_slots: float,
    reasons: Iterable[tuple[str, int]],
    quoted: Iterable[Failure],
    ledger_rows: int | None = None,
    table_rows: int | None = None,
) -> Report:
    """Return the report of a complete run; of another one, write it and raise.

    Raises:
        JobError: the run is not complete; see `CheckRun`.
    """
    counts = RunCounts(
        found=found,
        skipped=skipped,
        embedded=inferred - refused,
        failed=failed,
        gone=gone,
        pruned=gone if step.prune else 0,
    )
    failures_by_error = dict(sorted(reasons, key=lambda reason: (-reason[1], reason[0])))
    examples = [quote_failure(failure) for failure in quoted]
    intruder = find_intruder(
        step.folder, step.facts.get("run_id"), step.formats, has_manifest=step.has_manifest
    )
    problem = intruder or find_problem(counts, step.limits, failures_by_error, examples)
    problem = problem or find_lost_rows(
        step.folder,
        embeddings=inferred,
        formats=step.formats,
        ledger_rows=ledger_rows,
        table_rows=None if table_rows is None else (table_rows, counts.embedded),
    )
    for name, count in asdict(counts).items():
        # Those of the steps count what is tried again twice; these are what run.json says.
        Metrics.counter("CheckRun", f"images-{name}").inc(count)
    report = make_report(
        step.folder,
        step.facts,
        counts,
        problem,
        ignored=ignored,
        mean_batch_slots=mean_batch_slots,
        failures_by_error=failures_by_error,
        examples=examples,
    )
    if problem is None:
        return report
    # The folder of a ForeignOutput is another run's by now, and so is the report in it.
    if not isinstance(problem, ForeignOutput):
        write_report(step.folder, report)
    try:
        if step.record is not None:
            step.record(report)
    finally:
        raise problem
