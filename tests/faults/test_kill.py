"""1: a writer is killed at a random moment. 9: the one that computes what others wait for is killed."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from dali_pipes.cache import SingleFlight, open_store, upkeep
from tests.cache.conftest import key
from tests.faults.conftest import MODES, in_child, kill, right_or_missing, wait, wanted

NUMBERS = range(60)


def write_forever(mode: str, directory: Path, pipe: int, seed: int) -> None:
    rng, store = random.Random(seed), open_store(mode, directory, disk_bytes=40 << 20)
    while True:
        number = rng.choice(NUMBERS)
        if rng.random() < 0.2:
            store.delete(key(number))
        else:
            store.put(key(number), wanted(number))
        os.write(pipe, b".")


def kill_writers(mode: str, directory: Path, kills: int) -> None:
    rng = random.Random(mode)
    for attempt in range(kills):
        read, write = os.pipe()
        child = in_child(lambda: write_forever(mode, directory, write, rng.random()))  # noqa: B023
        os.close(write)
        for _ in range(rng.randint(1, 30)):
            os.read(read, 1)
        kill(child)
        os.close(read)
        store = open_store(mode, directory)
        right_or_missing(store, NUMBERS)
        assert store.stats()["corrupt"] == 0, "a killed process leaves whole entries or none"
        assert store.stats()["errors"] == 0
        store.close()
        if attempt % 10 == 0 or attempt == kills - 1:
            assert upkeep.verify(directory)["orphans"] == 0, "the next opening sweeps"
    store = open_store(mode, directory, strict=True)
    for number in NUMBERS:
        store.put(key(number), wanted(number))
    assert right_or_missing(store, NUMBERS) == len(NUMBERS)


@pytest.mark.parametrize("mode", MODES)
def test_a_killed_writer(mode: str, tmp_path: Path) -> None:
    kill_writers(mode, tmp_path, 40)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("mode", MODES)
def test_a_killed_writer_at_length(mode: str, tmp_path: Path) -> None:
    kill_writers(mode, tmp_path, 2000)


def race(directory: Path, processes: int) -> None:
    """All want key 1; the first to compute it is killed while it does."""
    read, write = os.pipe()
    log = directory / "log"

    def work(victim: bool) -> None:
        flight = SingleFlight(open_store("pinned", directory))

        def compute() -> object:
            with log.open("a") as file:
                file.write("x")
            if victim:
                os.write(write, b"computing")
                os.read(os.pipe()[0], 1)  # until it is killed
            return wanted(1)

        found, _ = flight.get_or_put(key(1), compute)  # type: ignore[arg-type]
        assert found.tobytes() == wanted(1).tobytes()

    victim = in_child(lambda: work(True))
    os.read(read, 9)
    others = [in_child(lambda: work(False)) for _ in range(processes - 1)]
    kill(victim)
    assert [wait(other) for other in others] == [0] * len(others)
    assert log.read_text() == "xx", "computed once by the dead one and once by a survivor"
    assert list((directory / "claims").iterdir()) == []
    os.close(read)
    os.close(write)


def test_the_computing_process_is_killed(tmp_path: Path) -> None:
    race(tmp_path, 8)


@pytest.mark.slow
def test_the_computing_process_is_killed_among_many(tmp_path: Path) -> None:
    race(tmp_path, 64)
