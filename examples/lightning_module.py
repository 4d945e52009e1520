"""Train with Lightning: `ImageDataModule` is all that a trainer needs.

python examples/lightning_module.py train.csv val.csv --epochs 2
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import nn

import dali_pipes as dp
from dali_pipes.integrations.lightning import ImageDataModule


class Classifier(LightningModule):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes)
        )

    def training_step(self, batch: dp.Batch, _: int) -> torch.Tensor:
        images, labels = batch
        return nn.functional.cross_entropy(self.net(images), labels)

    def validation_step(self, batch: dp.Batch, _: int) -> None:
        right = self.net(batch.image).argmax(1) == batch.label
        self.log("right", right[batch.valid].float().mean(), batch_size=int(batch.valid.sum()), sync_dist=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("train", type=Path)
    parser.add_argument("val", type=Path)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--devices", type=int, default=1)
    args = parser.parse_args()

    train, val = dp.Manifest.from_csv(args.train), dp.Manifest.from_csv(args.val)
    recipe = dp.Recipe(size=64, mean=0.5, std=0.25, augment=dp.Augment(horizontal_flip=0.5))
    data = ImageDataModule(train=train, val=val, recipe=recipe, batch_size=8)
    trainer = Trainer(max_epochs=args.epochs, accelerator="auto", devices=args.devices, logger=False,
                      enable_checkpointing=False, enable_progress_bar=False)  # fmt: skip
    trainer.fit(Classifier(int(train.labels.max()) + 1), data)
    print(
        f"rank {trainer.global_rank}: {trainer.global_step} steps, {float(trainer.callback_metrics['right']):.0%} right"
    )


if __name__ == "__main__":
    main()
