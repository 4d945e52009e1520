"""Train on mixed pictures: MixUp (Zhang et al., 2018) or CutMix (Yun et al., 2019), as a loader's `batch_transform`.

    python examples/mixing.py train.csv --how cutmix --epochs 2

Each picture is mixed with its neighbour in the batch. The random numbers are PyTorch's; in a `batch_transform` they
depend on seed, epoch, batch and rank, so a resumed run repeats them.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import torch
from torch import nn

import dali_pipes as dp

Mixed = tuple[torch.Tensor, torch.Tensor]


def mixup(batch: dp.Batch, classes: int, alpha: float = 0.4) -> Mixed:
    """Return the weighted mean of each picture and its neighbour, and of their labels: float32[N, classes]."""
    weight = float(torch.distributions.Beta(alpha, alpha).sample())
    image = weight * batch.image + (1 - weight) * batch.image.roll(1, 0)
    return image, mixed_labels(batch.label, classes, weight)


def cutmix(batch: dp.Batch, classes: int, alpha: float = 1.0) -> Mixed:
    """Return each picture with a box of its neighbour in it, and their labels mixed by area: float32[N, classes]."""
    height, width = batch.image.shape[-2:]
    side = float((1 - torch.distributions.Beta(alpha, alpha).sample()).sqrt()) / 2
    y, x = int(torch.randint(height, ())), int(torch.randint(width, ()))
    top, bottom = max(0, y - int(side * height)), min(height, y + int(side * height))
    left, right = max(0, x - int(side * width)), min(width, x + int(side * width))
    image = batch.image.clone()
    image[..., top:bottom, left:right] = batch.image.roll(1, 0)[..., top:bottom, left:right]
    pasted = (bottom - top) * (right - left) / (height * width)
    return image, mixed_labels(batch.label, classes, 1 - pasted)


def mixed_labels(label: torch.Tensor, classes: int, weight: float) -> torch.Tensor:
    one_hot = nn.functional.one_hot(label, classes).float()
    return weight * one_hot + (1 - weight) * one_hot.roll(1, 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("train", type=Path)
    parser.add_argument("--how", choices=["mixup", "cutmix"], default="cutmix")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--size", type=int, default=64)
    args = parser.parse_args()

    manifest = dp.Manifest.from_csv(args.train)
    classes = int(manifest.labels.max()) + 1
    mix = partial(mixup if args.how == "mixup" else cutmix, classes=classes)
    model = nn.Sequential(nn.Conv2d(3, 16, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                          nn.Linear(16, classes))  # fmt: skip
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    recipe = dp.Recipe(size=args.size, mean=0.5, std=0.25)
    with dp.Loader(manifest, recipe, batch_size=16, shuffle=True, cache_mode="memory", batch_transform=mix) as loader:
        for epoch in range(args.epochs):
            for images, labels in loader:
                loss = nn.functional.cross_entropy(model(images), labels)  # takes shares of classes as it takes numbers
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
            print(f"epoch {epoch}: loss {loss.item():.3f}")


if __name__ == "__main__":
    main()
