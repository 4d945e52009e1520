"""The index of source files: what it remembers, what it forgets, and what it does not write."""

from __future__ import annotations

import contextlib
import os
import pickle
import time
from pathlib import Path

import numpy as np
import pytest

from dali_pipes.cache import Key, PartsLedger, SourceIndex, StoreConfigError, upkeep
from dali_pipes.cache.journal import seal, valid
from dali_pipes.cache.sources import RECORD

SECRET = b"s" * 32
OLD = 1_700_000_000_123_456_789
CONTENT = bytes(range(16))


def index(directory: Path | None, **more: object) -> SourceIndex:
    return SourceIndex(directory, secret=SECRET, **more)  # type: ignore[arg-type]


def test_remembers_across_instances(tmp_path: Path) -> None:
    one = index(tmp_path)
    assert one.lookup("a.dcm", 10, OLD) is None
    assert one.record("a.dcm", 10, OLD, CONTENT, "dcm.4.70")
    for other in (one, index(tmp_path), pickle.loads(pickle.dumps(one))):  # noqa: S301
        assert other.lookup("a.dcm", 10, OLD) == (CONTENT, "dcm.4.70")
        assert other.lookup("a.dcm", 11, OLD) is None
        assert other.lookup("a.dcm", 10, OLD + 1) is None
        assert other.lookup("b.dcm", 10, OLD) is None
        assert other.seen("a.dcm") == [(10, OLD)]
        assert other.seen("b.dcm") == []


def test_several_states_of_a_file(tmp_path: Path) -> None:
    one = index(tmp_path)
    one.record("a", 1, OLD, CONTENT, "png")
    one.record("a", 2, OLD + 5, CONTENT[::-1], "jpeg")
    other = index(tmp_path)
    assert other.lookup("a", 1, OLD) == (CONTENT, "png")
    assert other.lookup("a", 2, OLD + 5) == (CONTENT[::-1], "jpeg")
    assert other.seen("a") == [(1, OLD), (2, OLD + 5)]
    other.record("a", 2, OLD + 5, bytes(16), "new")
    assert other.lookup("a", 2, OLD + 5) == (bytes(16), "new")


def test_sees_what_others_record(tmp_path: Path) -> None:
    one, two = index(tmp_path), index(tmp_path)
    one.record("a", 1, OLD, CONTENT)
    assert two.lookup("a", 1, OLD) == (CONTENT, "")
    two.record("b", 1, OLD, CONTENT)
    one.record("c", 1, OLD, CONTENT)
    assert one.lookup("b", 1, OLD) == (CONTENT, "")
    assert two.lookup("c", 1, OLD) == (CONTENT, "")


def test_does_not_remember_what_was_modified_just_now(tmp_path: Path) -> None:
    one, now = index(tmp_path), time.time_ns()
    assert not one.record("a", 1, now, CONTENT)
    assert one.lookup("a", 1, now) is None
    whole = now // 10**9 * 10**9
    assert not one.record("a", 1, whole - 10**9, CONTENT), "a clock of whole seconds needs two"
    assert one.record("a", 1, whole - 10**10, CONTENT)
    assert one.record("a", 1, now - 10**9, CONTENT) == ((now - 10**9) % 10**9 != 0)


def test_in_memory_only() -> None:
    one = index(None)
    one.record("a", 1, OLD, CONTENT, "png")
    assert one.lookup("a", 1, OLD) == (CONTENT, "png")
    with pytest.raises(StoreConfigError, match="give it the cache's directory"):
        pickle.dumps(one)


def test_no_path_is_written(tmp_path: Path) -> None:
    index(tmp_path).record("/archive/DOE^JANE/19600101.dcm", 77, OLD, CONTENT, "dcm")
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    written += "".join(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")).encode()
    assert CONTENT in written
    for canary in (b"DOE", b"JANE", b"19600101", b"archive"):
        assert canary not in written
    assert SourceIndex(tmp_path, secret=b"t" * 32).lookup("/archive/DOE^JANE/19600101.dcm", 77, OLD) is None


def test_damage_is_forgotten(tmp_path: Path) -> None:
    one = index(tmp_path)
    for number in range(10):
        one.record(f"{number}", number, OLD, CONTENT)
    (journal,) = (tmp_path / "sources").iterdir()
    data = bytearray(journal.read_bytes())
    data[3 * 64 + 20] ^= 4
    data[5 * 64 : 6 * 64] = bytes(64)
    journal.write_bytes(data[: 9 * 64 + 30])
    other = index(tmp_path)
    assert [other.lookup(f"{n}", n, OLD) is not None for n in range(10)] == [n not in (3, 5, 9) for n in range(10)]


def test_a_forked_child_has_a_journal_of_its_own(tmp_path: Path) -> None:
    one = index(tmp_path)
    one.record("parent", 1, OLD, CONTENT)
    child = os.fork()
    if not child:
        os._exit(0 if one.record("child", 1, OLD, CONTENT) else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert len(list((tmp_path / "sources").iterdir())) == 2
    assert one.lookup("child", 1, OLD) == (CONTENT, "")


def test_read_only_and_unwritable(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    one = index(tmp_path / "none", read_only=True)
    assert not one.record("a", 1, OLD, CONTENT)
    assert not (tmp_path / "none").exists()
    (tmp_path / "file").write_text("in the way")
    two = index(tmp_path / "file")
    for number in range(3):
        assert not two.record(f"{number}", 1, OLD, CONTENT)
    assert two.errors == 4
    assert len(caplog.records) == 1
    assert two.lookup("1", 1, OLD) == (CONTENT, ""), "still known in this process"


def test_bad_arguments(tmp_path: Path) -> None:
    with pytest.raises(StoreConfigError, match="content is 16 bytes and a tag at most 8 ASCII"):
        index(tmp_path).record("a", 1, OLD, b"short")
    with pytest.raises(StoreConfigError, match="got 16 and 9"):
        index(tmp_path).record("a", 1, OLD, CONTENT, "123456789")


def test_what_short_runs_leave_is_merged(tmp_path: Path) -> None:
    going_on, runs = index(tmp_path), range(50)
    for number in runs:
        with contextlib.closing(index(tmp_path)) as one:
            assert one.record(f"{number}", number, OLD, CONTENT, "png")
    going_on.record("before", 1, OLD, CONTENT)
    ledger = PartsLedger(tmp_path, secret=SECRET)
    for number in runs:
        PartsLedger(tmp_path, secret=SECRET).note(Key.of(n=number), {"source": number, "size": 1})
    assert upkeep.gc(tmp_path, dry_run=True)["merged"] == upkeep.gc(tmp_path)["merged"] == 50 + 49
    assert [len(list((tmp_path / name).iterdir())) for name in ("sources", "parts")] == [1, 1]
    assert upkeep.stats(tmp_path)["sources"] == 51
    assert upkeep.gc(tmp_path)["merged"] == 0
    going_on.record("after", 1, OLD, CONTENT)
    for other in (going_on, index(tmp_path)):
        assert all(other.lookup(f"{number}", number, OLD) == (CONTENT, "png") for number in runs)
        assert other.lookup("before", 1, OLD) == other.lookup("after", 1, OLD) == (CONTENT, "")
        assert other.errors == 0
    assert all(ledger.keys_of(number) == [Key.of(n=number)] for number in runs)


def test_an_index_goes_on_after_a_purge(tmp_path: Path) -> None:
    one = index(tmp_path)
    one.record("a", 1, OLD, CONTENT)
    upkeep.purge(tmp_path, dry_run=False)
    assert one.record("b", 1, OLD, CONTENT)
    assert one.errors == 0
    assert index(tmp_path).lookup("b", 1, OLD) == (CONTENT, "")


def test_a_hundred_thousand_records(tmp_path: Path) -> None:
    one = index(tmp_path)
    records = np.zeros(100_000, RECORD)
    digests = [one.path_digest(f"{number}") for number in range(len(records))]
    records["path"] = np.frombuffer(b"".join(digests), "<u8").reshape(-1, 2)
    records["size"] = np.arange(len(records))
    records["mtime"] = OLD
    sealed = b"".join(seal(record.tobytes()[:56]) for record in records)
    assert valid(np.frombuffer(sealed, RECORD)).all()
    (tmp_path / "sources" / f"{'0' * 16}.src").write_bytes(sealed)
    other = index(tmp_path)
    assert len(other) == len(records)
    for number in (0, 1, 500, 99_999):
        assert other.lookup(f"{number}", number, OLD) == (bytes(16), "")
        assert other.lookup(f"{number}", number + 1, OLD) is None
