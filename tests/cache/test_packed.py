"""The packed store: its files on disk, its writers and what it makes of damage."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dali_pipes.cache.segment
from dali_pipes.cache import IntegrityError, Key, SingleFlight, Store, StoreConfigError, open_store
from dali_pipes.cache.files import Folder
from dali_pipes.cache.packed import PackedStore
from dali_pipes.cache.segment import capacity
from dali_pipes.cache.segment_journal import journal_owner
from tests.cache.conftest import key, value

WRITER = """
import sys
from dali_pipes.cache import open_store
from tests.cache.conftest import key, value
first, count, directory = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
store = open_store("pinned", directory, strict=True)
for number in range(first, first + count):
    store.put(key(number), value(number))
    print(number, flush=True)
if "wait" in sys.argv:
    sys.stdin.read()
store.close()
"""


def start(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store("pinned", tmp_path, strict=True)


def files(directory: Path, suffix: str) -> list[Path]:
    return sorted((directory / "pinned").glob("*" + suffix))


def test_numpy_opens_a_segment(store: Store, tmp_path: Path) -> None:
    for number in range(3):
        store.put(key(number), value(number))
    (segment,) = files(tmp_path, ".npy")
    array = np.load(segment, mmap_mode="r", allow_pickle=False)
    assert array.shape[1:] == (3, 8, 9)
    assert array.offset == 4096
    assert [bool((array[slot] == value(slot)).all()) for slot in range(3)] == [True] * 3
    assert segment.stat().st_blocks * 512 < 100_000 < segment.stat().st_size, "the file is sparse"


def test_get_is_a_view_of_one_map(store: Store) -> None:
    store.put(key(1), value(1))
    store.put(key(2), value(2))
    one, again, other = store.get(key(1)), store.get(key(1)), store.get(key(2))
    assert one is not None
    assert again is not None
    assert other is not None
    assert np.shares_memory(one, again)
    assert not np.shares_memory(one, other)
    assert not one.flags.owndata


def test_capacity_doubles() -> None:
    mib = 1 << 20
    assert [capacity(mib, number, 1 << 40) for number in range(7)] == [16, 32, 64, 128, 256, 256, 256]
    assert [capacity(mib, number, 1 << 40) for number in (15, 16, 31, 32, 999)] == [256, 512, 512, 1024, 1024]
    assert capacity(mib, 99, 100 * mib) == 100
    assert capacity(300 * mib, 0, 1 << 40) == 1
    assert capacity(0, 0, 1 << 40) == capacity(1, 0, 1 << 40) == 65536


def test_segments_fill_up_and_are_sealed(store: Store, tmp_path: Path) -> None:
    big = [value(number, (6 << 20,)) for number in range(5)]
    for number, array in enumerate(big):
        store.put(key(number), array)
    assert [round(file.stat().st_size / (1 << 20)) for file in files(tmp_path, ".npy")] in ([12, 30], [30, 12])
    other = open_store("pinned", tmp_path, strict=True)
    assert all(np.array_equal(other.get(key(number)), array) for number, array in enumerate(big))  # type: ignore[arg-type]


def test_private_whatever_the_umask(tmp_path: Path) -> None:
    for umask in (0, 0o777):
        old = os.umask(umask)
        try:
            store = open_store("pinned", tmp_path / f"{umask}" / "deep", strict=True)
            store.put(key(1), value(1))
            store.put(key(1), value(2))
        finally:
            os.umask(old)
        for path in [tmp_path / f"{umask}", *(tmp_path / f"{umask}").rglob("*")]:
            assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_many_processes_write_at_once(tmp_path: Path) -> None:
    store = open_store("pinned", tmp_path, strict=True)
    writers = [start(first, 40, tmp_path) for first in (0, 20, 40, 1000)]
    for writer in writers:
        writer.communicate(timeout=60)
        assert writer.returncode == 0
    wanted = [*range(80), *range(1000, 1040)]
    assert set(store.keys()) == {key(number) for number in wanted}
    for number in wanted:
        assert np.array_equal(store.get(key(number)), value(number))  # type: ignore[arg-type]
    assert 2 <= len(files(tmp_path, ".npy")) <= 4, "each writer that came first with anything has its own"


def test_a_killed_writer_keeps_what_it_published(tmp_path: Path) -> None:
    writer = start(0, 30, tmp_path, "wait")
    assert writer.stdout is not None
    for _ in range(30):
        writer.stdout.readline()
    (index,) = files(tmp_path, ".idx")
    store = open_store("pinned", tmp_path, strict=True)
    owner = journal_owner(store._folder, index.name)  # type: ignore[attr-defined]
    assert owner is not None
    assert (owner.pid, owner.alive()) == (writer.pid, True)
    writer.kill()
    writer.communicate()
    assert writer.returncode == -signal.SIGKILL
    assert owner.alive() is False
    assert all(np.array_equal(store.get(key(n)), value(n)) for n in range(30))  # type: ignore[arg-type]
    store.put(key(31), value(31))
    assert len(files(tmp_path, ".idx")) == 2, "nobody appends to a dead writer's journal"


def test_a_partial_record_is_ignored(store: Store, tmp_path: Path) -> None:
    store.put(key(1), value(1))
    store.put(key(2), value(2))
    (index,) = files(tmp_path, ".idx")
    whole = index.read_bytes()
    for length in range(64, 192):
        index.write_bytes(whole[:length])
        assert set(open_store("pinned", tmp_path, strict=True).keys()) == {key(n) for n in (1, 2)[: length // 64 - 1]}
    index.write_bytes(whole[:64] + bytes(64) + whole[128:] + b"\xff" * 100)
    assert open_store("pinned", tmp_path, strict=True).keys() == [key(2)]


def test_a_record_that_comes_in_two_pieces_is_seen_when_whole(store: Store, tmp_path: Path) -> None:
    store.put(key(1), value(1))
    (index,) = files(tmp_path, ".idx")
    whole = index.read_bytes()
    index.write_bytes(whole[:64] + bytes(64))
    other = open_store("pinned", tmp_path, strict=True)
    assert other.get(key(1)) is None
    index.write_bytes(whole)
    assert np.array_equal(other.get(key(1)), value(1))  # type: ignore[arg-type]


def damage(file: Path, offset: int) -> None:
    with file.open("r+b") as handle:
        handle.seek(offset)
        byte = handle.read(1)[0]
        handle.seek(offset)
        handle.write(bytes([byte ^ 1]))


def test_a_damaged_entry_is_a_miss_and_is_rebuilt(store: Store, tmp_path: Path) -> None:
    store.put(key(1), value(1))
    store.put(key(2), value(2))
    (segment,) = files(tmp_path, ".npy")
    damage(segment, 4096 + 17)
    other = open_store("pinned", tmp_path)
    assert other.get(key(1)) is None
    assert other.stats()["corrupt"] == 1
    assert np.array_equal(other.get(key(2)), value(2))  # type: ignore[arg-type]
    third = open_store("pinned", tmp_path, strict=True)
    assert third.get(key(1)) is None, "the others learn of it without checking"
    assert third.stats()["corrupt"] == 0
    other.put(key(1), value(1))
    assert np.array_equal(other.get(key(1)), value(1))  # type: ignore[arg-type]
    assert np.array_equal(third.get(key(1)), value(1))  # type: ignore[arg-type]
    assert np.array_equal(open_store("pinned", tmp_path).get(key(1)), value(1))  # type: ignore[arg-type]


def test_a_damaged_entry_when_strict(store: Store, tmp_path: Path) -> None:
    store.put(key(1), value(1))
    damage(files(tmp_path, ".npy")[0], 4096)
    other = open_store("pinned", tmp_path, strict=True)
    with pytest.raises(IntegrityError, match=r"checksum does not fit its bytes; it was set aside"):
        other.get(key(1))
    assert other.get(key(1)) is None


def test_verify_decides_when_bytes_are_checked(tmp_path: Path) -> None:
    open_store("pinned", tmp_path).put(key(1), value(1))
    first, always, never = (
        open_store("pinned", tmp_path, verify=v, read_only=True) for v in ("first", "always", "never")
    )
    assert first.get(key(1)) is not None
    assert always.get(key(1)) is not None
    damage(files(tmp_path, ".npy")[0], 4096)
    assert first.get(key(1)) is not None
    assert never.get(key(1)) is not None
    assert always.get(key(1)) is None


def test_a_segment_without_live_slots_is_unlinked(store: Store, tmp_path: Path) -> None:
    other = open_store("pinned", tmp_path, strict=True)
    store.put(key(1), value(1))
    held = store.get(key(1))
    assert other.delete(key(1))
    assert files(tmp_path, ".npy") == files(tmp_path, ".idx") == []
    assert np.array_equal(held, value(1))  # type: ignore[arg-type]
    store.put(key(2), value(2))
    assert np.array_equal(other.get(key(2)), value(2))  # type: ignore[arg-type]


def test_a_segment_that_vanishes(store: Store, tmp_path: Path) -> None:
    other = open_store("pinned", tmp_path, strict=True)
    for number in range(3):
        store.put(key(number), value(number))
    held = other.get(key(1))
    for file in (tmp_path / "pinned").iterdir():
        file.unlink()
    assert np.array_equal(other.get(key(1)), value(1))  # type: ignore[arg-type]
    assert other.get(key(2)) is None, "not mapped by then"
    store.put(key(5), value(5))
    assert np.array_equal(other.get(key(5)), value(5))  # type: ignore[arg-type]
    assert other.get(key(1)) is None, "forgotten with its segment"
    assert np.array_equal(held, value(1))  # type: ignore[arg-type]


def test_another_thread_forgets_a_slot_that_is_being_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_store("pinned", tmp_path, strict=True).put(key(1), value(1))
    store = open_store("pinned", tmp_path, strict=True)
    real = dali_pipes.cache.segment.checksum

    def forgotten_meanwhile(*arguments: Any) -> bytes:
        for file in (tmp_path / "pinned").iterdir():
            file.unlink()
        with store._lock:  # type: ignore[attr-defined]
            store._refresh()  # type: ignore[attr-defined]
        return real(*arguments)

    monkeypatch.setattr(dali_pipes.cache.segment, "checksum", forgotten_meanwhile)
    assert store.get(key(1)) is None
    assert store.stats()["errors"] == store.stats()["corrupt"] == 0


def test_another_thread_buries_a_slot_just_before_it_is_checked(store: Store, tmp_path: Path) -> None:
    for number in range(3):
        store.put(key(number), value(number))
    other = open_store("pinned", tmp_path, strict=True)
    segment, slot = other._slots.slots_of(key(1).digest)[0]  # type: ignore[attr-defined]
    other._slots.kill(segment.token, slot, key(1).digest)  # type: ignore[attr-defined]
    with pytest.raises(FileNotFoundError, match="not there any more"):
        other._view(segment, slot, key(1).digest)  # type: ignore[attr-defined]
    assert [other.get(key(number)) is None for number in range(3)] == [False, True, False]


def test_damage_does_not_take_what_its_writer_has_added_since(store: Store, tmp_path: Path) -> None:
    store.put(key(1), value(1))
    other = open_store("pinned", tmp_path)
    for number in range(2, 6):
        store.put(key(number), value(number))
    damage(files(tmp_path, ".npy")[0], 4096)
    assert other.get(key(1)) is None, "all that it knew of the segment"
    with open_store("pinned", tmp_path, strict=True) as third:
        assert [third.get(key(number)) is not None for number in range(1, 6)] == [False, True, True, True, True]


def test_a_segment_is_forgotten_while_it_is_written_to(store: PackedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its file was removed by hand, which another thread has noticed; its journal is still there."""
    store.put(key(1), value(1))
    real, once = store._folder.write_at, []

    def write_at(name: str, offset: int, data: Any) -> None:
        real(name, offset, data)
        if not once:
            once.append(name)
            store._forget(name[:16])

    monkeypatch.setattr(store._folder, "write_at", write_at)
    store.put(key(2), value(2))
    assert np.array_equal(store.get(key(2)), value(2))  # type: ignore[arg-type]


def test_a_writer_does_not_read_its_own_records(store: PackedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put(key(0), value(0))
    store.keys()
    real, read = store._folder.read, []
    monkeypatch.setattr(store._folder, "read", lambda *arguments: read.append(arguments[0]) or real(*arguments))
    other = open_store("pinned", str(store.directory), strict=True)
    for number in range(1, 6):
        store.put(key(number), value(number))
        other.put(key(100 + number), value(number))
    mine = store._slots.slots_of(key(1).digest)[0][0].token
    assert len(store.keys()) == len(other.keys()) == 11
    assert len(read) == 5
    assert f"{mine}.idx" not in read
    assert len(open_store("pinned", str(store.directory), strict=True).keys()) == 11


def test_the_budget_evicts_whole_segments_least_recently_used_first(tmp_path: Path) -> None:
    entry = 1 << 16
    store = open_store("pinned", tmp_path, disk_bytes=6 * (entry + 4096), strict=True)  # one slot a segment
    for number in range(6):
        store.put(key(number), value(number, (entry,)))
    assert store.get(key(0)) is not None
    store.put(key(6), value(6, (entry,)))
    assert {number for number in range(7) if store.contains(key(number))} == {0, 2, 3, 4, 5, 6}
    assert store.stats()["evicted"] == 1
    for number in range(7, 40):
        store.put(key(number), value(number, (entry,)))
        assert sum(file.stat().st_size for file in files(tmp_path, ".npy")) <= 6 * (entry + 4096)
    assert store.stats()["bytes"] <= 6 * (entry + 4096)


def test_an_entry_beyond_the_budget_is_not_stored(tmp_path: Path) -> None:
    store = open_store("pinned", tmp_path, disk_bytes=10_000)
    store.put(key(1), value(1, (20_000,)))
    assert store.get(key(1)) is None
    assert store.stats()["errors"] == 1


def test_what_killed_processes_left_is_swept(store: Store, tmp_path: Path) -> None:
    store.put(key(1), value(1))
    dead = subprocess.Popen(
        [sys.executable, "-c", "from dali_pipes.cache.owner import me; print(me())"], stdout=subprocess.PIPE
    )
    owner = dead.communicate()[0].decode().strip()
    folder = tmp_path / "pinned"
    alive = str(journal_owner(store._folder, files(tmp_path, ".idx")[0].name))  # type: ignore[attr-defined]
    (folder / f".{owner}.{'0' * 16}.tmp").write_bytes(b"half")
    (folder / f".{alive}.{'0' * 16}.tmp").write_bytes(b"under way")
    (folder / f".{'0' * 16}-1-1.{'0' * 16}.tmp").write_bytes(b"of another host, now")
    old = folder / f".{'0' * 16}-1-2.{'0' * 16}.tmp"
    old.write_bytes(b"of another host, long ago")
    os.utime(old, (time.time() - 7200,) * 2)
    (folder / f"{'a' * 16}.npy").write_bytes(b"no journal")
    (folder / f"{'b' * 16}.idx").write_bytes(b"no segment")
    (folder / "notes.txt").write_bytes(b"of the user")
    before = set(os.listdir(folder))
    open_store("pinned", tmp_path, strict=True)
    gone = before - set(os.listdir(folder))
    assert gone == {f".{owner}.{'0' * 16}.tmp", old.name, f"{'a' * 16}.npy", f"{'b' * 16}.idx"}
    assert store.get(key(1)) is not None


def test_a_journal_that_goes_while_orphans_are_looked_for(store: PackedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put(key(1), value(1))
    names = [*store._folder.names(), f"{'c' * 16}.idx", f"{'d' * 16}.idx", f"{'d' * 16}.npy"]
    monkeypatch.setattr(store._folder, "names", lambda: names)
    assert store.orphans() == []


def test_a_forked_child_writes_segments_of_its_own(store: Store, tmp_path: Path) -> None:
    store.put(key(1), value(1))
    child = os.fork()
    if not child:
        code = 1
        try:
            store.put(key(2), value(2))
            store.delete(key(1))
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    store.put(key(3), value(3))
    assert set(store.keys()) == {key(2), key(3)}
    assert len(files(tmp_path, ".idx")) == 2


def test_a_folder_that_cannot_be_made_is_no_cache(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("in the way")
    store = open_store("pinned", tmp_path / "file" / "cache")
    for number in range(3):
        store.put(key(number), value(number))
        assert store.get(key(number)) is None
    assert store.stats()["errors"] >= 3
    assert len([record for record in caplog.records if "cannot write" in record.message]) == 1


def test_another_programs_cache_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "CACHEDIR.TAG").write_bytes(b"Signature: 8a477f597d28d172789f06886806bc55\n# made by pip\n")
    with pytest.raises(StoreConfigError, match="another program"):
        open_store("pinned", tmp_path)


def test_a_symbolic_link_is_not_followed(store: Store, tmp_path: Path) -> None:
    store.put(key(1), value(1))
    (segment,) = files(tmp_path, ".npy")
    segment.rename(tmp_path / "elsewhere")
    segment.symlink_to(tmp_path / "elsewhere")
    other = open_store("pinned", tmp_path)
    assert other.get(key(1)) is None


@pytest.mark.parametrize("secrets", [(b"a" * 32, b"b" * 32), (b"a" * 32, None), (None, b"a" * 32)])
def test_keyed_checksums_refuse_what_others_wrote(tmp_path: Path, secrets: tuple[bytes | None, bytes | None]) -> None:
    open_store("pinned", tmp_path, secret=secrets[0]).put(key(1), value(1))
    store = open_store("pinned", tmp_path, secret=secrets[1], read_only=True)
    assert store.get(key(1)) is None
    assert store.stats()["corrupt"] == 1


def test_is_the_pinned_mode(store: Store) -> None:
    assert isinstance(store, PackedStore)
    assert store.direct


def test_a_put_looks_at_the_folder_twice_and_at_no_journal_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once under the claim, once before it writes: what others published in between is seen, and no more is asked."""
    with open_store("pinned", tmp_path) as store:
        flight = SingleFlight(store)
        for number in range(3):
            flight.get_or_put(Key.of(number=number), lambda: np.zeros(3))
        asked, real = [], Folder.status

        def status(self: Folder, name: str) -> os.stat_result | None:
            asked.append((os.path.basename(self.path), name))
            return real(self, name)

        monkeypatch.setattr(Folder, "status", status)
        _, computed = flight.get_or_put(Key.of(number=9), lambda: np.zeros(3))
        assert computed
        assert asked == [("pinned", "."), ("pinned", ".")]


def test_what_another_process_published_is_found_under_the_claim(tmp_path: Path) -> None:
    with open_store("pinned", tmp_path) as one, open_store("pinned", tmp_path) as other:
        other.put(Key.of(number=0), np.ones(3))
        assert one.known(Key.of(number=0)) is None
        assert one.misses == 0
        found, computed = SingleFlight(one).get_or_put(Key.of(number=0), lambda: pytest.fail("it is there"))
        assert not computed
        assert np.array_equal(found, np.ones(3))
        assert one.known(Key.of(number=0)) is not None
