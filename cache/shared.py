"""The ``memory`` mode with ``shared=True``: one copy in memory for all worker processes of a machine.

It is the packed store in a private folder of the machine's memory filesystem (``/dev/shm``): workers, forked or
spawned, that are handed the store read the same pages and see what the others put. The folder carries its owner's
name, is removed when the store that made it is closed or its process ends, and is swept by the next such store if
that process was killed. The memory filesystem must be large enough (in a container: ``--shm-size``); when it is full,
entries are simply not kept.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
import weakref
from dataclasses import replace
from typing import Any

from .base import Options
from .contents import remove_cache
from .errors import StoreConfigError
from .files import Folder
from .limits import default_memory_bytes
from .named import PLACE, sweep_named
from .owner import Owner, me
from .packed import PackedStore
from .tagging import TAG_NAME

_PREFIX = "dali-pipes-"
SHARED_LEASE = 86400.0  # seconds


class SharedMemoryStore(PackedStore):
    """See the module.

    ``memory_bytes`` bounds it: whole segments of a sixteenth of that leave, least recently used first.
    """

    mode = "memory"
    persistent = False

    def __init__(self, options: Options, directory: str | None = None) -> None:
        self._creator = 0
        if directory is None:
            if not os.path.isdir(PLACE):
                raise StoreConfigError(
                    f"memory cannot be shared here: there is no {PLACE}; "
                    "use cache mode 'memory' without shared=True, or cache mode 'npy'"
                )
            sweep_shared()
            sweep_named()
            directory = os.path.join(PLACE, f"{_PREFIX}{me()}-{secrets.token_hex(8)}")
            self._creator = os.getpid()
        budget = options.memory_bytes or default_memory_bytes()
        super().__init__(directory, replace(options, memory_bytes=budget, disk_bytes=budget), sweep=False)
        if self._creator:
            self._remover = weakref.finalize(self, _remove, directory, self._creator)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.options, self.directory)

    def refresh(self) -> None:
        """Also say that this store is still in use, for processes that cannot see this one."""
        super().refresh()
        with contextlib.suppress(OSError):
            self._root.touch(TAG_NAME)

    def close(self) -> None:
        """End the use of this instance; its creator removes the folder as well."""
        super().close()
        if self._creator:
            self._remover()


def _remove(directory: str, creator: int) -> None:
    if os.getpid() == creator:  # not in a forked child
        remove_cache(directory)


def _is_left(name: str, owner: Owner) -> bool:
    """Whether the store's process is dead, or unknown (a container's, say) and its files are unchanged for a day."""
    alive = owner.alive()
    if alive is not None:
        return not alive
    folder = Folder(os.path.join(PLACE, name), read_only=True, follow=False)
    inner = Folder(os.path.join(PLACE, name, "pinned"), read_only=True, follow=False)
    times = [status.st_mtime for place in (folder, inner) for _, status in place.scan()]
    folder.close()
    inner.close()
    return bool(times) and time.time() - max(times) > SHARED_LEASE


def sweep_shared() -> int:
    """Remove the shared memory that dead processes left; return how many there were."""
    swept = 0
    place = Folder(PLACE, read_only=True)
    for name in place.names():
        owner = Owner.parse(name[len(_PREFIX) : -17]) if name.startswith(_PREFIX) else None
        found = place.status(name)
        if owner is None or found is None or found.st_uid != os.getuid() or not _is_left(name, owner):
            continue
        remove_cache(os.path.join(PLACE, name))
        swept += 1
    place.close()
    return swept
