"""The way of base images to a GPU: a ring of slots, so that one batch is copied while others are computed or in use.

    items ──> page-locked already? ──yes──> asynchronous copy ──> staging ─┐
              └─no─> copied by threads into the slot's page-locked buffer ─┘ ──> one launch of `finish` ──> batch
                                                                                 (a plan's kernels before it)
                                                                     kept in spare GPU memory? no copy at all

Everything is queued on one stream and nothing waits, except for the event of a slot's last use before the slot is used
again: until then the slot keeps its buffers, and the items from which the GPU may still be copying.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch

from dali_pipes.arithmetic import normalisation
from dali_pipes.arithmetic.packing import flip_bits, pack_finish
from dali_pipes.arithmetic.plan import Plan
from dali_pipes.backends.base import Named
from dali_pipes.backends.device import Bytes, Device, Mark, Memory, Pixels
from dali_pipes.backends.shelf import Shelf
from dali_pipes.draws import Draws
from dali_pipes.errors import BackendError
from dali_pipes.finish.finish import Changes, Finish
from dali_pipes.recipe import Recipe

_ALIGN = 256

_NUMBERS = 256
"""At most so many bytes of numbers an image: a job, a warp and a colour map of three channels take 176."""

_SHORT = {torch.uint8: "u8", torch.uint16: "u16", torch.float32: "f32", torch.float16: "f16"}


@dataclass
class _Slot:
    """One batch under way: its buffers on the device and in page-locked memory, and what must live until `used`."""

    staging: Memory | None = None
    host: Bytes | None = None
    numbers: Bytes | None = None
    numbers_there: Memory | None = None
    between: Memory | None = None
    capacity: int = 0
    used: Mark | None = None
    held: list[Pixels] = field(default_factory=list)


class Ring:
    """Batches of base images, finished on a device.

    Args:
        recipe: of exact parity.
        device: where.
        threads: CPU threads that copy what is not page-locked.
        slots: batches that may be under way at once.
        keep_bytes: memory of the device in which base images may stay for good; less where the device has less.
    """

    def __init__(self, recipe: Recipe, device: Device, *, threads: int, slots: int = 3, keep_bytes: int = 0) -> None:
        self._recipe = recipe
        self._finish = Finish(recipe)
        self._device = device
        self._dtype = np.dtype(np.uint16 if recipe.integer_dtype is torch.uint16 else np.uint8)
        self._size = int(np.prod(self._finish.base_shape)) * self._dtype.itemsize
        self._stride = -(-self._size // _ALIGN) * _ALIGN
        self._kernel = f"finish_{_SHORT[recipe.integer_dtype]}_{_SHORT[self._finish.dtype]}"
        self._slots = [_Slot() for _ in range(slots)]
        self._turn = 0
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="dali-pipes-stage")
        self._shelf = Shelf(device, self._stride, keep_bytes)
        self._kept: dict[int, int] = {}  # address on the device by sample
        self.keeps = keep_bytes >= self._stride
        self._constants = None
        if recipe.normalisation is not None:
            self._constants = normalisation(*recipe.normalisation, recipe.full_scale)

    def holds(self, sample: int) -> bool:
        """Return whether a sample's base image stays on the device: it need not be given again."""
        return sample in self._kept

    def run(self, items: Sequence[Pixels | Named], draws: Draws) -> torch.Tensor:
        """See `Backend.run`. The batch is complete when what is queued by then is done.

        Raises:
            BackendError: items that do not fit together; nothing was queued.
        """
        given = [item if isinstance(item, Named) else Named(-1, item) for item in items]
        self._check(given)
        slot = self._slots[self._turn]
        if slot.used is not None:
            slot.used.synchronize()
            slot.used, slot.held = None, []
        self._turn = (self._turn + 1) % len(self._slots)
        slot.held = [item.image for item in given if item.image is not None]
        changes = self._finish.changes(draws)
        with self._device.current():
            try:
                addresses = self._brought(slot, given)
                if changes.plan is not None:
                    addresses, changes = self._planned(slot, addresses, changes.plan)
                return self._finished(slot, addresses, changes)
            finally:  # after an error too: what was queued before it still uses the slot
                slot.used = self._device.mark()

    def wait(self) -> None:
        """Wait, on the host, until all batches are complete."""
        for slot in self._slots:
            if slot.used is not None:
                slot.used.synchronize()

    def close(self) -> None:
        """Wait for what is under way, and free everything."""
        self.wait()
        self._slots, self._kept = [], {}
        self._shelf.clear()
        self._threads.shutdown(wait=True)

    def _check(self, items: list[Named]) -> None:
        for item in items:
            image = item.image
            if image is None and item.sample in self._kept:
                continue
            known = image is not None and image.shape == self._finish.base_shape and image.dtype == self._dtype
            if image is None or not known or not image.flags.c_contiguous:
                found = "not on the device" if image is None else f"{image.dtype}{list(image.shape)}"
                raise BackendError(
                    f"a base image is {found}; expected contiguous {self._dtype}{list(self._finish.base_shape)}."
                )

    def _brought(self, slot: _Slot, items: list[Named]) -> list[int]:
        """Queue the copies of what the device lacks; return the address of each item there."""
        staging = self._grown(slot, len(items))
        found: dict[int, int] = {}  # by the image's identity: views of one sample are one image
        staying: dict[int, int] = {}
        staged: list[tuple[int, Future[Pixels]]] = []
        try:
            for place, (sample, image) in enumerate((item.sample, item.image) for item in items):
                if image is None or sample in self._kept or id(image) in found:
                    continue
                address = staging.address + place * self._stride
                if sample >= 0 and sample not in staying and (place_to_stay := self._shelf.take()) is not None:
                    address = staying[sample] = place_to_stay
                found[id(image)] = address
                if self._device.is_locked(image):
                    self._device.copy(address, image)
                else:
                    staged.append((address, self._threads.submit(self._staged, self._host(slot), place, image)))
            for address, copied in staged:
                self._device.copy(address, copied.result())
        except BaseException:
            self._shelf.give_back(staying.values())
            raise
        finally:
            for _, copied in staged:  # no thread writes to a slot that another batch may have
                copied.exception()
        self._kept |= staying  # not before their copies are queued
        return [self._kept[item.sample] if item.sample in self._kept else found[id(item.image)] for item in items]

    def _grown(self, slot: _Slot, count: int) -> Memory:
        """Return a slot's memory on the device, with room for `count` images and their numbers."""
        if slot.staging is None or slot.capacity < count:
            slot.capacity, slot.host = count, None
            slot.staging = self._device.memory(self._stride * count)
            slot.numbers = self._device.host(_NUMBERS * count + 4 * _ALIGN)
            slot.numbers_there = self._device.memory(slot.numbers.size)
        return slot.staging

    def _host(self, slot: _Slot) -> Bytes:
        if slot.host is None:
            slot.host = self._device.host(self._size * slot.capacity)
        return slot.host

    def _staged(self, host: Bytes, place: int, image: Pixels) -> Pixels:
        """Copy one image into the slot's page-locked buffer, in a thread."""
        part = host[place * self._size : (place + 1) * self._size].view(self._dtype).reshape(image.shape)
        np.copyto(part, image)
        return part

    def _planned(self, slot: _Slot, addresses: list[int], plans: Plan) -> tuple[list[int], Changes]:
        """Queue what plans say; return the address of each outcome, and that nothing else but normalising is left."""
        recipe, count = self._recipe, len(addresses)
        size = (recipe.height, recipe.width)
        made = self._device.planned(
            addresses, plans, self._finish.base_shape, size, recipe.interpolation, self._dtype.name
        )
        slot.between = made
        step = int(np.prod(self._finish.shape)) * self._dtype.itemsize
        still = np.zeros(count, np.bool_)
        return [made.address + i * step for i in range(count)], Changes(still, still)

    def _finished(self, slot: _Slot, addresses: list[int], changes: Changes) -> torch.Tensor:
        """Queue the kernel, and one copy of the numbers that it reads: warps, colour maps, jobs and constants."""
        if slot.numbers is None or slot.numbers_there is None:
            raise BackendError("a slot of the ring is used before it has buffers")
        start = 0
        lists: list[list[int] | None] = []
        for values in (changes.warp, changes.colour):
            if values is None:
                lists.append(None)
                continue
            step = values.nbytes // len(values)
            lists.append([slot.numbers_there.address + start + i * step for i in range(len(values))])
            slot.numbers[start : start + values.nbytes] = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
            start += -(-values.nbytes // _ALIGN) * _ALIGN
        flips = flip_bits(len(addresses), changes.hflip.tolist(), changes.vflip.tolist())
        packed = pack_finish(addresses, self._finish.shape[0], flips, self._constants, *lists)
        end = start + packed.buffer.size
        slot.numbers[start:end] = packed.buffer
        self._device.copy(slot.numbers_there.address, slot.numbers[:end])
        out = self._device.empty((len(addresses), *self._finish.shape), self._finish.dtype)
        jobs = slot.numbers_there.address + start
        self._device.finish(self._kernel, jobs, jobs + packed.m, jobs + packed.inv, out)
        return out
