"""Depth 16: the cache keeps modality values, and a window is applied to what it gives, alike on every backend."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from make_images import dicom, lut
from pydicom.sequence import Sequence

import dali_pipes as dp
from dali_pipes import cache
from dali_pipes.arithmetic import base_image
from dali_pipes.decode import DecodePolicy, apply_window, decode, identify
from dali_pipes.fetch.fetcher import Fetcher
from dali_pipes.tools.demo_data import SYNTAXES, mammogram, write_mammogram

WINDOWS = [dp.PercentileWindow(), dp.PercentileWindow(5, 95), dp.FixedWindow(2000, 1500), None]


@pytest.fixture(scope="module")
def mammograms(tmp_path_factory: pytest.TempPathFactory) -> dp.Manifest:
    folder = tmp_path_factory.mktemp("mammograms")
    rng = np.random.default_rng(16)
    for i, syntax in enumerate(SYNTAXES.values()):
        pixels = mammogram(rng, 200 + 10 * i, 160, 12)
        write_mammogram(folder / f"{i}.dcm", pixels, 12, syntax, inverted=i % 2 == 1)
    return dp.Manifest.from_dicom_tree(folder)


def images(
    manifest: dp.Manifest, recipe: dp.Recipe, backend: str, folder: Path, mode: str, **cache_options: bool
) -> tuple[torch.Tensor, dict]:
    """Of two epochs, which are alike; and the loader's counts."""
    directory = None if mode in ("none", "memory") else folder
    kept = {"cache_mode": mode, "cache_dir": directory, "cache_options": cache_options}
    with dp.Loader(manifest, recipe, batch_size=2, backend=backend, **kept) as loader:
        first = torch.cat([batch.image for batch in loader])
        second = torch.cat([batch.image for batch in loader])
        assert torch.equal(first, second)
        return first, loader.stats()


@pytest.mark.parametrize("mode", ["none", "pinned", "tiered"])
def test_another_window_decodes_nothing(mammograms: dp.Manifest, tmp_path: Path, mode: str) -> None:
    seen = []
    for window in WINDOWS:
        recipe = dp.Recipe(size=96, channels=1, depth=16, window=window)
        torch_images, stats = images(mammograms, recipe, "torch", tmp_path, mode)
        dali_images, again = images(mammograms, recipe, "dali-cpu", tmp_path, mode)
        assert torch.equal(torch_images, dali_images)
        assert torch_images.dtype == (torch.uint16 if window is None else torch.uint8)
        if mode not in ("none", "memory"):
            assert stats["decoded"] == (len(mammograms) if not seen else 0)
            assert again["decoded"] == 0
        seen.append(torch_images)
    assert not torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[1], seen[2])


@pytest.mark.parametrize("window", WINDOWS[:3])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_window_applies_to_the_resized_values(
    mammograms: dp.Manifest, tmp_path: Path, window: object, channels: int
) -> None:
    recipe = dp.Recipe(size=(80, 64), channels=channels, depth=16, window=window, fit="pad")
    found, _ = images(mammograms, recipe, "torch", tmp_path, "pinned")
    for i in range(len(mammograms)):
        path = mammograms.resolve(i)
        data = path.read_bytes()
        whole = decode(data, identify(path, data), 0, DecodePolicy(channels=1, depth=16))
        small = base_image(whole.pixels, (80, 64), "pad")
        expected = apply_window(small, whole.attributes, window)
        assert np.array_equal(found[i].numpy(), np.repeat(expected, channels, 0))


def test_sixteen_bits_normalise_by_their_own_full_scale(mammograms: dp.Manifest, tmp_path: Path) -> None:
    recipe = dp.Recipe(size=64, channels=1, depth=16, window=None, mean=0.25, std=0.5)
    found, _ = images(mammograms, recipe, "torch", tmp_path, "memory")
    dali, _ = images(mammograms, recipe, "dali-cpu", tmp_path, "memory")
    integers, _ = images(mammograms, replace(recipe, mean=None, std=None), "torch", tmp_path, "memory")
    m, d = np.float32(0.25 * 65535), np.float32(0.5 * 65535)
    expected = (integers.numpy().astype(np.float32) - m) * np.float32(1.0 / np.float64(d))
    assert np.array_equal(found.numpy().view(np.int32), expected.view(np.int32))
    assert torch.equal(found, dali)


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize("mode", ["npy", "tiered"])
def test_an_image_without_its_attributes_is_decoded_again(
    mode: str, read_only: bool, mammograms: dp.Manifest, tmp_path: Path
) -> None:
    recipe = dp.Recipe(size=48, channels=1, depth=16)
    before, _ = images(mammograms, recipe, "torch", tmp_path, mode)
    notes = [path for path in tmp_path.rglob("*.npy") if path.stat().st_size < 48 * 48]
    assert notes
    for path in notes:
        path.unlink()
    after, stats = images(mammograms, recipe, "torch", tmp_path, mode, read_only=read_only)
    assert torch.equal(before, after)
    assert stats["decoded"] == len(mammograms), "the second epoch has the attributes in memory"
    if not read_only:
        assert images(mammograms, recipe, "torch", tmp_path, mode)[1]["decoded"] == 0, "they were put back"


def test_another_window_of_the_file_itself_decodes_nothing(tmp_path: Path) -> None:
    pixels = mammogram(np.random.default_rng(5), 60, 50, 12)
    table = lut(0, [i >> 4 for i in range(4096)], bits=8)
    told = {"WindowCenter": [600, 2000], "WindowWidth": [900, 1500], "VOILUTSequence": Sequence([table])}
    (tmp_path / "archive").mkdir()
    data = dicom(pixels, BitsStored=12, **told)
    (tmp_path / "archive" / "x.dcm").write_bytes(data)
    manifest = dp.Manifest.from_dicom_tree(tmp_path / "archive")
    seen = []
    for window in (dp.VOIWindow(0, "window"), dp.VOIWindow(1, "window"), dp.VOIWindow(0, "lut"), dp.VOIWindow()):
        recipe = dp.Recipe(size=(60, 50), channels=1, depth=16, window=window)
        found, stats = images(manifest, recipe, "torch", tmp_path / "cache", "pinned")
        assert stats["decoded"] == (0 if seen else 1)
        shallow = decode(data, identify("", data), 0, DecodePolicy(channels=1, window=window)).pixels
        assert np.array_equal(found[0, 0].numpy(), shallow[..., 0])
        seen.append(found)
    assert not torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[1], seen[2])


def test_look_up_tables_of_many_samples_do_not_stay_in_memory(tmp_path: Path) -> None:
    table = lut(0, list(range(4096)), bits=12)
    frames = [np.full((4, 4), 100 * i, np.uint16) for i in range(6)]
    (tmp_path / "x.dcm").write_bytes(dicom(frames, BitsStored=12, VOILUTSequence=Sequence([table])))
    manifest = dp.Manifest.from_dicom_tree(tmp_path)
    recipe = dp.Recipe(size=4, channels=1, depth=16, window=dp.VOIWindow())
    with cache.open_store("memory", None) as store:
        fetcher = Fetcher(manifest, recipe, store, workers=1)
        try:
            for _ in range(2):
                found = [fetcher.decoded(i) for i in range(6)]
            assert [int(image.max()) for image in found] == [round(25500 * i / 4095) for i in range(6)]
            assert fetcher.counts()["decoded"] == 6
            assert not any(fetcher._known._texts)
        finally:
            fetcher.close()
