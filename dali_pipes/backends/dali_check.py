"""The guard against drift: at its first use, does this DALI compute what was promised for it?

The tests compare every operator with the versions in `VERIFIED_VERSIONS`. With any other, and on a GPU with every
version, since the tests run without one, a handful of small images goes through the installed DALI before the first
batch does:

    "exact"   what varies, normalisation and decoding, by graphs like those about to be used, against the pixel contract
    "fast"    on the CPU, the operators against their PyTorch twins, and decoding; on a GPU no bits are promised

It takes some tenths of a second, once in a process.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from dali_pipes.arithmetic import base_image
from dali_pipes.arithmetic.dali.selfcheck import VERIFIED_VERSIONS, selfcheck
from dali_pipes.arithmetic.dali_base import dali_base_image
from dali_pipes.backends import dali_operators
from dali_pipes.backends.graphs import Graph
from dali_pipes.backends.ring import Ring
from dali_pipes.decode import DecodePolicy, decode, identify
from dali_pipes.draws import Augment, draw
from dali_pipes.errors import ParityError
from dali_pipes.fetch.fetcher import Encoded
from dali_pipes.finish.finish import Changes, Finish
from dali_pipes.recipe import Recipe

Array = npt.NDArray[Any]

_SIZE = (13, 19)
_COUNT = 6
_VARIED = Augment(0.5, 0.5, 90, (0.5, 2.0), 0.3, 0.3, 0.3, 0.5, 60)
_PLANNED = Augment(
    0.5, 0.5, crop=True, quarter_turns=0.5, gamma=0.5, blur=(0.5, 2.0), noise=0.1, autocontrast=0.5, sharpness=0.5
)
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@functools.lru_cache(maxsize=8)
def check(parity: str, device: str, device_id: int | None = None) -> None:
    """Compare the installed DALI with what `parity` promises on a device ("cpu" or "gpu"); remember a good outcome.

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
        _check_finish(version, device, device_id)
    _check_decoding(version, parity, device, device_id)


def _check_finish(version: str, device: str, device_id: int | None) -> None:
    """Check what comes after the base image, operator by operator, on bytes and 16-bit values."""
    normalise = "normalize" if device == "cpu" else "subtraction and multiplication"
    operators: dict[str, dict[str, Any]] = {
        "flip": {"augment": Augment(0.5, 0.5)},
        "python_function": {"augment": _VARIED},
        normalise: {"mean": _MEAN, "std": _STD},
    }
    for operator, parts in operators.items():
        for depth in (8, 16):
            recipe = Recipe(size=_SIZE, window=None, depth=depth, **parts)
            images, changes, expected = _finished(recipe)
            graph = Graph(recipe, device, False, _COUNT, 1, device_id)
            _compare(f"DALI {version}", operator, _run(graph, graph.values(images, changes)), expected)


def check_rings(make: Callable[[Recipe], Ring]) -> None:
    """Compare what rings compute with the pixel contract, on bytes and 16-bit values; `make` makes one of a recipe.

    Raises:
        ParityError: an output differs.
    """
    ways: tuple[dict[str, Any], ...] = (
        {"augment": _VARIED, "mean": _MEAN, "std": _STD},
        {"augment": Augment(0.5, 0.5)},
        {"augment": _PLANNED, "base_size": (23, 29), "mean": _MEAN, "std": _STD},
    )
    for depth in (8, 16):
        for parts in ways:
            recipe = Recipe(size=_SIZE, window=None, depth=depth, **parts)
            images, _, expected = _finished(recipe)
            ring = make(recipe)
            try:
                for part in (slice(0, _COUNT), slice(1, 3)):  # a last batch that is smaller
                    made = ring.run(images[part], draw(recipe.augment, 0, 0, np.arange(_COUNT)[part]))
                    ring.wait()
                    _compare("the ring of batches", "finish", list(made.cpu().numpy()), expected[part])
            finally:
                ring.close()


@functools.lru_cache(maxsize=8)
def check_ring(device_id: int) -> None:
    """Run `check_rings` on a CUDA device; remember a good outcome."""
    from dali_pipes.backends.cuda import CudaDevice

    stream = torch.cuda.Stream(device_id)
    check_rings(lambda recipe: Ring(recipe, CudaDevice(stream), threads=1, slots=2))


def _finished(recipe: Recipe) -> tuple[list[Array], Changes, list[Array]]:
    """Return some base images, what is done to them, and what comes out by the pixel contract."""
    images = [_noise((3, *recipe.base), recipe.depth, seed) for seed in range(_COUNT)]
    finish = Finish(recipe)
    changes = finish.changes(draw(recipe.augment, 0, 0, np.arange(_COUNT)))
    expected = torch.empty((_COUNT, *finish.shape), dtype=finish.dtype).numpy()
    for i, image in enumerate(images):
        finish.write(expected[i], image, changes, i)
    return images, changes, list(expected)


def _check_decoding(version: str, parity: str, device: str, device_id: int | None) -> None:
    """Check `decoders.image`, with each chroma sampling, and what follows it up to the base image."""
    files = [_jpeg((61, 83), sampling) for sampling in (0, 1, 2)]
    recipe = Recipe(size=_SIZE, parity="fast" if parity == "fast" else "exact")
    pixels = [decode(file, identify("check.jpg", file), 0, DecodePolicy()).pixels for file in files]
    make = dali_base_image if parity == "fast" else base_image
    expected = [make(each, _SIZE, "stretch") for each in pixels]
    graph = Graph(recipe, device, True, len(files), 1, device_id)
    still = Finish(recipe).changes(draw(None, 0, 0, np.arange(len(files))))
    found = _run(graph, graph.values([Encoded(np.frombuffer(file, np.uint8)) for file in files], still))
    _compare(f"DALI {version}", "decoders.image", found, expected)


def _run(graph: Graph, inputs: dict[str, Any]) -> list[Array]:
    pipeline = graph.pipeline()
    pipeline.build()
    for name, values in inputs.items():
        pipeline.feed_input(name, values, layout="CHW" if name == "image" else None)
    batch, _ = pipeline.run()
    batch = batch.as_cpu() if graph.device == "gpu" else batch
    graph.close()
    return [np.array(batch.at(i)) for i in range(len(inputs["image"]))]


def _compare(what_computes: str, operator: str, found: list[Array], expected: list[Array]) -> None:
    for one, other in zip(found, expected, strict=True):
        if one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes():
            continue
        if one.shape == other.shape:
            gap = np.abs(one.astype(np.float64) - other.astype(np.float64))
            what = f"{np.count_nonzero(gap)} of {gap.size} values differ, by at most {gap.max():g}"
        else:
            what = f"{one.dtype}{list(one.shape)} instead of {other.dtype}{list(other.shape)}"
        raise ParityError(
            f"{what_computes} computes {operator} otherwise than the pixel contract, which was verified with DALI "
            f"{', '.join(VERIFIED_VERSIONS)}: {what}. Install a verified version, or use backend='torch'."
        )


def _noise(shape: tuple[int, ...], depth: int, seed: int) -> Array:
    dtype = np.uint16 if depth == 16 else np.uint8
    return np.random.default_rng(seed).integers(0, 1 << depth, shape, dtype=dtype)


def _jpeg(size: tuple[int, int], sampling: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(_noise((*size, 3), 8, sampling)).save(buffer, "JPEG", quality=90, subsampling=sampling)
    return buffer.getvalue()
