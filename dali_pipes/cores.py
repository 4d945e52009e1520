"""How many CPU cores this process may use, and how many workers follow from that."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from dali_pipes.cache.limits import local_ranks

_FILES = ("cpu.max", "cpu.cfs_quota_us")  # of control groups of version 2, and 1


def usable_cores(root: str | os.PathLike[str] = "/") -> int:
    """Return the cores that this process may use, at least 1: its affinity, or less where a control group has a quota.

    Args:
        root: where `proc` and `sys` lie, for tests.
    """
    return min(max(1, int(limit)) for limit, _ in core_limits(root))


def core_limits(root: str | os.PathLike[str] = "/") -> list[tuple[float, str]]:
    """Return every limit of this process's cores, and where it was found; the least of them counts."""
    quotas = [(quota, str(place)) for place, quota in _quotas(Path(root))]
    return [(len(os.sched_getaffinity(0)), "affinity (taskset, cpuset)"), *dict.fromkeys(quotas)]


def default_workers() -> int:
    """Return the cores that this process may use, divided among the ranks that torchrun started on this machine."""
    return max(1, usable_cores() // local_ranks())


def workers_of(num_workers: int | None) -> int:
    """Return how many workers `num_workers` means: `default_workers` for None, and one for 0."""
    return default_workers() if num_workers is None else max(1, num_workers)


def _quotas(root: Path) -> Iterator[tuple[Path, float]]:
    """Give the file and the cores of each quota of this process's control groups and those around them (v1 and v2)."""
    mounts = root / "sys/fs/cgroup"
    for names, path in _groups(root / "proc/self/cgroup"):
        if names and "cpu" not in names.split(","):
            continue
        mount = next((found for found in (mounts / (names or "unified"), mounts / "cpu") if found.is_dir()), mounts)
        mount = mount if names or mount.name == "unified" else mounts
        inside = PurePosixPath(path).relative_to("/")
        # In a container the path may be the host's, and the mount the container's own group.
        for folder in (mount / inside, *(mount / parent for parent in inside.parents), mount):
            for name in _FILES:
                quota = _quota(folder / name)
                if quota is not None:
                    yield folder / name, quota


def _groups(listing: Path) -> list[tuple[str, str]]:
    """Return (controllers, path) of each hierarchy; no controllers stand for cgroup v2."""
    try:
        lines = listing.read_text().splitlines()
    except OSError:
        return []
    parts = [line.split(":", 2) for line in lines]
    return [(part[1], part[2]) for part in parts if len(part) == 3 and part[2].startswith("/")]


def _quota(file: Path) -> float | None:
    try:
        words = file.read_text().split()
        if len(words) == 1:  # version 1 has a file for each number
            words += file.with_name("cpu.cfs_period_us").read_text().split()
        quota, period = map(int, words)
        return quota / period if quota > 0 else None
    except (OSError, ValueError, ZeroDivisionError):  # none set ("max", -1), or none there
        return None
