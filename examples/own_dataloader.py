"""Keep your own `DataLoader`, samplers and collate function; take the decoding, the cache and the augmentation.

python examples/own_dataloader.py train.csv --epochs 2 --workers 2
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch.utils.data import DataLoader, WeightedRandomSampler, default_collate

import dali_pipes as dp


def brighter(image: torch.Tensor) -> torch.Tensor:
    """A transform of one's own; its random numbers depend on epoch and sample, not on the workers."""
    return image * (0.8 + 0.4 * torch.rand(()))


def collate(items: list[tuple[torch.Tensor, int, dict[str, object]]]) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels, _ = zip(*items)
    return default_collate(images), torch.tensor(labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("train", type=Path)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--size", type=int, default=64)
    args = parser.parse_args()

    manifest = dp.Manifest.from_csv(args.train)
    recipe = dp.Recipe(size=args.size, mean=0.5, std=0.25, augment=dp.Augment(horizontal_flip=0.5))
    dataset = dp.ImageDataset(manifest, recipe, cache_mode="memory", transform=brighter)
    counts = torch.bincount(torch.from_numpy(manifest.labels))
    sampler = WeightedRandomSampler((1.0 / counts[manifest.labels]).tolist(), len(manifest))  # rare classes more often
    loader = DataLoader(dataset, batch_size=16, sampler=sampler, num_workers=args.workers, collate_fn=collate,
                        persistent_workers=args.workers > 0)  # fmt: skip
    for epoch in range(args.epochs):
        seen = torch.zeros(len(counts), dtype=torch.int64)
        for _images, labels in loader:  # every iteration is the next epoch, with an augmentation of its own
            seen += torch.bincount(labels, minlength=len(counts))
        print(f"epoch {epoch}: {seen.tolist()} of each class")


if __name__ == "__main__":
    main()
