"""Exact cosine search: the right rows in the right order, whatever the size and the scale."""

import numpy as np
import pytest

from transforms.search import neighbours
from transforms.search.neighbours import nearest_neighbours


def random_vectors(count: int, width: int) -> np.ndarray:
    return np.random.default_rng(7).standard_normal((count, width)).astype(np.float32)


def test_the_neighbours_are_those_of_a_plain_loop():
    vectors = random_vectors(50, 8)
    query = vectors[17]
    by_hand = [
        float(np.dot(row, query) / (np.linalg.norm(row) * np.linalg.norm(query))) for row in vectors
    ]
    expected = sorted(range(50), key=lambda row: -by_hand[row])[:5]

    rows, cosines = nearest_neighbours(vectors, query, 5)

    assert rows.tolist() == expected
    assert rows[0] == 17
    np.testing.assert_allclose(cosines, [by_hand[row] for row in expected], atol=1e-6)
    assert cosines.dtype == np.float32


def test_blocks_do_not_change_the_answer(monkeypatch):
    vectors = random_vectors(50, 8)
    in_one_block = nearest_neighbours(vectors, vectors[3], 50)
    # 7 rows a block: 50 is no multiple of it.
    monkeypatch.setattr(neighbours, "BLOCK_VALUES", 7 * 8)

    in_many_blocks = nearest_neighbours(vectors, vectors[3], 50)

    np.testing.assert_array_equal(in_one_block[0], in_many_blocks[0])
    np.testing.assert_allclose(in_one_block[1], in_many_blocks[1], atol=1e-6)


def test_length_does_not_matter_even_near_the_limits_of_float32():
    vectors = np.array([[1e38, 0.0], [0.0, 1e-38], [2.0, 2.0]], np.float32)

    rows, cosines = nearest_neighbours(vectors, np.array([3e38, 0.0], np.float32), 3)

    assert rows.tolist() == [0, 2, 1]
    np.testing.assert_allclose(cosines, [1.0, 0.5**0.5, 0.0], atol=1e-6)


def test_a_zero_vector_is_like_nothing():
    vectors = np.array([[-1.0, 0.0], [0.0, 0.0], [1.0, 0.0]], np.float32)

    rows, cosines = nearest_neighbours(vectors, np.array([1.0, 0.0], np.float32), 3)

    assert rows.tolist() == [2, 1, 0]
    assert cosines.tolist() == [1.0, 0.0, -1.0]


def test_nothing_is_like_a_zero_query():
    rows, cosines = nearest_neighbours(random_vectors(3, 2), np.zeros(2, np.float32), 3)

    assert rows.tolist() == [0, 1, 2]
    assert cosines.tolist() == [0.0, 0.0, 0.0]


def test_equal_cosines_come_in_the_order_of_the_rows():
    rows, _ = nearest_neighbours(np.ones((20, 3), np.float32), np.ones(3, np.float32), 4)

    assert rows.tolist() == [0, 1, 2, 3]


def test_cosines_never_leave_their_range():
    vectors = random_vectors(200, 3)

    for query in vectors:
        _, cosines = nearest_neighbours(vectors, query, 1)
        assert cosines[0] <= 1.0


def test_more_neighbours_than_rows_gives_every_row():
    rows, cosines = nearest_neighbours(random_vectors(3, 4), np.ones(4, np.float32), 10)

    assert sorted(rows.tolist()) == [0, 1, 2]
    assert len(cosines) == 3


def test_no_rows_have_no_neighbours():
    rows, cosines = nearest_neighbours(np.empty((0, 4), np.float32), np.ones(4, np.float32), 1)

    assert len(rows) == len(cosines) == 0


@pytest.mark.parametrize(
    ("vectors", "query", "count", "message"),
    [
        (np.ones(3), np.ones(3), 1, r"vectors has shape \(3,\)"),
        (np.ones((2, 3)), np.ones(4), 1, r"query of shape \(3,\)"),
        (np.ones((2, 3)), np.ones((1, 3)), 1, r"query of shape \(3,\)"),
        (np.ones((2, 3)), np.ones(3), 0, "count is 0"),
        (np.array([[1.0, np.nan]]), np.ones(2), 1, "NaN"),
        (np.array([[1.0, np.inf]]), np.ones(2), 1, "infinity"),
        (np.ones((1, 2)), np.array([np.inf, 1.0]), 1, "infinity"),
    ],
)
def test_what_does_not_fit_is_named(vectors, query, count, message):
    with pytest.raises(ValueError, match=message):
        nearest_neighbours(vectors, query, count)
