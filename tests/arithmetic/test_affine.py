"""Affine warps against the plainest int64 form, the float64 reading, whole turns and moves, and DALI's warp_affine."""

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from arithmetic_pictures import Pixels, channel_counts, depths, noise, seeds, sides
from hypothesis import given, settings
from hypothesis import strategies as st

from dali_pipes.arithmetic import dali_cpu, matrices, quantise, warp
from dali_pipes.arithmetic.affine import FRACTION, LONGEST_SIDE, turn
from dali_pipes.errors import ConfigError

UNIT = 1 << FRACTION
angles = st.one_of(st.sampled_from([0.0, 45.0, 90.0, 180.0, -90.0]), st.floats(-400.0, 400.0))
scales = st.one_of(st.just(1.0), st.floats(0.1, 10.0))
shifts = st.one_of(st.just(0.0), st.floats(-1.5, 1.5))
slopes = st.one_of(st.sampled_from([0, UNIT, -UNIT, 32 * UNIT, -32 * UNIT]), st.integers(-32 * UNIT, 32 * UNIT))
offsets = st.one_of(st.integers(-80 * UNIT, 80 * UNIT), st.integers(-UNIT << 21, UNIT << 21))
anything = st.tuples(slopes, slopes, offsets, slopes, slopes, offsets)


def planes(seed: int, h: int, w: int, channels: int, depth: int) -> Pixels:
    return np.ascontiguousarray(noise(seed, h, w, channels, depth).transpose(2, 0, 1))


def coefficients(
    size: tuple[int, int], angle: float = 0.0, scale: float = 1.0, shift_y: float = 0.0, shift_x: float = 0.0
) -> np.ndarray:
    maps = matrices(size, *(np.array([value]) for value in (angle, scale, shift_y, shift_x)))
    return quantise(maps)[0]


def reference(image: Pixels, by: np.ndarray) -> Pixels:
    """The specification in int64 tensors, word for word."""
    x = torch.from_numpy(image.astype(np.int64))
    _, h, w = x.shape
    bits = 8 * image.itemsize
    ax, bx, cx, ay, by_, cy = by.tolist()
    columns, lines = torch.arange(w), torch.arange(h)[:, None]
    half = 1 << (FRACTION - bits - 1)
    place_x = (ax * columns + bx * lines + cx + half) >> (FRACTION - bits)
    place_y = (ay * columns + by_ * lines + cy + half) >> (FRACTION - bits)
    qx, qy = place_x & ((1 << bits) - 1), place_y & ((1 << bits) - 1)
    total = torch.full_like(x, 1 << (2 * bits - 1))
    for dx, weight_x in ((0, (1 << bits) - qx), (1, qx)):
        for dy, weight_y in ((0, (1 << bits) - qy), (1, qy)):
            column, line = (place_x >> bits) + dx, (place_y >> bits) + dy
            inside = (column >= 0) & (column < w) & (line >= 0) & (line < h)
            total += x[:, line.clamp(0, h - 1), column.clamp(0, w - 1)] * inside * weight_x * weight_y
    return (total >> (2 * bits)).numpy().astype(image.dtype)


def reading(image: Pixels, matrix: np.ndarray) -> np.ndarray:
    """The map's bilinear reading in float64."""
    _, h, w = image.shape
    y, x = np.mgrid[:h, :w] + 0.5
    u, v = (row[0] * x + row[1] * y + row[2] - 0.5 for row in matrix)
    left, top = np.floor(u).astype(int), np.floor(v).astype(int)
    total = np.zeros(image.shape)
    for dx, weight_x in ((0, 1 - (u - left)), (1, u - left)):
        for dy, weight_y in ((0, 1 - (v - top)), (1, v - top)):
            column, line = left + dx, top + dy
            inside = (column >= 0) & (column < w) & (line >= 0) & (line < h)
            total += image[:, line.clip(0, h - 1), column.clip(0, w - 1)] * (inside * weight_x * weight_y)
    return total


@settings(max_examples=300)
@given(seeds, sides, sides, channel_counts, depths, st.booleans(), st.booleans(), st.data())
def test_warp_is_the_specification(
    seed: int, h: int, w: int, channels: int, depth: int, hflip: bool, vflip: bool, data: st.DataObject
) -> None:
    image = planes(seed, h, w, channels, depth)[:, :: -1 if vflip else 1, :: -1 if hflip else 1]
    image.setflags(write=False)
    by = np.array(data.draw(anything))
    if data.draw(st.booleans()):
        by = coefficients((h, w), *(data.draw(each) for each in (angles, scales, shifts, shifts)))
    out = warp(image, by)
    assert out.dtype == image.dtype
    assert out.flags.c_contiguous
    assert np.array_equal(out, reference(image, by))


@pytest.mark.parametrize(("depth", "channels"), [(8, 1), (8, 2), (8, 3), (8, 4), (16, 1), (16, 3)])
def test_pictures_of_several_blocks_and_other_channels(depth: int, channels: int) -> None:
    image = planes(1, 301, 203, channels, depth)
    by = coefficients((301, 203), 33.0, 0.9, 0.1, -0.05)
    assert np.array_equal(warp(image, by), reference(image, by))
    strip = planes(1, 1, LONGEST_SIDE, channels, depth)
    by = coefficients((1, LONGEST_SIDE), 0.0, 1.1, 0.0, 0.3)
    assert np.array_equal(warp(strip, by), reference(strip, by))


def test_threads_do_not_disturb_each_other() -> None:
    image = planes(2, 150, 170, 3, 8)
    moves = [coefficients((150, 170), 10.0 * k, 1.0 + k / 50) for k in range(24)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda by: warp(image, by), moves))
    assert all(np.array_equal(out, warp(image, by)) for out, by in zip(together, moves))


def test_the_ends_of_the_bounds_do_not_overflow() -> None:
    """Sides, slopes and offsets at their largest, against Python's own integers."""
    image = np.full((1, 2, LONGEST_SIDE), 65535, np.uint16)
    extreme = np.array([32, 32, 1 << 21, 32, 32, 1 << 21]) * UNIT
    for signs in ((1, 1, 1, 1, 1, 1), (-1, -1, -1, -1, -1, -1), (1, 1, -1, -1, 1, 1)):
        assert not warp(image, extreme * signs).any()
    ax, bx, cx = (int(value) for value in extreme[:3])
    assert abs(ax * (LONGEST_SIDE - 1) + bx * (LONGEST_SIDE - 1) + cx) + (2 << FRACTION) < 1 << 63


@given(seeds, sides, sides, channel_counts, depths)
def test_no_change_is_the_picture_bit_for_bit(seed: int, h: int, w: int, channels: int, depth: int) -> None:
    image = planes(seed, h, w, channels, depth)
    by = coefficients((h, w))
    assert by.tolist() == [UNIT, 0, 0, 0, UNIT, 0]
    assert np.array_equal(warp(image, by), image)
    assert np.array_equal(warp(image, coefficients((h, w), 360.0)), image)


@given(seeds, sides, channel_counts, depths, st.integers(-5, 5))
def test_quarter_turns_of_squares_move_pixels(seed: int, side: int, channels: int, depth: int, turns: int) -> None:
    image = planes(seed, side, side, channels, depth)
    out = warp(image, coefficients((side, side), 90.0 * turns))
    assert np.array_equal(out, np.rot90(image, turns, axes=(1, 2)))


@given(seeds, sides, sides, channel_counts, depths)
def test_half_a_turn_is_both_flips(seed: int, h: int, w: int, channels: int, depth: int) -> None:
    image = planes(seed, h, w, channels, depth)
    assert np.array_equal(warp(image, coefficients((h, w), 180.0)), image[:, ::-1, ::-1])


@given(seeds, st.integers(1, 6), st.integers(1, 6), depths, st.integers(-6, 6), st.integers(-6, 6))
def test_shifts_by_whole_pixels_move_down_and_right(seed: int, h: int, w: int, depth: int, dy: int, dx: int) -> None:
    image = planes(seed, 8 * h, 8 * w, 1, depth)
    out = warp(image, coefficients((8 * h, 8 * w), shift_y=dy / (8 * h), shift_x=dx / (8 * w)))
    wide = np.pad(image, ((0, 0), (6, 6), (6, 6)))
    assert np.array_equal(out, wide[:, 6 - dy : 6 - dy + 8 * h, 6 - dx : 6 - dx + 8 * w])


def test_twice_the_scale_shows_things_twice_as_large() -> None:
    image = np.zeros((1, 16, 16), np.uint8)
    image[0, 6:10, 6:10] = 255
    out = warp(image, coefficients((16, 16), scale=2.0))[0]
    inside = np.zeros((16, 16), bool)
    inside[5:11, 5:11] = True
    assert (out[inside] == 255).all()
    assert not out[:3].any()
    assert not out[:, 13:].any()


@given(seeds, sides, sides, depths, angles, scales, shifts, shifts)
def test_within_a_level_of_the_float64_reading(
    seed: int, h: int, w: int, depth: int, angle: float, scale: float, shift_y: float, shift_x: float
) -> None:
    image = planes(seed, h, w, 3, depth)
    maps = matrices((h, w), *(np.array([value]) for value in (angle, scale, shift_y, shift_x)))
    gap = np.abs(warp(image, quantise(maps)[0]) - np.floor(reading(image, maps[0]) + 0.5))
    assert gap.max() <= 1


@given(seeds, sides, sides, depths, anything)
def test_results_stay_between_black_and_the_brightest(
    seed: int, h: int, w: int, depth: int, drawn: tuple[int, ...]
) -> None:
    image = planes(seed, h, w, 1, depth)
    by = np.array(drawn)
    assert warp(image, by).max() <= image.max()
    flat = np.full_like(image, (1 << depth) - 1)
    brighter = warp(np.maximum(image, image // 2 + 7).astype(image.dtype), by)
    assert (warp(image, by) <= brighter).all()
    assert (brighter <= warp(flat, by)).all()


@given(seeds, sides, sides, angles, st.floats(0.5, 2.0), shifts, shifts)
def test_near_dalis_warp_affine(
    seed: int, h: int, w: int, angle: float, scale: float, shift_y: float, shift_x: float
) -> None:
    """The same matrix by the twin of DALI's warp_affine, what `parity="fast"` computes: a level for the rounded
    position, and one for rounding values that lie between."""
    image = planes(seed, h, w, 3, 8)
    maps = matrices((h, w), *(np.array([value]) for value in (angle, scale, shift_y, shift_x)))
    pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(1, 2, 0)))
    theirs = dali_cpu.warp_affine(pixels, maps[0].astype(np.float32).tolist(), fill_value=0)
    gap = np.abs(warp(image, quantise(maps)[0]) - theirs.numpy().transpose(2, 0, 1).astype(np.int64))
    assert gap.max() <= 2


@given(st.integers(-40, 40))
def test_quarter_turns_have_exact_cosines_and_sines(quarters: int) -> None:
    cosine, sine = turn(np.array([90.0 * quarters]))
    assert (cosine[0], sine[0]) == [(1, 0), (0, 1), (-1, 0), (0, -1)][quarters % 4]


@given(st.floats(-1e6, 1e6))
def test_turn_is_the_cosine_and_sine(degrees: float) -> None:
    cosine, sine = turn(np.array([degrees]))
    radians = math.radians(math.fmod(degrees, 360.0))
    assert abs(cosine[0] - math.cos(radians)) < 1e-15
    assert abs(sine[0] - math.sin(radians)) < 1e-15
    assert abs(cosine[0] ** 2 + sine[0] ** 2 - 1) < 1e-15


def test_refusals() -> None:
    one, zero = np.ones(1), np.zeros(1)
    with pytest.raises(ConfigError, match="finite numbers, and each scale above 0"):
        matrices((4, 4), zero, zero, zero, zero)
    with pytest.raises(ConfigError, match="finite numbers"):
        matrices((4, 4), np.array([np.nan]), one, zero, zero)
    with pytest.raises(ConfigError, match=r"a map reaches 33 in its 2x2 part.*use a scale of at least 1/32"):
        quantise(matrices((4, 4), zero, one / 33, zero, zero))
    with pytest.raises(ConfigError, match="and a smaller shift"):
        quantise(matrices((4, 4), zero, one, zero, one * 1e6))
    with pytest.raises(ConfigError, match="a map reaches nan"):
        quantise(np.full((1, 2, 3), np.nan))
    with pytest.raises(ConfigError, match=r"a map reaches 7e\+06 pixels; they may be 4194240"):
        quantise(matrices((4, 4), zero, one / 1e6, zero, zero), (4, 5))
    image, by = np.zeros((1, 4, 4), np.uint8), coefficients((4, 4))
    with pytest.raises(ConfigError, match="a row of what quantise returns"):
        warp(image, by * (1 << 21), (4, 4))
    with pytest.raises(ConfigError, match=r"warp takes uint8 or uint16 \[C, H, W\], not float32 \[1, 4, 4\]"):
        warp(image.astype(np.float32), by)
    with pytest.raises(ConfigError, match="sides of 1 to 16384 pixels, not 1 x 16385"):
        warp(np.zeros((1, 1, LONGEST_SIDE + 1), np.uint8), by)
    with pytest.raises(ConfigError, match="sides of 1 to 16384 pixels, not 20000 x 4"):
        matrices((20000, 4), zero, one, zero, zero)
    for bad in (by * 33, by * -33, np.full(6, -1 << 63), by[:5], by.astype(np.int32)):
        with pytest.raises(ConfigError, match="a row of what quantise returns"):
            warp(image, bad)
