"""What the tests of faults share. Their numbers are those of the table of reliability tests in the documentation."""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dali_pipes.cache import DISK_MODES, Store
from tests.cache.conftest import MEMORY, key, value

MODES = [*DISK_MODES]
SHAPES = [(3, 8, 9), (1, 5, 5), (40,)]


def wanted(number: int) -> np.ndarray[Any, Any]:
    """The value of a key, in a shape that depends on it too."""
    return value(number, SHAPES[number % 3])


@pytest.fixture
def memory_path() -> Iterator[Path]:
    """A temporary folder in memory, where there is such a filesystem."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as path:
        yield Path(path)


def right_or_missing(store: Store, numbers: Iterable[int]) -> int:
    """Reads all keys; fails at the first that holds anything else than its value. How many are there."""
    there = 0
    for number in numbers:
        found = store.get(key(number))
        if found is not None:
            truth = wanted(number)
            assert (found.dtype, found.shape) == (truth.dtype, truth.shape)
            assert found.tobytes() == truth.tobytes(), f"entry {number} holds other bytes"
            there += 1
    return there


def in_child(work: Callable[[], Any]) -> int:
    """Forks; the child does ``work`` and ends. Its process id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        work()
        code = 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(code)


LOST = 7
"""Exit code of a process that lost a worker of its DataLoader."""


def lose_a_worker(work: Callable[[], Any]) -> None:
    """In a process of its own: does ``work`` until that loses a worker, and ends with the exit code for it.

    In a thread, because in the main one PyTorch raises the loss wherever it happens to be, and again. The other workers
    are killed: they may wait for ever for what the dead one held.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    error = ThreadPoolExecutor(1).submit(work).exception()
    for worker in multiprocessing.active_children():
        worker.kill()
    handing_over = isinstance(error, (EOFError, ConnectionError))  # its tensors, as it died
    os._exit(LOST if handing_over or "exited unexpectedly" in str(error) else 1)


def wait(child: int) -> int:
    """How a child ended: 0 well, else its exit code, or minus the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill(child: int) -> None:
    """Kills a child without warning."""
    os.kill(child, signal.SIGKILL)
    assert wait(child) == -signal.SIGKILL


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:  # CPython 3.12 warns of every fork of a process that has threads
        item.add_marker(pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"))
