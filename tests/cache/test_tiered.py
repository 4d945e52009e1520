"""Memory over disk over a shared folder, and memory shared by processes."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dali_pipes.cache import SingleFlight, StoreConfigError, open_store
from dali_pipes.cache.shared import PLACE, sweep_shared
from tests.cache.conftest import key, value


@pytest.mark.parametrize("over", ["disk", "npy", "tensor-disk", "tensor-memmap", "pinned"])
def test_over_every_disk_mode(tmp_path: Path, over: str) -> None:
    with open_store("tiered", tmp_path, over=over, strict=True) as store:
        store.put(key(1), value(1))
        assert np.array_equal(store.get(key(1)), value(1))  # type: ignore[arg-type]
    with open_store("tiered", tmp_path, over=over, strict=True) as store:
        first, again = store.get(key(1)), store.get(key(1))
        assert np.array_equal(first, value(1))  # type: ignore[arg-type]
        assert again is not first
        tiers = store.stats()["tiers"]
        assert (tiers["disk"]["hits"], tiers["memory"]["hits"], tiers["memory"]["entries"]) == (1, 1, 1)
        assert np.array_equal(open_store(over, tmp_path).get(key(1)), value(1))  # type: ignore[arg-type]


def test_a_shared_folder_is_only_read(tmp_path: Path) -> None:
    for number in (1, 2):
        open_store("npy", tmp_path / "shared").put(key(number), value(number))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "shared").rglob("*")}
    store = open_store("tiered", tmp_path / "own", base=tmp_path / "shared", strict=True)
    assert np.array_equal(store.get(key(1)), value(1))  # type: ignore[arg-type]
    store.put(key(3), value(3))
    store.put(key(2), value(9))
    assert np.array_equal(store.get(key(2)), value(9))  # type: ignore[arg-type]
    assert set(store.keys()) == {key(1), key(2), key(3)}
    assert store.delete(key(1))
    assert store.get(key(1)) is None
    assert set(store.keys()) == {key(2), key(3)}
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "shared").rglob("*")} == before
    again = pickle.loads(pickle.dumps(store))  # noqa: S301
    assert np.array_equal(again.get(key(1)), value(1)), "hidden from that instance only"


@pytest.mark.parametrize("over", ["npy", "pinned"])
def test_a_read_only_store_has_memory_of_its_own(tmp_path: Path, over: str) -> None:
    with open_store(over, tmp_path) as below:
        below.put(key(1), value(1))
    before = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in tmp_path.rglob("*")}
    with open_store("tiered", tmp_path, over=over, read_only=True, strict=True) as store:
        for _ in range(2):
            assert np.array_equal(store.get(key(1)), value(1))  # type: ignore[arg-type]
        flight = SingleFlight(store)
        assert [flight.get_or_put(key(2), lambda: value(2))[1] for _ in range(3)] == [True, False, False]
        assert store.stats()["tiers"]["memory"]["entries"] == 2
        assert store.delete(key(1))
        assert store.delete(key(2))
        assert store.get(key(1)) is None
        assert store.keys() == []
        assert not store.delete(key(1))
        store.put(key(1), value(9))
        assert np.array_equal(store.get(key(1)), value(9))  # type: ignore[arg-type]
        store.memory.delete(key(1))  # type: ignore[attr-defined]
        assert store.get(key(1)) is None, "what was deleted does not come back"
    assert {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in tmp_path.rglob("*")} == before


def test_a_read_only_store_keeps_its_budget(tmp_path: Path) -> None:
    with open_store("tiered", tmp_path / "none", read_only=True, memory_bytes=5000, strict=True) as store:
        for number in range(40):
            store.put(key(number), value(number, (1000,)))
        assert store.stats()["tiers"]["memory"]["bytes"] <= 5000
        assert 1 <= len(store.keys()) <= 4
    assert not (tmp_path / "none").exists()


def test_damage_below_is_counted_above(tmp_path: Path) -> None:
    open_store("npy", tmp_path).put(key(1), value(1))
    file = next(tmp_path.rglob(f"{key(1).hex}.npy"))
    file.write_bytes(file.read_bytes()[:-1])
    store = open_store("tiered", tmp_path)
    assert store.get(key(1)) is None
    assert store.stats()["corrupt"] == 1


def test_unknown_modes_below(tmp_path: Path) -> None:
    for over in ("memory", "tiered", "zip"):
        with pytest.raises(StoreConfigError, match=f"no disk mode '{over}'"):
            open_store("tiered", tmp_path, over=over)


CHILD = """
import pickle, sys
from tests.cache.conftest import key, value
store = pickle.loads(sys.stdin.buffer.read())
assert (store.get(key(1)) == value(1)).all()
store.put(key(2), value(2))
store.close()
"""


def test_workers_share_one_copy(tmp_path: Path) -> None:
    store = open_store("memory", shared=True, strict=True)
    store.put(key(1), value(1))
    subprocess.run([sys.executable, "-c", CHILD], input=pickle.dumps(store), check=True, timeout=60)
    assert np.array_equal(store.get(key(2)), value(2))  # type: ignore[arg-type]
    child = os.fork()
    if not child:
        found = store.get(key(2))
        store.put(key(3), value(3))
        os._exit(0 if found is not None else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert np.array_equal(store.get(key(3)), value(3))  # type: ignore[arg-type]
    directory = store.directory
    assert directory is not None
    assert os.path.dirname(directory) == PLACE
    held = store.get(key(1))
    store.close()
    assert not os.path.exists(directory)
    assert np.array_equal(held, value(1))  # type: ignore[arg-type]


KILLED = """
import os
from dali_pipes.cache import open_store
from tests.cache.conftest import key, value
store = open_store("memory", shared=True)
store.put(key(1), value(1))
print(store.directory, flush=True)
os.kill(os.getpid(), 9)
"""


def test_what_a_killed_process_shared_is_swept() -> None:
    done = subprocess.run([sys.executable, "-c", KILLED], capture_output=True, text=True, check=False)
    directory = done.stdout.strip()
    assert os.path.isdir(directory)
    mine = open_store("memory", shared=True)
    assert not os.path.exists(directory)
    assert mine.directory is not None
    assert os.path.isdir(mine.directory)
    assert sweep_shared() == 0
    mine.close()
    ended = subprocess.run(
        [sys.executable, "-c", KILLED.replace("os.kill(os.getpid(), 9)", "")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert not os.path.exists(ended.stdout.strip()), "a process that ends cleans up after itself"


def test_shared_memory_keeps_its_budget() -> None:
    with open_store("memory", shared=True, memory_bytes=1 << 20) as store:
        for number in range(40):
            store.put(key(number), value(number, (60_000,)))
            assert store.stats()["bytes"] <= 1 << 20
        assert store.stats()["evicted"] > 20


def test_a_base_in_which_nothing_can_be_found_is_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with open_store("pinned", tmp_path / "base") as store:
        store.put(key(1), value(1))
    for base, over, told in (
        (tmp_path / "nowhere", "npy", "holds no cache"),
        (tmp_path / "base", "npy", "holds entries of ['pinned'], and none of over='npy': give over='pinned'"),
        (tmp_path / "base", "pinned", ""),
    ):
        caplog.clear()
        with open_store("tiered", tmp_path / "own", over=over, base=base) as store:
            assert (store.get(key(1)) is None) == bool(told)
        assert told in caplog.text
        assert bool(caplog.text) == bool(told)
