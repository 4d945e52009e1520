"""The patterns of examples/features.py, each on little data."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

import dali_pipes as dp
from dali_pipes.tools.demo_data import make_demo_set

PATH = Path(__file__).parent.parent.parent / "examples" / "features.py"
IMAGES, IDS = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0)), [f"s{at}" for at in range(8)]


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("example_features", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "example_features", module)
    spec.loader.exec_module(module)
    return module


def test_the_whole_chain(example: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = dp.Manifest.from_csv(make_demo_set(tmp_path, mammograms=10, photos=0)).subset(range(10))
    seconds = example.frozen_extractor(manifest, tmp_path / "cache", size=64)
    assert len(seconds) == 3
    assert "10 images went through the backbone in 3 epochs of 10" in capsys.readouterr().out


def test_folds_share_one_cache(example: ModuleType, tmp_path: Path) -> None:
    assert example.folds(IMAGES, IDS, tmp_path) == 8


def test_several_heads_over_one_backbone(example: ModuleType, tmp_path: Path) -> None:
    assert example.several_heads(IMAGES, IDS, tmp_path) == 8


def test_nested_outputs(example: ModuleType, tmp_path: Path) -> None:
    kept, made = example.nested_outputs(IMAGES, IDS, tmp_path), example.TwoHeads().eval()(IMAGES)
    assert torch.equal(kept["semantic"], made["semantic"])
    assert torch.equal(kept["visual"], made["visual"])
    assert kept["about"] == {"width": 256}


def test_runs_add_to_what_is_there(example: ModuleType, tmp_path: Path) -> None:
    assert example.enrichment(IMAGES, IDS, tmp_path) == [2, 2, 4]


def test_ranks_find_what_the_other_computed(tmp_path: Path) -> None:
    """In a process of its own: spawned ranks import the example by its file."""
    import subprocess

    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import torch, features\nfrom pathlib import Path\n"
        "if __name__ == '__main__':\n"
        "    torch.set_num_threads(1)\n"
        "    print(features.ranks(torch.rand(8, 3, 32, 32), [f's{at}' for at in range(8)], Path(sys.argv[2])))\n"
    )
    script = tmp_path / "run_ranks.py"
    script.write_text(code)
    done = subprocess.run(
        [sys.executable, str(script), str(PATH.parent), str(tmp_path / "cache")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[4, 4]\n"
