"""Any map-style data set, its items kept after they were first computed.

An item is kept as one array of bytes (see `item_codec`) under a key made of the data set's version and the sample's
name. Every item handed out is a copy of its own, whether it was kept or just computed, so editing it in place
harms nobody.
"""

from __future__ import annotations

import contextlib
import logging
import os
from types import TracebackType
from typing import Any

import torch
from torch.utils.data import Dataset, get_worker_info

from dali_pipes import cache
from dali_pipes.errors import ConfigError
from dali_pipes.fetch.fetcher import with_secret
from dali_pipes.items import item_codec
from dali_pipes.items.purity import settled_item
from dali_pipes.loader.arguments import check_cache
from dali_pipes.loader.dataset import open_for_workers

log = logging.getLogger(__name__)

_HITS, _MISSES, _REPAIRED = range(3)
_PROCESSES = 256


class CachedDataset(Dataset[Any]):
    """The items of `dataset`, computed once.

    At first use one item is computed twice: a data set that draws random numbers is refused, by the name of the field
    that differs. The same item is compared with what the cache already holds, so that data which changed under an
    unchanged version is noticed.

    >>> kept = CachedDataset([(torch.arange(3), "a"), (torch.arange(2), "b")])
    >>> kept[1]
    (tensor([0, 1]), 'b')
    >>> kept.close()

    Args:
        dataset: has `__getitem__` and `__len__`. Items are tensors, arrays, numbers, strings, bytes, None, or lists,
            tuples and dicts of them. Where it has `sample_id(i)` (str, int or bytes), items are kept under that, which
            must change when the sample's data does; orders and subsets then do not matter. Else they are kept under
            their index.
        cache_mode: one of `cache.MODES`. With "memory" all workers of this machine share one copy.
        cache_dir: folder of the modes that persist.
        mem_cache_size: bytes that "memory" and "tiered" may take in memory; the least recently used items leave first.
        version: names this data and its transforms: give another one when either changes. Needed by modes that persist,
            unless the data set has `sample_id`.
        cache_options: further arguments of `cache.open_store`.

    Raises:
        ConfigError: an argument that cannot work; at first use: items that are random or that cannot be kept exactly.
    """

    def __init__(
        self,
        dataset: Any,
        cache_mode: str = "memory",
        cache_dir: str | os.PathLike[str] | None = None,
        mem_cache_size: int | None = None,
        version: str | int | None = None,
        *,
        cache_options: dict[str, Any] | None = None,
    ) -> None:
        if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
            raise ConfigError(
                f"CachedDataset({type(dataset).__name__}): give a map-style data set, with an index and a length."
            )
        if version is not None and (isinstance(version, bool) or not isinstance(version, (str, int))):
            raise ConfigError(f"CachedDataset(version={version!r}): give a text or a whole number.")
        check_cache(cache_mode, cache_dir, "CachedDataset")
        persists = cache_mode in cache.PERSISTENT_MODES
        if persists and version is None and not hasattr(dataset, "sample_id"):
            raise ConfigError(
                f"CachedDataset(cache_mode={cache_mode!r}) outlives this run, so it must know which data it holds: "
                "give version= a text that changes whenever the data or its transforms do, or the data set a "
                "sample_id(index)."
            )
        self.dataset = dataset
        self._version = version
        budget = {} if mem_cache_size is None else {"memory_bytes": mem_cache_size}
        self._store = open_for_workers(cache_mode, cache_dir, {**budget, **(cache_options or {})})
        self._secret = b""
        if self._store.persistent:
            self._store, self._secret = with_secret(self._store)
        self._flight = cache.SingleFlight(self._store)
        # In shared memory: one row of counters for each worker, and whether the items were found to be settled.
        self._counts = torch.zeros((_PROCESSES, 3), dtype=torch.int64).share_memory_()
        self._settled = torch.zeros(1, dtype=torch.uint8).share_memory_()
        log.info("%d samples will be cached (mode %r)", len(dataset), cache_mode)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        index = range(len(self))[index]
        key = self._key(index)
        settled = None
        if not self._settled[0] and self._store.mode != "none":
            settled = self._settle(index, key)
        packed, computed = self._flight.get_or_put(
            key, lambda: item_codec.pack(self.dataset[index]) if settled is None else settled
        )
        try:
            item = item_codec.unpack(packed)
        except ValueError as error:  # good bytes of something else: made by hand, or by a fault of ours
            log.warning("a kept item cannot be used (%s): computing it again", error)
            self._count(_REPAIRED)
            self._store.delete(key)
            packed, computed = item_codec.pack(self.dataset[index]), True
            self._store.put(key, packed)
            item = item_codec.unpack(packed)
        self._count(_MISSES if computed else _HITS)
        return item

    def __getattr__(self, name: str) -> Any:
        """Return what the data set offers besides its items (`classes`, say)."""
        if name.startswith("_") or name == "dataset":
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def stats(self) -> dict[str, Any]:
        """`hits`, `misses` (items computed), `repaired`, of all workers; `samples`; `cache`: what the store counts."""
        hits, misses, repaired = self._counts.sum(dim=0).tolist()
        counts = {"samples": len(self), "hits": hits, "misses": misses, "repaired": repaired}
        return {**counts, "cache": self._store.stats()}

    def close(self) -> None:
        """Close the cache."""
        self._flight.close()
        self._store.close()

    def __enter__(self) -> CachedDataset:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"CachedDataset({len(self)} samples of {type(self.dataset).__name__}, cache={self._store.mode!r})"

    def _key(self, index: int) -> cache.Key:
        parts: dict[str, str | int | bytes] = {"item": item_codec.FORMAT}
        if self._version is not None:
            parts["version"] = self._version
        if hasattr(self.dataset, "sample_id"):
            name = self.dataset.sample_id(index)
            if isinstance(name, bool) or not isinstance(name, (str, int, bytes)):
                raise ConfigError(f"sample_id({index}) gave a {type(name).__name__}; a name is a str, an int or bytes.")
            return cache.Key.of(self._secret, sample=name, **parts)
        return cache.Key.of(self._secret, index=index, **parts)

    def _settle(self, index: int, key: cache.Key) -> item_codec.Bytes:
        """Return the item, computed twice.

        Random items are refused, and so is a cache that holds other data under this version.
        """
        item = settled_item(self.dataset, index)
        packed = item_codec.pack(item)
        kept = self._store.get(key)
        differs = None
        if kept is not None:
            with contextlib.suppress(ValueError):
                differs = item_codec.difference(item_codec.unpack(kept), item)
        if differs:
            raise ConfigError(
                f"sample {index} in the cache is not what the data set gives now ({differs}): the data or its "
                f"transforms changed, or another data set was kept here, under version={self._version!r}. Give "
                "another version or folder."
            )
        self._settled[0] = 1
        return packed

    def _count(self, what: int, number: int = 1) -> None:
        worker = get_worker_info()
        row = 0 if worker is None else 1 + worker.id % (_PROCESSES - 1)
        self._counts[row, what] += number
