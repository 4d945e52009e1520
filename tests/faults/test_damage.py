"""5: bit flips. 6: truncation, zeros and junk. 7: entries under another key."""

from __future__ import annotations

import contextlib
import itertools
import random
from pathlib import Path
from typing import IO

import numpy as np
import pytest

from dali_pipes.cache import IntegrityError, open_store
from dali_pipes.cache.journal import seal
from dali_pipes.cache.npyformat import header, parse
from dali_pipes.cache.segment_journal import RECORD
from tests.cache.conftest import key
from tests.faults.conftest import MODES, right_or_missing, wanted

DATA = 4096


def fill(mode: str, directory: Path, count: int = 1) -> list[Path]:
    """A cache with some entries; its files, without the tag."""
    with open_store(mode, directory) as store:
        for number in range(count):
            store.put(key(number), wanted(number))
    return sorted(path for path in (directory / mode).rglob("*") if path.is_file())


def interesting(file: Path) -> int:
    """How many bytes of a file there are to damage: of a packed segment those of the header and the first slot."""
    used = file.stat().st_blocks * 512
    return min(file.stat().st_size, DATA + wanted(0).nbytes) if used < file.stat().st_size else file.stat().st_size


def reads(mode: str, directory: Path) -> int:
    with open_store(mode, directory, read_only=True) as store:
        there = right_or_missing(store, range(1))
        assert store.stats()["errors"] == 0
        return there


def flip(file: Path, bit: int) -> None:
    with file.open("r+b") as handle:
        handle.seek(bit // 8)
        byte = handle.read(1)[0]
        handle.seek(bit // 8)
        handle.write(bytes([byte ^ 1 << bit % 8]))


def flip_bits(mode: str, directory: Path, count: int) -> None:
    files, rng, missed = fill(mode, directory), random.Random(mode), 0
    for file in files:
        size = interesting(file)
        bits = list(range(min(size, 160) * 8)) + [8 * size - 1 - bit for bit in range(min(size, 64) * 8)]
        bits += [rng.randrange(size * 8) for _ in range(count // len(files))]
        for bit in bits:
            flip(file, bit)
            missed += not reads(mode, directory)
            flip(file, bit)
    assert reads(mode, directory) == 1
    assert missed > 500, "flips are noticed"


@pytest.mark.parametrize("mode", MODES)
def test_flipped_bits(mode: str, tmp_path: Path) -> None:
    flip_bits(mode, tmp_path, 1000)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("mode", MODES)
def test_flipped_bits_at_length(mode: str, tmp_path: Path) -> None:
    flip_bits(mode, tmp_path, 200_000)


def test_every_bit_of_a_segments_header() -> None:
    whole = header(np.dtype("u1"), (20, 3, 8, 9), DATA)
    assert parse(whole) == (np.dtype("u1"), (20, 3, 8, 9), DATA)
    accepted = []
    for bit in range(8 * DATA):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        with contextlib.suppress(IntegrityError):
            accepted.append(parse(bytes(damaged)))
    # a flip may make another header that we might have written: the checksum of each entry holds dtype and shape
    assert all(found != parse(whole) for found in accepted)


@pytest.mark.parametrize("mode", MODES)
def test_truncated_at_every_byte(mode: str, tmp_path: Path) -> None:
    for file in fill(mode, tmp_path):
        size, used = file.stat().st_size, interesting(file)
        with file.open("rb") as handle:
            whole = handle.read(used)
        for length in range(0, used, 1 if used < 3000 else 7):
            file.write_bytes(whole[:length])
            # a journal may end after the entry's record: what follows only says that it is complete
            assert reads(mode, tmp_path) == 0 or file.suffix == ".idx"
        with file.open("wb") as handle:
            handle.write(whole)
            handle.truncate(size)
    assert reads(mode, tmp_path) == 1


@pytest.mark.parametrize("mode", MODES)
def test_zeros_and_junk(mode: str, tmp_path: Path) -> None:
    rng = random.Random(mode)
    for file in fill(mode, tmp_path):
        size, used = file.stat().st_size, interesting(file)
        with file.open("r+b") as handle:
            whole = handle.read(used)
            for start in range(0, used, 64):
                for length in (64, 512, 4096):
                    end = min(used, start + length)
                    for filler in (bytes(end - start), rng.randbytes(end - start)):
                        put(handle, start, filler)
                        reads(mode, tmp_path)
                        put(handle, start, whole[start:end])
            for junk in (bytes(1), bytes(64), rng.randbytes(64), rng.randbytes(5000), whole[-64:]):
                put(handle, size, junk)
                reads(mode, tmp_path)
                handle.truncate(size)
            put(handle, 0, bytes(used))
            assert reads(mode, tmp_path) == 0
            put(handle, 0, whole)
    assert reads(mode, tmp_path) == 1


def put(handle: IO[bytes], offset: int, data: bytes) -> None:
    handle.seek(offset)
    handle.write(data)
    handle.flush()


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "pinned"])
@pytest.mark.parametrize("pairs", [110, pytest.param(10_100, marks=pytest.mark.slow)])
def test_files_copied_under_another_key(mode: str, pairs: int, memory_path: Path) -> None:
    count = round(pairs**0.5 + 0.5)
    fill(mode, memory_path, count)
    done = 0
    for one, other in itertools.permutations(range(count), 2):
        moved = {file: file.read_bytes() for file in files_of(memory_path / mode, other)}
        for file in moved:
            file.unlink()
        copies = []
        for file in files_of(memory_path / mode, one):
            copies.append(memory_path / mode / key(other).hex[:2] / file.name.replace(key(one).hex, key(other).hex))
            data = file.read_bytes()
            if file.suffix == ".json":  # as a careful forger would
                data = data.replace(key(one).hex.encode(), key(other).hex.encode())
            copies[-1].write_bytes(data)
        with open_store(mode, memory_path, read_only=True) as store:
            assert store.get(key(other)) is None
            assert store.stats()["corrupt"] == 1
            assert store.get(key(one)) is not None
        for file in copies:
            file.unlink()
        for file, data in moved.items():
            file.write_bytes(data)
        done += 1
    assert done == pairs
    assert right_or_missing(open_store(mode, memory_path, strict=True), range(count)) == count


def files_of(folder: Path, number: int) -> list[Path]:
    return sorted((folder / key(number).hex[:2]).glob(key(number).hex + "*"))


def test_slots_under_another_key(tmp_path: Path) -> None:
    """Records whose key is replaced, with a good check of their own, and payloads that change places."""
    fill("pinned", tmp_path, 12)
    for journal in (tmp_path / "pinned").glob("*.idx"):
        records = np.frombuffer(journal.read_bytes(), RECORD).copy()
        entries = np.flatnonzero(records["kind"] == 2)
        records["key"][entries] = np.roll(records["key"][entries], 1)
        journal.write_bytes(b"".join(seal(record.tobytes()[:56]) for record in records))
    with open_store("pinned", tmp_path) as store:
        assert len(store.keys()) == 12
        assert right_or_missing(store, range(12)) == 0
        assert store.stats()["corrupt"] == 12
