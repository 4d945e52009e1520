"""What the end of a loader ends, whether it is closed, forgotten or left by a fork."""

from __future__ import annotations

import os
import weakref
from typing import Any

from dali_pipes import backends, cache
from dali_pipes.loader.prefetch import Prefetch


def close_all(
    process: int,
    runs: weakref.WeakSet[Prefetch[Any]],
    idle: backends.Pool,
    fetchers: tuple[Any, ...],
    store: cache.Store,
) -> None:
    """Close a loader's parts, in the order in which they use each other.

    Args:
        process: where they were made: in a forked child there are no threads to end, and the files are the parent's.
        runs, idle, fetchers, store: iterations under way, backends, fetchers (None among them) and the store.
    """
    things: tuple[Any, ...] = (*runs, *filter(None, fetchers), idle, store) if os.getpid() == process else (idle,)
    for each in things:
        each.close()
