"""The ``memory`` mode with ``shared=True``: one copy in memory for all worker processes of a machine.

It is the packed store in a private folder of the machine's memory filesystem (``/dev/shm``): workers, forked or
spawned, that are handed the store read the same pages and see what the others put. The folder carries its owner's
name, is removed when the store that made it is closed or its process ends, and is swept by the next such store if
that process was killed. The memory filesystem must be large enough (in a container: ``--shm-size``); when it is full,
entries are simply not kept.
"""

from __future__ import annotations

import os
import secrets
import weakref
from dataclasses import replace
from typing import Any

from .base import Options
from .contents import remove_cache
from .errors import StoreConfigError
from .files import Folder
from .limits import default_memory_bytes
from .owner import Owner, me
from .packed import PackedStore

PLACE = "/dev/shm"
_PREFIX = "dali-pipes-"


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
            directory = os.path.join(PLACE, f"{_PREFIX}{me()}-{secrets.token_hex(8)}")
            self._creator = os.getpid()
        budget = options.memory_bytes or default_memory_bytes()
        super().__init__(directory, replace(options, memory_bytes=budget, disk_bytes=budget), sweep=False)
        if self._creator:
            self._remover = weakref.finalize(self, _remove, directory, self._creator)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.options, self.directory)

    def close(self) -> None:
        super().close()
        if self._creator:
            self._remover()


def _remove(directory: str, creator: int) -> None:
    if os.getpid() == creator:  # not in a forked child
        remove_cache(directory)


def sweep_shared() -> int:
    """Remove the shared memory of processes that were killed; return how many there were."""
    swept = 0
    place = Folder(PLACE, read_only=True)
    for name in place.names():
        owner = Owner.parse(name[len(_PREFIX) : -17]) if name.startswith(_PREFIX) else None
        found = place.status(name)
        if owner is None or found is None or found.st_uid != os.getuid() or owner.alive() is not False:
            continue
        remove_cache(os.path.join(PLACE, name))
        swept += 1
    place.close()
    return swept
