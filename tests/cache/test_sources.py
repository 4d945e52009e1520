"""The index of source files: what it remembers, what it forgets, and what it does not write."""

from __future__ import annotations

import contextlib
import os
import pickle
import time
from pathlib import Path

import numpy as np
import pytest

from dali_pipes.cache import (
    FileState,
    IntegrityError,
    Key,
    PartsLedger,
    SecretError,
    SourceIndex,
    StoreConfigError,
    sources,
    upkeep,
)
from dali_pipes.cache.files import Folder
from dali_pipes.cache.journal import seal, seal_signed, valid
from dali_pipes.cache.sources import RECORD, TAG_BYTES

SECRET = b"s" * 32
OLD = 1_700_000_000_123_456_789
CONTENT = bytes(range(16))


def state(size: int, mtime: int = OLD) -> FileState:
    """Of a file that nobody touched since it was written."""
    return FileState(size, mtime, mtime, 7)


def index(directory: Path | None, **more: object) -> SourceIndex:
    return SourceIndex(directory, secret=SECRET, **more)  # type: ignore[arg-type]


def test_remembers_across_instances(tmp_path: Path) -> None:
    one = index(tmp_path)
    assert one.lookup("a.dcm", state(10)) is None
    assert one.record("a.dcm", state(10, OLD), CONTENT, "dcm.4.70")
    for other in (one, index(tmp_path), pickle.loads(pickle.dumps(one))):  # noqa: S301
        assert other.lookup("a.dcm", state(10)) == (CONTENT, "dcm.4.70")
        assert other.lookup("a.dcm", state(11)) is None
        assert other.lookup("a.dcm", state(10, OLD + 1)) is None
        assert other.lookup("b.dcm", state(10)) is None
        assert other.contents("a.dcm") == {CONTENT}
        assert other.contents("b.dcm") == set()


def test_several_states_of_a_file(tmp_path: Path) -> None:
    one = index(tmp_path)
    one.record("a", state(1, OLD), CONTENT, "png")
    one.record("a", state(2, OLD + 5), CONTENT[::-1], "jpeg")
    other = index(tmp_path)
    assert other.lookup("a", state(1)) == (CONTENT, "png")
    assert other.lookup("a", state(2, OLD + 5)) == (CONTENT[::-1], "jpeg")
    assert other.contents("a") == {CONTENT, CONTENT[::-1]}
    other.record("a", state(2, OLD + 5), bytes(16), "new")
    assert other.lookup("a", state(2, OLD + 5)) == (bytes(16), "new")


def test_sees_what_others_record(tmp_path: Path) -> None:
    one, two = index(tmp_path), index(tmp_path)
    one.record("a", state(1, OLD), CONTENT)
    assert two.lookup("a", state(1)) == (CONTENT, "")
    two.record("b", state(1, OLD), CONTENT)
    one.record("c", state(1, OLD), CONTENT)
    assert one.lookup("b", state(1)) == (CONTENT, "")
    assert two.lookup("c", state(1)) == (CONTENT, "")


def test_does_not_remember_what_was_modified_just_now(tmp_path: Path) -> None:
    one, now = index(tmp_path), time.time_ns()
    assert not one.record("a", state(1, now), CONTENT)
    assert one.lookup("a", state(1, now)) is None
    whole = now // 10**9 * 10**9
    assert not one.record("a", state(1, whole - 10**9), CONTENT), "a clock of whole seconds needs two"
    assert one.record("a", state(1, whole - 10**10), CONTENT)
    assert one.record("a", state(1, now - 10**9), CONTENT) == ((now - 10**9) % 10**9 != 0)


def test_in_memory_only() -> None:
    one = index(None)
    one.record("a", state(1, OLD), CONTENT, "png")
    assert one.lookup("a", state(1)) == (CONTENT, "png")
    with pytest.raises(StoreConfigError, match="give it the cache's directory"):
        pickle.dumps(one)


def test_no_path_is_written(tmp_path: Path) -> None:
    index(tmp_path).record("/archive/DOE^JANE/19600101.dcm", state(77, OLD), CONTENT, "dcm")
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    written += "".join(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")).encode()
    assert b"dcm" in written
    for canary in (
        b"DOE",
        b"JANE",
        b"19600101",
        b"archive",
        CONTENT,
        (77).to_bytes(8, "little"),
        OLD.to_bytes(8, "little"),
    ):
        assert canary not in written
    with pytest.raises(SecretError, match="made with another secret"):
        SourceIndex(tmp_path, secret=b"t" * 32)


def test_damage_is_forgotten(tmp_path: Path) -> None:
    one = index(tmp_path)
    for number in range(10):
        one.record(f"{number}", state(number, OLD), CONTENT)
    (journal,) = (tmp_path / "sources").iterdir()
    data = bytearray(journal.read_bytes())
    size = RECORD.itemsize
    data[3 * size + 20] ^= 4
    data[5 * size : 6 * size] = bytes(size)
    journal.write_bytes(data[: 9 * size + 30])
    other = index(tmp_path)
    assert [other.lookup(f"{n}", state(n)) is not None for n in range(10)] == [n not in (3, 5, 9) for n in range(10)]


def test_a_forked_child_has_a_journal_of_its_own(tmp_path: Path) -> None:
    one = index(tmp_path)
    one.record("parent", state(1, OLD), CONTENT)
    child = os.fork()
    if not child:
        os._exit(0 if one.record("child", state(1, OLD), CONTENT) else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert len(list((tmp_path / "sources").iterdir())) == 2
    assert one.lookup("child", state(1)) == (CONTENT, "")


def test_read_only_and_unwritable(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    one = index(tmp_path / "none", read_only=True)
    assert not one.record("a", state(1, OLD), CONTENT)
    assert not (tmp_path / "none").exists()
    (tmp_path / "file").write_text("in the way")
    two = index(tmp_path / "file")
    for number in range(3):
        assert not two.record(f"{number}", state(1, OLD), CONTENT)
    assert two.errors == 4
    assert len(caplog.records) == 1
    assert two.lookup("1", state(1)) == (CONTENT, ""), "still known in this process"


def test_bad_arguments(tmp_path: Path) -> None:
    with pytest.raises(StoreConfigError, match="content is 16 bytes and a tag is ASCII; got 5 bytes"):
        index(tmp_path).record("a", state(1), b"short")
    with pytest.raises(StoreConfigError, match="got 16 bytes and 'é'"):
        index(tmp_path).record("a", state(1), CONTENT, "é")


def test_a_tag_too_long_is_not_remembered(tmp_path: Path) -> None:
    one = index(tmp_path)
    assert one.record("a", state(1), CONTENT, "t" * TAG_BYTES)
    assert index(tmp_path).lookup("a", state(1)) == (CONTENT, "t" * TAG_BYTES)
    assert not one.record("b", state(1), CONTENT, "t" * (TAG_BYTES + 1))
    assert one.lookup("b", state(1)) is None


def test_another_file_of_the_same_size_and_mtime(tmp_path: Path) -> None:
    one = index(tmp_path)
    one.record("a", state(1), CONTENT)
    for other in (FileState(1, OLD, OLD, 8), FileState(1, OLD, OLD + 1, 7)):
        assert index(tmp_path).lookup("a", other) is one.lookup("a", other) is None


def test_files_swapped_by_rename_are_other_files(tmp_path: Path) -> None:
    """The records alone: `mv` keeps size and mtime, and may keep the ctime too."""
    one, paths = index(tmp_path / "cache"), [tmp_path / "a", tmp_path / "b"]
    for number, path in enumerate(paths):
        path.write_bytes(bytes([number]))
        os.utime(path, ns=(OLD, OLD))
        one.record(path, FileState.of(path.stat())._replace(ctime_ns=OLD), bytes([number]) * 16)
    paths[0].rename(tmp_path / "c")
    paths[1].rename(paths[0])
    (tmp_path / "c").rename(paths[1])
    for path in paths:
        assert one.lookup(path, FileState.of(path.stat())._replace(ctime_ns=OLD)) is None


def test_records_that_somebody_without_the_secret_made(tmp_path: Path) -> None:
    """Two records whose contents are exchanged, one whose path is; their checks are right."""
    one = index(tmp_path)
    for name, content in (("a", b"A" * 16), ("b", b"B" * 16)):
        one.record(name, state(1), content)
    (journal,) = (tmp_path / "sources").iterdir()
    records = np.frombuffer(bytearray(journal.read_bytes()), RECORD)
    records["content"] = records["content"][::-1].copy()
    moved = records[:1].copy()
    moved["path"] = records["path"][1]
    forged = b"".join(seal(record.tobytes()[:-8]) for record in (*records, *moved))
    forged += seal_signed(records[0].tobytes()[:-16], bytes(32))
    assert valid(np.frombuffer(forged, RECORD)).all()
    journal.write_bytes(forged)
    other = index(tmp_path)
    assert len(other) == 4
    assert other.lookup("a", state(1)) is other.lookup("b", state(1)) is None
    assert other.contents("a") == set()
    (tmp_path / "sources" / f"{1:016x}.seen").write_bytes(forged)
    for name, content in (("a", b"A" * 16), ("b", b"B" * 16), ("c", None)):
        found = one.lookup(name, state(1))
        assert found == (content and (content, "")), "what it knows is not unlearned"


def test_journals_of_an_older_layout_are_not_misread(tmp_path: Path) -> None:
    old = tmp_path / "sources" / f"{0:016x}.src"
    index(tmp_path).record("a", state(1), CONTENT)
    old.write_bytes(b"".join(seal(os.urandom(56)) for _ in range(13)))
    one = index(tmp_path)
    assert len(one) == 1
    assert one.lookup("a", state(1)) == (CONTENT, "")
    assert upkeep.stats(tmp_path)["sources"] == 1
    assert upkeep.gc(tmp_path)["orphans"] == 1
    assert not old.exists()


@pytest.mark.parametrize("how", ["unreadable", "shrinking"])
def test_one_bad_journal_costs_its_own_records_only(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in "ab":
        index(tmp_path).record(name, state(1), CONTENT)
    bad, real = sorted((tmp_path / "sources").iterdir())[0].name, Folder.read

    def read(folder: Folder, name: str, *more: int, **named: int) -> bytes:
        if name == bad and how == "unreadable":
            raise OSError(5, "Input/output error")
        if name == bad:
            raise IntegrityError("the file ends at byte 0, before 104")
        return real(folder, name, *more, **named)

    monkeypatch.setattr(Folder, "read", read)
    one = index(tmp_path)
    assert sum(one.lookup(name, state(1)) is not None for name in "ab") == 1
    assert one.errors == 0
    assert [record.getMessage().split(" in ")[0] for record in caplog.records] == [bad] * (how == "unreadable")


def test_what_short_runs_leave_is_merged(tmp_path: Path) -> None:
    going_on, runs = index(tmp_path), range(50)
    for number in runs:
        with contextlib.closing(index(tmp_path)) as one:
            assert one.record(f"{number}", state(number, OLD), CONTENT, "png")
    going_on.record("before", state(1, OLD), CONTENT)
    ledger = PartsLedger(tmp_path, secret=SECRET)
    for number in runs:
        PartsLedger(tmp_path, secret=SECRET).note(Key.of(n=number), {"source": number, "size": 1})
    assert upkeep.gc(tmp_path, dry_run=True)["merged"] == upkeep.gc(tmp_path)["merged"] == 50 + 49
    assert [len(list((tmp_path / name).iterdir())) for name in ("sources", "parts")] == [1, 1]
    assert upkeep.stats(tmp_path)["sources"] == 51
    assert upkeep.gc(tmp_path)["merged"] == 0
    going_on.record("after", state(1, OLD), CONTENT)
    for other in (going_on, index(tmp_path)):
        assert all(other.lookup(f"{number}", state(number)) == (CONTENT, "png") for number in runs)
        assert other.lookup("before", state(1)) == other.lookup("after", state(1)) == (CONTENT, "")
        assert other.errors == 0
    assert all(ledger.keys_of(number) == [Key.of(n=number)] for number in runs)


def test_an_index_goes_on_after_a_purge(tmp_path: Path) -> None:
    one = index(tmp_path)
    one.record("a", state(1, OLD), CONTENT)
    upkeep.purge(tmp_path, dry_run=False)
    assert one.record("b", state(1, OLD), CONTENT)
    assert one.errors == 0
    assert index(tmp_path).lookup("b", state(1)) == (CONTENT, "")


def test_a_hundred_thousand_records(tmp_path: Path) -> None:
    made = index(None)
    for number in range(100_000):
        made.record(f"{number}", state(number), number.to_bytes(16, "little"))
    sealed = made._all.records.tobytes() + b"".join(row.tobytes() for row in made._recent.values())
    assert valid(np.frombuffer(sealed, RECORD)).all()
    (tmp_path / "sources").mkdir()
    (tmp_path / "sources" / f"{'0' * 16}.seen").write_bytes(sealed)
    other = index(tmp_path)
    assert len(other) == 100_000
    for number in (0, 1, 500, 99_999):
        assert other.lookup(f"{number}", state(number)) == (number.to_bytes(16, "little"), "")
        assert other.lookup(f"{number}", state(number + 1)) is None


def test_an_index_does_not_read_what_it_wrote_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two, reads, real = index(tmp_path), index(tmp_path), [], Folder.read
    monkeypatch.setattr(Folder, "read", lambda folder, name, *more: (reads.append(name), real(folder, name, *more))[1])
    for number in range(5):
        one.record(f"{number}", state(number), CONTENT)
        assert one.lookup("absent", state(1)) is None
    assert reads == []
    assert two.lookup("3", state(3)) == (CONTENT, "")
    assert len(reads) == 1
    child = os.fork()
    if not child:
        os._exit(0 if one.lookup("2", state(2)) and one.lookup("absent", state(1)) is None else 1)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("loaded", [False, True])
def test_many_at_once_are_what_one_by_one_gives(tmp_path: Path, loaded: bool) -> None:
    """Files in several states, some never seen, in the sorted arrays (loaded) or in the table of recent ones."""
    one = index(tmp_path)
    names = [f"/{number}.dcm" for number in range(30)]
    for number, name in enumerate(names):
        for turn in range(1 + number % 3):
            if number % 5:
                assert one.record(name, state(number, OLD + turn), bytes([number, turn]) * 8, f"tag{turn}")
    one = index(tmp_path) if loaded else one
    states = [None if number % 7 == 0 else state(number, OLD + number % 3) for number in range(30)]
    found = one.lookup_many(names, states)
    for number, (name, wanted) in enumerate(zip(names, states)):
        if wanted is not None:
            assert found[number] == one.lookup(name, wanted)
            assert (found[number] is None) == (number % 5 == 0)
        elif number % 5 == 0 or (number % 3 and loaded):  # never seen, or in several states
            assert found[number] is None
        else:
            assert found[number] == (bytes([number, number % 3]) * 8, f"tag{number % 3}")
    assert one.lookup_many([], []) == []
    assert one.lookup_many(names[:1], [state(99)]) == [None]


def test_many_at_once_see_what_others_record(tmp_path: Path) -> None:
    one, other = index(tmp_path), index(tmp_path)
    assert one.record("/a", state(5), bytes(16), "x")
    assert other.lookup_many(["/a", "/b"], [state(5), state(5)]) == [(bytes(16), "x"), None]
    assert other.lookup_many(["/a", "/b"], [None, None]) == [(bytes(16), "x"), None]


def test_many_records_of_ones_own_are_kept_as_arrays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "_MOST_RECENT", 8)
    one = index(tmp_path)
    for number in range(20):
        one.record(f"/{number}", state(number), bytes([number]) * 16, "x")
    assert len(one) == 20
    assert len(one._recent) < 8
    for number in range(20):
        assert one.lookup(f"/{number}", state(number)) == (bytes([number]) * 16, "x")
