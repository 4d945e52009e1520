"""Maps of files: more than a process may open files, read-only, and gone when nothing refers to them."""

from __future__ import annotations

import gc
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from dali_pipes.cache import open_store, segment_writer
from dali_pipes.cache.mapping import map_file
from tests.cache.conftest import key, value

FEW = 64


@pytest.fixture
def handles() -> Iterator[int]:
    """How many files this process may open, a few more than it has."""
    usual = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = max(map(int, os.listdir("/proc/self/fd"))) + FEW
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, usual[1]))
    yield most
    resource.setrlimit(resource.RLIMIT_NOFILE, usual)


@pytest.mark.parametrize("mode", ["pinned", "tensor-memmap"])
def test_more_maps_than_files_may_be_open(
    mode: str, tmp_path: Path, handles: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segment_writer, "capacity", lambda *_: 1)  # a segment for each entry
    with open_store(mode, tmp_path, strict=True) as store:
        for number in range(handles):
            store.put(key(number), value(number, (3, 5)))
    with open_store(mode, tmp_path, strict=True) as store:
        held = [store.get(key(number)) for number in range(handles)]
    assert all(np.array_equal(array, value(number, (3, 5))) for number, array in enumerate(held))


def test_what_is_mapped_is_read_only_and_outlives_its_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"0123456789")
    fd = os.open(tmp_path / "file", os.O_RDONLY)
    array = np.ndarray((6,), np.uint8, buffer=map_file(fd, 10), offset=2)
    os.close(fd)
    (tmp_path / "file").unlink()
    assert array.tobytes() == b"234567"
    assert not array.flags.writeable
    with pytest.raises(ValueError, match="WRITEABLE"):
        array.flags.writeable = True


def test_a_map_ends_with_its_last_reader(tmp_path: Path) -> None:
    def maps() -> int:
        return Path("/proc/self/maps").read_text().count(str(tmp_path / "file"))

    (tmp_path / "file").write_bytes(bytes(1 << 16))
    with open(tmp_path / "file", "rb") as file:
        part = np.ndarray((1 << 16,), np.uint8, buffer=map_file(file.fileno(), 1 << 16))[5:9]
    assert maps() == 1
    del part
    gc.collect()
    assert maps() == 0


def test_what_cannot_be_mapped_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with open(tmp_path / "empty", "rb") as file, pytest.raises((OSError, ValueError), match=r"map|empty"):
        map_file(file.fileno(), 0)
