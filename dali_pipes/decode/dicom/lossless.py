"""Whether a lossless JPEG (ITU-T T.81 Annex H) held as much data as its image needs.

A decoder that runs out of data goes on with zeros, and one that lost its place ends with bytes left over. Every sample
costs the length of its difference's Huffman code and the difference's own bits (T.81 H.1.2.2), so the decoded image
tells how many bits the scan must have had. That takes a third of the time of a decode, and notices what libjpeg warns
of.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dali_pipes.decode.jpegheader import segments
from dali_pipes.errors import DecodeError, TruncatedError

_PIECE = 1 << 16  # samples looked at in one go, which the processor's cache holds
_NO_CODE = 1 << 40  # bits of a difference that the table has no code for
_PADDING = 8  # bytes between the last code and the end marker that libjpeg has read ahead, and does not miss


@dataclass(frozen=True)
class Scan:
    """The one scan of a plain lossless JPEG.

    costs: bits of a difference of each category 0..16. bits: of its data. last: the last byte of it.
    """

    costs: tuple[int, ...]
    bits: int
    last: int


def plain_scan(frame: bytes) -> Scan | None:
    """Return the scan of a frame of one component, predictor 1, no point transform, no restarts; else None."""
    tables: dict[int, tuple[int, ...]] = {}
    for part in segments(frame):
        if part.code == 0xC4:
            tables.update(_tables(part.body))
        elif part.code == 0xDD and any(part.body):
            return None
    body = part.body  # of the scan header: 1, component, table, predictor, 0, point transform
    if len(body) != 6 or body[0] != 1 or body[3] != 1 or body[5] & 15 or body[2] >> 4 not in tables:
        return None
    start, stop = part.at + 4 + len(body), frame.rfind(b"\xff\xd9")
    while stop > start and frame[stop - 1] == 0xFF:  # fill bytes
        stop -= 1
    data = np.frombuffer(frame, np.uint8, stop - start, start)
    marked = np.flatnonzero(data == 0xFF)
    if not data.size or data[marked + 1].any():  # other markers follow
        return None
    return Scan(tables[body[2] >> 4], 8 * (data.size - marked.size), int(data[-1]))


def _tables(body: bytes) -> dict[int, tuple[int, ...]]:
    """Return the costs of the categories by each Huffman table of a DHT segment."""
    found, at = {}, 0
    while at + 17 <= len(body):
        lengths = [length for length, count in enumerate(body[at + 1 : at + 17], 1) for _ in range(count)]
        codes = dict(zip(body[at + 17 : at + 17 + len(lengths)], lengths))
        if body[at] >> 4 == 0:
            own = [codes[k] + k % 16 if k in codes else _NO_CODE for k in range(17)]
            found[body[at] & 15] = tuple(own)
        at += 17 + len(lengths)
    return found


def check_amount(scan: Scan, samples: NDArray[Any], precision: int) -> bool:
    """Raise TruncatedError or DecodeError unless uint8|uint16[rows, columns] is what the scan's data can hold.

    Return whether what is left after the last code looks like padding: ones, of less than a byte. If not, libjpeg
    itself should be asked, because a code that no table holds costs other bits than the zero that it becomes.
    """
    have = scan.bits
    need = bits_needed(samples, scan.costs, precision)
    if need > have:
        raise TruncatedError(f"lossless JPEG data is cut short: its image needs {need} bits, {have} are there")
    left, bits = divmod(have - need, 8)
    if left > _PADDING:
        raise DecodeError(f"lossless JPEG data is damaged: {left} bytes are left over after the image's last sample")
    ones = (1 << bits) - 1
    return bool(left == 0 and scan.last & ones == ones)


def bits_needed(samples: NDArray[Any], costs: tuple[int, ...], precision: int) -> int:
    """Return how many bits the differences of uint8|uint16[rows, columns] to their predictions take.

    The prediction is the sample on the left, and in the first column the one above (T.81 H.1.1).
    """
    rows, columns = samples.shape
    total: int
    total, step, above = rows * columns * costs[0], max(1, _PIECE // columns), 1 << (precision - 1)
    for start in range(0, rows, step):
        piece = samples[start : start + step].astype(np.uint16, copy=False)
        difference = np.empty(piece.shape, np.uint16)
        np.subtract(piece[:, 1:], piece[:, :-1], out=difference[:, 1:])
        difference[1:, 0] = piece[1:, 0] - piece[:-1, 0]
        difference[0, 0] = (int(piece[0, 0]) - above) & 0xFFFF
        above = int(piece[-1, 0])
        size = np.minimum(difference, np.negative(difference))
        for category in range(1, 17):
            count = int(np.count_nonzero(size >= np.uint16(1 << (category - 1))))
            if not count:
                break
            total += count * (costs[category] - costs[category - 1])
    return total
