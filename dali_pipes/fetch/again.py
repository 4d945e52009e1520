"""Samples that were had before, asked for together: every epoch but the first.

What the cache holds in memory is looked up at once. What it reads from files is read in threads, several entries to a
task, because a task costs the interpreter about as much as reading a small entry does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from dali_pipes import cache
from dali_pipes.cache.bulk import get_views
from dali_pipes.fetch.bookkeeping import Bookkeeping
from dali_pipes.fetch.item import Item, OneOf, Pixels, Requested
from dali_pipes.fetch.known import Known

TOGETHER = 4
"""Entries that one task reads, where reading is all there is to do."""


class Again:
    """See the module.

    Args:
        store: holds the base images.
        known: the keys of samples that were had.
        books: counts what was found, and knows which samples are lost.
        threads: read what the store does not have in memory.
        fetch: gives a sample's item, with its base image or None where the store has none.
        deep: whether `fetch` has more to do when the base image is there.
    """

    def __init__(
        self,
        store: cache.Store,
        known: Known,
        books: Bookkeeping,
        threads: ThreadPoolExecutor,
        fetch: Callable[[int, Pixels | None], Item],
        deep: bool,
    ) -> None:
        self._store, self._known, self._books, self._threads = store, known, books, threads
        self._fetch, self._deep = fetch, deep
        self._together = 1 if deep or store.decodes else TOGETHER

    def requests(self, samples: Sequence[int]) -> list[Requested | None]:
        """Return each sample's item, or what it is waited for by; None for those that were not had before.

        Raises:
            CacheError: the store is strict.
        """
        keys = self._known.keys(samples)
        found: list[Requested | None] = [None] * len(samples)
        if self._books.any_lost(samples):
            for at, sample in enumerate(samples):
                if (lost := self._books.lost(sample)) is not None:
                    found[at], keys[at] = lost, None
        had = [at for at, key in enumerate(keys) if key is not None]
        if not had:
            return found
        if self._store.direct:
            for at, image in zip(had, self._images(keys, had)):
                found[at] = image if image is not None and not self._deep else self._submit(samples[at], image)
            return found
        for part in (had[first : first + self._together] for first in range(0, len(had), self._together)):
            every = self._threads.submit(self._read, samples, keys, part)
            for place, at in enumerate(part):
                found[at] = OneOf(every, place)
        return found

    def _images(self, keys: Sequence[bytes | None], part: Sequence[int]) -> list[Pixels | None]:
        images = get_views(self._store, [key for key in (keys[at] for at in part) if key is not None])
        self._books.count(hits=len(images) - sum(image is None for image in images))
        return images

    def _submit(self, sample: int, image: Pixels | None) -> Future[Item]:
        return self._threads.submit(self._fetch, sample, image)

    def _read(
        self, samples: Sequence[int], keys: Sequence[bytes | None], part: Sequence[int]
    ) -> list[Item | Future[Item]]:
        """Return some of the samples; a future of each that left the store."""
        items: list[Item | Future[Item]] = []
        for at, image in zip(part, self._images(keys, part)):
            if image is None:
                items.append(self._submit(samples[at], None))
            elif self._deep:
                items.append(self._fetch(samples[at], image))
            else:
                self._books.had(samples[at])
                items.append(image)
        return items
