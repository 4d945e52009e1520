"""Features in a store: which keys hold what, read and written a batch at a time.

    sample's key ^ mask of the leaf ──> one entry a leaf: a plain array, or the bytes of an item
    prefix, number                  ──> a layout (see `layout`) that some samples of this module have

Layouts are numbered from 0 and found by trying; the keys of leaves depend on the layout, so that two processes which
give one number to two layouts can lose entries (they compute them again) but never mix them up.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from dali_pipes import cache
from dali_pipes.cache import bulk
from dali_pipes.errors import ConfigError
from dali_pipes.features.catalogue import Catalogue
from dali_pipes.features.identity import masked
from dali_pipes.features.layout import Column, Layout, from_array, map_tensors, to_array
from dali_pipes.features.merge import pick
from dali_pipes.features.numbered import Numbered
from dali_pipes.items import item_codec

MOST_LAYOUTS = 64
"""How many structures of output one module may have."""

Parts = Mapping[str, str | int | bytes]


@dataclass(frozen=True)
class Hits:
    """Samples that were found under one layout.

    Attributes:
        layout: theirs.
        at: which of the samples asked for, ascending.
        columns: one a leaf, a tensor [n, ...] or a list of n, in the order of `at`.
    """

    layout: Layout
    at: list[int]
    columns: list[Column]


@dataclass(frozen=True)
class Batch:
    """Features to be kept.

    Attributes:
        prefix: 32 bytes, the module and how it was called.
        keys: 16 bytes a sample.
        layout, columns: what `layout.split` gave, on the CPU.
        parts: what each sample was made of, for the ledger.
        module: what names the module.
        names, ids: of the samples, for keys and for people.
    """

    prefix: bytes
    keys: list[bytes]
    module: bytes
    names: list[bytes]
    ids: list[str]
    layout: Layout
    columns: list[Column]
    parts: list[Parts]


class Kept:
    """The features in one store.

    Args:
        store: where they are.
        secret: keys the names of entries.
        ledger: notes what entries were made of, or None.
    """

    def __init__(self, store: cache.Store, secret: bytes, ledger: cache.PartsLedger | None) -> None:
        self.store = store
        self.secret = secret
        self._ledger = ledger
        self.catalogue = Catalogue(store, secret)
        self._lists = Numbered(store, secret, MOST_LAYOUTS)
        self._layouts: dict[bytes, list[Layout]] = {}
        self._coming: dict[bytes, tuple[Batch, int]] = {}  # what waits to be written: key to batch and row
        self._lock = threading.Lock()

    def announce(self, batch: Batch) -> None:
        """Let a batch be found until it is written."""
        self._coming.update((key, (batch, row)) for row, key in enumerate(batch.keys))

    def read(self, prefix: bytes, keys: list[bytes]) -> list[Hits]:
        """Return the samples that are there, those of a layout together; what is in none of them is missing."""
        found, wanted = self._announced(keys)
        number = 0
        while wanted:
            layout = self._layout(prefix, number)
            if layout is None:
                break
            hits = self._read(layout, [keys[at] for at in wanted])
            if hits.at:
                found.append(Hits(layout, [wanted[at] for at in hits.at], hits.columns))
                there = set(found[-1].at)
                wanted = [at for at in wanted if at not in there]
            number += 1
        return found

    def write(self, batch: Batch) -> None:
        """Keep the features of a batch.

        Raises:
            ConfigError: the module has more structures of output than `MOST_LAYOUTS`.
            cache.CacheError: the store did not take all of it.
        """
        try:
            self._write(batch)
        finally:
            for key in batch.keys:
                if self._coming.get(key, (None,))[0] is batch:
                    del self._coming[key]

    def _announced(self, keys: list[bytes]) -> tuple[list[Hits], list[int]]:
        """Return what waits to be written, and which keys are not among it."""
        if not self._coming:
            return [], list(range(len(keys)))
        waiting = [self._coming.get(key) for key in keys]
        rows: dict[int, tuple[Batch, list[int], list[int]]] = {}
        for at, found in enumerate(waiting):
            if found is not None:
                _, ats, in_batch = rows.setdefault(id(found[0]), (found[0], [], []))
                ats.append(at)
                in_batch.append(found[1])
        hits = [
            Hits(batch.layout, at, [some(column, in_batch) for column in batch.columns])
            for batch, at, in_batch in rows.values()
        ]
        return hits, [at for at, found in enumerate(waiting) if found is None]

    def _write(self, batch: Batch) -> None:
        before = self.store.errors
        self._know(batch.prefix, batch.layout)
        for column, mask in zip(batch.columns, batch.layout.masks()):
            keys = masked(batch.keys, mask)
            if isinstance(column, torch.Tensor):
                bulk.put_rows(self.store, keys, to_array(column))
            else:
                for key, item in zip(keys, column):
                    self.store.put(cache.Key(key), item_codec.pack(item))
            if self._ledger is not None:
                self._ledger.note_all(list(zip(map(cache.Key, keys), batch.parts)))
        self.catalogue.add(batch.module, batch.prefix, batch.names, batch.ids)
        failed = self.store.errors - before
        if failed > 0:
            raise cache.StoreIOError(
                f"the cache in {self.store.directory or 'memory'} could not keep the features of {len(batch.keys)} "
                f"samples ({failed} failures; the log has the first): they will be computed again"
            )

    def explain(self, parts: Parts) -> dict[str, Any]:
        """Return how what a sample is made of compares with what the ledger knows; empty without one."""
        if self._ledger is None:
            return {}
        found = self._ledger.explain(parts)
        return {name: value for name, value in found.items() if name != "nearest"}

    def delete(self, prefix: bytes, keys: list[bytes]) -> None:
        """Remove the features of samples under all layouts."""
        for layout in list(self._layouts.get(prefix, ())):
            for mask in layout.masks():
                for key in masked(keys, mask) if keys else ():
                    self.store.delete(cache.Key(key))

    def layouts(self, prefix: bytes) -> list[Layout]:
        """Return all layouts of a module."""
        number = 0
        while self._layout(prefix, number) is not None:
            number += 1
        return list(self._layouts.get(prefix, ()))

    def _layout(self, prefix: bytes, number: int) -> Layout | None:
        known = self._layouts.setdefault(prefix, [])
        if number < len(known):
            return known[number]
        packed = self._lists.get(b"layouts" + prefix, number)
        if packed is None:
            return None
        try:
            layout = Layout.unpack(packed)
        except ValueError:
            return None
        with self._lock:
            if number == len(known):
                known.append(layout)
        return layout

    def _know(self, prefix: bytes, layout: Layout) -> None:
        """Make sure that the store lists a layout: it may have been evicted, or have lost its number to another."""
        try:
            number = self._lists.ensure(b"layouts" + prefix, layout.pack())
        except ConfigError as error:
            raise ConfigError(
                f"the module's outputs have more than {MOST_LAYOUTS} structures: a plain value beside the tensors "
                "differs from batch to batch, perhaps. Return it as a list of one value a sample, or leave it out."
            ) from error
        with self._lock:
            known = self._layouts.setdefault(prefix, [])
            del known[number:]  # what lies there now is read again
            known += [layout] if number == len(known) else []

    def _read(self, layout: Layout, keys: list[bytes]) -> Hits:
        at = list(range(len(keys)))
        columns: list[Column] = []
        for leaf, mask in zip(layout.leaves, layout.masks()):
            there, column = self._column(leaf, masked([keys[row] for row in at], mask))
            if not there:
                return Hits(layout, [], [])
            if len(there) < len(at):
                columns = [some(each, there) for each in columns]
                at = [at[row] for row in there]
            columns.append(column)
        return Hits(layout, at, columns)

    def _column(self, leaf: tuple[Any, ...], keys: list[bytes]) -> tuple[list[int], Column]:
        """Which keys are there, ascending, and what they hold."""
        groups = bulk.get_rows(self.store, keys)
        if leaf[0] == "rows":
            tensors = [(group.at.tolist(), from_array(group.array, leaf)) for group in groups if _fits(group, leaf)]
            if len(tensors) == 1:
                return tensors[0]
            pairs = sorted(((at, row) for rows, tensor in tensors for at, row in zip(rows, tensor)), key=_first)
            return [at for at, _ in pairs], [row.clone() for _, row in pairs]
        items = []
        for group in groups:
            for at, packed in zip(group.at.tolist(), group.array):
                try:
                    items.append((at, item_codec.unpack(packed)))
                except ValueError:  # sound bytes of something else: computed again, and replaced
                    continue
        items.sort(key=_first)
        return [at for at, _ in items], [item for _, item in items]


def _fits(rows: bulk.Rows, leaf: tuple[Any, ...]) -> bool:
    try:
        from_array(rows.array[:0], leaf)
    except (ValueError, TypeError):
        return False
    return True


def _first(pair: tuple[int, Any]) -> int:
    return pair[0]


def some(column: Column, rows: list[int]) -> Column:
    """Return some rows of a column."""
    return pick(column, rows) if isinstance(column, torch.Tensor) else [column[row] for row in rows]


def on_cpu(column: Column) -> Column:
    """Return a copy of a column that the caller's code will never touch, in main memory."""
    if isinstance(column, torch.Tensor):
        own = column.detach().resolve_conj().resolve_neg()
        own = own.cpu() if own.device.type != "cpu" else own.clone(memory_format=torch.contiguous_format)
        return own.contiguous()
    return [map_tensors(item, lambda tensor: tensor.detach().to("cpu", copy=True)) for item in column]


def size_of(columns: list[Column]) -> int:
    """Return the bytes that columns take, as nearly as a bound on memory needs it."""
    total = 0
    for column in columns:
        if isinstance(column, torch.Tensor):
            total += column.nbytes
        else:
            total += sum(int(np.sum(_sizes(item))) for item in column)
    return total


def _sizes(item: Any) -> list[int]:
    sizes: list[int] = [64]
    map_tensors(item, lambda tensor: sizes.append(tensor.nbytes) or tensor)  # type: ignore[func-returns-value]
    return sizes
