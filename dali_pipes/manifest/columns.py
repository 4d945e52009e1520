"""A column of strings held in two arrays: ten million paths cost their bytes, not ten million objects."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, overload

import numpy as np
import numpy.typing as npt

_CHUNK = 1 << 14
"""Rows that are worked on at a time, so that temporary arrays stay in the processor's caches."""


class TextColumn(Sequence[str]):
    """An immutable sequence of strings.

    Held as UTF-8 bytes in one block and int64[N + 1] offsets into it.
    """

    __slots__ = ("_block", "_offsets")

    def __init__(self, values: Iterable[str]) -> None:
        encoded = [value.encode("utf-8", "surrogateescape") for value in values]
        self._block = b"".join(encoded)
        self._offsets = np.zeros(len(encoded) + 1, np.int64)
        np.cumsum(np.fromiter(map(len, encoded), np.int64, len(encoded)), out=self._offsets[1:])

    @classmethod
    def of(cls, block: bytes, offsets: npt.NDArray[np.int64]) -> TextColumn:
        """Return the column that a block of UTF-8 and the offsets int64[N + 1] into it make; neither is checked."""
        made = cls.__new__(cls)
        made._block, made._offsets = block, offsets
        return made

    @classmethod
    def blank(cls, count: int) -> TextColumn:
        """Return `count` empty strings."""
        return cls.of(b"", np.zeros(count + 1, np.int64))

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __iter__(self) -> Iterator[str]:
        return (raw.decode("utf-8", "surrogateescape") for raw in self.encoded())

    def encoded(self) -> Iterator[bytes]:
        """Iterate over the values as UTF-8."""
        for first in range(0, len(self), _CHUNK):
            bounds = self._offsets[first : first + _CHUNK + 1].tolist()
            for start, end in itertools.pairwise(bounds):
                yield self._block[start:end]

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> TextColumn: ...
    def __getitem__(self, index: int | slice) -> str | TextColumn:
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        position = range(len(self))[index]
        return self._block[self._offsets[position] : self._offsets[position + 1]].decode("utf-8", "surrogateescape")

    def __repr__(self) -> str:
        return f"TextColumn({len(self)} strings, {self.nbytes} bytes)"

    def some(self, indices: npt.NDArray[np.int64]) -> list[str]:
        """Return the values at `indices` (int64[M], from 0), in that order: for few of many."""
        block, bounds = self._block, zip(self._offsets[indices].tolist(), self._offsets[indices + 1].tolist())
        return [block[start:end].decode("utf-8", "surrogateescape") for start, end in bounds]

    def take(self, indices: npt.NDArray[np.int64]) -> TextColumn:
        """Return the values at `indices` (int64[M]), in that order."""
        starts = self._offsets[indices]
        lengths = self._offsets[np.asarray(indices) + 1] - starts
        offsets = np.zeros(len(lengths) + 1, np.int64)
        np.cumsum(lengths, out=offsets[1:])
        source, block = self.bytes(), np.empty(int(offsets[-1]), np.uint8)
        for first in range(0, len(lengths), _CHUNK):
            rows = slice(first, first + _CHUNK)
            begin, end = int(offsets[first]), int(offsets[min(first + _CHUNK, len(lengths))])
            shift = np.repeat(starts[rows] - offsets[first : first + len(lengths[rows])], lengths[rows])
            block[begin:end] = source[np.arange(begin, end) + shift]
        return TextColumn.of(block.tobytes(), offsets)

    def equals(self, value: str) -> npt.NDArray[np.bool_]:
        """Return which values are `value`: bool[N]."""
        wanted = np.frombuffer(value.encode("utf-8", "surrogateescape"), np.uint8)
        found: npt.NDArray[np.bool_] = np.diff(self._offsets) == len(wanted)
        source = self.bytes()
        for position, byte in enumerate(wanted.tolist()):
            rows = np.flatnonzero(found)
            found[rows] = source[self._offsets[rows] + position] == byte
        return found

    def codes(self) -> tuple[list[str], npt.NDArray[np.int64]]:
        """Return the different values in the order of their first rows, and the number of each row's: int64[N]."""
        numbers: dict[bytes, int] = {}
        given = np.fromiter((numbers.setdefault(raw, len(numbers)) for raw in self.encoded()), np.int64, len(self))
        return [raw.decode("utf-8", "surrogateescape") for raw in numbers], given

    def bytes(self) -> npt.NDArray[np.uint8]:
        """Return the block, uint8[bytes], read-only."""
        return np.frombuffer(self._block, np.uint8)

    @property
    def offsets(self) -> npt.NDArray[np.int64]:
        """Where each value begins in the block, and the last one ends: int64[N + 1]."""
        return self._offsets

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return len(self._block) + self._offsets.nbytes

    def buffers(self) -> tuple[Any, Any]:
        """Return the two arrays as bytes, for a digest."""
        return self._block, self._offsets.tobytes()


def joined(columns: Sequence[TextColumn]) -> TextColumn:
    """Return the values of several columns, one after another."""
    ends = np.cumsum([0, *(int(column.offsets[-1]) for column in columns)])
    offsets = [column.offsets[1:] + end for column, end in zip(columns, ends)]
    return TextColumn.of(
        b"".join(column.buffers()[0] for column in columns), np.concatenate([np.zeros(1, np.int64), *offsets])
    )
