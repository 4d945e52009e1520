"""What others do to a cache in use: purge it, put a backup over it, replay, rewrite after the check, plant links."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dali_pipes.cache import Key, open_store, upkeep
from dali_pipes.cache.files import Folder
from tests.cache.conftest import key, value
from tests.faults.conftest import MODES, right_or_missing, wanted

MAPPED = ["tensor-memmap", "tensor-disk", "pinned"]


@pytest.mark.parametrize("mode", MODES)
def test_deletes_and_replacements_after_a_purge(mode: str, tmp_path: Path) -> None:
    """The process had its journal of dead slots; the purge by another took it away."""
    with open_store(mode, tmp_path, strict=True) as store:
        for number in range(6):
            store.put(key(number), wanted(number))
        assert store.delete(key(0))
        assert upkeep.purge(tmp_path, dry_run=False)["files"] > 0
        for number in range(6):
            store.put(key(number), wanted(number))
        assert store.delete(key(1))
        store.put(key(2), wanted(2) + 1)
        with open_store(mode, tmp_path, strict=True) as other:
            assert not other.contains(key(1))
            assert np.array_equal(other.get(key(2)), wanted(2) + 1)
            assert right_or_missing(other, (0, 3, 4, 5)) == 4
        assert store.delete(key(3))
        with open_store(mode, tmp_path, strict=True) as other:
            assert not other.contains(key(3))


def test_a_purge_takes_the_notes_on_dead_slots_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever opens the cache in the middle of a purge sees no entry that was replaced."""
    with open_store("pinned", tmp_path, strict=True) as store:
        for number in range(6):
            store.put(key(number), wanted(number))
            store.put(key(number), wanted(number) + 1)
    real = Folder.delete

    def delete(folder: Folder, name: str) -> bool:
        with open_store("pinned", tmp_path, read_only=True) as other:
            for number in range(6):
                found = other.get(key(number))
                assert found is None or np.array_equal(found, wanted(number) + 1)
        return real(folder, name)

    monkeypatch.setattr(Folder, "delete", delete)
    upkeep.purge(tmp_path, dry_run=False)


@pytest.mark.parametrize("count", [60, pytest.param(6000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("mode", MODES)
def test_own_puts_are_checked_at_their_first_get(mode: str, count: int, tmp_path: Path) -> None:
    """As after a failed writeback: what the disk holds is not what was written, and nobody was told."""
    with open_store(mode, tmp_path) as store:
        for number in range(count):
            store.put(key(number), wanted(number))
        for path in tmp_path.rglob("*"):
            if path.is_file() and path.suffix in (".npy", ".dat", ".png", ".pt"):
                data = bytearray(path.read_bytes())
                start = 4096 if mode == "pinned" else 0
                data[start:-64] = bytes(len(data) - start - 64) if len(data) > start + 64 else b""
                with path.open("r+b") as file:
                    file.write(data)
        assert right_or_missing(store, range(count)) < count
        assert store.stats()["corrupt"] > 0


@pytest.mark.parametrize("way", ["in place", "by rename"])
def test_an_old_backup_over_a_cache_in_use(way: str, tmp_path: Path) -> None:
    """Noticed when an epoch begins: nothing else than what was put is served from then on."""
    cache, backup = tmp_path / "cache", tmp_path / "backup"
    with open_store("pinned", cache, strict=True) as store:
        for number in range(0, 30, 3):
            store.put(key(number), wanted(number))
        shutil.copytree(cache, backup)
        for number in range(30, 60, 3):
            store.put(key(number), wanted(number))
        assert right_or_missing(store, range(0, 60, 3)) == 20
        for path in backup.rglob("*"):
            if path.is_file():
                target = cache / path.relative_to(backup)
                if way == "by rename":
                    shutil.copy(path, target.with_suffix(".new"))
                    os.replace(target.with_suffix(".new"), target)
                else:
                    with target.open("r+b") as file:  # as cp does, without the moment at which the file is empty
                        file.write(path.read_bytes())
                        file.truncate()
        store.refresh()
        assert right_or_missing(store, range(0, 30, 3)) == 10
        assert right_or_missing(store, range(30, 60, 3)) == 0
        store.put(key(100), wanted(100))
        assert right_or_missing(store, [100]) == 1


@pytest.mark.parametrize("mode", MODES)
def test_what_is_rewritten_after_the_check(mode: str, tmp_path: Path) -> None:
    """Under verify="always" the bytes that were checked are the ones that are handed out."""
    secret = b"s" * 32
    with open_store(mode, tmp_path, strict=True, secret=secret, verify="always") as store:
        store.put(key(1), value(1, (200,)))
        found = store.get(key(1))
        assert found is not None
        for path in tmp_path.rglob("*"):
            if path.is_file() and path.suffix in (".npy", ".dat", ".png", ".pt"):
                with path.open("r+b") as file:
                    file.write(b"\xff" * path.stat().st_size)
        assert np.array_equal(found, value(1, (200,)))


@pytest.mark.parametrize("mode", MODES)
def test_a_link_in_place_of_a_modes_folder(mode: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    mine, theirs = tmp_path / "mine", tmp_path / "theirs"
    for place in (mine, theirs):
        with open_store(mode, place, strict=True) as store:
            store.put(key(1), value(1))
    shutil.rmtree(mine / mode)
    (mine / mode).symlink_to(theirs / mode)
    with open_store(mode, mine) as store:
        assert store.get(key(1)) is None
        store.put(key(2), value(2))
        assert store.keys() == []
        assert not store.delete(key(1))
    assert "a file or a link, not a folder of the cache" in caplog.text
    found = upkeep.purge(mine, dry_run=False)
    assert (found["files"], found["unknown"]) == (0, 1)
    upkeep.gc(mine, disk_bytes=1)
    with open_store(mode, theirs, strict=True) as store:
        assert store.keys() == [key(1)]


@pytest.mark.parametrize("mode", ["memory", "tiered", *MODES])
def test_put_and_get_survive_a_lack_of_memory(mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_store(mode, None if mode == "memory" else tmp_path) as store:
        store.put(key(1), value(1))

        def refuse(*_: Any) -> Any:
            raise MemoryError

        with monkeypatch.context() as patch:
            patch.setattr(store, "_put", refuse)
            store.put(key(2), value(2))
        with monkeypatch.context() as patch:
            patch.setattr(store, "_get", refuse)
            assert store.get(Key.of(other=1)) is None
        found = store.stats()
        assert (found["errors"], found["corrupt"]) == (2, 0)
        assert np.array_equal(store.get(key(1)), value(1))


def test_a_lack_of_memory_while_reading_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for mode in ("npy", "disk", "tensor-memmap"):
        with open_store(mode, tmp_path, verify="always") as store:
            store.put(key(1), value(1))
            with monkeypatch.context() as patch:
                patch.setattr("numpy.empty", _refuse)
                assert store.get(key(1)) is None
            assert store.stats()["corrupt"] == 0
            assert np.array_equal(store.get(key(1)), value(1))


def _refuse(*_: Any, **__: Any) -> Any:
    raise MemoryError


@pytest.mark.parametrize("damage", ["folder", "unreadable", "fifo", "link"])
def test_one_unreadable_journal_is_isolated(damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for turn in range(3):
        with open_store("pinned", tmp_path, strict=True) as store:
            for number in range(turn, 9, 3):
                store.put(key(number), wanted(0))
    bad = sorted((tmp_path / "pinned").glob("*.idx"))[0]
    if damage == "unreadable":
        real = Folder.read

        def read(folder: Folder, name: str, *more: Any, **named: Any) -> bytes:
            if name == bad.name:
                raise OSError(errno.EIO, "the disk is bad")
            return real(folder, name, *more, **named)

        monkeypatch.setattr(Folder, "read", read)
    else:
        bad.unlink()
        {"folder": bad.mkdir, "fifo": lambda: os.mkfifo(bad), "link": lambda: bad.symlink_to("/dev/zero")}[damage]()
    with open_store("pinned", tmp_path, strict=True) as store:
        assert len(store.keys()) == 6
        assert sum(store.get(key(number)) is not None for number in range(9)) == 6
        store.put(key(10), wanted(0))
        assert store.delete(key(10))
        assert store.page_lock() == 0
        store.compact()
        store.refresh()


def test_evicted_segments_are_unmapped(tmp_path: Path) -> None:
    """Also where a reader maps a segment again just after it was forgotten; and nothing grows with what has left."""
    with open_store("pinned", tmp_path, disk_bytes=40_000, strict=True) as store:
        late = None
        for number in range(300):
            store.put(key(number), value(number, (2000,)))
            assert store.get(key(number)) is not None
            if number % 10 == 5:
                late = store._slots.slots_of(key(number).digest)[0][0]
                late.map()
            if number % 10 == 6 and late is not None:
                store._unlink(late.token)
                late.array = np.zeros(1)  # as a thread that had it in its hand would set it
        assert len(store._segments) < 25
        assert len(store._segments) == len(store._slots.numbers)
        late = None
        assert mappings(tmp_path) <= len(store._segments)


def mappings(folder: Path) -> int:
    return sum(str(folder) in line for line in Path("/proc/self/maps").read_text().splitlines())
