"""The dead letters of a run, read again: how many failed with which error, and which to retry."""

import datetime
import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from pipeline.config import EXAMPLES_PREFIX, TABLE_PREFIX
from transforms.errors import RequestError
from transforms.folders.output_contents import is_complete, list_runs
from transforms.folders.output_names import (
    DEAD_LETTERS,
    DEAD_LETTERS_SUFFIX,
    dead_letters_prefix,
    join,
    run_folder,
    run_report_path,
    runs_path,
)
from transforms.records import CarriedColumn
from transforms.storage.file_errors import read_errors_as_request_errors
from transforms.storage.file_listing import is_remote, storage_path
from transforms.storage.output_storage import open_file, paths_starting_with, read_small_file

#: The steps whose failures are about a row or a record, and what can be done about them.
UNRETRIED_STAGES: Mapping[str, str] = {
    "ListImages": "rows of a manifest that name no image; correct them there",
    "QueryImages": "rows of a query or table that name no image; correct them there",
    "ReadImageExamples": "records of TFRecords; correct the files and run the job again",
}
_IN_TFRECORDS = "images inside TFRecords, which have no address; run the job again"


@dataclass(frozen=True, slots=True)
class FailedRun:
    """A run that has left dead letters, if only a file without a line."""

    folder: str
    """Of the run."""
    files: tuple[str, ...]
    """With its dead letters."""
    report: Mapping[str, Any]
    """Its run.json."""
    complete: bool

    @property
    def report_path(self) -> str:
        """Where its run.json is."""
        return run_report_path(self.folder)

    @property
    def columns(self) -> tuple[CarriedColumn, ...]:
        """The columns that were carried along."""
        return tuple(CarriedColumn(**column) for column in self.report.get("columns", ()))

    @property
    def reads_tfrecords(self) -> bool:
        """Whether its images lie inside TFRecords, so that no URI leads to one."""
        patterns = self.report["config"]["input"].get("patterns", ())
        return any(each.startswith(EXAMPLES_PREFIX) for each in patterns)


@dataclass(slots=True)
class Failures:
    """Dead letters of one kind."""

    count: int = 0
    example: Mapping[str, Any] = field(default_factory=dict)
    """The first of them."""

    def add(self, letter: Mapping[str, Any]) -> None:
        """Count a dead letter."""
        self.example = self.example or letter
        self.count += 1


@dataclass(slots=True)
class Survey:
    """What the dead letters of a run say."""

    by_error: dict[str, Failures] = field(default_factory=dict)
    """Those that can be retried, by the class of the error; the most frequent first."""
    left_out: dict[tuple[str, str], Failures] = field(default_factory=dict)
    """The others, by the class of the error and why."""
    lacks_columns: bool = False
    """Whether some lack the carried columns, because their input had none."""


def find_failed_run(location: str) -> FailedRun:
    """Return the run with the dead letters that a place names.

    Args:
        location: a folder of dead letters, of a run, or of incremental runs, of which the newest
            with dead letters is taken; the newest of all if none has any.

    Raises:
        RequestError: it is none of these, or the run has not come to its end.
    """
    if location.startswith(TABLE_PREFIX):
        raise RequestError(
            f"--from {location}: a table holds no dead letters; name the folder of the run, "
            "TEMP_LOCATION/embed-images/RUN_ID, where RUN_ID is that of its row in "
            f"{location.removeprefix(TABLE_PREFIX)}_runs"
        )
    named = storage_path(location)
    with read_errors_as_request_errors(f"--from {named}", named):
        folder, last = os.path.split(named.rstrip("/"))
        if last == DEAD_LETTERS and _letter_files(folder):
            return _failed_run(folder)
        if _letter_files(named):
            return _failed_run(named)
        if last == DEAD_LETTERS:
            # Of incremental runs each has its own.
            named = folder
        runs = [run_folder(named, run_id) for run_id in reversed(list_runs(named))]
        if last == os.path.basename(runs_path("")) and not runs:
            # The folder in which the run folders are.
            runs = [run_folder(folder, run_id) for run_id in reversed(list_runs(folder))]
        ended = [run for run in runs if _letter_files(run)]
        for run in ended:
            if any(map(_holds_something, _letter_files(run))):
                return _failed_run(run)
        if ended:
            return _failed_run(ended[0])
    raise RequestError(
        f"--from {named}: there are no dead letters; name the dead_letters folder of a run, the "
        "folder of the run (the one with its run.json), or the output of incremental runs"
    )


def survey(run: FailedRun) -> Survey:
    """Count the dead letters of a run, reading them once.

    Raises:
        RequestError: a file cannot be read, or a line is no dead letter.
    """
    found = Survey()
    for letter in read_letters(run):
        error = str(letter["error"])
        reason = _why_left_out(run, letter)
        if reason:
            found.left_out.setdefault((error, reason), Failures()).add(letter)
        else:
            found.by_error.setdefault(error, Failures()).add(letter)
            found.lacks_columns |= bool(run.columns) and not letter.get("carried")
    found.by_error = dict(
        sorted(found.by_error.items(), key=lambda item: (-item[1].count, item[0]))
    )
    return found


def read_letters(run: FailedRun) -> Iterator[dict[str, Any]]:
    """Yield the dead letters of a run one by one.

    Raises:
        RequestError: a file cannot be read, or a line is no dead letter.
    """
    for path in run.files:
        with read_errors_as_request_errors(f"--from {path}", path), open_file(path) as file:
            for number, line in enumerate(iter(file.readline, b""), start=1):
                try:
                    letter = json.loads(line)
                    if not {"uri", "stage", "error"} <= letter.keys():
                        raise ValueError("it lacks uri, stage or error")
                except (AttributeError, ValueError) as error:
                    raise RequestError(
                        f"line {number} of {path} is no dead letter: {error}"
                    ) from error
                yield letter


def write_retry_manifest(run: FailedRun, errors: Collection[str]) -> str:
    """Copy the dead letters that are to be retried into a file beside them; return its path.

    A line without the carried columns gets them as null, so that every line has the same.

    Args:
        run: whose dead letters.
        errors: only these classes.

    Raises:
        RequestError: the file cannot be written.
    """
    now = datetime.datetime.now(datetime.UTC)
    name = f"retry-{now:%Y%m%dT%H%M%S.%fZ}{DEAD_LETTERS_SUFFIX}"
    path = join(run.folder, DEAD_LETTERS, name)
    nothing = {column.name: None for column in run.columns}
    try:
        with _create(path) as file:
            for letter in read_letters(run):
                if letter["error"] in errors and not _why_left_out(run, letter):
                    if nothing:
                        letter["carried"] = letter.get("carried") or nothing
                    file.write(json.dumps(letter, ensure_ascii=False).encode() + b"\n")
    except RequestError:
        raise
    except Exception as error:  # The clients of the clouds raise errors of many kinds.
        raise RequestError(
            f"cannot write {path}, from which the workers are to read what is retried: {error}"
        ) from error
    return path


def _why_left_out(run: FailedRun, letter: Mapping[str, Any]) -> str | None:
    stage = str(letter["stage"])
    if stage in UNRETRIED_STAGES:
        return UNRETRIED_STAGES[stage]
    return _IN_TFRECORDS if run.reads_tfrecords else None


def _letter_files(folder: str) -> Sequence[str]:
    """The shards of dead letters in the folder of a run, in order."""
    start = f"{dead_letters_prefix(folder)}-"
    return sorted(path for path in paths_starting_with(start) if path.endswith(DEAD_LETTERS_SUFFIX))


def _holds_something(path: str) -> bool:
    with open_file(path) as file:
        return bool(file.read(1))


def _failed_run(folder: str) -> FailedRun:
    path = run_report_path(folder)
    try:
        report = json.loads(read_small_file(path))
    except Exception as error:  # The clients of the clouds raise errors of many kinds.
        raise RequestError(
            f"cannot read {path}, which says how the run was configured: {error}"
        ) from error
    if not isinstance(report, dict) or "input" not in report.get("config", {}):
        status = report.get("status") if isinstance(report, dict) else None
        raise RequestError(
            f"{path} is of a run that is at work or was killed (its status is {status!r}), so that "
            "nobody knows all that failed; run the job again"
        )
    return FailedRun(folder, tuple(_letter_files(folder)), report, is_complete(folder))


def _create(path: str) -> BinaryIO:
    if is_remote(path):
        from apache_beam.io.filesystems import FileSystems

        file: BinaryIO = FileSystems.create(path, mime_type="application/json")
        return file
    return open(path, "xb")
