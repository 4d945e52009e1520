"""Lightning's Trainer over our loaders: epochs, batch sizes, checkpoints in mid-epoch, two processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from archives import coded, manifest_of
from torch.utils.data import DataLoader, default_collate

import dali_pipes as dp

if os.environ.get("DALI_PIPES_REQUIRE_INTEGRATIONS") != "1":
    pytest.importorskip("lightning", reason="Lightning is not installed")

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from dali_pipes.integrations.lightning import ImageDataModule

pytestmark = pytest.mark.filterwarnings("default")  # Lightning's own code warns

COUNT = 14
RECIPE = dp.Recipe(size=6, mean=0.5, std=0.25, augment=dp.Augment(horizontal_flip=0.5))
ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> dp.Manifest:
    files = {f"{i}.img": coded(i) for i in range(COUNT)}
    return manifest_of(tmp_path_factory.mktemp("archive"), files, [i % 2 for i in range(COUNT)])


class Watcher(LightningModule):
    """Notes what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(3 * 6 * 6, 2)
        self.taken: list[tuple[int, list[int]]] = []
        self.images: list[torch.Tensor] = []
        self.evaluated = 0

    def training_step(self, batch: Any, _: int) -> torch.Tensor:
        images, labels = batch
        if isinstance(batch, dp.Batch):
            self.taken.append((self.current_epoch, batch.index.tolist()))
        self.images.append(images.clone())
        loss = torch.nn.functional.cross_entropy(self.layer(images.flatten(1)), labels)
        self.log("loss", loss)
        return loss

    def validation_step(self, batch: dp.Batch, _: int) -> None:
        self.evaluated += len(batch)
        self.log("right", batch.label.float().mean())  # Lightning finds the size of the batch

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def trainer(folder: Path, **options: Any) -> Trainer:
    given = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False,
             "enable_checkpointing": False, "default_root_dir": folder, **options}  # fmt: skip
    return Trainer(**given)


def module_of(manifest: dp.Manifest) -> ImageDataModule:
    return ImageDataModule(
        train=manifest, val=manifest.subset(range(5)), recipe=RECIPE, batch_size=4, backend="torch", num_workers=1
    )


def test_epochs_advance_and_validation_logs(manifest: dp.Manifest, tmp_path: Path) -> None:
    data, model = module_of(manifest), Watcher()
    trainer(tmp_path, max_epochs=3).fit(model, data)
    epochs = [[i for epoch, batch in model.taken for i in batch if epoch == number] for number in range(3)]
    assert all(sorted(epoch) == list(range(COUNT)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert model.evaluated >= 3 * 5
    with dp.Loader(manifest, RECIPE, batch_size=4, backend="torch", shuffle=True) as loader:
        assert [[i for batch in loader for i in batch.index.tolist()] for _ in range(3)] == epochs
    data.close()


@pytest.mark.parametrize("steps", [2, 4, 6])
def test_a_checkpoint_in_mid_epoch_goes_on_where_it_was_made(manifest: dp.Manifest, tmp_path: Path, steps: int) -> None:
    whole = Watcher()
    trainer(tmp_path, max_epochs=3, limit_val_batches=0).fit(whole, module_of(manifest))
    second = Watcher()
    saved = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=steps, save_top_k=-1)
    stopped = trainer(tmp_path, max_steps=steps, limit_val_batches=0, callbacks=[saved], enable_checkpointing=True)
    stopped.fit(Watcher(), module_of(manifest))
    resumed = trainer(tmp_path, max_epochs=3, limit_val_batches=0)
    resumed.fit(second, module_of(manifest), ckpt_path=tmp_path / f"step={steps}.ckpt", weights_only=False)
    assert [batch for _, batch in second.taken] == [batch for _, batch in whole.taken][steps:]
    assert resumed.global_step == 12


def test_a_data_set_under_a_plain_dataloader_varies_from_epoch_to_epoch(manifest: dp.Manifest, tmp_path: Path) -> None:
    recipe = dp.Recipe(size=6, mean=0.5, std=0.25, augment=dp.Augment(brightness=0.5))
    with dp.ImageDataset(manifest, recipe) as dataset:
        loader = DataLoader(dataset, batch_size=COUNT, collate_fn=lambda items: default_collate([i[:2] for i in items]))
        model = Watcher()
        trainer(tmp_path, max_epochs=2).fit(model, loader)
    assert all(not torch.equal(a, b) for a, b in zip(*model.images))


def test_two_processes_share_the_samples(manifest: dp.Manifest, tmp_path: Path) -> None:
    path = manifest.root / "list.csv"
    environment = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE")}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    script = [str(ROOT / "examples/lightning_module.py"), str(path), str(path), "--epochs", "1", "--devices", "2"]
    told = subprocess.run(
        [sys.executable, "-W", "ignore", *script],
        capture_output=True,
        text=True,
        timeout=200,
        cwd=tmp_path,
        env={**environment, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
    )
    assert told.returncode == 0, told.stderr[-3000:]
    assert "rank 0: 1 steps" in told.stdout, told.stdout + told.stderr[-2000:]
    assert "rank 1: 1 steps" in told.stdout


def test_a_module_without_parts_or_with_an_unknown_one_is_refused(manifest: dp.Manifest) -> None:
    with pytest.raises(dp.ConfigError, match="at least one of"):
        ImageDataModule(recipe=RECIPE, batch_size=2)
    with pytest.raises(dp.ConfigError, match="leave it out"):
        ImageDataModule(train=manifest, recipe=RECIPE, batch_size=2, shuffle=True)
    with pytest.raises(dp.ConfigError, match="no part 'test'; given were train"):
        ImageDataModule(train=manifest, recipe=RECIPE, batch_size=2).test_dataloader()
