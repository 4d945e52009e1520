"""A full budget costs no rescan a put, and is kept by many writers at once."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import pytest

from dali_pipes.cache import open_store, upkeep
from dali_pipes.cache.budget import Budget, charge
from dali_pipes.cache.files import Folder
from tests.cache.conftest import key, value
from tests.faults.conftest import in_child, wait

FILE_MODES = ["disk", "npy", "tensor-disk", "tensor-memmap"]


def used(directory: Path) -> int:
    return sum(charge(path.stat().st_size) for path in directory.rglob("*") if path.is_file())


class Listed:
    """Counts how often the folder is counted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count, real = 0, Folder.scan

        def scan(folder: Folder) -> Any:
            self.count += 1
            return real(folder)

        monkeypatch.setattr(Folder, "scan", scan)


def test_puts_at_a_full_budget_rarely_count_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cost, entries = 4096, 1000
    with open_store("npy", tmp_path, disk_bytes=entries * cost, strict=True) as store:
        for number in range(entries):
            store.put(key(number), value(number % 7))
        listed = Listed(monkeypatch)
        for number in range(entries, 2 * entries):
            store.put(key(number), value(number % 7))
            assert store.contains(key(number))
        assert listed.count <= entries // 30
        assert used(tmp_path / "npy") <= entries * cost
        assert store.stats()["entries"] > 0.9 * entries, "no more leave than must"
        assert not store.contains(key(entries // 2))


def test_what_was_used_since_the_count_stays(tmp_path: Path) -> None:
    entries = 700
    with open_store("npy", tmp_path, disk_bytes=entries * 4096, strict=True) as store:
        for number in range(entries):
            store.put(key(number), value(number % 7))
        first = [number for number in range(entries) if store.contains(key(number))][:5]
        for number in first:
            assert store.get(key(number)) is not None
        for number in range(entries, entries + 200):
            store.put(key(number), value(number % 7))
        assert all(store.contains(key(number)) for number in first)


@pytest.mark.parametrize("mode", ["npy", "tensor-memmap", "pinned"])
def test_sixteen_writers_of_large_entries(mode: str, tmp_path: Path) -> None:
    limit, writers = 2 << 20, 16

    def fill(writer: int) -> None:
        with open_store(mode, tmp_path, disk_bytes=limit, strict=True) as store:
            for number in range(6):
                store.put(key(1000 * writer + number), value(number, (65536,)))

    children = [in_child(lambda writer=writer: fill(writer)) for writer in range(writers)]
    most = 0
    while any(map(_runs, children)):
        with contextlib.suppress(FileNotFoundError):
            most = max(most, used(tmp_path / mode))
    for child in children:
        wait(child)
    journals = 4096 * 2 * writers * 6 if mode == "pinned" else 0
    assert most <= limit + journals
    assert used(tmp_path / mode) <= limit + journals


def _runs(child: int) -> bool:
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


def test_a_writer_that_is_not_alone_counts_more_often(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = 4096 * 8192
    folder = Folder(tmp_path / "mode")
    removed: list[str] = []
    budget = Budget(folder, limit, lambda stem: bool(removed.append(stem)) or True, ".x")
    now = [0.0]
    monkeypatch.setattr("dali_pipes.cache.budget.time.monotonic", lambda: now[0])

    def put(name: int) -> None:
        folder.publish(f"{name % 256:02x}/{name % 256:02x}{name:030x}.x", [b"x"])

    def counts(count: int, begin: int) -> int:
        listed = Listed(monkeypatch)
        for name in range(begin, begin + count):
            with budget.room(1):
                put(name)
        return listed.count

    alone = [counts(200, 1000 * turn) for turn in range(4)]
    assert alone[0] > alone[-1] <= 2
    put(999_999)
    assert counts(600, 5000) > 4, "somebody else has written"
    now[0] += 1000
    assert counts(1, 6000) == 1, "long ago"
    assert not removed


@pytest.mark.parametrize("mode", [*FILE_MODES, "pinned"])
def test_gc_below_a_segment_keeps_what_fits(mode: str, tmp_path: Path) -> None:
    with open_store(mode, tmp_path, strict=True) as store:
        for number in range(40):
            store.put(key(number), value(number, (10_000,)))
    budget = 200_000
    said = upkeep.gc(tmp_path, disk_bytes=budget, dry_run=True)
    assert upkeep.stats(tmp_path)["entries"] == 40
    done = upkeep.gc(tmp_path, disk_bytes=budget)
    assert said["evicted"] == done["evicted"] > 0
    found = upkeep.stats(tmp_path)
    assert found["entries"] == 40 - done["evicted"] >= 8
    assert found["bytes"] <= budget
    with open_store(mode, tmp_path, strict=True) as store:
        there = [number for number in range(40) if store.contains(key(number))]
        assert 39 in there, "the latest stay"
        for number in there:
            assert (store.get(key(number)) == value(number, (10_000,))).all()
