"""The ``memory`` mode with ``shared="a name"``: one copy for all processes of this user that open the same name.

So the ranks of a machine hold each entry once. The folder in the machine's memory filesystem is called by a digest of
the name. Beside it lies ``<folder>.lock``, which every member holds with a shared ``flock``, and whoever can lock it
alone is the last one. The kernel lets go of the locks of a killed process, so the folder is removed by the last member
that closes its store or ends, and after a kill by the next process that shares memory. This works across containers
that share the filesystem.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import weakref
from collections.abc import Iterator
from dataclasses import replace
from hashlib import blake2b
from typing import Any

from .base import Options
from .contents import remove_cache
from .errors import StoreConfigError
from .files import Folder
from .limits import default_memory_bytes
from .packed import PackedStore

PLACE = "/dev/shm"
LOG = logging.getLogger(__name__)
_PREFIX, _LOCK = "dali-pipes-run-", ".lock"


def place_of(name: str) -> str:
    """Return the folder that a name stands for; users do not share."""
    digest = blake2b(f"{os.getuid()}\0{name}".encode("utf-8", "surrogateescape"), digest_size=16)
    return os.path.join(PLACE, _PREFIX + digest.hexdigest())


class NamedMemoryStore(PackedStore):
    """See the module.

    ``memory_bytes`` bounds the copy that all members share: a quarter of the memory by default. Whole segments of a
    sixteenth of that leave, least recently used first. Raises OSError if the filesystem is full, or another user has
    taken the name.
    """

    mode = "memory"
    persistent = False

    def __init__(self, options: Options, name: str) -> None:
        if not os.path.isdir(PLACE):
            raise StoreConfigError(
                f"memory cannot be shared here: there is no {PLACE}; use cache mode 'memory' without shared=, or 'npy'"
            )
        sweep_named()
        self._name = name
        lock = _join(place_of(name))
        self._leave = weakref.finalize(self, _leave, place_of(name), lock, os.getpid())
        budget = options.memory_bytes or default_memory_bytes(1)
        super().__init__(place_of(name), replace(options, memory_bytes=budget, disk_bytes=budget), sweep=False)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.options, self._name)

    def close(self) -> None:
        """End the use of this instance; the last member removes the folder. Arrays handed out stay valid."""
        super().close()
        self._leave()


def _join(path: str) -> int:
    """Return a descriptor that holds the lock of a folder, shared with the other members."""
    place = Folder(PLACE)
    name = os.path.basename(path) + _LOCK
    try:
        while True:
            with contextlib.suppress(FileExistsError):
                place.make(name, b"")
            with contextlib.suppress(FileNotFoundError), _opened(place, name) as fd:
                fcntl.flock(fd, fcntl.LOCK_SH)
                if _is_there(place, name, fd):  # else the last member removed it meanwhile
                    made = Folder(path, follow=False)
                    with contextlib.suppress(NotADirectoryError), contextlib.closing(made):
                        made.handle()  # before it is checked: nobody else can take its place then
                    _check_ours(place, os.path.basename(path))
                    return os.dup(fd)
    finally:
        place.close()


def _check_ours(place: Folder, name: str) -> None:
    """Refuse a folder, or a link in its place, that another user has made: anyone may write to the filesystem."""
    found = place.status(name)
    if found is not None and (found.st_uid != os.getuid() or not os.path.isdir(f"{place.path}/{name}")):
        raise PermissionError(errno.EPERM, f"{place.path}/{name} is another user's, not a cache of ours")


@contextlib.contextmanager
def _opened(place: Folder, name: str) -> Iterator[int]:
    with place.open(name) as fd:
        if os.fstat(fd).st_uid != os.getuid():
            raise PermissionError(errno.EPERM, f"{place.path}/{name} is another user's")
        yield fd


def _is_there(place: Folder, name: str, fd: int) -> bool:
    """Return whether an open file still lies under its name."""
    found = place.status(name)
    return found is not None and found.st_ino == os.fstat(fd).st_ino


def _leave(path: str, lock: int, member: int) -> None:
    if os.getpid() != member:  # a forked child is no member of its own
        return
    try:
        _remove_if_last(path, lock)
    finally:
        os.close(lock)


def _remove_if_last(path: str, lock: int) -> bool:
    """Remove a folder, and then its lock, if nobody else holds that; ``lock`` is given up."""
    place, name = Folder(PLACE), os.path.basename(path) + _LOCK
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is_there(place, name, lock):
            remove_cache(path)
            Folder(path, read_only=True).remove_folder()  # that of a member who was killed before it was marked
            return place.delete(name)
    except BlockingIOError:
        pass
    except OSError as error:
        LOG.info("shared memory in %s stays for the next run to remove: %s", path, error)
    finally:
        place.close()
    return False


def sweep_named() -> int:
    """Remove the folders whose members have all been killed; return how many there were."""
    place, swept = Folder(PLACE, read_only=True), 0
    for name in place.names():
        if name.startswith(_PREFIX) and name.endswith(_LOCK):
            with contextlib.suppress(OSError), _opened(place, name) as fd:
                swept += _remove_if_last(os.path.join(PLACE, name.removesuffix(_LOCK)), fd)
    place.close()
    return swept
