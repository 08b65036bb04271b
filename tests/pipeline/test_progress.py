import io
import time

import pytest

from pipeline import progress
from pipeline.progress import ProgressLine, format_duration, format_progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("counts", "line"),
    [
        ({}, "0 of 0 images, 0.0 images/s, 0 failed, 0:00:10 elapsed, time left unknown"),
        (
            {"found": 3000, "embedded": 990, "failed": 10},
            "1,000 of 3,000 images, 100.0 images/s, 10 failed, 0:00:10 elapsed, 0:00:20 left",
        ),
        (
            {"found": 5, "embedded": 5},
            "5 of 5 images, 0.5 images/s, 0 failed, 0:00:10 elapsed, 0:00:00 left",
        ),
        (
            {"found": 3000, "skipped": 2000, "embedded": 500},
            "500 of 1,000 images, 50.0 images/s, 0 failed, 2,000 skipped, 0:00:10 elapsed, "
            "0:00:10 left",
        ),
    ],
)
def test_the_line_says_done_rate_failed_and_time_left(counts, line):
    assert format_progress(counts, 10.0, {}, 10.0) == line


def test_nobody_knows_the_time_left_while_more_is_done_than_was_found():
    assert "time left unknown" in format_progress({"embedded": 50}, 10.0, {}, 10.0)


def test_the_rate_counts_from_the_first_image_and_not_from_the_start_up():
    line = format_progress({"found": 100, "embedded": 60}, 90.0, {"embedded": 10}, 5.0)
    assert "10.0 images/s" in line
    assert "0:00:04 left" in line


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00:00"), (59.6, "0:01:00"), (3725, "1:02:05"), (90000, "25:00:00")]
)
def test_durations(seconds, text):
    assert format_duration(seconds) == text


def test_a_terminal_gets_one_line_that_renews_itself_and_is_wiped_at_the_end(monkeypatch):
    monkeypatch.setattr(progress, "TERMINAL_SECONDS", 0.01)
    stream = Terminal()
    with ProgressLine(lambda: {"found": 2, "embedded": 1}, stream):
        time.sleep(0.2)
    shown = stream.getvalue()
    assert shown.count("\r1 of 2 images") > 1
    assert "\n" not in shown
    assert shown.endswith(" \r")


def test_a_log_gets_plain_lines_without_control_characters(monkeypatch):
    monkeypatch.setattr(progress, "FIRST_PLAIN_SECONDS", 0.01)
    monkeypatch.setattr(progress, "PLAIN_SECONDS", 0.01)
    stream = io.StringIO()
    with ProgressLine(lambda: {"found": 2, "embedded": 1}, stream):
        time.sleep(0.2)
    assert stream.getvalue().startswith("1 of 2 images")
    assert "\r" not in stream.getvalue()
    assert stream.getvalue().endswith("\n")


def test_a_source_of_counts_that_fails_does_not_end_the_progress(monkeypatch):
    monkeypatch.setattr(progress, "FIRST_PLAIN_SECONDS", 0.01)
    monkeypatch.setattr(progress, "PLAIN_SECONDS", 0.01)
    answers = iter([OSError("the job server is busy")])

    def counts():
        for error in answers:
            raise error
        return {"found": 7}

    stream = io.StringIO()
    with ProgressLine(counts, stream):
        time.sleep(0.2)
    assert "of 7 images" in stream.getvalue()
