import datetime
import threading
from contextlib import nullcontext

import apache_beam as beam
import pytest
from apache_beam.metrics import MetricsFilter
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.util import assert_that, equal_to
from apache_beam.transforms.window import FixedWindows, TimestampedValue

from transforms.errors import ImageForbidden, UndecodableImage
from transforms.records import ImageRef, Origin
from transforms.step_parts.attempt_each import AttemptEach, FailedAttempt, make_failure
from transforms.workers.breaker import BreakerSettings


def halve(number):
    if number % 2:
        raise UndecodableImage(f"{number} is odd")
    if number == 666:
        raise ZeroDivisionError("planted")
    return [number // 2]


def attempt(breaker=BreakerSettings(), function=halve, **options):
    return AttemptEach(
        stage="HalveNumbers",
        past_tense="halved",
        function=function,
        image_of=lambda number: ImageRef(f"/numbers/{number}"),
        breaker=breaker,
        timing="halve-msec",
        **options,
    )


def one_bundle(numbers):
    return beam.Create([list(numbers)]) | beam.FlatMap(lambda batch: batch)


@pytest.mark.parametrize("threads", [1, 3])
def test_each_element_comes_out_once_as_a_result_or_as_a_failure(threads):
    pipeline = beam.Pipeline(runner="FnApiRunner")
    outcome = pipeline | beam.Create([2, 3, 4, 5]) | attempt(threads=threads)
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


def fail_on_nine(element):
    if element == 9:
        raise ZeroDivisionError("planted")
    return [element]


@pytest.mark.parametrize("threads", [1, 3])
def test_an_error_that_is_no_image_error_fails_the_job(threads):
    pipeline = beam.Pipeline(runner="FnApiRunner")
    _ = pipeline | one_bundle(range(100)) | attempt(function=fail_on_nine, threads=threads)
    with pytest.raises(Exception, match="planted"):
        pipeline.run()


def prefetching_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]


@pytest.mark.parametrize("function", [halve, fail_on_nine])
def test_no_thread_is_left_behind(function):
    pipeline = beam.Pipeline(runner="FnApiRunner")
    outcome = pipeline | one_bundle(range(0, 40)) | attempt(function=function, threads=4)
    _ = outcome.ok | beam.Map(lambda number: None)
    fails = function is fail_on_nine
    with pytest.raises(Exception, match="planted") if fails else nullcontext():
        pipeline.run()
    assert prefetching_threads() == []


together = threading.Barrier(4, timeout=20)


def meet(element):
    together.wait()
    return [element]


def test_elements_behind_are_at_work_while_the_first_one_waits():
    """Each call returns only once four of them run at the same time."""
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        outcome = pipeline | one_bundle(range(8)) | attempt(function=meet, threads=4)
        assert_that(outcome.ok, equal_to(list(range(8))))


def test_with_threads_the_breaker_and_the_counters_see_every_image():
    with (
        pytest.raises(Exception, match="3 of the first 4 images of a worker failed"),
        beam.Pipeline(runner="FnApiRunner") as pipeline,
    ):
        _ = pipeline | one_bundle([1, 3, 5, 6, 8]) | attempt(BreakerSettings(4, 0.5), threads=3)


def test_results_stay_in_the_window_of_their_element():
    """The result of an element comes out while a later one, or none, is processed."""
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        outcome = (
            pipeline
            | one_bundle(range(20))
            | beam.Map(lambda number: TimestampedValue(number, number))
            | beam.WindowInto(FixedWindows(5))
            | attempt(threads=2)
        )

        def place(number, window=beam.DoFn.WindowParam, timestamp=beam.DoFn.TimestampParam):
            return number, int(window.start), int(timestamp)

        assert_that(
            outcome.ok | "Results" >> beam.Map(place),
            equal_to([(n // 2, n // 5 * 5, n) for n in range(0, 20, 2)]),
            label="Ok",
        )
        assert_that(
            outcome.failed
            | beam.Map(lambda failure: int(failure.uri.rsplit("/")[-1]))
            | "Failures" >> beam.Map(place),
            equal_to([(n, n // 5 * 5, n) for n in range(1, 20, 2)]),
            label="Failed",
        )


def image_with_twins(number):
    twins = tuple(ImageRef(f"/{number}/{twin}", origin=Origin(None, (twin,))) for twin in "ab")
    return ImageRef(f"/{number}", origin=Origin(None, ("itself",)), twins=twins)


def test_a_failure_is_one_of_each_twin_with_what_it_carries():
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        step = AttemptEach("HalveNumbers", "halved", halve, image_with_twins)
        outcome = pipeline | beam.Create([1, 2]) | step
        assert_that(
            outcome.failed | beam.Map(lambda f: (f.uri, f.error, f.carried)),
            equal_to(
                [
                    ("/1", "UndecodableImage", ("itself",)),
                    ("/1/a", "UndecodableImage", ("a",)),
                    ("/1/b", "UndecodableImage", ("b",)),
                ]
            ),
        )


def fail_the_last_twin(number):
    image = image_with_twins(number)
    return [number, FailedAttempt(image.twins[-1], UndecodableImage("cut"))]


def test_a_twin_can_fail_alone():
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        step = AttemptEach("HalveNumbers", "halved", fail_the_last_twin, image_with_twins)
        outcome = pipeline | beam.Create([7]) | step
        assert_that(outcome.ok, equal_to([7]), label="Ok")
        assert_that(
            outcome.failed | beam.Map(lambda f: (f.uri, f.stage, f.message, f.carried)),
            equal_to([("/7/b", "HalveNumbers", "cut", ("b",))]),
            label="Failed",
        )


def test_less_than_one_thread_is_refused():
    with pytest.raises(ValueError, match="threads is 0"):
        attempt(threads=0)


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


def test_a_dead_letter_holds_no_password():
    letter = make_failure("https://me:pass@word@host/a@b.jpg", "ReadImages", ImageForbidden("no"))
    assert letter.uri == "https://host/a@b.jpg"
    assert make_failure("gs://b/me@host.jpg", "ReadImages", ImageForbidden("no")).uri == (
        "gs://b/me@host.jpg"
    )
