"""identify, decode and the questions a manifest asks: the room's front door."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import numpy as np

from dali_pipes.decode.dicom.header import read_header
from dali_pipes.decode.dicom.image import decode_dicom
from dali_pipes.decode.jpeg import decode_jpeg
from dali_pipes.decode.limits import Limits
from dali_pipes.decode.policy import Decoded, DecodePolicy, Kind
from dali_pipes.decode.raster import FORMATS, RASTER, decode_raster
from dali_pipes.errors import DecodeError, LimitError, TruncatedError

JPEG_TAGS = ("jpeg", "jpegturb", "jpegcmyk", "jpegpil")


def decode(data: bytes | memoryview, kind: Kind, frame: int = 0, policy: DecodePolicy = DecodePolicy()) -> Decoded:  # noqa: B008
    """One frame of a whole file, at full resolution.

    frame counts from 0. `data` may be a view of a mapped file: of a multi-frame DICOM file only the frame's own bytes are read.
    Raises TruncatedError, LimitError, UnsupportedError, WindowError, RefusedError, or DecodeError for other damage. No message
    holds a path, a name or an identifier of the patient, study or instance.
    """
    policy.limits.check_file(len(data))
    try:
        if kind.tag.startswith("dcm."):
            return decode_dicom(data, frame, policy)
        if kind.tag in FORMATS:
            return decode_raster(data, kind.tag, frame, policy)
        if kind.tag in JPEG_TAGS:
            if frame != 0:
                raise DecodeError(f"frame {frame} was asked for; a JPEG file has one")
            pixels = decode_jpeg(data, kind.tag, policy)
            return Decoded(pixels) if policy.depth == 8 else Decoded(pixels * np.uint16(257), {**RASTER, "windowed": False})
    except MemoryError:
        raise LimitError("there is not enough memory to decode the file") from None
    raise DecodeError(f"no decoder has the tag {kind.tag!r}")


def frames(source: str | os.PathLike[str] | bytes | memoryview, limits: Limits = Limits()) -> int:  # noqa: B008
    """How many frames a DICOM file holds; reads its header only. Raises DecodeError, OSError."""
    if isinstance(source, (bytes, memoryview)):
        return read_header(source, limits).frames
    with Path(source).open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            raise TruncatedError("the file is empty")
        return read_header(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)), limits).frames
