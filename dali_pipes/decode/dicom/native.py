"""Native (uncompressed) pixel data to samples (PS3.5 8.1 and Annex D, PS3.3 C.7.6.3.1.2 to .4).

One frame, the others untouched.

Two old forms are read too. Samples of 12 allocated bits follow each other without gaps, the least significant bit
first (today PS3.5 8.1.1 allows 1 and multiples of 8 only). YBR_PARTIAL_420 has its rows in pairs: C.7.6.3.1.2
sites Cb and Cr at the first and third pixel of the first and third row, and so on, so the upper row of a pair is laid
out as in YBR_PARTIAL_422, and the lower one holds Y only. dcm4che reads it so (its ColorSubsampling); pydicom and DCMTK
do not read it. Today the standard keeps it for video.

Floats too small for a full mantissa (below 1e-38 in 32 bits) are kept, but a process that has its processor flush such
to zero (torch.set_flush_denormal) reads zeros.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dali_pipes.decode.dicom.header import Header
from dali_pipes.errors import DecodeError, TruncatedError

_SUBSAMPLED = ("YBR_FULL_422", "YBR_PARTIAL_422", "YBR_PARTIAL_420")


def check_subsampled(header: Header, available: int) -> None:
    """Raise DecodeError where a frame or frames said to be subsampled have the length of full ones.

    Read as they say, they would give a picture of nothing.
    """
    full = header.rows * header.columns * header.samples * header.allocated // 8 * header.frames
    if header.photometric in _SUBSAMPLED and header.samples == 3 and available >= full:
        raise DecodeError(
            f"the header says {header.photometric}, but there are {available} bytes of pixel data, and {full} are what "
            "the image has without subsampling: one of the two is wrong. Correct the Photometric Interpretation "
            "(0028,0004), for example to YBR_FULL"
        )


def native_samples(header: Header, frame: int) -> NDArray[Any]:
    """One frame of the file as [rows, columns, samples] of its own dtype, native byte order; raises TruncatedError."""
    bits = frame_bits(header)
    first, last = frame * bits, (frame + 1) * bits
    if header.pixels_length is None:
        raise DecodeError("native pixel data of undefined length")
    check_subsampled(header, header.pixels_length)
    available = min(header.pixels_length, len(header.data) - header.pixels_at)
    if (last + 7) // 8 > available:
        raise TruncatedError(f"frame {frame} needs {(last + 7) // 8} bytes of pixel data; {available} are there")
    begin, end = first // 8, (last + 7) // 8
    words = not header.syntax.little and header.pixel_vr == "OW" and header.allocated < 16
    raw = memoryview(header.data)[header.pixels_at :]
    if words:  # bytes come in swapped pairs (PS3.5 D.1): take whole pairs and swap them back
        even = raw[begin - begin % 2 : end + end % 2]
        swapped = np.frombuffer(even, np.uint16, len(even) // 2).byteswap().view(np.uint8)
        part: memoryview = swapped[begin % 2 : begin % 2 + end - begin].data
    else:
        part = raw[begin:end]
    return shape_samples(part, header, first % 8)


def frame_bits(header: Header) -> int:
    """How many bits one native frame takes."""
    pixels = header.rows * header.columns
    if header.photometric in _SUBSAMPLED and header.samples == 3:
        if header.columns % 2:
            raise DecodeError(f"{header.photometric} needs an even number of columns, the image has {header.columns}")
        if header.photometric != "YBR_PARTIAL_420":
            return pixels * 2 * header.allocated
        if header.rows % 2:
            raise DecodeError(f"{header.photometric} needs an even number of rows, the image has {header.rows}")
        return pixels * 3 // 2 * header.allocated
    return pixels * header.samples * header.allocated


def shape_samples(part: bytes | memoryview, header: Header, skip: int = 0) -> NDArray[Any]:
    """[rows, columns, samples] from a frame's bytes (`skip`: bits to leave out in front where samples have 1 or 12)."""
    shape = (header.rows, header.columns, header.samples)
    if header.allocated == 1:
        bits = np.unpackbits(np.frombuffer(part, np.uint8), bitorder="little")
        return bits[skip : skip + header.rows * header.columns * header.samples].reshape(shape)
    if header.allocated == 12:
        flat: NDArray[Any] = _twelve_bits(np.frombuffer(part, np.uint8), skip)
    else:
        order = "<" if header.syntax.little else ">"
        kind = "f" if header.is_float else "u"
        flat = np.frombuffer(part, np.dtype(f"{order}{kind}{header.allocated // 8}"))
        if not flat.dtype.isnative:
            flat = flat.astype(flat.dtype.newbyteorder("="))
    if header.photometric in _SUBSAMPLED and header.samples == 3:
        spread = _spread_420 if header.photometric == "YBR_PARTIAL_420" else _spread_422
        return spread(flat, header.rows, header.columns)
    if header.planar == 1 and header.samples == 3:
        return np.ascontiguousarray(flat.reshape(header.samples, *shape[:2]).transpose(1, 2, 0))
    return flat.reshape(shape)


def _twelve_bits(packed: NDArray[np.uint8], skip: int) -> NDArray[np.uint16]:
    """uint16 of each three half bytes, the lowest first; `skip`, 0 or 4: bits before the first sample."""
    halves = np.stack([packed & 15, packed >> 4], axis=-1).reshape(-1)[skip // 4 :]
    low, middle, high = halves[: halves.size // 3 * 3].reshape(-1, 3).T.astype(np.uint16)
    return (low | middle << 4 | high << 8).astype(np.uint16, copy=False)


def _spread_420(flat: NDArray[Any], rows: int, columns: int) -> NDArray[Any]:
    """Spread 4:2:0 samples to pixels: each block of four takes its Cb and Cr.

    The data has a row of Y1 Y2 Cb Cr for each pair of pixels, then a row of Y.
    """
    pairs = flat.reshape(rows // 2, 3 * columns)
    upper = _spread_422(pairs[:, : 2 * columns].reshape(-1), rows // 2, columns)
    out = np.repeat(upper, 2, axis=0)
    out[1::2, :, 0] = pairs[:, 2 * columns :]
    return out


def _spread_422(flat: NDArray[Any], rows: int, columns: int) -> NDArray[Any]:
    """Y1 Y2 Cb Cr for each pair of pixels (PS3.3 C.7.6.3.1.2): both take the pair's Cb and Cr."""
    pairs = flat.reshape(rows, columns // 2, 4)
    out = np.empty((rows, columns, 3), flat.dtype)
    out[:, 0::2, 0], out[:, 1::2, 0] = pairs[..., 0], pairs[..., 1]
    for channel, place in ((1, 2), (2, 3)):
        out[:, 0::2, channel] = out[:, 1::2, channel] = pairs[..., place]
    return out
