"""DALI CPU warp_affine and rotate: every bit of 2,000 cases each."""

from typing import Any

import numpy as np
import pytest
import torch
from dali_cases import Arguments, Graph, identical
from dali_pictures import Picture, Random, picture, single

from dali_pipes.arithmetic import dali_cpu
from dali_pipes.errors import ConfigError


def small(random: Random, dtype: str, channels: int) -> Picture:
    """Mostly small, sometimes wider than the 256 columns between two exact positions."""
    height, width = random.integers(1, 70, 2)
    return picture(
        random, dtype, channels, (int(height), int(random.integers(250, 600) if random.random() < 0.2 else width))
    )


def affine(random: Random, image: Picture) -> Arguments:
    height, width = image.shape[:2]
    kind = random.integers(3)
    if kind == 0:  # a shift by halves: every weight ties
        part = np.eye(2) * random.choice([1, -1, 0.5])
        shift = random.integers(-6, 7, 2) / 2
    else:
        angle, scale = random.uniform(-np.pi, np.pi), random.uniform(0.5, 2)
        cosine, sine = np.cos(angle) * scale, np.sin(angle) * scale
        part = np.array([[cosine, -sine], [sine, cosine]]) + (kind == 2) * random.uniform(-0.3, 0.3, (2, 2))
        centre = np.array([width, height]) / 2
        shift = centre - part @ centre + random.uniform(-3, 3, 2)
    matrix = np.concatenate([part, shift[:, None]], 1).astype(np.float32)
    return {"matrix": matrix, "size": random.integers(1, 300, 2).astype(np.float32)}


def turn(random: Random, image: Picture) -> Arguments:
    return {"angle": single(random, -180, 180, (0.0, 90.0, -90.0, 180.0, 45.0, 720.0))}


def turn_onto(random: Random, image: Picture) -> Arguments:
    return {**turn(random, image), "size": random.integers(1, 300, 2).astype(np.float32)}


def warped(image: torch.Tensor, arguments: Arguments) -> torch.Tensor:
    given = dict(arguments)
    matrix: Any = tuple(map(tuple, given.pop("matrix").tolist()))
    return dali_cpu.warp_affine(image, matrix, **with_size(given))


def rotated(image: torch.Tensor, arguments: Arguments) -> torch.Tensor:
    given = dict(arguments)
    return dali_cpu.rotate(image, float(given.pop("angle")), **with_size(given))


def with_size(given: Arguments) -> Arguments:
    if "size" in given:
        given["size"] = (int(given["size"][0]), int(given["size"][1]))
    return given


FILLS: tuple[Arguments, ...] = ({}, {"fill_value": 7.5}, {"fill_value": -300.0})
WARPS = tuple(
    Graph("warp_affine", depth, channels, affine, warped, {"interp_type": name, "inverse_map": inverse, **fill}, small)
    for depth, channels in (("uint8", 3), ("float32", 1))
    for name in ("linear", "nn")
    for inverse in (True, False)
    for fill in FILLS
)
TURNS = tuple(
    Graph("rotate", depth, channels, draw, rotated, {"interp_type": name, **keep, **fill}, small, draw.__name__)
    for depth, channels in (("uint8", 3), ("float32", 1))
    for name in ("linear", "nn")
    for draw, keep in ((turn, {}), (turn, {"keep_size": True}), (turn_onto, {}))
    for fill in FILLS
)
test_identical, test_identical_at_length = identical(WARPS, TURNS)


def test_the_canvas_of_a_quarter_turn_swaps_the_sides() -> None:
    assert dali_cpu.rotated_size(30, 41, 90.0) == (41, 30)


def test_refusals() -> None:
    image = torch.zeros((4, 4, 1))
    with pytest.raises(ConfigError, match=r"warp_affine found torch.uint16"):
        dali_cpu.rotate(image.to(torch.uint16), 3.0)
    with pytest.raises(ConfigError, match="interp_type is 'cubic'; allowed are nn and linear"):
        dali_cpu.rotate(image, 3.0, interp_type="cubic")  # type: ignore[arg-type]
    for empty, matrix in (
        (image[:0], ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))),
        (image, ((1e300, 0.0, 0.0), (0.0, 1.0, 0.0))),
    ):
        with pytest.raises(ConfigError, match="at least one pixel, and finite numbers"):
            dali_cpu.warp_affine(empty, matrix, size=(2, 2))
    with pytest.raises(ConfigError, match="angle of nan; it needs a finite number"):
        dali_cpu.rotate(image, float("nan"))
    with pytest.raises(ConfigError, match="can not be inverted"):
        dali_cpu.warp_affine(image, ((1.0, 2.0, 0.0), (2.0, 4.0, 0.0)), inverse_map=False)
