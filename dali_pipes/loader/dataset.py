"""Samples one by one, for people who keep their own `torch.utils.data.DataLoader`.

The same fetch path and arithmetic as `Loader`, hence the same bits and the same cache. What belongs to a process
(threads, decoding children, open files) is made at first use in that process, so a data set may be forked, spawned or
pickled.
"""

from __future__ import annotations

import operator
import os
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, get_worker_info

from dali_pipes import cache
from dali_pipes.backends.layout import Layout
from dali_pipes.cache.named import PLACE
from dali_pipes.cores import default_workers
from dali_pipes.draws import Augment, Draws, draw, seeded
from dali_pipes.errors import ConfigError, ManifestError
from dali_pipes.fetch.fetcher import Deep, Encoded, Failure, Fetcher, Pixels, Requested, ready
from dali_pipes.fetch.masks import Masks
from dali_pipes.fetch.study_fetch import Study, fetcher_of, for_outputs, has_masks, images_in, masks_of, outputs_of
from dali_pipes.fetch.substitute import stand_in
from dali_pipes.finish.finish import Finish
from dali_pipes.finish.plans import Plans
from dali_pipes.loader.arguments import check_cache, check_callable, check_recipe
from dali_pipes.loader.epoch import SUBSTITUTE_TRIES
from dali_pipes.loader.epoch_clock import EpochClock
from dali_pipes.loader.sharing import shared_options
from dali_pipes.manifest.manifest import Manifest
from dali_pipes.manifest.rows import KNOWN, MASK, MASK_FRAME
from dali_pipes.manifest.studies import Studies
from dali_pipes.recipe import Recipe

ON_ERROR = ("raise", "substitute")
"""What may become of a sample that cannot be decoded; the length of a map-style data set cannot change, so none is
skipped."""

IMAGENET = {3: ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), 1: ((0.449,), (0.226,))}
"""Mean and deviation of ImageNet by number of channels, in units of full scale."""

Row = Mapping[str, Any]
Fetchers = tuple[Fetcher, Masks | None]
"""Of images (of studies: `StudyFetcher`), and of masks."""
Output = tuple[torch.Tensor, int, dict[str, Any]]


class ImageDataset(Dataset[Output]):
    """Items `(tensor, label, row)`.

    tensor: float32[C, H, W], normalised, or the integers where the recipe has no mean; bit for bit what `Loader` gives.
    With K views [K, C, H, W], of studies [V, C, H, W], of views of studies [K, V, C, H, W].
    label: the class number, -1 where there is none. row: the sample's manifest fields, and those of the row it came
    from; `target`, the manifest's targets by name, where it has some; `mask`, uint8[H, W] (or what the
    tensor has in place of C), moved as the image is, where the manifest has a column of masks (`transform` does not see
    it); `present`, bool[V], which images a study has.

    >>> dataset = ImageDataset(Manifest.from_csv("train.csv"), Recipe(size=32), cache_mode="npy", cache_dir="cache-dir")
    >>> for image, label, row in torch.utils.data.DataLoader(dataset, batch_size=2):
    ...     print(image.shape, label.tolist())
    torch.Size([2, 3, 32, 32]) [0, 1]
    >>> dataset.close()

    Every iteration of a `DataLoader` over it is the next epoch, in workers that live on too; `set_epoch` overrides
    that.

    Args:
        samples: a manifest, or rows with `path` (or `image_path`), `label` and what else a manifest may say.
        recipe: the whole pixel policy.
        cache_mode: one of `cache.MODES`. With "memory" all workers of this machine share one copy.
        cache_dir: folder of the modes that persist.
        on_error: "raise" the error of a bad sample, or "substitute" the next good one, its label and row included.
        seed: decides every random draw, with the number of the epoch.
        transform: called with every sample's tensor; what it returns takes the tensor's place. PyTorch's random numbers
            in it are a function of seed, epoch and sample, whatever the number of workers.
        root: folder that rows' paths are relative to; by default the folder that all of them have in common.
        trust_sources: as of `Loader`.
        cache_options: further arguments of `cache.open_store`.

    Raises:
        ConfigError: an argument that cannot work. ManifestError: rows that cannot be used.
    """

    def __init__(
        self,
        samples: Manifest | Sequence[Row],
        recipe: Recipe,
        *,
        cache_mode: str = "none",
        cache_dir: str | os.PathLike[str] | None = None,
        on_error: str = "raise",
        seed: int = 0,
        transform: Callable[[torch.Tensor], Any] | None = None,
        root: str | os.PathLike[str] | None = None,
        trust_sources: bool = False,
        cache_options: dict[str, Any] | None = None,
    ) -> None:
        if on_error not in ON_ERROR:
            raise ConfigError(f"ImageDataset(on_error={on_error!r}): allowed are {', '.join(map(repr, ON_ERROR))}.")
        check_recipe(recipe, "ImageDataset")
        check_cache(cache_mode, cache_dir, "ImageDataset")
        check_callable(transform, "ImageDataset: transform")
        self.rows: Sequence[Row] | None = None
        if isinstance(samples, Manifest):
            self.manifest = samples
        else:
            self.rows, self.manifest = samples, manifest_of_rows(samples, root)
        if not len(self.manifest):
            raise ConfigError("ImageDataset: the manifest has no samples, so there is nothing to iterate over.")
        self.recipe = recipe
        self._on_error, self._seed, self._transform = on_error, seed, transform
        self._finish, self._layout = Finish(recipe), Layout(recipe)
        self._outputs = outputs_of(self.manifest, recipe)
        self._trust = bool(trust_sources)
        self._clock = EpochClock()
        options = shared_options(cache_mode, cache_options, self.manifest, workers=True)
        self._store = open_for_workers(cache_mode, cache_dir, options)
        self._begin()

    def _begin(self) -> None:
        # By process: what a fork brought along stays here untouched, for its threads live in the parent only.
        self._fetchers: dict[int, Fetchers] = {}
        self._close = weakref.finalize(self, _close, self._fetchers, self._store)

    @classmethod
    def from_rows(
        cls,
        rows: Sequence[Row],
        *,
        img_size: int | tuple[int, int],
        train: bool = False,
        augment: bool = False,
        cache_mode: str = "none",
        cache_dir: str | os.PathLike[str] | None = None,
        split_name: str | None = None,
        input_channels: int = 3,
        mean: tuple[float, ...] | float | None = None,
        std: tuple[float, ...] | float | None = None,
        root: str | os.PathLike[str] | None = None,
    ) -> ImageDataset:
        """Make a data set from the arguments that older code passes.

        Args:
            rows: one mapping a sample, with `image_path` or `path`, and `label`.
            img_size: side of the square images in pixels, or (height, width).
            train, augment: if both are true, half of the items are mirrored left to right, others each epoch.
            cache_mode, cache_dir: as above. All splits share one cache.
            split_name: the split of rows that state none; it names no folder.
            input_channels: 1 or 3.
            mean, std: in units of full scale; ImageNet's by default.
            root: as above.
        """
        if input_channels not in IMAGENET:
            raise ConfigError(f"ImageDataset.from_rows(input_channels={input_channels!r}): allowed are 1 and 3.")
        if (mean is None) != (std is None):
            raise ConfigError("ImageDataset.from_rows: give both mean and std, or neither (ImageNet's).")
        default = IMAGENET[input_channels]
        recipe = Recipe(
            size=img_size,
            channels=input_channels,
            mean=default[0] if mean is None else mean,
            std=default[1] if std is None else std,
            augment=Augment(horizontal_flip=0.5) if train and augment else None,
        )
        if split_name is not None:
            rows = [{"split": split_name, **row} for row in rows]
        return cls(rows, recipe, cache_mode=cache_mode, cache_dir=cache_dir, root=root)

    def __len__(self) -> int:
        return len(self.manifest)

    def __getitem__(self, index: int) -> Output:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[Output]:
        """Return the items at `indices`; outside of a worker they are decoded side by side."""
        samples = [range(len(self))[index] for index in indices]
        (fetcher, masks), epoch = self._mine(), self._clock.now()
        requests = fetcher.requests(samples)
        wanted = [None] * len(samples) if masks is None else masks.requests(samples)
        items = [self._output(epoch, *each) for each in zip(samples, requests, wanted)]
        fetcher.notices.say(stacklevel=2)
        return items

    def set_epoch(self, epoch: int) -> None:
        """Choose the draws of the items to come, in workers too; call it before a DataLoader's iteration begins."""
        self._clock.set(operator.index(epoch))

    def state_dict(self) -> dict[str, Any]:
        """Return the epoch, for torchdata's StatefulDataLoader, which keeps the position."""
        return {"epoch": self._clock.now()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on in the epoch of a state."""
        self.set_epoch(state["epoch"])

    def stats(self) -> dict[str, Any]:
        """Return what this process did, as in `Loader.stats`, and `cache`.

        A DataLoader's workers count for themselves.
        """
        fetcher, masks = self._mine()
        return {
            **fetcher.counts(),
            **({} if masks is None else {"masks": masks.counts()}),
            "cache": self._store.stats(),
        }

    def close(self) -> None:
        """End threads and child processes, and close the cache."""
        self._close()

    def __enter__(self) -> ImageDataset:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_fetchers", "_close")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._begin()

    def __repr__(self) -> str:
        size = f"{self.recipe.channels} x {self.recipe.height} x {self.recipe.width}"
        return f"ImageDataset({len(self)} samples of {size}, cache={self._store.mode!r})"

    def _mine(self) -> Fetchers:
        """Return what this process fetches images and masks with."""
        if not self._close.alive:
            raise ConfigError("this ImageDataset is closed; make a new one.")
        process = os.getpid()
        found = self._fetchers.get(process)
        if found is None:
            # A worker is one of many already: it gets one thread.
            workers = 1 if get_worker_info() is not None else default_workers()
            given = (self.manifest, self.recipe, self._store)
            images = fetcher_of(*given, workers=workers, extents=has_masks(self.manifest), trust=self._trust)
            mine = images, masks_of(*given, workers=workers, policy=self.recipe.decode_policy, trust=self._trust)
            found = self._fetchers.setdefault(process, mine)
            if found is not mine:  # another thread was first
                _end(mine)
        return found

    def _output(self, epoch: int, sample: int, request: Requested, wanted: Requested | None) -> Output:
        fetcher, masks = self._mine()
        item, mask = ready(request), None
        if masks is not None and wanted is not None and not isinstance(item, Failure):
            mask = masks.checked(sample, wanted, fetcher)
            item = mask if isinstance(mask, Failure) else item
        if isinstance(item, Failure):
            if self._on_error == "raise":
                raise item.error
            fetcher.notices.lost(item.error, "another sample takes its place")
            following = ((sample + step) % len(self) for step in range(1, min(SUBSTITUTE_TRIES + 1, len(self))))
            if masks is None:
                sample, item = stand_in(fetcher.decoded, item, following)
            else:
                sample, item = stand_in(lambda other: masks.with_image(other, fetcher), item, following)
                mask = masks.checked(sample, masks.request(sample), fetcher)
        if isinstance(item, Encoded):
            raise ConfigError("ImageDataset takes decoded images only; its Fetcher handed out an encoded one.")
        fields = asdict(self.manifest[sample]) | (dict(self.rows[sample]) if self.rows is not None else {})
        if self.manifest.targets:
            fields["target"] = {name: values[sample] for name, values in self.manifest.targets.items()}
        draws = self._draws(fetcher, epoch, sample)
        if masks is not None:
            if mask is None or isinstance(mask, Failure):  # it was there a moment ago
                raise ConfigError("a mask cannot be had any more") if mask is None else mask.error
            moved = torch.from_numpy(masks.finish([mask], Plans(self.recipe, draws).placed))
            fields["mask"] = moved.reshape(*self._outputs, *moved.shape[1:])
        if isinstance(self.manifest, Studies):
            fields["present"] = torch.from_numpy(self.manifest.present[sample])
        tensor = self._tensor(draws, item)
        if self._transform is not None:
            with seeded(self._seed, epoch, sample, tensor.device):
                tensor = self._transform(tensor)
        return tensor, int(self.manifest.labels[sample]), fields

    def _draws(self, fetcher: Fetcher, epoch: int, sample: int) -> Draws:
        samples, views = np.array([sample], np.int64), self.recipe.views
        draws = draw(self.recipe.augment, self._seed, epoch, samples, views)
        return for_outputs(draws, fetcher.extents(samples), self.manifest, views)

    def _tensor(self, draws: Draws, item: Pixels | Deep | Study) -> torch.Tensor:
        changes, images = self._finish.changes(draws), images_in(item) * self.recipe.views
        out = self._layout.empty(len(images))
        for k, image in enumerate(images):
            moves = (float(draws.window_center[k]), float(draws.window_width[k]))
            self._layout.write(out[k], image.windowed(*moves) if isinstance(image, Deep) else image, changes, k)
        return out.unflatten(0, self._outputs) if self._outputs else out[0]


def open_for_workers(
    mode: str, directory: str | os.PathLike[str] | None, options: Mapping[str, Any] | None = None
) -> cache.Store:
    """Open a store that a DataLoader's workers share.

    "memory" is one copy for all of them if the machine can share it.

    Raises:
        ConfigError: an option that is not known. cache.StoreConfigError: options that cannot work.
    """
    sharing = {"shared": os.path.isdir(PLACE)} if mode == "memory" else {}
    try:
        return cache.open_store(mode, directory, **{**sharing, **(options or {})})
    except TypeError as error:
        raise ConfigError(f"cache_options has a name that is not known: {error}.") from error


def manifest_of_rows(rows: Sequence[Row], root: str | os.PathLike[str] | None = None) -> Manifest:
    """Return a manifest of mappings.

    Each has `path` or `image_path`, and optionally `label`, `id`, `frame`, `split`, `group`, `mask`, `mask_frame`.
    Labels are numbers, or names that are numbered in sorted order; absent ones are -1. Paths, also those of masks, are
    absolute, or relative to `root`; without a root it is the folder that all of them have in common.

    Raises:
        ManifestError: rows that cannot be used; every one is named by its number.
    """
    named = [row.get("path") or row.get("image_path") for row in rows]
    missing = [str(i) for i, path in enumerate(named) if not path]
    if missing or not rows:
        raise ManifestError(f"rows {', '.join(missing[:20]) or '(none given)'}: give each a 'path' or an 'image_path'.")
    records = [
        {**row, "path": os.path.join(root or "", path), **_mask_of(row, root)} for row, path in zip(rows, named) if path
    ]
    names = [name for name in (*KNOWN, MASK, MASK_FRAME) if any(row.get(name) is not None for row in records)]
    return Manifest.from_records([{name: row.get(name) for name in names} for row in records], root)


def _mask_of(row: Row, root: str | os.PathLike[str] | None) -> dict[str, Any]:
    mask = row.get(MASK)  # data frames have NaN where there is none
    return {MASK: os.path.join(root or "", mask)} if isinstance(mask, (str, os.PathLike)) and mask else {}


def _close(fetchers: dict[int, Fetchers], store: cache.Store) -> None:
    _end(fetchers.pop(os.getpid(), ()))
    store.close()


def _end(fetchers: Iterable[Fetcher | Masks | None]) -> None:
    for each in fetchers:
        if each is not None:
            each.close()
