"""What memory a process may use, read from trees like those of real systems."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from dali_pipes.cache import limits, open_store
from dali_pipes.cache.limits import memory_groups, memory_limit, memory_limits

MIB = 1 << 20
V2_MOUNT = "30 24 0:27 {root} /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
V1_MOUNT = "33 24 0:30 {root} /sys/fs/cgroup/memory rw,nosuid - cgroup cgroup rw,memory\n"


def tree(root: Path, cgroup: str, mounts: str, **files: str) -> Path:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(cgroup)
    (root / "proc/self/mountinfo").write_text("24 1 8:1 / / rw - ext4 /dev/sda1 rw\nbroken\n" + mounts)
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_version_1(tmp_path: Path) -> None:
    files = {
        "memory/job/memory.limit_in_bytes": str(800 * MIB),
        "memory/job/memory.usage_in_bytes": str(3 * MIB),
        "memory/memory.limit_in_bytes": "9223372036854771712",
    }
    cgroup = "5:cpu,cpuacct:/other\n4:memory:/job\n0::/\n"
    tree(tmp_path, cgroup, V1_MOUNT.format(root="/"), **files)
    assert list(memory_groups(tmp_path)) == [(800 * MIB, 3 * MIB)]
    assert memory_limit(tmp_path) == 800 * MIB


def test_version_2_and_the_groups_around(tmp_path: Path) -> None:
    files = {
        "a/b/c/memory.max": "max",
        "a/b/memory.max": str(500 * MIB),
        "a/memory.max": str(300 * MIB),
        "a/memory.current": "7",
    }
    tree(tmp_path, "0::/a/b/c\n", V2_MOUNT.format(root="/"), **files)
    assert list(memory_groups(tmp_path)) == [(500 * MIB, 0), (300 * MIB, 7)]
    assert memory_limit(tmp_path) == 300 * MIB


@pytest.mark.parametrize("path", ["/docker/abc", "/", "/../../elsewhere"])
def test_in_a_container_its_own_group_is_seen_at_the_mount(tmp_path: Path, path: str) -> None:
    root = "/docker/abc" if path == "/docker/abc" else "/"
    tree(tmp_path, f"0::{path}\n", V2_MOUNT.format(root=root), **{"memory.max": str(64 * MIB)})
    assert memory_limit(tmp_path) == 64 * MIB


def test_each_limit_says_where_it_was_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree(tmp_path, "0::/a/b\n", V2_MOUNT.format(root="/"), **{"a/b/memory.max": str(9 * MIB), "a/memory.max": "max"})
    monkeypatch.setattr(resource, "getrlimit", lambda _: (100 * MIB, 200 * MIB))
    (_, machine), *rest = memory_limits(tmp_path)
    assert machine == "the machine"
    assert rest == [
        (9 * MIB, str(tmp_path / "sys/fs/cgroup/a/b/memory.max")),
        (100 * MIB, "RLIMIT_AS (ulimit -v)"),
    ]


def test_without_groups_it_is_the_machines(tmp_path: Path) -> None:
    assert memory_limit(tmp_path) > 64 * MIB


def test_the_address_space(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (100 * MIB, 200 * MIB))
    assert memory_limit(tmp_path) == 100 * MIB


def test_a_budget_beyond_the_limit_is_warned_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("dali_pipes.cache.memory.memory_limit", lambda: 800 * MIB)
    open_store("memory", memory_bytes=800 * MIB)
    assert not caplog.records
    open_store("memory", memory_bytes=6000 * MIB)
    assert "more than this process may use (838860800)" in caplog.text
    monkeypatch.setattr(limits, "memory_limit", lambda: 800 * MIB)
    assert open_store("memory").stats()["budget"] == 200 * MIB
