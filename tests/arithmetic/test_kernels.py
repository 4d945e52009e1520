"""The CUDA kernels without a GPU: compiled by gcc, they must give the reference's bits.

Where nvcc is present it compiles the same source.
"""

import ctypes
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from arithmetic_pictures import channel_counts, fits, modes, noise, seeds
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_runner import CONSTANTS, SOURCE, changes, finish_on_cpu, finished, pointer, resize_on_cpu, same_bits

from dali_pipes.arithmetic import Fit, base_image, kernels, normalisation, packing
from dali_pipes.arithmetic.tables import Interpolation
from dali_pipes.decode.luma import luma


@settings(max_examples=150)
@given(
    st.lists(st.tuples(seeds, st.integers(1, 60), st.integers(1, 60), st.integers(0, 3)), min_size=1, max_size=6),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    fits,
    modes,
    channel_counts,
    st.booleans(),
    st.sampled_from(["u8", "f32", "f16"]),
)
def test_ragged_resize_is_the_reference(
    compiled: ctypes.CDLL,
    drawn: list[tuple[int, int, int, int]],
    size: tuple[int, int],
    fit: Fit,
    interpolation: Interpolation,
    channels: int,
    to_gray: bool,
    kind: str,
) -> None:
    to_gray = to_gray and channels == 3
    pictures = [noise(seed, h, w, channels) for seed, h, w, _ in drawn]
    flips = np.array([flip for *_, flip in drawn], np.int32)
    constants = None if kind == "u8" else CONSTANTS[1 if to_gray else channels]
    out = resize_on_cpu(compiled, pictures, size, fit, interpolation, flips, to_gray, constants, kind)
    for result, picture, flip in zip(out, pictures, flips):
        source = luma(picture) if to_gray else picture
        expected = finished(base_image(source, size, fit, interpolation), flip, constants, kind)
        assert same_bits(result, expected)


@pytest.mark.parametrize("fit", ["stretch", "crop", "pad"])
def test_resize_of_real_and_absurd_sizes(compiled: ctypes.CDLL, fit: Fit) -> None:
    pictures = [
        noise(seed, h, w)
        for seed, (h, w) in enumerate([(700, 500), (1, 5000), (5000, 1), (64, 48), (1, 1), (333, 64)], 1)
    ]
    out = resize_on_cpu(
        compiled, pictures, (64, 48), fit, "bilinear", np.zeros(6, np.int32), False, CONSTANTS[3], "f32"
    )
    for result, picture in zip(out, pictures):
        assert same_bits(result, finished(base_image(picture, (64, 48), fit), 0, CONSTANTS[3], "f32"))


@given(
    st.lists(st.tuples(seeds, st.integers(0, 3)), min_size=1, max_size=5),
    st.tuples(st.integers(1, 50), st.integers(1, 50)),
    channel_counts,
    st.sampled_from([("u8", "u8"), ("u8", "f32"), ("u8", "f16"), ("u16", "u16"), ("u16", "f32"), ("u16", "f16")]),
    st.booleans(),
    st.booleans(),
)
def test_finish_is_the_reference(
    compiled: ctypes.CDLL,
    drawn: list[tuple[int, int]],
    size: tuple[int, int],
    channels: int,
    kinds: tuple[str, str],
    warped: bool,
    coloured: bool,
) -> None:
    depth = 8 if kinds[0] == "u8" else 16
    pictures = [np.ascontiguousarray(noise(seed, *size, channels, depth).transpose(2, 0, 1)) for seed, _ in drawn]
    flips = np.array([flip for _, flip in drawn], np.int32)
    constants = None
    if kinds[0] != kinds[1]:
        constants = normalisation([0.4, 0.5, 0.6][:channels], [0.2, 0.3, 0.25][:channels], (1 << depth) - 1)
    warps, maps = changes(drawn[0][0], len(drawn), size, channels, depth)
    warps, maps = warps if warped else None, maps if coloured else None
    out = finish_on_cpu(compiled, pictures, flips, constants, kinds[1], warps, maps)
    for i, (result, picture, flip) in enumerate(zip(out, pictures, flips)):
        warp_by, colours = (None if values is None else values[i] for values in (warps, maps))
        assert same_bits(result, finished(picture, flip, constants, kinds[1], warp_by, colours))


def test_half_bits_of_every_kind_of_float(compiled: ctypes.CDLL) -> None:
    """All 65536 upper halves of a float32 with lower halves around the ties, NaN left out."""
    upper = np.arange(1 << 16, dtype=np.uint32)[:, None] << 16
    lower = np.array(
        [0, 1, 0x0FFF, 0x1000, 0x1001, 0x2FFF, 0x3000, 0x3001, 0x7FFF, 0x8000, 0xEFFF, 0xF000, 0xF001, 0xFFFF],
        np.uint32,
    )
    x = (upper | lower).ravel().view(np.float32)
    x = np.ascontiguousarray(x[~np.isnan(x)])
    out = np.zeros(x.size, np.uint16)
    compiled.half_of(pointer(x), pointer(out), ctypes.c_long(x.size))
    assert np.array_equal(out, torch.from_numpy(x).half().view(torch.int16).numpy().view(np.uint16))


def test_records_are_the_kernels_structures(compiled: ctypes.CDLL) -> None:
    assert compiled.size_of_resize_job() == packing.RESIZE_JOB.itemsize
    assert compiled.size_of_finish_job() == packing.FINISH_JOB.itemsize


def test_pictures_that_share_an_axis_share_its_table() -> None:
    flips = np.zeros(2, np.int32)
    one = packing.pack_resize([(1, 40, 50)], 3, 20, "stretch", "bilinear", flips[:1], None)
    two = packing.pack_resize([(1, 40, 50), (2, 40, 50)], 3, 20, "stretch", "bilinear", flips, None)
    assert two.buffer.size - one.buffer.size <= packing.RESIZE_JOB.itemsize + 16


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
def test_nvcc_takes_the_source_without_a_warning_and_fuses_nothing(architecture: str, tmp_path: Path) -> None:
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("nvcc is not installed")
    options = ["-Werror", "all-warnings", *kernels.COMPILE_OPTIONS, "-ftz=true"]  # the last as CuPy adds it
    common = [nvcc, f"-arch={architecture}", *options, str(SOURCE)]
    for kind in ("cubin", "ptx"):
        done = subprocess.run(
            [*common, f"-{kind}", "-o", f"{tmp_path}/kernels.{kind}"], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    ptx = (tmp_path / "kernels.ptx").read_text("utf-8")
    assert "sub.rn.f32" in ptx
    assert "mul.rn.f32" in ptx
    assert "fma." not in ptx
    assert ".ftz" not in ptx
    for name in ("resize_across", "resize_down_u8", "resize_down_f32", "finish_u16_f32"):
        assert f".entry {name}(" in ptx


def test_nothing_asks_for_fast_arithmetic() -> None:
    assert "--fmad=false" in kernels.COMPILE_OPTIONS
    assert not any("fast" in option for option in kernels.COMPILE_OPTIONS)
    assert kernels.source().startswith(SOURCE.read_text("utf-8"))
