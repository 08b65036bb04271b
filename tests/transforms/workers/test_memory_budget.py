"""What threads hold together stays within the total, and everybody is served."""

import threading
from concurrent.futures import ThreadPoolExecutor

from transforms.workers.memory_budget import MemoryBudget

TOTAL = 100


def test_threads_never_hold_more_than_the_total_together():
    budget = MemoryBudget(TOTAL)
    lock = threading.Lock()
    held = most = 0

    def work(amount: int) -> None:
        nonlocal held, most
        with budget.hold(amount):
            with lock:
                held += amount
                most = max(most, held)
            threading.Event().wait(0.001)
            with lock:
                held -= amount

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, [30, 60, 10, 100, 45] * 20))
    assert TOTAL // 2 < most <= TOTAL
    assert held == 0


def test_more_than_the_total_is_had_alone():
    budget = MemoryBudget(TOTAL)
    with budget.hold(10 * TOTAL):
        waits = threading.Thread(target=lambda: budget.hold(1).__enter__(), daemon=True)
        waits.start()
        waits.join(0.1)
        assert waits.is_alive()
    waits.join(10)
    assert not waits.is_alive()


def test_small_amounts_do_not_overtake_a_large_one_for_ever():
    budget = MemoryBudget(TOTAL)
    served = threading.Event()

    def take_small_amounts() -> None:
        while not served.is_set():
            with budget.hold(40):
                pass

    def take_all() -> None:
        with budget.hold(TOTAL):
            served.set()

    threads = [threading.Thread(target=take_small_amounts) for _ in range(3)]
    threads.append(threading.Thread(target=take_all))
    for thread in threads:
        thread.start()
    try:
        assert served.wait(10)
    finally:
        served.set()
        for thread in threads:
            thread.join()


def test_an_error_gives_back_what_was_held():
    budget = MemoryBudget(TOTAL)
    for _ in range(3):
        try:
            with budget.hold(TOTAL):
                raise ValueError
        except ValueError:
            pass
    with budget.hold(TOTAL):
        pass
