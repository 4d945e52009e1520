"""2: the power fails. What the cache asked of the system is recorded, and any part of it replayed."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import pytest

import dali_pipes.cache.files
from dali_pipes.cache import open_store
from tests.cache.conftest import key
from tests.faults.conftest import MODES, right_or_missing, wanted
from tests.faults.syscalls import Os, Recording, power_cut, replay

NUMBERS = range(6)


def record(mode: str, directory: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    recording = Recording(directory)
    with monkeypatch.context() as patch:
        patch.setattr(dali_pipes.cache.files, "os", Os(recording))
        one, two = open_store(mode, directory), open_store(mode, directory)
        for number in NUMBERS:
            (one, two)[number % 2].put(key(number), wanted(number))
        two.delete(key(0))
        one.put(key(0), wanted(0))
        one.put(key(3), wanted(6))
        one.put(key(3), wanted(3))
        assert right_or_missing(two, range(3)) == 3
    return recording.operations


def check(mode: str, operations: list[tuple[Any, ...]], target: Path, replaced: bool = True) -> int:
    replay(operations, target)
    store = open_store(mode, target)
    there = right_or_missing(store, range(3)) + right_or_missing(store, range(4, 6))
    found = store.get(key(3))
    assert found is None or found.tobytes() in (wanted(3).tobytes(), wanted(6).tobytes())
    store.put(key(3), wanted(3))
    for number in NUMBERS:
        if store.get(key(number)) is None:
            store.put(key(number), wanted(number))
    assert right_or_missing(store, NUMBERS) == len(NUMBERS), "it heals"
    store.close()
    shutil.rmtree(target, ignore_errors=True)
    return there


@pytest.mark.parametrize("mode", MODES)
def test_every_prefix(mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    operations = record(mode, tmp_path / "recorded", monkeypatch)
    there = [check(mode, operations[:end], tmp_path / "cut") for end in range(len(operations) + 1)]
    assert there[0] == 0
    assert there[-1] == 5
    assert len(set(there)) == 6


def cut(mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, orders: int) -> None:
    operations, rng = record(mode, tmp_path / "recorded", monkeypatch), random.Random(mode)
    for _ in range(orders):
        check(mode, power_cut(operations, rng), tmp_path / "cut")


@pytest.mark.parametrize("mode", MODES)
def test_lost_and_torn_writes(mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cut(mode, tmp_path, monkeypatch, 100)


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_lost_and_torn_writes_at_length(mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cut(mode, tmp_path, monkeypatch, 1000)
