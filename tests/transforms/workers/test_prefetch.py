import threading

import pytest

from transforms.workers.prefetch import ITEMS_PER_THREAD, Prefetch


@pytest.fixture
def gate():
    """What the function of `waiting` waits for."""
    return threading.Event()


def waiting(gate, started):
    def function(item):
        started.append(item)
        assert gate.wait(10)
        return item * 10

    return function


def add_all(prefetch, items, size=0):
    return [result for item in items for result in prefetch.add(item, size)]


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_every_result_comes_once_and_in_order(threads):
    prefetch = Prefetch(lambda item: item * 10, threads)
    results = [*add_all(prefetch, range(100)), *prefetch.rest()]
    prefetch.close()
    assert results == [(item, item * 10) for item in range(100)]


def test_with_one_thread_nothing_is_ahead_and_no_thread_is_started():
    callers = []
    prefetch = Prefetch(lambda item: callers.append(threading.current_thread()), 1)
    assert add_all(prefetch, [1]) == [(1, None)]
    assert callers == [threading.current_thread()]


def test_threads_work_at_the_same_time():
    together = threading.Barrier(3, timeout=10)
    prefetch = Prefetch(lambda item: together.wait(), 3)
    assert len([*add_all(prefetch, range(9)), *prefetch.rest()]) == 9
    prefetch.close()


def test_the_number_of_items_under_way_is_bounded(gate):
    prefetch = Prefetch(waiting(gate, []), 2)
    assert add_all(prefetch, range(2 * ITEMS_PER_THREAD)) == []
    one_more = prefetch.add(99, 0)
    gate.set()
    assert [item for item, _ in one_more] == [0]
    prefetch.close()


def test_the_bytes_under_way_are_bounded(gate):
    started = []
    prefetch = Prefetch(waiting(gate, started), 4, max_bytes=100)
    assert add_all(prefetch, [1, 2], size=50) == []
    third = prefetch.add(3, 1)
    gate.set()
    assert next(third) == (1, 10)
    assert 3 not in started
    assert list(third) == []
    prefetch.close()


def test_an_item_larger_than_the_bound_is_under_way_alone():
    prefetch = Prefetch(lambda item: item, 4, max_bytes=100)
    results = [add_all(prefetch, [item], size=1000) for item in range(3)]
    assert results == [[], [(0, 0)], [(1, 1)]]
    assert list(prefetch.rest()) == [(2, 2)]
    prefetch.close()


def test_an_error_comes_out_in_its_turn_and_what_is_behind_it_is_dropped():
    def function(item):
        if item == 1:
            raise ZeroDivisionError("planted")
        return item

    prefetch = Prefetch(function, 2)
    assert add_all(prefetch, range(4)) == []
    rest = prefetch.rest()
    assert next(rest) == (0, 0)
    with pytest.raises(ZeroDivisionError, match="planted"):
        next(rest)
    assert [*add_all(prefetch, [7]), *prefetch.rest()] == [(7, 7)]
    prefetch.close()


def test_what_is_cancelled_is_never_begun(gate):
    started = []
    prefetch = Prefetch(waiting(gate, started), 2)
    add_all(prefetch, range(8))
    prefetch.cancel()
    gate.set()
    assert list(prefetch.rest()) == []
    prefetch.close()
    assert len(started) <= 2


def test_closing_leaves_no_thread_behind():
    before = threading.active_count()
    prefetch = Prefetch(lambda item: item, 8)
    add_all(prefetch, range(8))
    assert threading.active_count() > before
    prefetch.close()
    assert threading.active_count() == before
