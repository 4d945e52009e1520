"""Page-locking of memory maps on CUDA hosts, so that copies to the GPU need no staging copy on the host.

``PinnedMapping`` registers the pages of an array with CUDA (``cudaHostRegister`` through CuPy, read-only where the
device allows it) and gives them back when closed. Without CuPy, a CUDA device or permission it does nothing, and says
so once in the log: the array is then used as any other, and the copy is staged.
"""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from .base import Array
from .lock import ProcessLock

LOG = logging.getLogger(__name__)
_DEFAULT, _READ_ONLY = 0, 8  # cudaHostRegisterDefault, cudaHostRegisterReadOnly
_PAGE = 4096


class PinnedMapping:
    """Page-locks the memory of ``array`` for as long as this object is open. ``active`` says whether that worked."""

    def __init__(self, array: Array) -> None:
        self.array = array
        self.active = False
        self.reason = ""
        address, length = pages_of(array)
        self._address = address
        runtime = _runtime()
        if runtime is None:
            self.reason = "CuPy or a CUDA device is missing"
        elif not length:
            self.reason = "the array is empty"
        else:
            self._register(runtime, address, length)
        if not self.active:
            LOG.info("entries are not page-locked (%s): copies to a GPU are staged", self.reason)

    def _register(self, runtime: Any, address: int, length: int) -> None:
        self._runtime = runtime
        # devices without read-only registration refuse the flag
        self.active = self._try(address, length, _READ_ONLY) or self._try(address, length, _DEFAULT)

    def _try(self, address: int, length: int, flags: int) -> bool:
        try:
            self._runtime.hostRegister(address, length, flags)
        except self._runtime.CUDARuntimeError as error:
            self.reason = str(error)
            return False
        return True

    def close(self) -> None:
        """Give the pages back. Do not close while a copy from them is under way."""
        if self.active:
            self.active = False
            try:
                self._runtime.hostUnregister(self._address)
            except self._runtime.CUDARuntimeError as error:
                LOG.info("page-locked entries could not be given back: %s", error)

    def wait(self) -> None:
        """Wait until no copy from these pages can be under way any more."""
        if self.active:
            try:
                self._runtime.deviceSynchronize()
            except self._runtime.CUDARuntimeError as error:
                LOG.info("the GPU did not end its work: %s", error)

    def __enter__(self) -> PinnedMapping:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class PageLocks:
    """The maps that a store has page-locked, by name.

    Locking takes long (milliseconds a segment), so a store does it without holding its own lock.
    """

    def __init__(self) -> None:
        self._lock = ProcessLock()
        self._pid = os.getpid()
        self._held: dict[str, PinnedMapping] = {}

    def hold(self, maps: Mapping[str, Array], budget_bytes: int | None = None) -> int:
        """Page-lock ``maps`` as far as the budget goes; return how many bytes are locked now.

        What was locked before stays locked, except what ``maps`` no longer names or names with other memory: that is
        given back, after the GPU has ended its work.
        """
        with self._lock:
            self._leave_parent()
            self._give_back([name for name, held in self._held.items() if not _same(held.array, maps.get(name))])
            total = sum(held.array.nbytes for held in self._held.values())
            for name, array in maps.items():
                if name in self._held or (budget_bytes is not None and total + array.nbytes > budget_bytes):
                    continue
                pinned = PinnedMapping(array)
                if not pinned.active:
                    break
                self._held[name] = pinned
                total += array.nbytes
            return total

    def close(self) -> None:
        """Give all pages back. Do not close while a copy from them is under way."""
        with self._lock:
            self._leave_parent()
            for held in self._held.values():
                held.close()
            self._held = {}

    def _give_back(self, names: list[str]) -> None:
        for name in names[:1]:
            self._held[name].wait()
        for name in names:
            self._held.pop(name).close()

    def _leave_parent(self) -> None:
        """After a fork: what the parent locked is not locked here."""
        if self._pid != os.getpid():
            self._pid, self._held = os.getpid(), {}


def _same(held: Array, array: Array | None) -> bool:
    return array is not None and held.__array_interface__["data"] == array.__array_interface__["data"]


def pages_of(array: Array) -> tuple[int, int]:
    """Return address and length in bytes of the whole pages that hold ``array``."""
    start = int(array.__array_interface__["data"][0])
    first = start // _PAGE * _PAGE
    end = -(-(start + array.nbytes) // _PAGE) * _PAGE
    return first, end - first if array.nbytes else 0


def _runtime() -> Any:
    """Return CuPy's CUDA runtime if there is a device, else None."""
    try:
        runtime: Any = importlib.import_module("cupy.cuda.runtime")
    except ImportError:
        return None
    try:
        return runtime if runtime.getDeviceCount() > 0 else None
    except runtime.CUDARuntimeError:
        return None
