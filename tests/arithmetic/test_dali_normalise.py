"""DALI CPU crop_mirror_normalize: every bit of 2,000 cases."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from dali_cases import TORCH, Arguments, Graph, as_floats, identical
from dali_pictures import Picture, Random, crop_position, picture, side_lengths

from dali_pipes.arithmetic import dali_cpu
from dali_pipes.errors import ConfigError

IMAGENET = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))


def twin(image: torch.Tensor, arguments: Arguments) -> torch.Tensor:
    given = dict(arguments)
    if "crop_h" in given:
        given["crop"] = (int(given.pop("crop_h")), int(given.pop("crop_w")))
        given["crop_pos"] = (float(given.pop("crop_pos_y")), float(given.pop("crop_pos_x")))
    given["mean"], given["std"] = as_floats(given["mean"]), as_floats(given["std"])
    given["dtype"] = TORCH[given["dtype"]]
    given["mirror"] = bool(given["mirror"])
    return dali_cpu.crop_mirror_normalize(image, **given)


def constants(random: Random, channels: int) -> Arguments:
    kind = random.integers(5)
    if kind == 0 and channels == 3:
        mean, std = IMAGENET
    elif kind == 1:
        mean, std = (random.uniform(-50, 300),), (random.uniform(0.01, 300),)
    elif kind == 2:
        mean, std = (0.0,), (float(random.choice([1.0, 255.0])),)
    else:
        mean, std = random.uniform(0, 255, channels), random.uniform(1, 90, channels)
    # DALI wants arrays of one shape from all pictures of a batch.
    return {"mean": np.resize(mean, channels).astype(np.float32), "std": np.resize(std, channels).astype(np.float32)}


def whole(random: Random, image: Picture) -> Arguments:
    return {**constants(random, image.shape[2]), "mirror": np.int32(random.integers(2))}


def cropped(random: Random, image: Picture, beyond: int = 0) -> Arguments:
    sides = {
        name: np.float32(random.integers(1, side + 1 + beyond))
        for name, side in (("crop_h", image.shape[0]), ("crop_w", image.shape[1]))
    }
    places = {
        f"crop_pos_{axis}": crop_position(random, side, size)
        for axis, side, size in zip("yx", image.shape, sides.values())
    }
    return {**whole(random, image), **sides, **places}


def midpoints(random: Random, dtype: str, channels: int) -> Picture:
    """Values half way between two float16, which the two rules for ties round differently."""
    shape = (*side_lengths(random), channels)
    lower = random.integers(0x0001, 0x7BFE, shape).astype(np.uint16).view(np.float16).astype(np.float32)
    upper = (lower.astype(np.float16).view(np.uint16) + 1).view(np.float16).astype(np.float32)
    return (lower + upper) / np.float32(2) * random.choice([-1, 1], shape).astype(np.float32)


def one_value(random: Random, image: Picture) -> Arguments:
    return {**whole(random, image), **constants(random, 1)}


def graph(depth: str, channels: int, draw: Any = whole, note: str = "", make: Any = picture, **fixed: Any) -> Graph:
    fixed = {"dtype": "float32", "output_layout": "CHW", **fixed}
    return Graph("crop_mirror_normalize", depth, channels, draw, twin, fixed, make, note)


def identity(random: Random, image: Picture) -> Arguments:
    return {**whole(random, image), "mean": np.zeros(1, np.float32), "std": np.ones(1, np.float32)}


GRAPHS = (
    *(
        graph(depth, channels, dtype=dtype, output_layout=layout)
        for depth, channels in (
            ("uint8", 3),
            ("uint8", 1),
            ("uint16", 1),
            ("uint16", 3),
            ("float32", 3),
            ("float32", 1),
        )
        for dtype in ("float32", "float16")
        for layout in ("CHW", "HWC")
    ),
    *(graph(depth, 3, one_value, "one value") for depth in ("uint8", "uint16", "float32")),
    *(graph("uint8", 3, scale=scale, shift=shift) for scale, shift in ((0.125, 0.0), (3.7, -2.3), (255.0, 128.0))),
    *(graph("float32", 1, identity, "midpoints", midpoints, dtype="float16", output_layout=n) for n in ("CHW", "HWC")),
    *(graph(depth, 3, cropped, "crop") for depth in ("uint8", "uint16")),
    *(
        graph(
            "uint8",
            channels,
            partial(cropped, beyond=20),
            "crop",
            out_of_bounds_policy="pad",
            fill_values=fill,
            dtype=dtype,
        )
        for channels, fill in ((3, (7.25,)), (1, (0.1,)), (3, (1.0, 2.0, 3.3)))
        for dtype in ("float32", "float16")
    ),
    *(graph("uint8", channels, cropped, "crop", pad_output=True) for channels in (1, 3, 5)),
    graph(
        "uint8", 3, partial(cropped, beyond=20), "crop", out_of_bounds_policy="pad", fill_values=(2.5,), pad_output=True
    ),
)


test_identical, test_identical_at_length = identical(GRAPHS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mean": (1.0, 2.0)}, "mean has 2 values for 3 channels"),
        ({"std": (0.0,)}, "must not be 0"),
        ({"std": (1e-50,)}, "must not be 0, as float32"),
        ({"std": (float("nan"),)}, r"std is \(nan,\); it must be finite"),
        ({"mean": (1e300,)}, r"mean is \(1e\+300,\); it must be finite, as float32"),
        ({"dtype": torch.float64}, "allowed are torch.float32 and torch.float16"),
        ({"crop": (9, 2)}, "crop of 9x2 at row -?[01], column 3 leaves an image of 8x8"),
    ],
)
def test_refusals(arguments: Arguments, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        dali_cpu.crop_mirror_normalize(torch.zeros((8, 8, 3), dtype=torch.uint8), **arguments)


def test_the_image_is_not_written_to() -> None:
    image = torch.ones((4, 4, 3))
    dali_cpu.crop_mirror_normalize(image, mean=(1.0,), std=(2.0,), output_layout="HWC")
    assert torch.equal(image, torch.ones((4, 4, 3)))
