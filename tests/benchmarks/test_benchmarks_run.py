"""Every benchmark runs on tiny data, writes what the charts need, and tells nothing of the host: so they cannot rot."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
DRAWN = ("epoch_time", "warm_bound", "cold_bound", "micro")
NAMES = (*DRAWN, "features", "micro_augment", "micro_dali_twins", "scale", "varied_bound")


def run(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the benchmarks have written their documents."""
    made = tmp_path_factory.mktemp("documents")
    for name in NAMES:
        run(f"benchmarks/{name}.py", "--tiny", "--json", str(made / f"{name}.json"))
    return made


@pytest.mark.parametrize("name", NAMES)
def test_it_runs_and_writes_the_machines_facts_but_not_its_name(name: str, folder: Path) -> None:
    text = (folder / f"{name}.json").read_text()
    written = json.loads(text)
    assert written["benchmark"] == name
    assert written["machine"]["cores"] >= 1
    assert set(written["machine"]["versions"]) >= {"torch", "numpy"}
    assert platform.node() not in text
    assert str(folder.parent) not in text


def test_the_figures_can_be_drawn(folder: Path) -> None:
    run("benchmarks/plot.py", *(str(folder / f"{name}.json") for name in DRAWN))
    for name in DRAWN:
        with Image.open(folder / f"{name}.png") as chart:
            assert min(chart.size) > 400


def test_operators_are_compared_with_dalis(folder: Path) -> None:
    augment, twins = (json.loads((folder / f"micro_{name}.json").read_text()) for name in ("augment", "dali_twins"))
    assert set(augment["median_ms"]) >= {"warp", "recolour, all", "DALI warp_affine"}
    assert len(twins["results"]) == 5
    assert all(each["identical"] and each["ratio"] > 0 for each in twins["results"])


def test_bench_command_measures_modes_on_ones_own_data(tmp_path: Path) -> None:
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    (tmp_path / "rows.csv").write_text("path,label\na.png,0\n")
    options = ["--img-size", "16", "--epochs", "2", "--backends", "torch", "--modes", "none", "npy", "--json"]
    document: dict[str, Any] = json.loads(run("-m", "dali_pipes", "bench", str(tmp_path / "rows.csv"), *options))
    none, npy = document["results"]
    assert (none["decoded"], npy["decoded"]) == (2, 1), "the cache did not spare the second epoch its decoding"
    assert npy["disk_mib"] > none["disk_mib"] == 0
    assert npy["persistent"]
    assert not none["persistent"]
    assert all(each["images"] == 1 and each["first_epoch"] > 0 for each in document["results"])
