"""From a column's text to class numbers and to targets, with a reason for each row that can be neither."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from dali_pipes.errors import ConfigError, DaliPipesWarning
from dali_pipes.manifest.columns import TextColumn

MissingLabel = Literal["error", -1]

MISSING = frozenset({"", "nan", "na", "n/a", "<na>", "null"})
"""What stands for a missing value, in any case of letters."""

_WHOLE = re.compile(r"([+-]?[0-9]{1,18})(?:\.0*)?")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")


def is_missing(text: str) -> bool:
    """Return whether a text stands for a missing value."""
    return text.strip().lower() in MISSING


def number_labels(
    column: TextColumn, classes: Sequence[str] | None, missing_label: MissingLabel, problems: dict[int, str]
) -> tuple[npt.NDArray[np.int64], tuple[str, ...]]:
    """Return the class numbers int64[N] of a column of labels, and the names of the classes where they have names.

    Labels that are all whole numbers stay as they are (2 and 2.0 alike). Labels that are all names are numbered in
    sorted order. Given `classes`, a label is the number of its name there; where no class is called by a number, whole
    numbers are taken as numbers of classes.

    Args:
        column: the labels as text; spaces around them do not count.
        classes: the names of all classes, in the order of their numbers.
        missing_label: "error", or -1: what becomes of the labels of `MISSING` that no class is called by.
        problems: row to reason; what cannot be a label is added.

    Raises:
        ConfigError: `classes` names a class twice, or `missing_label` is neither.
    """
    if missing_label not in ("error", -1):
        raise ConfigError(f"missing_label={missing_label!r}: give 'error', or -1 to keep rows without a label.")
    found, codes = column.codes()
    texts = [text.strip() for text in found]
    names = None if classes is None else _names(classes)
    known = frozenset(names or ())
    given = [text for text in texts if text in known or text.lower() not in MISSING]
    if names is None:
        values, reasons, names = _without_names(given, np.bincount(codes, minlength=len(texts)), texts)
    else:
        values, reasons = _by_names(given, names)
    labels = set(given)
    for text in texts:
        if text not in labels:
            values[text] = -1
            if missing_label == "error":
                what = f"label {text!r} means that it is missing" if text else "label is empty"
                reasons[text] = f"{what}; correct it, or keep such rows by missing_label=-1"
    _note(texts, codes, reasons, problems)
    numbers = np.array([values.get(text, -1) for text in texts], np.int64)
    return numbers[codes] if len(texts) else np.empty(0, np.int64), names


def _names(classes: Sequence[str]) -> tuple[str, ...]:
    if isinstance(classes, str):
        raise ConfigError(f"classes={classes!r}: give a list of names.")
    names = tuple(str(name) for name in classes)
    if len(set(names)) < len(names):
        raise ConfigError(f"classes={list(names)}: a name stands there twice; each class has one number.")
    return names


def _without_names(
    given: list[str], counts: npt.NDArray[np.int64], texts: list[str]
) -> tuple[dict[str, int], dict[str, str], tuple[str, ...]]:
    """Numbers of the labels, reasons of those that have none, and the names of classes; no classes were given."""
    numbers = [text for text in given if _NUMBER.fullmatch(text)]
    if numbers and len(set(numbers)) < len(set(given)):
        rows = dict.fromkeys(texts, 0)
        for text, count in zip(texts, counts.tolist()):
            rows[text] += count
        others = [text for text in given if not _NUMBER.fullmatch(text)]
        few = others if sum(rows[t] for t in others) <= sum(rows[t] for t in numbers) else numbers
        kind, other = ("a name", "numbers") if few is others else ("a number", "names")
        fix = "correct it, or give classes=, the names of all classes in the order of their numbers"
        return {}, {text: f"label {text!r} is {kind} among {other}; {fix}" for text in few}, ()
    if not numbers:
        names = tuple(sorted(set(given)))
        warn_of_alike(names)
        return {name: i for i, name in enumerate(names)}, {}, names
    values, reasons = {}, {}
    for text in numbers:
        if whole := _WHOLE.fullmatch(text):
            values[text] = int(whole[1])
        else:
            reasons[text] = (
                f"label {text} is not a whole number below 10^18; classes are whole numbers or names, and what is to "
                "be predicted as a number goes into targets=[its column]"
            )
    return values, reasons, ()


def _by_names(given: list[str], names: tuple[str, ...]) -> tuple[dict[str, int], dict[str, str]]:
    number = {name: i for i, name in enumerate(names)}
    whole = {text: match[1] for text in given if (match := _WHOLE.fullmatch(text))}
    if len(whole) == len(set(given)) and not any(map(_NUMBER.fullmatch, names)):
        found = {text: int(digits) for text, digits in whole.items()}
        reasons = {
            text: f"label {text} is no number of a class; they are 0..{len(names) - 1}"
            for text, value in found.items()
            if not -1 <= value < len(names)  # -1 says that there is none
        }
        return found, reasons
    values = {text: number.get(text, number.get(whole.get(text, text))) for text in given}
    return (
        {text: value for text, value in values.items() if value is not None},
        {text: f"label {text!r} is none of the classes {list(names)}" for text, v in values.items() if v is None},
    )


def _note(texts: list[str], codes: npt.NDArray[np.int64], reasons: dict[str, str], problems: dict[int, str]) -> None:
    """Add the reasons of texts to `problems`, for every row that has such a text and no problem yet."""
    if not reasons:
        return
    bad = np.array([text in reasons for text in texts])
    for row in np.flatnonzero(bad[codes]).tolist():
        problems.setdefault(row, reasons[texts[codes[row]]])


def warn_of_alike(names: tuple[str, ...]) -> None:
    """Warn of classes whose names differ in the case of letters only: they are more often one class than two."""
    first: dict[str, str] = {}
    for name in names:
        other = first.setdefault(name.casefold(), name)
        if other != name:
            warnings.warn(
                f"the classes {other!r} and {name!r} differ in the case of letters only, and count as two; correct the "
                "labels where they are one, or give classes=",
                DaliPipesWarning,
                stacklevel=2,
            )


def target_values(name: str, column: TextColumn, problems: dict[int, str]) -> npt.NDArray[np.float32]:
    """Return a column of numbers as float32[N]; NaN where a value is missing (`MISSING`), 1 and 0 for true and false.

    Args:
        name: the column's, for reasons.
        column: the numbers as text, with a decimal point.
        problems: row to reason; what is no finite number is added.
    """
    values = np.empty(len(column), np.float32)
    for row, raw in enumerate(column.encoded()):
        try:
            value = math.nan if b"_" in raw else float(raw)
            finite = abs(value) <= _LARGEST
        except ValueError:
            finite = False
        values[row] = value if finite else _unusual(name, raw.decode("utf-8", "replace"), row, problems)
    return values


_LARGEST = float(np.finfo(np.float32).max)


def _unusual(name: str, text: str, row: int, problems: dict[int, str]) -> float:
    """Return the value of a text that is no plain finite number: NaN if it is missing, or is a problem."""
    plain = text.strip().lower()
    if plain in ("true", "false"):
        return float(plain == "true")
    if plain not in MISSING:
        problems.setdefault(row, f"target {name!r} is {text!r}; give a finite number with a decimal point, or nothing")
    return math.nan
