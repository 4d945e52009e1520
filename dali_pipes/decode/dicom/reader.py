"""A file object over bytes that copies only what is read."""

from __future__ import annotations


class Reader:
    """What pydicom needs of a file: read, seek, tell. Backed by bytes, or by a view of a mapped file."""

    def __init__(self, data: bytes | memoryview, start: int = 0) -> None:
        self._data = memoryview(data)
        self._at = start

    def read(self, count: int = -1) -> bytes:
        stop = len(self._data) if count is None or count < 0 else self._at + count
        part = bytes(self._data[self._at : stop])
        self._at += len(part)
        return part

    def seek(self, offset: int, whence: int = 0) -> int:
        base = (0, self._at, len(self._data))[whence]
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        return self._at
