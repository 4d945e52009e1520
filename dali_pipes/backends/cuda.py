"""A CUDA device for the ring of batches: PyTorch's memory, streams and events, CuPy's copies and kernels.

Not run on a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from dali_pipes.arithmetic import kernels, kernels_plan
from dali_pipes.arithmetic.plan import Plan
from dali_pipes.arithmetic.tables import Interpolation
from dali_pipes.backends.device import Bytes, Pixels

_LOCKED = 1
"""cudaMemoryTypeHost: what cudaHostAlloc gave, or cudaHostRegister registered."""

_REMEMBERED = 1 << 20
"""Of so many locked arrays the places are remembered."""


@dataclass
class _Tensor:
    """Memory of PyTorch's allocator, which gives it to others only after what its stream has queued."""

    tensor: torch.Tensor

    @property
    def address(self) -> int:
        return self.tensor.data_ptr()


@dataclass
class _Array:
    """Memory of CuPy's pool of a stream, which gives it to others on that stream alone."""

    array: Any

    @property
    def address(self) -> int:
        return int(self.array.data.ptr)


def _borrowed(external: Any, pointer: int, number: int) -> Any:
    """Return a CuPy stream over one of PyTorch's, which nobody destroys when it goes away.

    CuPy 14 warns of `ExternalStream` at each use, and names `Stream.from_external` instead, whose object destroys the
    stream at its end in versions of it. A subclass skips the warning.
    """

    class Borrowed(external):  # type: ignore[misc]
        def __init__(self) -> None:
            super(external, self).__init__(pointer, number)

    return Borrowed()


class CudaDevice:
    """One CUDA device and one stream of it; see `device.Device`.

    Args:
        stream: where everything is queued; decides the device.
    """

    def __init__(self, stream: torch.cuda.Stream) -> None:
        import cupy

        self._cupy = cupy
        self._runtime: Any = cupy.cuda.runtime
        self._stream = stream
        self._device = stream.device
        self._number: int = stream.device.index
        self._locked: set[tuple[int, int]] = set()
        with torch.cuda.device(self._device), cupy.cuda.Device(self._number):
            self._external = _borrowed(cupy.cuda.ExternalStream, stream.cuda_stream, self._number)

    @contextmanager
    def current(self) -> Iterator[None]:
        """See `Device.current`; for PyTorch and for CuPy, which share no notion of a current stream."""
        with torch.cuda.stream(self._stream), self._cupy.cuda.Device(self._number), self._external:
            yield

    def memory(self, size: int) -> _Tensor:
        """See `Device.memory`."""
        return _Tensor(self.empty((size,), torch.uint8))

    def host(self, size: int) -> Bytes:
        """See `Device.host`."""
        found: Bytes = torch.empty(size, dtype=torch.uint8, pin_memory=True).numpy()
        return found

    def is_locked(self, image: Pixels) -> bool:
        """See `Device.is_locked`: both ends are, and an entry of a cache never reaches over two registered ranges.

        What was locked once is taken to be so: where it is not any more, CUDA copies it all the same, only slower.
        """
        first = image.__array_interface__["data"][0]
        if (first, image.nbytes) in self._locked:
            return True
        if not all(self._locked_at(address) for address in (first, first + image.nbytes - 1)):
            return False
        if len(self._locked) >= _REMEMBERED:
            self._locked.clear()
        self._locked.add((first, image.nbytes))
        return True

    def _locked_at(self, address: int) -> bool:
        try:
            return int(self._runtime.pointerGetAttributes(address).type) == _LOCKED
        except self._runtime.CUDARuntimeError:  # CUDA before 11 refuses what it does not know
            return False

    def copy(self, target: int, source: Pixels) -> None:
        """See `Device.copy`."""
        address = source.__array_interface__["data"][0]
        kind = self._runtime.memcpyHostToDevice
        self._runtime.memcpyAsync(target, address, source.nbytes, kind, self._stream.cuda_stream)

    def finish(self, kernel: str, jobs: int, m: int, inv: int, out: torch.Tensor) -> None:
        """See `Device.finish`."""
        kernels.launch_finish(kernel, jobs, m, inv, out.data_ptr(), out.shape)

    def planned(
        self,
        addresses: Sequence[int],
        plans: Plan,
        base: tuple[int, int, int],
        size: tuple[int, int],
        interpolation: Interpolation,
        kind: str,
    ) -> _Array:
        """See `Device.planned`."""
        return _Array(kernels_plan.planned_at(addresses, plans, base, size, interpolation, kind))

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """See `Device.empty`."""
        return torch.empty(shape, dtype=dtype, device=self._device)

    def mark(self) -> torch.cuda.Event:
        """See `Device.mark`."""
        event: torch.cuda.Event = self._stream.record_event()
        return event
