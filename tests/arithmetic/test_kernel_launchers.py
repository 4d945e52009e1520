"""What calls the CUDA kernels, with a stand-in for CuPy in main memory: the bits of the reference, and its errors."""

import ctypes

import numpy as np
import pytest
from arithmetic_pictures import noise
from kernel_runner import CONSTANTS, HostCuPy, HostDevice, changes, finished, same_bits

from dali_pipes.arithmetic import base_image, kernels, normalisation, packing
from dali_pipes.decode.luma import luma
from dali_pipes.errors import ConfigError


@pytest.fixture
def host(compiled: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> HostCuPy:
    stand_in = HostCuPy(compiled)
    monkeypatch.setattr(kernels, "_cupy", lambda: stand_in)
    monkeypatch.setattr(kernels, "_module", lambda device: stand_in)
    return stand_in


@pytest.mark.parametrize("size", [(33, 70), (3, 400), (400, 3)])
@pytest.mark.parametrize(("dtype", "kind"), [(None, "u8"), ("float32", "f32"), ("float16", "f16")])
def test_the_launchers_of_resize(host: HostCuPy, dtype: str | None, kind: str, size: tuple[int, int]) -> None:
    pictures = [noise(seed, h, w) for seed, (h, w) in enumerate([(50, 41), (9, 130), (70, 70)], 1)]
    on_device = [host.asarray(p) for p in pictures]
    constants = None if dtype is None else CONSTANTS[1]
    out = kernels.resize_batch(
        on_device, size, "stretch", "bicubic", hflip=[True, False, True], gray=True, normalise=constants, dtype=dtype
    )
    for result, picture, flip in zip(out, pictures, (1, 0, 1)):
        source = luma(picture)
        assert same_bits(result, finished(base_image(source, size, "stretch", "bicubic"), flip, constants, kind))
    assert kernels.resize_batch([], 5, "stretch").shape == (0, 1, 5, 5)


def test_what_goes_to_another_stream_is_waited_for(host: HostCuPy) -> None:
    pictures = [host.asarray(noise(1, 9, 8))]
    (base,) = kernels.base_images(pictures, (5, 7), "pad")
    assert host.waits == [0]
    assert same_bits(base, base_image(noise(1, 9, 8), (5, 7), "pad", "bilinear"))
    kernels.varied_images([base])
    assert host.waits == [0, 0]


def test_what_runs_runs_where_the_pictures_are(host: HostCuPy) -> None:
    """Whatever device is current: with two GPUs, those of other ranks are left alone."""
    with HostDevice(1):
        pictures = [host.asarray(noise(1, 9, 8))]
        images = [host.asarray(np.ascontiguousarray(noise(1, 9, 8).transpose(2, 0, 1)))]
    base = kernels.base_images(pictures, (5, 7), "pad")
    varied = kernels.varied_images(images)
    assert {device for _, device in host.launches} == {1} == set(host.waits)
    assert [each.device_id for each in (*base, *varied)] == [1, 1]


def test_kernels_that_cannot_be_compiled_are_told_of_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(device: int) -> None:
        raise OSError("libnvrtc.so.12: cannot open shared object file\nand so on")

    monkeypatch.setattr(kernels, "_cupy", lambda: HostCuPy(ctypes.CDLL(None)))
    monkeypatch.setattr(kernels, "_module", refuse)
    told = kernels.problem() or ""
    assert told.startswith("CuPy is installed but cannot compile the kernels (OSError: libnvrtc.so.12: cannot open")
    assert told.endswith("pip install 'dali-pipes[cuda]'")
    assert "and so on" not in told
    monkeypatch.setattr(kernels, "_module", lambda device: HostCuPy(ctypes.CDLL(None)))
    assert kernels.problem() is None


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
