"""Arrays under keys, on disk or in memory, that come back exactly as they were put or not at all.

A store is opened by the name of its mode and knows nothing of what it keeps:

>>> import numpy as np
>>> store = open_store("memory")
>>> store.put(Key.of(source="a"), np.arange(3))
>>> store.get(Key.of(source="a"))
array([0, 1, 2])
"""

from . import upkeep
from .errors import CacheError, EntryError, IntegrityError, SecretError, StoreConfigError, StoreIOError
from .flight import SingleFlight
from .integrity import content_digest
from .key import Key, default_secret
from .parts import PartsLedger
from .pin import PinnedMapping
from .sources import FileState, SourceIndex
from .store import DISK_MODES, MODES, PERSISTENT_MODES, Store, open_store

__all__ = [
    "DISK_MODES",
    "MODES",
    "PERSISTENT_MODES",
    "CacheError",
    "EntryError",
    "FileState",
    "IntegrityError",
    "Key",
    "PartsLedger",
    "PinnedMapping",
    "SecretError",
    "SingleFlight",
    "SourceIndex",
    "Store",
    "StoreConfigError",
    "StoreIOError",
    "content_digest",
    "default_secret",
    "open_store",
    "upkeep",
]
