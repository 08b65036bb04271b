"""`FinishRun`: the last step of the graph, which alone may say that a run is complete.

`AnnounceMerge` comes before what a run does once its counts are right.
"""

from dataclasses import dataclass

import apache_beam as beam

from transforms.folders.output_folder import run_report_path, success_path, write_text
from transforms.folders.run_report import RecordRun, Report, write_report

#: Of a run whose counts are right and whose rows are on their way into the table.
MERGING = "merging"


@dataclass(eq=False)
class AnnounceMerge(beam.PTransform):
    """Say in `run.json` what the run has done, with the status "merging"; hand the report on.

    If the merge fails, or the run is killed in it, its dead letters can be retried all the same,
    and the table of runs names a run for every row that may have reached the table.

    Example:
        >>> report = report | AnnounceMerge(folder, record)  # doctest: +SKIP
    """

    folder: str
    """Of the run."""
    record: RecordRun | None = None
    """What else is told of it."""

    def expand(self, report: beam.PCollection[Report]) -> beam.PCollection[Report]:
        """Return the report, once it is written."""
        return report | "Announce" >> beam.Map(announce_merge, self.folder, self.record)


def announce_merge(report: Report, folder: str, record: RecordRun | None = None) -> Report:
    """Write run.json with the status "merging"; return the report as it was."""
    announced = {**report, "status": MERGING}
    write_report(folder, announced)
    if record is not None:
        record(announced)
    return report


@dataclass(eq=False)
class FinishRun(beam.PTransform):
    """Write `run.json`, and last `_SUCCESS`.

    It is a step of the graph and not code behind `wait_until_finish()`, which a launcher that
    exits after submission never reaches. Running it twice leaves the same state.

    Example:
        >>> done = RunParts(...) | CheckRun(...) | FinishRun(folder)  # doctest: +SKIP
    """

    folder: str
    """Of the run."""
    record: RecordRun | None = None
    """What else is told of the run, before it counts as complete."""

    def expand(self, report: beam.PCollection[Report]) -> beam.PCollection[str]:
        """Return the name of the run report, once the run is complete."""
        return report | "Finish" >> beam.Map(finish_run, self.folder, self.record)


def finish_run(report: Report, folder: str, record: RecordRun | None = None) -> str:
    """Write run.json, then `_SUCCESS`; return the name of run.json."""
    write_report(folder, report)
    if record is not None:
        record(report)
    write_text(success_path(folder), "")
    return run_report_path(folder)
