"""Tables of samples as columns of text, and the checks on their rows; `Manifest` is what they become."""

from __future__ import annotations

import csv
import re
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dali_pipes.errors import ManifestError

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_INTEGER = re.compile(r"([+-]?[0-9]{1,18})(?:\.0*)?")
_NUMBER = re.compile(r"[+-]?[0-9]{1,18}(?:\.[0-9]*)?")

MOST_LINES = 1000
"""How many bad rows a message names one by one."""

COLUMNS = ("path", "label", "id", "frame", "split", "group")
"""The columns that are read; `path` is the only one that must be there."""


@dataclass(frozen=True)
class Table:
    """Rows as read, not yet checked.

    Attributes:
        source: names the table in messages.
        columns: text of each known column that the table has; equally long.
        lines: where each row stands in the source, as messages number it.
        problems: row to reason, for rows that were already unreadable.
    """

    source: str
    columns: dict[str, list[str]]
    lines: Sequence[int]
    problems: dict[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.columns["path"])


def read_csv(path: Path) -> Table:
    """The known columns of a CSV with a header row; blank lines are passed over."""
    reader = csv.reader(())
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = [name.strip() for name in next(reader, [])]
            _require_path(path, header)
            wanted = [(name, header.index(name)) for name in COLUMNS if name in header]
            table = Table(str(path), {name: [] for name, _ in wanted}, array("q"))
            targets = [(table.columns[name].append, position) for name, position in wanted]
            add_line, width = table.lines.append, len(header)  # type: ignore[attr-defined]
            for row in reader:
                if not row:
                    continue
                if len(row) != width:
                    table.problems[len(table)] = f"it has {len(row)} fields, the header has {width}"
                    row = [""] * width
                add_line(reader.line_num)
                for append, position in targets:
                    append(row[position])
    except OSError as error:
        raise ManifestError(f"{path}: cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise ManifestError(f"{path}: not a UTF-8 CSV, after line {reader.line_num}: {error}") from error
    return table


def read_parquet(path: Path) -> Table:
    """As `read_csv`, from Parquet; rows are numbered from 0 and nulls count as empty."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ManifestError(f"{path}: reading Parquet needs pyarrow; pip install 'dali-pipes[features]'.") from error
    try:
        names = pq.read_schema(path).names
        _require_path(path, names)
        data = pq.read_table(path, columns=[name for name in COLUMNS if name in names])
        texts = {name: ["" if v is None else str(v) for v in data[name].to_pylist()] for name in data.column_names}
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise ManifestError(f"{path}: not readable as Parquet: {error}") from error
    return Table(str(path), texts, range(data.num_rows))


def _require_path(path: Path, header: Sequence[str]) -> None:
    if "path" not in header:
        raise ManifestError(f"{path}: no column named 'path'; found {list(header)}, understood are {list(COLUMNS)}.")


def check(
    table: Table, classes: Sequence[str] | None = None
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64], tuple[str, ...]]:
    """The frames int32[N], labels int64[N] and class names of a table whose every row is good.

    Raises:
        ManifestError: naming all bad rows at once.
    """
    problems = dict(table.problems)
    for row, path in enumerate(table.columns["path"]):
        if reason := _path_problem(path):
            problems.setdefault(row, reason)
    frames = np.zeros(len(table), np.int32)
    for row, text in enumerate(table.columns.get("frame", ())):
        if text.isascii() and text.isdigit() and len(text) < 10:
            frames[row] = int(text)
        elif text:
            problems.setdefault(row, f"frame is {text!r}; give a number from 0, or leave it empty")
    first: dict[str, int] = {}
    for row, name in enumerate(table.columns.get("id", ())):
        if not name:
            problems.setdefault(row, "id is empty")
        elif first.setdefault(name, row) != row:
            problems.setdefault(row, f"its id stands at line {table.lines[first[name]]} too; ids must be unique")
    labels, names = _number(table.columns.get("label"), len(table), classes, problems)
    if problems:
        report = [f"  line {table.lines[row]}: {reason}" for row, reason in sorted(problems.items())]
        if len(report) > MOST_LINES:
            report[MOST_LINES:] = [f"  and {len(report) - MOST_LINES} more (all are in the error's `problems`)"]
        text = "\n".join([f"{table.source}: {len(problems)} of {len(table)} rows cannot be used:", *report])
        raise ManifestError(text, {table.lines[row]: reason for row, reason in sorted(problems.items())})
    return frames, labels, names


def _path_problem(path: str) -> str | None:
    if not path:
        return "path is empty"
    if path.startswith("/") or "://" in path or "\\" in path or path[1:2] == ":":
        return "path must be relative to the root, with forward slashes; set root= to the folder that holds the files"
    if ".." in path and ".." in path.split("/"):
        return "path may not leave the root ('..')"
    if _CONTROL.search(path):
        return "path holds control characters"
    return None


def _number(
    labels: Sequence[str] | None, count: int, classes: Sequence[str] | None, problems: dict[int, str]
) -> tuple[npt.NDArray[np.int64], tuple[str, ...]]:
    """Whole numbers stay (2 and 2.0 alike); anything else is a class name, numbered as in `classes`, or sorted.

    Adds to `problems` the rows whose label is neither.
    """
    if labels is None:
        return np.full(count, -1, np.int64), ()
    problems.update({row: "label is empty" for row, text in enumerate(labels) if not text and row not in problems})
    given = [text for text in labels if text]
    if classes is None and all(map(_NUMBER.fullmatch, given)):
        whole = [_INTEGER.fullmatch(text) for text in labels]
        for row, (text, match) in enumerate(zip(labels, whole)):
            if text and not match:
                problems.setdefault(row, f"label {text} is not a whole number; classes are whole numbers or names")
        return np.array([int(match[1]) if match else 0 for match in whole], np.int64), ()
    names = tuple(sorted(set(given))) if classes is None else tuple(classes)
    number = {name: i for i, name in enumerate(names)}
    for row, text in enumerate(labels):
        if text and text not in number:
            problems.setdefault(row, f"label {text!r} is none of the classes {list(names)}")
    return np.fromiter((number.get(text, 0) for text in labels), np.int64, count), names
