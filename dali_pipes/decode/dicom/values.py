"""Attributes as plain values: conversions that fail by name, and without quoting what the file says."""

from __future__ import annotations

import math
import struct

from dali_pipes.decode.dicom.elements import Elements, Value
from dali_pipes.errors import DecodeError

_NUMBERS = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "FL": "f", "FD": "d", "UV": "Q", "SV": "q"}
_MOST_BYTES = 1 << 16  # of numbers or of text


def whole(elements: Elements, name: str, default: int | None = None) -> int:
    """Return an attribute's first value as int.

    Raises DecodeError where it is not a whole number, or absent without default.
    """
    found = number(elements, name, None if default is None else float(default))
    if found != int(found):
        raise DecodeError(f"the DICOM attribute {name} is not a whole number")
    return int(found)


def number(elements: Elements, name: str, default: float | None = None) -> float:
    """Return an attribute's first value as finite float.

    Raises DecodeError where it is not one, or absent without default.
    """
    values = numbers(elements, name)
    if not values:
        if default is None:
            raise DecodeError(f"the DICOM file has no {name}")
        return default
    return values[0]


def numbers(elements: Elements, name: str) -> tuple[float, ...]:
    """Return all values of an attribute as finite floats; () where it is absent or empty.

    Empty values at the end, behind a backslash, count as absent. Raises DecodeError where another one is not a number.
    """
    value = elements.value(name)
    if value is None:
        return ()
    if len(value.raw) > _MOST_BYTES:
        raise DecodeError(f"the DICOM attribute {name} has {len(value.raw)} bytes; at most {_MOST_BYTES} are read")
    out = _unpacked(value, name) if value.vr in _NUMBERS else _spelt(value, name)
    if not all(math.isfinite(v) for v in out):
        raise DecodeError(f"the DICOM attribute {name} does not hold finite numbers")
    return out


def _unpacked(value: Value, name: str) -> tuple[float, ...]:
    form = struct.Struct(("<" if value.coding.little else ">") + _NUMBERS[value.vr])
    if len(value.raw) % form.size:
        raise DecodeError(f"the DICOM attribute {name} does not hold numbers: it has {len(value.raw)} bytes")
    return tuple(float(each[0]) for each in form.iter_unpack(value.raw))


def _spelt(value: Value, name: str) -> tuple[float, ...]:
    parts = [part.strip(" \0") for part in value.raw.decode("ascii", "replace").split("\\")]
    while parts and not parts[-1]:
        parts.pop()
    try:
        return tuple(float(part) for part in parts)
    except ValueError:
        raise DecodeError(f"the DICOM attribute {name} does not hold numbers") from None


def text(elements: Elements, name: str) -> str:
    """Return an attribute as upper-case text without padding; "" where it is absent."""
    value = elements.value(name)
    return "" if value is None else value.raw[:_MOST_BYTES].decode("ascii", "replace").strip(" \0").upper()


def content(elements: Elements, name: str) -> bytes | None:
    """Return an attribute's bytes as the file holds them; None where it is absent."""
    value = elements.value(name)
    return None if value is None else value.raw


def is_little(elements: Elements, name: str) -> bool:
    """Return whether the words of an attribute begin with their low byte."""
    value = elements.value(name)
    return value is None or value.coding.little
