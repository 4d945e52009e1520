"""Several processes fill one cache: each file is decoded once, counts come together, who is killed is replaced."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from archives import manifest_of, noise, pictures
from make_images import dicom, raster

import dali_pipes as dp
from dali_pipes import cache
from dali_pipes.cli import main
from dali_pipes.crew import parent
from dali_pipes.crew.handed import from_plain, plain, read_samples, write_samples
from dali_pipes.decode import Limits
from dali_pipes.warming import Job
from tests.faults.pictures import RECIPE, make_set, right_or_nothing, truth
from tests.settled import settle

FILES = 60


@pytest.fixture
def manifest(tmp_path: Path) -> dp.Manifest:
    """60 tiny files, a few of them DICOM."""
    return make_set(tmp_path / "images", FILES)


def is_complete(manifest: dp.Manifest, folder: Path) -> bool:
    images = truth(manifest, RECIPE)
    with cache.open_store("pinned", folder, strict=True, verify="always") as store:
        there = right_or_nothing(store, images)
        return there == len(images) == store.stats()["entries"] and not list((folder / "claims").iterdir())


@pytest.mark.filterwarnings("ignore::dali_pipes.DaliPipesWarning")
def test_two_processes_decode_each_file_once(manifest: dp.Manifest, tmp_path: Path) -> None:
    (Path(manifest.root) / "bad.jpg").write_bytes(b"\xff\xd8\xff no picture")
    (Path(manifest.root) / "gone.jpg").write_bytes(b"x")
    listed = Path(manifest.root) / "m.csv"
    listed.write_text(listed.read_text() + "bad.jpg,0\ngone.jpg,0\n")
    both = dp.Manifest.from_csv(listed)
    (Path(manifest.root) / "gone.jpg").unlink()
    told: list[int] = []
    report = dp.warm(both, RECIPE, tmp_path / "cache", processes=2, num_workers=2, progress=told.append)
    assert sum(told) == report.samples == FILES + 2
    assert (report.decoded, report.misses, report.hits) == (FILES, FILES, 0)
    assert (report.failed, report.cache_errors, report.killed) == (2, 0, [])
    assert report.seconds_for_others == 0, "none waited for what another decoded"
    one = dp.warm(both, RECIPE, tmp_path / "other", processes=1)
    assert report.failures == one.failures
    assert set(report.failures) == {FILES, FILES + 1}
    assert is_complete(manifest, tmp_path / "cache")
    again = dp.warm(both, RECIPE, tmp_path / "cache", processes=2)
    assert (again.decoded, again.hits, again.failed) == (0, FILES, 2)


def test_a_process_that_is_killed_is_replaced(
    manifest: dp.Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two processes the first is killed when the first samples are done, and once more before it has begun."""
    members: list[Any] = []

    class Noted(parent._Member):
        def __init__(self, samples_fd: int) -> None:
            super().__init__(samples_fd)
            members.append(self)
            if len(members) == 1:
                self._process.kill()

    monkeypatch.setattr(parent, "_Member", Noted)
    told: list[int] = []

    def progress(count: int) -> None:
        told.append(count)
        if len(told) == 1:
            members[1]._process.kill()

    report = dp.warm(manifest, RECIPE, tmp_path / "cache", processes=2, num_workers=2, progress=progress)
    assert set(report.killed) == {"was ended by SIGKILL"}
    assert 1 <= len(report.killed) <= 2  # the second may have been done before it was killed
    assert sum(told) == report.samples == FILES
    assert (report.failures, report.cache_errors) == ({}, 0)
    assert is_complete(manifest, tmp_path / "cache")


def test_a_file_that_kills_each_process_ends_all(
    manifest: dp.Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boot = parent._BOOT.replace("main(", "import os;os.kill(os.getpid(),11);main(", 1)
    monkeypatch.setattr(parent, "_BOOT", boot)
    with pytest.raises(dp.errors.WorkerError, match=r"3 processes .* was ended by SIGSEGV"):
        dp.warm(manifest, RECIPE, tmp_path / "cache", processes=1 + 1)


def test_the_first_bad_file_ends_all_where_that_is_asked_for(tmp_path: Path) -> None:
    manifest = manifest_of(tmp_path / "archive", {**pictures(8), "bad.jpg": b"\xff\xd8\xff no"})
    with pytest.raises(dp.DecodeError, match="sample 8"):
        dp.warm(manifest, RECIPE, tmp_path / "cache", processes=2, on_error="raise")
    (tmp_path / "file").write_text("")
    with pytest.raises(cache.CacheError, match="nothing was decoded"):
        dp.warm(manifest, RECIPE, tmp_path / "file" / "cache", processes=2)


def test_studies_and_masks_are_warmed_too(tmp_path: Path) -> None:
    files = {f"{i}.png": raster(noise(i, 20, 30), "png") for i in range(6)}
    files |= {f"m{i}.png": raster(np.full((20, 30), i % 2, np.uint8), "png") for i in range(6)}
    manifest_of(tmp_path / "archive", files)
    rows = "".join(f"{i}.png,m{i}.png,g{i // 2},{i % 2}\n" for i in range(6))
    (tmp_path / "archive" / "m.csv").write_text(f"path,mask,group,side\n{rows}")
    settle(tmp_path / "archive")
    studies = dp.Manifest.from_csv(tmp_path / "archive" / "m.csv").studies(by="group", view="side")
    told: list[int] = []
    report = dp.warm(studies, RECIPE, tmp_path / "cache", processes=2, num_workers=2, progress=told.append)
    assert (report.samples, report.decoded, sum(told)) == (3, 6, 3)
    with dp.Loader(
        studies, RECIPE, batch_size=3, backend="torch", cache_mode="pinned", cache_dir=tmp_path / "cache"
    ) as loader:
        assert sum(len(batch) for batch in loader) == 3
        stats = loader.stats()
        assert (stats["decoded"], stats["masks"]["decoded"]) == (0, 0)


@pytest.mark.filterwarnings("ignore::dali_pipes.DaliPipesWarning")
def test_what_is_warned_of_is_said_once(tmp_path: Path) -> None:
    pixels = noise(1, 20, 30, 1)
    files = {f"{i}.dcm": dicom(pixels + i, BurnedInAnnotation="YES") for i in range(4)}
    manifest = manifest_of(tmp_path / "archive", files)
    with pytest.warns(dp.DaliPipesWarning) as said:
        dp.warm(manifest, RECIPE, tmp_path / "cache", processes=2, num_workers=2)
    texts = [str(each.message) for each in said]
    assert 1 <= len(texts) <= 2  # one of each process
    assert all("annotation" in text for text in texts)
    with pytest.warns(dp.DaliPipesWarning, match="it is left out"):
        report = dp.warm(
            manifest, RECIPE, tmp_path / "other", processes=2,
            decode_options={"burned_in": "error", "limits": Limits(pixels=1000)}, cache_options={"secret": b"s" * 16},
        )  # fmt: skip
    assert report.failed == 4


def test_the_command_line(manifest: dp.Manifest, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "recipe.json"
    recipe.write_text(RECIPE.to_json())
    listed = str(Path(manifest.root) / "m.csv")
    wanted = ["warm", listed, "--recipe", str(recipe), "--cache-dir", str(tmp_path / "cache"), "--json"]
    assert main([*wanted, "--processes", "2"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["samples"], document["decoded"], document["killed"]) == (FILES, FILES, [])
    assert is_complete(manifest, tmp_path / "cache")
    with pytest.raises(dp.ConfigError, match="Ray has its own"):
        dp.warm(manifest, RECIPE, tmp_path / "cache", processes=2, engine="ray")


def test_ctrl_c_ends_all(manifest: dp.Manifest, tmp_path: Path) -> None:
    """The parent gets SIGINT when the first samples are done; no process of it is left."""
    script = (
        "import sys,dali_pipes as dp\nfrom dali_pipes.crew import parent\n"
        "def began(done):\n print(*(m._process.pid for m in crew),flush=True)\n"
        "crew=[]\nmade=parent._Member.__init__\n"
        "def noted(self,fd):\n made(self,fd);crew.append(self)\n"
        "parent._Member.__init__=noted\n"
        "m=dp.Manifest.from_csv(sys.argv[1])\n"
        "dp.warm(m,dp.Recipe(size=(16,20)),sys.argv[2],processes=2,num_workers=2,progress=began)\n"
        "input()\n"
    )
    run = subprocess.Popen(
        [sys.executable, "-c", script, str(Path(manifest.root) / "m.csv"), str(tmp_path / "cache")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert run.stdout is not None
    pids = [int(pid) for pid in run.stdout.readline().split()]
    run.send_signal(signal.SIGINT)
    _, errors = run.communicate(timeout=60)
    assert run.returncode == -signal.SIGINT
    assert "KeyboardInterrupt" in errors
    assert len(pids) == 2
    assert not [pid for pid in pids if os.path.exists(f"/proc/{pid}")]


def test_a_process_that_starts_while_all_end_does_no_work(
    manifest: dp.Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = deque([parent.Chunk([0, 1])])
    crew = parent._Crew(manifest, RECIPE, Job(str(tmp_path / "cache")), work)

    class Late(parent._Member):
        def __init__(self, samples_fd: int) -> None:
            super().__init__(samples_fd)
            crew.close()

    monkeypatch.setattr(parent, "_Member", Late)
    assert crew._one_life() is False
    assert len(work) == 1
    assert not crew._members


def test_processes_end_when_their_parent_is_killed(manifest: dp.Manifest, tmp_path: Path) -> None:
    samples = write_samples(manifest)
    member = parent._Member(samples)
    try:
        member.hang_up()
        assert member._process.wait(60) == 1
    finally:
        member.end()
        os.close(samples)


@pytest.mark.parametrize("value", [None, True, 3, 0.5, "x", b"\x00\xff", Limits(pixels=7), {"bytes": {"a": [1, b"x"]}}])
def test_options_arrive_as_they_are(value: Any) -> None:
    assert from_plain(json.loads(json.dumps(plain(value)))) == value


def test_what_cannot_be_handed_over_is_refused() -> None:
    with pytest.raises(dp.ConfigError, match="type Thread"):
        plain({"a": threading.Thread()})


def test_samples_arrive_as_they_are(tmp_path: Path) -> None:
    rows = "".join(f"{name},{mask},{mask and 3}\n" for name, mask in (("a.jpg", "m.png"), ("ü b.jpg", "")))
    (tmp_path / "m.csv").write_text(f"path,mask,mask_frame\n{rows}", "utf-8")
    manifest = dp.Manifest.from_csv(tmp_path / "m.csv")
    fd = write_samples(manifest)
    try:
        found = read_samples(fd, str(manifest.root), remote=False)
    finally:
        os.close(fd)
    assert list(found.paths) == list(manifest.paths)
    assert list(found.ids) == list(manifest.ids)
    assert found.frames.tolist() == manifest.frames.tolist()
    assert {name: list(text) for name, text in found.columns.items()} == {
        "mask": ["m.png", ""],
        "mask_frame": ["3", ""],
    }
    assert found.locate(1) == manifest.locate(1)
