"""Gray is Pillow's `convert("L")`: every pair of channels at some values of the third, and random colours."""

import numpy as np
import pytest
import torch
from PIL import Image

from dali_pipes.arithmetic import gray
from dali_pipes.errors import ConfigError


def pillow(rgb: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(rgb).convert("L"))


@pytest.mark.parametrize("channel", [0, 1, 2])
@pytest.mark.parametrize("value", [0, 1, 2, 63, 127, 128, 200, 254, 255])
def test_every_pair_of_the_other_channels(channel: int, value: int) -> None:
    a, b = np.mgrid[0:256, 0:256].astype(np.uint8)
    rgb = np.insert(np.stack([a, b], -1), channel, value, axis=-1)
    assert np.array_equal(gray(torch.from_numpy(rgb), axis=-1)[..., 0].numpy(), pillow(rgb))


def test_random_colours_and_planes() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (1000, 1000, 3), dtype=np.uint8)
    planes = torch.from_numpy(rgb).permute(2, 0, 1)
    assert np.array_equal(gray(planes)[0].numpy(), pillow(rgb))
    assert gray(torch.stack([planes, planes])).shape == (2, 1, 1000, 1000)


def test_what_is_no_colour_is_named() -> None:
    with pytest.raises(ConfigError, match=r"gray takes uint8 with 3 channels on axis -3, not torch.uint8 \[1, 4, 4\]"):
        gray(torch.zeros(1, 4, 4, dtype=torch.uint8))
    with pytest.raises(ConfigError, match=r"not torch\.float32"):
        gray(torch.zeros(3, 4, 4))
