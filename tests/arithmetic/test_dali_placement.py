"""DALI CPU crop, flip and cast: every bit of 2,000 cases each."""

import numpy as np
import pytest
import torch
from dali_cases import TORCH, Arguments, Graph, identical
from dali_pictures import Picture, Random, crop_position, picture

from dali_pipes.arithmetic import dali_cpu
from dali_pipes.errors import ConfigError

PIXELS = (("uint8", 3), ("uint8", 1), ("uint16", 1), ("uint16", 3), ("float32", 3))


def window(random: Random, image: Picture) -> Arguments:
    sides = [np.float32(random.integers(1, side + 1)) for side in image.shape[:2]]
    places = (crop_position(random, side, size) for side, size in zip(image.shape, sides))
    return dict(zip(("crop_h", "crop_w", "crop_pos_y", "crop_pos_x"), (*sides, *places)))


def cropped(image: torch.Tensor, arguments: Arguments) -> torch.Tensor:
    size = int(arguments["crop_h"]), int(arguments["crop_w"])
    return dali_cpu.crop(image, size, (float(arguments["crop_pos_y"]), float(arguments["crop_pos_x"])))


def turns(random: Random, image: Picture) -> Arguments:
    return {name: np.int32(random.integers(2)) for name in ("horizontal", "vertical")}


def flipped(image: torch.Tensor, arguments: Arguments) -> torch.Tensor:
    return dali_cpu.flip(image, horizontal=bool(arguments["horizontal"]), vertical=bool(arguments["vertical"]))


def small(random: Random, dtype: str, channels: int) -> Picture:
    """Pictures within and around the range of the integer types, with many halves."""
    if dtype != "float32":
        return picture(random, dtype, channels, tuple(random.integers(1, 60, 2)))
    values = random.uniform(-400, 400, (*random.integers(1, 60, 2), channels)) * random.choice([1, 100, 200])
    return np.where(random.random(values.shape) < 0.5, np.rint(values) + 0.5, values).astype(np.float32)


CROPS = tuple(Graph("crop", depth, channels, window, cropped) for depth, channels in PIXELS)
FLIPS = tuple(Graph("flip", depth, channels, turns, flipped) for depth, channels in PIXELS)
CASTS = tuple(
    Graph(
        "cast",
        depth,
        channels,
        lambda random, image: {},
        lambda image, arguments: dali_cpu.cast(image, TORCH[arguments["dtype"]]),
        {"dtype": dtype},
        small,
    )
    for depth in ("uint8", "uint16", "float32")
    for channels in (1, 3)
    for dtype in ("uint8", "uint16", "int16", "float16", "float32")
)
test_identical, test_identical_at_length = identical(CROPS, FLIPS, CASTS)


def test_crop_offsets_round_halves_up() -> None:
    assert [dali_cpu.crop_offset(0.5, image, 2) for image in (2, 3, 4, 5)] == [0, 1, 1, 2]
    assert dali_cpu.crop_offset(0.5, 2, 5) == -2


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="crop of 9x2 does not fit in an image of 8x8"):
        dali_cpu.crop(torch.zeros((8, 8, 1)), (9, 2))
    with pytest.raises(ConfigError, match=r"cast found torch.int64"):
        dali_cpu.cast(torch.zeros((8, 8, 1), dtype=torch.int64), torch.uint8)
    with pytest.raises(ConfigError, match=r"cast to torch.float64 has no twin"):
        dali_cpu.cast(torch.zeros((8, 8, 1)), torch.float64)
