"""What a cache keeps of another one behind a URL: its journals, as they are there, and its records, among its own.

``bucket/<digest of the URL>/<token>.idx`` is the journal of a segment there. Source records and notes are added to this
cache's own, so that a reader opens no source file, and ``purge`` finds what was copied into this cache; an empty file
``<name>.seen`` or ``<name>.made`` says that this was done.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b

from .base import LOG, Options
from .errors import IntegrityError
from .files import Folder
from .objects import IN_FLIGHT, shown
from .records import JOURNALS, add_records, journals_in, records_in

FOLDER = "bucket"


class Nearby:
    """What the cache in ``directory`` keeps of the one behind ``url``. What cannot be read or written is not kept."""

    def __init__(self, directory: str, url: str, options: Options) -> None:
        self._directory, self._access = os.path.abspath(directory), options.access_to(directory)
        self._shard = blake2b(shown(url).rstrip("/").encode(), digest_size=8).hexdigest()
        self._folder = Folder(os.path.join(self._directory, FOLDER), self._access, follow=False)

    def read(self, name: str, size: int) -> bytes | None:
        """Return what was kept under a name, if it has this size."""
        try:
            data = self._folder.read(f"{self._shard}/{name}")
        except (OSError, IntegrityError):
            return None
        return data if len(data) == size else None

    def keep(self, name: str, data: bytes) -> None:
        """Keep these bytes under a name."""
        try:
            self._folder.publish(f"{self._shard}/{name}", [data])
        except OSError as error:
            LOG.debug("what was read of a cache behind a URL cannot be kept: %s", error)

    def take_records(self, sizes: Mapping[str, int], read: Callable[[str], bytes]) -> None:
        """Add the records there to those of this cache, unless that was done before.

        ``sizes``: names and bytes of all objects there; ``read`` gives one of them.
        """
        try:
            self._folder.sweep()
            there = set(self._folder.names(self._shard))
            for inner, suffix, record in JOURNALS:
                new = [name for name in journals_in(sizes, inner, suffix) if name[len(inner) + 1 :] not in there]
                path = os.path.join(self._directory, inner)
                with ThreadPoolExecutor(IN_FLIGHT) as threads:
                    records = (records_in(data, record) for data in threads.map(read, new))
                    add_records(path, self._access, suffix, record, records)
                for name in new:
                    self.keep(name[len(inner) + 1 :], b"")
        except (OSError, IntegrityError) as error:
            LOG.warning("the records of a cache behind a URL cannot be kept (%s): sources are read anew", error)

    def close(self) -> None:
        """Give the folder's handle back."""
        self._folder.close()
