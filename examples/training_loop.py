"""Train a small network in plain PyTorch, evaluate it, and go on from a checkpoint, in the middle of an epoch too.

    python examples/training_loop.py train.csv val.csv --epochs 3 --checkpoint run.pt

Under torchrun each process takes its share: torchrun --nproc-per-node 2 examples/training_loop.py train.csv val.csv
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import dali_pipes as dp


def network(classes: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, classes),
    )  # fmt: skip


def evaluate(model: nn.Module, loader: dp.Loader, device: torch.device) -> float:
    """The share of right answers over all ranks; each sample counts once."""
    model.eval()
    found = torch.zeros(2, dtype=torch.float64, device=device)
    with torch.inference_mode():
        for batch in loader:
            batch = batch.to(device, non_blocking=True)
            right = model(batch.image).argmax(1) == batch.label
            found += torch.stack([right[batch.valid].sum(), batch.valid.sum()])
    if torch.distributed.is_initialized():
        torch.distributed.all_reduce(found)
    return float(found[0] / found[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("train", type=Path)
    parser.add_argument("val", type=Path)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--checkpoint", type=Path, default=Path("checkpoint.pt"))
    parser.add_argument("--cache-dir", type=Path, default=None)
    parser.add_argument("--stop-after", type=int, default=None, help="steps after which to stop, as if interrupted")
    args = parser.parse_args()

    if "RANK" in os.environ:
        torch.distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    train, val = dp.Manifest.from_csv(args.train), dp.Manifest.from_csv(args.val)
    recipe = dp.Recipe(size=args.size, mean=0.5, std=0.25, augment=dp.Augment(horizontal_flip=0.5))
    cache = {} if args.cache_dir is None else {"cache_mode": "pinned", "cache_dir": args.cache_dir}
    loader = dp.Loader(
        train, recipe, batch_size=args.batch_size, shuffle=True, on_error="skip", max_failures=0.05, **cache
    )
    test = dp.Loader(val, dp.Recipe(size=args.size, mean=0.5, std=0.25), batch_size=args.batch_size, **cache)

    torch.manual_seed(0)
    model = network(int(train.labels.max()) + 1).to(device)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    first = steps = 0
    if args.checkpoint.exists():
        saved = torch.load(args.checkpoint, weights_only=True)
        model.load_state_dict(saved["model"])
        optimiser.load_state_dict(saved["optimiser"])
        loader.load_state_dict(saved["loader"])
        first, steps = saved["epoch"], saved["steps"]
    running = DistributedDataParallel(model) if torch.distributed.is_initialized() else model

    def save(epoch: int) -> None:
        if not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0:
            state = {"model": model.state_dict(), "optimiser": optimiser.state_dict(), "loader": loader.state_dict()}
            torch.save({**state, "epoch": epoch, "steps": steps}, args.checkpoint)

    for epoch in range(first, args.epochs):
        running.train()
        for batch in loader:
            batch = batch.to(device, non_blocking=True)
            loss = nn.functional.cross_entropy(running(batch.image), batch.label)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            steps += 1
            if steps == args.stop_after:
                save(epoch)
                print(f"stopped in epoch {epoch} after {steps} steps: {args.checkpoint}")
                return
        print(f"epoch {epoch}: {steps} steps, loss {loss.item():.3f}, {evaluate(running, test, device):.0%} right")

        save(epoch + 1)


if __name__ == "__main__":
    main()
