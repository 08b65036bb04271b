import pytest
from run_counts import run_counts

from pipeline.report import explain_failure, summarise
from transforms.errors import BrokenModel

BEAM_TEXT = """Traceback (most recent call last):
  File "runner.py", line 1, in process
    raise problem
transforms.errors.TooManyFailures: 3 of 10 images failed; for example /a.jpg: cut short

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "worker.py", line 2, in run
RuntimeError: TooManyFailures: 3 of 10 images failed [while running 'FinishRun/Finish-84']
"""

SPARK_TEXT = """Pipeline failed in state FAILED: org.apache.spark.SparkException: Job aborted
\tat org.apache.spark.scheduler.Task.run(Task.scala:141)
\tat java.base/java.lang.Thread.run(Thread.java:840)
Caused by: io.grpc.StatusException: CANCELLED
\tat io.grpc.Status.asRuntimeException(Status.java:529)
\t... 3 more

Driver stacktrace:"""


def test_an_error_of_ours_is_found_in_what_a_runner_makes_of_it():
    assert explain_failure(RuntimeError(BEAM_TEXT)) == (
        "TooManyFailures: 3 of 10 images failed; for example /a.jpg: cut short"
    )


def test_what_stopped_the_job_counts_more_than_the_image_before_it():
    chained = (
        "transforms.errors.UndecodableImage: the file is empty\n\n"
        "During handling of the above exception, another exception occurred:\n\n"
        "transforms.errors.TooManyFailures: 1000 of the first 1000 images failed\n"
    )
    assert explain_failure(RuntimeError(chained)) == (
        "TooManyFailures: 1000 of the first 1000 images failed"
    )


def test_the_summary_names_files_that_were_no_images():
    assert "ignored    1,234 files" in summarise(report(ignored_files=1234), "/out", "/out")
    assert "ignored" not in summarise(report(), "/out", "/out")


def test_an_error_of_ours_that_comes_as_it_is_keeps_its_name():
    assert explain_failure(BrokenModel("it is broken")) == "BrokenModel: it is broken"


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (OSError("disk full [while running 'Write']"), "OSError: disk full"),
        (
            RuntimeError("Traceback:\n  File x\nOSError: disk full\n"),
            "OSError: disk full",
        ),
        (RuntimeError(""), "RuntimeError"),
        (RuntimeError(SPARK_TEXT), "io.grpc.StatusException: CANCELLED"),
    ],
)
def test_any_other_error_becomes_one_line(error, sentence):
    assert explain_failure(error) == sentence


def report(**changes):
    return {
        "counts": run_counts(found=1234, embedded=1230, failed=4),
        "failures_by_error": {"UndecodableImage": 3, "ImageTooLarge": 1},
        "seconds": 10.0,
        "mean_batch_fill": 0.97,
        "ignored_files": 0,
        "model": {"handle": "untrained:x", "untrained": True},
        **changes,
    }


def test_the_summary_says_counts_reasons_rate_model_and_place():
    text = summarise(report(), "/out", "/out")
    for expected in ("1,234", "1,230", "3 UndecodableImage", "123.0 images/s", "97%", "/out"):
        assert expected in text


def test_the_summary_of_an_untrained_model_says_so_and_that_of_another_does_not():
    assert "untrained weights" in summarise(report(), "/out", "/out")
    trained = report(model={"handle": "/models/x", "untrained": False})
    assert "untrained" not in summarise(trained, "/out", "/out")


def test_the_summary_of_a_plain_run_has_no_line_about_earlier_runs():
    text = summarise(report(), "/out", "/out")
    assert not {"skipped", "gone", "run"} & {line.split()[0] for line in text.splitlines()}


def test_the_summary_of_an_incremental_run_says_what_was_skipped_and_is_gone():
    some = run_counts(found=1234, skipped=1200, embedded=30, failed=4, gone=5)
    text = summarise(report(counts=some), "/out", "/out/runs/1")
    for line in (
        "skipped    1,200 done before",
        "gone       5 of earlier runs, not pruned (--prune)",
        "output     /out",
        "run        /out/runs/1",
    ):
        assert line in text.splitlines()


def test_the_summary_says_that_what_is_gone_was_pruned():
    some = run_counts(found=1234, embedded=1230, failed=4, gone=5, pruned=5)
    text = summarise(report(counts=some), "/out", "/out/runs/1")
    assert "gone       5 of earlier runs, pruned" in text.splitlines()
