"""What a recipe is cut into, and the output of each part, sample by sample.

    decode      file to pixels; only plain JPEGs have more than one decoder (see `decoding`)
    window      stored values to 8 bits; one code, on the host, whatever the backend
    geometry    resize, crop or pad: the base image
    photometry  what varies at random
    normalise   the network's input

The last three are run by a backend each, with what comes after the stage left out of its recipe; so they are the very
graphs and functions that training uses, and are given what training gives them. A file is decoded once for all of them;
only the JPEGs that DALI decodes in its graphs are decoded there by each stage, and once more for the other backends.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from dali_pipes import backends, cache
from dali_pipes.cores import workers_of
from dali_pipes.errors import ConfigError
from dali_pipes.fetch.fetcher import Encoded, Fetcher, ready
from dali_pipes.loader import sampling
from dali_pipes.loader.epoch import Epoch, take_over
from dali_pipes.loader.losses import Losses
from dali_pipes.loader.prefetch import lookahead
from dali_pipes.manifest.manifest import Manifest
from dali_pipes.parity.fingerprint import as_array
from dali_pipes.recipe import Recipe
from dali_pipes.serving import unnormalised

STAGES = ("decode", "window", "geometry", "photometry", "normalise")
"""All stages, in the order of the flow."""


def stage_recipes(recipe: Recipe) -> dict[str, Recipe]:
    """Return the recipes whose outputs are the stages from "geometry" on, without stages in which nothing happens."""
    found = {"geometry": replace(unnormalised(recipe), augment=None)}
    if recipe.augment is not None:
        found["photometry"] = unnormalised(recipe)
    if recipe.normalisation is not None:
        found["normalise"] = recipe
    return found


def checked(batch_size: int, num_workers: int | None) -> int:
    """How many threads and decoding processes `num_workers` means: all cores for None, and one for 0.

    Raises:
        ConfigError: it is negative, or `batch_size` is not positive.
    """
    if batch_size < 1 or (num_workers or 0) < 0:
        raise ConfigError(f"batch_size={batch_size}, num_workers={num_workers}: give at least 1, and at least 0.")
    return workers_of(num_workers)


Outputs = dict[tuple[str, str], npt.NDArray[Any]]
"""[C, H, W] by stage and backend; what is missing could not be had."""


def outputs(
    manifest: Manifest,
    recipes: Mapping[str, Recipe],
    names: Sequence[str],
    *,
    batch_size: int,
    cache_mode: str = "none",
    cache_dir: str | os.PathLike[str] | None = None,
    num_workers: int | None = None,
) -> Iterator[tuple[int, Outputs]]:
    """Every sample's number, in manifest order, with what each backend makes of it by each recipe.

    Args:
        manifest: what is loaded.
        recipes: by stage; alike in what decides base images.
        names: backends.
        batch_size: samples at a time; the base images of two batches or so are held.
        cache_mode, cache_dir: as for `Loader`; DALI decodes nothing itself where there is a cache.
        num_workers: CPU threads and decoding processes; all cores by default.
    """
    workers = checked(batch_size, num_workers)
    recipe, everything = next(iter(recipes.values())), np.arange(len(manifest))
    plan = sampling.batches(everything, batch_size=batch_size, drop_last=False)
    decode = cache_mode == "none" and backends.decodes(recipe)
    device = torch.cuda.current_device() if "dali-gpu" in names else None
    with ExitStack() as stack:
        store = stack.enter_context(closing(cache.open_store(cache_mode, cache_dir)))
        encoded = decode and any(name.startswith("dali-") for name in names)
        fetcher = stack.enter_context(closing(Fetcher(manifest, recipe, store, workers=workers, encoded=encoded)))
        threads = stack.enter_context(ThreadPoolExecutor(workers))
        epochs: dict[tuple[str, str], Epoch] = {}
        for (stage, part), name in itertools.product(recipes.items(), names):
            backend = backends.create(
                name, part, batch_size=batch_size, threads=workers, decode=decode, device_id=device
            )
            stack.enter_context(closing(backend))
            epochs[stage, name] = Epoch(
                manifest, part, fetcher, backend, "skip", 0, 0, everything, Losses(fetcher.notices)
            )
        requests = ((samples, [fetcher.request(sample) for sample in samples.tolist()]) for samples in plan)
        for samples, requested in lookahead(requests, max(1, 2 * workers // batch_size)):
            given = [ready(item) for item in requested]
            jpegs = [sample for sample, item in zip(samples.tolist(), given) if isinstance(item, Encoded)]
            images = dict(zip(jpegs, threads.map(fetcher.decoded, jpegs)))
            decoded = [images.get(sample, item) for sample, item in zip(samples.tolist(), given)]
            found: dict[int, Outputs] = {sample: {} for sample in samples.tolist()}
            for place, epoch in epochs.items():
                batch = epoch.batch(samples, given if epoch.backend.takes_encoded else decoded)
                if batch is not None:
                    take_over(batch, epoch.backend.mark())
                    for index, image in zip(batch.index.tolist(), as_array(batch.image)):
                        found[index][place] = image
            fetcher.notices.say()
            yield from found.items()
