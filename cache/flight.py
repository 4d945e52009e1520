"""One computation per key at a time, over the threads of a process and the processes that share a cache folder.

Threads wait for each other on events. Processes make a claim, a small file that names its owner and that only one can
make (O_EXCL): no lock of the operating system is used, so this works on network folders. Whoever finds a claim waits
until the entry is there or the claim is gone. A claim whose owner is dead is taken over; of an owner on another
host nobody knows, so its claim counts for ``lease`` seconds by the file server's own clock.

A claim saves work and is never needed for correctness: where it cannot be written, or its owner is alive but has not
finished after ``patience`` seconds (it may be stopped), the value is simply computed.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from .base import Array, Store
from .errors import StoreConfigError
from .files import Folder
from .integrity import read_only, storable
from .key import Key
from .lock import ProcessLock
from .owner import Owner, me

LEASE = 300.0  # longer than any decode may take
_NAMELESS = 5.0  # seconds that a claim without its owner's name counts: who makes one writes it at once
PATIENCE = 60.0  # longer than most decodes take: waiting on costs more than computing twice
_FIRST_WAIT, _LONGEST_WAIT = 0.001, 0.05


class SingleFlight:
    """See the module. ``store``: any store; claims lie in the subfolder ``claims`` of its directory, if it has one."""

    def __init__(self, store: Store, lease: float = LEASE, patience: float = PATIENCE) -> None:
        self.store, self.lease, self.patience = store, lease, patience
        self._lock = ProcessLock()
        self._pid = os.getpid()
        self._flights: dict[bytes, threading.Event] = {}
        self._closed = threading.Event()
        self.seconds_waiting = 0.0
        """How long threads have waited for what other processes compute, in all."""
        self._claims: Folder | None = None
        if store.directory is not None and not store.options.read_only:
            self._claims = Folder(
                os.path.join(store.directory, "claims"), store.options.access_to(store.directory), follow=False
            )
            with contextlib.suppress(OSError):  # a folder that cannot be made or read holds nothing to sweep
                for name in left_behind(self._claims):
                    if name.endswith(".claim"):
                        self._is_stale(self._claims, name)
                    else:
                        self._claims.delete(name)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.store, self.lease, self.patience)

    def get_or_put(self, key: Key, compute: Callable[[], Array]) -> tuple[Array, bool]:
        """(entry, False) if the store has it or gets it from elsewhere; else (what ``compute`` gave, True), now stored.

        The array is read-only. What ``compute`` raises goes to the caller; others who waited then try for themselves.
        Raises StoreConfigError where it would begin or go on to wait or compute after ``close``.
        """
        while True:
            found = self.store.get(key) if self._claims is None else self.store.known(key)
            if found is not None:
                return found, False
            with self._lock:
                self._leave_parent()
                self._check_open()
                other = self._flights.get(key.digest)
                if other is None:
                    mine = self._flights[key.digest] = threading.Event()
            if other is not None:
                other.wait()
                continue
            try:
                return self._lead(key, compute)
            finally:
                with self._lock:
                    self._flights.pop(key.digest, None)
                    self._give_back()
                mine.set()

    def close(self) -> None:
        """End all waiting.

        Waiting calls in this process raise StoreConfigError. Computations under way end as usual. This does not wait
        for them: the last one gives the folder's handle back.
        """
        with self._lock:
            self._leave_parent()
            self._closed.set()
            for flight in self._flights.values():
                flight.set()
            self._give_back()

    def _leave_parent(self) -> None:
        """After a fork: the parent's threads do not fly here, and may have held the locks of its events."""
        if self._pid != os.getpid():
            closed = self._closed.is_set()
            self._pid, self._flights, self._closed = os.getpid(), {}, threading.Event()
            if closed:
                self._closed.set()

    def _check_open(self) -> None:
        if self._closed.is_set():
            raise StoreConfigError("this SingleFlight is closed: make another for a store that is open")

    def _give_back(self) -> None:
        if self._claims is not None and self._closed.is_set() and not self._flights:
            self._claims.close()

    def _lead(self, key: Key, compute: Callable[[], Array]) -> tuple[Array, bool]:
        with self._claimed(key) as found:
            if found is not None:
                return found, False
            array = storable(np.asarray(compute()))
            self.store.put(key, array)
            return read_only(array), True

    @contextlib.contextmanager
    def _claimed(self, key: Key) -> Iterator[Array | None]:
        """Hold the claim of a key; give the entry if another process has stored it meanwhile."""
        name = key.hex + ".claim"
        held = False
        with contextlib.suppress(OSError):  # no claims in this folder: compute without
            held = self._claims is not None and self._acquire(key, name)
        try:
            yield self.store.get(key) if self._claims is not None else None
        finally:
            if held and self._claims is not None:
                with contextlib.suppress(OSError):
                    self._claims.delete(name)

    def _acquire(self, key: Key, name: str) -> bool:
        """Return True when the claim is ours; False when the entry has appeared, or to compute without a claim.

        Raises StoreConfigError when this is closed meanwhile.
        """
        claims = self._claims
        if claims is None:
            return False
        text = str(me()).encode()
        with contextlib.suppress(FileExistsError):
            claims.make(name, text)
            return True
        begun = time.monotonic()
        try:
            return self._queue(claims, key, name, text, begun + self.patience)
        finally:
            with self._lock:
                self.seconds_waiting += time.monotonic() - begun

    def _queue(self, claims: Folder, key: Key, name: str, text: bytes, until: float) -> bool:
        """Wait for a claim that another process holds; return as ``_acquire`` does."""
        wait = _FIRST_WAIT
        while True:
            try:
                claims.make(name, text)
                return True
            except FileExistsError:
                pass
            if self._is_stale(claims, name):
                continue
            if self.store.contains(key) or time.monotonic() >= until:
                return False
            if self._closed.wait(wait):
                self._check_open()
            wait = min(_LONGEST_WAIT, wait * 1.5)

    def _is_stale(self, claims: Folder, name: str) -> bool:
        """Whether the claim is gone or was taken from a dead owner."""
        try:
            text, status = claims.read(name, limit=100), claims.status(name)
        except FileNotFoundError:
            return True
        owner = Owner.parse(text.decode("ascii", "replace"))
        alive = None if owner is None else owner.alive()
        if alive is None and status is not None:
            lease = self.lease if text else min(self.lease, _NAMELESS)
            alive = self._server_time(claims) - status.st_mtime < lease
        if alive:
            return False
        # two may find it stale at once: each takes away what it saw, and gives back what it took by mistake
        aside = f".{me()}.{secrets.token_hex(8)}.tmp"
        if claims.rename(name, aside):
            if claims.read(aside, limit=100) != text:
                with contextlib.suppress(OSError):
                    claims.link(aside, name)
            claims.delete(aside)
        return True

    @staticmethod
    def _server_time(claims: Folder) -> float:
        """Return the time now, by the clock that stamps the claims."""
        name = f"{secrets.token_hex(8)}.now"
        claims.publish(name, [b""])
        status = claims.status(name)
        claims.delete(name)
        return status.st_mtime if status is not None else time.time()


def left_behind(claims: Folder) -> list[str]:
    """Return the names of what was left in the folder of claims: claims, temporary files, and looks at the clock.

    Left are those of dead processes, and those of unknown ones that are older than an hour.
    """
    found = claims.orphans()
    for name in claims.names():
        if name.endswith(".now") and claims.is_old(name):
            found.append(name)
        elif name.endswith(".claim"):
            with contextlib.suppress(FileNotFoundError, PermissionError):  # removed meanwhile, or another user's
                owner = Owner.parse(claims.read(name, limit=100).decode("ascii", "replace"))
                if claims.is_old(name) if owner is None else claims.is_left(name, owner):
                    found.append(name)
    return found
