"""Filling a cache by shards: each file by one of them, each once, and what lacks is listed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from archives import coded, manifest_of
from hypothesis import given
from hypothesis import strategies as st
from make_images import dicom

import dali_pipes as dp
from dali_pipes.cli import main
from dali_pipes.warming import chunks, missing, shard_from_environment, shard_of, warm

RECIPE = dp.Recipe(size=(8, 8))


@pytest.fixture
def manifest(tmp_path: Path) -> dp.Manifest:
    """Twelve photos, and a DICOM file of five frames."""
    files = {f"{i:02d}.jpg": coded(i) for i in range(12)}
    files["frames.dcm"] = dicom(list(np.arange(5 * 6 * 7, dtype=np.uint8).reshape(5, 6, 7)))
    found = manifest_of(tmp_path / "archive", files)
    lines = ["path,frame,label", *(f"{name},0,{i}" for i, name in enumerate(list(files)[:12]))]
    lines += [f"frames.dcm,{frame},12" for frame in range(5)]
    (found.root / "list.csv").write_text("\n".join(lines))
    return dp.Manifest.from_csv(found.root / "list.csv")


def lacking(manifest: dp.Manifest, folder: Path, **options: Any) -> list[int]:
    return [sample for sample, lacks in missing(manifest, RECIPE, folder, **options) if lacks]


def test_shards_share_the_samples_out(manifest: dp.Manifest) -> None:
    shares = [shard_of(manifest, (number, 3)).tolist() for number in range(3)]
    assert sorted(sample for share in shares for sample in share) == list(range(17))
    assert sum(12 in share for share in shares) == 1
    frames = next(share for share in shares if 12 in share)
    assert set(range(12, 17)) <= set(frames)  # all frames of a file fall to one shard
    assert shares == [shard_of(manifest, (number, 3)).tolist() for number in range(3)]


def test_a_shard_does_not_depend_on_the_rest_of_the_manifest(manifest: dp.Manifest) -> None:
    for number in range(4):
        whole = {manifest.paths[sample] for sample in shard_of(manifest, (number, 4)).tolist()}
        part = manifest.subset(range(3, 9))
        assert {part.paths[sample] for sample in shard_of(part, (number, 4)).tolist()} == whole & set(part.paths)


def test_each_shard_decodes_its_own_and_the_cache_is_complete(manifest: dp.Manifest, tmp_path: Path) -> None:
    decoded = []
    for number in range(3):
        report = warm(manifest, RECIPE, tmp_path / "cache", shard=(number, 3))
        assert report.decoded == report.samples == len(shard_of(manifest, (number, 3)))
        decoded.append(report.decoded)
    assert sum(decoded) == 17
    assert lacking(manifest, tmp_path / "cache") == []
    again = warm(manifest, RECIPE, tmp_path / "cache")
    assert (again.decoded, again.hits) == (0, 17)


def test_what_lacks_is_listed_and_nothing_is_decoded_or_written(manifest: dp.Manifest, tmp_path: Path) -> None:
    assert lacking(manifest, tmp_path / "cache") == list(range(17))
    warm(manifest, RECIPE, tmp_path / "cache", shard=(1, 2))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*")}
    assert lacking(manifest, tmp_path / "cache") == shard_of(manifest, (0, 2)).tolist()
    assert lacking(manifest, tmp_path / "cache", shard=(1, 2)) == []
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*")} == before


def test_at_depth_16_an_image_without_its_attributes_lacks(manifest: dp.Manifest, tmp_path: Path) -> None:
    deep = dp.Recipe(size=(8, 8), depth=16)
    warm(manifest, deep, tmp_path / "cache", cache_mode="npy")
    assert not any(lacks for _, lacks in missing(manifest, deep, tmp_path / "cache", cache_mode="npy"))
    small = min((tmp_path / "cache" / "npy").rglob("*.npy"), key=lambda path: path.stat().st_size)
    small.unlink()
    assert any(lacks for _, lacks in missing(manifest, deep, tmp_path / "cache", cache_mode="npy"))


def test_bad_files_are_counted_by_their_own_numbers(manifest: dp.Manifest, tmp_path: Path) -> None:
    (manifest.root / "07.jpg").write_bytes(b"\xff\xd8\xff nothing")
    with pytest.warns(dp.DaliPipesWarning, match="sample 7"):
        report = warm(manifest, RECIPE, tmp_path / "cache")
    assert (report.failed, list(report.failures)) == (1, [7])
    assert lacking(manifest, tmp_path / "cache") == [7]
    with pytest.raises(dp.DecodeError, match="sample 7"):
        warm(manifest, RECIPE, tmp_path / "cache", on_error="raise")


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(1, 12))
def test_chunks_keep_files_whole(frames: list[int], size: int) -> None:
    paths = [f"{number}.dcm" for number, count in enumerate(frames) for _ in range(count)]

    class Paths:
        """As much of a manifest as chunks look at."""

    Paths.paths = paths  # type: ignore[attr-defined]
    cut = chunks(Paths, np.arange(len(paths)), size)  # type: ignore[arg-type]
    assert np.concatenate(cut).tolist() == list(range(len(paths)))
    homes = [{paths[sample] for sample in chunk.tolist()} for chunk in cut]
    assert sum(map(len, homes)) == len(set(paths))
    assert all(len(chunk) <= max(size, max(frames)) for chunk in cut)


@pytest.mark.parametrize(
    ("variables", "found"),
    [
        ({}, None),
        ({"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "8"}, (3, 8)),
        ({"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "8", "SLURM_ARRAY_TASK_MIN": "1"}, (2, 8)),
        (
            {
                "SLURM_ARRAY_TASK_ID": "9",
                "SLURM_ARRAY_TASK_COUNT": "4",
                "SLURM_ARRAY_TASK_MIN": "1",
                "SLURM_ARRAY_TASK_STEP": "4",
            },
            (2, 4),
        ),
        ({"RANK": "1", "WORLD_SIZE": "2"}, (1, 2)),
        ({"RANK": "1"}, None),
        ({"SLURM_ARRAY_TASK_ID": "0", "SLURM_ARRAY_TASK_COUNT": "2", "RANK": "1", "WORLD_SIZE": "9"}, (0, 2)),
    ],
)
def test_the_scheduler_names_the_shard(
    variables: dict[str, str], found: tuple[int, int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ID", "COUNT", "MIN", "STEP"):
        monkeypatch.delenv(f"SLURM_ARRAY_TASK_{name}", raising=False)
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert shard_from_environment() == found


def test_wrong_arguments(manifest: dp.Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(dp.ConfigError, match="allowed are 'local', 'ray'"):
        warm(manifest, RECIPE, tmp_path, engine="spark")
    with pytest.raises(dp.ConfigError, match="shards are numbered from 0 to 3"):
        warm(manifest, RECIPE, tmp_path, shard=(4, 4))
    with pytest.raises(dp.ConfigError, match="allowed are the fields of Job"):
        warm(manifest, RECIPE, tmp_path, workers=3)
    with pytest.raises(dp.ConfigError, match="chunk=0"):
        chunks(manifest, np.arange(3), 0)
    monkeypatch.setenv("RANK", "first")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(dp.ConfigError, match="RANK='first'"):
        shard_from_environment()


def test_the_command(manifest: dp.Manifest, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(manifest.root / "list.csv"), "--cache-dir", str(tmp_path / "cache"), "--img-size", "8", "--json"]
    assert main(["warm", *arguments, "--shard", "0/2"]) == 0
    share = json.loads(capsys.readouterr().out)
    assert share["samples"] == share["decoded"] == len(shard_of(manifest, (0, 2)))
    assert share["shard"] == [0, 2]
    assert main(["warm", *arguments, "--missing"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["numbers"] == shard_of(manifest, (1, 2)).tolist()
    assert main(["warm", *arguments]) == 0
    capsys.readouterr()
    assert main(["warm", *arguments, "--missing"]) == 0
    assert json.loads(capsys.readouterr().out)["missing"] == 0
    for wrong in ("2/2", "x", "1/0", "-1/2"):
        with pytest.raises(SystemExit):
            main(["warm", *arguments, f"--shard={wrong}"])


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_at_once_decode_each_file_once(manifest: dp.Manifest, tmp_path: Path, hosts: int) -> None:
    """Each host is a process of its own; what one decodes no other waits for."""
    command = [sys.executable, "-m", "dali_pipes", "warm", str(manifest.root / "list.csv"), "--json"]
    command += ["--cache-dir", str(tmp_path / "cache"), "--img-size", "8", "--num-workers", "1"]
    running = [
        subprocess.Popen([*command, "--shard", f"{number}/{hosts}"], stdout=subprocess.PIPE, text=True)
        for number in range(hosts)
    ]
    reports = [json.loads(each.communicate(timeout=120)[0]) for each in running]
    assert [each.returncode for each in running] == [0] * hosts
    assert sum(each["decoded"] for each in reports) == 17
    assert sum(each["seconds_for_others"] for each in reports) == 0
    assert lacking(manifest, tmp_path / "cache") == []


def test_a_host_that_is_killed_in_the_middle_is_run_again(manifest: dp.Manifest, tmp_path: Path) -> None:
    script = (
        "import sys,dali_pipes as dp\n"
        "m=dp.Manifest.from_csv(sys.argv[1])\n"
        "def wait(done):\n print(flush=True);sys.stdin.read()\n"
        "dp.warm(m,dp.Recipe(size=(8,8)),sys.argv[2],shard=(0,2),num_workers=1,progress=wait)\n"
    )
    given = [str(manifest.root / "list.csv"), str(tmp_path / "cache")]
    host = subprocess.Popen(
        [sys.executable, "-c", script, *given], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert host.stdout is not None
    assert host.stdout.readline() == "\n"  # its first sample is there
    host.kill()
    host.communicate()
    other = warm(manifest, RECIPE, tmp_path / "cache", shard=(1, 2))
    again = warm(manifest, RECIPE, tmp_path / "cache", shard=(0, 2))
    share = len(shard_of(manifest, (0, 2)))
    assert other.decoded == 17 - share
    assert again.hits >= 1
    assert again.hits + again.decoded == share
    assert other.seconds_for_others == 0  # `again` may wait for a claim that the kill left without its owner's name
    assert lacking(manifest, tmp_path / "cache") == []
