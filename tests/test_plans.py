"""Plans: the one resampling, and the matrix that tells where a source pixel went, against dots that are looked for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import dali_pipes as dp
from dali_pipes.arithmetic import base_image
from dali_pipes.arithmetic.plan import as_plan, as_words
from dali_pipes.draws import draw
from dali_pipes.finish.finish import Finish
from dali_pipes.finish.plans import Plans

SOURCE, BASE, SIZE = (300, 400), (160, 150), (96, 128)
GEOMETRY: dict[str, dp.Augment | None] = {
    "nothing": None,
    "flips": dp.Augment(0.5, 0.5),
    "resized crop": dp.Augment(resized_crop=(0.2, 1)),
    "crop": dp.Augment(0.5, crop=True, quarter_turns=0.75),
    "some crops": dp.Augment(0.5, crop=True, quarter_turns=0.75, probability={"crop": 0.5}),
    "quarter turns": dp.Augment(0.5, 0.5, resized_crop=(0.3, 1), quarter_turns=0.75),
    "rotation": dp.Augment(0.5, rotation=180, resized_crop=(0.3, 1), quarter_turns=0.75),
    "everything": dp.Augment(0.5, 0.5, 40, (0.7, 1.4), 0.1, resized_crop=(0.3, 1), quarter_turns=0.5, shear=30),
}


def plans_of(recipe: dp.Recipe, count: int, source: tuple[int, int] = SOURCE) -> Plans:
    drawn = draw(recipe.augment, 5, 2, np.arange(count), recipe.views)
    return Plans(recipe, replace(drawn, source=np.tile(source, (count * recipe.views, 1))))


def finished(recipe: dp.Recipe, plans: Plans, bases: list[np.ndarray]) -> np.ndarray:
    finish = Finish(recipe)
    return np.stack([finish.planned(base, words) for base, words in zip(bases, as_words(plans.records))])


def smooth_dot(y: float, x: float, radius: float) -> np.ndarray:
    rows, columns = np.arange(SOURCE[0])[:, None] + 0.5 - y, np.arange(SOURCE[1]) + 0.5 - x
    return np.rint(255 * np.exp(-(rows**2 + columns**2) / (2 * radius**2))).astype(np.uint8)[..., None]


@pytest.mark.parametrize("fit", ["stretch", "crop", "pad"])
@pytest.mark.parametrize("name", GEOMETRY)
def test_a_dot_is_found_where_the_matrix_says(name: str, fit: Any) -> None:
    """Its centre of mass, within half a pixel; a smooth dot, so that resampling does not move it by itself."""
    recipe = dp.Recipe(SIZE, channels=1, fit=fit, base_size=BASE, augment=GEOMETRY[name])
    count, seen, rng = 24, 0, np.random.default_rng(7)
    plans = plans_of(recipe, count)
    dots = np.stack([rng.uniform(40, side - 40, count) for side in SOURCE], axis=1)
    bases = [base_image(smooth_dot(y, x, 7.0), BASE, fit) for y, x in dots]
    for image, (y, x), matrix in zip(finished(recipe, plans, bases), dots, plans.matrix):
        where = dp.transform_points(torch.tensor([[x, y]]), torch.from_numpy(matrix))[0].numpy()
        reach = 4 * 7.0 * np.abs(matrix[:, :2]).sum(axis=1).max()
        if (where < reach).any() or (where > np.array(SIZE[::-1]) - reach).any():
            continue  # cut off by an edge, its centre of mass is elsewhere
        mass = image[0].astype(np.float64)
        found = [(mass * (np.arange(n) + 0.5).reshape(form)).sum() / mass.sum()
                 for n, form in ((SIZE[1], (1, -1)), (SIZE[0], (-1, 1)))]  # fmt: skip
        assert np.abs(found - where).max() < 0.5
        seen += 1
    assert seen > 2


def test_a_crop_is_pytorchs_resize_of_it() -> None:
    recipe = dp.Recipe(SIZE, base_size=BASE, augment=dp.Augment(resized_crop=(0.2, 1)))
    plans = plans_of(recipe, 12)
    rng = np.random.default_rng(1)
    bases = [rng.integers(0, 256, (3, *BASE), dtype=np.uint8) for _ in range(12)]
    for image, base, (top, left, height, width) in zip(finished(recipe, plans, bases), bases, plans.boxes.tolist()):
        crop = torch.from_numpy(base[:, top : top + height, left : left + width].copy())
        assert torch.equal(torch.from_numpy(image), F.interpolate(crop[None], SIZE, mode="bilinear", antialias=True)[0])


def test_a_crop_that_is_not_applied_shows_the_whole_base_image() -> None:
    always = dp.Recipe(SIZE, base_size=BASE, augment=dp.Augment(crop=True))
    some = dp.Recipe(SIZE, base_size=BASE, augment=dp.Augment(crop=True, probability={"crop": 0.75}))
    boxes, windows = plans_of(some, 2000).boxes, plans_of(always, 2000).boxes
    whole = (boxes == (0, 0, *BASE)).all(axis=1)
    assert np.array_equal(boxes[~whole], windows[~whole])
    assert 0.2 < whole.mean() < 0.3


def test_turns_and_flips_move_the_resized_crop() -> None:
    recipe = dp.Recipe(SIZE, base_size=BASE, augment=dp.Augment(0.5, 0.5, resized_crop=(0.2, 1), quarter_turns=0.75))
    plans = plans_of(recipe, 30)
    bases = [np.random.default_rng(i).integers(0, 256, (3, *BASE), dtype=np.uint8) for i in range(30)]
    for image, base, record in zip(finished(recipe, plans, bases), bases, plans.records):
        top, left, height, width = record["box"].tolist()
        crop = torch.from_numpy(base[:, top : top + height, left : left + width].copy())
        size = SIZE[::-1] if record["turns"] % 2 else SIZE
        resized = F.interpolate(crop[None], size, mode="bilinear", antialias=True)[0].numpy()
        turned = np.rot90(resized, int(record["turns"]), (1, 2))
        axes = [axis for bit, axis in ((1, 2), (2, 1)) if record["flips"] & bit]
        assert np.array_equal(image, np.flip(turned, axes))
    assert len({(int(r["turns"]), int(r["flips"])) for r in plans.records}) > 8


def test_without_crops_the_output_is_the_base_image_resized() -> None:
    recipe = dp.Recipe(SIZE, base_size=BASE)
    base = np.random.default_rng(1).integers(0, 256, (3, *BASE), dtype=np.uint8)
    expected = F.interpolate(torch.from_numpy(base)[None], SIZE, mode="bilinear", antialias=True)[0]
    assert torch.equal(torch.from_numpy(finished(recipe, plans_of(recipe, 1), [base])[0]), expected)


def test_where_nothing_is_turned_a_crop_stays_antialiased() -> None:
    """Samples that drew no rotation are those of the recipe without it."""
    some = dp.Augment(0.5, rotation=90, resized_crop=(0.2, 1), probability={"rotation": 0.5})
    recipe = dp.Recipe(SIZE, base_size=BASE, augment=some)
    plain = replace(recipe, augment=dp.Augment(0.5, resized_crop=(0.2, 1)))
    bases = [np.random.default_rng(i).integers(0, 256, (3, *BASE), dtype=np.uint8) for i in range(20)]
    plans = plans_of(recipe, 20)
    both = zip(finished(recipe, plans, bases), finished(plain, plans_of(plain, 20), bases))
    alike = [np.array_equal(*pair) for pair in both]
    assert alike == (plans.records["warped"] == 0).tolist()
    assert 5 < sum(alike) < 15


def test_a_warp_that_moves_nothing_is_near_the_resized_crop() -> None:
    """The two resamplings mean the same place: on a smooth picture they differ by little."""
    turning = dp.Recipe(SIZE, base_size=BASE, augment=dp.Augment(0.5, rotation=180, resized_crop=(0.5, 1)))
    plain = replace(turning, augment=dp.Augment(0.5, resized_crop=(0.5, 1)))
    smooth = base_image(smooth_dot(150.0, 200.0, 60.0), BASE, "stretch").repeat(3, axis=0)
    drawn = draw(turning.augment, 5, 2, np.arange(20))
    still = replace(drawn, angle=np.full(20, 1e-9), source=np.tile(SOURCE, (20, 1)))
    plans = Plans(turning, still)
    assert plans.records["warped"].all()
    one, other = finished(turning, plans, [smooth] * 20), finished(plain, plans_of(plain, 20), [smooth] * 20)
    assert np.abs(one.astype(int) - other)[:, :, 4:-4, 4:-4].max() <= 3


def test_shrinking_does_not_alias() -> None:
    """Fine stripes shrunk eight times by a turning map come out as their mean, not as coarse stripes."""
    recipe = dp.Recipe(32, channels=1, base_size=256, augment=dp.Augment(rotation=180))
    stripes = np.tile(np.array([0, 255], np.uint8), (1, 256, 128))
    plans = plans_of(recipe, 8)
    assert (plans.records["doublings"] == 3).all()
    middle = finished(recipe, plans, [stripes] * 8)[:, 0, 8:24, 8:24].astype(int)
    assert np.abs(middle - 127).max() < 40


def test_records_travel_as_words() -> None:
    plans = plans_of(dp.Recipe(SIZE, base_size=BASE, augment=GEOMETRY["everything"]), 3).records
    for record, words in zip(plans, as_words(plans)):
        assert as_plan(words.copy()) == record


def test_what_crops_depend_on_must_be_known() -> None:
    recipe = dp.Recipe(SIZE, base_size=BASE, augment=dp.Augment(resized_crop=(0.2, 1)))
    with pytest.raises(dp.ConfigError, match="the sizes of the sources are not known"):
        _ = Plans(recipe, draw(recipe.augment, 0, 0, np.arange(2))).records
