"""Notes on entries stay in proportion to the entries, and none of an entry that is there is dropped."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest

from dali_pipes.cache import Key, PartsLedger, open_store, pruning, upkeep
from dali_pipes.cache import parts as parts_module
from dali_pipes.cache.files import Folder

SECRET = b"s" * 32
PIXELS = np.zeros(3, np.uint8)


def key(number: int) -> Key:
    return Key.of(SECRET, source=number, size=1)


def note(ledger: PartsLedger, *numbers: int) -> None:
    for number in numbers:
        ledger.note(key(number), {"source": number, "size": 1})


def grow_old(directory: Path) -> None:
    for path in (directory / "parts").iterdir():
        os.utime(path, (time.time() - 3600,) * 2)


def noted(directory: Path) -> int:
    return sum(path.stat().st_size for path in (directory / "parts").iterdir()) // parts_module.RECORD.itemsize


def test_gc_drops_the_notes_of_entries_that_are_gone(tmp_path: Path) -> None:
    with open_store("npy", tmp_path) as npy, open_store("pinned", tmp_path) as pinned:
        for number in range(10):
            (npy if number < 5 else pinned).put(key(number), PIXELS)
        for _ in range(3):  # three short runs
            note(PartsLedger(tmp_path, secret=SECRET), *range(20))
        assert upkeep.gc(tmp_path)["notes"] == 0, "written just now: their entries may be on their way"
        grow_old(tmp_path)
        assert upkeep.gc(tmp_path, dry_run=True)["notes"] == 0
        assert upkeep.gc(tmp_path)["notes"] == 50
        assert noted(tmp_path) == 10
        grow_old(tmp_path)
        assert upkeep.gc(tmp_path)["notes"] == 0
        ledger = PartsLedger(tmp_path, secret=SECRET)
        assert all(ledger.keys_of(number) == [key(number)] for number in range(10))
        assert ledger.keys_of(11) == []
        npy.delete(key(0))
        grow_old(tmp_path)
        assert upkeep.gc(tmp_path)["notes"] == 1


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pruning that is due early."""
    size, real = parts_module.RECORD.itemsize, pruning.is_due
    monkeypatch.setattr(pruning, "QUIET", -1.0)
    monkeypatch.setattr(parts_module, "is_due", lambda folder: real(folder, 30 * size))
    monkeypatch.setattr(parts_module, "_PRUNE_EACH", 10 * size)


@pytest.mark.usefixtures("small")
def test_notes_are_bounded_while_entries_come_and_go(tmp_path: Path) -> None:
    """Ten entries live at a time, of the thousand that are made."""
    with open_store("npy", tmp_path) as store:
        ledger, most = PartsLedger(tmp_path, secret=SECRET, alive=store.contains), 0
        for number in range(1000):
            note(ledger, number)
            store.put(key(number), PIXELS)
            store.delete(key(number - 10))
            most = max(most, noted(tmp_path))
        assert most < 100
        assert all(ledger.keys_of(number) == [key(number)] for number in range(990, 999))


@pytest.mark.usefixtures("small")
def test_of_several_modes_none_is_pruned_by_one_that_knows_its_own_only(tmp_path: Path) -> None:
    with open_store("npy", tmp_path) as npy, open_store("disk", tmp_path) as disk:
        npy.put(key(0), PIXELS)
        disk.put(key(1), PIXELS)
        note(PartsLedger(tmp_path, secret=SECRET, alive=npy.contains), *range(100))
    assert noted(tmp_path) == 100
    assert PartsLedger(tmp_path, secret=SECRET).keys_of(1) == [key(1)]


def test_pruning_is_due_when_the_notes_have_doubled(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "parts")
    assert not pruning.is_due(folder)
    for number, (size, due) in enumerate([(100, False), (50, False), (40, False), (20, True)]):
        (tmp_path / "parts" / f"{number:016x}.made").write_bytes(bytes(size))
        assert not pruning.is_due(folder, 100), "somebody may be adding to the last one"
        grow_old(tmp_path)
        assert pruning.is_due(folder, 100) is due
        assert not pruning.is_due(folder, 1000)


def test_what_is_added_while_notes_are_pruned_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = PartsLedger(tmp_path, secret=SECRET)
    note(ledger, 1, 2)
    grow_old(tmp_path)
    real = Folder.publish

    def publish(folder: Folder, *arguments: object, **more: object) -> None:
        monkeypatch.undo()
        real(folder, *arguments, **more)  # type: ignore[arg-type]
        note(ledger, 3)

    monkeypatch.setattr(Folder, "publish", publish)
    pruning.prune(Folder(tmp_path / "parts"), lambda found: found != key(1))
    assert ledger.keys_of(2) == [key(2)]
    assert ledger.keys_of(3) == [key(3)]
