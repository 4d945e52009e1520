"""Cores that a process may use: affinity, quotas of control groups, ranks of a machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dali_pipes import cores
from dali_pipes.cores import default_workers, usable_cores, workers_of


@pytest.fixture(autouse=True)
def sixteen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)


def machine(root: Path, groups: str, files: dict[str, str]) -> Path:
    """A file system with these control groups."""
    for name, text in {"proc/self/cgroup": groups, **{f"sys/fs/cgroup/{name}": t for name, t in files.items()}}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


V1_STEP = "cpu,cpuacct/job/step"
V1 = "9:memory:/job\n4:cpu,cpuacct:/job/step\n3:cpuset:/\n"


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("0::/job\n", {"job/cpu.max": "400000 100000\n"}, 4),
        ("0::/job\n", {"job/cpu.max": "max 100000\n"}, 16),
        ("0::/job/step/task\n", {"job/cpu.max": "250000 100000\n", "job/step/cpu.max": "max 100000"}, 2),
        ("0::/job\n", {"job/cpu.max": "50000 100000\n"}, 1),
        ("0::/host/docker/abc\n", {"cpu.max": "300000 100000\n"}, 3),
        ("0::/\n", {"cpu.max": "300000 100000\n"}, 3),
        ("0::/job\n1:cpu:/\n", {"unified/job/cpu.max": "500000 100000\n", "cpu/cpu.shares": "1024"}, 5),
        (
            V1,
            {"cpu,cpuacct/job/step/cpu.cfs_quota_us": "600000\n", "cpu,cpuacct/job/step/cpu.cfs_period_us": "1e5"},
            16,
        ),
        (V1, {f"{V1_STEP}/cpu.cfs_quota_us": "600000\n", f"{V1_STEP}/cpu.cfs_period_us": "1e5"}, 16),
        (V1, {f"{V1_STEP}/cpu.cfs_quota_us": "6000", f"{V1_STEP}/cpu.cfs_period_us": "1000\n"}, 6),
        (V1, {"cpu/job/cpu.cfs_quota_us": "200000\n", "cpu/job/cpu.cfs_period_us": "100000\n"}, 2),
        (V1, {"cpu/job/cpu.cfs_quota_us": "-1\n", "cpu/job/cpu.cfs_period_us": "100000\n"}, 16),
        ("0::/job\n", {"job/cpu.max": "6400000 100000\n"}, 16),
        ("0::/job\n", {"job/cpu.max": "nonsense\n"}, 16),
        ("0::/job\n", {"job/cpu.max": "100 0\n"}, 16),
        ("nonsense\n", {}, 16),
    ],
)
def test_quotas(groups: str, files: dict[str, str], expected: int, tmp_path: Path) -> None:
    assert usable_cores(machine(tmp_path, groups, files)) == expected


def test_without_control_groups(tmp_path: Path) -> None:
    assert usable_cores(tmp_path) == 16
    assert 1 <= usable_cores() <= 16


@pytest.mark.parametrize(("ranks", "expected"), [("4", 3), ("13", 1), ("14", 1), ("", 13), ("0", 13), ("two", 13)])
def test_ranks_share_the_cores(ranks: str, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "usable_cores", lambda: 13)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", ranks)
    assert default_workers() == workers_of(None) == expected
    assert (workers_of(0), workers_of(5)) == (1, 5)


def test_each_limit_says_where_it_was_found(tmp_path: Path) -> None:
    groups = {"job/cpu.max": "400000 100000\n", "job/step/cpu.max": "max 100000", "cpu.max": "1250000 100000"}
    found = cores.core_limits(machine(tmp_path, "0::/job/step\n", groups))
    place = tmp_path / "sys/fs/cgroup"
    assert found == [
        (16, "affinity (taskset, cpuset)"),
        (4.0, str(place / "job/cpu.max")),
        (12.5, str(place / "cpu.max")),
    ]
