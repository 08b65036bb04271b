"""The pipeline is handed to its runner, and what became of it is said."""

import contextlib
import gc
from collections.abc import Iterator

import apache_beam as beam
from apache_beam.runners.runner import PipelineResult, PipelineState

from pipeline.destination import Destination
from pipeline.options import workers_are_here
from pipeline.progress import Counts, ProgressLine
from pipeline.quiet import Console, print_answer
from pipeline.report import explain_failure, metric_counts, read_report, summarise
from transforms.errors import JobError
from transforms.workers.tally import PROCESS_TALLY


class NotSubmitted(JobError):
    """The service refused the job, so there is none."""


@contextlib.contextmanager
def _old_objects_left_alone() -> Iterator[None]:
    """Keep the garbage collector from looking through all that is there already.

    TensorFlow and Beam leave a million objects that live as long as the process. To look through
    them again and again took 0.15 ms an image on the local engine, of 2.7 for 500 x 375 pixels.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def run_pipeline(
    pipeline: beam.Pipeline, console: Console, *, wait: bool
) -> tuple[str | None, str | None]:
    """Run the pipeline; return the state it is in, and why it failed, or None.

    Raises:
        NotSubmitted: it was to run elsewhere, and no job was made of it.
    """
    before = PROCESS_TALLY.snapshot()
    result: PipelineResult | None = None

    def counts() -> Counts:
        # Workers in this process are counted here; others report through Beam's metrics.
        now = PROCESS_TALLY.snapshot()
        local = {name: count - before.get(name, 0) for name, count in now.items()}
        return local if local.get("found") or result is None else metric_counts(result)

    try:
        with ProgressLine(counts, console.stream), _old_objects_left_alone():
            result = pipeline.run()
            state = result.wait_until_finish() if wait else result.state
    except Exception as error:
        if result is None and not workers_are_here(pipeline.options) and no_job_began(error):
            raise NotSubmitted(explain_failure(error)) from error
        problem = explain_failure(error)
        if problem == KeyboardInterrupt.__name__:
            # The worker in this thread was interrupted, and Beam takes that for a failed bundle.
            raise KeyboardInterrupt from error
        return None, problem
    if not getattr(result, "has_job", True):
        # The launcher of a template starts the job from what was written to --template_location.
        return PipelineState.PENDING, None
    if state == PipelineState.DONE or (not wait and not PipelineState.is_terminal(state)):
        return state, None
    return state, f"the runner ended with the state {state}"


def no_job_began(error: Exception) -> bool:
    """Return whether a submission that failed so has surely left no job behind.

    A fault of the server or of the connection may have come after the job was taken.
    """
    code = getattr(error, "code", None)
    if code is not None:
        return isinstance(code, int) and 400 <= code < 500
    return isinstance(error, FileNotFoundError) or not isinstance(error, OSError)


def report_outcome(
    destination: Destination, state: str | None, problem: str | None, console: Console
) -> int:
    """Say how the run ended; return the exit status."""
    if problem:
        console.say(f"error: {problem}")
        console.say(f"the job failed, and {destination.run_folder} holds no _SUCCESS")
        return 1
    if state != PipelineState.DONE:
        console.say(
            f"submitted; {destination.in_words()} is complete once {destination.run_folder} holds "
            "_SUCCESS"
        )
        return 0
    report = read_report(destination.run_folder)
    print_answer(summarise(report, destination.in_words(), destination.run_folder))
    return 0
