"""MixUp and CutMix as a loader's `batch_transform`: what the pictures and labels are made of, and that they repeat."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from archives import coded, manifest_of

import dali_pipes as dp
from tests.examples.test_examples import example

MIXING = example("mixing")
CLASSES = 6
RECIPE = dp.Recipe(size=(9, 14), mean=0.5, std=0.25)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> dp.Manifest:
    files = {f"{i}.img": coded(i) for i in range(12)}
    return manifest_of(tmp_path_factory.mktemp("mixed"), files, [i % CLASSES for i in range(12)])


def loader_of(manifest: dp.Manifest, mix: Any = None) -> dp.Loader:
    transform = None if mix is None else partial(mix, classes=CLASSES)
    return dp.Loader(
        manifest, RECIPE, batch_size=4, backend="torch", shuffle=True, seed=2, cache_mode="memory",
        num_workers=1, batch_transform=transform,
    )  # fmt: skip


def pairs(manifest: dp.Manifest, mix: Any, epochs: int = 4) -> list[tuple[dp.Batch, torch.Tensor, torch.Tensor]]:
    """Each batch as it is, and what was made of it."""
    found = []
    with loader_of(manifest) as plain, loader_of(manifest, mix) as mixed:
        for _ in range(epochs):
            found += [(batch, *made) for batch, made in zip(plain, mixed, strict=True)]
    return found


def weights(batch: dp.Batch, labels: torch.Tensor) -> set[float]:
    """The share of each picture's own class, after checking that the rest is its neighbour's."""
    own, other = batch.label, batch.label.roll(1, 0)
    assert (own != other).all()
    share = labels[torch.arange(len(batch)), own]
    assert torch.allclose(share + labels[torch.arange(len(batch)), other], torch.ones(len(batch)))
    assert torch.allclose(labels.sum(1), torch.ones(len(batch)))
    return set(share.tolist())


def distinct(manifest: dp.Manifest, mix: Any) -> list[tuple[dp.Batch, torch.Tensor, torch.Tensor]]:
    """Those batches in which no two neighbours have one class."""
    found = [each for each in pairs(manifest, mix) if (each[0].label != each[0].label.roll(1, 0)).all()]
    assert len(found) >= 4
    return found


def test_mixup_takes_the_mean_of_two_pictures_and_of_their_labels(manifest: dp.Manifest) -> None:
    seen = set()
    for batch, image, labels in distinct(manifest, MIXING.mixup):
        (weight,) = weights(batch, labels)
        assert torch.allclose(image, weight * batch.image + (1 - weight) * batch.image.roll(1, 0), atol=1e-5)
        seen.add(weight)
    assert len(seen) >= 4


def test_cutmix_pastes_one_box_and_mixes_labels_by_its_area(manifest: dp.Manifest) -> None:
    areas = set()
    for batch, image, labels in distinct(manifest, MIXING.cutmix):
        own = (image == batch.image).all(1)  # [N, H, W]: pixels of the picture itself
        other = (image == batch.image.roll(1, 0)).all(1)
        assert (own | other).all()
        pasted = ~own.all(0)  # the box is the same in all pictures
        rows, columns = pasted.any(1).nonzero(), pasted.any(0).nonzero()
        if len(rows):
            box = pasted[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
            assert box.all()
            assert pasted.sum() == box.numel()
        (weight,) = weights(batch, labels)
        assert weight == pytest.approx(1 - pasted.float().mean().item(), abs=1e-6)
        areas.add(int(pasted.sum()))
    assert len(areas) >= 4


@pytest.mark.parametrize("how", ["mixup", "cutmix"])
def test_a_resumed_run_mixes_alike(manifest: dp.Manifest, how: str) -> None:
    mix = getattr(MIXING, how)
    with loader_of(manifest, mix) as loader, loader_of(manifest, mix) as other:
        batches = iter(loader)
        next(batches)
        other.load_state_dict(loader.state_dict())
        for whole, again in zip(list(batches), other, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(whole, again, strict=True))


@pytest.mark.parametrize("how", ["mixup", "cutmix"])
def test_the_example_trains(
    manifest: dp.Manifest, how: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = Path(manifest.root) / "list.csv"
    monkeypatch.setattr(sys, "argv", ["mixing.py", str(listed), "--how", how, "--size", "16"])
    MIXING.main()
    assert capsys.readouterr().out.count(": loss ") == 2
