"""The lock between the threads of a process."""

from __future__ import annotations

import os
import threading
from typing import Any

import pytest

import dali_pipes.cache.lock
from dali_pipes.cache.lock import ProcessLock


def test_threads_of_a_forked_child_that_come_first_together_share_one_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    lock, real, parent = ProcessLock(), threading.RLock, os.getpid()
    monkeypatch.setattr(dali_pipes.cache.lock.os, "getpid", lambda: parent + 1)
    inside, leave, second_inside = threading.Event(), threading.Event(), threading.Event()

    def first() -> None:
        with lock:
            inside.set()
            leave.wait(10)

    def second() -> None:
        with lock:
            second_inside.set()

    def make() -> Any:
        """The first to find no lock of this process is overtaken while it makes one."""
        monkeypatch.setattr(dali_pipes.cache.lock.threading, "RLock", real)
        threading.Thread(target=first).start()
        assert inside.wait(10)
        return real()

    monkeypatch.setattr(dali_pipes.cache.lock.threading, "RLock", make)
    overtaken = threading.Thread(target=second)
    overtaken.start()
    assert inside.wait(10)
    assert not second_inside.wait(0.05)
    leave.set()
    overtaken.join(10)
    assert second_inside.is_set()


def test_a_forked_child_finds_the_lock_free() -> None:
    lock = ProcessLock()
    with lock:
        child = os.fork()
        if not child:
            with lock:
                os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
