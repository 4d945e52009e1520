"""Records and their check."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import dali_pipes.cache.files
import dali_pipes.cache.journal
from dali_pipes.cache.files import Folder
from dali_pipes.cache.journal import (
    JournalReader,
    JournalWriter,
    is_journal,
    is_signed,
    merge_journals,
    seal,
    seal_signed,
    valid,
)
from tests.faults.conftest import in_child, wait
from tests.faults.syscalls import Os, Recording, Refusing, power_cut, replay

DTYPE = np.dtype("V64")


def check(data: bytes) -> list[bool]:
    return valid(np.frombuffer(data, DTYPE)).tolist()


@given(st.binary(min_size=56, max_size=56))
def test_a_sealed_record_is_valid(body: bytes) -> None:
    assert check(seal(body)) == [True]


@given(st.binary(min_size=56, max_size=56), st.integers(0, 511))
def test_one_flipped_bit_is_found(body: bytes, bit: int) -> None:
    record = bytearray(seal(body))
    record[bit // 8] ^= 1 << bit % 8
    assert check(bytes(record)) == [False]


@given(st.integers(1, 20).flatmap(lambda words: st.binary(min_size=8 * words, max_size=8 * words)))
def test_records_of_any_size(body: bytes) -> None:
    record = seal(body)
    assert valid(np.frombuffer(record * 2, f"V{len(record)}")).tolist() == [True, True]


@given(st.binary(min_size=40, max_size=40), st.binary(min_size=32, max_size=32), st.integers(0, 48 * 8 - 1))
def test_a_signed_record_is_its_makers(body: bytes, key: bytes, bit: int) -> None:
    record = bytearray(seal_signed(body, key))
    assert is_signed(bytes(record), key)
    assert not is_signed(bytes(record), bytes(32) if key != bytes(32) else b"k" * 32)
    record[bit // 8] ^= 1 << bit % 8
    assert not is_signed(bytes(record), key)


def test_zeros_ones_and_noise_are_not_records() -> None:
    assert not any(check(bytes(64) + b"\xff" * 64 + os.urandom(64 * 1000)))


def test_names() -> None:
    assert is_journal("0123456789abcdef.idx", ".idx")
    for name in ("0123456789abcdeF.idx", "0123456789abcdef.del", "123456789abcdef.idx", "notes.idx", ".idx"):
        assert not is_journal(name, ".idx")


def stems(reader: JournalReader) -> list[str]:
    return sorted(stem for stem, _ in reader.poll()[0])


@pytest.fixture
def listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Notes each listing of a folder."""
    seen, real = [], Folder.names
    monkeypatch.setattr(Folder, "names", lambda folder, *shard: seen.append(folder.path) or real(folder, *shard))
    return seen


def test_a_folder_is_listed_again_when_it_has_changed(tmp_path: Path, listed: list[str]) -> None:
    reader = JournalReader(Folder(tmp_path), ".idx", DTYPE)
    one, two = (tmp_path / f"{number:016x}.idx" for number in (1, 2))
    one.write_bytes(seal(bytes(56)))
    os.utime(tmp_path, (time.time() - 10,) * 2)
    assert stems(reader) == [one.stem]
    assert stems(reader) == []
    assert len(listed) == 1
    one.write_bytes(2 * seal(bytes(56)))
    assert stems(reader) == [one.stem], "what grows is seen without a listing"
    assert len(listed) == 1
    two.write_bytes(seal(bytes(56)))
    assert stems(reader) == [two.stem]
    one.unlink()
    assert reader.poll()[1] == [one.stem]
    assert len(listed) == 3


def test_a_folder_that_has_just_changed_may_change_unnoticed(tmp_path: Path) -> None:
    """Twice within one tick of the clock that stamps it."""
    reader = JournalReader(Folder(tmp_path), ".idx", DTYPE)
    now = time.time_ns() | 1
    for number in range(5):
        (tmp_path / f"{number:016x}.idx").write_bytes(seal(bytes(56)))
        os.utime(tmp_path, ns=(now, now))
        assert stems(reader) == [f"{number:016x}"]


def test_a_journal_just_made_is_there_whatever_the_folders_time(tmp_path: Path) -> None:
    reader = JournalReader(Folder(tmp_path), ".idx", DTYPE)
    for number in range(3):
        os.utime(tmp_path, (1e9 + 0.5,) * 2)
        assert reader.poll() == ([], [])
        (tmp_path / f"{number:016x}.idx").write_bytes(seal(bytes(56)) * 2)  # a header, and what follows
        os.utime(tmp_path, (1e9 + 0.5,) * 2)
        reader.watch(f"{number:016x}")
        assert stems(reader) == [f"{number:016x}"]


def test_a_folder_whose_times_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = JournalReader(Folder(tmp_path), ".idx", DTYPE)
    for number in range(3):
        (tmp_path / f"{number:016x}.idx").write_bytes(seal(bytes(56)))
        os.utime(tmp_path, (1e9 + 0.5,) * 2)
        assert stems(reader) == ([] if number else [f"{number:016x}"])
        now = time.monotonic() + 1.1 * (number + 1)
        monkeypatch.setattr(dali_pipes.cache.journal.time, "monotonic", lambda now=now: now)
        assert stems(reader) == ([f"{number:016x}"] if number else [])


def number_record(number: int) -> bytes:
    return seal(number.to_bytes(56, "little"))


def numbers(folder: Path) -> list[int]:
    """What a reader finds, in order."""
    found = JournalReader(Folder(folder), ".src", DTYPE).poll()[0]
    return [int.from_bytes(record.tobytes()[:56], "little") for _, records in found for record in records]


@pytest.fixture
def ten(tmp_path: Path) -> Path:
    """Ten journals of short runs, with two records each; made in order, by names in no order."""
    for at in range(10):
        writer = JournalWriter(Folder(tmp_path / "ten"), ".src")
        for number in (2 * at, 2 * at + 1):
            writer.append(number_record(number))
        os.utime(tmp_path / "ten" / f"{writer.stem}.src", (1e9 + at, 1e9 + at))
    return tmp_path / "ten"


def test_a_writer_has_one_journal_and_a_child_another(tmp_path: Path) -> None:
    writer = JournalWriter(Folder(tmp_path), ".src")
    assert writer.stem == ""
    for number in range(3):
        writer.append(number_record(number))
    assert os.listdir(tmp_path) == [f"{writer.stem}.src"]
    assert wait(in_child(lambda: writer.append(number_record(3)))) == 0
    assert len(os.listdir(tmp_path)) == 2
    (tmp_path / f"{writer.stem}.src").unlink()
    writer.append(number_record(4))
    assert sorted(numbers(tmp_path)) == [3, 4]


def test_a_torn_record_ends_a_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = JournalWriter(Folder(tmp_path), ".src")
    writer.append(number_record(0))
    real = Folder.append

    def torn(folder: Folder, name: str, record: bytes) -> None:
        real(folder, name, record[:30])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Folder, "append", torn)
        with pytest.raises(OSError, match="No space"):
            writer.append(number_record(1))
    writer.append(number_record(2))
    assert sorted(numbers(tmp_path)) == [0, 2]
    assert merge_journals(Folder(tmp_path), ".src", 64) == 1
    assert sorted(numbers(tmp_path)) == [0, 2]


def test_small_journals_become_one_in_order(ten: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (ten / f"{5:016x}.idx").write_bytes(number_record(99))
    monkeypatch.setattr(dali_pipes.cache.journal, "_SMALL", 1000)
    large = ten / f"{6:016x}.src"
    large.write_bytes(b"".join(map(number_record, range(100, 120))))
    assert merge_journals(Folder(ten), ".src", 64, dry_run=True) == 9
    assert len(list(ten.iterdir())) == 12
    assert merge_journals(Folder(ten), ".src", 64) == 9
    large.unlink()
    assert numbers(ten) == [*range(20)]
    assert {path.suffix for path in ten.iterdir()} == {".idx", ".src"}


def test_journals_are_purged_while_they_are_merged(ten: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Folder.publish

    def publish(folder: Folder, name: str, parts: Iterable[bytes], **more: Any) -> None:
        real(folder, name, parts, **more)
        for path in ten.iterdir():
            if path.name != name:
                path.unlink()

    monkeypatch.setattr(Folder, "publish", publish)
    assert merge_journals(Folder(ten), ".src", 64) == 0
    assert os.listdir(ten) == []


def test_what_is_added_while_journals_are_merged(ten: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer, folder, real = JournalWriter(Folder(ten), ".src"), Folder(ten), Folder.publish
    writer.append(number_record(50))

    def publish(*args: object, **more: object) -> None:
        monkeypatch.undo()
        real(*args, **more)  # type: ignore[arg-type]
        writer.append(number_record(51))
        next(path for path in ten.iterdir() if path.stat().st_mtime < 1.5e9).unlink()

    monkeypatch.setattr(Folder, "publish", publish)
    assert merge_journals(folder, ".src", 64) == 8, "but for the writer's, and one that is gone"
    assert set(numbers(ten)) == {*range(20), 50, 51}


def test_what_is_added_just_before_a_journal_is_removed(ten: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer, real = JournalWriter(Folder(ten), ".src"), Folder.delete
    writer.append(number_record(50))

    def delete(folder: Folder, name: str) -> bool:
        if name == f"{writer.stem}.src":
            writer.append(number_record(51))
        return real(folder, name)

    monkeypatch.setattr(Folder, "delete", delete)
    merge_journals(Folder(ten), ".src", 64)
    writer.append(number_record(52))
    assert set(numbers(ten)) == {*range(20), 50, 51, 52}


def test_what_is_added_just_after_a_journal_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer has it open by then."""
    writer, real = JournalWriter(Folder(tmp_path), ".src"), os.write
    writer.append(number_record(0))

    def write(fd: int, data: bytes) -> int:
        monkeypatch.undo()
        (tmp_path / f"{stem}.src").unlink()
        return real(fd, data)

    stem = writer.stem
    monkeypatch.setattr(dali_pipes.cache.files.os, "write", write)
    writer.append(number_record(1))
    writer.append(number_record(2))
    assert writer.stem != stem
    assert numbers(tmp_path) == [1, 2]


def test_journals_are_merged_while_every_call_fails(ten: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at, done = 0, False
    while not done:
        at += 1
        tried = ten.parent / str(at)
        shutil.copytree(ten, tried)
        refusing = Refusing(at, (errno.ENOSPC, errno.EIO)[at % 2])
        with monkeypatch.context() as patch, contextlib.suppress(OSError):
            patch.setattr(dali_pipes.cache.files, "os", Os(refusing))
            merge_journals(Folder(tried), ".src", 64)
        assert set(numbers(tried)) == {*range(20)}
        there = len(os.listdir(tried))
        assert there <= 10, "a copy that stands for nothing does not stay"
        done = refusing.count < at
    assert there == 1
    assert at > 50


def test_the_power_fails_while_journals_are_merged(ten: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recording, rng = Recording(tmp_path), random.Random(1)
    monkeypatch.setattr(dali_pipes.cache.files, "os", Os(recording))
    for number in (20, 21):
        JournalWriter(Folder(tmp_path / "made"), ".src").append(number_record(number))
    begin = len(recording.operations)
    merge_journals(Folder(tmp_path / "made"), ".src", 64)
    monkeypatch.undo()
    before, merge = recording.operations[:begin], recording.operations[begin:]
    for end in range(len(merge) + 1):
        replay([*before, *merge[:end]], tmp_path / "cut" / str(end))
        assert set(numbers(tmp_path / "cut" / str(end) / "made")) == {20, 21}
    for turn in range(100):
        replay([*before, *power_cut(merge, rng)], tmp_path / "lost" / str(turn))
        assert set(numbers(tmp_path / "lost" / str(turn) / "made")) <= {20, 21}, "missing, never wrong"


def test_journals_that_are_complete_are_not_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of tens of thousands, at each miss."""
    for number in range(5):
        (tmp_path / f"{number:016x}.src").write_bytes(seal(bytes(56)))
    os.utime(tmp_path, (1, 1))
    reader = JournalReader(Folder(tmp_path), ".src", DTYPE)
    grown, _ = reader.poll()
    reader.complete |= {stem for stem, _ in grown[:4]}
    asked: list[str] = []
    usual = Folder.status
    monkeypatch.setattr(Folder, "status", lambda self, name: asked.append(name) or usual(self, name))
    assert reader.poll() == reader.poll() == ([], [])
    last = f"{grown[4][0]}.src"
    assert asked == [".", last] * 2
    reader.restart(grown[0][0])
    assert [stem for stem, _ in reader.poll()[0]] == [grown[0][0]]
    (tmp_path / f"{grown[1][0]}.src").unlink()
    assert reader.poll()[1] == [grown[1][0]]
