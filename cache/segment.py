"""One packed segment: a plain version-1 ``.npy`` file whose first axis is the slot.

The header is padded so that data starts at byte 4096. The file is made in one piece with a hole for data: it never
changes size, so a mapping of it never loses pages, and a disk that fills up is an OSError from pwrite.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from .base import Array
from .errors import IntegrityError
from .files import Folder, chunks, fill
from .flat import Slots, Sums
from .integrity import checksum, payload, read_only
from .npyformat import nbytes, parse

DATA = 4096
SMALLEST, LARGEST, HUGE = 16 << 20, 256 << 20, 1 << 30
SLOT_BITS = 16
MOST_SLOTS = 1 << SLOT_BITS


def capacity(entry_bytes: int, number: int, largest: int) -> int:
    """Return the slots of a writer's ``number``-th segment of a shape.

    16 MiB, doubled each time up to 256 MiB; from the 16th on 512 MiB, and from the 32nd on 1 GiB, so that ten
    terabytes are about ten thousand segments. Never above ``largest`` bytes.
    """
    size = min(SMALLEST << min(number, 8), LARGEST) << min(number // 16, 2)
    return max(1, min(MOST_SLOTS, min(size, HUGE, largest) // max(1, entry_bytes)))


class Replaced(FileNotFoundError):
    """Another file lies under the name of a segment that is mapped."""


class Segment:
    """What this process knows of one segment. ``array`` is the read-only map of all slots, made at first use."""

    __slots__ = (
        *("folder", "token", "name", "sums", "trusted", "array", "identity", "dtype", "shape", "slots"),
        *("entry_bytes", "unpublished", "_taken", "_given_back", "refused"),
    )

    def __init__(self, folder: Folder, token: str) -> None:
        self.folder, self.token, self.name = folder, token, token + ".npy"
        self.sums = Sums()  # published slots and their checksums
        self.trusted = Slots()  # slots that may be served without another check
        self.array: Array | None = None
        self.identity = (0, 0)  # inode and size of what is mapped
        self.dtype: np.dtype[Any] | None = None
        self.shape: tuple[int, ...] = ()  # of one entry
        self.slots = self.entry_bytes = 0
        self.unpublished = 0  # slots that this process, its writer, has still to fill
        self._taken = 0  # slots that were taken, in their order
        self._given_back: list[int] = []
        self.refused = ""  # why nothing of this segment can be served

    def describe(self, dtype: np.dtype[Any], shape: tuple[int, ...], slots: int) -> None:
        """Set what the header says."""
        self.dtype, self.shape, self.slots, self.unpublished = dtype, shape, slots, slots
        self.entry_bytes = nbytes(dtype, shape)

    @property
    def is_full(self) -> bool:
        """Return whether every slot is taken."""
        return self._taken == self.slots and not self._given_back

    def fitting(self, room: int, live: int) -> tuple[int, int]:
        """Return how many of ``live`` entries fit into a segment of ``room`` bytes, and its size; (0, 0) if none."""
        try:
            self.read_header()
        except (OSError, IntegrityError):
            return 0, 0
        count = min(live, MOST_SLOTS, (room - DATA) // max(1, self.entry_bytes))
        return (count, DATA + count * self.entry_bytes) if count > 0 else (0, 0)

    def take(self) -> int:
        """Return a slot to fill, which nobody else will."""
        if self._given_back:
            return self._given_back.pop()
        self._taken += 1
        return self._taken - 1

    def give_back(self, slot: int) -> None:
        """Take back a slot of which nothing was published."""
        self._given_back.append(slot)

    def read_header(self) -> None:
        """Read and check the header, once. Raises IntegrityError if this is not a segment of ours."""
        if self.refused:
            raise IntegrityError(self.refused)
        if self.dtype is not None:
            return
        try:
            dtype, shape, size = parse(self.folder.read(self.name, limit=DATA))
            if size != DATA or not shape or not 1 <= shape[0] <= MOST_SLOTS:
                raise IntegrityError("its header is damaged: not that of a segment")
        except IntegrityError as error:
            self.refused = f"segment {self.name}: {error}"
            raise IntegrityError(self.refused) from None
        self.describe(dtype, shape[1:], shape[0])

    def map(self) -> Array:
        """Return the map of all slots. Raises IntegrityError if the file is shorter than its header says."""
        array = self.array
        if array is None:
            self.read_header()
            mapping, self.identity = self.folder.map(self.name)
            if len(mapping) < DATA + self.slots * self.entry_bytes:
                self.refused = f"segment {self.name} has {len(mapping)} bytes, fewer than its header says"
                raise IntegrityError(self.refused)
            array = self.array = np.ndarray((self.slots, *self.shape), self.dtype, buffer=mapping, offset=DATA)
        return array

    def is_replaced(self) -> bool:
        """Return whether the file under this name is no longer the one that is mapped, or has another size."""
        status = self.folder.status(self.name) if self.array is not None else None
        return status is not None and (status.st_ino, status.st_size) != self.identity

    def check(self, digest: bytes, slot: int, secret: bytes | None) -> bool:
        """Return whether the slot's bytes on disk are those that were put.

        Reads with pread, so that a bad disk is an OSError and not a SIGBUS. Raises FileNotFoundError for a slot that
        has died, and where another file has taken the place of the one that is mapped.
        """
        total, dtype, inside = self._expected(slot)
        if not inside:
            return False
        with self.folder.open(self.name) as fd:
            status = os.fstat(fd)
            if self.array is not None and (status.st_ino, status.st_size) != self.identity:
                raise Replaced(f"{self.name} was replaced by another file")
            data = chunks(fd, DATA + slot * self.entry_bytes, self.entry_bytes)
            return checksum(digest, dtype, self.shape, data, secret) == total

    def load(self, digest: bytes, slot: int, secret: bytes | None) -> Array | None:
        """Return a slot in memory of its own, checked there; None if it is not what was put.

        Raises FileNotFoundError for a slot that has died.
        """
        total, dtype, inside = self._expected(slot)
        if not inside:
            return None
        with self.folder.open(self.name) as fd:
            if os.fstat(fd).st_size < DATA + (slot + 1) * self.entry_bytes:
                return None
            array = np.empty(self.shape, dtype)
            fill(fd, DATA + slot * self.entry_bytes, payload(array))
        good = checksum(digest, dtype, self.shape, [payload(array)], secret) == total
        return read_only(array) if good else None

    def _expected(self, slot: int) -> tuple[bytes, np.dtype[Any], bool]:
        """Return checksum and type of a slot, and whether it lies in the segment."""
        total = self.sums.get(slot)
        if total is None:
            raise FileNotFoundError(f"slot {slot} of {self.name} is not there any more")
        self.read_header()
        dtype = self.dtype
        return total, dtype or np.dtype(np.uint8), slot < self.slots and dtype is not None
