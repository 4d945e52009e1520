"""A cache filled by Ray: two worker processes share the files out, and a worker that is lost is replaced."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from archives import coded, manifest_of, noise
from make_images import jpeg

import dali_pipes as dp
from dali_pipes.cache import open_store
from dali_pipes.warming import missing, warm

RECIPE = dp.Recipe(size=(8, 8))

if os.environ.get("DALI_PIPES_REQUIRE_INTEGRATIONS") != "1":
    pytest.importorskip("ray", reason="Ray is not installed")

pytestmark = pytest.mark.filterwarnings("default")  # Ray's own code warns


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[Any]:
    import ray

    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    paths = os.pathsep.join([str(Path(dp.__file__).parent.parent), os.environ.get("PYTHONPATH", "")])
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env={"env_vars": {"PYTHONPATH": paths}})
    yield ray
    ray.shutdown()


def test_two_workers_decode_each_file_once(ray_cluster: Any, tmp_path: Path) -> None:
    manifest = manifest_of(tmp_path / "archive", {f"{i:02d}.jpg": coded(i) for i in range(20)})
    done: list[int] = []
    report = warm(manifest, RECIPE, tmp_path / "cache", engine="ray", chunk=3, progress=done.append)
    assert (report.samples, report.decoded, report.hits, report.failed) == (20, 20, 0, 0)
    assert sum(done) == 20
    writers = {path.name.split(".")[0] for path in (tmp_path / "cache" / "pinned").glob("*.idx")}
    assert len(writers) >= 2  # segments of several tasks
    again = warm(manifest, RECIPE, tmp_path / "cache", engine="ray", chunk=10)
    assert (again.decoded, again.hits) == (0, 20)


def test_failures_come_back_with_their_numbers(ray_cluster: Any, tmp_path: Path) -> None:
    files = {f"{i}.jpg": coded(i) for i in range(6)}
    files["4.jpg"] = b"\xff\xd8\xff nothing"
    manifest = manifest_of(tmp_path / "archive", files)
    report = warm(manifest, RECIPE, tmp_path / "cache", engine="ray", chunk=2)
    assert (report.decoded, report.failed, list(report.failures)) == (5, 1, [4])
    with pytest.raises(dp.DecodeError, match="sample 4"):
        warm(manifest, RECIPE, tmp_path / "other", engine="ray", chunk=2, on_error="raise")


def test_a_lost_worker_is_replaced(ray_cluster: Any, tmp_path: Path) -> None:
    picture = noise(1, 600, 800)
    files = {f"{i:03d}.jpg": jpeg(np.roll(picture, i, axis=0)) for i in range(60)}
    manifest = manifest_of(tmp_path / "archive", files)
    lost = threading.Event()

    def lose_one(done: int) -> None:
        if not lost.is_set():
            lost.set()
            found = subprocess.run(["pgrep", "-f", "ray::_warm_chunk"], capture_output=True, text=True)
            for pid in found.stdout.split()[:1]:
                os.kill(int(pid), signal.SIGKILL)

    report = warm(manifest, RECIPE, tmp_path / "cache", engine="ray", chunk=10, progress=lose_one)
    assert lost.is_set()
    assert (report.samples, report.failed) == (60, 0)
    assert not any(lacks for _, lacks in missing(manifest, RECIPE, tmp_path / "cache"))
    with open_store("pinned", tmp_path / "cache", verify="always", read_only=True) as store:
        assert all(store.get(key) is not None for key in store.keys())  # noqa: SIM118
