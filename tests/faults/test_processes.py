"""8: many processes at once. 10: fork, spawn, forkserver, killed workers. 12: no SIGBUS. 19: nothing grows."""

from __future__ import annotations

import gc
import multiprocessing
import os
import random
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dali_pipes.cache import SingleFlight, Store, open_store, upkeep
from tests.cache.conftest import key, value
from tests.faults.conftest import LOST, MODES, in_child, lose_a_worker, right_or_missing, wait, wanted

NUMBERS = range(40)


def mix(mode: str, directory: Path, seed: int, operations: int) -> None:
    rng = random.Random(seed)
    store = open_store(mode, directory, disk_bytes=(48 << 20) if mode == "pinned" else 60_000)
    for _ in range(operations):
        number, what = rng.choice(NUMBERS), rng.random()
        if what < 0.4:
            store.put(key(number), wanted(number))
        elif what < 0.9:
            right_or_missing(store, range(number, number + 1))
        elif what < 0.96:
            store.delete(key(number))
        elif what < 0.97:
            store.close()
            store = open_store(mode, directory, disk_bytes=(48 << 20) if mode == "pinned" else 60_000)
        elif what < 0.98:
            found = upkeep.verify(directory)
            assert found["errors"] == 0
        elif what < 0.985:
            upkeep.purge(directory, [key(number)], dry_run=False)
        elif what < 0.987:
            upkeep.purge(directory, dry_run=False)
        elif what < 0.99:
            upkeep.gc(directory)
        else:
            store.stats()
    stats = store.stats()
    # a purge may take away a file between two steps of a put: counted, and harmless
    assert stats["corrupt"] == 0, stats
    store.close()


def run_mix(mode: str, directory: Path, processes: int, operations: int) -> None:
    children = [in_child(lambda: mix(mode, directory, seed, operations)) for seed in range(processes)]  # noqa: B023
    assert [wait(child) for child in children] == [0] * processes
    store = open_store(mode, directory, strict=True)
    right_or_missing(store, NUMBERS)
    found = upkeep.verify(directory)
    assert (found["corrupt"], found["orphans"], found["errors"]) == (0, 0, 0)


@pytest.mark.parametrize("mode", MODES)
def test_everything_at_once(mode: str, tmp_path: Path) -> None:
    run_mix(mode, tmp_path, 4, 500)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("mode", MODES)
def test_everything_at_once_at_length(mode: str, tmp_path: Path) -> None:
    run_mix(mode, tmp_path, 32, 6250)


def worker(store: Store, flight: SingleFlight, number: int) -> None:
    """In a child process: reads what the parent put, and puts one entry."""
    assert right_or_missing(store, range(1)) == 1
    store.put(key(number), wanted(number))
    found, computed = flight.get_or_put(key(number + 50), lambda: wanted(number + 50))
    assert computed
    assert found.tobytes() == wanted(number + 50).tobytes()


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("mode", ["pinned", "npy", "shared"])
def test_start_methods(method: str, mode: str, tmp_path: Path) -> None:
    shared = mode == "shared"
    store = open_store("memory" if shared else mode, None if shared else tmp_path, shared=shared, strict=True)
    with store:
        store.put(key(0), wanted(0))
        context = multiprocessing.get_context(method)
        children = [context.Process(target=worker, args=(store, SingleFlight(store), number)) for number in (1, 2)]  # type: ignore[attr-defined]
        for child in children:
            child.start()
        for child in children:
            child.join(60)
            assert child.exitcode == 0
        for number in (0, 1, 2, 51, 52):
            assert right_or_missing(store, range(number, number + 1)) == 1


class Dataset:
    """Items through a cache; the one at ``die_at`` kills its worker, once."""

    def __init__(self, store: Store, die_at: int, mark: Path) -> None:
        self.flight, self.die_at, self.mark = SingleFlight(store), die_at, mark

    def __len__(self) -> int:
        return 24

    def __getitem__(self, number: int) -> Any:
        if number == self.die_at and not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return np.array(self.flight.get_or_put(key(number), lambda: value(number))[0])


@pytest.mark.parametrize("die_at", [3, 10, 23])
def test_a_killed_data_loader_worker(die_at: int, tmp_path: Path) -> None:
    import torch

    store = open_store("pinned", tmp_path / "cache")
    dataset: Any = Dataset(store, die_at, tmp_path / "mark")
    loader = torch.utils.data.DataLoader(dataset, 4, num_workers=2, multiprocessing_context="fork")
    assert wait(in_child(lambda: lose_a_worker(lambda: list(loader)))) == LOST
    batches = torch.cat(list(loader))
    assert torch.equal(batches, torch.stack([torch.from_numpy(value(number).copy()) for number in range(24)]))
    assert list((tmp_path / "cache" / "claims").iterdir()) == []


@pytest.mark.parametrize("mode", ["pinned", "tensor-memmap", "tensor-disk", "npy"])
@pytest.mark.parametrize("count", [100, pytest.param(10_000, marks=pytest.mark.slow)])
def test_no_sigbus_when_entries_go(mode: str, count: int, tmp_path: Path) -> None:
    """A reader keeps mapped entries while they are replaced, deleted, evicted, merged and purged, then reads all."""

    def work() -> None:
        store, other = open_store(mode, tmp_path), open_store(mode, tmp_path)
        held = []
        for number in range(count):
            store.put(key(number), wanted(number))
            found = store.get(key(number))
            assert found is not None
            held.append(found)
            other.put(key(number), wanted(number + 3))
            if number % 3 == 0:
                other.delete(key(number))
            if number % 25 == 12:
                upkeep.gc(tmp_path)
            if number % 25 == 24:
                upkeep.gc(tmp_path, disk_bytes=4096)
                upkeep.purge(tmp_path, dry_run=False)
        store.close()
        for number, found in enumerate(held):
            assert found.tobytes() == wanted(number).tobytes()

    assert wait(in_child(work)) == 0


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("mode", MODES)
def test_nothing_grows(mode: str, tmp_path: Path) -> None:
    def epoch() -> None:
        with open_store(mode, tmp_path) as store:
            for number in NUMBERS:
                if number % 10 == 0:
                    store.delete(key(number))
                if store.get(key(number)) is None:
                    store.put(key(number), wanted(number))

    for _ in range(20):
        epoch()
    gc.collect()
    memory, handles = resident(), len(os.listdir("/proc/self/fd"))
    for _ in range(40):
        epoch()
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= handles
    assert resident() < memory * 1.02 + (1 << 20)
