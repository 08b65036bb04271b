"""From logits to the likeliest classes."""

import numpy as np
import pytest

from transforms.formats.top_classes import are_probabilities, softmax, top_classes


def logits_of(count: int, classes: int) -> np.ndarray:
    return np.random.RandomState(0).normal(0, 5, (count, classes)).astype(np.float32)


def test_the_probabilities_are_those_of_the_definition() -> None:
    logits = logits_of(4, 1001)
    powers = np.exp(logits.astype(np.float64))
    expected = powers / powers.sum(axis=1, keepdims=True)
    assert softmax(logits).dtype == np.float64
    np.testing.assert_allclose(softmax(logits), expected, rtol=1e-12)


def test_any_finite_logits_give_finite_probabilities() -> None:
    largest = np.finfo(np.float32).max
    logits = np.array([[largest, -largest, 0.0], [-largest] * 3, [1e4, 1e4, 0]], np.float32)
    expected = [[1, 0, 0], [1 / 3] * 3, [0.5, 0.5, 0]]
    np.testing.assert_allclose(softmax(logits), expected, atol=1e-15)


def test_the_likeliest_classes_come_first_with_their_probability_among_all() -> None:
    logits = logits_of(20, 50)
    top = top_classes(logits, 5)
    assert (top.indices.dtype, top.probabilities.dtype) == (np.int64, np.float32)
    assert top.indices.shape == top.probabilities.shape == (20, 5)
    for row, indices, probabilities in zip(softmax(logits), *top, strict=True):
        best = sorted(range(50), key=lambda index: -row[index])[:5]
        assert indices.tolist() == best
        assert probabilities.tolist() == row[best].astype(np.float32).tolist()
    every = top_classes(logits, 50).probabilities
    np.testing.assert_allclose(every.sum(axis=1), 1, atol=1e-5)


def test_of_equal_classes_the_lower_one_comes_first() -> None:
    logits = np.zeros((1, 300), np.float32)
    logits[0, [7, 250]] = 3
    assert top_classes(logits, 5).indices.tolist() == [[7, 250, 0, 1, 2]]


def test_classes_whose_probability_is_too_small_for_a_number_keep_their_order() -> None:
    top = top_classes(np.array([[-2e4, 0, -1e4]], np.float32), 3)
    assert top.indices.tolist() == [[1, 2, 0]]
    assert top.probabilities.tolist() == [[1, 0, 0]]


@pytest.mark.parametrize(("shape", "count"), [((2, 3), 4), ((2, 3), 0), ((3,), 1)])
def test_more_classes_than_there_are_cannot_be_taken(shape: tuple[int, ...], count: int) -> None:
    with pytest.raises(ValueError, match=f"{count} classes cannot be taken"):
        top_classes(np.zeros(shape, np.float32), count)


def test_probabilities_are_told_from_logits() -> None:
    logits = logits_of(1, 1001)[0]
    assert are_probabilities(softmax(logits).astype(np.float32))
    assert not are_probabilities(logits)
    # All zero but one: a network with a ReLU at its end could give this.
    assert not are_probabilities(np.array([0, 3, 0], np.float32))
    assert not are_probabilities(np.array([1.0], np.float32))
