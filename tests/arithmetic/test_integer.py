"""The portable resize: PyTorch's bits, and every fast form equal to the int32 reference."""

import logging
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from arithmetic_pictures import Pixels, channel_counts, depths, fits, modes, noise, seeds, sides, sizes
from hypothesis import assume, example, given

from dali_pipes.arithmetic import Fit, base_image, geometry, integer, passes, resize, table
from dali_pipes.arithmetic.tables import Interpolation
from dali_pipes.errors import ConfigError


def reference(pixels: Pixels, size: tuple[int, int], fit: Fit, interpolation: Interpolation) -> Pixels:
    """`base_image` in its plainest form: the whole resized by the int32 reference, then cut or laid on 0."""
    place = geometry(*pixels.shape[:2], size, fit)
    whole = resize(torch.from_numpy(pixels).permute(2, 0, 1), place.resized, interpolation).numpy()
    (h, w), (y, x), (top, left) = place.window, place.crop, place.pad
    out = np.zeros((pixels.shape[2], *place.size), pixels.dtype)
    out[:, top : top + h, left : left + w] = whole[:, y : y + h, x : x + w]
    return out


def in_python(x: list[int], n: int, o: int, interpolation: Interpolation, depth: int) -> list[int]:
    """One pass over one row with Python's unbounded integers."""
    if n == o:
        return x
    t = table(n, o, interpolation, depth)
    half = 1 << (t.precision - 1)
    total = [half + sum(int(t.weights[i, k]) * x[int(t.start[i]) + k] for k in range(t.taps)) for i in range(o)]
    return [min(max(v >> t.precision, 0), (1 << depth) - 1) for v in total]


@given(seeds, sides, sides, sizes, channel_counts, modes)
def test_the_reference_is_pytorchs_uint8_antialias(
    seed: int, h: int, w: int, size: tuple[int, int], channels: int, interpolation: Interpolation
) -> None:
    x = torch.from_numpy(noise(seed, h, w, channels)).permute(2, 0, 1)
    # Without AVX2, PyTorch 2.13 gets a single column wrong.
    assume(size[1] > 1 or torch.backends.cpu.get_cpu_capability() != "DEFAULT")
    # PyTorch 2.13 stops with an internal assertion on three separate planes to 1 x 1; interleaved, as decoded, it
    # does not.
    planes = x[None] if size == (1, 1) else x[None].contiguous()
    expected = F.interpolate(planes, size, mode=interpolation, antialias=True)[0]
    assert torch.equal(resize(x, size, interpolation), expected)


@given(seeds, sides, sides, modes, depths)
def test_the_reference_is_the_formula(seed: int, n: int, o: int, interpolation: Interpolation, depth: int) -> None:
    row = noise(seed, 1, n, 1, depth)[:, :, 0]
    expected = in_python(row[0].tolist(), n, o, interpolation, depth)
    across = resize(torch.from_numpy(row), (1, o), interpolation)
    down = resize(torch.from_numpy(np.ascontiguousarray(row.T)), (o, 1), interpolation)
    assert across.tolist() == [expected]
    assert down.T.tolist() == [expected]


@given(seeds, sides, sides, sizes, fits, channel_counts, modes, depths)
@example(1, 1, 1, (1, 1), "stretch", 1, "bilinear", 8)
@example(1, 5, 24, (16, 24), "stretch", 1, "bilinear", 8)
@example(1, 1, 70, (33, 31), "crop", 1, "bicubic", 8)
@example(3, 70, 1, (33, 31), "crop", 3, "bilinear", 16)
@example(1, 5, 8, (5, 8), "stretch", 1, "bilinear", 8)
@example(1, 5, 8, (5, 8), "stretch", 3, "bilinear", 16)
@example(1, 9, 8, (5, 8), "crop", 3, "bilinear", 8)
@example(1, 9, 8, (5, 8), "crop", 1, "bicubic", 16)
@example(1, 9, 8, (12, 8), "pad", 3, "bicubic", 16)
@example(3, 9, 9, (4, 1), "stretch", 3, "bilinear", 8)
@example(3, 9, 9, (7, 4), "stretch", 1, "bilinear", 8)
def test_base_image_is_the_reference(
    seed: int, h: int, w: int, size: tuple[int, int], fit: Fit, channels: int, interpolation: Interpolation, depth: int
) -> None:
    pixels = noise(seed, h, w, channels, depth)
    before = pixels.copy()
    result = base_image(pixels, size, fit, interpolation)
    assert result.dtype == pixels.dtype
    assert result.flags.c_contiguous
    assert result.flags.writeable
    assert not np.shares_memory(result, pixels)
    assert np.array_equal(result, reference(pixels, size, fit, interpolation))
    assert np.array_equal(pixels, before)


@given(seeds, sides, sides, sizes, fits, channel_counts, modes, depths)
def test_the_numpy_form_is_the_reference(
    seed: int, h: int, w: int, size: tuple[int, int], fit: Fit, channels: int, interpolation: Interpolation, depth: int
) -> None:
    pixels = noise(seed, h, w, channels, depth)
    place = geometry(h, w, size, fit)
    (oh, ow), (top, left) = place.window, place.pad
    expected = reference(pixels, size, fit, interpolation)[:, top : top + oh, left : left + ow]
    assert np.array_equal(passes.through_numpy(pixels, place, interpolation), expected)


@given(seeds, sides, sides, sizes, channel_counts, modes)
def test_the_torch_form_is_the_reference(
    seed: int, h: int, w: int, size: tuple[int, int], channels: int, interpolation: Interpolation
) -> None:
    assume(size[1] > 1)
    pixels = noise(seed, h, w, channels)
    expected = reference(pixels, size, "stretch", interpolation)
    assert np.array_equal(passes.through_torch(pixels, size, interpolation), expected)


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize(("h", "w", "channels"), [(700, 530, 1), (768, 1024, 3), (1, 5000, 3), (2000, 3, 1)])
def test_pictures_of_real_size(h: int, w: int, channels: int, depth: int) -> None:
    pixels = noise(5, h, w, channels, depth)
    assert np.array_equal(
        base_image(pixels, (224, 200), "stretch"), reference(pixels, (224, 200), "stretch", "bilinear")
    )


def test_a_strip_is_cropped_without_its_enlargement() -> None:
    """1 x 60000 to 512 x 512 is 512 x 30 720 000 on paper: 15.7 GB."""
    pixels = noise(1, 1, 60000, 1)
    result = base_image(pixels, 512, "crop")
    # The middle 512 of 30 720 000 columns look at one sample, enlarged 512 times, and its neighbours.
    assert set(np.unique(result)) <= set(range(pixels[0, 29990:30010].min(), pixels[0, 29990:30010].max() + 1))
    assert (result == result[:, :1]).all()


@given(seeds, sides, sides, sizes, depths)
def test_flat_pictures_stay_flat(seed: int, h: int, w: int, size: tuple[int, int], depth: int) -> None:
    value = seed % (1 << depth)
    flat = np.full((h, w, 1), value, np.uint8 if depth == 8 else np.uint16)
    if depth == 16:
        assert (base_image(flat, size, "stretch", "bicubic") == value).all()
    assert np.abs(base_image(flat, size, "stretch", "bilinear").astype(int) - value).max() <= (1 if depth == 8 else 0)


def test_any_strides_and_read_only_pixels() -> None:
    pixels = noise(7, 40, 60, 3)
    expected = base_image(pixels, 24, "stretch")
    reversed_channels = pixels[..., ::-1]
    pixels.setflags(write=False)
    assert np.array_equal(base_image(pixels, 24, "stretch"), expected)
    assert np.array_equal(base_image(reversed_channels, 24, "stretch"), expected[::-1])
    assert np.array_equal(base_image(np.asfortranarray(pixels), 24, "stretch"), expected)
    assert np.array_equal(
        base_image(pixels[::-1, ::-1][:, :, :1], 24, "crop"),
        reference(pixels[::-1, ::-1][:, :, :1].copy(), (24, 24), "crop", "bilinear"),
    )


def test_many_threads_give_the_same_bits() -> None:
    pictures = [noise(seed, 90, 70, 3 if seed % 2 else 1) for seed in range(24)]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda p: base_image(p, (33, 44), "crop"), pictures))
    for picture, result in zip(pictures, results):
        assert np.array_equal(result, reference(picture, (33, 44), "crop", "bilinear"))


CHECK = """
import sys
sys.path.insert(0, sys.argv[1])
import conftest
import test_integer as t
found = t.torch.backends.cpu.get_cpu_capability().lower()
assert found == sys.argv[2], found
assert t.integer.fast_path_is_exact()
t.test_base_image_is_the_reference()
t.test_the_torch_form_is_the_reference()
t.test_the_reference_is_pytorchs_uint8_antialias()
"""


@pytest.mark.parametrize("capability", ["default", "avx2"])
def test_every_instruction_set_of_pytorch(capability: str) -> None:
    if capability == "avx2" and "AVX" not in torch.backends.cpu.get_cpu_capability():
        pytest.skip("this processor has no AVX2")
    here = os.path.dirname(__file__)
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": capability}
    done = subprocess.run(
        [sys.executable, "-c", CHECK, here, capability], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_pytorch_with_other_bits_is_noticed_once_and_replaced(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def off_by_one(pixels: Pixels, size: tuple[int, int], interpolation: Interpolation) -> Pixels:
        return real(pixels, size, interpolation) ^ 1

    real = passes.through_torch
    monkeypatch.setattr(integer, "through_torch", off_by_one)
    integer._self_check.cache_clear()
    try:
        pixels = noise(2, 50, 60, 3)
        with caplog.at_level(logging.WARNING), ThreadPoolExecutor(4) as pool:
            results = list(pool.map(lambda _: base_image(pixels, 32, "stretch"), range(8)))
    finally:
        integer._self_check.cache_clear()
    expected = reference(pixels, (32, 32), "stretch", "bilinear")
    assert all(np.array_equal(result, expected) for result in results)
    assert [record.getMessage()[:42] for record in caplog.records] == ["F.interpolate(uint8, mode='bilinear', anti"]
    assert torch.__version__ in caplog.text


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.zeros((4, 4, 3), np.float32), r"a picture is uint8 or uint16 \[H, W, C\], not float32 \[4, 4, 3\]"),
        (np.zeros((4, 4, 0), np.uint8), r"not uint8 \[4, 4, 0\]"),
        (np.zeros((4, 4), np.uint8), r"not uint8 \[4, 4\]"),
        (np.zeros((0, 4, 1), np.uint8), "a picture of 0 x 4 pixels can't be resized"),
    ],
)
def test_what_is_no_picture_is_named(pixels: Pixels, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        base_image(pixels, 8, "stretch")


def test_unknown_interpolation_is_named() -> None:
    with pytest.raises(ConfigError, match="interpolation is 'lanczos'; allowed: bilinear, bicubic"):
        base_image(noise(1, 4, 4), 4, "stretch", "lanczos")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="resize takes uint8 or uint16"):
        resize(torch.zeros(3, 4, 4), 8)


@pytest.mark.gpu
def test_the_reference_on_a_gpu() -> None:
    for seed in range(40):
        rng = np.random.default_rng(seed)
        h, w, oh, ow = (int(n) for n in rng.integers(1, 90, 4))
        x = torch.from_numpy(noise(seed, h, w)).permute(2, 0, 1)
        assert torch.equal(resize(x.cuda(), (oh, ow)).cpu(), resize(x, (oh, ow)))
