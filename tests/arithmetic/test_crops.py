"""Resized crops: inside of what is shown, and distributed as torchvision's published algorithm draws them."""

import importlib
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dali_pipes.arithmetic import Fit
from dali_pipes.arithmetic.crops import resized_crops, shown
from dali_pipes.draws import Augment, draw, random_bits

RATIO = (3 / 4, 4 / 3)


def boxes(
    source: tuple[int, int], base: tuple[int, int], fit: Fit, area: tuple[float, float], count: int, seed: int = 0,
    ratio: tuple[float, float] = RATIO,
) -> np.ndarray:  # fmt: skip
    drawn = draw(Augment(resized_crop=area, ratio=ratio), seed, 0, np.arange(count))
    assert drawn.areas is not None
    assert drawn.ratios is not None
    assert drawn.crop_y is not None
    assert drawn.crop_x is not None
    part = shown(np.tile(source, (count, 1)), base, fit)
    return resized_crops(part, ratio, drawn.areas, drawn.ratios, np.stack([drawn.crop_y, drawn.crop_x], axis=1))


def torchvisions(
    height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float], rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """`RandomResizedCrop.get_params` as torchvision publishes it: top, left, height, width."""
    log_ratio = (math.log(ratio[0]), math.log(ratio[1]))
    for _ in range(10):
        target = height * width * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(*log_ratio))
        w, h = round(math.sqrt(target * aspect)), round(math.sqrt(target / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1)), h, w
    if width / height < min(ratio):
        w, h = width, round(width / min(ratio))
    elif width / height > max(ratio):
        w, h = round(height * max(ratio)), height
    else:
        w, h = width, height
    return (height - h) // 2, (width - w) // 2, h, w


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """The two-sample statistic of Kolmogorov and Smirnov."""
    points = np.concatenate([a, b])
    below = [np.searchsorted(np.sort(each), points, side="right") / len(each) for each in (a, b)]
    return float(np.abs(below[0] - below[1]).max())


@pytest.mark.parametrize(("source", "base", "fit"), [
    ((400, 600), (400, 600), "stretch"),
    ((400, 600), (512, 512), "stretch"),
    ((900, 300), (900, 900), "pad"),
    ((300, 1200), (300, 1200), "stretch"),
])  # fmt: skip
@pytest.mark.parametrize("area", [(0.08, 1.0), (0.5, 0.9)])
def test_distributed_as_torchvisions(source: tuple[int, int], base: tuple[int, int], fit: Fit, area: Any) -> None:
    """Areas, ratios and places, in source pixels. The critical distance of 4,000 and 4,000 is 0.044 at one in a
    thousand; the fixed seed's largest is below 0.04."""
    count, rng = 4000, np.random.default_rng(3)
    part = shown(np.array([source]), base, fit)
    found = boxes(source, base, fit, area, count).astype(np.float64)
    found[:, :2] -= part.first
    found /= np.tile(part.scale[0], 2)
    theirs = np.array([torchvisions(*source, area, RATIO, rng) for _ in range(count)], np.float64)
    for measure in (
        lambda b: b[:, 2] * b[:, 3],
        lambda b: np.log(b[:, 3] / b[:, 2]),
        lambda b: b[:, 0] + b[:, 2] / 2,
        lambda b: b[:, 1] + b[:, 3] / 2,
    ):
        jitter = rng.uniform(-0.5, 0.5, (2, count, 4)) * 1.0  # both round to pixels, of different sizes
        assert distance(measure(found + jitter[0]), measure(theirs + jitter[1])) < 0.04


@given(
    st.tuples(st.integers(1, 50), st.integers(1, 50)),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.sampled_from(["stretch", "crop", "pad"]),
    st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)),
    st.tuples(st.floats(0.1, 10), st.floats(0.1, 10)),
    st.integers(0, 1000),
)
def test_crops_lie_inside_of_what_is_shown(
    source: tuple[int, int], base: tuple[int, int], fit: Fit, area: Any, ratio: Any, seed: int
) -> None:
    part = shown(np.array([source]), base, fit)
    for top, left, height, width in boxes(source, base, fit, tuple(sorted(area)), 20, seed, tuple(sorted(ratio))):
        assert height >= 1
        assert width >= 1
        assert (part.first[0] <= [top, left]).all()
        assert ([top + height, left + width] <= part.first[0] + part.visible[0]).all()


def test_the_ratio_is_meant_in_source_pixels() -> None:
    """A square base of a wide source: square crops of the source are narrow ones of the base."""
    found = boxes((200, 800), (400, 400), "stretch", (0.1, 0.2), 500, ratio=(1.0, 1.0))
    by = (found[:, 3] * 2.0) / (found[:, 2] / 2.0)
    assert np.abs(by - 1).max() < 0.02


@pytest.mark.parametrize(("source", "expected"), [((10, 100), (0, 43, 10, 13)), ((100, 10), (43, 0, 13, 10))])
def test_where_no_try_fits_the_largest_centred_part_is_shown(source: Any, expected: Any) -> None:
    assert (boxes(source, source, "stretch", (0.9, 1.0), 5) == expected).all()


@pytest.mark.parametrize("wrong", ["ratios of one distribution", "areas of another", "places in the whole picture"])
def test_another_distribution_is_told_apart(wrong: str) -> None:
    """What the test above would miss is smaller than what usual mistakes make."""
    rng, count, (height, width) = np.random.default_rng(4), 4000, (400, 600)
    right = np.array([torchvisions(height, width, (0.08, 1.0), RATIO, rng) for _ in range(count)], np.float64)
    area, ratio = rng.uniform(0.08, 1.0, count), np.exp(rng.uniform(*np.log(RATIO), count))
    if wrong.startswith("ratios"):
        ratio = rng.uniform(*RATIO, count)
    if wrong.startswith("areas"):
        area = rng.uniform(0.08**0.5, 1.0, count) ** 2
    w, h = np.sqrt(area * height * width * ratio), np.sqrt(area * height * width / ratio)
    fits = (w <= width) & (h <= height)
    y, x = rng.random((2, count)) * (height - h, width - w)
    if wrong.startswith("places"):
        y, x = (np.minimum(rng.random(count) * side, side - part) for side, part in ((height, h), (width, w)))
    false = np.stack([y, x, h, w], axis=1)[fits]
    measures = (
        lambda b: b[:, 2] * b[:, 3],
        lambda b: np.log(b[:, 3] / b[:, 2]),
        lambda b: b[:, 0] + b[:, 2] / 2,
    )
    assert max(distance(measure(right), measure(false)) for measure in measures) > 0.05


def closest(draws: Callable[..., Any], samples: np.ndarray) -> dict[str, float]:
    """The largest correlation of draws with those of a neighbour, by which number is another, of any pair of kinds."""
    names = ("areas", "ratios", "crop_y", "crop_x")

    def columns(seed: int, epoch: int, shift: int) -> np.ndarray:
        drawn = draws(seed, epoch, samples + shift)
        return np.stack([getattr(drawn, name).reshape(len(samples), -1)[:, 0] for name in names])

    base = columns(7, 7, 0)
    neighbours = {
        "seed": (8, 7, 0),
        "epoch": (7, 8, 0),
        "sample": (7, 7, 1),
        "seed and sample": (8, 7, 1),
        "seed, and sample back": (8, 7, -1),
        "epoch and sample": (7, 8, 1),
        "epoch, and sample back": (7, 8, -1),
        "seed, and epoch back": (8, 6, 0),
    }
    found = {what: np.corrcoef(base, columns(*there))[:4, 4:] for what, there in neighbours.items()}
    found["kind"] = np.corrcoef(base) - np.eye(4)
    return {what: float(np.abs(values).max()) for what, values in found.items()}


SAMPLES = np.arange(10, 4010)
RANDOM = Augment(resized_crop=(0.08, 1.0))


def test_neighbours_are_uncorrelated() -> None:
    """Seeds, epochs and samples that lie next to each other, together too, and the kinds of numbers."""
    found = closest(lambda *numbers: draw(RANDOM, *numbers), SAMPLES)
    assert max(found.values()) < 0.07, found  # of 4,000 pairs a correlation of chance is above it once in 100,000


@pytest.mark.parametrize("sum_of", [("seed", "sample"), ("epoch", "sample"), ("seed", "epoch")])
def test_streams_that_overlap_are_found(sum_of: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as a generator whose key is a sum makes them."""

    def overlapping(seed: int, epoch: int, operation: str, samples: np.ndarray) -> np.ndarray:
        given = {"seed": seed, "epoch": epoch, "sample": samples}
        key = given[sum_of[0]] + given[sum_of[1]]
        rest = next(value for name, value in given.items() if name not in sum_of)
        numbers, other = np.broadcast_arrays(key, rest)
        return np.array(
            [
                random_bits(int(a), 0, operation, np.array([b]))[0]
                for a, b in zip(numbers + 0 * samples, other + 0 * samples)
            ]
        )

    monkeypatch.setattr(importlib.import_module("dali_pipes.draws.draw"), "random_bits", overlapping)
    few = SAMPLES[:300]
    assert max(closest(lambda *numbers: draw(RANDOM, *numbers), few).values()) > 0.99
