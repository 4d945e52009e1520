"""The tests that need a GPU, and the whole way of a warm batch, on CUDA in main memory: real ring, device and kernels.

What goes through DALI on a GPU is not here: it has no stand-in.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import test_on_gpu as on_gpu
import torch
from archives import manifest_of, pictures
from fake_cuda import FakeCuda

import dali_pipes as dp
from dali_pipes.arithmetic import kernels
from dali_pipes.backends import dali_check
from dali_pipes.parity.fingerprint import fingerprint

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> dp.Manifest:
    return manifest_of(tmp_path_factory.mktemp("archive"), pictures(22))


@pytest.fixture
def cuda(compiled: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[FakeCuda]:
    """In place of CUDA; what remembers the machine forgets it before and after."""
    made = FakeCuda(compiled, getattr(request, "param", 0))
    made.install(monkeypatch)
    remembered = (kernels._module, dali_check.check_ring)
    for each in remembered:
        each.cache_clear()
    yield made
    for each in remembered:
        each.cache_clear()


@pytest.mark.parametrize("mode", ["memory", "pinned"])
@pytest.mark.parametrize("which", on_gpu.RECIPES)
def test_every_tensor_is_on_the_gpu_and_has_torchs_bits(
    which: str, mode: str, cuda: FakeCuda, archive: dp.Manifest, tmp_path: Path
) -> None:
    on_gpu.test_every_tensor_is_on_the_gpu_and_has_torchs_bits(which, mode, archive, tmp_path)
    assert cuda.launched


@pytest.mark.parametrize("gpu_bytes", [0, 10 * 3 * 24 * 33, 2**30])
def test_warm_epochs_from_page_locked_memory(
    gpu_bytes: int, cuda: FakeCuda, archive: dp.Manifest, tmp_path: Path
) -> None:
    on_gpu.test_warm_epochs_from_page_locked_memory(gpu_bytes, archive, tmp_path)


def test_a_consumer_on_another_stream(cuda: FakeCuda, archive: dp.Manifest) -> None:
    on_gpu.test_a_consumer_on_another_stream(archive)


def test_early_breaks(cuda: FakeCuda, archive: dp.Manifest) -> None:
    on_gpu.test_early_breaks(archive)


def test_a_kernel_that_fails_leaves_a_backend_that_works(
    cuda: FakeCuda, archive: dp.Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_gpu.test_a_kernel_that_fails_leaves_a_backend_that_works("memory", "launch_finish", archive, monkeypatch)


@pytest.mark.parametrize("cuda", [1], indirect=True)
@pytest.mark.parametrize("gpu_bytes", [0, 2**30])
def test_nothing_touches_another_gpu(gpu_bytes: int, cuda: FakeCuda, archive: dp.Manifest, tmp_path: Path) -> None:
    """Whatever is current where the loader is iterated over: its thread, its copies and kernels have their own GPU."""
    recipe = dp.Recipe((24, 33), **on_gpu.RECIPES["crops"])
    options: dict[str, Any] = {"batch_size": 5, "cache_mode": "pinned", "cache_dir": tmp_path}
    expected = on_gpu.reference(archive, recipe, **options)
    with torch.cuda.device(1):
        loader = dp.Loader(archive, recipe, backend="dali-gpu", gpu_bytes=gpu_bytes, **options)
    with loader:
        batches = list(loader)
    assert {tensor.device.index for batch in batches for tensor in batch} == {1}
    assert fingerprint(batches) == expected
    assert cuda.launched
    assert cuda.hosts


def test_a_device_that_page_locks_no_maps(cuda: FakeCuda, archive: dp.Manifest, tmp_path: Path) -> None:
    """What cannot be copied from where it lies is staged."""
    cuda.registers = False
    recipe = dp.Recipe((24, 33), **on_gpu.RECIPES["float"])
    options: dict[str, Any] = {"batch_size": 5, "cache_mode": "pinned", "cache_dir": tmp_path}
    expected = on_gpu.reference(archive, recipe, **options)
    with dp.Loader(archive, recipe, backend="dali-gpu", **options) as loader:
        assert fingerprint(loader) == expected
        assert loader._store.page_lock() == 0  # type: ignore[attr-defined]
    assert cuda.launched


def test_the_stand_in_refuses_what_cuda_refuses(cuda: FakeCuda) -> None:
    """Else the tests above would show less than they say."""
    import cupy

    there, here = torch.empty(4096, dtype=torch.uint8, device="cuda"), np.zeros(4096, np.uint8)
    address = there.data_ptr()
    nothing = (np.int32(0), np.int32(0), np.int32(0))  # planes, height, width

    def launch(grid: tuple[int, ...], block: tuple[int, ...], jobs: int) -> None:
        pointers = [np.uint64(each) for each in (jobs, address, address, address)]
        cupy.RawModule(code="", options=(), backend="").get_function("finish_u8_u8")(
            grid, block, (*pointers[:2], *nothing, *pointers[2:])
        )

    launch((1, 1, 1), (64, 4), address)
    for grid, block in (((1, 1, 0), (64, 4)), ((1, 65536, 1), (64, 4)), ((1, 1, 1), (64, 17))):
        with pytest.raises(RuntimeError, match="InvalidConfiguration"):
            launch(grid, block, address)
    with pytest.raises(RuntimeError, match="IllegalAddress"):
        launch((1, 1, 1), (64, 4), here.ctypes.data)
    with pytest.raises(TypeError, match="a kernel was given 7"):
        cupy.RawModule(code="", options=(), backend="").get_function("finish_u8_u8")((1, 1, 1), (64, 4), (7,))
    runtime = cupy.cuda.runtime
    with pytest.raises(RuntimeError, match="beyond the memory"):
        runtime.memcpyAsync(address + 1, here.ctypes.data, 4096, 1, cuda.default.cuda_stream)
    with pytest.raises(RuntimeError, match="InvalidValue"):
        runtime.memcpyAsync(address, here.ctypes.data, 4096, 1, 4711)
    with torch.cuda.device(1), pytest.raises(RuntimeError, match="GPU 1 is touched"):
        launch((1, 1, 1), (64, 4), address)


def test_auto_takes_the_gpu(cuda: FakeCuda) -> None:
    on_gpu.test_auto_takes_the_gpu()


def test_a_batch_that_is_dropped_while_it_is_read_late(cuda: FakeCuda, archive: dp.Manifest) -> None:
    """What the consumer has queued reads a batch after many others were made: nobody else has its memory until then."""
    recipe = dp.Recipe((24, 33), **on_gpu.RECIPES["float"])
    options: dict[str, Any] = {"batch_size": 2, "cache_mode": "memory"}
    with dp.Loader(archive, recipe, backend="torch", **options) as loader:
        expected = [batch.image.numpy().tobytes() for batch in loader]
    found: list[bytes] = []
    with dp.Loader(archive, recipe, backend="dali-gpu", **options) as loader:
        for batch in loader:
            address, size = batch.image.data_ptr(), batch.image.numel() * 4
            cuda.default.add(lambda address=address, size=size: found.append(ctypes.string_at(address, size)))
            del batch
    torch.cuda.synchronize()
    assert found == expected


def test_steps_of_the_acceptance_script(cuda: FakeCuda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that need neither a GPU's DALI nor a model: they would fail here first."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from gpu import races, rates
    from gpu.context import Context

    context = Context(tmp_path, tiny=True)
    assert races.races(context)["differ"] == []
    found = rates.bandwidth(context)
    assert set(found["GB/s"]) == {
        "page-locked, 1 piece",
        "page-locked, 32 pieces",
        "registered map, 32 pieces",
        "pageable",
    }
    assert rates.loader_rate(context, 8, 16, True, gpu_bytes=10**6)["images/s"] > 0


REAL = """
import sys, warnings
warnings.simplefilter("error")
from importlib import import_module
from fake_cuda import NAMES
for module, names in NAMES.items():
    for name in names:
        getattr(import_module(module), name)
import cupy
from dali_pipes.backends.cuda import _borrowed
stream = _borrowed(cupy.cuda.ExternalStream, 4711, 0)
assert (stream.ptr, stream.device_id) == (4711, 0)
assert not hasattr(type(stream), "__del__"), "it would destroy a stream that is PyTorch's"
assert "type" in dir(cupy.cuda.runtime.PointerAttributes)
runtime = cupy.cuda.runtime
locks = lambda: runtime.hostRegister(4096, 4096, 8)
for call in (runtime.getDeviceCount, lambda: runtime.pointerGetAttributes(1), locks):
    try:
        call()
    except runtime.CUDARuntimeError:
        pass
cupy.cuda.nvrtc.getVersion
from gpu.facts import ATTRIBUTES
assert all(hasattr(runtime, f"cudaDevAttr{name}") for name in ATTRIBUTES)
"""


@pytest.mark.slow
def test_the_real_cupy_has_what_is_asked_of_it(tmp_path: Path) -> None:
    """Needs a package index. On no GPU: names, and what takes no device."""
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(tmp_path)]
    for package in ("cupy-cuda12x>=14", "cuda-pathfinder"):
        subprocess.run([*install, package], check=True, capture_output=True)
    folders = (
        tmp_path,
        ROOT,
        ROOT / "benchmarks",
        *map(Path, sys.path[1:]),
        Path(__file__).parent,
        ROOT / "tests/arithmetic",
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, folders))}
    done = subprocess.run([sys.executable, "-c", REAL], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
