"""What was decided about one file, as plain values.

For `dali-pipes inspect`, and for people who wonder why a picture looks as it does.
"""

from __future__ import annotations

from typing import Any

from dali_pipes.decode.api import DEFAULT, decode
from dali_pipes.decode.dicom.image import Frame, read_frame
from dali_pipes.decode.dicom.lut import Lut
from dali_pipes.decode.formats import FORMATS
from dali_pipes.decode.grayscale import window_table
from dali_pipes.decode.named import damage_named
from dali_pipes.decode.policy import DecodePolicy
from dali_pipes.decode.sniff import identify


def describe(data: bytes | memoryview, frame: int = 0, policy: DecodePolicy = DEFAULT) -> dict[str, Any]:
    """Decode one frame and return what it is, in JSON's types.

    The result holds kind, decoder, size, and for DICOM the transfer syntax, stored bits, modality transform, window and
    its numbers, polarity, padding, intent, flags, and warnings. It holds nothing about the patient. Raises as `decode`.
    """
    kind = identify(None, data)
    told: dict[str, Any] = {"kind": kind.tag, "decoder": kind.decoder, "in_threads": kind.in_threads, "dali": kind.dali}
    if FORMATS[kind.tag].family == "dicom":
        with damage_named():
            return {**told, **_dicom(read_frame(data, frame, policy), policy)}
    pixels = decode(data, kind, frame, policy).pixels
    return {**told, "height": pixels.shape[0], "width": pixels.shape[1], "warnings": []}


def _dicom(read: Frame, policy: DecodePolicy) -> dict[str, Any]:
    header, image = read.header, read.coded
    array = read.rgb if image is None else image.values if image.codes is None else image.codes
    told: dict[str, Any] = {
        "syntax": header.syntax.uid,
        "syntax_name": header.syntax.name,
        "height": header.rows,
        "width": header.columns,
        "decoded": None if array is None else list(array.shape[:2]),  # smaller than height and width under `reduce`
        "frames": header.frames,
        "samples": header.samples,
        "photometric": header.photometric,
        "bits_allocated": header.allocated,
        "bits_stored": header.stored,
        "high_bit": header.high,
        "signed": header.signed,
        **read.facts,
        "warnings": list(read.warnings),
    }
    if image is None:
        return {**told, "window": None, "polarity": "colour", "modality": None, "padding": None}
    lut = read.rule if isinstance(read.rule, Lut) else None
    return {
        **told,
        "modality": {"table": int(lut.entries.size), "first": lut.first, "bits": lut.bits}
        if lut
        else {"slope": read.rule[0], "intercept": read.rule[1]},
        "window": window_table(image, policy.window)[1],
        "windows_offered": [list(pair) for pair in image.candidates.windows],
        "tables_offered": len(image.candidates.luts),
        "function": image.candidates.function,
        "polarity": "inverted: the smallest value is white"
        if image.invert
        else "as stored: the smallest value is black",
        "padding": None if read.padding is None else list(read.padding),
    }
