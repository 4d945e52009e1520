"""How much memory this process may use: the least of what the machine has and of what was set as a limit for it.

Limits are those of its control groups (version 1 and 2, and every group around its own, because a group is held to the
limits of all that it lies in) and of ``RLIMIT_AS``.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path

_NO_LIMIT = 1 << 60  # version 1 says "none" by a number about as large as fits


def memory_limit(root: str | os.PathLike[str] = "/") -> int:
    """Return how many bytes of memory this process may use at most. ``root``: where ``proc`` and ``sys`` are."""
    return min(limit for limit, _ in memory_limits(root))


def memory_limits(root: str | os.PathLike[str] = "/") -> list[tuple[int, str]]:
    """Return every limit of this process's memory, in bytes, and where it was found; the least of them counts."""
    found = [(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), "the machine")]
    found += [(limit, str(file)) for file, limit, _ in _limits(Path(root))]
    soft = resource.getrlimit(resource.RLIMIT_AS)[0]
    return found if soft == resource.RLIM_INFINITY else [*found, (soft, "RLIMIT_AS (ulimit -v)")]


def local_ranks() -> int:
    """Return how many ranks of a run share this machine: ``LOCAL_WORLD_SIZE``, as torchrun sets it, else 1."""
    ranks = os.environ.get("LOCAL_WORLD_SIZE", "")
    return max(1, int(ranks)) if ranks.isascii() and ranks.isdigit() else 1


def default_memory_bytes(processes: int | None = None) -> int:
    """Return the budget of a store in memory that is given none: a quarter of what this process may use.

    It is divided among the ranks of this machine (or ``processes``), each of which has such a store.
    """
    return max(1, memory_limit() // 4 // (processes or local_ranks()))


def memory_groups(root: str | os.PathLike[str] = "/") -> Iterator[tuple[int, int]]:
    """Give (limit, used) in bytes of every control group around this process that has a limit of memory."""
    return ((limit, used) for _, limit, used in _limits(Path(root)))


def _limits(root: Path) -> Iterator[tuple[Path, int, int]]:
    """Give the file of each limit of the control groups, the limit, and what is used of it."""
    for folder, limit, used in _folders(root):
        top = _number(folder / limit)
        if top is not None and top < _NO_LIMIT:
            yield folder / limit, top, _number(folder / used) or 0


def _folders(root: Path) -> Iterator[tuple[Path, str, str]]:
    """Folder, and names of the files with limit and use, of this process's groups and of those around them."""
    mounts = list(_mounts(root))
    for line in _lines(root / "proc/self/cgroup"):
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            kind, names = "cgroup2", ("memory.max", "memory.current")
        elif "memory" in controllers.split(","):
            kind, names = "cgroup", ("memory.limit_in_bytes", "memory.usage_in_bytes")
        else:
            continue
        for place, shown, found in mounts:
            if found == kind:
                for folder in _chain(root / place.lstrip("/"), shown, path):
                    yield folder, *names


def _mounts(root: Path) -> Iterator[tuple[str, str, str]]:
    """(where, which group is seen there, kind) of every mounted hierarchy that may tell of memory."""
    for line in _lines(root / "proc/self/mountinfo"):
        left, _, right = line.partition(" - ")
        fields, kind = left.split(), right.split()
        if len(fields) < 5 or len(kind) < 3:
            continue
        if kind[0] == "cgroup2" or (kind[0] == "cgroup" and "memory" in kind[2].split(",")):
            yield fields[4], fields[3], kind[0]


def _chain(place: Path, shown: str, path: str) -> Iterator[Path]:
    """Yield the folder of the group ``path`` in a hierarchy mounted at ``place``, and those around it up to ``place``.

    ``shown`` is the group that is seen at ``place``. In a container it is often the process's own group, although
    ``path`` has the name that is used outside.
    """
    inner = path.removeprefix(shown.rstrip("/")) if path.startswith(shown) else path
    folder = place / inner.lstrip("/") if ".." not in inner.split("/") else place
    while folder != place:
        yield folder
        folder = folder.parent
    yield place


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8", "replace").splitlines()
    except OSError:
        return []  # another system, or one without control groups


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None  # "max", or no such file
