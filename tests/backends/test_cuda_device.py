"""The CUDA device of the ring against stand-ins of CuPy and of PyTorch's CUDA: what it calls, with what, and where."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from dali_pipes.backends.cuda import CudaDevice


class Runtime:
    """As much of `cupy.cuda.runtime` as is called."""

    memcpyHostToDevice = 1

    class CUDARuntimeError(RuntimeError):
        """CUDA refuses."""

    def __init__(self) -> None:
        self.locked: list[tuple[int, int]] = []
        self.asked = 0
        self.copies: list[tuple[Any, ...]] = []

    def pointerGetAttributes(self, address: int) -> Any:
        self.asked += 1
        if address == 0:
            raise self.CUDARuntimeError
        return SimpleNamespace(type=int(any(at <= address < at + size for at, size in self.locked)))

    def memcpyAsync(self, *arguments: Any) -> None:
        self.copies.append(arguments)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Any:
    """(device, runtime, what was current when)."""
    entered: list[tuple[str, Any]] = []

    def noting(name: str, value: Any) -> Any:
        @contextmanager
        def enter() -> Iterator[None]:
            entered.append((name, value))
            yield

        return enter()

    class BaseStream:
        def __init__(self, pointer: int, number: int) -> None:
            self.of = (pointer, number)

        def __enter__(self) -> None:
            entered.append(("cupy stream", self.of))

        def __exit__(self, *error: object) -> None: ...

    class ExternalStream(BaseStream):
        """As in CuPy 14."""

        def __init__(self, pointer: int, number: int) -> None:
            warnings.warn("ExternalStream is deprecated", DeprecationWarning, stacklevel=2)
            super().__init__(pointer, number)

    cupy: Any = ModuleType("cupy")
    runtime = Runtime()
    stream = SimpleNamespace(cuda_stream=4711, device=SimpleNamespace(index=1))
    cupy.cuda = SimpleNamespace(
        runtime=runtime,
        Device=lambda number: noting("cupy device", number),
        ExternalStream=ExternalStream,
    )
    monkeypatch.setitem(__import__("sys").modules, "cupy", cupy)
    monkeypatch.setattr(torch.cuda, "stream", lambda given: noting("torch stream", given))
    monkeypatch.setattr(torch.cuda, "device", lambda given: nullcontext())
    return CudaDevice(stream), runtime, entered  # type: ignore[arg-type]


def test_device_and_stream_are_current_for_both_libraries(cuda: Any) -> None:
    device, _, entered = cuda
    entered.clear()
    with device.current():
        assert [name for name, _ in entered] == ["torch stream", "cupy device", "cupy stream"]
    assert entered[1:] == [("cupy device", 1), ("cupy stream", (4711, 1))]


def test_memory_is_locked_from_end_to_end_or_not_at_all(cuda: Any) -> None:
    device, runtime, _ = cuda
    block = np.zeros(1000, np.uint8)
    start = block.ctypes.data
    runtime.locked = [(start, 500)]
    assert device.is_locked(block[:500])
    assert not device.is_locked(block[:501])
    assert not device.is_locked(block[500:])
    asked = runtime.asked
    assert device.is_locked(block[:500])
    assert runtime.asked == asked, "what is locked is not asked again"
    runtime.locked = [(start, 1000)]
    assert device.is_locked(block[:501]), "what was not locked is: an epoch later it may be"


def test_copies_are_queued_on_the_stream(cuda: Any) -> None:
    device, runtime, _ = cuda
    image = np.zeros((3, 4, 5), np.uint16)
    device.copy(99, image)
    assert runtime.copies == [(99, image.ctypes.data, 120, 1, 4711)]


def test_kernels_get_addresses_and_sizes(cuda: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from dali_pipes.arithmetic import kernels

    device, _, _ = cuda
    launched: list[Any] = []
    monkeypatch.setattr(kernels, "_launch", lambda *arguments: launched.append(arguments))
    out = torch.zeros(2, 3, 4, 5)
    device.finish("finish_u8_f32", 11, 22, 33, out)
    ((name, columns, rows, pictures, arguments),) = launched
    assert (name, columns, rows, pictures) == ("finish_u8_f32", 5, 4, 2)
    assert [int(value) for value in arguments] == [11, out.data_ptr(), 3, 4, 5, 22, 33]
    assert [value.dtype.name for value in arguments] == ["uint64"] * 2 + ["int32"] * 3 + ["uint64"] * 2
