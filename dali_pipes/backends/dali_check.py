"""The guard against drift: at its first use, does this DALI compute what was promised for it?

The tests compare every operator with the versions in `VERIFIED_VERSIONS`. With any other, and on a GPU with every
version, since the tests run without one, a handful of small images goes through the installed DALI before the first
batch does:

    "exact"   flips, normalisation and decoding, by the very graph that is about to be used, against the pixel contract
    "fast"    on the CPU, the operators against their PyTorch twins, and decoding; on a GPU no bits are promised

It takes some tenths of a second, once in a process.
"""

from __future__ import annotations

import functools
import io
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from dali_pipes.arithmetic import base_image, normalisation, normalise_into
from dali_pipes.arithmetic.dali.selfcheck import VERIFIED_VERSIONS, selfcheck
from dali_pipes.arithmetic.native import native_base
from dali_pipes.backends import dali_operators
from dali_pipes.backends.graphs import Graph
from dali_pipes.decode import DecodePolicy, decode, identify
from dali_pipes.draws import Augment
from dali_pipes.errors import ParityError
from dali_pipes.recipe import Recipe

Array = npt.NDArray[Any]

_SIZE = (13, 19)
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@functools.lru_cache(maxsize=8)
def check(parity: str, device: str, device_id: int | None = None) -> None:
    """Compares the installed DALI with what `parity` promises on a device ("cpu" or "gpu"); remembers a good outcome.

    Raises:
        ParityError: an output differs; names the operator and both versions.
    """
    version = dali_operators.dali_version()
    if device == "cpu" and version in VERIFIED_VERSIONS:
        return
    if parity == "fast":
        if device == "gpu":
            return
        selfcheck(version, dali_operators.run_operator)
    else:
        _check_moves(version, device, device_id)
    _check_decoding(version, parity, device, device_id)


def _check_moves(version: str, device: str, device_id: int | None) -> None:
    """`flip`, and what stands for normalisation, on bytes and 16-bit values."""
    flips = [(0, 0), (1, 0), (0, 1), (1, 1)]
    turned = {"hflip": [np.int32(h) for h, _ in flips], "vflip": [np.int32(v) for _, v in flips]}
    normalise = "normalize" if device == "cpu" else "subtraction and multiplication"
    for depth in (8, 16):
        images = [_noise((3, *_SIZE), depth, seed) for seed in range(len(flips))]
        expected = [image[:, :: 1 - 2 * v, :: 1 - 2 * h] for image, (h, v) in zip(images, flips)]
        plain = Recipe(size=_SIZE, window=None, depth=depth, augment=Augment(0.5, 0.5))
        found = _run(Graph(plain, device, False, len(flips), 1, device_id), {"image": images, **turned})
        _compare(version, "flip", found, expected)
        scaled = Recipe(size=_SIZE, window=None, depth=depth, mean=_MEAN, std=_STD)
        constants = normalisation(_MEAN, _STD, scaled.full_scale)
        outputs = [np.empty(image.shape, np.float32) for image in images]
        for output, image in zip(outputs, images):
            normalise_into(output, image, *constants)
        found = _run(Graph(scaled, device, False, len(flips), 1, device_id), {"image": images})
        _compare(version, normalise, found, outputs)


def _check_decoding(version: str, parity: str, device: str, device_id: int | None) -> None:
    """`decoders.image`, by each chroma sampling, and what follows it up to the base image."""
    files = [_jpeg((61, 83), sampling) for sampling in (0, 1, 2)]
    recipe = Recipe(size=_SIZE, parity="fast" if parity == "fast" else "exact")
    pixels = [decode(file, identify("check.jpg", file), 0, DecodePolicy()).pixels for file in files]
    make = native_base if parity == "fast" else base_image
    expected = [make(each, _SIZE, "stretch") for each in pixels]
    still = [np.int32(0)] * len(files)
    inputs: dict[str, list[Any]] = {
        "image": [np.zeros((3, *_SIZE), np.uint8)] * len(files),
        "jpeg": [np.frombuffer(file, np.uint8) for file in files],
        "encoded": [np.bool_(True)] * len(files),
        "hflip": still,
        "vflip": still,
    }
    found = _run(Graph(recipe, device, True, len(files), 1, device_id), inputs)
    _compare(version, "decoders.image", found, expected)


def _run(graph: Graph, inputs: dict[str, list[Any]]) -> list[Array]:
    pipeline = graph.pipeline()
    pipeline.build()
    count = len(inputs["image"])
    for name, values in {**inputs, "sample": list(np.arange(count, dtype=np.int64))}.items():
        pipeline.feed_input(name, values, layout="CHW" if name == "image" else None)
    batch, _ = pipeline.run()
    batch = batch.as_cpu() if graph.device == "gpu" else batch
    return [np.array(batch.at(i)) for i in range(count)]


def _compare(version: str, operator: str, found: list[Array], expected: list[Array]) -> None:
    for one, other in zip(found, expected, strict=True):
        if one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes():
            continue
        if one.shape == other.shape:
            gap = np.abs(one.astype(np.float64) - other.astype(np.float64))
            what = f"{np.count_nonzero(gap)} of {gap.size} values differ, by at most {gap.max():g}"
        else:
            what = f"{one.dtype}{list(one.shape)} instead of {other.dtype}{list(other.shape)}"
        raise ParityError(
            f"DALI {version} computes {operator} otherwise than the pixel contract, which was verified with DALI "
            f"{', '.join(VERIFIED_VERSIONS)}: {what}. Install a verified version, or use backend='torch'."
        )


def _noise(shape: tuple[int, ...], depth: int, seed: int) -> Array:
    dtype = np.uint16 if depth == 16 else np.uint8
    return np.random.default_rng(seed).integers(0, 1 << depth, shape, dtype=dtype)


def _jpeg(size: tuple[int, int], sampling: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(_noise((*size, 3), 8, sampling)).save(buffer, "JPEG", quality=90, subsampling=sampling)
    return buffer.getvalue()
