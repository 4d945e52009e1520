"""The promise: the same bits from every backend and cache mode, cold and warm, and those of Pillow and PyTorch."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from archives import (
    CACHE_MODES,
    CPU_BACKENDS,
    MEAN,
    STD,
    images,
    indices,
    manifest_of,
    noise,
    of_every_syntax,
    one_of_each,
    pictures,
    reference,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from make_images import jpeg

import dali_pipes as dp
from dali_pipes.arithmetic import base_image
from dali_pipes.decode import DecodePolicy, decode, identify

RECIPES: dict[str, dict[str, Any]] = {
    "plain": {"size": (24, 17)},
    "normalised": {"size": (24, 17), "mean": MEAN, "std": STD},
    "crop-gray": {"size": (13, 20), "fit": "crop", "channels": 1, "mean": 0.4, "std": 0.3},
    "pad-bicubic": {"size": 15, "fit": "pad", "interpolation": "bicubic", "mean": 0.1, "std": 2},
    "full-range": {"size": (8, 9), "window": None},
    "fixed-window": {"size": (8, 9), "window": dp.FixedWindow(2000, 1500), "mean": MEAN, "std": STD},
    "deep": {"size": (12, 10), "depth": 16, "window": None},
    "deep-normalised": {"size": (12, 10), "depth": 16, "window": None, "mean": 0.5, "std": 0.25},
    "deep-windowed": {"size": (12, 10), "depth": 16, "mean": MEAN, "std": STD},
    "flips": {"size": (9, 14), "augment": dp.Augment(0.5, 0.5), "mean": MEAN, "std": STD},
    "flips-plain": {"size": (9, 14), "augment": dp.Augment(0.5, 0.5), "channels": 1},
    "turns": {"size": (9, 14), "augment": dp.Augment(0.5, rotation=90, scale=(0.5, 2), shift=0.3)},
    "colours": {
        "size": (9, 14),
        "augment": dp.Augment(brightness=0.3, saturation=0.9, hue=180),
        "mean": MEAN,
        "std": STD,
    },
    "everything": {
        "size": (24, 17),
        "augment": dp.Augment(0.5, 0.5, 180, (0.3, 3), 0.5, 0.9, 0.9, 2, 90),
        "mean": MEAN,
        "std": STD,
    },
    "everything-gray": {"size": 11, "channels": 1, "augment": dp.Augment(0.5, 0.5, 20, (0.9, 1.1), 0.1, 0.5, 0.5)},
    "everything-deep": {
        "size": (12, 10),
        "depth": 16,
        "window": None,
        "augment": dp.Augment(0.5, 0.5, 9, brightness=0.5),
    },
    "everything-windowed": {"size": (12, 10), "depth": 16, "augment": dp.Augment(0.5, 0.5, 9, contrast=0.5, hue=3)},
}


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> dp.Manifest:
    return manifest_of(tmp_path_factory.mktemp("everything"), one_of_each())


@pytest.fixture(scope="module")
def few(everything: dp.Manifest) -> dp.Manifest:
    """Those that need no child process, which takes a while to start."""
    kinds = [identify(None, everything.resolve(i).read_bytes()) for i in range(len(everything))]
    return everything.subset(i for i, kind in enumerate(kinds) if kind.in_threads)


@pytest.fixture(scope="module")
def expected(everything: dp.Manifest) -> dict[str, torch.Tensor]:
    """What the reference backend gives for recipes without flips, without a cache, on one thread."""
    found = {}
    for name, recipe in RECIPES.items():
        if "augment" in recipe:
            continue
        with dp.Loader(everything, dp.Recipe(**recipe), batch_size=7, backend="torch", num_workers=1) as loader:
            found[name] = images(loader)
    return found


def same(left: torch.Tensor, right: torch.Tensor) -> bool:
    return left.dtype == right.dtype and left.shape == right.shape and left.numpy().tobytes() == right.numpy().tobytes()


@pytest.mark.parametrize("mode", CACHE_MODES)
@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("name", ["normalised", "deep-windowed"])
def test_same_bits_of_every_kind_of_file(
    everything: dp.Manifest, expected: dict[str, torch.Tensor], tmp_path: Path, name: str, backend: str, mode: str
) -> None:
    """JPEG, rasters and DICOM in every transfer syntax; cold and warm."""
    recipe, folder = dp.Recipe(**RECIPES[name]), tmp_path if mode == "pinned" else None
    with dp.Loader(
        everything, recipe, batch_size=7, backend=backend, cache_mode=mode, cache_dir=folder, num_workers=1
    ) as loader:
        for _ in range(2):
            batches = list(loader)
            assert same(images(batches), expected[name])
            assert indices(batches) == list(range(len(everything)))
        assert loader.stats()["failed"] == 0


@pytest.mark.parametrize("mode", CACHE_MODES)
@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("name", RECIPES)
def test_same_bits_of_every_recipe(few: dp.Manifest, tmp_path: Path, name: str, backend: str, mode: str) -> None:
    """One thread and many; cold, warm, and warm in a new loader."""
    with dp.Loader(few, dp.Recipe(**RECIPES[name]), batch_size=7, backend="torch", num_workers=1) as loader:
        wanted = images(loader)
    for workers, size in ((4, 7), (1, 50)):
        with dp.Loader(
            few,
            dp.Recipe(**RECIPES[name]),
            batch_size=size,
            backend=backend,
            cache_mode=mode,
            cache_dir=tmp_path if mode == "pinned" else None,
            num_workers=workers,
        ) as loader:
            assert loader.backend == backend
            for _ in range(2):
                loader.set_epoch(0)
                batches = list(loader)
                assert same(images(batches), wanted)
                assert indices(batches) == list(range(len(few)))
            assert loader.stats()["failed"] == 0
            if mode != "none":
                assert loader.stats()["decoded"] <= len(few)


@pytest.mark.parametrize("name", ["plain", "normalised", "crop-gray", "pad-bicubic"])
def test_photos_are_those_of_pillow_and_pytorch(
    everything: dp.Manifest, expected: dict[str, torch.Tensor], name: str
) -> None:
    photos = [sample for sample in everything if sample.path.endswith(".jpg") and sample.path != "cmyk.jpg"]
    assert len(photos) == 7
    for sample in photos:
        data = everything.resolve(sample.index).read_bytes()
        assert same(expected[name][sample.index], reference(data, dp.Recipe(**RECIPES[name])))


def test_dicom_is_decoded_resized_and_normalised(everything: dp.Manifest, expected: dict[str, torch.Tensor]) -> None:
    recipe = dp.Recipe(**RECIPES["normalised"])
    m = torch.tensor([np.float32(value * 255) for value in MEAN])[:, None, None]
    inv = torch.tensor([np.float32(1.0 / np.float64(np.float32(value * 255))) for value in STD])[:, None, None]
    names = set(of_every_syntax())
    chosen = [sample for sample in everything if sample.path in names]
    assert len(chosen) == len(names) >= 15
    for sample in chosen:
        data = everything.resolve(sample.index).read_bytes()
        pixels = decode(data, identify(None, data), 0, DecodePolicy()).pixels
        base = torch.from_numpy(base_image(np.ascontiguousarray(pixels), recipe.size, "stretch", "bilinear"))
        assert same(expected["normalised"][sample.index], (base.float() - m) * inv), sample.path


def test_lossless_syntaxes_agree(everything: dp.Manifest, expected: dict[str, torch.Tensor]) -> None:
    """The same values in every lossless syntax give the same tensor."""
    same_values = ["implicit", "explicit", "big", "deflated", "rle", "lossless", "lossless57", "jls", "j2k", "htj2k"]
    by_name = {sample.path: sample.index for sample in everything}
    for recipe in ("plain", "fixed-window", "deep"):
        tensors = [expected[recipe][by_name[f"{name}.dcm"]] for name in same_values]
        assert all(same(tensors[0], other) for other in tensors[1:])


def test_monochrome1_is_inverted(everything: dp.Manifest, expected: dict[str, torch.Tensor]) -> None:
    by_name = {sample.path: sample.index for sample in everything}
    normal, inverted = (expected["full-range"][by_name[f"{name}.dcm"]] for name in ("explicit", "monochrome1"))
    assert (normal.int() + inverted.int() - 255).abs().max() <= 1


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_flips_are_those_that_were_drawn(few: dp.Manifest, backend: str) -> None:
    from dali_pipes.draws import draw

    augment = dp.Augment(0.5, 0.5)
    still = dp.Recipe(size=(9, 14), mean=MEAN, std=STD)
    with dp.Loader(few, still, batch_size=8, backend="torch") as loader:
        unflipped = images(loader)
    seen = set()
    with dp.Loader(few, dp.Recipe(size=(9, 14), mean=MEAN, std=STD, augment=augment), batch_size=8, seed=3,
                   backend=backend, shuffle=True) as loader:  # fmt: skip
        for epoch in (0, 1):
            loader.set_epoch(epoch)
            for batch in loader:
                drawn = draw(augment, 3, epoch, batch.index.numpy())
                for image, i, h, v in zip(batch.image, batch.index.tolist(), drawn.hflip, drawn.vflip):
                    axes = [axis for axis, flip in ((2, h), (1, v)) if flip]
                    assert same(image, unflipped[i].flip(axes))
                    seen.add((bool(h), bool(v)))
    assert len(seen) == 4


sides = st.integers(1, 40)


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_any_size_and_fit(data: st.DataObject) -> None:
    """Random sizes from 1 x 1: both backends, in the graph and from the cache, against Pillow and PyTorch."""
    channels = data.draw(st.sampled_from([1, 3]), "channels")
    normalised = data.draw(st.booleans(), "normalised")
    recipe = dp.Recipe(
        size=(data.draw(sides, "height"), data.draw(sides, "width")),
        channels=channels,
        fit=data.draw(st.sampled_from(["stretch", "crop", "pad"]), "fit"),
        interpolation=data.draw(st.sampled_from(["bilinear", "bicubic"]), "interpolation"),
        mean=0.45 if normalised else None,
        std=0.22 if normalised else None,
    )
    sources = data.draw(st.lists(st.tuples(sides, sides, st.sampled_from([1, 3])), min_size=1, max_size=3), "sources")
    files = {
        f"{i}.jpg": jpeg(noise(i + height * 41 + width, height, width, of), subsampling=i % 3)
        for i, (height, width, of) in enumerate(sources)
    }
    wanted = torch.stack([reference(content, recipe) for content in files.values()])
    with tempfile.TemporaryDirectory() as folder:
        manifest = manifest_of(Path(folder), files)
        for backend in CPU_BACKENDS:
            for mode in ("none", "memory"):
                with dp.Loader(
                    manifest, recipe, batch_size=2, backend=backend, cache_mode=mode, num_workers=1
                ) as loader:
                    assert same(images(loader), wanted), (backend, mode)
                    assert same(images(loader), wanted), (backend, mode, "again")


@pytest.mark.parametrize("mode", ["disk", "npy", "tensor-disk", "tensor-memmap", "tiered"])
@pytest.mark.parametrize("name", ["normalised", "deep-windowed"])
def test_the_other_cache_modes(few: dp.Manifest, tmp_path: Path, mode: str, name: str) -> None:
    with dp.Loader(few, dp.Recipe(**RECIPES[name]), batch_size=7, backend="torch") as loader:
        wanted = images(loader)
    for decoded in (True, False):
        with dp.Loader(
            few, dp.Recipe(**RECIPES[name]), batch_size=16, cache_mode=mode, cache_dir=tmp_path, backend="dali-cpu"
        ) as loader:
            assert same(images(loader), wanted)
            assert same(images(loader), wanted)
            assert (loader.stats()["decoded"] > 0) == decoded


def test_a_cache_filled_by_one_backend_serves_the_other(tmp_path: Path) -> None:
    manifest = manifest_of(tmp_path / "archive", pictures(6))
    found = []
    for backend, decoded in zip(CPU_BACKENDS, (6, 0)):
        with dp.Loader(
            manifest, dp.Recipe(16), batch_size=4, cache_mode="pinned", cache_dir=tmp_path / "cache", backend=backend
        ) as loader:
            found.append(images(loader))
            assert loader.stats()["decoded"] == decoded
    assert same(*found)
