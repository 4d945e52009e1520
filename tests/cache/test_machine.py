"""Random sequences of operations on every store, with reopening, against a dict."""

from __future__ import annotations

import shutil
import tempfile
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from cache import open_store
from tests.cache.conftest import WAYS, coherent, key, persistent, value

numbers = st.integers(0, 5)
shapes = st.sampled_from([(3, 4, 5), (1, 2, 2), (3,), (0, 2)])
dtypes = st.sampled_from(["uint8", "uint16", "float32"])


class Machine(RuleBasedStateMachine):
    """Two instances of one store (one, if it does not persist) and a dict."""

    way: str

    @initialize()
    def begin(self) -> None:
        self.directory = tempfile.mkdtemp()
        self.model: dict[int, np.ndarray[Any, Any]] = {}
        self.keep = self.way in persistent()
        self.stores = [self.open() for _ in range(2 if self.way in coherent() else 1)]

    def open(self) -> Any:
        mode, arguments = WAYS[self.way]
        return open_store(mode, self.directory if self.keep else None, strict=True, **arguments)

    @rule(number=numbers, seed=numbers, shape=shapes, dtype=dtypes, which=st.integers(0, 1))
    def put(self, number: int, seed: int, shape: tuple[int, ...], dtype: str, which: int) -> None:
        self.model[number] = value(seed, shape, dtype)
        self.stores[which % len(self.stores)].put(key(number), self.model[number])

    @rule(number=numbers, which=st.integers(0, 1))
    def get(self, number: int, which: int) -> None:
        store = self.stores[which % len(self.stores)]
        store.keys()  # an instance may serve what another has replaced or deleted until it looks again
        found = store.get(key(number))
        wanted = self.model.get(number)
        assert (found is None) == (wanted is None)
        if wanted is not None:
            assert found is not None
            assert (found.dtype, found.shape, found.tobytes()) == (wanted.dtype, wanted.shape, wanted.tobytes())

    @rule(number=numbers, which=st.integers(0, 1))
    def delete(self, number: int, which: int) -> None:
        assert self.stores[which % len(self.stores)].delete(key(number)) == (self.model.pop(number, None) is not None)

    @rule(which=st.integers(0, 1))
    def keys(self, which: int) -> None:
        assert set(self.stores[which % len(self.stores)].keys()) == {key(number) for number in self.model}

    @precondition(lambda self: self.keep)
    @rule(which=st.integers(0, 1))
    def reopen(self, which: int) -> None:
        which %= len(self.stores)
        self.stores[which].close()
        self.stores[which] = self.open()

    def teardown(self) -> None:
        for store in getattr(self, "stores", []):
            assert store.stats()["errors"] == store.stats()["corrupt"] == 0
            store.close()
        if hasattr(self, "directory"):
            shutil.rmtree(self.directory)


def run(way: str, examples: int) -> None:
    machine = type("Machine", (Machine,), {"way": way})
    limits = settings(
        max_examples=examples, stateful_step_count=15, deadline=None, suppress_health_check=list(HealthCheck)
    )
    run_state_machine_as_test(machine, settings=limits)


@pytest.mark.parametrize("way", WAYS)
def test_every_store_is_a_dict(way: str) -> None:
    run(way, 40)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_every_store_is_a_dict_at_length(way: str) -> None:
    run(way, 10_000)
