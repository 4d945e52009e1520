"""Arrays under keys, on disk or in memory, that come back exactly as they were put or not at all.

A store is opened by the name of its mode and knows nothing of what it keeps:

>>> import numpy as np
>>> from dali_pipes.cache import Key, open_store
>>> store = open_store("memory")
>>> store.put(Key.of(source="a"), np.arange(3))
>>> store.get(Key.of(source="a"))
array([0, 1, 2])

Names are imported when they are first used (PEP 562), so that the list of modes needs no NumPy.
"""

import importlib as _importlib
from typing import TYPE_CHECKING
from typing import Any as _Any

from .modes import DISK_MODES as DISK_MODES
from .modes import MODES as MODES
from .modes import PERSISTENT_MODES as PERSISTENT_MODES

if TYPE_CHECKING:
    from . import transfer as transfer
    from . import upkeep as upkeep
    from .base import Store as Store
    from .errors import CacheError as CacheError
    from .errors import EntryError as EntryError
    from .errors import IntegrityError as IntegrityError
    from .errors import SecretError as SecretError
    from .errors import StoreConfigError as StoreConfigError
    from .errors import StoreIOError as StoreIOError
    from .flight import SingleFlight as SingleFlight
    from .integrity import content_digest as content_digest
    from .key import Key as Key
    from .key import default_secret as default_secret
    from .key import secret_in as secret_in
    from .parts import PartsLedger as PartsLedger
    from .pin import PinnedMapping as PinnedMapping
    from .pushing import push as push
    from .sources import FileState as FileState
    from .sources import SourceIndex as SourceIndex
    from .store import open_store as open_store

_HOMES = {
    "base": ("Store",),
    "errors": ("CacheError", "EntryError", "IntegrityError", "SecretError", "StoreConfigError", "StoreIOError"),
    "flight": ("SingleFlight",),
    "integrity": ("content_digest",),
    "key": ("Key", "default_secret", "secret_in"),
    "parts": ("PartsLedger",),
    "pin": ("PinnedMapping",),
    "pushing": ("push",),
    "sources": ("FileState", "SourceIndex"),
    "store": ("open_store",),
}
"""The modules of the public names."""

_MODULES = ("transfer", "upkeep")
"""Modules whose functions are public."""

_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = sorted([*_HOME_OF, "DISK_MODES", "MODES", "PERSISTENT_MODES", *_MODULES])  # noqa: PLE0605


def __getattr__(name: str) -> _Any:
    if name in _MODULES:
        return _importlib.import_module(f"{__name__}.{name}")
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(_importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
