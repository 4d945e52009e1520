"""identify, decode and the questions a manifest asks: the room's front door."""

from __future__ import annotations

import mmap
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dali_pipes.decode.dicom.flags import warnings_of
from dali_pipes.decode.dicom.header import read_header
from dali_pipes.decode.formats import FORMATS
from dali_pipes.decode.kinds import Kind
from dali_pipes.decode.limits import Limits
from dali_pipes.decode.named import damage_named
from dali_pipes.decode.policy import Decoded, DecodePolicy
from dali_pipes.decode.raster import under_policy
from dali_pipes.errors import DecodeError, NoImageError, TruncatedError

DEFAULT = DecodePolicy()
DEFAULT_LIMITS = Limits()


def decode(
    data: bytes | memoryview,
    kind: Kind,
    frame: int = 0,
    policy: DecodePolicy = DEFAULT,
) -> Decoded:
    """One frame of a whole file, at full resolution.

    frame counts from 0. `data` may be a view of a mapped file: of a multi-frame DICOM file only the frame's own bytes
    are read. Raises TruncatedError, LimitError, UnsupportedError, NoImageError, WindowError, RefusedError, or
    DecodeError for other damage. No message holds a path, a name or an identifier of the patient, study or instance.
    """
    return finish(decode_distinct(data, kind, frame, policy), policy)


def decode_pixels(pixels: NDArray[Any], policy: DecodePolicy = DEFAULT) -> Decoded:
    """Return what `decode` gives for a PNG or TIFF that holds these pixels.

    Args:
        pixels: uint8 or uint16 [H, W], [H, W, 1] or [H, W, 3].
        policy: as for `decode`.

    Raises:
        DecodeError: another type or shape. LimitError: more pixels than the limits allow.
    """
    if pixels.dtype not in (np.uint8, np.uint16) or pixels.ndim not in (2, 3) or 0 in pixels.shape:
        raise DecodeError(
            f"an array of {pixels.dtype}{list(pixels.shape)}; allowed are uint8 and uint16 of [H, W], [H, W, 1] and "
            "[H, W, 3] (RGB)"
        )
    whole = pixels.reshape(*pixels.shape[:2], -1)
    if whole.shape[2] not in (1, 3):
        raise DecodeError(f"an array of {whole.shape[2]} channels; allowed are [H, W], [H, W, 1] and [H, W, 3] (RGB)")
    policy.limits.check_frame(whole.shape[0], whole.shape[1], 2 * whole.itemsize * whole.shape[2])
    return finish(under_policy(whole, policy), policy)


def finish(decoded: Decoded, policy: DecodePolicy) -> Decoded:
    """Add what the policy warns of; repeat the one channel of a monochrome source with stride 0, for nothing."""
    decoded = replace(decoded, warnings=tuple(warnings_of(decoded.facts, policy)))
    pixels = decoded.pixels
    if pixels.shape[2] == policy.channels:
        return decoded
    shape, strides = (*pixels.shape[:2], policy.channels), (*pixels.strides[:2], 0)
    repeated: NDArray[Any] = np.lib.stride_tricks.as_strided(pixels, shape, strides)
    return replace(decoded, pixels=repeated)


def decode_distinct(data: bytes | memoryview, kind: Kind, frame: int, policy: DecodePolicy) -> Decoded:
    """`decode`, with one channel for monochrome sources."""
    policy.limits.check_file(len(data))
    if kind.tag not in FORMATS:
        raise DecodeError(f"no decoder has the tag {kind.tag!r}")
    with damage_named():
        return FORMATS[kind.tag].decode(data, frame, policy)


def frames(source: str | os.PathLike[str] | bytes | memoryview, limits: Limits = DEFAULT_LIMITS) -> int:
    """How many frames a DICOM file holds; reads its header only. Raises DecodeError, NoImageError, OSError."""
    if isinstance(source, (bytes, memoryview)):
        with damage_named("in the headers"):
            return read_header(source, limits).frames
    with Path(source).open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            raise TruncatedError("the file is empty")
        return frames(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)), limits)


def dicom_frames(path: str | os.PathLike[str]) -> int:
    """`frames` for listing a folder.

    0 for an intact file without an image (a DICOMDIR, a report), 1 for a damaged one, so that it is listed and its
    damage reported when it is read. Raises OSError.
    """
    try:
        return frames(path)
    except NoImageError:
        return 0
    except DecodeError:
        return 1
