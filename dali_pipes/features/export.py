"""Features as a table for other tools: one row a sample, its id, and one column a leaf."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dali_pipes.errors import ConfigError
from dali_pipes.features.identity import keys_of
from dali_pipes.features.kept import Hits, Kept
from dali_pipes.features.layout import leaf_names, to_array

ROWS = 4096
"""Samples that are read and written at a time."""

_AS_FLOAT = (torch.bfloat16, *(each for each in vars(torch).values() if "float8" in str(each)))
"""Types that Arrow lacks, and whose values float32 holds exactly."""


def arrow() -> tuple[Any, Any]:
    """Return pyarrow and pyarrow.parquet. Raises ConfigError where they are not installed."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ConfigError("to_arrow needs pyarrow: pip install 'dali-pipes[features]'.") from error
    return pyarrow, pyarrow.parquet


def write(path: str | os.PathLike[str], groups: Iterable[tuple[Sequence[Any], Hits]]) -> int:
    """Write a table; return its rows.

    Args:
        path: ends with `.parquet`, or `.arrow` or `.feather` for Arrow's own file format.
        groups: ids and features, some at a time; all of one layout and of rows of one shape a leaf.

    Raises:
        ConfigError: another ending, features of several structures or shapes, or a leaf that is no tensor of numbers.
    """
    pa, parquet = arrow()
    target = Path(path)
    if target.suffix not in (".parquet", ".arrow", ".feather"):
        raise ConfigError(f"to_arrow({os.fspath(path)!r}): the name must end with .parquet, .arrow or .feather.")
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    writer, schema, count = None, None, 0
    try:
        for ids, hits in groups:
            table = pa.table(_columns(pa, ids, hits))
            if writer is None:
                schema = table.schema
                made = parquet.ParquetWriter if target.suffix == ".parquet" else pa.ipc.new_file
                writer = made(os.fspath(temporary), schema)
            elif table.schema != schema:
                raise ConfigError(
                    "to_arrow: the samples' features differ in type or shape "
                    f"({_difference(schema, table.schema)}), and a table holds one: write those of one shape."
                )
            writer.write_table(table)
            count += len(table)
        if writer is None:
            raise ConfigError("to_arrow: none of these samples is kept; compute their features first.")
        writer.close()
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    return count


def _columns(pa: Any, ids: Sequence[Any], hits: Hits) -> dict[str, Any]:
    columns = {"id": pa.array(list(ids))}
    for name, column in zip(leaf_names(hits.layout), hits.columns):
        if not isinstance(column, torch.Tensor) or column.is_complex():
            kind = str(column.dtype) if isinstance(column, torch.Tensor) else "no tensor of one shape for all samples"
            raise ConfigError(f"to_arrow: {name} is {kind}, of which a column cannot be made.")
        flat = column.flatten(1) if column.ndim > 1 else column[:, None]
        if not flat.shape[1]:
            raise ConfigError(f"to_arrow: {name} has no values, of which a column cannot be made.")
        values = flat.float() if column.dtype in _AS_FLOAT else flat
        array = np.ascontiguousarray(to_array(values)).reshape(-1)
        while name in columns:
            name = f"output.{name}"
        columns[name] = pa.FixedSizeListArray.from_arrays(pa.array(array), flat.shape[1])
    return columns


def _difference(one: Any, two: Any) -> str:
    names = [name for name in one.names if name not in two.names or one.field(name) != two.field(name)]
    return f"{one.field(names[0])} and {two.field(names[0])}" if names and names[0] in two.names else "other columns"


def groups(store: Kept, module: bytes, names: Sequence[bytes] | None) -> Iterator[tuple[list[Any], Hits]]:
    """Yield ids and features, `ROWS` samples at a time.

    Args:
        store: where they are.
        module: what names the module.
        names: which samples, or None for all.

    Raises:
        ConfigError: a sample that is not kept, or features of several structures.
    """
    known: dict[bytes, dict[bytes, str]] = {}
    for prefix, found, ids in store.catalogue.read(module):
        known.setdefault(prefix, {}).update(zip(found, ids))
    for prefix, of in known.items():
        wanted = list(of) if names is None else [name for name in names if name in of]
        if names is not None and len(wanted) < len(names):
            continue
        if len(known) > 1 and names is None:
            raise ConfigError(
                f"to_arrow: features of {len(known)} kinds are kept (under autocast or not, say, or of inputs of other "
                "types): give ids= of samples that are kept of one kind only."
            )
        whole = all(name[:1] == b"i" for name in of)
        for at in range(0, len(wanted), ROWS):
            yield from _read(store, prefix, of, wanted[at : at + ROWS], names is not None, whole)
        return
    if names is not None:
        raise ConfigError("to_arrow: not all of these samples are kept; compute their features first.")


def _read(
    store: Kept, prefix: bytes, of: dict[bytes, str], names: list[bytes], all_of_them: bool, whole: bool
) -> Iterator[tuple[list[Any], Hits]]:
    found = store.read(prefix, keys_of(names, prefix, store.secret))
    if len({hits.layout.digest for hits in found}) > 1:
        raise ConfigError("to_arrow: the samples' features have several structures, and a table holds one.")
    if all_of_them and sum(len(hits.at) for hits in found) < len(names):
        raise ConfigError("to_arrow: not all of these samples are kept; compute their features first.")
    for hits in found:
        yield [int(of[names[at]]) if whole else of[names[at]] for at in hits.at], hits
