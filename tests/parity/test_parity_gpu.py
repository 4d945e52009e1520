"""DALI on a GPU: graphs against DALI's schemas everywhere, and what is promised on hardware where there is some."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from make_images import jpeg
from parity_samples import manifest_of, mixed, noise, require_dali

import dali_pipes as dp
from dali_pipes import cache
from dali_pipes.arithmetic import dali_gpu
from dali_pipes.arithmetic.dali.selfcheck import probes
from dali_pipes.backends import dali_check, dali_operators
from dali_pipes.backends.graphs import Graph, decodes
from dali_pipes.parity import GPU_BOUND, Verdict, compare
from dali_pipes.recipe import Recipe

require_dali()

# Some of `mixed` are damaged, and left out with a warning each.
MIXED = pytest.mark.filterwarnings("ignore::dali_pipes.DaliPipesWarning")

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
FULL = Recipe(size=(24, 31), augment=dp.Augment(0.5, 0.5), **IMAGENET)
RECIPES = {
    "bytes": Recipe(size=(24, 31)),
    "normalised": Recipe(size=(24, 31), **IMAGENET),
    "augmented": Recipe(size=24, augment=dp.Augment(0.5), **IMAGENET),
    "varied": Recipe(size=(24, 31), augment=dp.Augment(0.5, 0.5, 90, (0.5, 2), 0.3, 0.3, 0.3, 0.5, 60), **IMAGENET),
    "varied-gray": Recipe(size=24, channels=1, augment=dp.Augment(rotation=9, brightness=0.2, contrast=0.2)),
    "crop": Recipe(size=24, fit="crop", interpolation="bicubic"),
    "pad": Recipe(size=(24, 31), fit="pad", **IMAGENET),
    "gray": Recipe(size=24, channels=1, mean=0.4, std=0.2),
    "deep": Recipe(size=24, depth=16, window=None, mean=0.4, std=0.2),
}


@pytest.fixture
def _serializable(monkeypatch: pytest.MonkeyPatch) -> None:
    """DALI writes no graph that holds a Python function; an operator of the same kind stands in for it."""
    from nvidia.dali import fn

    def planar(pixels, *numbers, **_):
        if numbers:
            return fn.flip(pixels)
        return fn.transpose(pixels, perm=[2, 0, 1], transpose_layout=False, output_layout="CHW")

    monkeypatch.setattr(fn, "python_function", planar)


@pytest.mark.usefixtures("_serializable")
@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("parity", ["exact", "fast"])
@pytest.mark.parametrize("decode", [False, True])
def test_gpu_graphs_fit_dalis_schemas(name: str, parity: str, decode: bool) -> None:
    """Operators, arguments and devices go together; DALI checks it without a GPU. Not run on a GPU."""
    recipe = dataclasses.replace(RECIPES[name], parity=parity)
    graph = Graph(recipe, "gpu", decode and decodes(recipe), 4, 1)
    assert graph.pipeline().serialize()


@pytest.mark.usefixtures("_serializable")
def test_the_native_gpu_graph_decodes_by_nvjpeg() -> None:
    native, portable = (
        Graph(Recipe(size=24, parity=parity), "gpu", True, 4, 1).pipeline().serialize() for parity in ("fast", "exact")
    )
    assert b"mixed" in native
    assert b"mixed" not in portable


def test_nvjpeg_upsamples_chroma_as_libjpeg_turbo_does(monkeypatch: pytest.MonkeyPatch) -> None:
    from nvidia.dali import fn

    asked: list[dict] = []
    genuine = fn.decoders.image
    monkeypatch.setattr(fn.decoders, "image", lambda jpegs, **how: asked.append(how) or genuine(jpegs, **how))
    Graph(Recipe(size=24, parity="fast"), "gpu", True, 4, 1).pipeline().serialize()
    assert [(how["device"], how["jpeg_fancy_upsampling"]) for how in asked] == [("mixed", True)]


def test_exact_parity_on_a_gpu_normalises_in_two_operations() -> None:
    """DALI's own normalisation there fuses them into one rounding."""
    written = {
        device: Graph(RECIPES["normalised"], device, False, 4, 1).pipeline().serialize() for device in ("cpu", "gpu")
    }
    assert b"Normalize" in written["cpu"]
    assert b"Normalize" not in written["gpu"]
    assert written["gpu"].count(b"ArithmeticGenericOp") >= 2


def test_the_schema_check_would_notice(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU's output given to an operator on the CPU does not get through."""
    from nvidia.dali import fn

    genuine = Graph.normalised
    monkeypatch.setattr(
        Graph, "normalised", lambda self, batch: fn.crop(genuine(self, batch), device="cpu", crop=[2, 2])
    )
    with pytest.raises(Exception, match=r"(?i)gpu|cpu|device"):
        Graph(RECIPES["normalised"], "gpu", False, 4, 1).pipeline().serialize()


def verdict_of(manifest: dp.Manifest, recipe: Recipe) -> Verdict:
    *_, verdict = compare(manifest, recipe, ["dali-gpu", "dali-cpu", "torch"], batch_size=4)
    assert isinstance(verdict, Verdict)
    return verdict


@pytest.mark.gpu
@MIXED
@pytest.mark.parametrize("fit", ["stretch", "crop", "pad"])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_exact_parity_on_the_gpu_equals_torch(tmp_path: Path, fit: str, interpolation: str) -> None:
    recipe = dataclasses.replace(FULL, fit=fit, interpolation=interpolation)
    assert verdict_of(mixed(tmp_path), recipe).identical


@pytest.mark.gpu
@MIXED
@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_exact_on_the_gpu(tmp_path: Path, name: str) -> None:
    assert verdict_of(mixed(tmp_path), RECIPES[name]).identical


@pytest.mark.gpu
def test_the_check_at_first_use_passes_on_the_gpu() -> None:
    dali_check.check.cache_clear()
    dali_check.check("exact", "gpu", torch.cuda.current_device())


@pytest.mark.gpu
@pytest.mark.parametrize("place", [i for i, probe in enumerate(probes()) if probe.operator in dali_gpu.__all__])
def test_emulation_equals_hardware(place: int) -> None:
    probe = probes()[place]
    found = dali_operators.run_operator(probe.operator, probe.image(), probe.arguments, "gpu")
    expected = getattr(dali_gpu, probe.operator)(torch.from_numpy(probe.image()), **probe.arguments).numpy()
    assert found.dtype == expected.dtype
    assert np.array_equal(found, expected)


@pytest.mark.gpu
@MIXED
def test_pytorch_emulates_the_gpu_after_the_cache(tmp_path: Path) -> None:
    """From cached base images on: nvJPEG, of which there is no twin, has no part in it."""
    recipe = dataclasses.replace(FULL, parity="fast", emulate="dali-gpu")
    found = {}
    for backend in ("dali-gpu", "torch"):
        with dp.Loader(
            mixed(tmp_path), recipe, batch_size=4, backend=backend, on_error="skip", cache_mode="memory"
        ) as loader:
            found[backend] = torch.cat([batch.image.cpu() for batch in loader])
    assert torch.equal(found["dali-gpu"], found["torch"])


@pytest.mark.gpu
@pytest.mark.parametrize("sampling", [0, 1, 2])
def test_nvjpeg_stays_within_its_bound(tmp_path: Path, sampling: int) -> None:
    files = [(f"{i}.jpg", jpeg(noise(200 + i, 301, i), quality=75 + i, subsampling=sampling)) for i in range(20)]
    verdict = verdict_of(manifest_of(tmp_path, files), dataclasses.replace(FULL, parity="fast"))
    largest = {each.backend: each.largest for each in verdict.stages[0].differences}
    print(f"nvJPEG, sampling {sampling}: at most {largest['dali-gpu']:g} levels")  # noqa: T201
    assert largest["dali-cpu"] == 0
    assert largest["dali-gpu"] <= GPU_BOUND
    assert verdict.kept


@pytest.mark.gpu
@MIXED
def test_page_locked_reads_are_the_same_images(tmp_path: Path) -> None:
    assert "pinned" in cache.MODES
    manifest = mixed(tmp_path / "files")
    found = {}
    for backend in ("dali-gpu", "torch"):
        options = {"cache_mode": "pinned", "cache_dir": tmp_path / backend}
        for _ in range(2):  # the second time from the cache
            with dp.Loader(manifest, FULL, batch_size=4, backend=backend, on_error="skip", **options) as loader:
                found[backend] = torch.cat([batch.image.cpu() for batch in loader])
    assert torch.equal(found["dali-gpu"], found["torch"])
