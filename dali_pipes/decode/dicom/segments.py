"""Segmented palettes (PS3.3 C.7.9.2): discrete, linear and indirect segments, expanded."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dali_pipes.errors import DecodeError


def expand_segments(value: bytes | None, bits: int, count: int, little: bool) -> NDArray[np.uint16]:
    """uint16[count] from segmented data.

    Raises DecodeError where it is missing, damaged, or gives another number of entries.

    Opcode 0: length, then that many entries. 1: length, end; from the last entry up to `end` in equal steps, rounded
    half up. 2: how many segments to repeat, and their byte offset as two words, low first.
    """
    if not value:
        raise DecodeError("the file is PALETTE COLOR but has no palette")
    wide = bits > 8
    words = np.frombuffer(value, ("<u2" if little else ">u2") if wide else "u1", len(value) // (2 if wide else 1))
    out: list[int] = []
    try:
        _expand([int(w) for w in words], 0, None, out, count, 2 if wide else 1, False)
    except IndexError:
        raise DecodeError("the segmented palette ends inside a segment") from None
    if len(out) != count:
        raise DecodeError(f"the segmented palette gives {len(out)} entries, its descriptor says {count}")
    return np.array(out, np.uint16)


def _expand(
    words: list[int], at: int, segments: int | None, out: list[int], count: int, size: int, nested: bool
) -> None:
    done = 0
    while at < len(words) and len(out) < count and (segments is None or done < segments):
        opcode, length = words[at], words[at + 1]
        if opcode == 0:
            part = words[at + 2 : at + 2 + length]
            if len(part) < length:
                raise IndexError
            out.extend(part)
            at += 2 + length
        elif opcode == 1:
            if not out:
                raise DecodeError("the segmented palette begins with a linear segment")
            start, end = out[-1], words[at + 2]
            out.extend(
                (2 * (start * length + (end - start) * i) + length) // (2 * length) for i in range(1, length + 1)
            )
            at += 3
        elif opcode == 2 and not nested:
            offset = words[at + 2] | words[at + 3] << (8 * size)
            _expand(words, offset // size, length, out, count, size, True)
            at += 4
        else:
            raise DecodeError(f"the segmented palette has the opcode {opcode} where it can't be")
        done += 1
