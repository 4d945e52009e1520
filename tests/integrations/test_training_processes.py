"""Several processes share one epoch: torchrun with DDP (from two ranks to three), Accelerate, Ray Train, torchdata."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from archives import coded, manifest_of
from torch.utils.data import default_collate

import dali_pipes as dp

COUNT = 21
ROOT = Path(__file__).parent.parent.parent


def needs(module: str, name: str) -> pytest.MarkDecorator:
    """Skips where a library is missing, but not where none may be."""
    missing = importlib.util.find_spec(module) is None and os.environ.get("DALI_PIPES_REQUIRE_INTEGRATIONS") != "1"
    return pytest.mark.skipif(missing, reason=f"{name} is not installed")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> dp.Manifest:
    files = {f"{i}.img": coded(i) for i in range(COUNT)}
    return manifest_of(tmp_path_factory.mktemp("archive"), files, [i % 3 for i in range(COUNT)])


def run(command: list[str], folder: Path) -> str:
    environment = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    environment |= {
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "ACCELERATE_USE_CPU": "true",
        "PYTHONWARNINGS": "ignore",
    }
    told = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, timeout=250, cwd=folder, env=environment
    )
    assert told.returncode == 0, told.stdout[-2000:] + told.stderr[-4000:]
    return told.stdout


def torchrun(ranks: int) -> list[str]:
    return ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]


ELASTIC = """
import json, sys
from pathlib import Path
import torch
from torch.nn.parallel import DistributedDataParallel
import dali_pipes as dp

manifest, out, steps = dp.Manifest.from_csv(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
recipe = dp.Recipe(4, mean=0.5, std=0.5)
loader = dp.Loader(manifest, recipe, batch_size=2, shuffle=True, backend="torch", num_workers=1)
torch.distributed.init_process_group("gloo")  # after the loader was made, as happens
rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
if (out / "state.json").exists():
    loader.load_state_dict(json.loads((out / "state.json").read_text()))
model = DistributedDataParallel(torch.nn.Linear(48, 3))
taken = []
for step, batch in enumerate(loader, 1):
    model(batch.image.flatten(1)).sum().backward()
    taken += batch.index[batch.valid].tolist()
    if step == steps:
        break
(out / f"{world}-{rank}.json").write_text(json.dumps(taken))
torch.distributed.barrier()
if rank == 0:  # one rank saves for all
    (out / "state.json").write_text(json.dumps(loader.state_dict()))
torch.distributed.destroy_process_group()
"""


def test_torchrun_goes_on_with_three_ranks_where_two_stopped(manifest: dp.Manifest, tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(ELASTIC)
    path = str(manifest.root / "list.csv")
    run([*torchrun(2), str(script), path, str(tmp_path), "2"], tmp_path)
    run([*torchrun(3), str(script), path, str(tmp_path), "99"], tmp_path)
    parts = {each.stem: json.loads(each.read_text()) for each in tmp_path.glob("?-?.json")}
    assert parts.keys() == {"2-0", "2-1", "3-0", "3-1", "3-2"}
    assert len(parts["2-0"]) == len(parts["2-1"]) == 4
    assert sorted(i for part in parts.values() for i in part) == list(range(COUNT))


def test_plain_pytorch_stops_and_goes_on(manifest: dp.Manifest, tmp_path: Path) -> None:
    path = str(manifest.root / "list.csv")
    command = [
        str(ROOT / "examples/training_loop.py"),
        path,
        path,
        "--epochs",
        "2",
        "--batch-size",
        "8",
        "--size",
        "16",
    ]
    assert "stopped in epoch 1 after 4 steps" in run([*command, "--stop-after", "4"], tmp_path)
    told = run(command, tmp_path)
    assert re.fullmatch(r"epoch 1: 6 steps, loss [\d.]+, \d+% right\s*", told), told


def test_a_dataloader_of_ones_own(manifest: dp.Manifest, tmp_path: Path) -> None:
    path = str(manifest.root / "list.csv")
    told = run([str(ROOT / "examples/own_dataloader.py"), path, "--size", "8"], tmp_path)
    counts = [json.loads(line.split(": ")[1].removesuffix(" of each class")) for line in told.splitlines()]
    assert [sum(each) for each in counts] == [COUNT, COUNT]


@needs("accelerate", "Accelerate")
def test_accelerate_with_two_processes(manifest: dp.Manifest, tmp_path: Path) -> None:
    script = str(ROOT / "examples/accelerate_loop.py")
    told = run([*torchrun(2), script, str(manifest.root / "list.csv")], tmp_path)
    epochs = [json.loads(line.split(": ")[1]) for line in told.splitlines() if line.startswith("epoch")]
    assert len(epochs) == 2
    for taken in epochs:  # one sample twice, so that both ranks take equally many
        assert set(taken) == set(range(COUNT))
        assert len(taken) == COUNT + 1


@needs("ray", "Ray")
def test_ray_train_with_two_workers(manifest: dp.Manifest, tmp_path: Path) -> None:
    script = str(ROOT / "examples/ray_train.py")
    told = run([script, str(manifest.root / "list.csv"), "--out", str(tmp_path)], tmp_path)
    taken = [list(map(int, line.split("took ")[1].split())) for line in told.splitlines() if " took " in line]
    assert len(taken) == 2
    assert sorted(i for part in taken for i in part) == list(range(COUNT))


def pairs(items: list[Any]) -> Any:
    return default_collate([item[:2] for item in items])


@needs("torchdata", "torchdata")
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.filterwarnings("default")
def test_torchdatas_stateful_dataloader(manifest: dp.Manifest, workers: int) -> None:
    from torchdata.stateful_dataloader import StatefulDataLoader

    recipe = dp.Recipe(size=8, augment=dp.Augment(brightness=0.5))

    def loader_of() -> StatefulDataLoader:
        dataset = dp.ImageDataset(manifest, recipe, seed=1)
        return StatefulDataLoader(dataset, batch_size=4, num_workers=workers, collate_fn=pairs)

    whole = loader_of()
    epochs = [[images for images, _ in whole] for _ in range(2)]
    assert not torch.equal(epochs[0][0], epochs[1][0])
    stopped = loader_of()
    list(stopped)
    batches = iter(stopped)
    for _ in range(2):
        next(batches)
    state = stopped.state_dict()
    resumed = loader_of()
    resumed.load_state_dict(state)
    rest = [images for images, _ in resumed]
    assert len(rest) == len(epochs[1]) - 2
    assert all(torch.equal(a, b) for a, b in zip(rest, epochs[1][2:]))
