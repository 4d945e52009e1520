"""Caches that several hosts wrote become one: every entry once and checked, nothing overwritten, kills or not."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dali_pipes.cache import (
    DISK_MODES,
    FileState,
    Key,
    PartsLedger,
    SecretError,
    SourceIndex,
    StoreConfigError,
    StoreIOError,
    open_store,
    tagging,
    transfer,
    upkeep,
)
from dali_pipes.cache.agreement import fingerprint
from dali_pipes.cache.files import Folder
from tests.cache.conftest import OLD, key, note, of, value

SECRET, OTHER = b"s" * 32, b"o" * 32


def fill(directory: Path, mode: str, numbers: range, **options: Any) -> Path:
    """A cache of ``value(n)`` for each number; every third is of another shape."""
    with open_store(mode, directory, strict=True, **options) as store:
        for number in numbers:
            store.put(key(number), of(number))
    return directory


def check(directory: Path, mode: str, numbers: range, **options: Any) -> None:
    with open_store(mode, directory, strict=True, **options) as store:
        assert set(store.keys()) == {key(number) for number in numbers}
        for number in numbers:
            assert np.array_equal(store.get(key(number)), of(number))  # type: ignore[arg-type]


def counts(found: dict[str, Any]) -> tuple[int, int, int, int]:
    return found["imported"], found["present"], found["damaged"], found["conflicts"]


def files(directory: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path.relative_to(directory)): (path.stat().st_ino, path.read_bytes())
        for path in directory.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("mode", DISK_MODES)
@pytest.mark.parametrize("link", [True, False])
def test_parts_become_one_and_a_second_time_adds_nothing(tmp_path: Path, mode: str, link: bool) -> None:
    parts = [fill(tmp_path / "a", mode, range(20)), fill(tmp_path / "b", mode, range(15, 40))]
    before = [files(part) for part in parts]
    told: list[tuple[int, int]] = []
    found = transfer.import_parts(
        tmp_path / "whole", parts, link=link, progress=lambda done, total: told.append((done, total))
    )
    assert counts(found) == (40, 5, 0, 0)
    assert found["linked"] == (40 if link else 0)
    assert told[-1] == (45, 45)
    check(tmp_path / "whole", mode, range(40))
    after = files(tmp_path / "whole")
    again = transfer.import_parts(tmp_path / "whole", parts, link=link)
    assert counts(again) == (0, 45, 0, 0)
    assert files(tmp_path / "whole") == after
    assert [files(part) for part in parts] == before, "parts are only read"
    shared = {inode for part in before for inode, _ in part.values()} & {inode for inode, _ in after.values()}
    assert bool(shared) == link
    assert upkeep.verify(tmp_path / "whole")["corrupt"] == 0


@pytest.mark.parametrize("mode", DISK_MODES)
def test_an_entry_that_is_there_is_never_replaced(tmp_path: Path, mode: str) -> None:
    fill(tmp_path / "part", mode, range(10))
    with open_store(mode, tmp_path / "whole") as store:
        store.put(key(1), value(99))
        store.put(key(2), of(2))
    found = transfer.import_parts(tmp_path / "whole", [tmp_path / "part"])
    assert counts(found) == (8, 1, 0, 1)
    assert found["parts"][0]["conflicts"] == [key(1).hex]
    with open_store(mode, tmp_path / "whole", strict=True) as store:
        assert np.array_equal(store.get(key(1)), value(99))  # type: ignore[arg-type]
        assert np.array_equal(store.get(key(3)), of(3))  # type: ignore[arg-type]
    assert counts(transfer.import_parts(tmp_path / "whole", [tmp_path / "part"])) == (0, 9, 0, 1)


def spoil(directory: Path, mode: str, number: int) -> None:
    """Change a byte of an entry's pixels in its file."""
    wanted = of(number).tobytes()
    for path in (directory / mode).rglob("*"):
        data = path.read_bytes() if path.is_file() else b""
        at = data.find(wanted)
        if mode == "disk" and path.name.startswith(key(number).hex):
            at = len(data) // 2
        if at >= 0:
            path.write_bytes(data[: at + 3] + bytes([data[at + 3] ^ 1]) + data[at + 4 :])
            return
    raise AssertionError("no such entry")


@pytest.mark.parametrize("mode", DISK_MODES)
@pytest.mark.parametrize("link", [True, False])
def test_a_damaged_entry_is_reported_and_left_out(tmp_path: Path, mode: str, link: bool) -> None:
    spoil(fill(tmp_path / "part", mode, range(10)), mode, 4)
    for _ in range(2):
        found = transfer.import_parts(tmp_path / "whole", [tmp_path / "part"], link=link)
        assert found["parts"][0]["damaged"] == [key(4).hex]
    with open_store(mode, tmp_path / "whole", strict=True) as store:
        assert set(store.keys()) == {key(number) for number in range(10) if number != 4}
        store.put(key(4), of(4))
    check(tmp_path / "whole", mode, range(10))


def test_an_entry_whose_record_is_damaged_is_reported_too(tmp_path: Path) -> None:
    fill(tmp_path / "part", "pinned", range(10))
    (journal,) = [path for path in (tmp_path / "part" / "pinned").glob("*.idx") if key(1).digest in path.read_bytes()]
    data = bytearray(journal.read_bytes())
    data[data.index(key(1).digest) + 30] ^= 4  # of its slot
    journal.write_bytes(data)
    for imported in (9, 0):
        found = transfer.import_parts(tmp_path / "whole", [tmp_path / "part"])
        assert (found["imported"], found["parts"][0]["damaged"]) == (imported, [key(1).hex])
    with open_store("pinned", tmp_path / "part") as store:  # put again, which is sound
        store.put(key(1), of(1))
    assert counts(transfer.import_parts(tmp_path / "whole", [tmp_path / "part"])) == (1, 9, 0, 0)


@pytest.mark.parametrize("mode", DISK_MODES)
def test_a_good_entry_takes_the_place_of_a_damaged_one(tmp_path: Path, mode: str) -> None:
    fill(tmp_path / "part", mode, range(10))
    fill(tmp_path / "whole", mode, range(10))
    if mode == "pinned":  # its journal tells what was put, and the next read finds that it is not there any more
        spoil(tmp_path / "whole", mode, 4)
        with open_store(mode, tmp_path / "whole") as store:
            assert store.get(key(4)) is None
    else:
        victim = next(path for path in (tmp_path / "whole" / mode).rglob(f"{key(4).hex}*"))
        victim.write_bytes(victim.read_bytes()[:-5])
        if mode == "tensor-memmap":
            json = victim.with_name(f"{key(4).hex}.json")
            json.write_bytes(b"{")
    found = transfer.import_parts(tmp_path / "whole", [tmp_path / "part"])
    assert counts(found) == (1, 9, 0, 0)
    check(tmp_path / "whole", mode, range(10))


def test_a_segment_that_is_cut_gives_what_is_left_of_it(tmp_path: Path) -> None:
    fill(tmp_path / "part", "pinned", range(1, 30, 3))
    (segment,) = (tmp_path / "part" / "pinned").glob("*.npy")
    os.truncate(segment, 4096 + 216 * 4 + 100)
    found = transfer.import_parts(tmp_path / "whole", [tmp_path / "part"])
    assert (found["imported"], found["damaged"]) == (4, 6)
    check(tmp_path / "whole", "pinned", range(1, 13, 3))
    segment.write_bytes(b"junk" * 2000)
    found = transfer.import_parts(tmp_path / "other", [tmp_path / "part"])
    assert (found["imported"], found["damaged"]) == (0, 10)
    assert not list((tmp_path / "other" / "pinned").iterdir())


@pytest.mark.parametrize("mode", DISK_MODES)
def test_what_was_deleted_and_replaced_in_a_part_does_not_come_back(tmp_path: Path, mode: str) -> None:
    fill(tmp_path / "part", mode, range(10))
    with open_store(mode, tmp_path / "part") as store:
        store.delete(key(1))
        store.put(key(2), value(77))
    assert counts(transfer.import_parts(tmp_path / "whole", [tmp_path / "part"])) == (9, 0, 0, 0)
    with open_store(mode, tmp_path / "whole", strict=True) as store:
        assert store.get(key(1)) is None
        assert np.array_equal(store.get(key(2)), value(77))  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", DISK_MODES)
def test_what_was_deleted_here_can_be_imported_again(tmp_path: Path, mode: str) -> None:
    fill(tmp_path / "part", mode, range(10))
    transfer.import_parts(tmp_path / "whole", [tmp_path / "part"])
    with open_store(mode, tmp_path / "whole") as store:
        for number in range(10):
            store.delete(key(number))
        assert store.keys() == []
        assert counts(transfer.import_parts(tmp_path / "whole", [tmp_path / "part"])) == (10, 0, 0, 0)
        assert len(store.keys()) == 10, "an open store sees what was imported"
    check(tmp_path / "whole", mode, range(10))


def test_a_segment_that_is_still_written_is_copied(tmp_path: Path) -> None:
    with open_store("pinned", tmp_path / "part", strict=True) as store:
        for number in range(1, 20, 3):
            store.put(key(number), of(number))
        found = transfer.import_parts(tmp_path / "whole", [tmp_path / "part"])
        assert (found["imported"], found["linked"]) == (7, 0)
        for number in range(20, 30, 3):
            store.put(key(number), of(number))
        assert counts(transfer.import_parts(tmp_path / "whole", [tmp_path / "part"])) == (4, 7, 0, 0)
    assert sum(1 for _ in (tmp_path / "whole" / "pinned").glob("*.npy")) == 2
    with open_store("pinned", tmp_path / "whole", strict=True) as store:
        assert len(store.keys()) == 11


@pytest.mark.parametrize("mode", DISK_MODES)
@pytest.mark.parametrize(("old", "new"), [(SECRET, SECRET), (SECRET, OTHER), (None, SECRET), (SECRET, None)])
def test_an_export_may_have_other_keyed_checksums(
    tmp_path: Path, mode: str, old: bytes | None, new: bytes | None
) -> None:
    fill(tmp_path / "cache", mode, range(6), secret=old)
    found = transfer.export(tmp_path / "cache", tmp_path / "out", secret=old, out_secret=new)
    assert counts(found) == (6, 0, 0, 0)
    assert found["linked"] == (6 if old == new else 0)
    check(tmp_path / "out", mode, range(6), secret=new)
    assert counts(transfer.export(tmp_path / "cache", tmp_path / "out", secret=old, out_secret=new)) == (0, 6, 0, 0)
    wrong = transfer.export(tmp_path / "cache", tmp_path / "none", secret=b"w" * 32, out_secret=new)
    assert (wrong["imported"], wrong["damaged"]) == (0, 6)


def test_source_records_and_notes_travel_once(tmp_path: Path) -> None:
    for name, numbers in (("a", range(5)), ("b", range(3, 9))):
        fill(tmp_path / name, "npy", numbers)
        note(tmp_path / name, SECRET, numbers)
    parts = [tmp_path / "a", tmp_path / "b"]
    found = transfer.import_parts(tmp_path / "whole", parts)
    assert (found["sources"], found["notes"]) == (9, 9)
    index = SourceIndex(tmp_path / "whole", secret=SECRET, read_only=True)
    ledger = PartsLedger(tmp_path / "whole", secret=SECRET, read_only=True)
    for number in range(9):
        assert index.lookup(f"{number}", FileState(number, OLD, OLD, 7)) == (bytes([number]) * 16, "")
        assert ledger.keys_of(number) == [key(number)]
    again = transfer.import_parts(tmp_path / "whole", parts)
    assert (again["sources"], again["notes"]) == (0, 0)
    assert upkeep.gc(tmp_path / "whole")["merged"] >= 2
    assert transfer.import_parts(tmp_path / "whole", parts)["sources"] == 0


def test_parts_with_another_secret_are_refused(tmp_path: Path) -> None:
    for name, secret in (("a", SECRET), ("b", OTHER)):
        fill(tmp_path / name, "npy", range(3))
        note(tmp_path / name, secret, range(3))
    with pytest.raises(SecretError, match=f"{fingerprint(OTHER)}.*than those in .*whole .{fingerprint(SECRET)}"):
        transfer.import_parts(tmp_path / "whole", [tmp_path / "a", tmp_path / "b"])
    with open_store("npy", tmp_path / "whole") as store:
        assert store.keys() == []
    assert transfer.import_parts(tmp_path / "whole", [tmp_path / "a"])["imported"] == 3
    (tmp_path / "b" / "CACHEDIR.TAG").write_bytes(tagging.TAG)  # as older caches are
    with pytest.raises(SecretError, match="open it once on the host that made it"):
        transfer.import_parts(tmp_path / "whole", [tmp_path / "b"])


def test_an_old_part_is_known_by_its_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dali_pipes.cache import default_secret

    monkeypatch.setenv("DALI_PIPES_CACHE_SECRET", "of both")
    fill(tmp_path / "a", "npy", range(3))
    note(tmp_path / "a", default_secret(), range(3))
    (tmp_path / "a" / "CACHEDIR.TAG").write_bytes(tagging.TAG)
    assert transfer.import_parts(tmp_path / "whole", [tmp_path / "a"])["imported"] == 3
    assert tagging.signature(Folder(tmp_path / "whole")) == fingerprint(default_secret())
    assert tagging.signature(Folder(tmp_path / "a")) is None


def test_wrong_folders(tmp_path: Path) -> None:
    fill(tmp_path / "a", "npy", range(3))
    (tmp_path / "link").symlink_to(tmp_path / "a")
    with pytest.raises(StoreConfigError, match="is not a cache of dali-pipes"):
        transfer.import_parts(tmp_path / "whole", [tmp_path / "a", tmp_path])
    with pytest.raises(StoreConfigError, match="cannot be imported into itself"):
        transfer.import_parts(tmp_path / "a", [tmp_path / "link"])
    with pytest.raises(StoreConfigError, match="nothing to import"):
        transfer.import_parts(tmp_path / "a", [])
    (tmp_path / "whole").write_text("in the way")
    with pytest.raises(StoreIOError, match="run it again"):
        transfer.import_parts(tmp_path / "whole", [tmp_path / "a"])


def test_files_of_other_rights_are_copied(tmp_path: Path) -> None:
    fill(tmp_path / "a", "npy", range(3))
    for path in (tmp_path / "a" / "npy").rglob("*.npy"):
        path.chmod(0o644)
    assert transfer.import_parts(tmp_path / "whole", [tmp_path / "a"])["linked"] == 0
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "whole").rglob("*") if path.is_file()} == {0o600}


def test_file_systems_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [fill(tmp_path / mode, mode, range(6)) for mode in ("npy", "pinned")]

    def refuse(self: Folder, name: str, new: str, source: Folder | None = None) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(Folder, "link", refuse)
    found = transfer.import_parts(tmp_path / "whole", parts)
    assert (found["imported"], found["linked"]) == (12, 0)
    check(tmp_path / "whole", "npy", range(6))


def test_a_full_disk_is_an_error_and_the_next_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for mode in DISK_MODES:
        fill(tmp_path / "part", mode, range(8))
    real, left = Folder.publish, [12]

    def publish(self: Folder, *arguments: Any, **more: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(28, "No space left on device")
        real(self, *arguments, **more)

    monkeypatch.setattr(Folder, "publish", publish)
    with pytest.raises(StoreIOError, match="No space left on device"):
        transfer.import_parts(tmp_path / "whole", [tmp_path / "part"], link=False)
    monkeypatch.undo()
    assert upkeep.verify(tmp_path / "whole")["corrupt"] == 0
    transfer.import_parts(tmp_path / "whole", [tmp_path / "part"])
    for mode in DISK_MODES:
        check(tmp_path / "whole", mode, range(8))


def killed_at(number: int, work: Callable[[], Any]) -> bool:
    """Run ``work`` in a child that dies by SIGKILL before its ``number``-th change of a file; whether it died."""
    child = os.fork()
    if not child:
        changes = 0

        def counted(real: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any, **more: Any) -> Any:
                nonlocal changes
                changes += 1
                if changes == number:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*arguments, **more)

            return call

        for name in ("link", "write", "rename", "unlink", "pwrite", "ftruncate"):
            setattr(os, name, counted(getattr(os, name)))
        try:
            work()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


@pytest.mark.parametrize("mode", DISK_MODES)
@pytest.mark.parametrize("link", [True, False])
def test_killed_at_every_change_of_a_file(tmp_path: Path, mode: str, link: bool) -> None:
    parts = [fill(tmp_path / "a", mode, range(4)), fill(tmp_path / "b", mode, range(2, 7))]
    note(tmp_path / "a", SECRET, range(4))
    number, died = 0, True
    while died:
        number += 1
        whole = tmp_path / f"whole {number}"
        died = killed_at(number, lambda whole=whole: transfer.import_parts(whole, parts, link=link))  # type: ignore[misc]
        if not whole.exists():
            continue
        with open_store(mode, whole, strict=True) as store:
            for each in store.keys():  # noqa: SIM118
                assert store.get(each) is not None
        found = transfer.import_parts(whole, parts, link=link)
        assert (found["imported"] > 0) <= died
        check(whole, mode, range(7))
        assert upkeep.verify(whole)["orphans"] == 0
        assert (len(SourceIndex(whole, secret=SECRET)), found["damaged"]) == (4, 0)
    assert number > 10


def test_keys_of_ones_own(tmp_path: Path) -> None:
    """Without records there is no secret to agree on."""
    with open_store("npy", tmp_path / "a") as store:
        store.put(Key.of(b"x", n=1), np.arange(3))
    assert transfer.import_parts(tmp_path / "whole", [tmp_path / "a"])["imported"] == 1
    assert tagging.signature(Folder(tmp_path / "whole")) is None
