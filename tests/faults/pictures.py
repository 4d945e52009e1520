"""What the fault tests of the whole path share: small files, the images that they must give, and processes that warm.

The images and their keys are worked out here from the files alone, by decoding and resizing; no cache has a part in
it. Children come from a fork server that has imported everything and has no threads.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import dali_pipes as dp
import dali_pipes.fetch.fetcher
from dali_pipes import cache
from dali_pipes.arithmetic import base_image
from dali_pipes.decode import decode, identify
from dali_pipes.fetch.fetcher import key_parts
from tests.make_images import dicom, jpeg
from tests.settled import settle

RECIPE = dp.Recipe(size=(16, 20), mean=0.5, std=0.25, augment=dp.Augment(0.5, 0.5))
DEEP = dp.Recipe(size=(16, 20), depth=16, channels=1, mean=0.5, std=0.25)
Images = dict[str, np.ndarray[Any, Any]]


def make_set(folder: Path, count: int, dicoms: int = 4) -> dp.Manifest:
    """A manifest of `count` different tiny files, of which the first `dicoms` are DICOM and the others JPEG."""
    folder.mkdir(parents=True, exist_ok=True)
    rng, names = np.random.default_rng(count), []
    for number in range(count):
        if number < dicoms:
            name, data = f"{number}.dcm", dicom(rng.integers(0, 4096, (23, 19)).astype(np.uint16))
        else:
            name, data = f"{number}.jpg", jpeg(rng.integers(0, 256, (22 + number % 5, 27, 3), np.uint8))
        (folder / name).write_bytes(data)
        names.append(name)
    (folder / "m.csv").write_text("path,label\n" + "".join(f"{name},{i % 3}\n" for i, name in enumerate(names)))
    settle(folder)
    return dp.Manifest.from_csv(folder / "m.csv")


def truth(manifest: dp.Manifest, recipe: dp.Recipe) -> Images:
    """The base image of every file by the hexadecimal digits of its key."""
    policy, found = recipe.decode_policy, {}
    for sample in manifest:
        path = manifest.root / sample.path
        data = path.read_bytes()
        kind = identify(path, data)
        image = base_image(decode(data, kind, 0, policy).pixels, recipe.size, recipe.fit, recipe.interpolation)
        parts = key_parts(recipe, policy, cache.content_digest(data), kind, 0)
        found[cache.Key.of(cache.default_secret(), **parts).hex] = image
    return found


def right_or_nothing(store: cache.Store, images: Images) -> int:
    """Reads every entry of a store; fails at the first that is not the image of its key. How many there are."""
    there = 0
    for key in store.keys():  # noqa: SIM118
        found = store.get(key)
        if found is not None:
            image = images[key.hex]
            assert (found.dtype, found.shape) == (image.dtype, image.shape)
            assert found.tobytes() == image.tobytes(), f"entry {key.hex} holds another image"
            there += 1
    return there


def warming(manifest: dp.Manifest, recipe: dp.Recipe, mode: str, directory: Path, workers: int = 1) -> dp.Loader:
    """A loader to warm a cache with."""
    return dp.Loader(
        manifest, recipe, batch_size=4, backend="torch", cache_mode=mode, cache_dir=directory, num_workers=workers
    )


def log_decodes(log: Path) -> None:
    """From now on, in this process, every decoded file adds its digest to `log` as a line."""
    real = dali_pipes.fetch.fetcher.decode

    def logged(data: Any, *rest: Any) -> Any:
        with log.open("a") as file:
            file.write(cache.content_digest(data).hex() + "\n")
        return real(data, *rest)

    dali_pipes.fetch.fetcher.decode = logged


def context_of(way: str) -> Any:
    """Makes processes by fork, spawn or forkserver; the fork server has imported what they need."""
    context: Any = multiprocessing.get_context(way)
    if way == "forkserver":
        context.set_forkserver_preload(["pytest", "tests.faults.pictures"])
    return context


def start(work: Callable[..., None], *arguments: Any, daemon: bool = True) -> Any:
    """A process that does `work`; its `exitcode` is 0 if that went well. Only one that is no daemon may have any."""
    process = context_of("forkserver").Process(target=_alone, args=(work, *arguments), daemon=daemon)
    process.start()
    return process


def _alone(work: Callable[..., None], *arguments: Any) -> None:
    torch.set_num_threads(1)
    work(*arguments)


def pipe() -> tuple[Any, Any]:
    """The reading and the writing end of a pipe that can be handed to `start`."""
    return multiprocessing.get_context("forkserver").Pipe(duplex=False)
