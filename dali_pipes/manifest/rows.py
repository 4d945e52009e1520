"""Tables of samples as columns of text, and the checks on their rows; `Manifest` is what they become."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from dali_pipes.errors import ManifestError
from dali_pipes.files.urls import Root, shown
from dali_pipes.manifest.columns import TextColumn
from dali_pipes.manifest.given import check_name, checked_names
from dali_pipes.manifest.labels import MissingLabel, is_missing, number_labels, target_values

MOST_LINES = 1000
"""How many bad rows a message names one by one."""

KNOWN = ("path", "label", "id", "frame", "split", "group")
"""The columns with a meaning; `path` is the only one that must be there."""

MASK, MASK_FRAME = "mask", "mask_frame"
"""Further columns with a meaning: where a sample's mask lies, a path like `path`, and which frame of its file it is."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_FRAME = re.compile(r"([0-9]{1,9})(?:\.0*)?")


@dataclass(frozen=True)
class Reading:
    """How a table is read.

    Attributes:
        path_column, label_column: what the columns are called; a name that no column has may differ in the case of its
            letters.
        targets: columns of numbers to be predicted.
        columns: the further columns to keep as text; None keeps all.
        classes: names of all classes in the order of their numbers.
        missing_label: "error", or -1.
    """

    path_column: str = "path"
    label_column: str = "label"
    targets: tuple[str, ...] = ()
    columns: tuple[str, ...] | None = None
    classes: tuple[str, ...] | None = None
    missing_label: MissingLabel = "error"

    def __post_init__(self) -> None:
        for name in ("path_column", "label_column"):
            check_name(name, getattr(self, name))
        for name in ("targets", "columns", "classes"):
            given = getattr(self, name)
            if given is not None:
                object.__setattr__(self, name, checked_names(name, given))


@dataclass(frozen=True)
class Layout:
    """Where the columns stand in a header: name to position."""

    known: dict[str, int]
    targets: dict[str, int]
    further: dict[str, int]

    def positions(self) -> list[int]:
        """Return all positions that are read, each once."""
        return sorted({*self.known.values(), *self.targets.values(), *self.further.values()})


def lay_out(source: str, header: Sequence[str], reading: Reading) -> Layout:
    """Return what stands where.

    Raises:
        ManifestError: a column that must be there is not, or is there twice.
    """
    names = [name.strip() for name in header]
    called = {"path": reading.path_column, "label": reading.label_column}
    targets = {name: _position(source, names, name, must=True) for name in reading.targets}
    known: dict[str, int] = {}
    for name in KNOWN:
        place = _position(source, names, called.get(name, name), must=called.get(name, "label") != "label")
        if place >= 0 and not (name == "label" and place in targets.values()):
            known[name] = place
    taken = {*known.values(), *targets.values()}
    further = {name: i for i, name in reversed(list(enumerate(names))) if name and i not in taken}
    if reading.columns is not None:
        further = {names[i]: i for i in (_position(source, names, name, must=True) for name in reading.columns)}
    masks = {_position(source, names, name, must=False): name for name in (MASK, MASK_FRAME)}
    ordered = sorted(further.items(), key=lambda item: item[1])
    return Layout(known, targets, {masks.get(place, name): place for name, place in ordered})


def _position(source: str, names: Sequence[str], wanted: str, must: bool) -> int:
    """Where a column stands, by its name, else by its name in another case; -1 where it need not be there."""
    for given, sought in ((names, wanted), ([name.lower() for name in names], wanted.lower())):
        found = [i for i, name in enumerate(given) if name == sought]
        if len(found) > 1:
            raise ManifestError(f"{source}: {len(found)} columns are named {wanted!r}; rename all but one.")
        if found:
            return found[0]
    if must:
        raise ManifestError(
            f"{source}: no column named {wanted!r}; found {list(names)}. path_column=, label_column= and targets= say "
            f"what columns are called; others with a meaning are {', '.join(KNOWN[2:])}."
        )
    return -1


@dataclass(frozen=True)
class Table:
    """Rows as read, not yet checked.

    Attributes:
        source: names the table in messages.
        known: text of the columns of `KNOWN` that the table has; equally long.
        lines: where each row stands in the source, as messages number it.
        targets, further: text of the other columns that are read.
        problems: row to reason, for rows that were already unreadable.
        classes: names that the source itself gives to class numbers.
        listed: the paths were found in the file system; they need no check.
    """

    source: str
    known: dict[str, TextColumn]
    lines: Sequence[int]
    targets: dict[str, TextColumn] = field(default_factory=dict)
    further: dict[str, TextColumn] = field(default_factory=dict)
    problems: dict[int, str] = field(default_factory=dict)
    classes: tuple[str, ...] | None = None
    listed: bool = False

    def __len__(self) -> int:
        return len(self.known["path"])


@dataclass(frozen=True)
class Checked:
    """A table whose every row is good: what a manifest is made of."""

    paths: TextColumn
    ids: TextColumn
    frames: npt.NDArray[np.int32]
    labels: npt.NDArray[np.int64]
    classes: tuple[str, ...]
    targets: dict[str, npt.NDArray[np.float32]]
    further: dict[str, TextColumn]


def check(table: Table, root: Root, reading: Reading) -> Checked:
    """Return the columns of a table whose every row is good.

    Raises:
        ManifestError: naming all bad rows at once, by their lines.
    """
    problems, count = dict(table.problems), len(table)
    paths = table.known["path"] if table.listed else _paths(table.known["path"], root, problems)
    frames = frame_numbers(table.known.get("frame"), count, problems)
    ids = table.known.get("id")
    if ids is None:
        ids = default_ids(paths, frames)
    else:
        _check_ids(ids, table.lines, problems)
    labels = np.full(count, -1, np.int64)
    classes: tuple[str, ...] = ()
    if "label" in table.known:
        names = reading.classes if reading.classes is not None else table.classes
        labels, classes = number_labels(table.known["label"], names, reading.missing_label, problems)
    targets = {name: target_values(name, column, problems) for name, column in table.targets.items()}
    further = dict(table.further)
    if MASK in further:
        further[MASK] = _paths(further[MASK], root, problems, MASK)
        frame_numbers(further.get(MASK_FRAME), count, problems, MASK_FRAME)
    if problems:
        raise _refusal(table, problems)
    return Checked(paths, ids, frames, labels, classes, targets, further)


def _refusal(table: Table, problems: dict[int, str]) -> ManifestError:
    named = {table.lines[row]: reason for row, reason in sorted(problems.items())}
    report = [f"  line {line}: {reason}" for line, reason in named.items()]
    if len(report) > MOST_LINES:
        report[MOST_LINES:] = [f"  and {len(report) - MOST_LINES} more (all are in the error's `problems`)"]
    text = "\n".join([f"{table.source}: {len(problems)} of {len(table)} rows cannot be used:", *report])
    return ManifestError(text, named)


def default_ids(paths: TextColumn, frames: npt.NDArray[np.int32]) -> TextColumn:
    """Return the ids of samples that have none: the path, and `#frame` behind it where the frame is not 0."""
    if not frames.any():
        return paths
    return TextColumn(f"{path}#{frame}" if frame else path for path, frame in zip(paths, frames.tolist()))


def frame_numbers(
    column: TextColumn | None, count: int, problems: dict[int, str], name: str = "frame"
) -> npt.NDArray[np.int32]:
    """Return the numbers of frames, int32[count], 0 where there is none; add rows that hold no number to `problems`.

    `2.0` is how tables write a whole number beside a missing one.
    """
    if column is None:
        return np.zeros(count, np.int32)
    texts, codes = column.codes()
    values = np.zeros(len(texts), np.int32)
    for number, text in enumerate(texts):
        match = _FRAME.fullmatch(text.strip())
        if match and match[1].isascii():
            values[number] = int(match[1])
        elif not is_missing(text):
            reason = f"{name} is {text!r}; give a number from 0, or leave it empty"
            problems |= {row: problems.get(row, reason) for row in np.flatnonzero(codes == number).tolist()}
    return values[codes] if len(texts) else np.zeros(count, np.int32)


def _check_ids(ids: TextColumn, lines: Sequence[int], problems: dict[int, str]) -> None:
    for row in np.flatnonzero(np.diff(ids.offsets) == 0).tolist():
        problems.setdefault(row, "id is empty")
    for row, first in repeated(ids).items():
        if ids[row]:
            problems.setdefault(row, f"its id stands at line {lines[first]} too; ids must be unique")


def repeated(column: TextColumn) -> dict[int, int]:
    """Return the rows whose value stood in a row before, and the first row that has it."""
    hashes = np.fromiter(map(hash, column.encoded()), np.int64, len(column))
    _, inverse, counts = np.unique(hashes, return_inverse=True, return_counts=True)
    first: dict[str, int] = {}
    found = ((row, first.setdefault(column[row], row)) for row in np.flatnonzero(counts[inverse] > 1).tolist())
    return {row: earlier for row, earlier in found if row != earlier}


def _paths(column: TextColumn, root: Root, problems: dict[int, str], name: str = "path") -> TextColumn:
    """Return the paths, relative to the root; those that are not plainly so already are looked at one by one.

    Only paths of images must be there.
    """
    strange = _odd(column)
    if name != "path":
        strange &= np.diff(column.offsets) > 0
    odd = np.flatnonzero(strange).tolist()
    if not odd:
        return column
    roots = (root,) if isinstance(root, str) else tuple(dict.fromkeys((os.path.abspath(root), os.path.realpath(root))))
    tidy = _tidy_url if isinstance(root, str) else _tidy
    texts = list(column)
    for row in odd:
        texts[row], reason = tidy(texts[row], roots)
        if reason:
            problems.setdefault(row, reason if name == "path" else f"{name}: {reason}")
    return TextColumn(texts)


def _odd(column: TextColumn) -> npt.NDArray[np.bool_]:
    """Which paths hold a byte, or begin or end with one, that a plain relative path does not: bool[N]."""
    data, offsets = column.bytes(), column.offsets
    found: npt.NDArray[np.bool_] = np.diff(offsets) == 0
    if not len(data):
        return found
    bad = (data < 0x20) | (data == 0x7F) | (data == ord("\\")) | (data == ord(":"))
    bad[1:] |= (data[:-1] == ord(".")) & (data[1:] == ord("."))
    bad[:-1] |= (data[:-1] == 0xC2) & (data[1:] < 0xA0)  # U+0080 to U+009F
    found[np.searchsorted(offsets, np.flatnonzero(bad), "right") - 1] = True
    full = np.flatnonzero(~found)
    starts, ends = data[offsets[full]], data[offsets[full + 1] - 1]
    found[full] = (starts == ord("/")) | (starts == ord(".")) | (starts == ord(" ")) | (ends == ord(" "))
    return found


def _tidy_url(text: str, roots: tuple[str, ...]) -> tuple[str, str | None]:
    """As `_tidy`, below a URL, where nothing can be looked at."""
    plain = text.strip().removeprefix(f"{roots[0]}/").lstrip("/")
    if not plain:
        return text, "path is empty"
    if _CONTROL.search(plain) or "://" in plain or ".." in plain.split("/"):
        return text, f"path must lie below the root {shown(roots[0])}, without '..' or control characters"
    return plain, None


def _tidy(text: str, roots: tuple[str, ...]) -> tuple[str, str | None]:
    """Return a path relative to the root, and why it cannot be had.

    A path with backslashes, outer spaces or control characters is taken as it stands if there is such a file, else as a
    path of Windows with spaces around it.
    """
    plain = text.strip().replace("\\", "/")
    if not plain:
        return text, "path is empty"
    if (plain != text or _CONTROL.search(text)) and "\0" not in text and os.path.lexists(os.path.join(roots[0], text)):
        plain = text
    elif _CONTROL.search(plain):
        return text, "path holds control characters, and there is no such file under the root"
    if plain.startswith("/"):
        inner = next((plain[len(base) :].lstrip("/") for base in roots if plain.startswith(base.rstrip("/") + "/")), "")
        if not inner:
            return (
                text,
                f"path is absolute and not under the root {roots[0]}; set root= to a folder that holds all files",
            )
        plain = inner
    while plain.startswith("./"):
        plain = plain[2:].lstrip("/")
    if "://" in plain or re.match("[A-Za-z]:", plain):
        return text, "path must be relative to the root, with forward slashes; set root= to the folder of the files"
    if ".." in plain.split("/"):
        return text, "path may not leave the root ('..')"
    return (plain, None) if plain else (text, "path is empty")
