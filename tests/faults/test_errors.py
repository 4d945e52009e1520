"""3: every call to the system fails once, and from then on, in every way. 4: a disk that is really full."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import dali_pipes.cache.files
from dali_pipes.cache import CacheError, SingleFlight, Store, open_store
from tests.cache.conftest import key
from tests.faults.conftest import MODES, in_child, right_or_missing, wait, wanted
from tests.faults.syscalls import Os, Refusing

NUMBERS = [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EMFILE, errno.EROFS, errno.EACCES]


def use(store: Store) -> None:
    flight = SingleFlight(store)
    for number in range(2):
        store.put(key(number), wanted(number))
        right_or_missing(store, range(2))
    found, _ = flight.get_or_put(key(3), lambda: wanted(3))
    assert found.tobytes() == wanted(3).tobytes()
    store.delete(key(1))
    store.contains(key(1))
    store.keys()
    store.stats()


def fail(mode: str, directory: Path, refusing: Refusing, monkeypatch: pytest.MonkeyPatch) -> int:
    """Uses a new cache while calls fail, and then again while none does; how many failures it counted."""
    with monkeypatch.context() as patch:
        patch.setattr(dali_pipes.cache.files, "os", Os(refusing))
        store = open_store(mode, directory, disk_bytes=64 << 20)
        use(store)
        failed: int = store.stats()["errors"]
        store.close()
    with open_store(mode, directory, strict=True) as store:
        right_or_missing(store, range(4))
        for each in range(4):
            store.put(key(each), wanted(each))
        assert right_or_missing(store, range(4)) == 4
    shutil.rmtree(directory)
    return failed


@pytest.mark.parametrize("number", NUMBERS, ids=[errno.errorcode[number] for number in NUMBERS])
@pytest.mark.parametrize("mode", MODES)
def test_every_call_fails(mode: str, number: int, memory_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each call fails alone; each seventh also together with all that follow."""
    at = failed = 0
    refusing = Refusing(0, number)
    while refusing.count >= at:
        at += 1
        refusing = Refusing(at, number)
        failed += fail(mode, memory_path / "once", refusing, monkeypatch) > 0
        if at % 7 == 0:
            failed += fail(mode, memory_path / "forever", Refusing(at, number, forever=True), monkeypatch) > 0
    assert at > 100
    assert failed > at / 3


@pytest.mark.parametrize("mode", MODES)
def test_when_strict_only_our_errors_come_out(mode: str, memory_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at = raised = 0
    refusing = Refusing(0, errno.EIO)
    while refusing.count >= at:
        at += 1
        refusing = Refusing(at, errno.EIO)
        with monkeypatch.context() as patch:
            patch.setattr(dali_pipes.cache.files, "os", Os(refusing))
            try:
                with open_store(mode, memory_path / str(at), strict=True) as store:
                    use(store)
            except CacheError:
                raised += 1
    assert raised > at / 3


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path | None]:
    """A filesystem of 4 MiB, or None where none can be mounted."""
    place = tmp_path / "small"
    place.mkdir()
    try:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(place)], capture_output=True, check=False
        )
    except FileNotFoundError:
        yield None
        return
    if done.returncode:
        yield None
        return
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def fill(directory: Path, mode: str, rounds: int) -> None:
    big = [np.random.default_rng(number).integers(0, 256, (3, 200, 200), np.uint8) for number in range(60)]
    store = open_store(mode, directory)
    for _ in range(rounds):
        for number, array in enumerate(big):
            store.put(key(number), array)
        kept = 0
        for number, array in enumerate(big):
            found = store.get(key(number))
            assert found is None or found.tobytes() == array.tobytes()
            kept += found is not None
        assert kept < len(big)
        assert store.stats()["errors"] > 0
        for number in range(60):
            store.delete(key(number))
        store.put(key(61), wanted(61))
        assert store.get(key(61)) is not None, "there is room again"
        store.delete(key(61))
    store.close()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("fills", [5, pytest.param(1000, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])])
def test_a_full_disk(mode: str, fills: int, tmp_path: Path, small_disk: Path | None) -> None:
    if small_disk is not None:
        fill(small_disk / "cache", mode, fills)
        return

    def limited() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
        store = open_store(mode, tmp_path / "cache")
        store.put(key(0), wanted(0).repeat(1000))
        assert store.get(key(0)) is None
        assert store.stats()["errors"] > 0
        store.put(key(1), wanted(1))
        right_or_missing(store, range(1, 2))

    assert wait(in_child(limited)) == 0
    assert os.listdir(tmp_path)
