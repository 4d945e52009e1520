"""Memory of a device in which base images stay: blocks of many images, because allocators round each block up."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import torch

from dali_pipes.backends.device import Device, Memory

log = logging.getLogger(__name__)

_BLOCK = 64 << 20
"""Bytes of a block, about: PyTorch's allocator rounds those to 2 MiB, and would lose a third with blocks of 768 KiB."""


class Shelf:
    """Places of one size, up to a budget.

    Args:
        device: whose memory it is.
        size: bytes of a place.
        budget: bytes of all places together.
    """

    def __init__(self, device: Device, size: int, budget: int) -> None:
        self._device = device
        self._size = size
        self._left = budget // size
        self._blocks: list[Memory] = []
        self._free: list[int] = []

    def take(self) -> int | None:
        """Return the address of a free place, or None where there is none; call it within `Device.current`."""
        if not self._free and self._left:
            self._add_block()
        return self._free.pop() if self._free else None

    def give_back(self, addresses: Iterable[int]) -> None:
        """Make places free again, for what is queued from now on."""
        self._free.extend(addresses)

    def clear(self) -> None:
        """Free everything."""
        self._blocks, self._free, self._left = [], [], 0

    def _add_block(self) -> None:
        count = min(self._left, max(1, _BLOCK // self._size))
        try:
            self._blocks.append(self._device.memory(count * self._size))
        except torch.OutOfMemoryError as error:
            log.warning("no more base images stay in GPU memory: %s", error)
            self._left = 0
            return
        self._left -= count
        self._free = [self._blocks[-1].address + i * self._size for i in reversed(range(count))]
