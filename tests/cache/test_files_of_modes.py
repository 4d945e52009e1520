"""What the modes put on disk, as other programs see it, and what they make of damage to it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dali_pipes.cache import IntegrityError, Store, StoreConfigError, open_store
from dali_pipes.cache.files import Folder
from dali_pipes.cache.npyformat import plain
from dali_pipes.cache.png import _note_chunk, decode, encode
from tests.cache.conftest import key, value

Open = Callable[..., Store]
FILE_MODES = ["disk", "npy", "tensor-disk", "tensor-memmap"]


def entry_files(directory: Path, mode: str) -> list[Path]:
    return sorted(path for path in (directory / mode).rglob("*") if path.is_file() and path.parent.name != "quarantine")


@pytest.mark.parametrize("mode", FILE_MODES)
@pytest.mark.parametrize("step", [1, 2])
@pytest.mark.parametrize("replaced", [False, True])
def test_two_put_one_key_at_once(
    mode: str, step: int, replaced: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second does all that it does just before the first makes its first file, or its second one."""
    one, two = (open_store(mode, tmp_path, strict=True) for _ in range(2))
    if replaced:
        one.put(key(1), value(8))
    calls, real = [], Folder.publish

    def publish(*args: Any, **more: Any) -> None:
        calls.append(args)
        if len(calls) == step:
            two.put(key(1), value(1))
        real(*args, **more)

    monkeypatch.setattr(Folder, "publish", publish)
    one.put(key(1), value(1))
    for store in (one, two):
        found = store.get(key(1))
        assert found is not None
        assert found.tobytes() == value(1).tobytes()


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("shape", [(1, 5, 7), (3, 5, 7), (1, 1, 1), (3, 1, 9), (3, 9, 1)])
def test_a_png_is_a_picture(tmp_path: Path, dtype: str, shape: tuple[int, ...]) -> None:
    array = value(1, shape, dtype)
    open_store("disk", tmp_path).put(key(1), array)
    (file,) = entry_files(tmp_path, "disk")
    with Image.open(file) as picture:
        assert picture.size == (shape[2], shape[1])
        found = np.asarray(picture)
    wanted = array.transpose(1, 2, 0)
    if shape[0] == 1:
        assert np.array_equal(found.astype(dtype), wanted[..., 0])
    elif dtype == "uint8":
        assert np.array_equal(found, wanted)
    else:  # Pillow keeps the upper byte of RGB with 16 bits
        assert np.array_equal(found, (wanted >> 8).astype(np.uint8))


@given(
    st.lists(st.integers(0, 9), max_size=4).map(tuple),
    st.sampled_from(["uint8", "uint16", "float32", "bool", ">i2", "complex128"]),
    st.integers(0, 5),
)
@settings(deadline=None)
def test_png_is_lossless_for_every_array(shape: tuple[int, ...], dtype: str, seed: int) -> None:
    array = value(seed, shape, "uint8").astype(dtype) if dtype == "bool" else value(seed, shape, dtype)
    array = np.ascontiguousarray(array).reshape(shape)
    data = b"".join(encode(array))
    found = decode(data)
    assert (found.dtype, found.shape, found.tobytes()) == (array.dtype, array.shape, array.tobytes())
    with Image.open(io.BytesIO(data)) as picture:
        picture.load()


def test_png_refuses_what_it_did_not_write() -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((5, 5, 3), np.uint8)).save(buffer, "png")
    for data in (b"", b"\x89PNG\r\n\x1a\n", buffer.getvalue(), b"".join(encode(value(1)))[:-12]):
        with pytest.raises(IntegrityError):
            decode(data)


def test_png_does_not_believe_a_claim_of_size() -> None:
    shape, good = (1, 50_000, 50_000), encode(np.zeros((1, 5, 5), np.uint8))
    head = b"IHDR" + struct.pack(">IIBBBBB", 50_000, 50_000, 8, 0, 0, 0, 0)
    lie = bytes(good[0][:12]) + head + struct.pack(">I", zlib.crc32(head))
    with pytest.raises(IntegrityError, match="more than its"):
        decode(lie + _note_chunk(np.dtype("u1"), shape) + bytes(good[2]))


def test_png_notices_every_flipped_bit_and_every_cut() -> None:
    """Without the checksum of the entry: libpng's own checks, and ours of header and note."""
    for array in (value(1), value(2, (1, 7, 5), "uint16"), value(3, (3, 4, 5), "uint16"), value(4, (11,), "float64")):
        data = b"".join(encode(array))
        for at in range(8 * len(data)):
            flipped = bytearray(data)
            flipped[at // 8] ^= 1 << at % 8
            with contextlib.suppress(IntegrityError):
                assert np.array_equal(decode(flipped), array), at
        for end in range(len(data)):
            with contextlib.suppress(IntegrityError):
                assert np.array_equal(decode(data[:end]), array), end


def test_png_of_noise_in_narrow_and_in_endless_rows() -> None:
    for shape in ((1, 4000, 1), (4000, 1), (300, 2), (3_000_000,), (2, 1_500_000), (1, 1, 1_000_001)):
        assert np.array_equal(decode(b"".join(encode(value(1, shape)))), value(1, shape))


def test_numpy_opens_an_npy(tmp_path: Path) -> None:
    open_store("npy", tmp_path).put(key(1), value(1))
    (file,) = entry_files(tmp_path, "npy")
    assert file.relative_to(tmp_path / "npy").as_posix() == f"{key(1).hex[:2]}/{key(1).hex}.npy"
    assert np.array_equal(np.load(file, allow_pickle=False), value(1))
    assert np.array_equal(np.load(file, allow_pickle=False, mmap_mode="r"), value(1))


def test_torch_opens_a_pt(tmp_path: Path) -> None:
    import torch

    open_store("tensor-disk", tmp_path).put(key(1), value(1))
    (file,) = entry_files(tmp_path, "tensor-disk")
    loaded = torch.load(file, weights_only=True)
    assert torch.equal(loaded, torch.from_numpy(value(1).copy()))


def test_torch_must_be_new_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch, "__version__", "2.9.1")
    with pytest.raises(StoreConfigError, match=r"needs torch 2\.10 or newer .* this is 2\.9\.1"):
        open_store("tensor-disk", tmp_path)


def test_a_dat_and_its_json(tmp_path: Path) -> None:
    store = open_store("tensor-memmap", tmp_path)
    store.put(key(1), value(1))
    data, note = entry_files(tmp_path, "tensor-memmap")
    fields = json.loads(note.read_text())
    assert (fields["shape"], fields["dtype"], fields["data"]) == ([3, 8, 9], "|u1", data.name)
    assert np.array_equal(np.memmap(data, fields["dtype"], "r", shape=tuple(fields["shape"])), value(1))
    found = store.get(key(1))
    assert found is not None
    assert not found.flags.owndata
    store.put(key(1), value(2))
    assert len(entry_files(tmp_path, "tensor-memmap")) == 2
    assert np.array_equal(found, value(1)), "a reader keeps what it mapped"


def test_a_data_file_without_its_json_is_swept(tmp_path: Path) -> None:
    store = open_store("tensor-memmap", tmp_path)
    store.put(key(1), value(1))
    store.put(key(2), value(2))
    dead = subprocess.run(
        [sys.executable, "-c", "from dali_pipes.cache.owner import me; print(me())"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    mine = next(
        path
        for path in entry_files(tmp_path, "tensor-memmap")
        if path.name.startswith(key(1).hex + ".") and path.suffix == ".dat"
    )
    old = mine.with_name(f"{key(1).hex}.{dead}.{'0' * 16}.dat")
    lost = mine.with_name(f"{key(1).hex[:2]}{'0' * 30}.{dead}.{'0' * 16}.dat")
    for path in (old, lost):
        path.write_bytes(b"x")
    assert sorted(store.orphans()) == sorted(f"{path.parent.name}/{path.name}" for path in (old, lost))  # type: ignore[attr-defined]
    store = open_store("tensor-memmap", tmp_path)
    assert not old.exists()
    assert not lost.exists()
    assert np.array_equal(store.get(key(1)), value(1))  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", FILE_MODES)
class TestDamage:
    def damaged(self, tmp_path: Path, mode: str) -> Path:
        open_store(mode, tmp_path).put(key(1), value(1))
        file = max(entry_files(tmp_path, mode), key=lambda path: path.stat().st_size)
        data = bytearray(file.read_bytes())
        data[len(data) // 3] ^= 16
        file.write_bytes(data)
        return file

    def test_is_a_miss_and_set_aside_and_rebuilt(self, tmp_path: Path, mode: str) -> None:
        self.damaged(tmp_path, mode)
        store = open_store(mode, tmp_path)
        assert store.get(key(1)) is None
        assert store.get(key(1)) is None
        assert store.stats()["corrupt"] == 1
        assert store.stats()["entries"] == 0
        assert entry_files(tmp_path, mode) == []
        assert any((tmp_path / mode / "quarantine").iterdir())
        store.put(key(1), value(1))
        assert np.array_equal(store.get(key(1)), value(1))  # type: ignore[arg-type]

    def test_when_strict(self, tmp_path: Path, mode: str) -> None:
        self.damaged(tmp_path, mode)
        with pytest.raises(IntegrityError, match="is not what was put"):
            open_store(mode, tmp_path, strict=True).get(key(1))

    def test_when_read_only(self, tmp_path: Path, mode: str) -> None:
        file = self.damaged(tmp_path, mode)
        store = open_store(mode, tmp_path, read_only=True)
        assert store.get(key(1)) is None
        assert store.get(key(1)) is None
        assert store.stats()["corrupt"] == 1
        assert file.exists()

    def test_verify_decides(self, tmp_path: Path, mode: str) -> None:
        store = open_store(mode, tmp_path)
        store.put(key(1), value(1, (3, 40, 40)))
        first, always = open_store(mode, tmp_path), open_store(mode, tmp_path, verify="always")
        assert first.get(key(1)) is not None
        assert always.get(key(1)) is not None
        file = max(entry_files(tmp_path, mode), key=lambda path: path.stat().st_size)
        with file.open("r+b") as handle:
            handle.seek(file.stat().st_size // 2)
            byte = handle.read(1)[0]
            handle.seek(-1, 1)
            handle.write(bytes([byte ^ 1]))
        assert always.get(key(1)) is None

    def test_another_secret(self, tmp_path: Path, mode: str) -> None:
        open_store(mode, tmp_path, secret=b"a" * 32).put(key(1), value(1))
        for secret in (b"b" * 32, None):
            assert open_store(mode, tmp_path, secret=secret, read_only=True).get(key(1)) is None
        assert open_store(mode, tmp_path, secret=b"a" * 32).get(key(1)) is not None


@pytest.mark.parametrize("mode", FILE_MODES)
def test_the_budget_evicts_the_least_recently_used(tmp_path: Path, mode: str) -> None:
    cost = 12288 if mode in ("disk", "npy") else 16384
    store = open_store(mode, tmp_path, disk_bytes=4 * cost, strict=True)
    for number in range(4):
        store.put(key(number), value(number, (3000,), "float32"))
    assert store.get(key(0)) is not None
    store.put(key(4), value(4, (3000,), "float32"))
    there = {number for number in range(5) if store.contains(key(number))}
    assert 0 in there
    assert 4 in there
    assert 1 not in there
    for number in range(5, 30):
        store.put(key(number), value(number, (number * 97 % 3000,), "float32"))
        files = entry_files(tmp_path, mode)
        assert sum(-(-path.stat().st_size // 4096) * 4096 for path in files) <= 4 * cost
        assert store.contains(key(number))
    assert store.stats()["evicted"] > 10


@pytest.mark.parametrize("mode", FILE_MODES)
def test_put_of_the_same_writes_nothing(tmp_path: Path, mode: str) -> None:
    store = open_store(mode, tmp_path)
    store.put(key(1), value(1))
    before = [(path, path.stat().st_ino) for path in entry_files(tmp_path, mode)]
    store.put(key(1), value(1))
    assert [(path, path.stat().st_ino) for path in entry_files(tmp_path, mode)] == before
    store.put(key(1), value(1).reshape(8, 3, 9))
    found = store.get(key(1))
    assert found is not None
    assert found.shape == (8, 3, 9)


@pytest.mark.parametrize("mode", FILE_MODES)
def test_private_files(tmp_path: Path, mode: str) -> None:
    old = os.umask(0)
    try:
        open_store(mode, tmp_path / "cache").put(key(1), value(1))
    finally:
        os.umask(old)
    for path in [tmp_path / "cache", *(tmp_path / "cache").rglob("*")]:
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600)


@pytest.mark.parametrize("mode", FILE_MODES)
def test_damaged_entries_leave_before_good_ones(tmp_path: Path, mode: str) -> None:
    store = open_store(mode, tmp_path, disk_bytes=170_000)
    for number in range(5):
        store.put(key(number), value(number, (20_000,)))
    for file in entry_files(tmp_path, mode):
        if key(0).hex in file.name and file.stat().st_size > 10_000:
            file.write_bytes(b"damaged".ljust(file.stat().st_size))
    store = open_store(mode, tmp_path, disk_bytes=170_000)
    assert store.get(key(0)) is None
    for number in range(5, 9):
        store.put(key(number), value(number, (20_000,)))
    assert not list((tmp_path / mode / "quarantine").iterdir())
    assert store.stats()["evicted"] == 8 - store.stats()["entries"]
    assert store.stats()["entries"] >= 6


@pytest.mark.parametrize(
    "descr", ["a", "O", "|O8", "<f", "float32", "", 5, None, "<M8[s]", "|V8", "<f3", "<U4", "f4,i4"]
)
def test_other_dtypes_are_refused_without_a_warning(descr: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        plain(descr, (2, 3))
