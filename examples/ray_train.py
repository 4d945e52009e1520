"""Train with Ray Train: each worker takes its share, because Ray has made a process group.

python examples/ray_train.py train.csv
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import ray.train
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

import dali_pipes as dp


def work(config: dict[str, Any]) -> None:
    """What each worker runs."""
    manifest = dp.Manifest.from_csv(config["manifest"])
    with dp.Loader(manifest, dp.Recipe(size=32, mean=0.5, std=0.25), batch_size=4, shuffle=True) as loader:
        taken = [i for batch in loader for i in batch.index[batch.valid].tolist()]
    Path(config["out"], f"{ray.train.get_context().get_world_rank()}.txt").write_text(" ".join(map(str, taken)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("train", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path())
    args = parser.parse_args()
    paths = os.pathsep.join([str(Path(dp.__file__).parent.parent), os.environ.get("PYTHONPATH", "")])
    ray.init(num_cpus=args.workers, include_dashboard=False, runtime_env={"env_vars": {"PYTHONPATH": paths}})
    config = {"manifest": str(args.train.absolute()), "out": str(args.out.absolute())}
    scaling = ScalingConfig(num_workers=args.workers)
    run = RunConfig(storage_path=str(args.out.absolute()))
    TorchTrainer(work, train_loop_config=config, scaling_config=scaling, run_config=run).fit()
    for path in sorted(args.out.glob("*.txt")):
        print(f"rank {path.stem} took {path.read_text()}")


if __name__ == "__main__":
    main()
