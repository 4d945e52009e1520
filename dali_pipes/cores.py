"""How many CPU cores this process may use, and how many workers follow from that."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath


def usable_cores(root: str | os.PathLike[str] = "/") -> int:
    """Return the cores that this process may use, at least 1: its affinity, or less where a control group has a quota.

    Args:
        root: where `proc` and `sys` lie, for tests.
    """
    limits = [len(os.sched_getaffinity(0)), *(max(1, int(quota)) for quota in _quotas(Path(root)))]
    return min(limits)


def default_workers() -> int:
    """Return the cores that this process may use, divided among the ranks that torchrun started on this machine."""
    ranks = os.environ.get("LOCAL_WORLD_SIZE", "")
    return max(1, usable_cores() // (int(ranks) if ranks.isdigit() and int(ranks) else 1))


def workers_of(num_workers: int | None) -> int:
    """Return how many workers `num_workers` means: `default_workers` for None, and one for 0."""
    return default_workers() if num_workers is None else max(1, num_workers)


def _quotas(root: Path) -> Iterator[float]:
    """Cores that this process's control groups, and those that they lie in, allow (cgroup v1 and v2)."""
    mounts = root / "sys/fs/cgroup"
    for names, path in _groups(root / "proc/self/cgroup"):
        if names and "cpu" not in names.split(","):
            continue
        mount = next((found for found in (mounts / (names or "unified"), mounts / "cpu") if found.is_dir()), mounts)
        mount = mount if names or mount.name == "unified" else mounts
        inside = PurePosixPath(path).relative_to("/")
        # In a container the path may be the host's, and the mount the container's own group.
        for folder in (mount / inside, *(mount / parent for parent in inside.parents), mount):
            quota = _quota(folder)
            if quota is not None:
                yield quota


def _groups(listing: Path) -> list[tuple[str, str]]:
    """Return (controllers, path) of each hierarchy; no controllers stand for cgroup v2."""
    try:
        lines = listing.read_text().splitlines()
    except OSError:
        return []
    parts = [line.split(":", 2) for line in lines]
    return [(part[1], part[2]) for part in parts if len(part) == 3 and part[2].startswith("/")]


def _quota(folder: Path) -> float | None:
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return int(quota) / int(period) if int(quota) > 0 else None
    except (OSError, ValueError, ZeroDivisionError):  # none set ("max", -1), or none there
        return None
