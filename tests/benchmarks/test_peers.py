"""The comparison with peers: it runs in parts, its document grows, and what is told of it is what was measured."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from PIL import Image

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"
NAMES = ("bound: two threads copy", "bound: codecs alone", "ours, torch", "DALI external source")


def run(*options: str) -> str:
    command = [sys.executable, str(BENCHMARKS / "peers.py"), "--tiny", *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two parts have written."""
    folder = tmp_path_factory.mktemp("peers")
    path = folder / "peers.json"
    run("--kinds", "photos", "--only", *NAMES, "--json", str(path), "--dir", str(folder / "files"))
    run("--kinds", "mammograms", "--only", "ours, reduced", "FFCV", "--json", str(path), "--dir", str(folder / "files"))
    return path


@pytest.fixture
def summary(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return load("peer_summary")


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", BENCHMARKS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


def test_parts_add_up(path: Path) -> None:
    document = json.loads(path.read_text())
    photos = document["results"]["photos"]
    assert set(photos) == set(NAMES)
    for name in NAMES[2:]:
        found = photos[name]
        assert "error" not in found
        rates = ("cold", "warm uint8", "again", "warm float32", "busy float32", "dropped")
        assert all(found[each] > 0 for each in (*rates, "start to first batch, again, s", "PSS, cold, MiB"))
        assert found["busy float32"] < 2 / 0.008, "a batch of two takes eight milliseconds at least"
    assert photos[NAMES[0]]["warm uint8"] > 0
    assert photos[NAMES[1]]["cold"] > 0
    assert document["results"]["mammograms"]["ours, reduced"]["cold"] > 0
    if importlib.util.find_spec("ffcv") is None:
        assert document["left_out"] == {"FFCV": "ffcv is not installed"}
    assert str(path.parent) not in json.dumps({**document, "runs": {}})


def test_it_is_drawn_and_told(path: Path, summary: ModuleType, tmp_path: Path) -> None:
    command = [sys.executable, str(BENCHMARKS / "plot.py"), str(path), "--out", str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True, timeout=120, env={**os.environ, "PYTHONPATH": str(ROOT)})
    with Image.open(tmp_path / "peers.png") as chart:
        assert min(chart.size) > 400
    told = summary.table(json.loads(path.read_text()))
    assert told.startswith("| images/s, or as said | torch | dali-cpu | best peer")
    assert "cold, mammograms, `reduce=True`" in told


def test_the_readme_tells_what_is_in_the_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    readme = load("readme")
    begin, end = readme.PEERS
    assert f"{begin}\n{readme.peers(readme.document('peers'))}\n{end}" in (ROOT / "README.md").read_text()


def entry(**figures: float) -> dict[str, Any]:
    return {name.replace("_", " "): value for name, value in figures.items()}


def test_where_a_peer_is_ahead_it_says_so(summary: ModuleType) -> None:
    photos = {
        "ours, torch": {**entry(warm_uint8=90.0), "start to first batch, cold, s": 2.0},
        "ours, dali-cpu": entry(warm_uint8=60.0),
        "A": {**entry(warm_uint8=100.0), "start to first batch, cold, s": 3.0},
        "B": {**entry(warm_uint8=500.0), "error": "other pixels"},
        "bound: two threads copy": entry(warm_uint8=180.0),
    }
    mammograms = {"ours, torch": entry(cold=4.0), "ours, reduced": entry(cold=16.0), "A": entry(cold=2.0)}
    found = {cells[0]: cells[1:] for cells in summary.rows({"photos": photos, "mammograms": mammograms})}
    assert found["warm, uint8 512x512"] == ["90", "60", "A: 100", "**0.90: not first**", "0.50 of 180"]
    assert found["start to first batch, cold, s"] == ["2", "", "A: 3", "1.50", ""], "less is better"
    assert found["cold, mammograms"] == ["4", "", "A: 2", "2.00", ""]
    assert found["cold, mammograms, `reduce=True` (other pixels)"] == ["16", "", "A: 2", "8.00", ""]


def test_quiet_runs_count_where_there_are_any(summary: ModuleType) -> None:
    runs = [{"stage": "cold", "cold": rate, "share of others": share} for rate, share in ((9, 0.0), (3, 0.5), (7, 0.1))]
    assert summary.medians(runs) == {"cold": 8.0, "runs, cold": 3, "noisy runs, cold": 1}
    assert summary.medians(runs[1:2]) == {"cold": 3.0, "runs, cold": 1, "noisy runs, cold": 1}
    failed = summary.medians([*runs, {"stage": "cold", "error": "crash", "share of others": 0.0}])
    assert failed["error"] == "crash"


def test_others_are_told_from_ones_own_children(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    process = load("peer_process")
    before = process.used_seconds()
    program = "import time\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass\ninput()"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE) as child:
        while process.used_seconds() - before < 0.25:
            assert child.poll() is None
        child.communicate(b"\n")
    assert process.used_seconds() - before >= 0.25, "children that have ended count too"
    whole, own = process.memory()
    assert whole > own > 10


def test_warm_epochs_must_give_what_the_first_one_gave(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    process = load("peer_process")
    first, last = torch.full((2, 3, 4, 4), 5, dtype=torch.uint8), torch.zeros(1, 3, 4, 4, dtype=torch.uint8)
    assert process.again(lambda: iter([first.clone(), last]), first, 3) == {}
    found = process.again(lambda: iter([first + 1, first, last]), first, 5)
    assert found == {"error": "a warm epoch gave other pixels than the first one"}
    found = process.again(lambda: iter([first]), first, 3)
    assert found == {"error": "a warm epoch gave 2 images, the first one 3"}


def test_the_page_cache_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    peers = load("peers")
    path = tmp_path / "a"
    path.write_bytes(bytes(100))
    asked: list[tuple[int, int, int]] = []
    monkeypatch.setattr(os, "posix_fadvise", lambda file, *rest: asked.append(rest))
    peers.drop([str(path), str(tmp_path)])
    assert asked == [(0, 0, os.POSIX_FADV_DONTNEED)]
