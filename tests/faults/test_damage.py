"""5: bit flips. 6: truncation, zeros and junk. 7: entries under another key. 13: anything at all in a header."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
from pathlib import Path
from typing import IO

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cache import IntegrityError, open_store
from cache.journal import seal
from cache.npyformat import header, parse
from cache.png import decode, encode
from cache.slots import RECORD
from cache.trailer import Trailer, body_checksum
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
def test_files_copied_under_another_key(mode: str, tmp_path: Path) -> None:
    fill(mode, tmp_path, 12)
    for one in range(10):
        for other in range(10):
            if one == other:
                continue
            directory = tmp_path / "copy"
            shutil.copytree(tmp_path / mode, directory / mode)
            for file in (directory / mode / key(other).hex[:2]).glob(key(other).hex + "*"):
                file.unlink()
            for file in (directory / mode / key(one).hex[:2]).glob(key(one).hex + "*"):
                target = directory / mode / key(other).hex[:2]
                target.mkdir(exist_ok=True)
                copy = target / file.name.replace(key(one).hex, key(other).hex)
                data = file.read_bytes()
                if file.suffix == ".json":  # as a careful forger would
                    data = data.replace(key(one).hex.encode(), key(other).hex.encode())
                copy.write_bytes(data)
            with open_store(mode, directory, read_only=True) as store:
                assert store.get(key(other)) is None
                assert store.stats()["corrupt"] == 1
                assert store.get(key(one)) is not None
            shutil.rmtree(directory)


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


FUZZ = settings(max_examples=2000, deadline=None, suppress_health_check=list(HealthCheck))
bodies = st.one_of(
    st.binary(max_size=200),
    st.tuples(st.integers(0, 400), st.integers(0, 255)).map(lambda at: _poke(_GOOD_PNG, *at)),
    st.tuples(st.integers(0, 400), st.integers(0, 255)).map(lambda at: _poke(_GOOD_NPY, *at)),
    st.text(max_size=120).map(lambda text: _npy(text.encode("utf-8", "replace"))),
    st.dictionaries(
        st.sampled_from(["descr", "fortran_order", "shape", "x"]),
        st.one_of(
            st.integers(), st.text(max_size=5), st.booleans(), st.tuples(st.integers(), st.integers()), st.none()
        ),
    ).map(lambda fields: _npy(repr(fields).encode())),
)


def _poke(data: bytes, at: int, byte: int) -> bytes:
    return data[: at % len(data)] + bytes([byte]) + data[at % len(data) + 1 :]


def _npy(text: bytes) -> bytes:
    size = -(-(len(text) + 11) // 64) * 64
    return b"\x93NUMPY\x01\x00" + (size - 10).to_bytes(2, "little") + text.ljust(size - 11) + b"\n" + bytes(80)


_GOOD_PNG = encode(wanted(1))
_GOOD_NPY = header(np.dtype("u2"), (5, 8)) + bytes(80)


@given(bodies)
@FUZZ
def test_decoders_raise_only_our_error(body: bytes) -> None:
    with contextlib.suppress(IntegrityError):
        parse(body)
    with contextlib.suppress(IntegrityError):
        decode(body)


@given(bodies)
@FUZZ
def test_trailers_raise_only_our_error(body: bytes) -> None:
    with pytest.raises(IntegrityError):
        Trailer.parse(body, bytes(16), len(body))


@pytest.mark.parametrize("mode", ["disk", "npy", "tensor-disk"])
def test_a_good_trailer_on_anything_is_a_miss(mode: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Even a body whose checksum is right must not raise, crash or run anything."""
    directory = tmp_path_factory.mktemp("fuzz")
    (file,) = fill(mode, directory)
    store = open_store(mode, directory, read_only=True, verify="always")

    @given(bodies)
    @settings(FUZZ, max_examples=2000 if mode != "tensor-disk" else 300)
    def check(body: bytes) -> None:
        total = body_checksum(key(0).digest, [body], None)
        file.write_bytes(body + bytes(Trailer(key(0).digest, bytes(8), len(body), total)))
        found = store.get(key(0))
        assert found is None or found.nbytes <= len(body) * 1100
        assert store.errors == 0  # type: ignore[attr-defined]

    check()


lists = st.lists(st.integers() | st.text(max_size=3), max_size=4)
things = st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=9), lists)


def test_any_json_is_a_miss(tmp_path: Path) -> None:
    file = next(path for path in fill("tensor-memmap", tmp_path) if path.suffix == ".json")
    fields = json.loads(file.read_text())
    store = open_store("tensor-memmap", tmp_path, read_only=True, verify="always")

    @given(things, st.sampled_from([None, "shape", "dtype", "data", "key", "checksum"]))
    @FUZZ
    def check(thing: object, name: str | None) -> None:
        file.write_text(json.dumps(thing if name is None else {**fields, name: thing}))
        assert store.get(key(0)) is None
        assert store.errors == 0  # type: ignore[attr-defined]

    check()
    file.write_text(json.dumps(fields))
    assert store.get(key(0)) is not None
