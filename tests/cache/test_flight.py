"""One computation per key: among threads, among processes, and when the one that computes dies."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dali_pipes.cache import CacheError, Key, SingleFlight, open_store
from dali_pipes.cache.files import Folder
from dali_pipes.cache.owner import me
from tests.cache.conftest import key, value

WORKER = """
import os, sys
from dali_pipes.cache import SingleFlight, open_store
from tests.cache.conftest import key, value
directory, count, die_at = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
flight = SingleFlight(open_store("pinned", directory, strict=True))
print("ready", flush=True)
sys.stdin.readline()
for number in range(count):
    def compute():
        with open(os.path.join(directory, "log"), "a") as log:
            log.write(f"{number}\\n")
        if number == die_at:
            os.kill(os.getpid(), 9)
        return value(number)
    array, computed = flight.get_or_put(key(number), compute)
    assert (array == value(number)).all()
"""


def run_workers(directory: Path, count: int, dying: list[int]) -> list[int]:
    """Runs one worker per entry of ``dying`` (the number at whose computation it dies, or -1); what was computed."""
    command = [sys.executable, "-c", WORKER, str(directory), str(count)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    workers = [subprocess.Popen([*command, str(at)], **pipes) for at in dying]
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    for worker, at in zip(workers, dying):
        worker.communicate(timeout=60)
        assert worker.returncode in ((0, -9) if at >= 0 else (0,))
    return sorted(int(line) for line in (directory / "log").read_text().split())


def test_a_hit_computes_nothing(tmp_path: Path) -> None:
    store = open_store("pinned", tmp_path)
    flight = SingleFlight(store)
    array, computed = flight.get_or_put(key(1), lambda: value(1))
    assert computed
    assert not array.flags.writeable
    assert np.array_equal(array, value(1))
    array, computed = flight.get_or_put(key(1), lambda: pytest.fail("computed again"))
    assert not computed
    assert np.array_equal(array, value(1))
    assert list((tmp_path / "claims").iterdir()) == []


@pytest.mark.parametrize("mode", ["memory", "pinned"])
def test_threads_compute_each_key_once(tmp_path: Path, mode: str) -> None:
    flight = SingleFlight(open_store(mode, None if mode == "memory" else tmp_path))
    calls: list[int] = []
    barrier = threading.Barrier(8)

    def compute(number: int) -> Any:
        calls.append(number)
        return value(number)

    def work() -> None:
        barrier.wait()
        for number in range(20):
            found, _ = flight.get_or_put(key(number), lambda: compute(number))  # noqa: B023
            assert np.array_equal(found, value(number))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(calls) == list(range(20))


def test_an_error_goes_to_its_caller_and_the_others_try(tmp_path: Path) -> None:
    flight = SingleFlight(open_store("pinned", tmp_path))
    with pytest.raises(ZeroDivisionError):
        flight.get_or_put(key(1), lambda: 1 // 0)  # type: ignore[arg-type,return-value]
    assert list((tmp_path / "claims").iterdir()) == []
    inside, failed = threading.Event(), []

    def fail() -> Any:
        inside.set()
        raise ValueError("this file is bad")

    def first() -> None:
        try:
            flight.get_or_put(key(2), fail)
        except ValueError as error:
            failed.append(error)

    thread = threading.Thread(target=first)
    thread.start()
    inside.wait()
    assert flight.get_or_put(key(2), lambda: value(2))[1]
    thread.join()
    assert len(failed) == 1


def test_works_without_a_store_that_keeps(tmp_path: Path) -> None:
    for store in (open_store("none"), open_store("pinned", tmp_path / "nothing", read_only=True)):
        for _ in range(2):
            array, computed = SingleFlight(store).get_or_put(key(1), lambda: value(1))
            assert computed
            assert np.array_equal(array, value(1))


def test_a_result_is_not_the_callers_array(tmp_path: Path) -> None:
    given = value(1).copy()
    array, _ = SingleFlight(open_store("memory")).get_or_put(key(1), lambda: given)
    assert given.flags.writeable
    assert not array.flags.writeable


def test_processes_compute_each_key_once(tmp_path: Path) -> None:
    assert run_workers(tmp_path, 30, [-1] * 4) == list(range(30))


def test_a_dead_holder_is_survived(tmp_path: Path) -> None:
    computed = run_workers(tmp_path, 20, [10, -1, -1, -1])
    assert sorted(set(computed)) == list(range(20))
    assert len(computed) <= 21, "only what the dead one was computing is computed again"


def claim(directory: Path, text: str, age: float, entry: Key) -> Path:
    (directory / "claims").mkdir(exist_ok=True)
    path = directory / "claims" / f"{entry.hex}.claim"
    path.write_text(text)
    os.utime(path, (time.time() - age,) * 2)
    return path


@pytest.mark.parametrize("text", ["0123456789abcdef-1-1", "", "junk"])
def test_a_claim_of_another_host_ends_with_its_lease(tmp_path: Path, text: str) -> None:
    flight = SingleFlight(open_store("pinned", tmp_path), lease=60)
    path = claim(tmp_path, text, 61, key(1))
    assert flight.get_or_put(key(1), lambda: value(1))[1]
    assert not path.exists()
    path = claim(tmp_path, text, 0, key(2))
    waited = threading.Thread(target=flight.get_or_put, args=(key(2), lambda: pytest.fail("the claim still counts")))
    waited.start()
    open_store("pinned", tmp_path).put(key(2), value(2))
    waited.join()
    assert flight.store.get(key(2)) is not None
    assert path.exists(), "another's claim is left to it"


def test_a_claim_without_a_name_counts_for_seconds(tmp_path: Path) -> None:
    """Its maker was killed between making and writing it, or is just about to write."""
    flight = SingleFlight(open_store("pinned", tmp_path), patience=0)
    path = claim(tmp_path, "", 0, key(1))
    assert flight.get_or_put(key(1), lambda: value(1))[1]
    assert path.exists(), "it may be written to in a moment"
    path = claim(tmp_path, "", 6, key(2))
    assert flight.get_or_put(key(2), lambda: value(2))[1]
    assert not path.exists(), "nobody writes any more"


def test_a_claim_that_cannot_be_written_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flight = SingleFlight(open_store("pinned", tmp_path))
    monkeypatch.setattr("dali_pipes.cache.files._write", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
    folder = Folder(tmp_path / "claims")
    with pytest.raises(OSError, match="No space left"):
        folder.make("a.claim", b"me")
    assert folder.names() == []
    monkeypatch.undo()
    assert flight.get_or_put(key(1), lambda: value(1))[1]
    assert folder.names() == []


def test_claims_go_on_after_their_folder_was_removed(tmp_path: Path) -> None:
    flight = SingleFlight(open_store("npy", tmp_path))
    flight.get_or_put(key(1), lambda: value(1))
    (tmp_path / "claims").rmdir()
    seen: list[list[str]] = []
    flight.get_or_put(key(2), lambda: (seen.append(os.listdir(tmp_path / "claims")), value(2))[1])
    assert seen == [[f"{key(2).hex}.claim"]]


def test_nobody_waits_longer_than_patience_for_a_live_owner(tmp_path: Path) -> None:
    """This process is the owner, and never finishes, as one that is stopped."""
    path = claim(tmp_path, str(me()), 0, key(1))
    flight = SingleFlight(open_store("pinned", tmp_path), patience=0)
    assert flight.get_or_put(key(1), lambda: value(1))[1]
    assert flight.store.get(key(1)) is not None
    assert path.exists(), "the owner's claim is left to it"


def test_close_ends_waiting_for_a_claim_and_for_a_thread(tmp_path: Path) -> None:
    claim(tmp_path, str(me()), 0, key(1))
    flight = SingleFlight(open_store("pinned", tmp_path), patience=1e6)
    computing, finish = threading.Event(), threading.Event()

    def slow() -> Any:
        computing.set()
        finish.wait()
        return value(2)

    with ThreadPoolExecutor(4) as threads:
        leader = threads.submit(flight.get_or_put, key(2), slow)
        waiting = [threads.submit(flight.get_or_put, key(number), lambda: value(9)) for number in (1, 1, 2)]
        computing.wait()
        flight.close()
        for future in waiting:
            with pytest.raises(CacheError, match="closed"):
                future.result(60)
        finish.set()
        assert leader.result(60)[1], "what is under way is not disturbed"
    assert flight._claims is not None
    assert not flight._claims._handles, "the last one gave the handle back"
    assert [path.name for path in (tmp_path / "claims").iterdir()] == [f"{key(1).hex}.claim"]


def test_a_forked_child_does_not_wait_for_its_parents_threads(tmp_path: Path) -> None:
    flight = SingleFlight(open_store("memory"))
    flight._flights[key(1).digest] = threading.Event()
    child = os.fork()
    if not child:
        os._exit(0 if flight.get_or_put(key(1), lambda: value(1))[1] else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_pickle(tmp_path: Path) -> None:
    flight = SingleFlight(open_store("pinned", tmp_path), lease=7, patience=8)
    again = pickle.loads(pickle.dumps(flight))  # noqa: S301
    assert (again.lease, again.patience) == (7, 8)
    assert again.get_or_put(key(1), lambda: value(1))[1]
    assert not flight.get_or_put(key(1), lambda: value(1))[1]
