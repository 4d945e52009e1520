"""DALI GPU twins: what can be shown without a GPU, and the comparison with the hardware where there is one."""

from typing import Any

import numpy as np
import pytest
import torch
from dali_pictures import picture
from dali_runner import run_operator
from test_dali_normalise import IMAGENET

from dali_pipes.arithmetic import dali_cpu, dali_gpu
from dali_pipes.errors import ConfigError


@pytest.mark.parametrize("name", ["linear", "triangular", "cubic", "lanczos3", "gaussian"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_resize_is_the_cpu_twin_but_for_roundings(name: Any, dtype: str) -> None:
    random = np.random.default_rng(5)
    for _ in range(10):
        image = torch.from_numpy(picture(random, dtype, 3))
        size = (float(random.integers(2, 200)), float(random.integers(2, 200)))
        cpu, gpu = (m.resize(image, size, interp_type=name).to(torch.float32) for m in (dali_cpu, dali_gpu))
        assert cpu.shape == gpu.shape
        assert float((cpu - gpu).abs().max()) <= (1 if dtype == "uint8" else 4)


def test_resize_fuses() -> None:
    image = torch.from_numpy(picture(np.random.default_rng(6), "float32", 3, (90, 80)))
    cpu, gpu = (m.resize(image, (33.0, 37.0)) for m in (dali_cpu, dali_gpu))
    assert not torch.equal(cpu, gpu)
    torch.testing.assert_close(cpu, gpu, rtol=1e-4, atol=1e-4)


def test_a_shrink_beyond_256_taps_is_refused() -> None:
    with pytest.raises(ConfigError, match="with 300 taps has no twin; allowed are 256"):
        dali_gpu.resize(torch.zeros((150, 4, 1)), (1.0, 4.0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_normalise_differs_from_the_cpu_by_a_rounding(dtype: torch.dtype) -> None:
    image = torch.arange(256, dtype=torch.uint8).view(16, 16, 1).expand(16, 16, 3)
    mean, std = IMAGENET
    cpu, gpu = (m.crop_mirror_normalize(image, mean=mean, std=std, dtype=dtype) for m in (dali_cpu, dali_gpu))
    assert cpu.shape == gpu.shape == (3, 16, 16)
    gap = float((cpu.float() - gpu.float()).abs().max())
    assert gap <= (2.4e-7 if dtype == torch.float32 else 2e-3)
    assert gap > 0 or dtype == torch.float16


def test_normalise_crops_and_mirrors_as_the_cpu_twin() -> None:
    image = torch.from_numpy(picture(np.random.default_rng(7), "uint16", 3, (20, 30)))
    given: Any = {"crop": (7, 9), "crop_pos": (0.3, 0.9), "mirror": True, "output_layout": "HWC"}
    assert torch.equal(*(m.crop_mirror_normalize(image, **given) for m in (dali_cpu, dali_gpu)))


def test_half_precision_kernels_are_refused() -> None:
    image = torch.zeros((4, 4, 3), dtype=torch.uint8)
    with pytest.raises(ConfigError, match="use output_layout='CHW' or float32"):
        dali_gpu.crop_mirror_normalize(image, dtype=torch.float16, output_layout="HWC")
    with pytest.raises(ConfigError, match="give uint8 or uint16"):
        dali_gpu.crop_mirror_normalize(image.to(torch.float32))


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["linear", "triangular", "cubic", "lanczos3", "gaussian", "nn"])
@pytest.mark.parametrize(("dtype", "channels"), [("uint8", 3), ("uint8", 1), ("uint16", 1), ("float32", 3)])
def test_resize_on_hardware(name: Any, dtype: str, channels: int) -> None:
    random = np.random.default_rng(8)
    pictures = [picture(random, dtype, channels) for _ in range(32)]
    sizes = [random.integers(8, 200, 2).astype(np.float32) for _ in pictures]
    found = run_operator("resize", pictures, {"interp_type": name}, {"size": sizes}, device="gpu")
    for image, size, theirs in zip(pictures, sizes, found):
        ours = dali_gpu.resize(torch.from_numpy(image), (float(size[0]), float(size[1])), interp_type=name)
        assert ours.numpy().tobytes() == theirs.tobytes()


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_normalise_on_hardware(dtype: str) -> None:
    random = np.random.default_rng(9)
    pictures = [picture(random, dtype, 3) for _ in range(32)]
    mean, std = IMAGENET
    arguments = {"mean": mean, "std": std, "dtype": "float32", "output_layout": "CHW"}
    found = run_operator("crop_mirror_normalize", pictures, arguments, device="gpu")
    for image, theirs in zip(pictures, found):
        ours = dali_gpu.crop_mirror_normalize(torch.from_numpy(image), mean=mean, std=std)
        assert ours.numpy().tobytes() == theirs.tobytes()
