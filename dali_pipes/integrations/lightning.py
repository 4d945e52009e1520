"""Lightning: loaders of a run as one data module.

    data = ImageDataModule(train=train, val=val, recipe=recipe, batch_size=32, cache_mode="pinned", cache_dir="cache")
    Trainer(max_epochs=10).fit(model, data)

Lightning tells the loaders their epoch and keeps their state in its checkpoints by itself: `Trainer.fit(ckpt_path=)`
goes on in the middle of an epoch, each remaining sample once. With several processes each loader takes its share.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from lightning.pytorch import LightningDataModule

from dali_pipes.errors import ConfigError
from dali_pipes.loader.loader import Loader
from dali_pipes.manifest.manifest import Manifest
from dali_pipes.recipe import Recipe


class ImageDataModule(LightningDataModule):
    """Loaders of up to four parts of the data, made when Lightning first asks for them.

    Training is shuffled; the other parts come in order, without `augment`. Their last batches hold repetitions where
    ranks need equally many samples: leave out those whose `batch.valid` is False.

    Args:
        train, val, test, predict: manifests of the parts that there are.
        recipe: of all parts.
        batch_size: samples a batch on each rank.
        eval_recipe: of the parts that are not trained on; `recipe` without its `augment` by default.
        **options: any further arguments of `Loader`, for all parts.

    Raises:
        ConfigError: no part was given, or an option that the parts need for themselves.
    """

    def __init__(
        self,
        *,
        recipe: Recipe,
        batch_size: int,
        train: Manifest | None = None,
        val: Manifest | None = None,
        test: Manifest | None = None,
        predict: Manifest | None = None,
        eval_recipe: Recipe | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        parts = {"train": train, "val": val, "test": test, "predict": predict}
        self._parts = {name: manifest for name, manifest in parts.items() if manifest is not None}
        if not self._parts:
            raise ConfigError("ImageDataModule: give at least one of train=, val=, test= and predict=.")
        if "shuffle" in options:
            raise ConfigError("ImageDataModule(shuffle=): training is shuffled, the other parts are not; leave it out.")
        self._recipes = {"train": recipe}
        self._eval_recipe = replace(recipe, augment=None) if eval_recipe is None else eval_recipe
        self._options = {"batch_size": batch_size, **options}
        self._loaders: dict[str, Loader] = {}

    def loader(self, part: str) -> Loader:
        """Return the loader of "train", "val", "test" or "predict".

        Raises:
            ConfigError: the part was not given.
        """
        if part not in self._parts:
            raise ConfigError(f"ImageDataModule: there is no part {part!r}; given were {', '.join(self._parts)}.")
        if part not in self._loaders:
            recipe = self._recipes.get(part, self._eval_recipe)
            self._loaders[part] = Loader(self._parts[part], recipe, shuffle=part == "train", **self._options)
        return self._loaders[part]

    def train_dataloader(self) -> Loader:
        """Return the loader of `train`."""
        return self.loader("train")

    def val_dataloader(self) -> Loader | list[Loader]:
        """Return the loader of `val`, or none where there is no such part."""
        return self.loader("val") if "val" in self._parts else []

    def test_dataloader(self) -> Loader:
        """Return the loader of `test`."""
        return self.loader("test")

    def predict_dataloader(self) -> Loader:
        """Return the loader of `predict`."""
        return self.loader("predict")

    def close(self) -> None:
        """Close all loaders. They may be closed as late as when Python ends."""
        for loader in self._loaders.values():
            loader.close()
        self._loaders.clear()
