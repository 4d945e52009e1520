"""One packed segment: a plain version-1 ``.npy`` file whose first axis is the slot.

The header is padded so that data starts at byte 4096. The file is made in one piece with a hole for data: it never
changes size, so a mapping of it never loses pages, and a disk that fills up is an OSError from pwrite.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .base import Array
from .errors import IntegrityError
from .files import Folder, chunks
from .integrity import checksum
from .npyformat import nbytes, parse

DATA = 4096
SMALLEST, LARGEST = 16 << 20, 256 << 20
SLOT_BITS = 16
MOST_SLOTS = 1 << SLOT_BITS


def capacity(entry_bytes: int, number: int, largest: int) -> int:
    """Slots of a writer's ``number``-th segment of one shape: 16 MiB, doubled each time up to ``largest`` bytes."""
    budget = min(SMALLEST << min(number, 8), LARGEST, largest)
    return max(1, min(MOST_SLOTS, budget // max(1, entry_bytes)))


class Segment:
    """What this process knows of one segment. ``array`` is the read-only map of all slots, made at first use."""

    def __init__(self, folder: Folder, token: str) -> None:
        self.folder, self.token, self.name = folder, token, token + ".npy"
        self.sums: dict[int, bytes] = {}  # published slots and their checksums
        self.trusted: set[int] = set()  # slots that may be served without another check
        self.array: Array | None = None
        self.dtype: np.dtype[Any] | None = None
        self.shape: tuple[int, ...] = ()  # of one entry
        self.slots = self.entry_bytes = 0
        self.unpublished = 0  # slots that this process, its writer, has still to fill
        self._taken = 0  # slots that were taken, in their order
        self._given_back: list[int] = []
        self.refused = ""  # why nothing of this segment can be served

    def describe(self, dtype: np.dtype[Any], shape: tuple[int, ...], slots: int) -> None:
        """Sets what the header says."""
        self.dtype, self.shape, self.slots, self.unpublished = dtype, shape, slots, slots
        self.entry_bytes = nbytes(dtype, shape)

    @property
    def is_full(self) -> bool:
        """Whether every slot is taken."""
        return self._taken == self.slots and not self._given_back

    def take(self) -> int:
        """A slot to fill, that nobody else will."""
        if self._given_back:
            return self._given_back.pop()
        self._taken += 1
        return self._taken - 1

    def give_back(self, slot: int) -> None:
        """A slot that was taken, and of which nothing was published."""
        self._given_back.append(slot)

    def read_header(self) -> None:
        """Reads and checks the header once. Raises IntegrityError if this is not a segment of ours."""
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
        """The map of all slots. Raises IntegrityError if the file is shorter than its header says."""
        array = self.array
        if array is None:
            self.read_header()
            mapping = self.folder.map(self.name)
            if len(mapping) < DATA + self.slots * self.entry_bytes:
                self.refused = f"segment {self.name} has {len(mapping)} bytes, fewer than its header says"
                raise IntegrityError(self.refused)
            array = self.array = np.ndarray((self.slots, *self.shape), self.dtype, buffer=mapping, offset=DATA)
        return array

    def check(self, digest: bytes, slot: int, secret: bytes | None) -> bool:
        """Whether the slot's bytes on disk are those that were put.

        Reads with pread: so a bad disk is an OSError, not a SIGBUS. Raises FileNotFoundError for a slot that has died.
        """
        total = self.sums.get(slot)
        if total is None:
            raise FileNotFoundError(f"slot {slot} of {self.name} is not there any more")
        self.read_header()
        if slot >= self.slots or self.dtype is None:
            return False
        with self.folder.open(self.name) as fd:
            data = chunks(fd, DATA + slot * self.entry_bytes, self.entry_bytes)
            return checksum(digest, self.dtype, self.shape, data, secret) == total
