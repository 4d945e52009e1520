"""The CUDA kernels on a GPU, where CuPy and one are present: the bits of the reference."""

from typing import Any

import numpy as np
import pytest
from arithmetic_pictures import noise
from kernel_runner import CONSTANTS, changes, finished, same_bits

from dali_pipes.arithmetic import Fit, base_image, kernels, normalisation
from dali_pipes.arithmetic.tables import Interpolation
from dali_pipes.decode.luma import luma


@pytest.fixture
def cupy() -> Any:
    import cupy

    return cupy


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
                source = luma(picture) if to_gray else picture
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
    cupy.cuda.Device().synchronize()  # the copies are in another stream than the launches
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
