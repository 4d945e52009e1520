"""13: anything at all in a header, a journal, a manifest or a loader's state. Only our errors come out."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import dali_pipes as dp
from dali_pipes.cache import IntegrityError, open_store
from dali_pipes.cache.journal import seal
from dali_pipes.cache.npyformat import header, parse
from dali_pipes.cache.png import decode, encode
from dali_pipes.cache.trailer import Trailer, body_checksum
from dali_pipes.errors import DaliPipesError, StateError
from tests.cache.conftest import key
from tests.faults.conftest import wanted
from tests.faults.pictures import RECIPE, make_set
from tests.faults.test_damage import fill

inputs = pytest.mark.parametrize(
    "inputs", [2000, pytest.param(1_000_000, marks=[pytest.mark.slow, pytest.mark.timeout(14_400)])]
)


def each(strategy: st.SearchStrategy[Any], inputs: int, check: Callable[[Any], None]) -> None:
    """Checks so many inputs."""
    limits = settings(max_examples=inputs, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    limits(given(strategy)(lambda found: check(found)))()


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


_GOOD_PNG = b"".join(encode(wanted(1)))
_GOOD_NPY = header(np.dtype("u2"), (5, 8)) + bytes(80)


def pokes(data: bytes) -> st.SearchStrategy[bytes]:
    """Copies of ``data`` with one to four bytes changed."""
    change = st.tuples(st.integers(0, len(data) - 1), st.integers(0, 255))
    return st.lists(change, min_size=1, max_size=4).map(lambda changes: _poked(data, changes))


def _poked(data: bytes, changes: list[tuple[int, int]]) -> bytes:
    for change in changes:
        data = _poke(data, *change)
    return data


@inputs
def test_decoders_raise_only_our_error(inputs: int) -> None:
    def check(body: bytes) -> None:
        with contextlib.suppress(IntegrityError):
            parse(body)
        with contextlib.suppress(IntegrityError):
            decode(body)

    each(bodies, inputs, check)


@inputs
def test_trailers_raise_only_our_error(inputs: int) -> None:
    def check(body: bytes) -> None:
        with pytest.raises(IntegrityError):
            Trailer.parse(body, bytes(16), len(body))

    each(bodies, inputs, check)


@inputs
@pytest.mark.parametrize("mode", ["disk", "npy", "tensor-disk"])
def test_a_good_trailer_on_anything_is_a_miss(mode: str, inputs: int, memory_path: Path) -> None:
    """Even a body whose checksum is right must not raise, crash or run anything."""
    (file,) = fill(mode, memory_path)
    store = open_store(mode, memory_path, read_only=True, verify="always")

    def check(body: bytes) -> None:
        total = body_checksum(key(0).digest, [body], None)
        file.write_bytes(body + bytes(Trailer(key(0).digest, bytes(8), len(body), total)))
        found = store.get(key(0))
        assert found is None or found.nbytes <= len(body) * 1100
        assert store.errors == 0  # type: ignore[attr-defined]

    each(bodies, inputs, check)


lists = st.lists(st.integers() | st.text(max_size=3), max_size=4)
things = st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=9), lists)


@inputs
def test_any_json_is_a_miss(inputs: int, memory_path: Path) -> None:
    file = next(path for path in fill("tensor-memmap", memory_path) if path.suffix == ".json")
    fields = json.loads(file.read_text())
    store = open_store("tensor-memmap", memory_path, read_only=True, verify="always")

    def check(found: tuple[object, str | None]) -> None:
        thing, name = found
        file.write_text(json.dumps(thing if name is None else {**fields, name: thing}))
        assert store.get(key(0)) is None
        assert store.errors == 0  # type: ignore[attr-defined]

    names = st.sampled_from([None, "shape", "dtype", "data", "key", "checksum"])
    each(st.tuples(things, names), inputs, check)
    file.write_text(json.dumps(fields))
    assert store.get(key(0)) is not None


@inputs
def test_any_journal_of_a_segment_is_a_miss(inputs: int, memory_path: Path) -> None:
    """Records whose own check is good and whose fields are anything, beside a header with changed bytes."""
    fill("pinned", memory_path)
    (journal,) = (memory_path / "pinned").glob("*.idx")
    (segment,) = (memory_path / "pinned").glob("*.npy")
    whole, good = segment.read_bytes()[:128], journal.read_bytes()
    words = st.integers(0, 2**64 - 1) | st.integers(0, 5) | st.just(int(journal.stem, 16))
    records = st.lists(st.tuples(words, st.just(key(0).digest) | st.binary(min_size=16, max_size=16), words, words))

    def check(found: tuple[list[tuple[int, bytes, int, int]], bytes]) -> None:
        written, head = found
        with segment.open("r+b") as file:
            file.write(head)
        sealed = [
            seal(b"".join([kind.to_bytes(8, "little"), digest, *(n.to_bytes(8, "little") for n in rest)]) + bytes(16))
            for kind, digest, *rest in written
        ]
        journal.write_bytes(good[:64] + b"".join(sealed))
        with open_store("pinned", memory_path, read_only=True) as store:
            for entry in [key(0), *store.keys()]:
                assert store.get(entry) is None
            assert store.stats()["errors"] == 0

    each(st.tuples(records, pokes(whole) | st.just(whole)), inputs, check)
    with segment.open("r+b") as file:
        file.write(whole)
    journal.write_bytes(good)
    with open_store("pinned", memory_path, strict=True) as store:
        assert store.get(key(0)).tobytes() == wanted(0).tobytes()  # type: ignore[union-attr]


ROWS = b'path,label,frame,split\na/b.jpg,1,0,train\n"c,d.dcm",2,3,test\n'


@inputs
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_manifests_raise_only_our_error(suffix: str, inputs: int, memory_path: Path) -> None:
    file = memory_path / f"m{suffix}"
    good = ROWS
    if suffix == ".parquet":
        pyarrow.parquet.write_table(pa.table({"path": ["a/b.jpg", "c.dcm"], "label": [1, 2]}), file)
        good = file.read_bytes()
    taken = 0

    def check(data: bytes) -> None:
        nonlocal taken
        file.write_bytes(data)
        with contextlib.suppress(DaliPipesError):
            read = dp.Manifest.from_csv if suffix == ".csv" else dp.Manifest.from_parquet
            assert all(".." not in Path(sample.path).parts and sample.path[0] != "/" for sample in read(file))
            taken += 1

    lines = st.lists(st.text(alphabet=',\n"\r\x00ab./\\1-é', max_size=30)).map(lambda text: "".join(text).encode())
    each(pokes(good) | lines.map(lambda data: b"path,label,frame\n" + data) | st.binary(max_size=200), inputs, check)
    assert taken > 0


@inputs
def test_states_raise_only_our_error(inputs: int, memory_path: Path) -> None:
    manifest = make_set(memory_path, 5)
    with dp.Loader(manifest, RECIPE, batch_size=2, backend="torch") as loader:
        good = loader.state_dict()

        def check(found: tuple[object, str | None]) -> None:
            thing, name = found
            state: Any = thing if name is None else {**good, name: thing}
            try:
                loader.load_state_dict(state)
            except StateError:
                return
            assert name is not None
            assert 0 <= loader.state_dict()["position"] <= len(manifest)

        each(st.tuples(things | st.dictionaries(st.sampled_from([*good]), things), st.sampled_from([None, *good])),
             inputs, check)  # fmt: skip
        loader.load_state_dict(good)
        assert len(list(loader)) == 3
