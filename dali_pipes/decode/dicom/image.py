"""One DICOM frame from bytes to pixels, in the standard's order.

encoded frame -> samples -> stored values -> [palette or colour] or [padding mask -> modality -> window -> polarity] ->
uint8
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dali_pipes.decode.deep import deepen
from dali_pipes.decode.dicom import modality as modality_
from dali_pipes.decode.dicom.codecs import codec_for
from dali_pipes.decode.dicom.colour import apply_palette, has_supplement, overlay, supplement, to_rgb
from dali_pipes.decode.dicom.flags import check_flags
from dali_pipes.decode.dicom.fragments import frame_bytes
from dali_pipes.decode.dicom.header import Header
from dali_pipes.decode.dicom.j2k import REDUCIBLE, decode_reduced, read_j2k_header
from dali_pipes.decode.dicom.lut import Lut
from dali_pipes.decode.dicom.native import native_samples
from dali_pipes.decode.dicom.offered import candidates, inverted
from dali_pipes.decode.dicom.padding import padded, padding_range
from dali_pipes.decode.dicom.plugins import Samples
from dali_pipes.decode.dicom.recent import RecentHeaders
from dali_pipes.decode.dicom.stored import MAX_CODE_BITS, codes_of, extend, stored_bits, stored_values
from dali_pipes.decode.grayscale import Affine, Coded, render
from dali_pipes.decode.luma import luma, luma16
from dali_pipes.decode.policy import Decoded, DecodePolicy
from dali_pipes.errors import DecodeError, UnsupportedError

_HEADERS = RecentHeaders()


@dataclass(frozen=True)
class Frame:
    """What was read: `coded` for monochrome, else `rgb` (uint8 or uint16 [H, W, 3]).

    And what was noticed on the way.
    """

    header: Header
    coded: Coded | None
    rgb: NDArray[Any] | None
    facts: dict[str, Any]
    rule: Any = None
    padding: tuple[float, float] | None = None
    warnings: tuple[str, ...] = field(default=())
    supplement: tuple[NDArray[np.bool_], NDArray[np.uint8]] | None = None  # where, and with what, colours replace gray


def decode_dicom(data: bytes | memoryview, frame: int, policy: DecodePolicy) -> Decoded:
    """One frame (from 0) under the policy; raises the DecodeError tree."""
    read = read_frame(data, frame, policy)
    if read.coded is not None:
        if policy.depth == 16 and read.supplement is not None:
            raise UnsupportedError(
                "a supplemental palette (0008,9205) colours a part of this image, and at depth 16 the window of the "
                "other part can't be applied later: read it at depth 8"
            )
        gray = render(read.coded, policy.window)[0] if policy.depth == 8 or read.coded.is_binary else None
        if gray is None:
            pixels, attributes = deepen(read.coded)
            return Decoded(pixels, attributes, read.facts)
        if policy.depth == 16:
            return Decoded(gray * np.uint16(257), {"source": "dicom", "windowed": False}, read.facts)
        if read.supplement is not None:
            return Decoded(*_coloured(overlay(gray, *read.supplement), policy), read.facts)
        return Decoded(gray, {}, read.facts)
    return Decoded(*_coloured(read.rgb, policy), read.facts)


def _coloured(rgb: Any, policy: DecodePolicy) -> tuple[NDArray[Any], dict[str, Any]]:
    deep = rgb.dtype == np.uint16
    if policy.depth == 8:
        narrow = ((rgb.astype(np.uint32) + 128) // 257).astype(np.uint8) if deep else rgb  # floor(x / 257 + 0.5)
        return np.ascontiguousarray(narrow if policy.channels == 3 else luma(narrow)), {}
    wide = rgb if deep else rgb * np.uint16(257)
    return np.ascontiguousarray(wide if policy.channels == 3 else luma16(wide)), {"source": "colour", "windowed": False}


def read_frame(data: bytes | memoryview, frame: int, policy: DecodePolicy) -> Frame:
    """Everything up to the window."""
    header = _HEADERS.read(data, policy.limits)
    if not 0 <= frame < header.frames:
        raise DecodeError(f"frame {frame} was asked for; the file has {header.frames}, counted from 0")
    facts, warnings = check_flags(header, policy)
    samples, noticed = _samples(header, frame, policy)
    warnings += noticed
    if header.photometric in ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR") and header.samples == 1:
        return _one_sample(header, frame, samples, facts, warnings)
    if header.samples == 1:
        raise DecodeError(f"{header.photometric} with one sample per pixel")
    if header.photometric.startswith(("MONOCHROME", "PALETTE")):
        raise DecodeError(f"{header.photometric} with three samples per pixel")
    bits, _, noticed = stored_bits(samples, header)
    rgb = to_rgb(codes_of(samples.array, header, bits, _unused_below(header)), header, samples.rgb, bits)
    return Frame(header, None, rgb, facts, warnings=(*warnings, *noticed))


def _samples(header: Header, frame: int, policy: DecodePolicy) -> tuple[Samples, list[str]]:
    if not header.syntax.encapsulated:
        return Samples(native_samples(header, frame)), []
    codec = codec_for(header.syntax.uid)
    encoded, warnings = frame_bytes(header, frame)
    if policy.reduce is not None and header.syntax.family in REDUCIBLE:
        told = read_j2k_header(encoded)
        told.check(header.rows, header.columns, header.samples)
        level = told.reduction(*policy.reduce)
        if level and (header.samples == 1 or told.precision <= 8) and told.signed == header.signed:
            with contextlib.suppress(DecodeError):  # what only the full decoder reads, and what is damaged, goes there
                array = decode_reduced(encoded, told, level, header)
                noticed = [*warnings, f"reduced {level} times"]
                return Samples(array, told.precision, told.signed, told.transformed), noticed
    if codec.use is None:
        raise UnsupportedError(codec.why)
    return codec.use(encoded, header), warnings


def _unused_below(header: Header) -> int:
    """How many bits of each sample lie below the stored ones; codestreams of other families hold no others."""
    whole = header.syntax.family in ("native", "rle", "uncompressed", "deflated-frame")
    return header.high + 1 - header.stored if whole else 0


def _one_sample(header: Header, frame: int, samples: Samples, facts: dict[str, Any], warnings: list[str]) -> Frame:
    plane = samples.array[..., 0]
    bits, signed, noticed = stored_bits(samples, header)
    warnings = [*warnings, *noticed]
    if header.is_float:
        stored: NDArray[Any] = plane
        codes = None
    else:
        codes = codes_of(plane, header, bits, _unused_below(header))
        stored = stored_values(bits, signed) if bits <= MAX_CODE_BITS else extend(codes, bits, signed)
    if header.photometric == "PALETTE COLOR":
        whole = stored[codes] if codes is not None and bits <= MAX_CODE_BITS else stored
        return Frame(header, None, apply_palette(whole, header), facts, warnings=tuple(warnings))
    ends, noticed = padding_range(header)
    mask = padded(stored, ends)
    rule = modality_.modality(header, frame)
    values = modality_.apply(rule, np.where(mask, 0, stored) if header.is_float and mask is not None else stored)
    offered = candidates(header, frame, float(values.min()))
    narrow = codes is not None and bits <= MAX_CODE_BITS
    affine = Affine(stored, *rule) if narrow and not isinstance(rule, Lut) else None
    image = Coded(codes if narrow else None, values, mask, inverted(header), offered, affine=affine)
    colours = None
    if has_supplement(header):
        colours = supplement(stored[codes] if narrow else stored, header)
    return Frame(header, image, None, facts, rule, ends, (*warnings, *noticed), colours)
