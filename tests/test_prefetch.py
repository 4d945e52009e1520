"""Iterating ahead: order, errors, and an end from every state. No test waits for time to pass."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dali_pipes.loader.prefetch import Prefetch, lookahead

WAIT = 30
"""Seconds after which a test is given up; none of them needs more than a moment."""


class Source:
    """Counts from 0 in the producer's thread; tells when it is closed."""

    def __init__(self, count: int, fail: BaseException | None = None) -> None:
        self.count, self.fail = count, fail
        self.made = 0
        self.closed = threading.Event()
        self.thread: threading.Thread | None = None

    def __call__(self) -> Iterator[int]:
        self.thread = threading.current_thread()
        try:
            for i in range(self.count):
                self.made += 1
                yield i
            if self.fail is not None:
                raise self.fail
        finally:
            self.closed.set()


@given(st.lists(st.integers()), st.integers(0, 10))
def test_lookahead_keeps_order(items: list[int], ahead: int) -> None:
    assert list(lookahead(items, ahead)) == items


@given(st.integers(1, 20), st.integers(0, 10))
def test_lookahead_takes_that_far_ahead(count: int, ahead: int) -> None:
    taken: list[int] = []
    for i in lookahead((taken.append(i) or i for i in range(count)), ahead):
        assert len(taken) == min(count, i + ahead + 1)


@pytest.mark.parametrize("ahead", [1, 2, 100])
def test_all_items_in_order_from_another_thread(ahead: int) -> None:
    source = Source(50)
    run = Prefetch(source, ahead)
    assert list(run) == list(range(50))
    assert source.thread is not threading.current_thread()
    assert source.closed.is_set()
    assert list(run) == []  # and it stays at its end


def test_it_stays_within_what_it_may_make_ahead() -> None:
    gate = threading.Semaphore(0)
    made: list[int] = []

    def produce() -> Iterator[int]:
        for i in range(100):
            made.append(i)
            gate.release()
            yield i

    run = Prefetch(produce, 3)
    for _ in range(4):
        assert gate.acquire(timeout=WAIT)
    assert next(run) == 0
    assert len(made) <= 5
    run.close()
    assert len(made) <= 7


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), MemoryError()])
def test_an_error_comes_after_the_items_before_it(error: BaseException) -> None:
    run = Prefetch(Source(3, error), 2)
    assert [next(run), next(run), next(run)] == [0, 1, 2]
    with pytest.raises(type(error)) as caught:
        next(run)
    assert caught.value is error
    with pytest.raises(StopIteration):
        next(run)


def test_an_error_while_the_iterator_is_made() -> None:
    def make() -> Iterator[int]:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        next(Prefetch(make, 1))


@pytest.mark.parametrize("taken", [0, 1, 3, 5])
@pytest.mark.parametrize("ahead", [1, 2, 10])
def test_close_at_any_state_ends_thread_and_iterator(taken: int, ahead: int) -> None:
    source = Source(5)
    run = Prefetch(source, ahead)
    for i in range(taken):
        assert next(run) == i
    run.close()
    assert not run._thread.is_alive()
    assert source.made == 0 or source.closed.is_set()
    run.close()
    with pytest.raises(StopIteration):
        next(run)


def test_close_while_the_producer_waits_for_room() -> None:
    source = Source(1000)
    run = Prefetch(source, 1)
    assert next(run) == 0
    run.close()
    assert source.made < 10


def test_close_wakes_a_consumer_that_waits() -> None:
    """As when one thread closes a loader over which another iterates."""
    started, finish = threading.Event(), threading.Event()

    def produce() -> Iterator[int]:
        started.set()
        assert finish.wait(WAIT)
        yield 1

    run = Prefetch(produce, 1)
    got: list[object] = []
    consumer = threading.Thread(target=lambda: got.extend(run), daemon=True)
    consumer.start()
    assert started.wait(WAIT)
    closer = threading.Thread(target=run.close, daemon=True)
    closer.start()
    finish.set()
    closer.join(WAIT)
    consumer.join(WAIT)
    assert not closer.is_alive()
    assert not consumer.is_alive()


def test_close_from_the_producers_own_thread_does_not_wait_for_itself() -> None:
    """As when garbage collection in that thread finds an iterator that its user has lost."""
    runs: list[Prefetch[int]] = []
    ready, closed = threading.Event(), threading.Event()

    def produce() -> Iterator[int]:
        assert ready.wait(WAIT)
        runs[0].close()
        closed.set()
        yield 1
        yield 2
        yield 3

    runs.append(Prefetch(produce, 1))
    ready.set()
    assert closed.wait(WAIT)
    runs[0]._thread.join(WAIT)
    assert not runs[0]._thread.is_alive()
    assert list(runs[0]) == []


def test_waiting_is_counted() -> None:
    run = Prefetch(Source(3), 1)
    list(run)
    assert run.seconds_waiting > 0


def test_threads_do_not_pile_up() -> None:
    before = set(threading.enumerate())
    for _ in range(20):
        run = Prefetch(Source(100), 2)
        next(run)
        run.close()
    gc.collect()
    assert set(threading.enumerate()) <= before
