"""Merging of small packed segments: what it merges, what it leaves, and what it must survive."""

from __future__ import annotations

import contextlib
import errno
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dali_pipes.cache.compact
import dali_pipes.cache.files
import dali_pipes.cache.lock
from dali_pipes.cache import Key, Store, StoreIOError, open_store, upkeep
from dali_pipes.cache.integrity import checksum, payload
from dali_pipes.cache.lock import exclusive
from dali_pipes.cache.segment_journal import dead_record, header_record
from tests.cache.conftest import key, value
from tests.faults.conftest import in_child, kill, right_or_missing, wanted

RUNS, EACH = 6, 12
NUMBERS = range(RUNS * EACH)


def short_runs(directory: Path, runs: int = RUNS, step: int = 1, **options: Any) -> None:
    """Many runs that each put a few entries, of three shapes (of one, if ``step`` is 3), and end."""
    for run in range(runs):
        with open_store("pinned", directory, strict=True, **options) as store:
            for number in range(run * EACH, (run + 1) * EACH, step):
                store.put(key(number), wanted(number))


def segments(directory: Path) -> list[Path]:
    return sorted((directory / "pinned").glob("*.npy"))


def compact(store: Store, dry_run: bool = False) -> int:
    return store.compact(dry_run)  # type: ignore[attr-defined,no-any-return]


def all_there(directory: Path, numbers: range = NUMBERS) -> None:
    with open_store("pinned", directory, strict=True, verify="always") as store:
        assert right_or_missing(store, numbers) == len(numbers)
        assert store.stats()["entries"] == len(numbers)


def test_many_short_runs_become_one_segment_a_shape(tmp_path: Path) -> None:
    short_runs(tmp_path)
    before = segments(tmp_path)
    assert len(before) == 3 * RUNS
    assert upkeep.gc(tmp_path, dry_run=True)["merged"] == 3 * (RUNS - 1)
    assert segments(tmp_path) == before
    assert upkeep.gc(tmp_path)["merged"] == 3 * (RUNS - 1)
    assert len(segments(tmp_path)) == 3
    assert {file.suffix for file in (tmp_path / "pinned").iterdir()} == {".npy", ".idx"}
    for file in segments(tmp_path):
        assert len(np.load(file, mmap_mode="r", allow_pickle=False)) == RUNS * EACH / 3, "no slot is empty"
    all_there(tmp_path)
    assert upkeep.gc(tmp_path)["merged"] == 0, "and it stays so"


def test_it_frees_what_is_dead(tmp_path: Path) -> None:
    with open_store("pinned", tmp_path, strict=True) as store:
        for number in range(100):
            store.put(key(number), value(number, (10_000,)))
        for number in range(90):
            store.delete(key(number))
    found = upkeep.gc(tmp_path)
    assert found["freed"] > 800_000
    assert not list((tmp_path / "pinned").glob("*.del")), "those who are buried there are gone"
    with open_store("pinned", tmp_path, strict=True) as store:
        assert set(store.keys()) == {key(number) for number in range(90, 100)}
        assert store.get(key(95)).tobytes() == value(95, (10_000,)).tobytes()  # type: ignore[union-attr]


def test_a_segment_that_is_being_filled_is_left_alone(tmp_path: Path) -> None:
    short_runs(tmp_path, 2)
    with open_store("pinned", tmp_path, strict=True) as writer:
        writer.put(key(24), wanted(24))
        (mine,) = set(segments(tmp_path)) - sealed(tmp_path)
        assert upkeep.gc(tmp_path)["merged"] == 3
        assert mine.exists()
        for number in range(25, 36):
            writer.put(key(number), wanted(number))
        assert right_or_missing(writer, range(36)) == 36
    all_there(tmp_path, range(36))


def sealed(directory: Path) -> set[Path]:
    with open_store("pinned", directory, read_only=True) as store:
        store.keys()
        done = store._entries.complete  # type: ignore[attr-defined]
    return {file for file in segments(directory) if file.stem in done}


def test_large_segments_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dali_pipes.cache.compact, "LARGEST", 4 * EACH // 3 * wanted(0).nbytes)
    short_runs(tmp_path)
    upkeep.gc(tmp_path)
    there = segments(tmp_path)
    assert 3 < len(there) < 3 * RUNS
    for _ in range(2):
        upkeep.gc(tmp_path)
        assert segments(tmp_path) == there
    all_there(tmp_path)


def test_a_budget_is_kept(tmp_path: Path) -> None:
    short_runs(tmp_path)
    used = upkeep.stats(tmp_path)["bytes"]
    assert upkeep.gc(tmp_path, disk_bytes=64 << 20)["merged"] > 0
    assert sum(file.stat().st_size for file in segments(tmp_path)) <= 64 << 20
    assert upkeep.stats(tmp_path)["bytes"] <= used
    with open_store("pinned", tmp_path, disk_bytes=64 << 20, strict=True) as store:
        right_or_missing(store, NUMBERS)


def test_no_room_for_both_copies(tmp_path: Path) -> None:
    def add(numbers: range) -> None:
        for number in numbers:
            with open_store("pinned", tmp_path, strict=True) as store:
                store.put(key(number), value(number, (100,)))

    budget = 40_000  # a segment of one entry takes two blocks of 4096
    add(range(5))
    with open_store("pinned", tmp_path, disk_bytes=budget) as store:
        assert compact(store) == 0, "they take all of it"
        assert len(store.keys()) == 5
        store.delete(key(4))
        assert compact(store) == 3
        assert set(store.keys()) == {key(number) for number in range(4)}


def test_a_store_that_was_open_before_finds_what_moved(tmp_path: Path) -> None:
    short_runs(tmp_path)
    with (
        open_store("pinned", tmp_path, strict=True) as cold,
        open_store("pinned", tmp_path, strict=True) as warm,
        open_store("pinned", tmp_path, strict=True, read_only=True) as reader,
    ):
        assert right_or_missing(warm, NUMBERS) == len(NUMBERS)
        held = [warm.get(key(number)) for number in NUMBERS]
        upkeep.gc(tmp_path)
        for store in (cold, warm, reader):
            assert right_or_missing(store, NUMBERS) == len(NUMBERS)
            assert store.stats()["corrupt"] == store.stats()["errors"] == 0
        assert warm.delete(key(3))
        assert not cold.delete(key(3))
        cold.put(key(4), wanted(4 + 3))
        assert warm.get(key(4)) is None or warm.keys()
        assert warm.get(key(4)).tobytes() == wanted(7).tobytes()  # type: ignore[union-attr]
        for number, found in zip(NUMBERS, held):
            assert found is not None
            assert found.tobytes() == wanted(number).tobytes()


def meanwhile(monkeypatch: pytest.MonkeyPatch, work: Callable[[], None]) -> None:
    """Does ``work`` each time a copy is made and has not been published."""
    real = dali_pipes.cache.compact.exclusive

    def after_the_copy(folder: Any) -> Any:
        work()
        return real(folder)

    monkeypatch.setattr(dali_pipes.cache.compact, "exclusive", after_the_copy)


def test_what_is_deleted_or_replaced_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short_runs(tmp_path)
    with open_store("pinned", tmp_path, strict=True) as other:

        def work() -> None:
            other.delete(key(1))
            other.put(key(2), wanted(2 + 3))
            other.put(key(200), wanted(200))
            for number in range(3, RUNS * EACH, 3):  # all of one segment
                if number < EACH:
                    other.delete(key(number))

        meanwhile(monkeypatch, work)
        assert upkeep.gc(tmp_path)["merged"] > 0
        gone = {1, 3, 6, 9}
        for each in (other, open_store("pinned", tmp_path, strict=True)):
            assert set(each.keys()) == {key(number) for number in [*NUMBERS, 200] if number not in gone}
            assert each.get(key(2)).tobytes() == wanted(5).tobytes()  # type: ignore[union-attr]
            assert each.get(key(4)).tobytes() == wanted(4).tobytes()  # type: ignore[union-attr]


def test_segments_are_removed_while_they_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a writer does that deletes the last entry of a segment: the others of its shape are merged all the same."""
    short_runs(tmp_path, step=3)
    gone: set[bytes] = set()
    real = dali_pipes.cache.compact.Compactor._copy
    with open_store("pinned", tmp_path, strict=True) as other:

        def copy(compactor: Any, merge: dali_pipes.cache.compact.Merge) -> Iterator[Any]:
            parts = real(compactor, merge)
            yield next(parts)
            yield next(parts)  # an entry of the first segment
            ends = {merge.moves[0][0], merge.moves[-1][0]}
            gone.update(digest for segment, _, digest, _ in merge.moves if segment in ends)
            for digest in gone:
                assert other.delete(Key(digest))
            yield from parts

        monkeypatch.setattr(dali_pipes.cache.compact.Compactor, "_copy", copy)
        with open_store("pinned", tmp_path, strict=True) as store:
            assert compact(store) == RUNS - 2 - 1, "the four that are left are one"
        kept = [number for number in NUMBERS[::3] if key(number).digest not in gone]
        assert len(kept) == len(NUMBERS[::3]) * (RUNS - 2) // RUNS
        assert set(other.keys()) == {key(number) for number in kept}
        assert right_or_missing(other, kept) == len(kept)
    found = upkeep.verify(tmp_path)
    assert (found["corrupt"], found["orphans"], len(segments(tmp_path))) == (0, 0, 1)


@pytest.mark.parametrize(
    ("gone", "doubled", "fewer"),
    [("", 8, 2), ("", 2, 1), ("evicted", 8, 0), ("evicted", 2, 0), ("damaged", 8, 1), ("damaged", 2, 0)],
)
def test_the_other_copy_of_an_entry_goes_meanwhile(
    gone: str, doubled: int, fewer: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes have put the same at once, and one still fills its segment: what is lost there stays here."""
    short_runs(tmp_path, 2, 3)
    numbers, before = range(0, 2 * EACH, 3), set(segments(tmp_path))
    with open_store("pinned", tmp_path, strict=True) as other:
        for number in numbers[:doubled]:
            array = wanted(number)
            total = checksum(key(number).digest, array.dtype, array.shape, [payload(array)], None)
            other._writer.write(key(number).digest, array, total)  # type: ignore[attr-defined]
        other.put(key(99), wanted(99))
        (theirs,) = set(segments(tmp_path)) - before

        def work() -> None:
            if gone == "evicted":
                other._unlink(theirs.stem)  # type: ignore[attr-defined]
            elif gone == "damaged":
                segment = other._slots.segment(theirs.stem)  # type: ignore[attr-defined]
                other._bury(segment, 0, key(0).digest)  # type: ignore[attr-defined]

        meanwhile(monkeypatch, work)
        assert upkeep.gc(tmp_path)["merged"] == fewer
    with open_store("pinned", tmp_path, strict=True, verify="always") as store:
        assert right_or_missing(store, numbers) == len(numbers)
        assert (store.get(key(99)) is None) == (gone == "evicted")


def test_a_segment_without_its_data_is_not_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its journal is still there, so that only the copying tells."""
    short_runs(tmp_path, step=3)
    real = dali_pipes.cache.compact.Compactor._copy

    def copy(compactor: Any, merge: dali_pipes.cache.compact.Merge) -> Iterator[Any]:
        (tmp_path / "pinned" / merge.moves[-1][0].name).unlink()
        yield from real(compactor, merge)

    monkeypatch.setattr(dali_pipes.cache.compact.Compactor, "_copy", copy)
    with open_store("pinned", tmp_path, strict=True) as store:
        compact(store)
    assert upkeep.verify(tmp_path)["corrupt"] == 0
    with open_store("pinned", tmp_path, strict=True) as store:
        assert right_or_missing(store, NUMBERS[::3]) == len(NUMBERS[::3]) * (RUNS - 1) // RUNS


def test_everything_is_purged_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short_runs(tmp_path)
    meanwhile(monkeypatch, lambda: upkeep.purge(tmp_path, dry_run=False) and None)
    assert upkeep.gc(tmp_path)["merged"] == 0
    with open_store("pinned", tmp_path, strict=True) as store:
        assert store.keys() == []
    assert segments(tmp_path) == []


def test_keyed_checksums_and_damage_travel_unchanged(tmp_path: Path) -> None:
    short_runs(tmp_path, secret=b"k" * 32)
    with segments(tmp_path)[0].open("r+b") as file:
        file.seek(4096 + 5)
        file.write(b"\xff\x00\xff")
    assert upkeep.verify(tmp_path, secret=b"k" * 32)["corrupt"] == 1
    upkeep.gc(tmp_path)
    found = upkeep.verify(tmp_path, secret=b"k" * 32)
    assert (found["entries"], found["corrupt"], found["orphans"]) == (len(NUMBERS) - 1, 1, 0)


def test_a_folder_that_cannot_be_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short_runs(tmp_path)

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(dali_pipes.cache.lock.fcntl, "flock", refuse)
    monkeypatch.setattr(dali_pipes.cache.compact.Compactor, "_copy", lambda *_: pytest.fail("copied in vain"))
    before = segments(tmp_path)
    with open_store("pinned", tmp_path, strict=True) as store, pytest.raises(StoreIOError, match="cannot be locked"):
        compact(store)
    assert segments(tmp_path) == before
    with open_store("pinned", tmp_path, strict=True) as store:
        assert store.delete(key(1)), "deletions need no lock where nothing is merged"


def test_a_lock_that_is_refused_only_after_the_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short_runs(tmp_path)
    monkeypatch.setattr(dali_pipes.cache.compact, "exclusive", lambda _: contextlib.nullcontext(False))
    before = segments(tmp_path)
    with open_store("pinned", tmp_path, strict=True) as store, pytest.raises(StoreIOError, match="cannot be locked"):
        compact(store)
    assert segments(tmp_path) == before
    all_there(tmp_path)


def test_a_tomb_that_is_dug_while_tombs_are_looked_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer makes a segment, buries one of its entries and dies, all after the folder was listed."""
    short_runs(tmp_path, 1, 3)
    with open_store("pinned", tmp_path, strict=True) as store:
        store.delete(key(0))
    (tomb,) = (tmp_path / "pinned").glob("*.del")
    with open_store("pinned", tmp_path, strict=True) as store:
        token = "0" * 15 + "1"
        real, late = dali_pipes.cache.compact.is_abandoned, []

        def is_left(folder: Any, name: str) -> bool:
            if name == tomb.name and not late:
                late.append(name)
                (tmp_path / "pinned" / f"{token}.idx").write_bytes(header_record(token))
                tomb.write_bytes(tomb.read_bytes()[:64] + dead_record(token, 0, key(0).digest))
                return real(folder, name) or True
            return real(folder, name)

        monkeypatch.setattr(dali_pipes.cache.compact, "is_abandoned", is_left)
        compact(store)
    assert late
    assert tomb.exists()


def test_whoever_holds_the_lock_too_long_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short_runs(tmp_path, 1)
    monkeypatch.setattr(dali_pipes.cache.lock, "PATIENCE", 0.02)
    with open_store("pinned", tmp_path, strict=True) as store, open_store("pinned", tmp_path) as other:
        with exclusive(other._folder) as held:  # type: ignore[attr-defined]
            assert held
            with pytest.raises(StoreIOError, match="another process has locked"):
                store.delete(key(1))
            assert store.get(key(1)) is not None
            store.put(key(50), wanted(50))
        assert store.delete(key(1))


def test_a_forked_child_does_not_keep_the_lock(tmp_path: Path) -> None:
    short_runs(tmp_path, 1)
    with open_store("pinned", tmp_path, strict=True) as store:
        with exclusive(store._folder):  # type: ignore[attr-defined]
            child = in_child(signal.pause)
        assert store.delete(key(1))
        kill(child)
