"""Colour maps against the plainest int64 form, the float64 formula, and DALI's color_twist and brightness_contrast."""

import numpy as np
import pytest
import torch
from arithmetic_pictures import Pixels, channel_counts, depths, noise, seeds, sides
from hypothesis import given, settings
from hypothesis import strategies as st

from dali_pipes.arithmetic import colour_maps, dali_cpu, recolour
from dali_pipes.arithmetic.colour import mix, precision, through_table
from dali_pipes.errors import ConfigError

factors = st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0.0, 2.0), st.floats(0.0, 10.0))
mild = st.floats(0.0, 2.0)
degrees = st.one_of(st.sampled_from([0.0, 180.0]), st.floats(-400.0, 400.0))
KINDS = {8: np.uint8, 16: np.uint16}


def planes(seed: int, h: int, w: int, channels: int, depth: int) -> Pixels:
    return np.ascontiguousarray(noise(seed, h, w, channels, depth).transpose(2, 0, 1))


def colours(channels: int, depth: int, b: float = 1.0, c: float = 1.0, s: float = 1.0, h: float = 0.0) -> np.ndarray:
    return colour_maps(channels, (1 << depth) - 1, *(np.array([value]) for value in (b, c, s, h)))[0]


def reference(image: Pixels, by: np.ndarray) -> Pixels:
    """The specification in int64 tensors, word for word."""
    x, weights = torch.from_numpy(image.astype(np.int64)), torch.from_numpy(by)
    bits = 11 if image.dtype == np.uint8 else 20
    total = weights[:, -1, None, None] + torch.einsum("ij,jyx->iyx", weights[:, :-1], x) + (1 << (bits - 1))
    return (total >> bits).clamp(0, np.iinfo(image.dtype).max).numpy().astype(image.dtype)


def formula(image: Pixels, b: float, c: float, s: float, h: float) -> np.ndarray:
    """`b (c (G + s H (x - G) - k) + k)` in float64, with NumPy's sines and inverse."""
    x = image.reshape(len(image), -1).astype(np.float64)
    k = (int(np.iinfo(image.dtype).max) + 1) / 2
    if len(image) == 3:
        yiq = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
        cosine, sine = np.cos(np.deg2rad(h)), np.sin(np.deg2rad(h))
        turned = np.array([[1, 0, 0], [0, cosine, sine], [0, -sine, cosine]])
        x = np.linalg.inv(yiq) @ turned @ np.diag([1, s, s]) @ yiq @ x
    return (b * (c * (x - k) + k)).clip(0, np.iinfo(image.dtype).max).reshape(image.shape)


@settings(max_examples=200)
@given(seeds, sides, sides, channel_counts, depths, st.booleans(), st.booleans(), factors, factors, factors, degrees)
def test_recolour_is_the_specification(
    seed: int,
    h: int,
    w: int,
    channels: int,
    depth: int,
    hflip: bool,
    vflip: bool,
    brightness: float,
    contrast: float,
    saturation: float,
    hue: float,
) -> None:
    image = planes(seed, h, w, channels, depth)[:, :: -1 if vflip else 1, :: -1 if hflip else 1]
    image.setflags(write=False)
    by = colours(channels, depth, brightness, contrast, saturation, hue)
    out = recolour(image, by)
    assert out.dtype == image.dtype
    assert out.flags.c_contiguous
    assert np.array_equal(out, reference(image, by))


@given(seeds, sides, sides, channel_counts, depths, factors, factors)
def test_the_table_is_the_plain_form(
    seed: int, h: int, w: int, channels: int, depth: int, brightness: float, contrast: float
) -> None:
    image = planes(seed, h, 2 * w, channels, depth)[:, :, ::-1]
    by = colours(channels, depth, brightness, contrast)
    plain, looked_up = np.empty(image.shape, image.dtype), np.empty(image.shape, image.dtype)
    mix(image, by, plain)
    through_table(image, by[:1, [0, -1]], looked_up)
    assert np.array_equal(plain, looked_up)


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("size", [(300, 302), (301, 303)])
@pytest.mark.parametrize("kind", ["alike", "one channel apart", "one offset apart", "mixed"])
def test_large_pictures(depth: int, size: tuple[int, int], kind: str) -> None:
    """Large enough for the table, and for several blocks of the plain form."""
    image = planes(1, *size, 3, depth)
    by = colours(3, depth, 1.3, 0.7, *((0.8, 20.0) if kind == "mixed" else ()))
    by[1, 1] += kind == "one channel apart"
    by[2, 3] += 5000 * (kind == "one offset apart")
    assert np.array_equal(recolour(image, by), reference(image, by))


def test_the_ends_of_the_bounds_do_not_overflow() -> None:
    for depth in (8, 16):
        top, bits = (1 << depth) - 1, precision((1 << depth) - 1)
        image = np.full((3, 2, 2), top, KINDS[depth])
        row = [3070 << bits, 1 << bits, 1 << bits, (64 * top) << bits]
        for sign in (1, -1):
            by = sign * np.array([row] * 3)
            assert (recolour(image, by) == (top if sign > 0 else 0)).all()


@given(seeds, sides, sides, channel_counts, depths)
def test_no_change_is_the_picture_bit_for_bit(seed: int, h: int, w: int, channels: int, depth: int) -> None:
    by = colours(channels, depth)
    unit = 1 << precision((1 << depth) - 1)
    assert np.array_equal(by, np.eye(channels, channels + 1, dtype=np.int64) * unit)
    image = planes(seed, h, w, channels, depth)
    assert np.array_equal(recolour(image, by), image)


@given(depths, factors, factors, factors, degrees)
def test_gray_stays_gray(depth: int, brightness: float, contrast: float, saturation: float, hue: float) -> None:
    values = np.linspace(0, (1 << depth) - 1, 256).astype(KINDS[depth])
    image = np.broadcast_to(values, (3, 1, 256))
    out = recolour(image, colours(3, depth, brightness, contrast, saturation, hue))
    alone = recolour(image[:1], colours(1, depth, brightness, contrast, saturation, hue))
    assert (out == alone).all()


def test_one_channel_has_no_colour() -> None:
    assert np.array_equal(colours(1, 8, 1.2, 0.9, 0.3, 77.0), colours(1, 8, 1.2, 0.9))


@given(seeds, depths, channel_counts, factors, factors, st.floats(0.0, 10.0), degrees)
def test_within_a_level_of_the_float64_formula(
    seed: int, depth: int, channels: int, brightness: float, contrast: float, saturation: float, hue: float
) -> None:
    image = planes(seed, 13, 17, channels, depth)
    out = recolour(image, colours(channels, depth, brightness, contrast, saturation, hue))
    expected = formula(image, brightness, contrast, saturation, hue)
    assert np.abs(out - np.floor(expected + 0.5)).max() <= 1


@given(depths, st.floats(0.0, 10.0), st.floats(0.0, 10.0))
def test_brightness_and_contrast_keep_the_order_of_values(depth: int, brightness: float, contrast: float) -> None:
    values = np.arange(1 << depth, dtype=KINDS[depth])[None, None]
    out = recolour(values, colours(1, depth, brightness, contrast)).astype(np.int64)
    assert (np.diff(out) >= 0).all()


def test_results_saturate() -> None:
    values = np.arange(256, dtype=np.uint8)[None, None]
    out = recolour(values, colours(1, 8, 1.0, 10.0))[0, 0]
    assert (out[:115] == 0).all()
    assert (out[142:] == 255).all()
    assert (recolour(values, colours(1, 8, 1.0, 0.0)) == 128).all()
    assert not recolour(values, colours(1, 8, 0.0, 3.0)).any()


@settings(max_examples=300)
@given(seeds, mild, mild, mild, st.floats(-180.0, 180.0))
def test_near_dalis_color_twist(seed: int, brightness: float, contrast: float, saturation: float, hue: float) -> None:
    """DALI's I and Q of gray are a thousandth of it, not 0, so the matrices differ: by up to 1.25 levels a unit of
    `b c (1 + s)`. And both round."""
    image = planes(seed, 11, 13, 3, 8)
    out = recolour(image, colours(3, 8, brightness, contrast, saturation, hue))
    pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(1, 2, 0)))
    twisted = dali_cpu.color_twist(pixels, brightness=brightness, contrast=contrast, saturation=saturation, hue=hue)
    gap = np.abs(out - twisted.numpy().transpose(2, 0, 1).astype(np.int64))
    assert gap.max() <= 1.5 + 1.25 * brightness * contrast * (1 + saturation)


@given(seeds, channel_counts, mild, mild)
def test_within_a_level_of_dalis_brightness_contrast(
    seed: int, channels: int, brightness: float, contrast: float
) -> None:
    image = planes(seed, 11, 13, channels, 8)
    pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(1, 2, 0)))
    theirs = dali_cpu.brightness_contrast(pixels, brightness=brightness, contrast=contrast)
    gap = np.abs(
        recolour(image, colours(channels, 8, brightness, contrast)) - theirs.numpy().transpose(2, 0, 1).astype(int)
    )
    assert gap.max() <= 1


def test_a_batch_is_its_samples() -> None:
    rng = np.random.default_rng(2)
    drawn = (*rng.uniform(0, 2, (3, 7)), rng.uniform(-180, 180, 7))
    maps = colour_maps(3, 255, *drawn)
    assert maps.shape == (7, 3, 4)
    for i, one in enumerate(maps):
        assert np.array_equal(one, colour_maps(3, 255, *(values[i : i + 1] for values in drawn))[0])


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="colours of 2 channels up to 255; allowed are 1 or 3"):
        colours(2, 8)
    with pytest.raises(ConfigError, match="must be finite numbers"):
        colours(3, 8, np.nan)
    with pytest.raises(ConfigError, match=r"multiply a pixel by 4000.*use factors of at most 10"):
        colours(1, 8, 200.0, 20.0)
    with pytest.raises(ConfigError, match=r"multiply a pixel by 0 and add 501.* times the full scale"):
        colours(1, 8, 1000.0, 0.0)
    image = np.zeros((3, 4, 4), np.uint8)
    with pytest.raises(ConfigError, match=r"recolour takes uint8 or uint16 \[C, H, W\], not int64"):
        recolour(image.astype(np.int64), colours(3, 8))
    least = np.full((3, 4), -1 << 63)
    for bad in (
        colours(1, 8),
        colours(3, 16) << 3,
        least,
        least * np.eye(3, 4, 3, int),
        colours(3, 8).astype(np.int32),
    ):
        with pytest.raises(ConfigError, match=r"must be a map that colour_maps\(3, 255, ...\) returns"):
            recolour(image, bad)
