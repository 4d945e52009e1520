"""Random records of plans over every operation, and the plainest reading of one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from dali_pipes import Augment, Recipe
from dali_pipes.arithmetic import recolour, warp
from dali_pipes.arithmetic.blur import blur, sharpen
from dali_pipes.arithmetic.curves import autocontrast, curve, look_up
from dali_pipes.arithmetic.integer import resize
from dali_pipes.arithmetic.noise import add_noise
from dali_pipes.arithmetic.plan import Plan
from dali_pipes.draws import draw
from dali_pipes.finish.plans import Plans

Pixels = np.ndarray[Any, Any]


def random_recipe(rng: np.random.Generator) -> Recipe:
    """A planned recipe of small sizes; each operation is there half of the time."""
    channels, deep = int(rng.choice([1, 3])), bool(rng.integers(2))
    settings: dict[str, Any] = {
        **{"horizontal_flip": 0.5, "vertical_flip": 0.5, "rotation": 180, "scale": (0.3, 3), "shift": 0.4, "shear": 30},
        **{"brightness": 0.9, "contrast": 0.9, "saturation": 2, "hue": 90, "grayscale": 0.5, "gamma": 2},
        **{"blur": (0, 5), "noise": 0.3, "erasing": (0.02, 0.5), "solarize": 1, "posterize": 7, "autocontrast": 0.5},
        **{"sharpness": 3, "resized_crop": (0.05, 1), "quarter_turns": 0.7},
    }
    chosen = {name: value for name, value in settings.items() if rng.integers(2)}
    if channels == 1:
        chosen = {k: v for k, v in chosen.items() if k not in ("saturation", "hue", "grayscale")}
    chances = {
        name: 0.6 for name in chosen if name in ("rotation", "scale", "shift", "shear", "blur", "noise", "gamma")
    }
    base, size = (tuple(rng.integers(1, 40, 2).tolist()) for _ in range(2))
    fixed: dict[str, Any] = {
        "fit": str(rng.choice(["stretch", "pad"])),
        "interpolation": str(rng.choice(["bilinear", "bicubic"])),
        "depth": 16 if deep else 8,
    }
    augment = Augment(**chosen, probability=chances)
    recipe = Recipe(size, base_size=base, channels=channels, window=None, augment=augment, **fixed)
    return recipe if recipe.planned else replace(recipe, base_size=(base[0] + 1, base[1]))


def random_plans(recipe: Recipe, rng: np.random.Generator, count: int) -> Plan:
    """Records of some samples of some epoch."""
    seed, epoch = (int(value) for value in rng.integers(0, 1000, 2))
    drawn = draw(recipe.augment, seed, epoch, rng.integers(0, 10**6, count))
    return Plans(recipe, replace(drawn, source=rng.integers(1, 500, (count, 2)))).records


def pictures(recipe: Recipe, rng: np.random.Generator, count: int) -> list[Pixels]:
    """Base images."""
    dtype = np.uint16 if recipe.depth == 16 else np.uint8
    shape = (count, recipe.channels, *recipe.base)
    return list(rng.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True))


def reading(image: Pixels, plan: Any, recipe: Recipe) -> Pixels:
    """What a record asks for, step by step, from the first operation to the last."""
    size, top = (recipe.height, recipe.width), int(np.iinfo(image.dtype).max)
    if plan["warped"]:
        out = warp(image, plan["warp"], size, int(plan["doublings"]))
    else:
        y, x, height, width = plan["box"].tolist()
        turns = int(plan["turns"])
        part = torch.from_numpy(image[:, y : y + height, x : x + width].copy())
        out = resize(part, size[::-1] if turns % 2 else size, recipe.interpolation).numpy()
        out = np.rot90(out, turns, (1, 2))
        out = np.flip(out, [axis for bit, axis in ((1, 2), (2, 1)) if plan["flips"] & bit])
    channels = len(image)
    if plan["coloured"]:
        out = recolour(out, plan["colour"][: channels * (channels + 1)].reshape(channels, channels + 1))
    if plan["blur"].any():
        out = blur(out, plan["blur"])
    out = sharpen(out, int(plan["sharpen"]))
    if plan["autocontrast"]:
        out = autocontrast(out)
    threshold = int(plan["threshold"]) or top + 1
    out = look_up(out, curve(float(plan["exponent"]) or 1.0, threshold, int(plan["lost"]), image.dtype))
    out = add_noise(out, int(plan["origin"]), int(plan["noise"]))
    y, x, height, width = plan["erased"].tolist()
    out = out.copy()
    out[:, y : y + height, x : x + width] = plan["fill"][:channels, None, None]
    return out
