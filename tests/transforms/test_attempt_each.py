import datetime

import apache_beam as beam
import pytest
from apache_beam.metrics import MetricsFilter
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.util import assert_that, equal_to

from transforms.attempt_each import AttemptEach, make_failure
from transforms.breaker import BreakerSettings
from transforms.errors import UndecodableImage


def halve(number):
    if number % 2:
        raise UndecodableImage(f"{number} is odd")
    if number == 666:
        raise ZeroDivisionError("planted")
    return number // 2


def attempt(breaker=BreakerSettings()):
    return AttemptEach(
        stage="HalveNumbers",
        past_tense="halved",
        function=halve,
        uri_of=lambda number: f"/numbers/{number}",
        breaker=breaker,
        timing="halve-msec",
    )


def test_each_element_comes_out_once_as_a_result_or_as_a_failure():
    pipeline = beam.Pipeline(runner="FnApiRunner")
    outcome = pipeline | beam.Create([2, 3, 4, 5]) | attempt()
    assert_that(outcome.ok, equal_to([1, 2]), label="Ok")
    assert_that(
        outcome.failed | beam.Map(lambda f: (f.uri, f.stage, f.error, f.message)),
        equal_to(
            [
                ("/numbers/3", "HalveNumbers", "UndecodableImage", "3 is odd"),
                ("/numbers/5", "HalveNumbers", "UndecodableImage", "5 is odd"),
            ]
        ),
        label="Failed",
    )
    result = pipeline.run()
    counters = {
        metric.key.metric.name: metric.committed
        for metric in result.metrics().query(MetricsFilter().with_namespace("HalveNumbers"))[
            "counters"
        ]
    }
    assert counters == {"images-halved": 2, "failed-UndecodableImage": 2}
    (timing,) = result.metrics().query(MetricsFilter().with_name("halve-msec"))["distributions"]
    assert timing.committed.count == 4


def test_an_error_that_is_no_image_error_fails_the_job():
    with pytest.raises(Exception, match="planted"), beam.Pipeline(runner="FnApiRunner") as pipeline:
        _ = pipeline | beam.Create([2, 666]) | attempt()


def test_the_breaker_stops_a_job_whose_first_images_mostly_fail():
    with (
        pytest.raises(Exception, match="3 of the first 4 images of a worker failed"),
        beam.Pipeline(runner="FnApiRunner") as pipeline,
    ):
        _ = pipeline | beam.Create([1, 3, 5, 6, 8]) | attempt(BreakerSettings(4, 0.5))


def test_the_threads_of_a_worker_share_one_breaker():
    """Each of four bundles alone stays below the first eight images."""
    pipeline = beam.Pipeline(
        runner="FnApiRunner",
        options=PipelineOptions(direct_num_workers=4, direct_running_mode="multi_threading"),
    )
    numbers = pipeline | beam.Create(range(1, 17, 2)) | beam.Reshuffle()
    _ = numbers | attempt(BreakerSettings(8, 0.5))
    with pytest.raises(Exception, match="8 of the first 8 images of a worker failed"):
        pipeline.run()


def test_a_dead_letter_holds_one_line_of_bounded_length():
    failure = make_failure("/a.jpg", "DecodeImages", UndecodableImage("two\nlines " + "x" * 9999))
    assert failure.message.startswith("two lines xxx")
    assert len(failure.message) == 500


def test_a_dead_letter_says_when_in_utc():
    failed_at = make_failure("/a.jpg", "DecodeImages", UndecodableImage("cut")).failed_at
    moment = datetime.datetime.fromisoformat(failed_at)
    assert moment.utcoffset() == datetime.timedelta(0)
    assert abs(datetime.datetime.now(datetime.UTC) - moment) < datetime.timedelta(minutes=5)
