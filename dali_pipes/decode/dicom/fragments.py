"""Encapsulated pixel data (PS3.5 A.4): which bytes are frame n, without touching the other frames.

A frame is one or more fragments. Which ones is told, in this order, by the extended offset table (PS3.3 C.7.6.3.1.8),
by the basic offset table, or where neither is given (or one does not tell) by there being as many fragments as
frames, by there being one frame, or by the end-of-image markers of the JPEG family.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from dali_pipes.decode.dicom.header import Header
from dali_pipes.decode.dicom.values import attribute
from dali_pipes.errors import DecodeError, LimitError, TruncatedError

_ITEM, _END = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"
_MAX_FRAGMENTS = 4_000_000


@dataclass(frozen=True)
class Fragments:
    """The items after the basic offset table: `starts` of their tags (absolute), `lengths` of their values."""

    first: int
    starts: list[int]
    lengths: list[int]
    offsets: tuple[int, ...]  # the basic offset table's, relative to `first`
    closed: bool  # a sequence delimiter follows


def list_fragments(header: Header) -> Fragments:
    """Walk the items; raises TruncatedError where one reaches past the end of the file, DecodeError where there is no
    item.
    """
    data, at = header.data, header.pixels_at
    size = len(data)
    table, at = _item(data, at, size)
    if table % 4:
        raise DecodeError(f"the basic offset table has {table} bytes, which is not a multiple of 4")
    offsets = struct.unpack_from(f"<{table // 4}I", data, at - table)
    first, starts, lengths = at, [], []
    while at + 8 <= size and bytes(data[at : at + 4]) == _ITEM:
        length, stop = _item(data, at, size)
        starts.append(at)
        lengths.append(length)
        if len(starts) > _MAX_FRAGMENTS:
            raise LimitError(f"the pixel data has more than {_MAX_FRAGMENTS} fragments")
        at = stop
    closed = bytes(data[at : at + 4]) == _END
    if not closed and at + 4 <= size and not starts:
        raise DecodeError("the encapsulated pixel data holds no fragment")
    return Fragments(first, starts, lengths, offsets, closed)


def _item(data: bytes | memoryview, at: int, size: int) -> tuple[int, int]:
    """An item's length, and where the next one begins."""
    if at + 8 > size:
        raise TruncatedError("the DICOM file ends before its encapsulated pixel data does")
    if bytes(data[at : at + 4]) != _ITEM:
        raise DecodeError(f"the encapsulated pixel data has no item at byte {at}")
    (length,) = struct.unpack_from("<I", data, at + 4)
    if at + 8 + length > size:
        raise TruncatedError(f"a fragment of {length} bytes at byte {at} reaches past the end of the file")
    return length, at + 8 + length


def frame_bytes(header: Header, frame: int) -> tuple[bytes, list[str]]:
    """The encoded bytes of one frame, and warnings about the offset tables. Copies that frame only."""
    found = list_fragments(header)
    count = len(found.starts)
    warnings: list[str] = []
    if not count:
        raise TruncatedError("the encapsulated pixel data holds no fragment")
    extended = _extended(header)
    if extended is not None:
        offsets, length = extended[0], extended[1][frame]
        wanted = _by_offsets(found, offsets, frame)
        if wanted is not None and 0 < length <= found.lengths[wanted.start]:
            at = found.starts[wanted.start] + 8
            return bytes(header.data[at : at + length]), warnings
        warnings.append("the extended offset table does not tell which fragment the frame is, and was ignored")
    if len(found.offsets) == header.frames and header.frames > 1:
        wanted = _by_offsets(found, found.offsets, frame)
        if wanted is not None:
            return _join(header, found, wanted), warnings
        warnings.append("the basic offset table does not tell which fragments the frame is, and was ignored")
    elif found.offsets and len(found.offsets) != header.frames:
        warnings.append(
            f"the basic offset table has {len(found.offsets)} entries for {header.frames} frames and was ignored"
        )
    if header.frames == 1:
        return _join(header, found, range(count)), warnings
    if count == header.frames:
        return _join(header, found, range(frame, frame + 1)), warnings
    if count < header.frames and not found.closed:
        raise TruncatedError(f"the file ends after {count} of {header.frames} frames")
    return _join(header, found, _by_end_markers(header, found, frame)), warnings


def _extended(header: Header) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    offsets, lengths = (
        attribute(header.dataset, name) for name in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths")
    )
    if not isinstance(offsets, bytes) or not isinstance(lengths, bytes):
        return None
    if len(offsets) != 8 * header.frames or len(lengths) != 8 * header.frames:
        return None
    form = f"<{header.frames}Q"
    return struct.unpack(form, offsets), struct.unpack(form, lengths)


def _by_offsets(found: Fragments, offsets: tuple[int, ...], frame: int) -> range | None:
    """The fragments between two entries of an offset table, or None where an entry is not the start of a fragment, or
    not beyond the entry before it, as in a table that was left full of zeros.
    """
    index_of = {start - found.first: i for i, start in enumerate(found.starts)}
    begin = index_of.get(offsets[frame])
    last = frame + 1 == len(offsets)
    stop = len(found.starts) if last else index_of.get(offsets[frame + 1])
    if begin is None or stop is None or stop <= begin:
        return None
    rises = offsets[frame - 1] < offsets[frame] if frame else begin == 0
    return range(begin, stop) if rises else None


def _by_end_markers(header: Header, found: Fragments, frame: int) -> range:
    """The fragments between the frame-th fragment that ends an image (JPEG FFD9; JPEG 2000's EOC is the same) and the
    one before.
    """
    if not header.syntax.family.startswith(("jpeg", "htj2k")):
        raise DecodeError(
            f"{len(found.starts)} fragments for {header.frames} frames, and no offset table that says which is which"
        )
    ends = [i for i in range(len(found.starts)) if b"\xff\xd9" in _tail(header, found, i)]
    if len(ends) != header.frames:
        raise DecodeError(
            f"{len(found.starts)} fragments with {len(ends)} end-of-image markers for {header.frames} frames"
        )
    return range(ends[frame - 1] + 1 if frame else 0, ends[frame] + 1)


def _tail(header: Header, found: Fragments, i: int) -> bytes:
    """The last 10 bytes of a fragment; of a shorter one all, after the byte before it, for a marker may be cut in
    two.
    """
    before = header.data[found.starts[i] - 1 : found.starts[i]] if i and found.lengths[i] < 10 else b""
    stop = found.starts[i] + 8 + found.lengths[i]
    return bytes(before) + bytes(header.data[stop - min(10, found.lengths[i]) : stop])


def _join(header: Header, found: Fragments, wanted: range) -> bytes:
    if len(wanted) == 1:
        start = found.starts[wanted[0]] + 8
        return bytes(header.data[start : start + found.lengths[wanted[0]]])
    return b"".join(bytes(header.data[found.starts[i] + 8 : found.starts[i] + 8 + found.lengths[i]]) for i in wanted)
