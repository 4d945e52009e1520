"""Refusals of arguments of the wrong kind, each with what is wanted instead."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from dali_pipes.errors import ConfigError


def check_path(method: str, value: Any, what: str) -> None:
    """Refuse what is no path. Raises ConfigError."""
    if not isinstance(value, (str, os.PathLike)):
        raise ConfigError(f"{method}: {_kind(value)} where the path of {what} belongs; {_instead(value)}.")


def check_root(method: str, root: Any) -> None:
    """Refuse a root that is no path. Raises ConfigError."""
    if root is not None:
        check_path(f"{method}(root=)", root, "a folder")


def check_frame(value: Any) -> None:
    """Refuse what is no pandas data frame. Raises ConfigError."""
    if not (hasattr(value, "iloc") and hasattr(value, "columns")):
        more = "call its to_pandas()" if hasattr(value, "to_pandas") else _instead(value)
        raise ConfigError(f"from_pandas: {_kind(value)} where a pandas data frame belongs; {more}.")


def check_dataset(value: Any) -> None:
    """Refuse what is no Hugging Face data set. Raises ConfigError."""
    if not hasattr(value, "features"):
        raise ConfigError(f"from_hf: {_kind(value)} where a Hugging Face data set belongs; {_instead(value)}.")


def checked_records(value: Any) -> list[dict[str, Any]]:
    """Return records as dicts. Raises ConfigError for what is no sequence of mappings."""
    frame = hasattr(value, "columns")  # which gives the names of its columns one by one
    if frame or isinstance(value, (str, bytes, os.PathLike, Mapping)) or not isinstance(value, Iterable):
        raise ConfigError(
            f"from_records: {_kind(value)} where mappings belong, one for each sample; {_instead(value)}."
        )
    rows = list(value)
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise ConfigError(
                f"from_records: record {number} is {_kind(row)}, not a mapping such as {{'path': 'a.png', 'label': 0}}."
            )
    return [dict(row) for row in rows]


def checked_names(name: str, value: Any) -> tuple[str, ...]:
    """Return a list of names as texts. Raises ConfigError for anything else."""
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise ConfigError(f"{name}={value!r}: give a list of names, such as [{value!r}].")
    return tuple(map(str, value))


def check_name(name: str, value: Any) -> None:
    """Refuse what is no column's name. Raises ConfigError."""
    if not isinstance(value, str):
        raise ConfigError(f"{name}={value!r}: give the name of a column, a text.")


def _kind(value: Any) -> str:
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


def _instead(value: Any) -> str:
    """Which method takes a value of this kind, or all methods."""
    if hasattr(value, "iloc") and hasattr(value, "columns"):
        return "from_pandas takes a data frame"
    if isinstance(value, (str, os.PathLike)):
        return "from_csv and from_parquet take a file, from_folder and from_dicom_tree a folder"
    if isinstance(value, (list, tuple)) and all(isinstance(each, Mapping) for each in value):
        return "from_records takes a list of mappings"
    if isinstance(value, Mapping):
        return "from_pandas(pandas.DataFrame(...)) takes a mapping of columns, from_records a list of mappings"
    return "files and folders, data frames, data sets and lists of mappings have a from_ method each"
