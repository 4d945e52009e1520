"""Which limits a process finds on its machine, and where: what `dali-pipes doctor` tells of cores, memory and ranks."""

from __future__ import annotations

import os
import resource
from dataclasses import dataclass

from dali_pipes.cache.limits import default_memory_bytes, local_ranks, memory_limits
from dali_pipes.cache.named import PLACE
from dali_pipes.cores import core_limits, default_workers
from dali_pipes.loader.sharing import launch_name


@dataclass(frozen=True)
class Limit:
    """One limit.

    Attributes:
        what: "cores", "memory", "shared memory", "ranks of this machine" or "open files".
        amount: how many; bytes of memory.
        where: the file, variable or call that says so.
        counts: it is the least of its kind.
    """

    what: str
    amount: float
    where: str
    counts: bool


def limits(root: str | os.PathLike[str] = "/") -> list[Limit]:
    """Return every limit that was found. `root`: where `proc` and `sys` lie."""
    found: list[Limit] = []
    for what, kind in (("cores", core_limits(root)), ("memory", memory_limits(root))):
        least = min(amount for amount, _ in kind)
        found += [Limit(what, amount, where, amount == least) for amount, where in kind]
    if os.path.isdir(PLACE):
        status = os.statvfs(PLACE)
        found.append(Limit("shared memory", status.f_blocks * status.f_frsize, PLACE, True))
    said = "LOCAL_WORLD_SIZE" if "LOCAL_WORLD_SIZE" in os.environ else "LOCAL_WORLD_SIZE is not set"
    found.append(Limit("ranks of this machine", local_ranks(), said, True))
    found.append(Limit("open files", resource.getrlimit(resource.RLIMIT_NOFILE)[0], "RLIMIT_NOFILE (ulimit -n)", True))
    return found


def consequences() -> dict[str, int | bool]:
    """Return what follows: `workers` and `memory_bytes` of this rank by default, and whether ranks share memory."""
    return {
        "workers": default_workers(),
        "memory_bytes": default_memory_bytes(),
        "shared_memory_bytes": default_memory_bytes(1),
        "ranks_share": launch_name() is not None,
    }
