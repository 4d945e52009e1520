"""Page-locking of memory maps on CUDA hosts, so that copies to the GPU need no staging copy on the host.

``PinnedMapping`` registers the pages of an array with CUDA (``cudaHostRegister`` through CuPy, read-only where the
device allows it) and gives them back when closed. Without CuPy, a CUDA device or permission it does nothing, and says
so once in the log: the array is then used as any other, and the copy is staged.
"""

from __future__ import annotations

import importlib
import logging
from types import TracebackType
from typing import Any

from .base import Array

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
        """Gives the pages back. Do not close while a copy from them is under way."""
        if self.active:
            self.active = False
            try:
                self._runtime.hostUnregister(self._address)
            except self._runtime.CUDARuntimeError as error:
                LOG.info("page-locked entries could not be given back: %s", error)

    def __enter__(self) -> PinnedMapping:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def pages_of(array: Array) -> tuple[int, int]:
    """Address and length in bytes of the whole pages that hold ``array``."""
    start = int(array.__array_interface__["data"][0])
    first = start // _PAGE * _PAGE
    end = -(-(start + array.nbytes) // _PAGE) * _PAGE
    return first, end - first if array.nbytes else 0


def _runtime() -> Any:
    """CuPy's CUDA runtime if there is a device, else None."""
    try:
        runtime: Any = importlib.import_module("cupy.cuda.runtime")
    except ImportError:
        return None
    try:
        return runtime if runtime.getDeviceCount() > 0 else None
    except runtime.CUDARuntimeError:
        return None
