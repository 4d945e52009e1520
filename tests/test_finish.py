"""What comes after the cache: each step against a plain reading of its rule, in the order that is promised."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import dali_pipes as dp
from dali_pipes.arithmetic import dali_gpu, normalisation
from dali_pipes.arithmetic.affine import matrices, quantise, warp
from dali_pipes.arithmetic.colour import colour_maps, recolour
from dali_pipes.draws import Draws, draw
from dali_pipes.finish.finish import Finish

SIZE = (12, 17)
EVERYTHING = dp.Augment(0.5, 0.5, 180, (0.5, 2), 0.3, 0.4, 0.4, 0.9, 90)
IMAGENET: dict[str, Any] = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
COUNT = 12


def pictures(recipe: dp.Recipe, seed: int = 0) -> np.ndarray:
    dtype = np.uint16 if recipe.integer_dtype is torch.uint16 else np.uint8
    shape = (COUNT, recipe.channels, recipe.height, recipe.width)
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, shape).astype(dtype)


def finished(recipe: dp.Recipe, images: np.ndarray, drawn: Draws) -> torch.Tensor:
    finish = Finish(recipe)
    changes = finish.changes(drawn)
    out = torch.empty((len(images), *finish.shape), dtype=finish.dtype)
    for i, image in enumerate(images):
        finish.write(out[i].numpy(), image, changes, i)
    return out


def drawn_for(augment: dp.Augment | None) -> Draws:
    return draw(augment, 3, 1, np.arange(COUNT))


@pytest.mark.parametrize("parts", [{}, {"channels": 1}, {"depth": 16, "window": None}, {"depth": 16}], ids=str)
@pytest.mark.parametrize("normalised", [False, True])
def test_flip_warp_colour_normalise_in_this_order(parts: dict[str, Any], normalised: bool) -> None:
    gray = parts.get("channels") == 1
    augment = dp.Augment(0.5, 0.5, 180, (0.5, 2), 0.3, 0.4, 0.4) if gray else EVERYTHING
    scale = {"mean": 0.4, "std": 0.2} if normalised else {}
    recipe = dp.Recipe(SIZE, augment=augment, **parts, **scale)
    images, drawn = pictures(recipe), drawn_for(augment)
    found = finished(recipe, images, drawn)
    turns = quantise(matrices(SIZE, drawn.angle, drawn.scale, drawn.shift_y, drawn.shift_x))
    maps = colour_maps(
        recipe.channels, recipe.full_scale, drawn.brightness, drawn.contrast, drawn.saturation, drawn.hue
    )
    seen = set()
    for i, image in enumerate(images):
        axes = [axis for axis, flip in ((1, drawn.vflip[i]), (2, drawn.hflip[i])) if flip]
        expected = recolour(warp(np.flip(image, axes), turns[i]), maps[i])
        if normalised:
            m, inv = normalisation([0.4] * recipe.channels, [0.2] * recipe.channels, recipe.full_scale)
            expected = (expected.astype(np.float32) - m[:, None, None]) * inv[:, None, None]
        assert np.array_equal(found[i].numpy(), expected)
        seen.add(tuple(axes))
    assert len(seen) > 2


@pytest.mark.parametrize("parity", ["exact", "fast"])
def test_what_is_not_varied_stays_as_it_is(parity: Any) -> None:
    """A range around nothing, and numbers that change nothing, though the operators run."""
    recipe = dp.Recipe(SIZE, augment=EVERYTHING, parity=parity)
    images = pictures(recipe)
    assert np.array_equal(finished(recipe, images, drawn_for(None)).numpy(), images)


def test_a_half_turn_is_both_flips() -> None:
    turning, flipping = dp.Recipe(SIZE, augment=dp.Augment(rotation=180)), dp.Recipe(SIZE, augment=dp.Augment(1, 1))
    images, drawn = pictures(turning), drawn_for(None)
    half = Draws(**{**drawn.__dict__, "angle": np.full(COUNT, 180.0)})
    both = drawn_for(flipping.augment)
    assert np.array_equal(finished(turning, images, half).numpy(), finished(flipping, images, both).numpy())


@pytest.mark.parametrize("parity", ["exact", "fast"])
def test_which_way_things_go(parity: Any) -> None:
    """A white pixel right of the centre: turned counter-clockwise it goes up; magnified, out; shifted, down and
    right."""
    recipe = dp.Recipe(21, channels=1, augment=dp.Augment(0, 0, 180, (0.5, 2), 0.5), parity=parity)
    image = np.zeros((1, 1, 21, 21), np.uint8)
    image[..., 10, 14] = 255
    still = draw(None, 0, 0, np.arange(1)).__dict__
    for change, (y, x) in (
        ({"angle": 90.0}, (6, 10)),
        ({"scale": 2.0}, (10, 18)),
        ({"shift_y": 2 / 21, "shift_x": 4 / 21}, (12, 18)),
    ):
        drawn = Draws(**{**still, **{name: np.array([value]) for name, value in change.items()}})
        found = finished(recipe, image, drawn)[0, 0].numpy()
        assert np.unravel_index(found.argmax(), found.shape) == (y, x), change


def test_exact_and_fast_mean_the_same() -> None:
    """The draws are the same numbers; only roundings differ. At edges to black a position's last bit decides."""
    calm = dp.Augment(0.5, 0.5, 45, (1.5, 3), 0, 0.3, 0.3, 0.3, 20)
    exact, fast = (dp.Recipe(64, augment=calm, parity=parity) for parity in ("exact", "fast"))  # type: ignore[arg-type]
    smooth = np.add.outer(np.arange(64), np.arange(64)).astype(np.uint8)[None].repeat(3, 0)[None].repeat(COUNT, 0)
    smooth[:, 1] = smooth[:, 1, :, ::-1]
    one, other = (finished(recipe, smooth, drawn_for(calm)).int() for recipe in (exact, fast))
    assert (one - other).abs().max() <= 2


def test_emulating_a_gpu_fuses_the_normalisation() -> None:
    recipe = dp.Recipe(SIZE, parity="fast", emulate="dali-gpu", augment=dp.Augment(0.5, 0.5), **IMAGENET)
    images, drawn = pictures(recipe), drawn_for(recipe.augment)
    found = finished(recipe, images, drawn)
    m, d = ((np.array(IMAGENET[name]) * 255).astype(np.float32).tolist() for name in ("mean", "std"))
    for i, image in enumerate(images):
        axes = [axis for axis, flip in ((1, drawn.vflip[i]), (2, drawn.hflip[i])) if flip]
        flipped = torch.from_numpy(np.flip(image, axes).transpose(1, 2, 0).copy())
        assert torch.equal(found[i], dali_gpu.crop_mirror_normalize(flipped, mean=m, std=d))
    on_cpu = finished(dp.Recipe(SIZE, parity="fast", augment=recipe.augment, **IMAGENET), images, drawn)
    assert 0 < (found - on_cpu).abs().max() < 1e-6
