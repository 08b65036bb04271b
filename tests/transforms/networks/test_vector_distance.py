"""Distances between vectors, of odd ones above all."""

import numpy as np
import pytest

from transforms.networks.vector_distance import cosine_distances, largest_move


def test_a_vector_of_length_zero_is_as_near_as_can_be_to_another_one() -> None:
    vectors, others = np.float32([[0, 0], [0, 0], [3, 4]]), np.float32([[0, 0], [1, 0], [0, 0]])
    assert cosine_distances(vectors, others).tolist() == [0.0, 1.0, 1.0]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_vector_that_is_not_finite_is_as_far_as_can_be(value: float) -> None:
    one = np.float32([[1, 2], [3, 4]])
    assert cosine_distances(one, np.float32([[1, 2], [3, value]]))[1] == np.inf


@pytest.mark.parametrize(
    ("output", "other", "expected"),
    [
        ([[3, 4], [0, 1]], [[3, 4], [0, 1.5]], 1 / 3),
        ([[np.nan, 3]], [[np.nan, 3]], 0),
        ([[np.inf, 3]], [[-np.inf, 3]], np.inf),
        ([[np.nan, 3]], [[1, 3]], np.inf),
        ([[1, 2]], [[1, 2, 3]], np.inf),
        ([[[3, 4]]], [[[3, 3]]], 0.2),
        (7, 7, 0),
        ([], [], 0),
    ],
)
def test_a_move_is_that_of_the_vector_that_moved_most(
    output: object, other: object, expected: float
) -> None:
    same = np.ones((2, 3), np.float32)
    found = largest_move([same, np.float32(output)], [same, np.float32(other)])  # type: ignore
    assert found == pytest.approx(expected)
