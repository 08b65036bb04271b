"""`FinishRun`: the last step of the graph, which alone may say that a run is complete."""

from dataclasses import dataclass

import apache_beam as beam

from transforms.output_folder import run_report_path, success_path, write_text
from transforms.run_report import RecordRun, Report, write_report


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
