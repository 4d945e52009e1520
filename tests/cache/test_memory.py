"""The memory store: budget, order of eviction, and its refusal to be copied to another process."""

from __future__ import annotations

import pickle

import pytest

from dali_pipes.cache import StoreConfigError, open_store
from dali_pipes.cache.limits import default_memory_bytes
from dali_pipes.cache.memory import OVERHEAD
from tests.cache.conftest import key, value

ENTRY = 1000 + OVERHEAD


def test_the_least_recently_used_leaves_first() -> None:
    store = open_store("memory", memory_bytes=3 * ENTRY)
    for number in range(3):
        store.put(key(number), value(number, (1000,)))
    assert store.get(key(0)) is not None
    store.put(key(3), value(3, (1000,)))
    assert [number for number in range(4) if store.contains(key(number))] == [0, 2, 3]
    store.put(key(2), value(2, (1000,)))
    store.put(key(4), value(4, (1000,)))
    assert [number for number in range(5) if store.contains(key(number))] == [2, 3, 4]
    assert store.stats()["evicted"] == 2


def test_never_above_the_budget() -> None:
    store = open_store("memory", memory_bytes=10_000)
    for number in range(200):
        store.put(key(number % 37), value(number, (number * 53 % 4000,)))
        assert store.stats()["bytes"] <= 10_000
        assert store.stats()["bytes"] == sum(store.get(k).nbytes + OVERHEAD for k in store.keys())  # type: ignore[union-attr]  # noqa: SIM118


def test_too_large_is_not_stored_and_drops_what_was_there() -> None:
    store = open_store("memory", memory_bytes=ENTRY)
    store.put(key(1), value(1, (1000,)))
    store.put(key(2), value(2, (1001,)))
    assert store.contains(key(1))
    store.put(key(1), value(2, (1001,)))
    assert store.keys() == []


def test_has_a_budget_by_default() -> None:
    assert 1 << 20 < default_memory_bytes() < 1 << 50
    assert open_store("memory").stats()["budget"] == default_memory_bytes()


def test_is_not_copied_silently() -> None:
    with pytest.raises(StoreConfigError, match="shared=True"):
        pickle.dumps(open_store("memory"))
