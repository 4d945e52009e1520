"""Locks: one for the threads of a process, and one for the processes that change a folder."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import threading
import time
from collections.abc import Iterator

from .files import Folder

PATIENCE = 10.0  # seconds; what is done under the lock takes milliseconds
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EBADF, errno.EINVAL, errno.ENOSYS)


class ProcessLock:
    """A lock that a forked child finds free, whoever held it in the parent at the fork."""

    def __init__(self) -> None:
        self._locks = {os.getpid(): threading.RLock()}

    def __enter__(self) -> None:
        pid = os.getpid()
        lock = self._locks.get(pid) or self._locks.setdefault(pid, threading.RLock())  # one, whichever thread is first
        lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._locks[os.getpid()].release()


@contextlib.contextmanager
def exclusive(folder: Folder) -> Iterator[bool]:
    """Hold the folder against all others that use this; give False where its filesystem has no locks.

    The kernel lets go of it when the holder is killed. Raises TimeoutError when another holds it too long.
    """
    with folder.opened() as fd:
        held = _acquire(fd, folder.path)
        try:
            yield held
        finally:
            if held:
                fcntl.flock(fd, fcntl.LOCK_UN)  # said aloud: a child forked meanwhile has the descriptor too


def can_lock(folder: Folder) -> bool:
    """Whether its filesystem has locks. Waits for whoever holds the folder, as ``exclusive`` does."""
    with exclusive(folder) as held:
        return held


def _acquire(fd: int, path: str) -> bool:
    end = time.monotonic() + PATIENCE
    while not (found := _try(fd)):
        if time.monotonic() > end:
            raise TimeoutError(errno.ETIMEDOUT, f"another process has locked {path} for {PATIENCE:g} s")
        time.sleep(0.001)
    return found == "held"


def _try(fd: int) -> str:
    """Return "held" or "no locks here"; an empty text while another holds it."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return ""
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return "no locks here"
    return "held"
