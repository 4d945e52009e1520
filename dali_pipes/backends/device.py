"""What the ring of batches needs of a GPU, so that its logic is tested without one; the real one is in `cuda`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from dali_pipes.arithmetic.plan import Plan
from dali_pipes.arithmetic.tables import Interpolation

Pixels = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]


class Mark(Protocol):
    """A point in a device's queue."""

    def synchronize(self) -> None:
        """Wait, on the host, until all that was queued before is done."""


class Memory(Protocol):
    """Memory of a device, free again when the object goes away and what was queued before that is done."""

    @property
    def address(self) -> int:
        """Where it begins."""


class Device(Protocol):
    """A GPU with one queue. One thread calls, within `current`; what is queued is done later, in order."""

    def current(self) -> AbstractContextManager[object]:
        """Make device and queue those of the calling thread: once a batch, because it costs as much as a copy."""

    def memory(self, size: int) -> Memory:
        """Return `size` bytes on the device."""

    def host(self, size: int) -> Bytes:
        """Return `size` bytes of page-locked main memory."""

    def is_locked(self, image: Pixels) -> bool:
        """Return whether all of a contiguous array lies in page-locked memory."""

    def copy(self, target: int, source: Pixels) -> None:
        """Queue a copy of a contiguous array in page-locked memory to an address on the device."""

    def finish(self, kernel: str, jobs: int, m: int, inv: int, out: torch.Tensor) -> None:
        """Queue one of the kernels `finish_*`.

        Args:
            kernel: its name.
            jobs: address on the device of what `packing.pack_finish` packed.
            m: address of its means.
            inv: address of its inverse deviations.
            out: [N, C, H, W] on the device: one picture a job.
        """

    def planned(
        self,
        addresses: Sequence[int],
        plans: Plan,
        base: tuple[int, int, int],
        size: tuple[int, int],
        interpolation: Interpolation,
        kind: str,
    ) -> Memory:
        """Queue what a plan says.

        Args:
            addresses: base images on the device.
            plans: a record for each.
            base: (C, H, W) of the base images.
            size: (height, width) of the outputs.
            interpolation: of resizing.
            kind: the images' type, "uint8" or "uint16".

        Returns:
            The outputs, [N, C, *size] of that type, one after another.
        """

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Return a tensor on the device, of memory that is free for what is queued from now on."""

    def mark(self) -> Mark:
        """Return the queue's end, as it is now."""
