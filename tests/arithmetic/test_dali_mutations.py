"""Would the comparisons notice? One rule of a twin is broken at a time, and DALI must then disagree."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import test_dali_colour
import test_dali_normalise
import test_dali_placement
import test_dali_resize
import test_dali_warp
import torch
from dali_cases import Graph, differences
from dali_runner import require_dali, run_operator
from torch import Tensor

from dali_pipes.arithmetic.dali import colour, float32, normalise, passes, placement, resize, sampling, selfcheck, warp
from dali_pipes.arithmetic.dali.filters import Float32Array
from dali_pipes.arithmetic.dali.float32 import fma
from dali_pipes.arithmetic.dali.passes import Taps
from dali_pipes.errors import ParityError

Patch = Callable[[pytest.MonkeyPatch], None]


def replacing(owner: Any, name: str, value: Any) -> Patch:
    return lambda patch: patch.setattr(owner, name, value)


def fused_sum(rows: Tensor, taps: Taps) -> Tensor:
    total = torch.zeros(1)
    for index, weight in zip(taps.index, taps.weight):
        total = fma(rows.to(torch.float32).index_select(0, index), weight, total)
    return total


def reversed_sum(rows: Tensor, taps: Taps) -> Tensor:
    return passes.weighted_rows(rows, Taps(taps.first, taps.index.flip(0), taps.weight.flip(0)))


def sum_from_the_first_term(rows: Tensor, taps: Taps) -> Tensor:
    total = rows.to(torch.float32)[taps.index[0]] * taps.weight[0]
    for index, weight in zip(taps.index[1:], taps.weight[1:]):
        total += rows.to(torch.float32)[index] * weight
    return total


def horizontal_if_dearer(y: sampling.Axis, x: sampling.Axis, rule: Any = sampling.horizontal_first) -> bool:
    return not rule(y, x)


def fused_normalise(planes: Tensor, subtract: Float32Array, multiply: Float32Array) -> Tensor:
    m, inv = (torch.from_numpy(v).view(-1, 1, 1) for v in (subtract, multiply))
    return fma(planes.to(torch.float32), inv, -m * inv)


def divided_normalise(planes: Tensor, subtract: Float32Array, multiply: Float32Array) -> Tensor:
    m, inv = (torch.from_numpy(v).view(-1, 1, 1) for v in (subtract, multiply))
    return (planes.to(torch.float32) - m) / (1 / inv)


def fused_light(x: Tensor, multiply: np.float32, add: np.float32, dtype: torch.dtype) -> Tensor:
    return float32.saturate(fma(x, torch.tensor(multiply), torch.tensor(add)), dtype)


def fused_mix(channels: tuple[Tensor, ...], row: list[float], offset: float) -> Tensor:
    total = channels[0] * row[0]
    for channel, factor in zip(channels[1:], row[1:]):
        total = fma(channel, torch.tensor(factor), total)
    return total + offset


def reversed_mix(channels: tuple[Tensor, ...], row: list[float], offset: float) -> Tensor:
    return ((channels[2] * row[2] + channels[1] * row[1]) + channels[0] * row[0]) + offset


def fused_blend(pixels: list[Tensor], qx: Tensor, qy: Tensor) -> Tensor:
    upper, lower = (fma(right, qx, left * (1.0 - qx)) for left, right in (pixels[:2], pixels[2:]))
    return fma(lower - upper, qy, upper)


def direct_walk(row: Float32Array, size: tuple[int, int]) -> Float32Array:
    a, b, t = row
    x, y = (np.arange(n, dtype=np.float32) + np.float32(0.5) for n in (size[1], size[0]))
    return (t + a * x)[None] + (b * y)[:, None]


def exact_rows(axis: sampling.Axis) -> Any:
    return resize.nearest_columns(axis)


NO_VALUES = np.zeros(0, np.int64)
HALF_EVEN_SATURATE: Any = lambda x, dtype: (  # noqa: E731
    x if dtype == torch.float32 else torch.round(x).clamp_(0, float32.integer_max(dtype)).to(dtype)
)

RESIZE = test_dali_resize.GRAPHS[:18]
NEAREST = tuple(graph for graph in test_dali_resize.GRAPHS if graph.fixed.get("interp_type") == "nn")
FLOATS = tuple(graph for graph in test_dali_resize.GRAPHS if graph.dtype == "float32")
WARPS = tuple(graph for graph in test_dali_warp.WARPS if graph.dtype == "float32")
MUTATIONS: dict[str, tuple[tuple[Graph, ...], Patch]] = {
    "resize: fused multiply-add": (RESIZE, replacing(passes, "weighted_sum", fused_sum)),
    "resize: taps in reverse order": (RESIZE, replacing(passes, "weighted_sum", reversed_sum)),
    "resize: sum begins with the first term": (FLOATS, replacing(passes, "weighted_sum", sum_from_the_first_term)),
    "resize: passes swapped": (RESIZE, replacing(sampling, "horizontal_first", horizontal_if_dearer)),
    "resize: ties to even everywhere": (
        RESIZE,
        lambda patch: [
            patch.setattr(resize, f"_scalar_after_{n}", lambda *_: NO_VALUES) for n in ("vertical", "horizontal")
        ],
    ),
    "resize: ties away everywhere": (RESIZE, replacing(torch, "round", float32.round_half_away)),
    "resize: nearest rows by product": (NEAREST, replacing(resize, "nearest_rows", exact_rows)),
    "crop_mirror_normalize: fused": (test_dali_normalise.GRAPHS, replacing(normalise, "_normalise", fused_normalise)),
    "crop_mirror_normalize: divided": (
        test_dali_normalise.GRAPHS,
        replacing(normalise, "_normalise", divided_normalise),
    ),
    "crop_mirror_normalize: half ties to even": (
        test_dali_normalise.GRAPHS,
        replacing(normalise, "to_half", lambda y: y.to(torch.float16)),
    ),
    "cast: ties to even": (test_dali_placement.CASTS, replacing(placement, "round_half_away", torch.round)),
    "crop: offset rounded down": (
        test_dali_placement.CROPS,
        replacing(placement, "crop_offset", lambda position, image, size: int(np.float32(position) * (image - size))),
    ),
    "brightness_contrast: fused": (test_dali_colour.LIGHT, replacing(colour, "_multiply_add", fused_light)),
    "brightness_contrast: ties to even": (test_dali_colour.LIGHT, replacing(colour, "saturate", HALF_EVEN_SATURATE)),
    "color_twist: fused": (test_dali_colour.TWIST, replacing(colour, "_mix", fused_mix)),
    "color_twist: sum reversed": (test_dali_colour.TWIST, replacing(colour, "_mix", reversed_mix)),
    "color_twist: ties to even": (test_dali_colour.TWIST, replacing(colour, "saturate", HALF_EVEN_SATURATE)),
    "warp_affine: fused": (WARPS, replacing(warp, "_blend", fused_blend)),
    "warp_affine: positions by product": (test_dali_warp.WARPS, replacing(warp, "_walk", direct_walk)),
    "warp_affine: ties to even": (test_dali_warp.WARPS, replacing(warp, "saturate", HALF_EVEN_SATURATE)),
    "rotate: positions by product": (test_dali_warp.TURNS, replacing(warp, "_walk", direct_walk)),
}
"""The rule that is broken, the graphs to find it with, and how to break it."""


@pytest.fixture
def broken(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The graphs of a mutation, with the mutation in force and nothing remembered from before or after."""
    graphs, patch = MUTATIONS[request.param]
    sampling.sampling.cache_clear()
    with monkeypatch.context() as context:
        patch(context)
        yield graphs
    sampling.sampling.cache_clear()


@pytest.mark.parametrize("broken", MUTATIONS, indirect=True)
def test_a_broken_rule_is_noticed(broken: tuple[Graph, ...]) -> None:
    require_dali()
    assert any(differences(graph, 12, seed=4) for graph in broken)


@pytest.mark.parametrize(
    "broken", [n for n in MUTATIONS if "fused" in n or "order" in n or "swapped" in n], indirect=True
)
def test_a_broken_rule_is_noticed_by_the_selfcheck(broken: tuple[Graph, ...], request: pytest.FixtureRequest) -> None:
    require_dali()
    with pytest.raises(ParityError, match=f"computes {broken[0].operator} otherwise"):
        selfcheck.compare("2.4.0", lambda operator, image, arguments: run_operator(operator, [image], arguments)[0])
