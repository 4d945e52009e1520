"""Attributes as plain values: conversions that fail by name, and without quoting what the file says."""

from __future__ import annotations

import math
from typing import Any

from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset

from dali_pipes.errors import DecodeError


def whole(dataset: Dataset, name: str, default: int | None = None) -> int:
    """An attribute's first value as int; raises DecodeError where it is not a whole number, or absent without
    default.
    """
    number_ = number(dataset, name, None if default is None else float(default))
    if number_ != int(number_):
        raise DecodeError(f"the DICOM attribute {name} is not a whole number")
    return int(number_)


def number(dataset: Dataset, name: str, default: float | None = None) -> float:
    """An attribute's first value as finite float; raises DecodeError where it is not one, or absent without default."""
    values = numbers(dataset, name)
    if not values:
        if default is None:
            raise DecodeError(f"the DICOM file has no {name}")
        return default
    return values[0]


def numbers(dataset: Dataset, name: str) -> tuple[float, ...]:
    """All values of an attribute as finite floats; () where it is absent or empty. Raises DecodeError where one is not
    a number.
    """
    value: Any = _decimal_strings(dataset, name)
    if value is None:
        value = attribute(dataset, name)
    if value is None or value == "":
        return ()
    many = hasattr(value, "__iter__") and not isinstance(value, (str, bytes))
    several = value if many else [value]
    try:
        out = tuple(float(v) for v in several)
    except (TypeError, ValueError):
        raise DecodeError(f"the DICOM attribute {name} does not hold numbers") from None
    if not all(math.isfinite(v) for v in out):
        raise DecodeError(f"the DICOM attribute {name} does not hold finite numbers")
    return out


def _decimal_strings(dataset: Dataset, name: str) -> list[str] | None:
    """The parts of a value of VR DS or IS that pydicom has not converted yet, or None: its conversion would log what it
    rejects.
    """
    raw: Any = dataset.get_item(name)
    if not isinstance(raw, RawDataElement) or not isinstance(raw.value, bytes):
        return None
    if (raw.VR or dictionary_VR(raw.tag)) not in ("DS", "IS"):
        return None
    text = raw.value.decode("ascii", "replace").strip(" \0")
    return [part.strip() for part in text.split("\\")] if text else []


def attribute(dataset: Dataset, name: str) -> Any:
    """`dataset.get(name)`, where a value that pydicom can't convert is a DecodeError that does not quote it."""
    try:
        return dataset.get(name)
    except Exception as error:
        raise DecodeError(f"the DICOM attribute {name} can't be read: {type(error).__name__}") from None
