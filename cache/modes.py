"""The registry of cache modes: the one place that lists them.

To add a mode, write a module with a class that inherits :class:`.base.Store` (:class:`.filestore.FileStore` for a file
an entry) and add its line to ``REGISTRY``. Everything else (opening, upkeep, ``tiered`` over it, the command line, the
advice) follows. This module imports nothing heavy, so that a list of modes costs nothing; classes are imported when a
store is opened, because torch takes seconds.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .errors import StoreConfigError

if TYPE_CHECKING:
    from .base import Store


@dataclass(frozen=True)
class Mode:
    """A mode and what is known of it before its module is imported.

    Attributes:
        name: what users give as ``cache_mode``; also the folder of its entries, if it has one.
        home: ``"module:Class"`` within this package.
        on_disk: it keeps its entries as files in a folder of its own, and can lie under ``tiered``.
        persistent: entries outlive the process.
        ease: breaks ties between modes that are about as fast; the lowest asks least of machine and user.
    """

    name: str
    home: str
    on_disk: bool
    persistent: bool
    ease: int

    def store(self) -> type[Store]:
        """Import and return the class of its stores."""
        module, _, name = self.home.partition(":")
        chosen: type[Store] = getattr(importlib.import_module(f"{__package__}.{module}"), name)
        return chosen


REGISTRY = (
    Mode("none", "null:NullStore", on_disk=False, persistent=False, ease=7),
    Mode("memory", "memory:MemoryStore", on_disk=False, persistent=False, ease=3),
    Mode("disk", "png:PngStore", on_disk=True, persistent=True, ease=6),
    Mode("npy", "npyfile:NpyStore", on_disk=True, persistent=True, ease=2),
    Mode("tensor-disk", "tensor_file:TensorFileStore", on_disk=True, persistent=True, ease=5),
    Mode("tensor-memmap", "tensor_memmap:TensorMemmapStore", on_disk=True, persistent=True, ease=1),
    Mode("pinned", "packed:PackedStore", on_disk=True, persistent=True, ease=0),
    Mode("tiered", "tiered:TieredStore", on_disk=False, persistent=True, ease=4),
)

MODES = tuple(mode.name for mode in REGISTRY)
DISK_MODES = tuple(mode.name for mode in REGISTRY if mode.on_disk)
PERSISTENT_MODES = tuple(mode.name for mode in REGISTRY if mode.persistent)


def find(name: str, among: tuple[str, ...] = MODES, what: str = "cache mode") -> Mode:
    """Return the mode of a name. Raises StoreConfigError, which lists the names, if there is none ``among`` them."""
    if name not in among:
        raise StoreConfigError(f"no {what} {name!r}: choose one of {', '.join(among)}")
    return next(mode for mode in REGISTRY if mode.name == name)


def find_disk(name: str) -> Mode:
    """Return the disk mode of a name. Raises StoreConfigError for any other."""
    return find(name, DISK_MODES, "disk mode")
