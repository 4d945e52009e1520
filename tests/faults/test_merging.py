"""Small packed segments are merged while calls fail, the power fails, processes are killed, and others go on."""

from __future__ import annotations

import errno
import os
import random
import select
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

import dali_pipes.cache.files
import dali_pipes.cache.lock
from dali_pipes.cache import open_store, upkeep
from tests.cache.conftest import key
from tests.cache.test_compact import EACH, NUMBERS, RUNS, all_there, compact, segments, short_runs
from tests.faults.conftest import in_child, right_or_missing, wait, wanted
from tests.faults.syscalls import Os, Recording, Refusing, power_cut, replay


def test_every_call_fails(memory_path: Path) -> None:
    """Nothing is lost, whichever call of the merge is refused."""
    made, tried, numbers = memory_path / "made", memory_path / "tried", range(0, 3 * EACH, 3)
    short_runs(made, 3, step=3, disk_bytes=1 << 20)

    def merge(refusing: Refusing) -> None:
        store = open_store("pinned", tried)
        with pytest.MonkeyPatch.context() as patch:
            for module in (dali_pipes.cache.files, dali_pipes.cache.lock):
                patch.setattr(module, "os", Os(refusing))
            compact(store)
        assert right_or_missing(store, numbers) == len(numbers)

    counting = Refusing(0, 0)
    shutil.copytree(made, tried)
    merge(counting)
    shutil.rmtree(tried)
    assert counting.count > 60
    for at in range(1, counting.count + 1):
        refusing = Refusing(at, (errno.ENOSPC, errno.EIO)[at % 2], forever=at % 3 == 0)
        shutil.copytree(made, tried)
        assert wait(in_child(lambda: merge(refusing))) == 0, at  # noqa: B023
        all_there(tried, numbers)
        upkeep.gc(tried)
        assert len(segments(tried)) == 1
        all_there(tried, numbers)
        shutil.rmtree(tried)


def record(directory: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]:
    """What short runs ask of the system, and then a merge."""
    recording = Recording(directory)
    with monkeypatch.context() as patch:
        for module in (dali_pipes.cache.files, dali_pipes.cache.lock):
            patch.setattr(module, "os", Os(recording))
        short_runs(directory, 3)
        begin = len(recording.operations)
        upkeep.gc(directory)
    return recording.operations[:begin], recording.operations[begin:]


@pytest.mark.parametrize("orders", [60, pytest.param(1000, marks=pytest.mark.slow)])
def test_the_power_fails(orders: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At every step all entries are on disk; if names and writes lose their order, none is wrong."""
    before, merge = record(tmp_path / "recorded", monkeypatch)
    rng = random.Random(5)
    assert len(merge) > 50
    for end in range(len(merge) + 1):
        replay([*before, *merge[:end]], tmp_path / "cut")
        all_there(tmp_path / "cut", range(3 * EACH))
        shutil.rmtree(tmp_path / "cut")
    lost = 0
    for _ in range(orders):
        replay([*before, *power_cut(merge, rng)], tmp_path / "cut")
        with open_store("pinned", tmp_path / "cut") as store:
            lost += right_or_missing(store, range(3 * EACH)) < 3 * EACH
        shutil.rmtree(tmp_path / "cut")
    assert lost < orders / 2, "what is unlinked was copied to the disk before"


def kill_merges(directory: Path, kills: int, seed: int = 0) -> None:
    """Merges are killed at random moments. No entry is ever missing, and nothing else stays."""
    rng, number, alive_at_death = random.Random(seed), 0, 0
    for _ in range(kills):
        with open_store("pinned", directory, strict=True) as store:
            for _ in range(3):
                store.put(key(number), wanted(number))
                number += 1
        read, write = os.pipe()
        child = in_child(lambda: os.write(write, b".") and upkeep.gc(directory))  # noqa: B023
        os.read(read, 1)
        select.select([], [], [], rng.random() * 0.015)
        os.kill(child, signal.SIGKILL)
        alive_at_death += wait(child) == -signal.SIGKILL
        os.close(read)
        os.close(write)
        with open_store("pinned", directory, strict=True) as store:
            assert right_or_missing(store, range(number)) == number
        assert upkeep.verify(directory)["orphans"] == 0, "the next opening sweeps"
    assert alive_at_death > kills / 4
    upkeep.gc(directory)
    assert len(segments(directory)) == 3
    all_there(directory, range(number))


def test_a_killed_merge(tmp_path: Path) -> None:
    kill_merges(tmp_path, 40)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_killed_merge_at_length(tmp_path: Path) -> None:
    for turn in range(25):
        kill_merges(tmp_path / str(turn), 40, turn)


def read_on(directory: Path, rounds: int) -> None:
    """In a child: reads everything again and again, with maps kept and with new ones; all is always there."""
    kept = open_store("pinned", directory, strict=True)
    held = []
    for _ in range(rounds):
        held = [kept.get(key(number)) for number in NUMBERS]
        with open_store("pinned", directory, strict=True, verify="always") as store:
            assert right_or_missing(store, NUMBERS) == len(NUMBERS)
        for number, found in zip(NUMBERS, held):
            assert found is not None, number
            assert found.tobytes() == wanted(number).tobytes()


def write_on(directory: Path, rounds: int, first: int) -> None:
    """In a child: short runs with replacements and deletions of its own entries."""
    rng = random.Random(first)
    for _ in range(rounds):
        with open_store("pinned", directory, strict=True) as store:
            model = {}
            for number in range(first, first + 9):
                state = rng.choice([None, number, number + 3])
                store.delete(key(number))
                if state is not None:
                    store.put(key(number), wanted(number + 3))
                    store.put(key(number), wanted(state))
                model[number] = state
        with open_store("pinned", directory, strict=True) as store:
            for number, state in model.items():
                found = store.get(key(number))
                assert (found is None) == (state is None), (number, state)
                assert state is None or found is None or found.tobytes() == wanted(state).tobytes()


def go_on(directory: Path, rounds: int) -> None:
    """Merges again and again meanwhile; what readers and writers do never stops one."""
    short_runs(directory)
    children = [in_child(lambda: read_on(directory, rounds)) for _ in range(2)]
    children += [in_child(lambda: write_on(directory, rounds, first)) for first in (1000, 2000)]  # noqa: B023
    merged = 0
    while children:
        merged += upkeep.gc(directory)["merged"]
        children = [child for child in children if not ended(child)]
    assert merged >= 3 * (RUNS - 1)
    with open_store("pinned", directory, strict=True) as store:
        assert right_or_missing(store, NUMBERS) == len(NUMBERS)
    found = upkeep.verify(directory)
    assert (found["corrupt"], found["errors"]) == (0, 0)


def ended(child: int) -> bool:
    done, status = os.waitpid(child, os.WNOHANG)
    assert not done or os.waitstatus_to_exitcode(status) == 0
    return bool(done)


def test_readers_and_writers_go_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    go_on(tmp_path, 20)
    assert not caplog.records, "no merge failed"


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_readers_and_writers_go_on_at_length(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    go_on(tmp_path, 1000)
    assert not caplog.records, "no merge failed"
