"""Runs the CUDA kernels without a GPU: their source compiled by gcc, threads as loops. And what they must give."""

import ctypes
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from arithmetic_pictures import Pixels

from dali_pipes.arithmetic import (
    Fit,
    colour_maps,
    copy_into,
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

HERE = Path(__file__).parent
SOURCE = Path(kernels.__file__).with_name("portable.cu")
KINDS = {"u8": np.uint8, "u16": np.uint16, "f32": np.float32, "f16": np.float16}
THREADS = (8, 3)
"""A block that divides nothing, so that every kernel meets threads outside its picture and strides over rows."""

CONSTANTS = {
    1: normalisation([0.45], [0.226]),
    3: normalisation([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
}


def compile_kernels(folder: Path) -> ctypes.CDLL:
    """The kernels' source by gcc."""
    gcc = shutil.which("gcc") or shutil.which("cc")
    if gcc is None:
        pytest.fail("these tests need a C compiler: install gcc")
    target = folder / "kernels.so"
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


class HostDevice:
    """What `with` makes the current device, as CuPy's `Device` does."""

    current = 0

    def __init__(self, number: int | None = None) -> None:
        self.id = HostDevice.current if number is None else number

    def __enter__(self) -> None:
        self.before, HostDevice.current = HostDevice.current, self.id

    def __exit__(self, *error: object) -> None:
        HostDevice.current = self.before


class HostArray(np.ndarray):
    """A NumPy array with those attributes of CuPy's that the launchers use besides NumPy's own."""

    device_id = 0

    def __array_finalize__(self, made_from: Any) -> None:
        self.device_id = getattr(made_from, "device_id", HostDevice.current)

    @property
    def device(self) -> HostDevice:  # type: ignore[override]
        return HostDevice(self.device_id)

    @property
    def data(self) -> Any:  # type: ignore[override]
        return SimpleNamespace(ptr=self.ctypes.data)


class HostCuPy:
    """As much of CuPy as the launchers call, in main memory, with the kernels that gcc compiled."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.library = library
        self.waits: list[int] = []
        self.launches: list[tuple[str, int]] = []
        self.stream = SimpleNamespace(ptr=77, synchronize=lambda: self.waits.append(HostDevice.current))
        self.cuda = SimpleNamespace(Device=HostDevice, get_current_stream=lambda: self.stream)

    def asarray(self, array: np.ndarray) -> HostArray:
        return array.view(HostArray)

    def empty(self, shape: Any, dtype: str) -> HostArray:
        return np.full(shape, 7, dtype).view(HostArray)

    def stack(self, arrays: list[HostArray]) -> Any:
        return SimpleNamespace(get=lambda: np.stack([np.asarray(each) for each in arrays]))

    def zeros(self, shape: Any, dtype: str) -> HostArray:
        return np.zeros(shape, dtype).view(HostArray)

    def get_function(self, name: str) -> Any:
        def launch(blocks: tuple[int, int, int], threads: tuple[int, int], arguments: tuple[Any, ...]) -> None:
            self.launches.append((name, HostDevice.current))
            converted = [
                ctypes.c_int(int(a))
                if isinstance(a, np.int32)
                else ctypes.c_void_p(int(a))
                if isinstance(a, np.uint64)
                else pointer(a)
                for a in arguments
            ]
            getattr(self.library, f"run_{name}")((ctypes.c_uint * 5)(*blocks, *threads), *converted)

        return launch
