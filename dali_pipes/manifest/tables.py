"""Readers of tables: CSV, Parquet, records, pandas; each gives a `rows.Table`."""

from __future__ import annotations

import codecs
import csv
import io
import json
import os
from array import array
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from dali_pipes.errors import ConfigError, ManifestError
from dali_pipes.files.urls import Root, title
from dali_pipes.manifest.columns import TextColumn, joined
from dali_pipes.manifest.rows import Layout, Reading, Table, lay_out

SEPARATORS = (",", ";", "\t", "|")
"""What may stand between the fields of a CSV, in the order in which a header is tried."""

CLASSES = b"dali_pipes.classes"
"""Key of the names of classes in a Parquet file's schema."""

AT_ONCE = 1 << 16
"""Rows of a CSV that are texts of Python's at a time; packed they take a tenth of the memory."""

_BOMS = ((codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


def read_csv(path: Root, reading: Reading, sep: str | None = None, encoding: str | None = None) -> Table:
    """Return the columns of a CSV with a header row; lines without any value are passed over.

    Args:
        path: the file.
        reading: which columns are read.
        sep: what stands between fields; by default the first of `SEPARATORS` that the header makes sense with.
        encoding: UTF-8 by default, with or without a byte order mark; UTF-16 where its mark says so.

    Raises:
        ManifestError: it cannot be read, is no CSV, or lacks a column.
        ConfigError: an encoding that is not known, or a separator of other than one character.
    """
    if sep is not None and len(sep) != 1:
        raise ConfigError(f"sep={sep!r}: give one character.")
    reader: Any = csv.reader(())
    try:
        with _opened(path) as data, io.TextIOWrapper(data, encoding or _encoding(data), newline="") as file:
            start, named = _named_separator(file)
            sep = sep or named or _separator(file, start, reading)
            file.seek(0)
            reader = csv.reader(file, delimiter=sep, strict=True)
            for _ in range(start):
                next(reader)
            return _table(title(path), reader, reading)
    except OSError as error:
        raise ManifestError(f"{title(path)}: cannot be read: {error.strerror or error}") from error
    except LookupError as error:
        raise ConfigError(f"encoding={encoding!r}: {error}; give one that Python knows, such as 'cp1252'.") from error
    except (UnicodeError, csv.Error) as error:
        called = (encoding or "UTF-8").upper().replace("UTF-8-SIG", "UTF-8")
        hint = ""
        if isinstance(error, UnicodeError):
            hint = ". Give encoding=, such as 'cp1252' for files of Windows in Western Europe"
        raise ManifestError(
            f"{title(path)}: not a {called} CSV, after line {reader.line_num}: {error}{hint}"
        ) from error


def _opened(path: Root) -> BinaryIO:
    """Return a file, or what lies behind a URL, read whole."""
    if isinstance(path, Path):
        return open(path, "rb")
    from dali_pipes.files.remote import RemoteFiles

    folder, _, name = path.rpartition("/")
    files = RemoteFiles(folder)
    return io.BytesIO(files.read(name, files.stat(name).size))


def _encoding(file: BinaryIO) -> str:
    head = file.read(2)
    file.seek(0)
    return next((name for mark, name in _BOMS if head == mark), "utf-8-sig")


def _named_separator(file: Any) -> tuple[int, str | None]:
    """How many lines come before the header, and the separator that they name: Excel writes `sep=;`."""
    first = file.readline().rstrip("\r\n")
    return (1, first[4]) if len(first) == 5 and first.lower().startswith("sep=") else (0, None)


def _separator(file: Any, start: int, reading: Reading) -> str:
    wanted = reading.path_column.lower()
    for sep in SEPARATORS:
        file.seek(0)
        reader = csv.reader(file, delimiter=sep)
        if wanted in [name.strip().lower() for name in next(reader, [])]:
            return sep
    return SEPARATORS[0]


def _table(source: str, reader: Any, reading: Reading) -> Table:
    header: list[str] = next(reader, [])
    layout, width = lay_out(source, header, reading), len(header)
    places = layout.positions()
    path = layout.known["path"]
    texts: dict[int, list[str]] = {place: [] for place in places}
    pieces: dict[int, list[TextColumn]] = {place: [] for place in places}
    adders = [(texts[place].append, place) for place in places]
    lines, problems = array("q"), {}

    def pack() -> None:
        for place, values in texts.items():
            pieces[place].append(TextColumn(values if place == path else map(str.strip, values)))
            values.clear()

    for row in reader:
        if len(row) != width:
            if not any(map(str.strip, row)):
                continue
            if len(row) < width or any(map(str.strip, row[width:])):
                problems[len(lines)] = f"it has {len(row)} fields, the header has {width}"
                row = [""] * width
        elif not any(map(str.strip, row)):
            continue
        lines.append(reader.line_num)
        for append, place in adders:
            append(row[place])
        if not len(lines) % AT_ONCE:
            pack()
    pack()
    columns = {place: joined(pieces.pop(place)) for place in places}
    return _arranged(source, columns, layout, lines, problems)


def _arranged(
    source: str,
    columns: Mapping[int, TextColumn],
    layout: Layout,
    lines: Sequence[int],
    problems: dict[int, str] | None = None,
    classes: tuple[str, ...] | None = None,
) -> Table:
    known, targets, further = (
        {name: columns[place] for name, place in part.items()}
        for part in (layout.known, layout.targets, layout.further)
    )
    return Table(source, known, lines, targets, further, problems or {}, classes)


def read_parquet(path: Root, reading: Reading) -> Table:
    """Return the columns of a Parquet file; rows are numbered from 0, nulls count as missing, nests are left out.

    Raises:
        ManifestError: it cannot be read, lacks a column, or pyarrow is not installed.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ManifestError(
            f"{title(path)}: reading Parquet needs pyarrow; pip install 'dali-pipes[features]'."
        ) from error
    try:
        file = path if isinstance(path, Path) else _opened(path)
        schema = pq.read_schema(file)
        layout = lay_out(title(path), schema.names, reading)
        places = {place: schema.names[place] for place in layout.positions()}
        # One by one: all columns of ten million rows take gigabytes before they are packed.
        columns = {
            place: of_arrow(pq.read_table(file, columns=[name])[name], strip=place not in _as_they_stand(layout))
            for place, name in places.items()
        }
        count = pq.read_metadata(file).num_rows
        for place, column in columns.items():
            if column is not None and len(column) != count:
                raise pa.ArrowInvalid(f"column {places[place]!r} holds {len(column)} of {count} rows")
        pa.default_memory_pool().release_unused()
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise ManifestError(f"{title(path)}: not readable as Parquet: {error}") from error
    names = (schema.metadata or {}).get(CLASSES)
    flat = Layout(
        layout.known, layout.targets, {name: i for name, i in layout.further.items() if columns[i] is not None}
    )
    usable = {place: column for place, column in columns.items() if column is not None}
    if missing := {*flat.known.values(), *flat.targets.values()} - usable.keys():
        raise ManifestError(f"{title(path)}: column {schema.names[min(missing)]!r} holds neither text nor numbers.")
    return _arranged(title(path), usable, flat, range(count), None, tuple(json.loads(names)) if names else None)


def of_arrow(column: Any, strip: bool = False) -> TextColumn | None:
    """Return an Arrow column as text, without an object a value, or spaces around it; None for nests and bytes."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return None
    if pa.types.is_boolean(kind):
        column = column.cast(pa.int8())
    if pa.types.is_null(kind):
        return TextColumn.blank(len(column))
    text = pc.fill_null(column.cast(pa.large_string()), "")
    if strip and (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        text = pc.utf8_trim_whitespace(text)
    text = text.combine_chunks()
    if isinstance(text, pa.ChunkedArray):  # of no chunks at all
        return TextColumn.blank(0)
    _, offsets, block = text.buffers()
    bounds = np.frombuffer(offsets, np.int64)[text.offset : text.offset + len(text) + 1]
    data = b"" if block is None else block.to_pybytes()[bounds[0] : bounds[-1]]
    return TextColumn.of(data, bounds - bounds[0])


def of_records(source: str, records: Iterable[Mapping[str, Any]], reading: Reading) -> Table:
    """Return the columns of mappings, one a row; keys that a row lacks count as missing there."""
    rows = list(records)
    header = list(dict.fromkeys(str(name) for row in rows for name in row))
    if not rows:
        raise ManifestError(f"{source}: none given; give at least one row with {reading.path_column!r}.")
    return of_columns(source, {name: [row.get(name) for row in rows] for name in header}, reading, len(rows))


def of_columns(source: str, columns: Mapping[str, Sequence[Any]], reading: Reading, count: int) -> Table:
    """Return a table of columns of any plain values, `count` each; columns of other values are left out."""
    header = list(columns)
    layout = lay_out(source, header, reading)
    texts = {place: [as_text(value) for value in columns[header[place]]] for place in layout.positions()}
    for place in texts.keys() - _as_they_stand(layout):
        texts[place] = [text and text.strip() for text in texts[place]]
    flat = {name: place for name, place in layout.further.items() if None not in texts[place]}
    needed = {**layout.known, **layout.targets}
    for name, place in needed.items():
        if None in texts[place]:
            raise ManifestError(f"{source}: row {texts[place].index(None)}: {name!r} holds neither text nor a number.")
    made = {place: TextColumn(texts[place]) for place in {*needed.values(), *flat.values()}}  # type: ignore[arg-type]
    return _arranged(source, made, Layout(layout.known, layout.targets, flat), range(count))


def _as_they_stand(layout: Layout) -> set[int]:
    """Return the columns in which spaces around a value count: paths, and ids, which are made of them."""
    return {place for name, place in layout.known.items() if name in ("path", "id")}


def as_text(value: Any) -> str | None:
    """Return a plain value as a CSV would hold it, "" for a missing one, None for what is no plain value."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return ""
    if isinstance(value, (bool, np.bool_)):
        return str(int(value))
    if isinstance(value, (float, np.floating)):
        if float(value).is_integer():
            return str(int(value))  # how tables hold whole numbers where some are missing
        return "" if value != value else repr(float(value))
    if isinstance(value, os.PathLike):
        return os.fspath(value) if isinstance(os.fspath(value), str) else os.fsdecode(value)
    return (
        None
        if isinstance(value, (bytes, bytearray, Mapping, Sequence, np.ndarray)) and not isinstance(value, str)
        else str(value)
    )
