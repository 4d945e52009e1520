"""DALI CPU brightness_contrast and color_twist: every bit of 2,000 cases each."""

import pytest
import torch
from dali_cases import Arguments, Graph, identical
from dali_pictures import Picture, Random, picture, single

from dali_pipes.arithmetic import dali_cpu
from dali_pipes.errors import ConfigError


def light(random: Random, image: Picture) -> Arguments:
    return {
        "brightness": single(random, 0, 2, (0.0, 0.5, 1.0, 1.5)),
        "brightness_shift": single(random, -0.5, 0.5, (0.0,)),
        "contrast": single(random, 0, 3, (0.0, 0.5, 1.0)),
    }


def light_about(random: Random, image: Picture) -> Arguments:
    return {**light(random, image), "contrast_center": single(random, 0, 200, (0.0, 127.5))}


def twist(random: Random, image: Picture) -> Arguments:
    return {
        "hue": single(random, -180, 180, (0.0, 90.0, 360.0)),
        "saturation": single(random, 0, 2, (0.0, 1.0)),
        # Without contrast all pixels are 128 times the brightness, which is 64.5 here.
        "brightness": single(random, 0, 1.5, (1.0, 0.50390625)),
        "contrast": single(random, 0, 2, (1.0, 0.0)),
    }


def adjusted(image: torch.Tensor, arguments: Arguments) -> torch.Tensor:
    return dali_cpu.brightness_contrast(image, **{name: float(value) for name, value in arguments.items()})


def twisted(image: torch.Tensor, arguments: Arguments) -> torch.Tensor:
    return dali_cpu.color_twist(image, **{name: float(value) for name, value in arguments.items()})


def small(random: Random, dtype: str, channels: int) -> Picture:
    return picture(random, dtype, channels, tuple(random.integers(1, 90, 2)))


LIGHT = tuple(
    Graph("brightness_contrast", depth, channels, draw, adjusted, make=small, note=draw.__name__)
    for depth in ("uint8", "float32")
    for channels in (1, 3)
    for draw in (light, light_about)
)
TWIST = tuple(Graph("color_twist", depth, 3, twist, twisted, make=small) for depth in ("uint8", "float32"))
test_identical, test_identical_at_length = identical(LIGHT, TWIST)


def test_refusals() -> None:
    with pytest.raises(ConfigError, match=r"brightness_contrast found torch.uint16"):
        dali_cpu.brightness_contrast(torch.zeros((2, 2, 1), dtype=torch.uint16))
    with pytest.raises(ConfigError, match="color_twist found 1 channels; it needs RGB"):
        dali_cpu.color_twist(torch.zeros((2, 2, 1)))
