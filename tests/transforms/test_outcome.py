import apache_beam as beam
import pytest
from apache_beam.metrics import MetricsFilter
from apache_beam.testing.util import assert_that, equal_to

from transforms.errors import ImageTooLarge, TooManyFailures, UndecodableImage
from transforms.outcome import AttemptEach, Breaker, BreakerSettings, make_failure


def halve(number):
    if number % 2:
        raise UndecodableImage(f"{number} is odd")
    if number == 666:
        raise ZeroDivisionError("planted")
    return number // 2


def attempt(breaker=BreakerSettings()):
    return AttemptEach(
        stage="HalveNumbers",
        verb="halve",
        past_tense="halved",
        function=halve,
        uri_of=lambda number: f"/numbers/{number}",
        breaker=breaker,
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


def test_an_error_that_is_no_image_error_fails_the_job():
    with pytest.raises(Exception, match="planted"), beam.Pipeline(runner="FnApiRunner") as pipeline:
        _ = pipeline | beam.Create([2, 666]) | attempt()


def test_the_breaker_stops_a_job_whose_first_images_mostly_fail():
    with (
        pytest.raises(Exception, match="3 of the first 4 images of a worker failed"),
        beam.Pipeline(runner="FnApiRunner") as pipeline,
    ):
        _ = pipeline | beam.Create([1, 3, 5, 6, 8]) | attempt(BreakerSettings(4, 0.5))


def test_the_breaker_stays_tripped_when_the_bundle_is_tried_again():
    breaker = Breaker("ReadImages", BreakerSettings(2, 0.5))
    breaker.record(ImageTooLarge("big"))
    for _ in range(3):
        with pytest.raises(TooManyFailures, match="2 ImageTooLarge"):
            breaker.record(ImageTooLarge("big"))
    with pytest.raises(TooManyFailures):
        breaker.record(None)


def test_the_breaker_lets_half_pass_and_judges_only_the_first_images():
    breaker = Breaker("ReadImages", BreakerSettings(4, 0.5))
    for error in (ImageTooLarge("big"), None, ImageTooLarge("big"), None):
        breaker.record(error)
    for _ in range(10):
        breaker.record(ImageTooLarge("big"))


def test_a_breaker_with_ratio_one_never_trips():
    breaker = Breaker("ReadImages", BreakerSettings(3, 1.0))
    for _ in range(9):
        breaker.record(ImageTooLarge("big"))


def test_a_dead_letter_holds_one_line_of_bounded_length():
    failure = make_failure("/a.jpg", "DecodeImages", UndecodableImage("two\nlines " + "x" * 9999))
    assert failure.message.startswith("two lines xxx")
    assert len(failure.message) == 500
