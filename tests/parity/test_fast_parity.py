"""`parity="fast"` on the CPU: plain PyTorch gives DALI's own bits."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from make_images import jpeg
from parity_samples import manifest_of, mixed, noise, require_dali

import dali_pipes as dp
from dali_pipes.arithmetic import base_image, dali_gpu
from dali_pipes.arithmetic.dali_base import dali_base_image
from dali_pipes.backends.dali import DaliBackend
from dali_pipes.decode import DecodePolicy, decode, identify
from dali_pipes.draws import draw
from dali_pipes.errors import BackendError, ConfigError
from dali_pipes.fetch.fetcher import Encoded
from dali_pipes.recipe import Recipe

require_dali()

pytestmark = pytest.mark.filterwarnings("ignore:.*it is left out:dali_pipes.errors.DaliPipesWarning")

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
SIZES = [(1, 1), (1, 700), (900, 2), (2, 2), (31, 31)]
"""Sources that every case has; the others are drawn."""


def outputs(manifest: dp.Manifest, recipe: Recipe, backend: str, **more) -> dict[int, torch.Tensor]:
    with dp.Loader(manifest, recipe, batch_size=4, backend=backend, num_workers=1, on_error="skip", **more) as loader:
        return {i: image for batch in loader for i, image in zip(batch.index.tolist(), batch.image)}


def assert_same(one: dict[int, torch.Tensor], other: dict[int, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert one
    for i in one:
        assert torch.equal(one[i], other[i]), f"sample {i}"


def sources(seed: int) -> list[bytes]:
    random = np.random.default_rng(seed)
    drawn = [tuple(int(n) for n in random.integers(1, 130, 2)) for _ in range(7)]
    return [
        jpeg(noise(*size, seed + i, channels=3 if i % 5 else 1), **({"subsampling": i % 3} if i % 5 else {}))
        for i, size in enumerate([*SIZES, *drawn])
    ]


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("fit", ["stretch", "crop", "pad"])
@pytest.mark.parametrize("seed", range(3))
def test_the_native_base_image_is_what_dalis_graph_makes(fit: str, interpolation: str, seed: int) -> None:
    random = np.random.default_rng([seed, len(fit), len(interpolation)])
    size = (1, 1) if seed == 0 else tuple(int(n) for n in random.integers(1, 80, 2))
    recipe = Recipe(size=size, fit=fit, interpolation=interpolation, parity="fast")
    files = sources(seed)
    backend = DaliBackend(recipe, device="cpu", batch_size=len(files), threads=1, decode=True)
    found = backend.run(
        [Encoded(np.frombuffer(file, np.uint8)) for file in files], draw(None, 0, 0, np.arange(len(files)))
    )
    for file, image in zip(files, found.numpy()):
        pixels = decode(file, identify("a.jpg", file), 0, DecodePolicy()).pixels
        expected = dali_base_image(pixels, size, fit, interpolation)
        assert expected.flags.c_contiguous
        assert np.array_equal(image, expected), pixels.shape


@pytest.mark.parametrize("fit", ["stretch", "crop", "pad"])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_loaders_of_both_backends_agree(tmp_path: Path, fit: str, interpolation: str) -> None:
    manifest = mixed(tmp_path)
    recipe = Recipe(
        size=(37, 52), fit=fit, interpolation=interpolation, parity="fast", augment=dp.Augment(0.5, 0.5), **IMAGENET
    )
    assert_same(outputs(manifest, recipe, "torch"), outputs(manifest, recipe, "dali-cpu"))


@pytest.mark.parametrize("mode", ["none", "memory"])
@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize(
    "augment",
    [
        dp.Augment(rotation=180),
        dp.Augment(0.5, scale=(0.5, 2), shift=0.3),
        dp.Augment(brightness=0.5, contrast=2),
        dp.Augment(0.5, 0.5, 45, (0.7, 1.4), 0.2, 0.4, 0.4, 0.8, 120),
    ],
    ids=str,
)
def test_what_varies_is_what_dalis_operators_give(
    tmp_path: Path, augment: dp.Augment, normalised: bool, mode: str
) -> None:
    manifest = mixed(tmp_path)
    recipe = Recipe(size=(37, 300), parity="fast", augment=augment, **(IMAGENET if normalised else {}))
    ours = outputs(manifest, recipe, "torch", cache_mode=mode)
    assert_same(ours, outputs(manifest, recipe, "dali-cpu", cache_mode=mode))
    still = outputs(manifest, replace(recipe, augment=None), "torch", cache_mode=mode)
    assert sum(torch.equal(ours[i], still[i]) for i in ours) < len(ours) / 2  # they do vary


@pytest.mark.parametrize("normalised", [{}, {"mean": 0.4, "std": 0.2}])
def test_gray_varies_as_by_dalis_operators(tmp_path: Path, normalised: dict) -> None:
    manifest = mixed(tmp_path)
    augment = dp.Augment(0.5, 0.5, 45, (0.7, 1.4), 0.2, 0.4, 0.4)
    recipe = Recipe(size=(37, 300), channels=1, parity="fast", augment=augment, **normalised)
    assert_same(outputs(manifest, recipe, "torch"), outputs(manifest, recipe, "dali-cpu"))


def test_emulating_a_gpu_resizes_as_its_operator(tmp_path: Path) -> None:
    """Not run on a GPU: the twin is what its machine code says."""
    manifest = mixed(tmp_path)
    recipe = Recipe(size=(37, 52), parity="fast", emulate="dali-gpu", interpolation="bicubic")
    found = outputs(manifest, recipe, "torch")
    on_cpu = outputs(manifest, replace(recipe, emulate="dali-cpu"), "torch")
    differ = 0
    for i, image in found.items():
        data = manifest.resolve(i).read_bytes()
        kind = identify(manifest.paths[i], data)
        if not kind.dali:
            assert torch.equal(image, on_cpu[i])
            continue
        pixels = torch.from_numpy(decode(data, kind, 0, DecodePolicy()).pixels.copy())
        expected = dali_gpu.resize(pixels, (37, 52), interp_type="cubic", mode="stretch")
        assert torch.equal(image, expected.permute(2, 0, 1))
        differ += not torch.equal(image, on_cpu[i])
    assert differ


@pytest.mark.parametrize("more", [{"channels": 1}, {"depth": 16}, {"depth": 16, "window": None}], ids=str)
def test_what_dali_cannot_decode_alike_is_canonical_on_both(tmp_path: Path, more: dict) -> None:
    manifest = mixed(tmp_path)
    recipe = Recipe(size=40, parity="fast", mean=0.4, std=0.2, **more)
    assert_same(outputs(manifest, recipe, "torch"), outputs(manifest, recipe, "dali-cpu"))
    exact = Recipe(size=40, mean=0.4, std=0.2, **more)
    assert_same(outputs(manifest, recipe, "torch"), outputs(manifest, exact, "torch"))


def test_a_cache_holds_portable_images_only(tmp_path: Path) -> None:
    manifest = mixed(tmp_path)
    fast, exact = (Recipe(size=40, parity=parity, **IMAGENET) for parity in ("fast", "exact"))
    cached = {name: outputs(manifest, fast, name, cache_mode="memory") for name in ("torch", "dali-cpu")}
    assert_same(cached["torch"], cached["dali-cpu"])
    assert_same(cached["torch"], outputs(manifest, exact, "torch"))


def test_native_and_portable_images_are_not_the_same() -> None:
    pixels = noise(90, 70)
    assert not np.array_equal(dali_base_image(pixels, (30, 40), "stretch"), base_image(pixels, (30, 40), "stretch"))


def test_a_strip_is_not_resized_to_gigabytes() -> None:
    found = dali_base_image(noise(1, 5000), (64, 64), "crop")  # 64 x 320,000 without a limit
    assert found.shape == (3, 64, 64)
    assert found.any()
    assert (found == 0).all((0, 2)).any()  # covered in part
    wider = dali_base_image(noise(10, 6400), (64, 64), "crop")  # to 3 x 2048, 32 times the target's width
    assert (wider != 0).any((0, 2)).sum() == 3


@pytest.mark.parametrize(
    "pixels", [noise(5, 5, channels=1)[..., None], noise(5, 5).astype(np.uint16)], ids=["gray", "16"]
)
def test_native_takes_rgb_bytes_only(pixels: np.ndarray) -> None:
    with pytest.raises(ConfigError, match="RGB"):
        dali_base_image(pixels, (4, 4), "stretch")


def test_native_refuses_unknown_fits() -> None:
    with pytest.raises(ConfigError, match="stretch, crop, pad"):
        dali_base_image(noise(5, 5), (4, 4), "squeeze")


def test_a_jpeg_given_to_a_graph_that_decodes_none_is_an_error(tmp_path: Path) -> None:
    backend = DaliBackend(Recipe(size=8, channels=1, parity="fast"), device="cpu", batch_size=1, threads=1, decode=True)
    assert not backend.takes_encoded
    with pytest.raises(BackendError, match="was given a JPEG"):
        backend.run([Encoded(np.frombuffer(jpeg(noise(9, 9)), np.uint8))], draw(None, 0, 0, np.arange(1)))


def test_large_reductions_agree(tmp_path: Path) -> None:
    manifest = manifest_of(tmp_path, [("large.jpg", jpeg(noise(700, 900)))])
    recipe = Recipe(size=(5, 3), parity="fast")
    assert_same(outputs(manifest, recipe, "torch"), outputs(manifest, recipe, "dali-cpu"))
