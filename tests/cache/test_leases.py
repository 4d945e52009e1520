"""What dead containers and hosts that were started again left behind goes after a lease, and nothing of the living."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

import dali_pipes.cache.owner
import dali_pipes.cache.shared
from dali_pipes.cache import open_store, upkeep
from dali_pipes.cache.files import Folder
from dali_pipes.cache.owner import Owner, me
from dali_pipes.cache.segment_journal import journal_owner
from tests.cache.conftest import key, value

FOREIGN = "00000000deadbeef-77-88"
"""A process of another host."""


def age(path: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is made from now on is another host's."""
    there = Owner.parse(FOREIGN)
    for module in ("files", "segment_journal", "tensor_memmap", "flight"):
        monkeypatch.setattr(f"dali_pipes.cache.{module}.me", lambda: there)


def leave_all(root: Path) -> list[Path]:
    """One of each kind of leftover, made by a process of another host."""
    with open_store("tensor-memmap", root, strict=True) as store:
        store.put(key(1), value(1))
        (data,) = (root / "tensor-memmap").rglob("*.dat")
    lost = data.with_name(data.name.replace(data.name.split(".")[2], "f" * 16))
    lost.write_bytes(b"never named")
    open_store("pinned", root, strict=True)._writer._make(value(1))  # never closed, so not sealed
    found = [lost, *(root / "pinned").iterdir()]
    for inner, name in (
        ("claims", f"{'0' * 32}.claim"),
        ("claims", f"{'1' * 16}.now"),
        ("sources", f".{FOREIGN}.{'2' * 16}.tmp"),
        ("parts", f".{FOREIGN}.{'2' * 16}.tmp"),
        ("npy", f".{FOREIGN}.{'2' * 16}.tmp"),
        ("", f".{FOREIGN}.{'2' * 16}.tmp"),
    ):
        (root / inner).mkdir(exist_ok=True)
        path = root / inner / name
        path.write_text(FOREIGN if name.endswith("claim") else "")
        found.append(path)
    return found


@pytest.mark.parametrize("old", [False, True])
def test_everything_goes_after_an_hour(old: bool, tmp_path: Path, elsewhere: None) -> None:
    paths = leave_all(tmp_path)
    dead = [path for path in paths if path.suffix != ".del"]
    for path in dead:
        age(path, 3700 if old else 3500)
    assert upkeep.verify(tmp_path)["orphans"] == (len(dead) if old else 0)
    upkeep.gc(tmp_path)
    assert [path for path in dead if path.exists()] == ([] if old else dead)
    with open_store("tensor-memmap", tmp_path, strict=True) as store:
        assert store.get(key(1)) is not None


@pytest.mark.parametrize("old", [False, True])
def test_segments_of_another_host_are_merged_after_an_hour(
    old: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = Owner.parse(FOREIGN)
    for number in range(3):
        with monkeypatch.context() as patch:
            patch.setattr("dali_pipes.cache.segment_journal.me", lambda: there)
            writer = open_store("pinned", tmp_path, strict=True)
            writer.put(key(number), value(number))
    for path in (tmp_path / "pinned").iterdir():
        age(path, 3700 if old else 3500)
    assert upkeep.gc(tmp_path)["merged"] == (2 if old else 0)
    writer.put(key(7), value(7))  # who lives after all takes a new segment
    with open_store("pinned", tmp_path, strict=True) as store:
        for number in (0, 1, 2, 7):
            assert store.get(key(number)) is not None
        owner = journal_owner(Folder(tmp_path / "pinned"), sorted((tmp_path / "pinned").glob("*.idx"))[0].name)
        assert owner is not None


def test_a_wrong_clock_sweeps_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose clock is hours ahead of the file server's."""
    folder = Folder(tmp_path)
    live = tmp_path / f".{FOREIGN}.{'2' * 16}.tmp"
    live.write_bytes(b"")
    real = time.time
    monkeypatch.setattr("dali_pipes.cache.files.time.time", lambda: real() + 10_000)
    assert folder.sweep() == 0
    assert live.exists()
    assert abs(folder.now() - real()) < 100
    assert sorted(tmp_path.iterdir()) == [live], "the look at the clock leaves nothing"


def test_processes_that_proc_hides(monkeypatch: pytest.MonkeyPatch) -> None:
    """With hidepid=2 other users' processes are not in /proc, but live: of them nothing is known."""
    theirs = Owner(me().host, 1, 5)

    def hide(path: str) -> str:
        raise FileNotFoundError(path)

    def kill(pid: int, _: int) -> None:
        raise PermissionError if pid == 1 else ProcessLookupError

    with monkeypatch.context() as patch:
        patch.setattr(dali_pipes.cache.owner, "_text", hide)
        patch.setattr(dali_pipes.cache.owner.os, "kill", kill)
        dead = Owner(me().host, 2, 5)
        assert (theirs.alive(), dead.alive()) == (None, False)


@pytest.mark.parametrize(("seconds", "left"), [(80_000, False), (90_000, True)])
def test_shared_memory_of_a_dead_container(
    seconds: int, left: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dali_pipes.cache.shared, "PLACE", str(tmp_path))
    place = tmp_path / f"dali-pipes-{FOREIGN}-{'a' * 16}"
    with open_store("pinned", place, strict=True) as store:
        store.put(key(1), value(1))
    for path in place.rglob("*"):
        if path.is_file():
            age(path, seconds)
    assert dali_pipes.cache.shared.sweep_shared() == left
    assert place.exists() != left


def test_a_shared_store_in_use_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dali_pipes.cache.shared, "PLACE", str(tmp_path))
    with open_store("memory", shared=True) as store:
        (place,) = tmp_path.iterdir()
        age(place / "CACHEDIR.TAG", 90_000)
        store.refresh()
        assert time.time() - (place / "CACHEDIR.TAG").stat().st_mtime < 1000
