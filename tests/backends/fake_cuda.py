"""CUDA in main memory, under PyTorch's and CuPy's names: what the code for a GPU calls, done as late as it may be.

Each stream is a queue whose work is done when somebody waits for it: an event, a synchronisation, or an operation of
PyTorch's in that stream. Device memory that is given back is overwritten at that point of its stream, as its next owner
would; page-locked and registered memory alone is read late. The kernels are those of `portable.cu`, by gcc.

Names of CuPy that are not here raise AttributeError; `NAMES` are those that are, for a test of the real one.
"""

from __future__ import annotations

import ctypes
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

NAMES = {
    "cupy": ("asarray", "zeros", "empty", "RawModule"),
    "cupy.cuda": ("Device", "ExternalStream", "get_current_stream"),
    "cupy.cuda.runtime": (
        *("CUDARuntimeError", "memcpyHostToDevice", "getDeviceCount", "memcpyAsync", "hostRegister", "hostUnregister"),
        *("deviceSynchronize", "pointerGetAttributes"),
    ),
}
_DIRTY = 0xA5
_plain_empty = torch.empty


class CUDARuntimeError(RuntimeError):
    """CUDA refuses."""


@dataclass(eq=False)
class Stream:
    """One queue; `ptr` is CuPy's name for its handle, `cuda_stream` is PyTorch's."""

    cuda: FakeCuda
    cuda_stream: int
    device: torch.device
    queue: list[Callable[[], object]] = field(default_factory=list)
    done: int = 0

    def add(self, work: Callable[[], object]) -> None:
        self.queue.append(work)

    def advance(self, end: int | None = None) -> None:
        """Do what is queued, up to a place in the queue."""
        with self.cuda.lock:
            while self.done < (len(self.queue) if end is None else end):
                work, self.queue[self.done] = self.queue[self.done], _nothing
                self.done += 1
                work()

    def synchronize(self) -> None:
        self.advance()

    def record_event(self) -> Event:
        return Event(self, len(self.queue))

    def wait_event(self, event: Event) -> None:
        self.add(event.synchronize)

    def wait_stream(self, other: Stream) -> None:
        self.wait_event(other.record_event())


def _nothing() -> None:
    """Work that is done."""


@dataclass(eq=False)
class Event:
    """A place in a stream's queue."""

    stream: Stream
    end: int

    def synchronize(self) -> None:
        self.stream.cuda.waits += 1
        self.stream.advance(self.end)


class Tensor(torch.Tensor):
    """A CUDA tensor. Its operations run in the stream that is current, after what is queued there, and no other."""

    cuda: FakeCuda
    device = torch.device("cuda", 0)  # type: ignore[assignment]
    is_cuda = True  # type: ignore[assignment]

    LATE = ("data_ptr", "size", "dim", "numel", "element_size", "is_contiguous", "is_floating_point", "untyped_storage")
    """Besides attributes: what does not look at values."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.__name__ not in ("__get__", "__len__", *cls.LATE):
            cls.cuda.current.advance()
        if func.__name__ in ("numpy", "__array__"):
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        found = super().__torch_function__(func, types, args, kwargs or {})
        if func.__name__ == "clone":  # memory of the allocator's, in the current stream
            return cls.cuda.adopted(found)
        return found

    def cpu(self) -> torch.Tensor:
        self.cuda.current.advance()
        return self.as_subclass(torch.Tensor).clone()

    def record_stream(self, stream: Stream) -> None:
        self.cuda.recorded.setdefault(self.untyped_storage().data_ptr(), []).append(stream)


class Array(np.ndarray):
    """A CuPy array: NumPy's, with CuPy's names for what the launchers use."""

    @property
    def device(self) -> Any:  # type: ignore[override]
        return self.cuda.device_of(self.cuda.number)

    cuda: FakeCuda

    @property
    def data(self) -> Any:  # type: ignore[override]
        return SimpleNamespace(ptr=self.ctypes.data)


class _Device:
    """A device to enter. CuPy's `Device` looks for its special methods in the class."""

    def __init__(self, number: int, enter: Callable[[], object], leave: Callable[..., object]) -> None:
        self.id, self._enter, self._leave = number, enter, leave

    def __enter__(self) -> None:
        self._enter()

    def __exit__(self, *error: object) -> None:
        self._leave(None, None, None)


class FakeCuda:
    """One device: `number`, of two; nobody may touch the other. library: the kernels, compiled for the CPU.

    Attributes:
        live: address and size of each block of device memory.
        locked: address and size of what is page-locked.
        registers: whether read-only memory can be page-locked, which not every device can.
        waits: how often an event was waited for.
        launched, copied: names of kernels, and sizes of copies, in the order in which they were queued.
    """

    def __init__(self, library: ctypes.CDLL, number: int = 0) -> None:
        self.library, self.lock, self.number = library, threading.RLock(), number
        self.streams: dict[int, Stream] = {}
        self.default = self.stream()
        self.live: dict[int, int] = {}
        self.locked: dict[int, int] = {}
        self.recorded: dict[int, list[Stream]] = {}
        self.launched: list[str] = []
        self.copied: list[int] = []
        self.registers = True
        self.waits = 0
        self.hosts: list[np.ndarray] = []  # kept, so that what is read too late is wrong and not a crash
        self.thread = threading.local()

    def stream(self, device: Any = None, priority: int = 0) -> Stream:
        made = Stream(self, 0x1000 + len(self.streams), torch.device("cuda", self.number))
        self.streams[made.cuda_stream] = made
        return made

    @property
    def current(self) -> Stream:
        """PyTorch's current stream of the calling thread."""
        found: Stream = getattr(self.thread, "torch", self.default)
        return found

    @property
    def cupys(self) -> Stream:
        """CuPy's: it shares none with PyTorch."""
        return self.streams[getattr(self.thread, "cupy", self.default.cuda_stream)]

    @property
    def device(self) -> int:
        """The device that is current in the calling thread."""
        return int(getattr(self.thread, "device", 0))

    def device_of(self, number: int | None = None) -> Any:
        """`cupy.cuda.Device`."""
        inside = self.entered("device", number)
        enter, leave = inside.__enter__, inside.__exit__
        return _Device(self.device if number is None else number, enter, leave)

    def touched(self) -> None:
        """Something needs the context of the device that is current."""
        if self.device != self.number:
            raise CUDARuntimeError(f"GPU {self.device} is touched, which belongs to another")

    @contextmanager
    def entered(self, name: str, value: Any) -> Iterator[None]:
        before = getattr(self.thread, name, None)
        setattr(self.thread, name, value)
        try:
            yield
        finally:
            delattr(self.thread, name) if before is None else setattr(self.thread, name, before)

    def memory(self, size: int, stream: Stream) -> np.ndarray:
        """uint8[size] on the device; once nothing holds it, the next owner in `stream` overwrites it."""
        real = np.full(max(1, size), _DIRTY, np.uint8)
        held = (ctypes.c_ubyte * max(1, size)).from_buffer(real)
        self.live[real.ctypes.data] = size
        weakref.finalize(held, self._freed, real, stream).atexit = False
        return np.frombuffer(held, np.uint8)[:size]

    def _freed(self, real: np.ndarray, stream: Stream) -> None:
        address = real.ctypes.data
        self.live.pop(address, None)
        for other in self.recorded.pop(address, []):
            stream.wait_stream(other)
        stream.add(lambda: real.fill(_DIRTY ^ 0xFF))

    def adopted(self, values: torch.Tensor) -> Tensor:
        """The same values in device memory of the current stream."""
        plain = values.as_subclass(torch.Tensor)
        made = self.empty(tuple(plain.shape), plain.dtype)
        made.as_subclass(torch.Tensor).copy_(plain)
        return made

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        size = int(np.prod(shape)) * dtype.itemsize
        raw = self.memory(size, self.current)
        return torch.from_numpy(raw).view(dtype).view(shape).as_subclass(Tensor)

    def page_locked(self, size: int) -> np.ndarray:
        """uint8[size] of main memory; once nothing holds it, its next owner overwrites it at once."""
        self.touched()
        real = np.full(max(1, size), _DIRTY, np.uint8)
        held = (ctypes.c_ubyte * max(1, size)).from_buffer(real)
        self.locked[real.ctypes.data] = max(1, size)
        self.hosts.append(real)
        weakref.finalize(held, self._host_freed, real).atexit = False
        return np.frombuffer(held, np.uint8)[:size]

    def _host_freed(self, real: np.ndarray) -> None:
        self.locked.pop(real.ctypes.data, None)
        real.fill(_DIRTY ^ 0xFF)

    def is_there(self, address: int | None, size: int = 1) -> bool:
        """Whether it is memory of the device that somebody holds."""
        return any(at <= (address or 0) and (address or 0) + size <= at + room for at, room in list(self.live.items()))

    def is_locked(self, address: int, size: int = 1) -> bool:
        return any(at <= address and address + size <= at + room for at, room in self.locked.items())

    def array(self, shape: Any, dtype: Any) -> Array:
        """A CuPy array of undefined content, of the pool of CuPy's current stream."""
        made = np.empty(0, dtype)
        size = int(np.prod(shape)) * made.itemsize
        return self.memory(size, self.cupys).view(dtype).reshape(shape).view(Array)

    # What CuPy's runtime has.

    def copy(self, target: int, source: int, size: int, kind: int, stream: int) -> None:
        """memcpyAsync."""
        if kind != 1 or stream not in self.streams:
            raise CUDARuntimeError("cudaErrorInvalidValue")
        if not self.is_there(target, size):
            raise CUDARuntimeError("cudaErrorInvalidValue: a copy beyond the memory of the device")
        self.copied.append(size)
        if self.is_locked(source, size):
            self.streams[stream].add(lambda: ctypes.memmove(target, source, size))
        else:  # CUDA stages it before it returns
            staged = ctypes.string_at(source, size)
            self.streams[stream].add(lambda: ctypes.memmove(target, staged, size))

    def register(self, address: int, size: int, flags: int) -> None:
        """hostRegister."""
        self.touched()
        if flags == 0 or not self.registers:  # what is registered here are maps that nobody may write to
            raise CUDARuntimeError("cudaErrorNotSupported" if flags else "cudaErrorInvalidValue")
        if flags != 8 or size <= 0 or address % 4096 or self.is_locked(address):
            raise CUDARuntimeError("cudaErrorInvalidValue")
        self.locked[address] = size

    def unregister(self, address: int) -> None:
        """hostUnregister."""
        if self.locked.pop(address, None) is None:
            raise CUDARuntimeError("cudaErrorHostMemoryNotRegistered")

    def kernel(self, name: str) -> Any:
        """A launcher, as `RawModule.get_function` gives them: arrays by address, integers by their own size."""
        run = getattr(self.library, f"run_{name}")

        def launch(grid: tuple[int, ...], block: tuple[int, ...], arguments: tuple[Any, ...]) -> None:
            self.touched()
            threads = block[0] * block[1]
            if not (0 < grid[0] < 2**31 and all(0 < n < 2**16 for n in grid[1:]) and 0 < threads <= 1024):
                raise CUDARuntimeError(f"cudaErrorInvalidConfiguration: {grid}, {block}")
            if self.cupys.device.index != self.device:
                raise CUDARuntimeError("cudaErrorInvalidResourceHandle: the stream of another device")
            given = [_passed(argument) for argument in arguments]
            for address in (each.value for each in given if isinstance(each, ctypes.c_void_p)):
                if not self.is_there(address):
                    raise CUDARuntimeError(f"cudaErrorIllegalAddress: {name} is given {address}, not of the device")
            self.launched.append(name)
            self.cupys.add(lambda: run((ctypes.c_uint * 5)(*grid, *block), *given))

        return launch

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Put it in place of CuPy and of what PyTorch has for CUDA."""
        Tensor.cuda = Array.cuda = self
        Tensor.device = torch.device("cuda", self.number)  # type: ignore[assignment]
        modules = {"cupy": _cupy(self), "cupy.cuda": None, "cupy.cuda.runtime": None}
        modules["cupy.cuda"] = modules["cupy"].cuda
        modules["cupy.cuda.runtime"] = modules["cupy"].cuda.runtime
        for name, module in modules.items():
            patch.setitem(sys.modules, name, module)
        for name, value in _torch(self).items():
            patch.setattr(torch.cuda, name, value)
        patch.setattr(torch.backends.cuda, "is_built", lambda: True)
        patch.setattr(torch, "empty", self._empty)
        patch.setattr(torch.Tensor, "pin_memory", lambda values: self._pinned(values))
        patch.setattr(torch.Tensor, "to", self._to(torch.Tensor.to))

    def _empty(self, *shape: Any, device: Any = None, pin_memory: bool = False, **options: Any) -> torch.Tensor:
        if device is not None and torch.device(device).type == "cuda":
            size = shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape
            return self.empty(tuple(size), options.get("dtype", torch.float32))
        if pin_memory:
            return torch.from_numpy(self.page_locked(shape[0])).view(options["dtype"])
        return _plain_empty(*shape, **options)  # type: ignore[no-any-return]

    def _pinned(self, values: torch.Tensor) -> torch.Tensor:
        raw = self.page_locked(values.numel() * values.element_size())
        made = torch.from_numpy(raw).view(values.dtype).view(values.shape)
        return made.copy_(values)

    def _to(self, genuine: Any) -> Any:
        def to(values: torch.Tensor, *args: Any, non_blocking: bool = False, **options: Any) -> torch.Tensor:
            target = args[0] if args else options.get("device")
            if isinstance(target, (str, torch.device)):
                if torch.device(target).type == "cpu":
                    return values.cpu() if values.is_cuda else values
                if values.is_cuda:
                    return values
                made = self.empty(tuple(values.shape), values.dtype)
                assert self.is_locked(values.data_ptr()) or not non_blocking or not values.numel()
                plain = made.as_subclass(torch.Tensor)
                # Neither is held by the allocator for nothing: it knows both, and the stream.
                self.current.add(lambda: plain.copy_(values))
                return made
            return genuine(values, *args, non_blocking=non_blocking, **options)  # type: ignore[no-any-return]

        return to


def _passed(argument: Any) -> Any:
    if isinstance(argument, np.int32):
        return ctypes.c_int(int(argument))
    if isinstance(argument, np.uint64):
        return ctypes.c_void_p(int(argument))
    if isinstance(argument, Array):
        return ctypes.c_void_p(argument.ctypes.data)
    raise TypeError(f"a kernel was given {argument!r}")


def _torch(cuda: FakeCuda) -> dict[str, Any]:
    """What `torch.cuda` has."""
    return {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: cuda.device,
        "device": lambda given: cuda.entered("device", getattr(given, "index", given)),
        "Stream": cuda.stream,
        "stream": lambda given: cuda.entered("torch", given),
        "current_stream": lambda device=None: cuda.current,
        "synchronize": lambda device=None: [stream.advance() for stream in list(cuda.streams.values())] and None,
        "_sleep": lambda cycles: None,
    }


def _cupy(cuda: FakeCuda) -> Any:
    """As much of CuPy as is called."""

    class BaseStream:
        def __init__(self, ptr: int, device_id: int) -> None:
            self.ptr, self.device_id = ptr, device_id

        def __enter__(self) -> None:
            self.inside = cuda.entered("cupy", self.ptr)
            self.inside.__enter__()

        def __exit__(self, *error: object) -> None:
            self.inside.__exit__(None, None, None)

    class ExternalStream(BaseStream):
        """Deprecated in CuPy 14."""

        def __init__(self, ptr: int, device_id: int = -1) -> None:
            raise DeprecationWarning("ExternalStream is deprecated")

    def asarray(values: np.ndarray) -> Array:
        made, source = cuda.array(values.shape, values.dtype), values.tobytes()  # staged by CuPy itself
        cuda.copied.append(len(source))
        target = made.ctypes.data
        cuda.cupys.add(lambda: ctypes.memmove(target, source, len(source)))
        return made

    def zeros(shape: Any, dtype: Any) -> Array:
        made = cuda.array(shape, dtype)
        target, size = made.ctypes.data, made.nbytes
        cuda.cupys.add(lambda: ctypes.memset(target, 0, size))
        return made

    cupy: Any = ModuleType("cupy")
    cupy.__spec__ = ModuleSpec("cupy", None)
    cupy.__path__ = []
    cupy.asarray, cupy.zeros, cupy.empty = asarray, zeros, cuda.array
    cupy.RawModule = lambda code, options, backend: SimpleNamespace(get_function=cuda.kernel)
    cupy.cuda = ModuleType("cupy.cuda")
    cupy.cuda.Device, cupy.cuda.ExternalStream = cuda.device_of, ExternalStream
    cupy.cuda.get_current_stream = lambda: SimpleNamespace(synchronize=cuda.cupys.advance)
    runtime = cupy.cuda.runtime = ModuleType("cupy.cuda.runtime")
    runtime.CUDARuntimeError, runtime.memcpyHostToDevice = CUDARuntimeError, 1
    runtime.getDeviceCount = lambda: 1
    runtime.memcpyAsync, runtime.hostRegister, runtime.hostUnregister = cuda.copy, cuda.register, cuda.unregister
    runtime.deviceSynchronize = torch.cuda.synchronize
    runtime.pointerGetAttributes = lambda address: SimpleNamespace(type=int(cuda.is_locked(address)))
    return cupy
