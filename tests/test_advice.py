"""Advice: its formulas on made-up costs, its measurements against what loaders really do, and what doctor prints."""

from __future__ import annotations

import json
import statistics
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import dali_pipes as dp
from dali_pipes import cache
from dali_pipes.cli import main
from dali_pipes.cli.doctor import explain
from dali_pipes.tools.advice import (
    EPOCHS,
    Advice,
    Costs,
    Estimate,
    Machine,
    ModeCosts,
    _decode,
    _steady,
    _store,
    advise,
    disk_rate,
    estimate,
    recommend,
)
from dali_pipes.tools.demo_data import mammogram, photo
from tests.make_images import dicom, jpeg

GIB = 1 << 30
STORED = [mode for mode in cache.MODES if mode not in ("none", "tiered")]
COSTS = Costs(
    start_seconds=5.0,
    decode_seconds=0.1,
    batch_seconds=0.001,
    source_bytes=2e6,
    base_bytes=750_000,
    modes={mode: ModeCosts(0.004, 0.001, 0.0 if mode == "memory" else 800_000.0) for mode in STORED},
)
MACHINE = Machine(workers=2, memory=16 * GIB, memory_budget=8 * GIB, free_disk=100 * GIB, disk_rate=1e9)


def by_mode(samples: int = 1000, costs: Costs = COSTS, machine: Machine = MACHINE) -> dict[str, Estimate]:
    return {each.mode: each for each in estimate(samples, costs, machine)}


def test_totals_of_a_set_that_fits() -> None:
    found = by_mode()
    assert list(found) == list(cache.MODES)
    assert found["none"] == Estimate("none", 0, 0, pytest.approx(106.0), pytest.approx(101.0), "")
    assert found["npy"] == Estimate("npy", 800_000_000, 0, pytest.approx(108.0), pytest.approx(2.0), "")
    assert found["memory"] == Estimate("memory", 0, 750_000_000, pytest.approx(108.0), pytest.approx(2.0), "")
    assert found["tiered"] == Estimate("tiered", 800_000_000, 750_000_000, pytest.approx(108.0), pytest.approx(2.0), "")


def test_what_no_memory_holds_comes_at_the_speed_of_the_disk() -> None:
    found = by_mode(machine=replace(MACHINE, memory=500_000_000, memory_budget=375_000_000, disk_rate=1e6))
    assert found["none"].later_epoch == pytest.approx(2000.0)
    assert found["npy"].first_epoch == pytest.approx(2000.0)
    assert found["npy"].later_epoch == pytest.approx(800.0)
    assert found["memory"].later_epoch == pytest.approx(0.5 * 2.0 + 0.5 * 2000.0)
    assert found["memory"].memory_bytes == 375_000_000
    assert found["memory"].lacking == "not all of it fits into the memory that a cache may take"
    assert found["tiered"].later_epoch == pytest.approx(0.5 * 2.0 + 0.5 * 800.0)


def test_a_full_disk_leaves_memory_and_nothing() -> None:
    small = by_mode(machine=replace(MACHINE, free_disk=800_000_000))
    assert {mode for mode, each in small.items() if each.lacking} == {*cache.DISK_MODES, "tiered"}
    assert recommend(list(small.values()))[0] == "memory"
    mode, reason = recommend(estimate(1000, COSTS, replace(MACHINE, free_disk=0, memory_budget=1)))
    assert mode == "none"
    assert "the disk has too little room" in reason


def test_the_recommendation() -> None:
    mode, reason = recommend(estimate(1000, COSTS, MACHINE))
    assert (mode, reason) == ("pinned", f"{EPOCHS} epochs take 8.1 times less than without a cache.")
    cheap = replace(COSTS, decode_seconds=0.0001)
    assert recommend(estimate(1000, cheap, MACHINE))[0] == "none"
    slow = {**COSTS.modes, "pinned": replace(COSTS.modes["pinned"], get_seconds=0.2)}
    assert recommend(estimate(1000, replace(COSTS, modes=slow), MACHINE))[0] == "tensor-memmap"


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> dp.Manifest:
    """Thirty photos and mammograms, and one file that is none."""
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for i in range(24):
        (folder / f"{i}.jpg").write_bytes(jpeg(photo(rng, 300, 400)))
    for i in range(24, 30):
        (folder / f"{i}.dcm").write_bytes(dicom(mammogram(rng, 256, 200, 12), "rle"))
    names = sorted(path.name for path in folder.iterdir())
    (folder / "m.csv").write_text("path\n" + "".join(f"{name}\n" for name in names))
    return dp.Manifest.from_csv(folder / "m.csv")


RECIPE = dp.Recipe(size=96, mean=0.5, std=0.25)


@pytest.fixture(scope="module")
def advice(manifest: dp.Manifest, tmp_path_factory: pytest.TempPathFactory) -> Advice:
    """Advice for the thirty."""
    folder = tmp_path_factory.mktemp("place")
    found = advise(manifest, RECIPE, folder, workers=2)
    assert list(folder.iterdir()) == []
    return found


def test_bytes_are_those_of_real_runs(manifest: dp.Manifest, advice: Advice, tmp_path: Path) -> None:
    assert (advice.samples, advice.measured, advice.failed) == (30, 24, 0)
    assert advice.costs.base_bytes == 3 * 96 * 96
    found = {each.mode: each for each in advice.modes}
    assert found["memory"].memory_bytes == found["tiered"].memory_bytes == 30 * 3 * 96 * 96
    for mode in ("npy", "pinned", "disk"):
        with dp.Loader(manifest, RECIPE, batch_size=8, cache_mode=mode, cache_dir=tmp_path, backend="torch") as loader:
            list(loader)
        used = sum(file.stat().st_blocks * 512 for file in (tmp_path / mode).rglob("*") if file.is_file())
        if mode == "npy":  # all entries are alike, so it is exact
            assert found[mode].disk_bytes == used
        else:
            assert found[mode].disk_bytes == pytest.approx(used, rel=0.25)


def test_times_are_those_of_real_runs(tmp_path: Path) -> None:
    """Estimates and epochs take turns, for a busy machine is busy for both; what is wrong is so in each turn."""
    picture, recipe = photo(np.random.default_rng(0), 600, 800), dp.Recipe(size=256, mean=0.5, std=0.25)
    for i in range(24):
        (tmp_path / f"{i}.jpg").write_bytes(jpeg(np.roll(picture, 16 * i, 1)))
    (tmp_path / "m.csv").write_text("path\n" + "".join(f"{i}.jpg\n" for i in range(24)))
    manifest = dp.Manifest.from_csv(tmp_path / "m.csv")
    ratios: dict[tuple[str, str], list[float]] = {}
    wrong: dict[tuple[str, str], list[float]] = {}
    for turn in range(5):
        told = {each.mode: each for each in advise(manifest, recipe, tmp_path, workers=2).modes}
        for mode in ("none", "memory", "disk", "npy", "tensor-memmap", "pinned"):
            first, later = epoch_times(manifest, recipe, mode, tmp_path / str(turn))
            ratios.setdefault((mode, "first"), []).append(told[mode].first_epoch / first)
            ratios.setdefault((mode, "later"), []).append(told[mode].later_epoch / later)
        wrong = {name: found for name, found in ratios.items() if not any(1 / 4 < ratio < 4 for ratio in found)}
        if not wrong:
            break
    assert not wrong


def epoch_times(manifest: dp.Manifest, recipe: dp.Recipe, mode: str, folder: Path) -> tuple[float, float]:
    """Seconds of the first epoch, and the median of four later ones."""
    directory = folder if mode in cache.PERSISTENT_MODES else None
    seconds = []
    with dp.Loader(
        manifest, recipe, batch_size=8, cache_mode=mode, cache_dir=directory, backend="torch", num_workers=2
    ) as loader:
        for _ in range(5):
            start = time.perf_counter()
            list(loader)
            seconds.append(time.perf_counter() - start)
    return seconds[0], statistics.median(seconds[1:])


def clock(monkeypatch: pytest.MonkeyPatch, *seconds: float) -> None:
    """Lets advice read these times, one after another."""
    monkeypatch.setattr("dali_pipes.tools.advice.time", SimpleNamespace(perf_counter=iter(seconds).__next__))


def test_units_of_what_is_measured(manifest: dp.Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock(monkeypatch, 0.0, 10.0, 12.0)
    images, start, each, size = _decode(manifest.subset(range(4)), RECIPE, 1)
    assert (len(images), start, each) == (4, 8.0, 0.5)
    assert size == sum(manifest.resolve(i).stat().st_size for i in range(4)) / 4
    clock(monkeypatch, 0.0, 0.1, 1.0, 1.3, 2.0, 2.2)
    assert _steady(lambda: None) == pytest.approx(0.2)
    clock(monkeypatch, 0.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0)
    costs = _store("npy", tmp_path, images, 1)
    assert (costs.put_seconds, costs.get_seconds) == (1.0, 0.25)
    clock(monkeypatch, 1.0, 3.0)
    assert disk_rate(tmp_path) == 8 << 20
    assert not (tmp_path / "probe").exists()


def test_bad_files_are_counted_and_only_bad_ones_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg(np.zeros((30, 30, 3), np.uint8)))
    (tmp_path / "b.jpg").write_bytes(b"\xff\xd8 nothing")
    (tmp_path / "m.csv").write_text("path\na.jpg\nb.jpg\n")
    manifest = dp.Manifest.from_csv(tmp_path / "m.csv")
    steps: list[tuple[int, int]] = []
    advice = advise(manifest, RECIPE, tmp_path / "not" / "yet", progress=lambda *step: steps.append(step))
    assert (advice.measured, advice.failed) == (2, 1)
    assert steps == [(i, 8) for i in range(1, 9)]
    assert not (tmp_path / "not").exists()
    with pytest.raises(dp.DecodeError, match="none of 1 samples"):
        advise(manifest.subset([1]), RECIPE, tmp_path)


def test_doctor_advises(manifest: dp.Manifest, advice: Advice, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", str(manifest.root / "m.csv"), "--img-size", "32", "--num-workers", "1", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["advice"]
    assert told["costs"]["base_bytes"] == 3 * 32 * 32
    assert [each["mode"] for each in told["modes"]] == list(cache.MODES)
    text = explain(advice)
    assert f'Use cache_mode="{advice.recommended}"' in text
    assert "30 samples; 24 measured, 0 of them cannot be decoded." in text
    assert "A base image takes 27.0 KiB" in text


def test_doctor_without_a_manifest_measures_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    assert "advice" not in json.loads(capsys.readouterr().out)
