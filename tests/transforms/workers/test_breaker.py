import pytest

from transforms.errors import ImageNotFound, ImageTooLarge, TooManyFailures
from transforms.workers.breaker import Breaker, BreakerSettings, breaker_of_process


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


def test_a_process_does_not_forget_a_breaker_whose_step_is_gone():
    """A failed bundle is tried again by a step that is built anew."""
    settings = BreakerSettings(1, 0.5)
    with pytest.raises(TooManyFailures):
        breaker_of_process("the key", "ReadImages", settings).record(ImageTooLarge("big"))
    with pytest.raises(TooManyFailures):
        breaker_of_process("the key", "ReadImages", settings).record(None)
    breaker_of_process("another key", "ReadImages", settings).record(None)


def test_the_verdict_holds_no_signature_of_a_url():
    breaker = Breaker("ReadImages", BreakerSettings(1, 0.5))
    with pytest.raises(TooManyFailures, match=r"https://h/a\.jpg\?\.\.\. is not there") as caught:
        breaker.record(ImageNotFound("https://me:hunter2@h/a.jpg?sig=hunter2 is not there"))
    assert "hunter2" not in str(caught.value)
