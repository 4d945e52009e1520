"""Encapsulated pixel data (PS3.5 A.4): which bytes are frame n, without touching the other frames.

A frame is one or more fragments. Which ones is told, in this order, by the extended offset table (PS3.3 C.7.6.3.1.8),
by the basic offset table, or where neither is given (or one does not tell) by there being as many fragments as
frames, by there being one frame, or by the end-of-image markers of the JPEG family. Only without a table are the
fragments of other frames walked over.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dali_pipes.decode.dicom.header import Header
from dali_pipes.decode.dicom.values import content
from dali_pipes.errors import DecodeError, LimitError, TruncatedError

_ITEM, _END = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"
_HEAD = struct.Struct("<4sI")  # an item's tag and length
_MAX_FRAGMENTS = 400_000
Offsets = NDArray[Any]
Spans = list[tuple[int, int]]
"""(start, length) of the values of items."""


@dataclass(frozen=True)
class Fragments:
    """Consecutive items; `stop` is where the last one ends."""

    spans: Spans
    stop: int


def walk(data: bytes | memoryview, at: int, stop: int | None = None) -> Fragments:
    """Return the items from byte `at` up to the first that begins at or beyond `stop`; up to the last if it is None.

    Raises TruncatedError if an item reaches past the end of the file.
    """
    spans: Spans = []
    size = len(data)
    last = size - 8 if stop is None else min(stop - 1, size - 8)
    while at <= last:
        tag, length = _HEAD.unpack_from(data, at)
        if tag != _ITEM:
            break
        if at + 8 + length > size:
            raise TruncatedError(f"a fragment of {length} bytes at byte {at} reaches past the end of the file")
        spans.append((at + 8, length))
        if len(spans) > _MAX_FRAGMENTS:
            raise LimitError(f"the pixel data has more than {_MAX_FRAGMENTS} fragments")
        at += 8 + length
    return Fragments(spans, at)


def basic_table(header: Header) -> tuple[Offsets, int]:
    """Return the basic offset table, uint32[n], and where the fragments begin; raise TruncatedError, DecodeError."""
    data, at = header.data, header.pixels_at
    if at + 8 > len(data):
        raise TruncatedError("the DICOM file ends before its encapsulated pixel data does")
    tag, size = _HEAD.unpack_from(data, at)
    if tag != _ITEM:
        raise DecodeError(f"the encapsulated pixel data has no item at byte {at}")
    if at + 8 + size > len(data):
        raise TruncatedError(f"an offset table of {size} bytes at byte {at} reaches past the end of the file")
    if size % 4:
        raise DecodeError(f"the basic offset table has {size} bytes, which is not a multiple of 4")
    return np.frombuffer(data, "<u4", size // 4, at + 8), at + 8 + size


def frame_bytes(header: Header, frame: int) -> tuple[bytes, list[str]]:
    """Return the encoded bytes of one frame, and warnings about the offset tables; only that frame is copied."""
    offsets, first = basic_table(header)
    warnings: list[str] = []
    extended = _extended(header)
    if extended is not None:
        wanted, length = _by_offsets(header, first, extended[0], frame), int(extended[1][frame])
        if wanted is not None and 0 < length <= wanted.spans[0][1]:
            return _join(header, [(wanted.spans[0][0], length)]), warnings
        warnings.append("the extended offset table does not tell which fragment the frame is, and was ignored")
    if len(offsets) == header.frames and header.frames > 1:
        wanted = _by_offsets(header, first, offsets, frame)
        if wanted is not None:
            return _join(header, wanted.spans), warnings
        warnings.append("the basic offset table does not tell which fragments the frame is, and was ignored")
    elif len(offsets) and len(offsets) != header.frames:
        warnings.append(f"the basic offset table has {len(offsets)} entries for {header.frames} frames and was ignored")
    found = walk(header.data, first)
    count, closed = len(found.spans), bytes(header.data[found.stop : found.stop + 4]) == _END
    if not count:
        cut = closed or found.stop + 4 > len(header.data)
        raise (TruncatedError if cut else DecodeError)("the encapsulated pixel data holds no fragment")
    if header.frames == 1:
        return _join(header, found.spans), warnings
    if count == header.frames:
        return _join(header, [found.spans[frame]]), warnings
    if count < header.frames and not closed:
        raise TruncatedError(f"the file ends after {count} of {header.frames} frames")
    return _join(header, _by_end_markers(header, found.spans, frame)), warnings


def _extended(header: Header) -> tuple[Offsets, Offsets] | None:
    tables = [content(header.dataset, name) for name in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths")]
    if tables[0] is None or tables[1] is None or {len(tables[0]), len(tables[1])} != {8 * header.frames}:
        return None
    return np.frombuffer(tables[0], "<u8"), np.frombuffer(tables[1], "<u8")


def _by_offsets(header: Header, first: int, offsets: Offsets, frame: int) -> Fragments | None:
    """Return the fragments between two entries of an offset table.

    None where an entry is not the start of a fragment, or not beyond the entry before it, as in a table that was left
    full of zeros.
    """
    begin, size = int(offsets[frame]), len(header.data) - first
    stop = int(offsets[frame + 1]) if frame + 1 < len(offsets) else None
    rises = int(offsets[frame - 1]) < begin if frame else begin == 0
    if not rises or begin >= size or (stop is not None and not begin < stop < size):
        return None
    found = walk(header.data, first + begin, None if stop is None else first + stop)
    return found if found.spans and (stop is None or found.stop == first + stop) else None


def _by_end_markers(header: Header, spans: Spans, frame: int) -> Spans:
    """Return the fragments of a frame, found by the markers that end an image.

    They begin after the fragment that ends the frame before, and go up to the one that ends this frame. The marker
    is JPEG's FFD9; JPEG 2000's EOC is the same.
    """
    if not header.syntax.family.startswith(("jpeg", "htj2k")):
        raise DecodeError(
            f"{len(spans)} fragments for {header.frames} frames, and no offset table that says which is which"
        )
    ends = [i for i in range(len(spans)) if b"\xff\xd9" in _tail(header, spans, i)]
    if len(ends) != header.frames:
        raise DecodeError(f"{len(spans)} fragments with {len(ends)} end-of-image markers for {header.frames} frames")
    return spans[ends[frame - 1] + 1 if frame else 0 : ends[frame] + 1]


def _tail(header: Header, spans: Spans, i: int) -> bytes:
    """Return the last 10 bytes of a fragment.

    If the fragment is shorter, return all of it, after the byte before it, because a marker may be cut in two.
    """
    start, length = spans[i]
    before = header.data[start - 9 : start - 8] if i and length < 10 else b""
    return bytes(before) + bytes(header.data[start + length - min(10, length) : start + length])


def _join(header: Header, spans: Spans) -> bytes:
    parts = [bytes(header.data[start : start + length]) for start, length in spans]
    return parts[0] if len(parts) == 1 else b"".join(parts)
