"""What is said of a run at its end, and what forbids to call it complete."""

import datetime
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from transforms.errors import (
    ForeignOutput,
    IncompleteRun,
    JobError,
    TooManyFailures,
    TooManyPruned,
)
from transforms.folders.output_folder import (
    FileFormat,
    manifest_shards,
    one_shard_set,
    output_files,
    read_claim,
    run_report_path,
    write_text,
)
from transforms.formats.parquet_file import count_parquet_rows
from transforms.records import Failure
from transforms.workers.worker_log import without_queries

#: So many images that may not be read, and none that may, are no matter of single images.
_FORBIDDEN_TOGETHER = 10

Report = dict[str, Any]
"""The content of run.json; JSON values only."""

RecordRun = Callable[[Report], None]
"""Writes a report somewhere else as well, such as into a table; doing it again changes nothing."""


@dataclass(frozen=True, slots=True)
class RunCounts:
    """How many images became what: found = skipped + embedded + failed."""

    found: int
    """URIs that the inputs named, each once."""
    skipped: int
    """Not embedded, because the output holds them already."""
    embedded: int
    """Rows written; several images of the same bytes have one each."""
    failed: int
    gone: int = 0
    """Images of earlier runs that the inputs no longer hold."""
    pruned: int = 0
    """Those of them whose rows were taken out of the output."""

    def sum_of_parts(self) -> int:
        """Return what `found` must be."""
        return self.skipped + self.embedded + self.failed


@dataclass(frozen=True, slots=True)
class RunLimits:
    """What a run may lose and still be complete."""

    max_failure_ratio: float
    """Failed over found: an image that fails every night must not fail a run that finds nothing
    new. Many new ones that fail at once are what the breaker is for."""
    max_pruned_ratio: float = 1.0
    """Pruned over found and pruned together."""


def find_problem(
    counts: RunCounts,
    limits: RunLimits,
    failures_by_error: Mapping[str, int],
    examples: Iterable[Mapping[str, str]],
) -> JobError | None:
    """Return what forbids to call the run complete, or None.

    Example:
        >>> find_problem(RunCounts(3, 1, 1, 0), RunLimits(0.1), {}, []) # doctest: +ELLIPSIS
        IncompleteRun('found 3 images, but skipped 1, embedded 1 and failed 0 make 2; ...
    """
    if counts.found != counts.sum_of_parts():
        return IncompleteRun(
            f"found {counts.found:,} images, but skipped {counts.skipped:,}, embedded "
            f"{counts.embedded:,} and failed {counts.failed:,} make {counts.sum_of_parts():,}; "
            "the output is not complete, run the job again"
        )
    if counts.found == 0:
        return IncompleteRun("no image was found")
    forbidden = failures_by_error.get("ImageForbidden", 0)
    if not counts.embedded and forbidden == counts.failed >= _FORBIDDEN_TOGETHER:
        # One that was forbidden is a matter of that image; all of them, of this account.
        return TooManyFailures(
            f"none of the {forbidden:,} images that are not done yet may be read; grant this "
            f"account roles/storage.objectViewer, or what fits; {next(iter(examples))['message']}"
        )
    if counts.failed > limits.max_failure_ratio * counts.found:
        by_error = ", ".join(f"{count:,} {error}" for error, count in failures_by_error.items())
        first = next(iter(examples))
        return TooManyFailures(
            f"{counts.failed:,} of {counts.found:,} images failed ({by_error}), a ratio of "
            f"{counts.failed / counts.found:.3f}, above the limit of {limits.max_failure_ratio:g} "
            f"(--max-failure-ratio); for example {first['uri']}: {first['message']}"
        )
    if counts.pruned > limits.max_pruned_ratio * (counts.pruned + counts.found):
        return TooManyPruned(
            f"{counts.pruned:,} images of earlier runs are gone and {counts.found:,} are there; "
            f"that is above the limit of output.max_pruned_ratio ({limits.max_pruned_ratio:g}), so "
            "nothing was pruned; if the inputs are right, raise it for one run"
        )
    return None


def find_intruder(
    folder: str,
    run_id: str | None,
    formats: Sequence[FileFormat] = ("tfrecord",),
    *,
    has_manifest: bool = False,
) -> JobError | None:
    """Return what says that the folder does not hold this run's files alone, or None.

    Args:
        folder: of the run.
        run_id: of the run.
        formats: of the embeddings that the run writes into the folder.
        has_manifest: whether it writes a manifest.
    """
    claim = read_claim(folder)
    if claim is not None and claim != run_id:
        return ForeignOutput(
            f"another run ({claim}) began in {folder} while this one ({run_id}) was at work, so "
            "this one's output is not complete; give each run a folder of its own"
        )
    try:
        for file_format in formats:
            one_shard_set(folder, file_format)
        if has_manifest:
            manifest_shards(folder)
    except (ValueError, FileNotFoundError) as error:
        return IncompleteRun(str(error))
    return None


def find_lost_rows(
    folder: str,
    *,
    embeddings: int,
    formats: Sequence[FileFormat],
    ledger_rows: int | None,
    table_rows: tuple[int, int] | None,
) -> JobError | None:
    """Return what says that the outputs do not hold what the run has made, or None.

    Of files only the ends are read, which tell the rows of Parquet and not those of TFRecords.

    Args:
        folder: of the run; all shards are in place.
        embeddings: how many rows the embeddings must have in each format.
        formats: that the run writes.
        ledger_rows: how many rows the manifest must have; None: there is none.
        table_rows: how many rows wait to go into the table, and how many there must be; None:
            there is no table.
    """
    counted = []
    if "parquet" in formats:
        rows = count_parquet_rows(one_shard_set(folder, "parquet"))
        counted.append((f"the Parquet files in {folder} have", rows, embeddings))
    if ledger_rows is not None:
        rows = count_parquet_rows(manifest_shards(folder))
        counted.append((f"the ledger in {folder} has", rows, ledger_rows))
    if table_rows is not None:
        counted.append(("the staging table has", *table_rows))
    for output, found, expected in counted:
        if found != expected:
            return IncompleteRun(
                f"{output} {found:,} rows and must have {expected:,}, so the output is not "
                "complete; run the job again, on another runner if it happens again"
            )
    return None


def make_report(
    folder: str,
    facts: Mapping[str, Any],
    counts: RunCounts,
    problem: JobError | None,
    *,
    ignored: int,
    mean_batch_slots: float,
    failures_by_error: Mapping[str, int],
    examples: Iterable[Mapping[str, str]],
) -> Report:
    """Return the report of a run that is at its end.

    Args:
        folder: of the run.
        facts: what was known before the run; `started_at` among them gives the seconds.
        counts: of the images.
        problem: what forbids to call the run complete.
        ignored: files of folders that do not count as images.
        mean_batch_slots: of the embedded images; NaN where there are none.
        failures_by_error: class of the error -> number of images.
        examples: some of the failures.
    """
    finished_at = datetime.datetime.now(datetime.UTC)
    report = {
        "status": "failed" if problem else "complete",
        "problem": str(problem) if problem else None,
        "counts": asdict(counts),
        "ignored_files": ignored,
        "failures_by_error": dict(failures_by_error),
        "example_failures": list(examples),
        "mean_batch_fill": None if math.isnan(mean_batch_slots) else round(1 / mean_batch_slots, 4),
        "finished_at": finished_at.isoformat(timespec="seconds"),
        "files": output_files(folder),
        **facts,
    }
    if "started_at" in facts:
        elapsed = finished_at - datetime.datetime.fromisoformat(facts["started_at"])
        report["seconds"] = round(elapsed.total_seconds(), 3)
    return report


def write_report(folder: str, report: Report) -> None:
    """Write run.json."""
    text = json.dumps(report, indent=2, ensure_ascii=False) + "\n"
    write_text(run_report_path(folder), text)


def quote_failure(failure: Failure) -> dict[str, str]:
    """Return what a report says of one failure, without the signatures of URLs.

    What forbids to call a run complete quotes it, and reaches the logs of workers and services.
    """
    uri = failure.uri
    if uri.lower().startswith(("http://", "https://")):
        # A blank, at which a URL in a text ends, may stand in the query of a URI.
        uri = without_queries(re.sub(r"\s", "%20", uri))
    message = failure.message.replace(failure.uri, uri)
    return {"uri": uri, "error": failure.error, "message": without_queries(message)}
