"""Normalising and flips against their plainest forms, and against DALI's crop_mirror_normalize."""

import numpy as np
import pytest
import torch
from arithmetic_pictures import Pixels, channel_counts, depths, noise, seeds, sides
from hypothesis import given
from hypothesis import strategies as st

from dali_pipes.arithmetic import copy_into, normalisation, normalise_into
from dali_pipes.errors import ConfigError

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
units = st.floats(-2.0, 2.0, width=32)
spreads = st.floats(2.0**-10, 4.0, width=32)


def planes(seed: int, h: int, w: int, channels: int, depth: int) -> Pixels:
    return np.ascontiguousarray(noise(seed, h, w, channels, depth).transpose(2, 0, 1))


def naive(x: Pixels, m: np.ndarray, inv: np.ndarray, hflip: bool, vflip: bool) -> torch.Tensor:
    y = (torch.from_numpy(x.astype(np.int32)).float() - torch.from_numpy(m)[:, None, None]) * torch.from_numpy(inv)[
        :, None, None
    ]
    return y.flip([axis for axis, flip in ((2, hflip), (1, vflip)) if flip])


def bits(x: torch.Tensor) -> torch.Tensor:
    return x.view(torch.int32 if x.dtype == torch.float32 else torch.int16)


@given(seeds, sides, sides, channel_counts, depths, st.booleans(), st.booleans(), st.data())
def test_normalise_into_is_the_formula(
    seed: int, h: int, w: int, channels: int, depth: int, hflip: bool, vflip: bool, data: st.DataObject
) -> None:
    mean = data.draw(st.lists(units, min_size=channels, max_size=channels))
    std = data.draw(st.lists(spreads, min_size=channels, max_size=channels))
    m, inv = normalisation(mean, std, (1 << depth) - 1)
    x = planes(seed, h, w, channels, depth)
    x.setflags(write=False)
    expected = naive(x, m, inv, hflip, vflip)
    out = torch.full(x.shape, 9.0)
    normalise_into(out, x, m, inv, hflip, vflip)
    assert torch.equal(bits(out), bits(expected))
    half = torch.full(x.shape, 9.0, dtype=torch.float16)
    normalise_into(half, x, m, inv, hflip, vflip)
    assert torch.equal(bits(half), bits(expected.half()))


@given(seeds, sides, sides, channel_counts, depths, st.booleans(), st.booleans())
def test_copy_into_moves_pixels_only(
    seed: int, h: int, w: int, channels: int, depth: int, hflip: bool, vflip: bool
) -> None:
    x = planes(seed, h, w, channels, depth)
    x.setflags(write=False)
    expected = x[:, :: -1 if vflip else 1, :: -1 if hflip else 1]
    out = np.zeros_like(x)
    copy_into(out, x, hflip, vflip)
    assert np.array_equal(out, expected)
    wide = np.zeros((channels, h, 2 * w), x.dtype)
    copy_into(wide[:, :, ::2], x, hflip, vflip)
    assert np.array_equal(wide[:, :, ::2], expected)
    assert not wide[:, :, 1::2].any()


@pytest.mark.parametrize("hflip", [False, True])
def test_a_slice_of_a_batch_and_more_than_one_block(hflip: bool) -> None:
    """224 x 20000 takes rows one at a time, 700 x 70 blocks of 234 rows, and the last block is short."""
    for h, w in ((3, 20000), (700, 70), (512, 512)):
        x = planes(4, h, w, 3, 8)
        batch = torch.full((3, 3, h, w), 7.0)
        m, inv = normalisation(*IMAGENET)
        normalise_into(batch[1], torch.from_numpy(x), m, inv, hflip)
        assert torch.equal(bits(batch[1]), bits(naive(x, m, inv, hflip, False)))
        assert (batch[0] == 7).all()
        assert (batch[2] == 7).all()


@pytest.mark.parametrize("full_scale", [255, 65535])
def test_constants_are_rounded_as_the_contract_says(full_scale: int) -> None:
    mean, std = IMAGENET
    m, inv = normalisation(mean, std, full_scale)
    for c in range(3):
        assert m[c] == np.float32(mean[c] * full_scale)
        assert inv[c] == np.float32(1.0 / float(np.float32(std[c] * full_scale)))
    assert m.dtype == inv.dtype == np.float32


def test_half_rounds_ties_to_even() -> None:
    """With m = 0, inv = 1 every uint16 value is written as it is; 2049 and 2051 lie between two halves."""
    x = np.array([[[2049, 2051, 65503, 65519, 65520, 65535]]], np.uint16)
    out = torch.zeros(1, 1, 6, dtype=torch.float16)
    normalise_into(out, x, np.zeros(1, np.float32), np.ones(1, np.float32))
    assert out.flatten().tolist() == [2048.0, 2052.0, 65504.0, 65504.0, float("inf"), float("inf")]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_it_is_dalis_crop_mirror_normalize(dtype: type) -> None:
    from dali_runner import require_dali, run_operator

    require_dali()
    depth = 8 * np.dtype(dtype).itemsize
    top = (1 << depth) - 1
    for seed, (mean, std) in enumerate([IMAGENET, ((0.5,), (0.25,)), ((0.1, 0.2, 0.3), (1.7, 0.01, 0.6))]):
        pixels = noise(seed, 37, 53, len(mean), depth)
        arguments = {"mean": [v * top for v in mean], "std": [v * top for v in std], "mirror": seed % 2}
        (expected,) = run_operator(
            "crop_mirror_normalize", [pixels], {**arguments, "dtype": "float32", "output_layout": "CHW"}
        )
        out = torch.empty(expected.shape)
        normalise_into(
            out, np.ascontiguousarray(pixels.transpose(2, 0, 1)), *normalisation(mean, std, top), hflip=bool(seed % 2)
        )
        assert np.array_equal(out.numpy().view(np.int32), np.asarray(expected).view(np.int32))


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ((0.5,), (0.2, 0.3), "mean has 1 values and std has 2; give one of each per channel"),
        ((), (), "mean has 0 values"),
        ((0.5,), (0.0,), r"must be finite, in units of full scale, and each std above 0"),
        ((float("nan"),), (1.0,), "must be finite"),
        ((1e300,), (1.0,), "float32 must hold them"),
        ((0.5,), (1e-42,), "float32 must hold them and the inverse of each std"),
        ((0.5,), (1e-50,), "float32 must hold them"),
    ],
)
def test_bad_constants_are_named(mean: tuple[float, ...], std: tuple[float, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        normalisation(mean, std)


def test_what_does_not_go_together_is_named() -> None:
    x = np.zeros((3, 4, 5), np.uint8)
    m, inv = normalisation(*IMAGENET)
    with pytest.raises(
        ConfigError, match=r"out is float32 \[3, 5, 4\] and x is uint8 \[3, 4, 5\]; both must be \[C, H, W\]"
    ):
        normalise_into(torch.zeros(3, 5, 4), x, m, inv)
    with pytest.raises(ConfigError, match="out is float64, with 3 means and 3 inverse deviations for 3 channels"):
        normalise_into(torch.zeros(3, 4, 5, dtype=torch.float64), x, m, inv)
    with pytest.raises(ConfigError, match="with 1 means"):
        normalise_into(torch.zeros(3, 4, 5), x, m[:1], inv[:1])
    with pytest.raises(ConfigError, match="can't write uint8 into float32"):
        copy_into(torch.zeros(3, 4, 5), x)
