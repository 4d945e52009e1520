"""The CUDA kernels without a GPU: their source compiled by gcc, threads as loops, must give the reference's bits.

Where nvcc or CuPy and a GPU are present, the same source is compiled by them, and run.
"""

import ctypes
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from arithmetic_pictures import Pixels, channel_counts, fits, modes, noise, seeds
from hypothesis import given, settings
from hypothesis import strategies as st

from dali_pipes.arithmetic import (
    Fit,
    base_image,
    colour_maps,
    copy_into,
    gray,
    kernels,
    matrices,
    normalisation,
    normalise_into,
    packing,
    quantise,
    recolour,
    warp,
)
from dali_pipes.arithmetic.tables import Interpolation
from dali_pipes.errors import ConfigError

HERE = Path(__file__).parent
SOURCE = Path(kernels.__file__).with_name("portable.cu")
KINDS = {"u8": np.uint8, "u16": np.uint16, "f32": np.float32, "f16": np.float16}
THREADS = (8, 3)
"""A block that divides nothing, so that every kernel meets threads outside its picture and strides over rows."""


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    gcc = shutil.which("gcc") or shutil.which("cc")
    if gcc is None:
        pytest.fail("these tests need a C compiler: install gcc")
    target = tmp_path_factory.mktemp("kernels") / "kernels.so"
    options = ["-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-ffp-contract=off", "-fwrapv", "-shared", "-fPIC"]
    command = [gcc, *options, f"-I{HERE}", f"-I{SOURCE.parent}", str(HERE / "kernels_on_cpu.c"), "-o", str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return ctypes.CDLL(str(target))


def pointer(array: np.ndarray, offset: int = 0) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data + offset)


def grid(columns: int, rows: int, pictures: int) -> Any:
    """Half of the blocks that the rows need, so that each thread takes several."""
    down = max(1, -(-rows // THREADS[1]) // 2)
    return (ctypes.c_uint * 5)(-(-columns // THREADS[0]), down, pictures, *THREADS)


def resize_on_cpu(
    library: ctypes.CDLL,
    pictures: Sequence[Pixels],
    size: tuple[int, int],
    fit: Fit,
    interpolation: Interpolation,
    flips: np.ndarray,
    to_gray: bool,
    constants: tuple[np.ndarray, np.ndarray] | None,
    kind: str,
) -> Pixels:
    channels = pictures[0].shape[2]
    planes = 1 if to_gray else channels
    sources = [(p.ctypes.data, p.shape[0], p.shape[1]) for p in pictures]
    packed = packing.pack_resize(sources, planes, size, fit, interpolation, flips, constants)
    between = np.full(packed.between, 99, np.uint8)
    out = np.full((len(pictures), planes, *size), 7, KINDS[kind])
    jobs, tables, m, inv = (pointer(packed.buffer, at) for at in (0, packed.tables, packed.m, packed.inv))
    library.run_resize_across(
        grid(packed.columns, packed.rows, len(pictures)), jobs, tables, pointer(between), channels, int(to_gray)
    )
    run = getattr(library, f"run_resize_down_{kind}")
    run(grid(size[1], size[0], len(pictures)), jobs, tables, pointer(between), pointer(out), planes, *size, m, inv)
    return out


def finish_on_cpu(
    library: ctypes.CDLL,
    pictures: Sequence[Pixels],
    flips: np.ndarray,
    constants: tuple[np.ndarray, np.ndarray] | None,
    kind: str,
    warps: np.ndarray | None = None,
    maps: np.ndarray | None = None,
) -> Pixels:
    planes, h, w = pictures[0].shape
    places = [None if values is None else [value.ctypes.data for value in values] for values in (warps, maps)]
    packed = packing.pack_finish([p.ctypes.data for p in pictures], planes, flips, constants, *places)
    out = np.full((len(pictures), planes, h, w), 7, KINDS[kind])
    given_kind = "u8" if pictures[0].dtype == np.uint8 else "u16"
    run = getattr(library, f"run_finish_{given_kind}_{kind}")
    jobs, m, inv = (pointer(packed.buffer, at) for at in (0, packed.m, packed.inv))
    run(grid(w, h, len(pictures)), jobs, pointer(out), planes, h, w, m, inv)
    return out


def finished(
    planes: Pixels,
    flip: int,
    constants: tuple[np.ndarray, np.ndarray] | None,
    kind: str,
    warp_by: np.ndarray | None = None,
    colours: np.ndarray | None = None,
) -> Pixels:
    """The reference: one base picture, by affine.py, colour.py and normalise.py."""
    out = np.zeros(planes.shape, KINDS[kind])
    if warp_by is not None:
        planes, flip = warp(planes[:, :: -1 if flip & 2 else 1, :: -1 if flip & 1 else 1], warp_by), 0
    if colours is not None:
        planes = recolour(planes, colours)
    if constants is None:
        copy_into(out, planes, bool(flip & 1), bool(flip & 2))
    else:
        normalise_into(out, planes, *constants, bool(flip & 1), bool(flip & 2))
    return out


def changes(seed: int, count: int, size: tuple[int, int], channels: int, depth: int) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients of warps and colour maps, mild and extreme."""
    rng = np.random.default_rng(seed)
    shifts = rng.uniform(-1, 1, (2, count)) * rng.choice([0.1, 1.0])
    warps = quantise(matrices(size, rng.uniform(-180, 180, count), 10 ** rng.uniform(-1, 1, count), *shifts))
    factors = rng.uniform(0, rng.choice([2.0, 10.0]), (3, count))
    return warps, colour_maps(channels, (1 << depth) - 1, *factors, rng.uniform(-180, 180, count))


def same_bits(a: Pixels, b: Pixels) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


CONSTANTS = {
    1: normalisation([0.45], [0.226]),
    3: normalisation([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
}


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
        source = gray(torch.from_numpy(picture), axis=-1).numpy() if to_gray else picture
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


class HostArray(np.ndarray):
    """A NumPy array with the one attribute of CuPy's that the launchers use besides NumPy's own."""

    @property
    def data(self) -> Any:  # type: ignore[override]
        return SimpleNamespace(ptr=self.ctypes.data)


class HostCuPy:
    """As much of CuPy as the launchers call, in main memory, with the kernels that gcc compiled."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.library = library
        stream = SimpleNamespace(synchronize=lambda: None)
        self.cuda = SimpleNamespace(Device=lambda: SimpleNamespace(id=0), get_current_stream=lambda: stream)

    def asarray(self, array: np.ndarray) -> HostArray:
        return array.view(HostArray)

    def empty(self, shape: Any, dtype: str) -> HostArray:
        return np.full(shape, 7, dtype).view(HostArray)

    def get_function(self, name: str) -> Any:
        def launch(blocks: tuple[int, int, int], threads: tuple[int, int], arguments: tuple[Any, ...]) -> None:
            converted = [ctypes.c_int(int(a)) if isinstance(a, np.int32) else pointer(a) for a in arguments]
            getattr(self.library, f"run_{name}")((ctypes.c_uint * 5)(*blocks, *threads), *converted)

        return launch


@pytest.fixture
def host(compiled: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> HostCuPy:
    stand_in = HostCuPy(compiled)
    monkeypatch.setattr(kernels, "_cupy", lambda: stand_in)
    monkeypatch.setattr(kernels, "_module", lambda device: stand_in)
    return stand_in


@pytest.mark.parametrize(("dtype", "kind"), [(None, "u8"), ("float32", "f32"), ("float16", "f16")])
def test_the_launchers_of_resize(host: HostCuPy, dtype: str | None, kind: str) -> None:
    pictures = [noise(seed, h, w) for seed, (h, w) in enumerate([(50, 41), (9, 130), (70, 70)], 1)]
    on_device = [host.asarray(p) for p in pictures]
    constants = None if dtype is None else CONSTANTS[1]
    out = kernels.resize_batch(
        on_device, (33, 70), "pad", "bicubic", hflip=[True, False, True], gray=True, normalise=constants, dtype=dtype
    )
    for result, picture, flip in zip(out, pictures, (1, 0, 1)):
        source = gray(torch.from_numpy(picture), axis=-1).numpy()
        assert same_bits(result, finished(base_image(source, (33, 70), "pad", "bicubic"), flip, constants, kind))
    assert kernels.resize_batch([], 5, "stretch").shape == (0, 1, 5, 5)


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("dense", [False, True])
def test_the_launchers_of_finish(host: HostCuPy, depth: int, dense: bool) -> None:
    base = np.stack([np.ascontiguousarray(noise(i, 30, 77, 3, depth).transpose(2, 0, 1)) for i in range(4)])
    on_device = host.asarray(base) if dense else [host.asarray(p) for p in base]
    constants = normalisation([0.4, 0.5, 0.6], [0.2, 0.3, 0.25], (1 << depth) - 1)
    flips = [False, True, True, False]
    plain = kernels.finish_batch(on_device, vflip=flips)
    floats = kernels.finish_batch(on_device, vflip=flips, normalise=constants)
    for i, flip in enumerate(flips):
        assert same_bits(plain[i], finished(base[i], 2 * flip, None, f"u{depth}"))
        assert same_bits(floats[i], finished(base[i], 2 * flip, constants, "f32"))


@pytest.mark.parametrize("depth", [8, 16])
def test_the_launchers_of_warps_and_colours(host: HostCuPy, depth: int) -> None:
    base = [np.ascontiguousarray(noise(i, 30, 77, 3, depth).transpose(2, 0, 1)) for i in range(4)]
    on_device = [host.asarray(p) for p in base]
    warps, maps = (host.asarray(values) for values in changes(5, 4, (30, 77), 3, depth))
    constants = normalisation([0.4, 0.5, 0.6], [0.2, 0.3, 0.25], (1 << depth) - 1)
    flips = [False, True, True, False]
    floats = kernels.finish_batch(on_device, hflip=flips, warps=list(warps), maps=maps, normalise=constants)
    both = kernels.varied_images(on_device, warps, maps)
    turned = kernels.varied_images(on_device, warps)
    for i, flip in enumerate(flips):
        assert same_bits(floats[i], finished(base[i], int(flip), constants, "f32", warps[i], maps[i]))
        assert same_bits(both[i], finished(base[i], 0, None, f"u{depth}", warps[i], maps[i]))
        assert same_bits(turned[i], finished(base[i], 0, None, f"u{depth}", warps[i]))


def test_pictures_that_do_not_fit_together_are_named(host: HostCuPy) -> None:
    good, other = host.empty((4, 5, 3), "uint8"), host.empty((4, 5, 1), "uint8")
    with pytest.raises(ConfigError, match=r"picture 1 is uint8 \[4, 5, 1\]"):
        kernels.resize_batch([good, other], 8, "stretch")
    with pytest.raises(ConfigError, match="contiguous: False"):
        kernels.resize_batch([good[:, ::2]], 8, "stretch")
    with pytest.raises(ConfigError, match="without normalise, uint8 pictures give uint8"):
        kernels.resize_batch([good], 8, "stretch", dtype="float32")
    with pytest.raises(ConfigError, match="gray=True needs pictures of 3 channels, not 1"):
        kernels.resize_batch([other], 8, "stretch", gray=True)
    with pytest.raises(ConfigError, match="finish_batch got no pictures"):
        kernels.finish_batch([])
    with pytest.raises(ConfigError, match="base pictures are uint8 or uint16, not float32"):
        kernels.finish_batch([host.empty((1, 4, 5), "float32")])
    with pytest.raises(ConfigError, match=r"picture 1 is uint8 \[4, 5, 1\].*agree with the first one, \[4, 5, 3\]"):
        kernels.finish_batch([good, other])
    warps = host.empty((2, 6), "int64")
    with pytest.raises(ConfigError, match="2 warps for 1 pictures; give one for each"):
        kernels.finish_batch([good], warps=warps)
    with pytest.raises(ConfigError, match=r"warps\[1\] is int32 \[6\]; it must be int64 \[6\], contiguous"):
        kernels.finish_batch([good, good], warps=[warps[0], host.empty((6,), "int32")])
    with pytest.raises(ConfigError, match=r"maps\[0\] is int64 \[6\]; it must be int64 \[4, 5\]"):
        kernels.finish_batch([good, good], maps=warps)


def test_packing_names_what_does_not_go_together() -> None:
    with pytest.raises(ConfigError, match="2 flip flags for 3 pictures; give one for each"):
        packing.flip_bits(3, [True, False], None)
    with pytest.raises(ConfigError, match="1 means and 1 inverse deviations for 3 channels"):
        packing.pack_finish([1], 3, np.zeros(1, np.int32), CONSTANTS[1])
    with pytest.raises(ConfigError, match="a colour map of 4 channels; the kernels mix up to 3"):
        packing.pack_finish([1], 4, np.zeros(1, np.int32), None, maps=[1])


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
def test_nvcc_takes_the_source_without_a_warning_and_fuses_nothing(architecture: str, tmp_path: Path) -> None:
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("nvcc is not installed")
    common = [nvcc, f"-arch={architecture}", "-Werror", "all-warnings", *kernels.COMPILE_OPTIONS, str(SOURCE)]
    for kind in ("cubin", "ptx"):
        done = subprocess.run(
            [*common, f"-{kind}", "-o", f"{tmp_path}/kernels.{kind}"], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    ptx = (tmp_path / "kernels.ptx").read_text("utf-8")
    assert "sub.rn.f32" in ptx or "add.rn.f32" in ptx
    assert "mul.rn.f32" in ptx
    assert "fma." not in ptx
    assert ".ftz" not in ptx
    for name in ("resize_across", "resize_down_u8", "resize_down_f32", "finish_u16_f32"):
        assert f".entry {name}(" in ptx


def test_nothing_asks_for_fast_arithmetic() -> None:
    assert "--fmad=false" in kernels.COMPILE_OPTIONS
    assert not any("fast" in option for option in kernels.COMPILE_OPTIONS)
    assert kernels.source() == SOURCE.read_text("utf-8")


@pytest.fixture
def cupy() -> Any:
    return pytest.importorskip("cupy", reason="no NVIDIA GPU tests without CuPy")


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [None, "float32", "float16"])
@pytest.mark.parametrize("fit", ["stretch", "crop", "pad"])
def test_resize_batch_on_a_gpu(cupy: Any, fit: Fit, dtype: str | None) -> None:
    rng = np.random.default_rng(3)
    modes_: tuple[Interpolation, ...] = ("bilinear", "bicubic")
    for interpolation in modes_:
        for channels, to_gray in ((1, False), (3, False), (3, True)):
            pictures = [noise(i, *(int(n) for n in rng.integers(1, 900, 2)), channels) for i in range(9)]
            hflip, vflip = rng.integers(0, 2, (2, 9)).astype(bool)
            constants = None if dtype is None else CONSTANTS[1 if to_gray else channels]
            out = kernels.resize_batch(
                [cupy.asarray(p) for p in pictures],
                (224, 200),
                fit,
                interpolation,
                hflip=hflip,
                vflip=vflip,
                gray=to_gray,
                normalise=constants,
                dtype=dtype,
            ).get()
            kind = {None: "u8", "float32": "f32", "float16": "f16"}[dtype]
            for result, picture, h, v in zip(out, pictures, hflip, vflip):
                source = gray(torch.from_numpy(picture), axis=-1).numpy() if to_gray else picture
                expected = finished(
                    base_image(source, (224, 200), fit, interpolation), int(h) | 2 * int(v), constants, kind
                )
                assert same_bits(result, expected)


@pytest.mark.gpu
@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("dense", [False, True])
def test_finish_batch_on_a_gpu(cupy: Any, depth: int, dense: bool) -> None:
    base = np.stack([np.ascontiguousarray(noise(i, 130, 97, 3, depth).transpose(2, 0, 1)) for i in range(7)])
    device = cupy.asarray(base) if dense else [cupy.asarray(p) for p in base]
    hflip, vflip = np.arange(7) % 2 == 1, np.arange(7) % 3 == 1
    constants = normalisation([0.4, 0.5, 0.6], [0.2, 0.3, 0.25], (1 << depth) - 1)
    for dtype, kind in ((None, f"u{depth}"), ("float32", "f32"), ("float16", "f16")):
        given_constants = None if dtype is None else constants
        with cupy.cuda.Stream(non_blocking=True) as stream:
            out = kernels.finish_batch(device, hflip=hflip, vflip=vflip, normalise=given_constants, dtype=dtype)
            stream.synchronize()
        for result, picture, h, v in zip(out.get(), base, hflip, vflip):
            assert same_bits(result, finished(picture, int(h) | 2 * int(v), given_constants, kind))


@pytest.mark.gpu
@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("channels", [1, 3])
def test_warps_and_colours_on_a_gpu(cupy: Any, depth: int, channels: int) -> None:
    base = np.stack([np.ascontiguousarray(noise(i, 130, 97, channels, depth).transpose(2, 0, 1)) for i in range(7)])
    hflip, vflip = np.arange(7) % 2 == 1, np.arange(7) % 3 == 1
    for seed in range(20):
        warps, maps = changes(seed, 7, (130, 97), channels, depth)
        on_device = cupy.asarray(warps), cupy.asarray(maps)
        out = kernels.finish_batch(cupy.asarray(base), hflip=hflip, vflip=vflip, warps=on_device[0], maps=on_device[1])
        for i, (result, h, v) in enumerate(zip(out.get(), hflip, vflip)):
            assert same_bits(result, finished(base[i], int(h) | 2 * int(v), None, f"u{depth}", warps[i], maps[i]))
