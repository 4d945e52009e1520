"""ImageDataset: the Loader's bits, one sample at a time, in this process and in workers of every kind."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import dali_pipes as dp
from dali_pipes.cache import MODES
from dali_pipes.loader.dataset import manifest_of_rows
from tests.make_images import dicom, jpeg

RECIPE = dp.Recipe(size=(24, 20), mean=0.5, std=0.25, augment=dp.Augment(0.5, 0.5))
EVERYTHING = dp.Augment(0.5, 0.5, 45, (0.7, 1.4), 0.2, 0.4, 0.4, 0.8, 120)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> dp.Manifest:
    """Nine samples: JPEG, PNG and DICOM, with labels, splits and groups."""
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    lines = ["path,label,split,group"]
    for i in range(3):
        colour = rng.integers(0, 256, (30 + i, 40, 3), dtype=np.uint8)
        (folder / f"{i}.jpg").write_bytes(jpeg(colour))
        Image.fromarray(colour[..., 0]).save(folder / f"{i}.png")
        (folder / f"{i}.dcm").write_bytes(dicom(rng.integers(0, 4096, (33, 27 + i), dtype=np.uint16)))
        lines += [f"{i}.{kind},{number},train,p{i}" for number, kind in enumerate(("jpg", "png", "dcm"))]
    (folder / "m.csv").write_text("\n".join(lines) + "\n")
    return dp.Manifest.from_csv(folder / "m.csv")


def loaded(manifest: dp.Manifest, recipe: dp.Recipe, epoch: int = 0, **options: Any) -> torch.Tensor:
    with dp.Loader(manifest, recipe, batch_size=4, backend="torch", **options) as loader:
        loader.set_epoch(epoch)
        return torch.cat([batch.image for batch in loader])


def batches(dataset: dp.ImageDataset, **options: Any) -> torch.Tensor:
    return torch.cat([image for image, _, _ in torch.utils.data.DataLoader(dataset, batch_size=4, **options)])


@pytest.mark.parametrize("mode", MODES)
def test_items_are_the_loaders_in_every_mode_and_epoch(manifest: dp.Manifest, tmp_path: Path, mode: str) -> None:
    folder = None if mode in ("none", "memory") else tmp_path
    with dp.ImageDataset(manifest, RECIPE, cache_mode=mode, cache_dir=folder, seed=7) as dataset:
        for epoch in (0, 1):
            dataset.set_epoch(epoch)
            expected = loaded(manifest, RECIPE, epoch, seed=7)
            assert all(torch.equal(dataset[i][0], expected[i]) for i in range(len(dataset)))
        assert not torch.equal(loaded(manifest, RECIPE, 0, seed=7), expected)
        decoded = dataset.stats()["decoded"]
    assert decoded == (18 if mode == "none" else 9)


@pytest.mark.parametrize(
    "recipe",
    [
        dp.Recipe(size=16),
        dp.Recipe(size=16, channels=1, mean=0.4, std=0.2, fit="pad"),
        dp.Recipe(size=16, depth=16, window=None, channels=1),
        dp.Recipe(size=16, depth=16, augment=dp.Augment(1.0, 0.0)),
        dp.Recipe(size=16, augment=EVERYTHING),
        dp.Recipe(size=16, augment=EVERYTHING, parity="fast", mean=0.4, std=0.2),
        dp.Recipe(size=16, channels=1, augment=dp.Augment(rotation=90, contrast=0.9), parity="fast"),
        dp.Recipe(size=16, depth=16, window=None, augment=EVERYTHING),
    ],
    ids=["integers", "gray", "16-bit", "16-bit-window", "varied", "varied-fast", "varied-gray", "varied-16-bit"],
)
def test_items_are_the_loaders_for_other_recipes(manifest: dp.Manifest, recipe: dp.Recipe) -> None:
    for mode in ("none", "memory"):  # under fast parity DALI's own resizing is for what is not cached
        expected = loaded(manifest, recipe, cache_mode=mode)
        with dp.ImageDataset(manifest, recipe, cache_mode=mode) as dataset:
            for _ in range(2):
                items = [dataset[i][0] for i in range(len(dataset))]
                assert items[0].dtype == expected.dtype
                assert all(torch.equal(item, want) for item, want in zip(items, expected))


def test_what_an_item_holds(manifest: dp.Manifest) -> None:
    with dp.ImageDataset(manifest, RECIPE) as dataset:
        tensor, label, row = dataset[-1]
        assert (tensor.shape, tensor.dtype, label) == ((3, 24, 20), torch.float32, 2)
        assert row == {
            "index": 8,
            "id": "2.dcm",
            "path": "2.dcm",
            "frame": 0,
            "label": 2,
            "split": "train",
            "group": "p2",
        }
        tensor.zero_()
        assert dataset[-1][0].any()
        with pytest.raises(IndexError):
            dataset[9]


@pytest.mark.parametrize("way", ["fork", "spawn"])
def test_workers_give_the_same_and_share_what_they_decode(manifest: dp.Manifest, way: str) -> None:
    with dp.ImageDataset(manifest, RECIPE, cache_mode="memory", seed=1) as dataset:
        assert torch.equal(dataset[0][0], loaded(manifest, RECIPE, seed=1)[0])  # the parent has threads by now
        loader = torch.utils.data.DataLoader(
            dataset,
            batch_size=4,
            num_workers=2 if way == "fork" else 1,  # a spawned one imports torch, which takes seconds
            multiprocessing_context=way,
            persistent_workers=True,
        )
        for epoch in (0, 3):
            dataset.set_epoch(epoch)  # reaches workers that live on
            got = torch.cat([image for image, _, _ in loader])
            assert torch.equal(got, loaded(manifest, RECIPE, epoch, seed=1))
        del loader
        assert batches(dataset).shape == got.shape
        assert dataset.stats()["decoded"] == 1  # the workers decoded the others, once
        assert dataset.stats()["cache"]["entries"] == 9


def test_memory_that_workers_shared_is_given_back(manifest: dp.Manifest) -> None:
    dataset = dp.ImageDataset(manifest, RECIPE, cache_mode="memory")
    dataset[0]
    folder = dataset.stats()["cache"]["directory"]
    assert folder is None or os.path.isdir(folder)
    dataset.close()
    assert folder is None or not os.path.exists(folder)
    with pytest.raises(dp.ConfigError, match="closed"):
        dataset[0]


def test_pickling_keeps_everything_but_the_threads(manifest: dp.Manifest, tmp_path: Path) -> None:
    with dp.ImageDataset(manifest, RECIPE, cache_mode="npy", cache_dir=tmp_path, seed=5) as dataset:
        dataset.set_epoch(4)
        expected = [dataset[i][0] for i in range(len(dataset))]
        with pickle.loads(pickle.dumps(dataset)) as copy:  # noqa: S301
            assert all(torch.equal(copy[i][0], want) for i, want in enumerate(expected))
            assert (copy.stats()["decoded"], copy.stats()["hits"]) == (0, 9)


def broken(manifest: dp.Manifest, folder: Path) -> dp.Manifest:
    for path in manifest.paths:
        (folder / path).write_bytes((manifest.root / path).read_bytes())
    (folder / "1.jpg").write_bytes((folder / "1.jpg").read_bytes()[:100])
    (folder / "m.csv").write_text("path,label\n" + "".join(f"{s.path},{s.label}\n" for s in manifest))
    return dp.Manifest.from_csv(folder / "m.csv")


@pytest.mark.filterwarnings("ignore::dali_pipes.DaliPipesWarning")
def test_a_bad_sample_raises_or_is_substituted(manifest: dp.Manifest, tmp_path: Path) -> None:
    bad = broken(manifest, tmp_path)
    with dp.ImageDataset(bad, RECIPE) as dataset, pytest.raises(dp.DecodeError, match="sample 3"):
        dataset[3]
    with dp.ImageDataset(bad, RECIPE, on_error="substitute") as dataset:
        tensor, label, row = dataset[3]
        assert (label, row["index"], row["path"]) == (1, 4, "1.png")
        assert torch.equal(tensor, loaded(bad, RECIPE, on_error="substitute")[3])
    alone = dp.ImageDataset(bad.subset([3]), RECIPE, on_error="substitute")
    with alone as dataset, pytest.raises(dp.DecodeError, match="nor can"):
        dataset[0]
    with pytest.raises(dp.ConfigError, match="'raise', 'substitute'"):
        dp.ImageDataset(bad, RECIPE, on_error="skip")


def test_an_error_reaches_the_loop_from_a_worker(manifest: dp.Manifest, tmp_path: Path) -> None:
    bad = broken(manifest, tmp_path)
    with dp.ImageDataset(bad, RECIPE) as dataset, pytest.raises(dp.DecodeError, match="sample 3"):
        batches(dataset, num_workers=1, multiprocessing_context="fork")


def test_rows_of_older_code(manifest: dp.Manifest, tmp_path: Path) -> None:
    rows = [
        {"image_path": str(manifest.root / s.path), "label": s.label, "split": s.split, "age": 50 + s.index}
        for s in manifest
    ]
    recipe = dp.Recipe(size=24, channels=1, mean=0.449, std=0.226)
    with dp.ImageDataset.from_rows(
        rows, img_size=24, train=False, augment=True, cache_mode="disk", cache_dir=tmp_path, input_channels=1
    ) as dataset:
        assert dataset.recipe == recipe
        tensor, label, row = dataset[5]
        assert (label, row["age"], row["image_path"], row["split"]) == (2, 55, rows[5]["image_path"], "train")
        assert torch.equal(tensor, loaded(manifest, recipe)[5])
    training = dp.ImageDataset.from_rows(rows, img_size=(8, 9), train=True, augment=True, split_name="a", mean=0, std=1)
    with training:
        assert training.recipe == dp.Recipe(size=(8, 9), mean=0, std=1, augment=dp.Augment(horizontal_flip=0.5))
        assert training[0][2]["split"] == "train"
    unnamed = [{"image_path": row["image_path"]} for row in rows]
    with dp.ImageDataset.from_rows(unnamed, img_size=8, split_name="test") as dataset:
        assert (dataset[0][2]["split"], dataset[0][1]) == ("test", -1)


def test_manifests_of_rows(tmp_path: Path) -> None:
    rows = [
        {"path": "b/x.png", "label": "malign", "id": 7, "frame": 2},
        {"path": "a/y.png", "label": "benign", "id": 8},
    ]
    found = manifest_of_rows(rows, tmp_path)
    assert (list(found.paths), list(found.ids), found.labels.tolist()) == (["b/x.png", "a/y.png"], ["7", "8"], [1, 0])
    assert (found.classes, found.frames.tolist(), found.root) == (("benign", "malign"), [2, 0], tmp_path)
    whole = manifest_of_rows([{"path": tmp_path / "x.png", "label": 1.0}, {"path": tmp_path / "y.png", "label": True}])
    assert (whole.labels.tolist(), whole.root) == ([1, 1], tmp_path)
    with pytest.raises(dp.ManifestError, match=r"rows 1: give each a 'path'"):
        manifest_of_rows([{"path": "a"}, {"label": 1}])
    with pytest.raises(dp.ManifestError, match="none given"):
        manifest_of_rows([])
    with pytest.raises(dp.ManifestError, match="is absolute and not under the root"):
        manifest_of_rows([{"path": "/etc/passwd"}], tmp_path)


def test_wrong_arguments_say_what_is_allowed(manifest: dp.Manifest) -> None:
    with pytest.raises(dp.ConfigError, match="allowed are 1 and 3"):
        dp.ImageDataset.from_rows([{"path": "a"}], img_size=8, input_channels=4)
    with pytest.raises(dp.ConfigError, match="both mean and std"):
        dp.ImageDataset.from_rows([{"path": "a"}], img_size=8, mean=0.5)
    with pytest.raises(dp.ConfigError, match="not known"):
        dp.ImageDataset(manifest, RECIPE, cache_mode="memory", cache_options={"bytes": 1})
