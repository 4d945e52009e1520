"""A column of strings held in two arrays: a million paths cost their bytes, not a million objects."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import overload

import numpy as np
import numpy.typing as npt


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

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __iter__(self) -> Iterator[str]:
        return (self[i] for i in range(len(self)))

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> TextColumn: ...
    def __getitem__(self, index: int | slice) -> str | TextColumn:
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        position = range(len(self))[index]
        return self._block[self._offsets[position] : self._offsets[position + 1]].decode("utf-8", "surrogateescape")

    def take(self, indices: npt.NDArray[np.int64]) -> TextColumn:
        """The values at `indices` (int64[M]), in that order."""
        return TextColumn(self[int(i)] for i in indices)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return len(self._block) + self._offsets.nbytes

    def buffers(self) -> tuple[bytes, bytes]:
        """The two arrays as bytes, for a digest."""
        return self._block, self._offsets.tobytes()
