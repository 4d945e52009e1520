"""DALI CPU resize: every bit of 2,000 cases, and every fast form against its slow one."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from dali_cases import TORCH, Arguments, Graph, as_floats, differences, identical
from dali_pictures import Picture, Random, picture, side_lengths
from dali_runner import require_dali
from hypothesis import given
from hypothesis import strategies as st

from dali_pipes.arithmetic import dali_cpu
from dali_pipes.arithmetic.dali import passes
from dali_pipes.arithmetic.dali.passes import weighted_rows, weighted_rows_blocked
from dali_pipes.arithmetic.dali.resize import taps
from dali_pipes.arithmetic.dali.sampling import sampling
from dali_pipes.errors import ConfigError

FILTERS = ("linear", "triangular", "cubic", "lanczos3", "gaussian", "nn")


def twin(image: torch.Tensor, arguments: Arguments) -> torch.Tensor:
    pairs = {
        key: as_floats(value) for key, value in arguments.items() if key in ("size", "roi_start", "roi_end", "max_size")
    }
    rest: Arguments = {key: value for key, value in arguments.items() if key not in pairs}
    if "dtype" in rest:
        rest["dtype"] = TORCH[rest["dtype"]]
    return dali_cpu.resize(image, **pairs, **rest)


def any_size(random: Random, image: Picture) -> Arguments:
    return {"size": np.array(side_lengths(random), np.float32)}


def one_side(random: Random, image: Picture) -> Arguments:
    size = np.array(side_lengths(random), np.float32)
    kept = random.integers(3)
    return {"size": size * (np.arange(2) != kept).astype(np.float32)}


def fractional(random: Random, image: Picture) -> Arguments:
    return {"size": random.uniform(0.6, 200, 2).astype(np.float32)}


def region(random: Random, image: Picture, relative: bool = False) -> Arguments:
    """A region with ends in any order; sometimes whole pixels, sometimes past the border."""
    extent = np.array((1, 1) if relative else image.shape[:2])
    start, end = (random.uniform(-0.1, 1.1, 2) * extent for _ in range(2))
    if random.random() < 0.7:
        start, end = start.clip(0, extent), end.clip(0, extent)
    if random.random() < 0.4 and not relative:
        start, end = np.floor(start.clip(0)), np.floor(end.clip(0)) + 1
    # A region that misses the image altogether is refused.
    missed = (np.maximum(start, end) <= 0.01) | (np.minimum(start, end) >= extent - 0.01)
    start, end = np.where(missed, 0, start), np.where(missed, extent, end)
    return {**any_size(random, image), "roi_start": start.astype(np.float32), "roi_end": end.astype(np.float32)}


def large(random: Random, dtype: str, channels: int) -> Picture:
    height = int(random.integers(800, 1500))
    return picture(random, dtype, channels, (height, 2_100_000 // height // channels + 1))


def region_for_nearest(random: Random, image: Picture, relative: bool = False) -> Arguments:
    """A region whose columns are inside of the image: DALI reads any memory for those that are not."""
    drawn = region(random, image, relative)
    for name in ("roi_start", "roi_end"):
        drawn[name][1] = drawn[name][1].clip(0, 1 if relative else image.shape[1])
    if drawn["roi_start"][1] == drawn["roi_end"][1]:
        drawn["roi_start"][1] = 0 if drawn["roi_end"][1] else 1
    return drawn


def graph(depth: str, channels: int, draw: Any = any_size, note: str = "", **fixed: Any) -> Graph:
    return Graph("resize", depth, channels, draw, twin, fixed, note=note)


GRAPHS = (
    *(
        graph(dtype, channels, interp_type=name)
        for dtype, channels in (
            ("uint8", 3),
            ("uint8", 1),
            ("uint16", 1),
            ("uint16", 3),
            ("float32", 1),
            ("float32", 3),
        )
        for name in FILTERS
    ),
    *(graph("uint8", channels) for channels in (2, 4, 5)),
    *(graph("uint8", 3, interp_type=name, antialias=False) for name in ("linear", "cubic", "lanczos3")),
    *(graph(d, 3, interp_type=n, dtype="float32") for d in ("uint8", "uint16") for n in ("linear", "cubic", "nn")),
    *(graph("uint8", 3, one_side, "one side", mode=m) for m in ("default", "stretch", "not_smaller", "not_larger")),
    *(
        graph("uint8", 1, fractional, "fractional", mode=mode, subpixel_scale=subpixel)
        for mode in ("default", "not_smaller", "not_larger")
        for subpixel in (True, False)
    ),
    *(
        graph("uint8", 3, one_side, "limited", mode=mode, max_size=limit)
        for mode in ("default", "stretch", "not_smaller", "not_larger")
        for limit in ((90.0, 60.0), (0.0, 33.5))
    ),
    *(graph(d, c, region, "region", interp_type=n) for d, c in (("uint8", 3), ("uint16", 1)) for n in FILTERS[:-1]),
    *(
        graph("uint8", 1, partial(region, relative=True), "region", interp_type=name, roi_relative=True)
        for name in ("linear", "cubic")
    ),
    graph("uint8", 3, region_for_nearest, "region", interp_type="nn"),
    graph("uint16", 1, region_for_nearest, "region", interp_type="nn"),
    graph("uint8", 1, partial(region_for_nearest, relative=True), "region", interp_type="nn", roi_relative=True),
)


test_identical, test_identical_at_length = identical(GRAPHS)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("channels", [1, 3])
def test_identical_for_large_images(dtype: str, channels: int) -> None:
    require_dali()
    assert differences(Graph("resize", dtype, channels, any_size, twin, {}, large), 2, seed=3) == []


def test_a_build_that_fuses_takes_the_plain_form(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*arguments: Any) -> None:
        raise AssertionError("the blocked form was taken")

    monkeypatch.setattr(passes, "einsum", lambda _, rows, weight: (rows.astype(float).T @ weight).astype(np.float32))
    passes.einsum_rounds_twice.cache_clear()
    try:
        assert not passes.einsum_rounds_twice()
        monkeypatch.setattr(passes, "weighted_rows_blocked", unreachable)
        assert dali_cpu.resize(torch.zeros((600, 900, 3)), (100.0, 90.0)).shape == (100, 90, 3)
    finally:
        passes.einsum_rounds_twice.cache_clear()


@pytest.mark.skipif(not passes.einsum_rounds_twice(), reason="this build of NumPy fuses multiply and add")
@given(st.integers(1, 60), st.integers(2, 40), st.integers(1, 60), st.sampled_from(FILTERS[:-1]), st.integers(0, 2**31))
def test_blocked_form_equals_plain_form(height: int, width: int, size: int, name: Any, seed: int) -> None:
    random = np.random.default_rng(seed)
    rows = torch.from_numpy(picture(random, ("uint8", "uint16", "float32")[seed % 3], 1, (height, width))[..., 0])
    plan = sampling((height, 9), (float(size), 9.0), name, True, "default", None, None, False, True, None)
    expected = weighted_rows(rows, taps(plan.y))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(passes, "BLOCK_COLUMNS", int(random.integers(2, 50)))
        patch.setattr(passes, "BLOCK_VALUES", int(random.integers(1, 2000)))
        found = weighted_rows_blocked(rows, taps(plan.y))
    assert found.numpy().tobytes() == expected.numpy().tobytes()


def test_a_reversed_region_is_a_flip() -> None:
    image = torch.from_numpy(picture(np.random.default_rng(0), "uint8", 3, (20, 30)))
    flipped = dali_cpu.resize(image, (20.0, 30.0), roi_start=(0.0, 30.0), roi_end=(20.0, 0.0))
    assert torch.equal(flipped, image.flip(1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"interp_type": "area"}, "interp_type is 'area'; allowed are nn, linear"),
        ({"mode": "fit"}, "mode is 'fit'; allowed are default, stretch"),
        ({"roi_start": (0.0, 0.0)}, "give both roi_start and roi_end"),
        ({"roi_start": (50.0, 0.0), "roi_end": (60.0, 4.0)}, "must overlap the image"),
        (
            {"roi_start": (0.0, 3.0), "roi_end": (8.0, 12.0), "interp_type": "nn"},
            "columns 4 to 10 of 8; DALI reads other memory",
        ),
        ({"dtype": torch.uint16}, "can not turn torch.uint8 into torch.uint16"),
        ({"size": (float("nan"), 4.0)}, "finite"),
    ],
)
def test_refusals(arguments: Arguments, message: str) -> None:
    image = torch.zeros((8, 8, 3), dtype=torch.uint8)
    with pytest.raises(ConfigError, match=message):
        dali_cpu.resize(image, **{"size": (4.0, 4.0), **arguments})


def test_refuses_shapes_and_types() -> None:
    with pytest.raises(ConfigError, match=r"shape \(8, 8\); it needs \[H, W, C\]"):
        dali_cpu.resize(torch.zeros((8, 8)), (4.0, 4.0))
    with pytest.raises(ConfigError, match=r"torch.int64 have no twin"):
        dali_cpu.resize(torch.zeros((8, 8, 1), dtype=torch.int64), (4.0, 4.0))
    with pytest.raises(ConfigError, match="0x8 pixels"):
        dali_cpu.resize(torch.zeros((0, 8, 1)), (4.0, 4.0))
