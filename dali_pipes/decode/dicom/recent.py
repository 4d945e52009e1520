"""The headers of multi-frame files read last, so that functional groups are parsed once a file, not once a frame.

Files are told apart by content: a header answers only for bytes that begin as those it was read from. There is no lock,
which a forked child could inherit held: each step is one operation on a dict. Threads that read a shared data set at
once may convert the same element twice, to the same value.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace

from dali_pipes.decode.dicom.header import Header, read_header
from dali_pipes.decode.limits import Limits

MOST_BYTES = 4 << 20
"""Of the files' own bytes before their pixels, all headers kept together; parsed, they take 10 to 20 times as much.
350 bytes a frame are usual.
"""

_PREFIX = 1024  # bytes, which hold the instance's UID: enough to tell most files apart without comparing headers


class RecentHeaders:
    """`read` is `read_header`, which remembers."""

    def __init__(self) -> None:
        self._kept: dict[tuple[Limits, int, bytes], tuple[bytes, Header]] = {}  # the bytes read, what they say

    def read(self, data: bytes | memoryview, limits: Limits) -> Header:
        """Return the header of a whole file; raise as `read_header`. Do not change its data set: it may be shared."""
        key = (limits, len(data), bytes(data[:_PREFIX]))
        known, header = self._kept.get(key, (b"", None))
        if header is not None and bytes(data[: len(known)]) == known:  # as bytes: views are compared one by one
            return replace(header, data=data)
        header = read_header(data, limits)
        if header.frames > 1 and header.pixels_at <= MOST_BYTES and header.data is data:  # a deflated file's is not
            self._kept[key] = bytes(data[: header.pixels_at]), replace(header, data=b"")
            with contextlib.suppress(KeyError, RuntimeError, StopIteration):  # another thread makes room too
                while sum(len(known) for known, _ in list(self._kept.values())) > MOST_BYTES:
                    del self._kept[next(iter(self._kept))]
        return header
