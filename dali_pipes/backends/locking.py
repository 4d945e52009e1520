"""How much of a cache is page-locked, for whom, and on which device."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

from dali_pipes.backends.base import Backend
from dali_pipes.errors import ConfigError

VARIABLE = "DALI_PIPES_PAGE_LOCK_BYTES"
"""The environment variable that sets the budget."""


class Store(Protocol):
    """What is asked of a cache."""

    def page_lock(self, budget_bytes: int | None = None) -> int:
        """Page-lock what is mapped and will not change; return how many bytes are locked now."""


def lock_pages(backend: Backend, store: Store) -> int:
    """Page-lock what a store has mapped, if the backend copies images from where they lie; return how many bytes are.

    Call it when an epoch begins: what was cached meanwhile is locked then.

    Args:
        backend: about to be used, by this thread.
        store: where its images come from.

    Raises:
        ConfigError: the environment asks for a budget that is no number.
    """
    there = getattr(backend, "there", None)
    if not getattr(backend, "reads_in_place", False) or there is None:
        return 0
    with there():  # registering makes a CUDA context on whatever device is current
        return store.page_lock(budget_bytes())


def budget_bytes(root: str | os.PathLike[str] = "/") -> int:
    """Return how many bytes may be page-locked: what the environment says, or a quarter of the memory there is.

    Locked memory cannot be given to anybody else: a cache larger than the memory, locked as a whole, would end in the
    kernel's killing of processes.

    Args:
        root: where `sys` lies, for tests.

    Raises:
        ConfigError: the environment's text is no whole number of at least 0.
    """
    text = os.environ.get(VARIABLE)
    if text is not None:
        if not text.isascii() or not text.isdigit():
            raise ConfigError(f"{VARIABLE}={text!r}: give a number of bytes; 0 locks nothing.")
        return int(text)
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for name in ("memory.max", "memory/memory.limit_in_bytes"):  # control groups, version 2 and 1
        try:
            limit = (Path(root) / "sys/fs/cgroup" / name).read_text("ascii").strip()
        except OSError:
            continue
        if limit.isdigit():
            limits.append(int(limit))
    return min(limits) // 4
