"""Records and their check."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cache.journal
from cache.files import Folder
from cache.journal import JournalReader, is_journal, seal, valid

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
        (tmp_path / f"{number:016x}.idx").write_bytes(seal(bytes(56)))
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
        monkeypatch.setattr(cache.journal.time, "monotonic", lambda now=now: now)
        assert stems(reader) == ([f"{number:016x}"] if number else [])
