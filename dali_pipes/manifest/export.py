"""A manifest as a CSV or Parquet file that reads back as the same manifest."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dali_pipes.errors import ManifestError
from dali_pipes.manifest.tables import CLASSES

if TYPE_CHECKING:
    from dali_pipes.manifest.manifest import Manifest


def write_csv(manifest: Manifest, path: str | os.PathLike[str]) -> None:
    """Write a CSV; see `Manifest.to_csv`."""
    columns = {**_columns(manifest), "label": _labels(manifest)}
    for name, values in manifest.targets.items():
        columns[name] = ["" if value != value else repr(value) for value in map(float, values)]
    try:
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(columns)
            writer.writerows(zip(*columns.values()))
    except UnicodeEncodeError as error:
        raise _not_utf8(path) from error


def write_parquet(manifest: Manifest, path: str | os.PathLike[str]) -> None:
    """Write a Parquet file; see `Manifest.to_parquet`."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ManifestError(
            f"{os.fspath(path)}: writing Parquet needs pyarrow; pip install 'dali-pipes[features]'."
        ) from error
    columns: dict[str, Any] = {**_columns(manifest), "label": manifest.labels, "frame": manifest.frames}
    try:
        data = {
            name: pa.array(values if isinstance(values, np.ndarray) else list(values))
            for name, values in columns.items()
        }
    except (UnicodeEncodeError, pa.ArrowException) as error:
        raise _not_utf8(path) from error
    data |= {name: pa.array(values) for name, values in manifest.targets.items()}
    metadata = {CLASSES: json.dumps(manifest.classes)} if manifest.classes else None
    pq.write_table(pa.table(data).replace_schema_metadata(metadata), Path(path))


def _columns(manifest: Manifest) -> dict[str, Iterable[str]]:
    """Return the text columns; a column of empty texts alone is left out."""
    columns: dict[str, Iterable[str]] = {"path": manifest.paths, "label": (), "id": manifest.ids}
    columns["frame"] = map(str, manifest.frames.tolist())
    columns |= {
        name: column for name, column in (("split", manifest.splits), ("group", manifest.groups)) if len(column.bytes())
    }
    return {**columns, **{name: column for name, column in manifest.columns.items() if name not in manifest.targets}}


def _labels(manifest: Manifest) -> list[str]:
    """Names where they read back to the same numbers without `classes=`, else numbers; nothing where there is none."""
    numbers, names = manifest.labels.tolist(), manifest.classes
    if names and set(numbers) - {-1} == set(range(len(names))) and list(names) == sorted(names):
        return ["" if number < 0 else names[number] for number in numbers]
    return ["" if names and number == -1 else str(number) for number in numbers]


def _not_utf8(path: str | os.PathLike[str]) -> ManifestError:
    return ManifestError(f"{os.fspath(path)}: some paths are not UTF-8, which a table cannot hold; rename these files.")
