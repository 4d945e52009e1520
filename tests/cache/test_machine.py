"""Random sequences of operations on every store, with reopening, against a dict."""

from __future__ import annotations

import itertools
import shutil
import tempfile
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from dali_pipes.cache import Key, open_store
from tests.cache.conftest import MEMORY, WAYS, coherent, key, persistent, value

SHAPES, DTYPES = [(3, 4, 5), (1, 2, 2), (3,), (0, 2)], ["uint8", "uint16", "float32"]
KEYS = [key(number) for number in range(6)]
WHICH = (0, 1)
STORES = ["memory", "memory-shared", "disk", "npy", "tensor-disk", "tensor-memmap", "tiered", "pinned"]

# One choice an operation: most of an example's time is Hypothesis drawing.
kinds = st.sampled_from([*itertools.product(range(3), SHAPES, DTYPES)])
at = st.sampled_from([*itertools.product(KEYS, WHICH)])
which = st.sampled_from(WHICH)


class Machine(RuleBasedStateMachine):
    """Two instances of one store (one, if it does not persist) and a dict."""

    way: str

    @initialize()
    def begin(self) -> None:
        self.directory = tempfile.mkdtemp(dir=MEMORY)
        self.model: dict[Key, np.ndarray[Any, Any]] = {}
        self.keep = self.way in persistent()
        self.stores = [self.open() for _ in range(2 if self.way in coherent() else 1)]

    def open(self) -> Any:
        mode, arguments = WAYS[self.way]
        return open_store(mode, self.directory if self.keep else None, strict=True, **arguments)

    def store(self, which: int) -> Any:
        return self.stores[which % len(self.stores)]

    @rule(at=at, kind=kinds)
    def put(self, at: tuple[Key, int], kind: tuple[int, tuple[int, ...], str]) -> None:
        entry, which = at
        self.model[entry] = value(*kind)
        self.store(which).put(entry, self.model[entry])

    @rule(at=at)
    def get(self, at: tuple[Key, int]) -> None:
        entry, which = at
        self.store(which).keys()  # an instance may serve what another has replaced or deleted until it looks again
        found = self.store(which).get(entry)
        wanted = self.model.get(entry)
        assert (found is None) == (wanted is None)
        if wanted is not None:
            assert found is not None
            assert (found.dtype, found.shape, found.tobytes()) == (wanted.dtype, wanted.shape, wanted.tobytes())

    @rule(at=at)
    def delete(self, at: tuple[Key, int]) -> None:
        entry, which = at
        assert self.store(which).delete(entry) == (self.model.pop(entry, None) is not None)

    @rule(which=which)
    def keys(self, which: int) -> None:
        assert set(self.store(which).keys()) == set(self.model)

    @precondition(lambda self: self.keep)
    @rule(which=which)
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
    """Every store; a tenth as often those that differ from another by one option only."""
    run(way, 500 if way in STORES else 50)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("way", WAYS)
def test_every_store_is_a_dict_at_length(way: str) -> None:
    run(way, 10_000 if way in STORES else 1000)
