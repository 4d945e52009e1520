"""Train with Accelerate: the loader needs no `prepare`, for it takes its share by itself.

accelerate launch --num_processes 2 --cpu examples/accelerate_loop.py train.csv
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn

import dali_pipes as dp


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("train", type=Path)
    parser.add_argument("--epochs", type=int, default=2)
    args = parser.parse_args()

    accelerator = Accelerator()
    manifest = dp.Manifest.from_csv(args.train)
    loader = dp.Loader(manifest, dp.Recipe(size=32, mean=0.5, std=0.25), batch_size=4, shuffle=True)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, int(manifest.labels.max()) + 1))
    model, optimiser = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.01))
    accelerator.register_for_checkpointing(loader)  # save_state and load_state then keep its place
    for epoch in range(args.epochs):
        taken = []
        for batch in loader:
            batch = batch.to(accelerator.device)
            accelerator.backward(nn.functional.cross_entropy(model(batch.image), batch.label))
            optimiser.step()
            optimiser.zero_grad()
            taken.append(batch.index)
        everywhere = accelerator.gather(torch.cat(taken))
        if accelerator.is_main_process:
            print(f"epoch {epoch}: {sorted(everywhere.tolist())}")
    accelerator.end_training()


if __name__ == "__main__":
    main()
