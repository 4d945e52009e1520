"""A GPU in main memory that does everything as late as it may, so that whatever is reused too early comes out wrong."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from kernel_runner import THREADS

from dali_pipes.arithmetic.plan import varied

Bytes = np.ndarray


@dataclass
class FakeMemory:
    values: Bytes

    @property
    def address(self) -> int:
        return int(self.values.ctypes.data)


def flipped(image: np.ndarray, hflip: bool, vflip: bool) -> np.ndarray:
    return image[:, :: -1 if vflip else 1, :: -1 if hflip else 1]


@dataclass
class FakeMark:
    gpu: FakeGpu
    end: int

    def synchronize(self) -> None:
        self.gpu.log.append(("wait", self.end))
        self.gpu.advance(self.end)


@dataclass
class FakeGpu:
    """See `device.Device`. Copies read, and kernels run, only when somebody waits for them.

    library: the kernels, compiled for the CPU. locked: (address, bytes) of what is page-locked. failing: what is
    raised by the copies of these numbers, counted from 0.
    """

    library: ctypes.CDLL
    locked: list[tuple[int, int]] = field(default_factory=list)
    failing: dict[int, Exception] = field(default_factory=dict)
    queue: list[Callable[[], None]] = field(default_factory=list)
    done: int = 0
    copies: int = 0
    log: list[tuple[Any, ...]] = field(default_factory=list)
    live: list[FakeMemory] = field(default_factory=list)
    thread: threading.local = field(default_factory=threading.local)
    one_at_a_time: threading.Lock = field(default_factory=threading.Lock)

    def advance(self, end: int | None = None) -> None:
        """Do what is queued, up to a mark."""
        with self.one_at_a_time:  # two threads may wait at once
            while self.done < (len(self.queue) if end is None else end):
                self.queue[self.done]()
                self.done += 1

    @contextmanager
    def current(self) -> Iterator[None]:
        self.thread.inside = True
        try:
            yield
        finally:
            self.thread.inside = False

    def memory(self, size: int) -> FakeMemory:
        assert getattr(self.thread, "inside", False), "memory of whatever device is current"
        self.log.append(("memory", size))
        self.live.append(FakeMemory(np.full(size, 0xA5, np.uint8)))
        return self.live[-1]

    def host(self, size: int) -> Bytes:
        self.log.append(("host", size))
        values = np.full(size, 0x5A, np.uint8)
        self.locked.append((values.ctypes.data, size))
        return values

    def lock(self, array: np.ndarray) -> np.ndarray:
        self.locked.append((array.ctypes.data, array.nbytes))
        return array

    def is_locked(self, image: np.ndarray) -> bool:
        first = image.ctypes.data
        return any(at <= first and first + image.nbytes <= at + size for at, size in self.locked)

    def copy(self, target: int, source: np.ndarray) -> None:
        assert getattr(self.thread, "inside", False), "a copy while another device may be current"
        assert source.flags.c_contiguous
        assert self.is_locked(source), "a copy from memory that is not page-locked would wait"
        number, self.copies = self.copies, self.copies + 1
        if number in self.failing:
            raise self.failing[number]
        address, size = source.ctypes.data, source.nbytes  # the object itself is not kept: a GPU keeps none
        self.log.append(("copy", size))
        self.queue.append(lambda: ctypes.memmove(target, address, size) and None)

    def finish(self, kernel: str, jobs: int, m: int, inv: int, out: torch.Tensor) -> None:
        assert getattr(self.thread, "inside", False), "a launch while another device may be current"
        count, planes, height, width = out.shape
        grid = (ctypes.c_uint * 5)(-(-width // THREADS[0]), max(1, -(-height // THREADS[1]) // 2), count, *THREADS)
        pointers = [ctypes.c_void_p(address) for address in (jobs, out.data_ptr(), m, inv)]
        run = getattr(self.library, f"run_{kernel}")
        self.log.append(("launch", kernel, count))
        # `out` is held: an allocator that knows of streams gives its memory to nobody before this is done.
        self.queue.append(lambda out=out: run(grid, *pointers[:2], planes, height, width, *pointers[2:]) and None)

    def planned(
        self, addresses: Any, plans: Any, base: Any, size: tuple[int, int], interpolation: Any, kind: str
    ) -> FakeMemory:
        """By the reference, image by image; the kernels have tests of their own."""
        out = np.full((len(addresses), base[0], *size), 7, kind)
        length = int(np.prod(base)) * out.itemsize
        plans = plans.copy()  # what is queued is uploaded from a copy

        def run() -> None:
            for place, address, plan in zip(out, addresses, plans):
                image = np.frombuffer((ctypes.c_ubyte * length).from_address(address), kind).reshape(base)
                place[...] = flipped(*varied(image, plan, size, interpolation))

        self.log.append(("planned", len(addresses)))
        self.queue.append(run)
        self.live.append(FakeMemory(out))
        return self.live[-1]

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        return torch.zeros(shape, dtype=dtype)

    def mark(self) -> FakeMark:
        return FakeMark(self, len(self.queue))
