"""What a batch answers to: a pair, a mapping, a pytree, a thing that moves, and a picture."""

from __future__ import annotations

import copy
import dataclasses
import io
from pathlib import Path
from typing import Any

import pytest
import torch
from archives import manifest_of, pictures
from PIL import Image
from torch.utils import _pytree

import dali_pipes as dp


def batch_of(count: int = 3, dtype: torch.dtype = torch.float32, channels: int = 3) -> dp.Batch:
    image = torch.arange(count * channels * 20).reshape(count, channels, 4, 5).to(dtype)
    valid = torch.ones(count, dtype=torch.bool)
    return dp.Batch(image, torch.arange(count), torch.arange(count) + 7, [f"s{i}" for i in range(count)], valid)


def test_it_unpacks_into_image_and_label() -> None:
    batch = batch_of()
    images, labels = batch
    assert images is batch.image
    assert labels is batch.label
    assert len(batch) == 3


def test_it_reads_as_a_mapping() -> None:
    batch = batch_of()
    names = ("image", "label", "index", "id", "valid")
    assert batch.keys() == names
    assert dict(batch).keys() == set(names)
    assert dict(batch.items())["label"] is batch.values()[1] is batch["label"]
    assert (lambda **given: given["index"])(**batch) is batch.index
    assert "image" in batch
    assert "mask" not in batch
    assert batch.get("mask", 5) == 5
    assert batch.get("image") is batch.image
    with pytest.raises(KeyError, match="'mask'; a batch has image, label, index, id, valid"):
        batch["mask"]


def test_a_field_that_is_none_is_not_there() -> None:
    batch = dp.Batch(torch.zeros(1, 1, 2, 2), torch.zeros(1), torch.zeros(1), ["a"])
    assert batch.keys() == ("image", "label", "index", "id")
    assert "valid" not in batch
    assert batch.to(torch.float16).valid is None


def test_it_is_a_pytree() -> None:
    batch = batch_of()
    leaves, spec = _pytree.tree_flatten(batch)
    assert [id(leaf) for leaf in leaves] == [id(batch.image), id(batch.label), id(batch.index), id(batch.valid)]
    assert _pytree.tree_unflatten(leaves, spec).id == batch.id
    doubled = _pytree.tree_map(lambda t: t * 2, batch)
    assert isinstance(doubled, dp.Batch)
    assert torch.equal(doubled.image, batch.image * 2)
    paths = [_pytree.keystr(path) for path, _ in _pytree.tree_flatten_with_path(batch)[0]]
    assert paths == [".image", ".label", ".index", ".valid"]


def test_a_dtype_is_for_the_image_alone() -> None:
    batch = batch_of().to(torch.bfloat16)
    assert batch.image.dtype == torch.bfloat16
    assert batch.label.dtype == batch.index.dtype == torch.int64
    assert batch.valid is not None
    assert batch.valid.dtype == torch.bool


@pytest.mark.parametrize(
    ("args", "options"),
    [
        (("cpu", torch.float16), {}),
        ((torch.device("cpu"),), {"dtype": torch.float16, "non_blocking": True}),
        ((), {"device": "cpu", "dtype": torch.float16}),
        ((torch.float16,), {}),
        (("cpu", torch.float16, True), {}),
        ((torch.float16, True), {}),
    ],
)
def test_to_takes_what_tensors_take(args: Any, options: Any) -> None:
    batch = batch_of()
    moved = batch.to(*args, **options, memory_format=torch.channels_last)
    assert moved.image.dtype == torch.float16
    assert moved.image.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(moved.image.float(), batch.image)
    assert torch.equal(moved.label, batch.label)
    assert moved.label.dtype == torch.int64
    assert moved.id == batch.id


def test_everything_moves_to_a_device() -> None:
    moved = batch_of().to("meta")
    assert {value.device.type for value in moved.values() if isinstance(value, torch.Tensor)} == {"meta"}
    assert batch_of().cpu().image.device.type == "cpu"
    with pytest.raises(TypeError, match=r"Batch.to\(1.5\): give a device"):
        batch_of().to(1.5)  # type: ignore[arg-type]


@pytest.mark.gpu
def test_it_moves_to_a_gpu() -> None:
    pinned = batch_of().pin_memory()
    assert pinned.image.is_pinned()
    assert pinned.label.is_pinned()
    assert pinned.cuda(non_blocking=True).label.is_cuda


def test_pinning_without_an_accelerator_gives_the_batch_itself() -> None:
    batch = batch_of()
    if not torch.accelerator.is_available():
        assert batch.pin_memory() is batch


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("channels", [1, 3])
def test_it_shows_itself(dtype: torch.dtype, channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = batch_of(2, torch.uint8, channels)
    batch = dp.Batch(batch.image.to(dtype), batch.label, batch.index, ["<a>", "b"])
    with Image.open(io.BytesIO(batch._repr_png_())) as picture:
        assert picture.size == (256, 128)
        colours = picture.getcolors(256 * 128)
        assert colours is not None
        assert len(colours) > (1 if dtype == torch.uint16 else 10)
    assert "<img src=" in batch._repr_html_()
    shown: list[Image.Image] = []
    monkeypatch.setattr(Image.Image, "show", lambda picture: shown.append(picture))
    picture = batch.show()
    assert shown == [picture]


def test_a_large_batch_says_that_not_all_is_shown() -> None:
    assert "first 32 of 40 images" in batch_of(40)._repr_html_()


def test_values_that_are_not_finite_are_shown_all_the_same() -> None:
    batch = batch_of(1)
    batch.image[0, 0, 0, 0], batch.image[0, 0, 0, 1] = torch.nan, torch.inf
    assert batch._repr_png_()
    batch.image.fill_(torch.nan)
    assert batch._repr_png_()


def test_a_matrix_is_made_when_it_is_read() -> None:
    asked: list[int] = []

    def where() -> torch.Tensor:
        asked.append(1)
        return torch.eye(2, 3, dtype=torch.float64).expand(3, 2, 3)

    batch = batch_of().locating(where)
    moved = batch.to("cpu", torch.float16)
    assert "matrix" not in batch.keys() + moved.keys()
    assert not asked
    assert torch.equal(moved.matrix, where())
    assert moved.matrix is moved.matrix is moved["matrix"]
    for read in (lambda b: b["matrix"], lambda b: b.get("matrix")):
        assert torch.equal(read(batch_of().locating(where)), moved.matrix)
    asked[2:] = []
    assert len(asked) == 2
    assert dataclasses.replace(batch, image=batch.image).matrix.shape == (3, 2, 3)
    assert batch_of().matrix is None


def test_the_matrix_of_a_loader(tmp_path: Path) -> None:
    """The same with and without the flag; where it cannot be had, points say how it can."""
    manifest = manifest_of(tmp_path, pictures(4))
    recipe = dp.Recipe(8, base_size=16, views=2, augment=dp.Augment(0.5, rotation=10))
    with (
        dp.Loader(manifest, recipe, batch_size=4, seed=1) as lazy,
        dp.Loader(manifest, recipe, batch_size=4, seed=1, matrix=True) as eager,
    ):
        (one,), (other,) = list(lazy), list(eager)
    assert "matrix" in other
    assert "matrix" not in one
    assert torch.equal(copy.deepcopy(one).matrix, other.matrix)
    assert torch.equal(one.matrix, other.matrix)
    assert "matrix" in one
    with dp.Loader(manifest, dp.Recipe(8), batch_size=4) as plain:
        (batch,) = list(plain)
    assert batch.matrix is None
    assert dataclasses.replace(batch, image=batch.image).matrix is None
    for function, given in ((dp.transform_points, torch.zeros(1, 2)), (dp.transform_boxes, torch.zeros(1, 4))):
        with pytest.raises(dp.ConfigError, match=r"there is no matrix.*give Loader\(matrix=True\)"):
            function(given, batch.matrix)
