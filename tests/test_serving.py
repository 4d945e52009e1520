"""Serving: what `Loader` gave of a file, bit for bit, from its bytes, its path or its pixels, in any thread."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from archives import coded, manifest_of, noise, one_of_each, pictures
from make_images import dicom, raster
from PIL import Image

import dali_pipes as dp
from dali_pipes.decode import Limits

RECIPES = {
    "plain": dp.Recipe(size=(20, 24), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
    "varied": dp.Recipe(size=16, mean=0.5, std=0.25, augment=dp.Augment(0.5, rotation=30, contrast=0.5)),
    "integers": dp.Recipe(size=16, fit="crop", interpolation="bicubic"),
    "gray": dp.Recipe(size=16, channels=1, mean=0.4, std=0.2, fit="pad"),
    "deep": dp.Recipe(size=16, depth=16, window=None, channels=1),
    "deep-window": dp.Recipe(size=16, depth=16, mean=0.5, std=0.5),
    "larger base": dp.Recipe(size=12, base_size=(20, 30), mean=0.5, std=0.5, views=2),
    "fast": dp.Recipe(size=16, mean=0.5, std=0.25, parity="fast"),
    "as on a GPU": dp.Recipe(size=16, mean=0.5, std=0.25, parity="fast", emulate="dali-gpu"),
    "reduced": dp.Recipe(size=4, reduce=True),
    "bfloat16": dp.Recipe(size=16, mean=0.5, std=0.25, dtype="bfloat16"),
    "float16, channels last": dp.Recipe(size=(6, 9), mean=0.5, std=0.2, dtype="float16", memory_format="channels_last"),
    "channels last": dp.Recipe(size=9, mean=0.5, std=0.2, memory_format="channels_last"),
}


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> dp.Manifest:
    """Every format and transfer syntax, and a file of three frames."""
    folder = tmp_path_factory.mktemp("files")
    frames = dicom([noise(i, 21, 17, 1).astype(np.uint16) * 9 for i in range(3)], BitsStored=12)
    listed = manifest_of(folder, {**one_of_each(), "frames.dcm": frames})
    lines = ["path,frame", *(f"{path},0" for path in listed.paths), "frames.dcm,1", "frames.dcm,2"]
    (folder / "frames.csv").write_text("\n".join(lines))
    return dp.Manifest.from_csv(folder / "frames.csv")


def trained(samples: dp.Manifest, recipe: dp.Recipe, **options: Any) -> torch.Tensor:
    from dali_pipes.serving import steady

    with dp.Loader(samples, steady(recipe), batch_size=16, backend="torch", num_workers=2, **options) as loader:
        return torch.cat([batch.image for batch in loader])


@pytest.mark.parametrize("name", RECIPES)
def test_a_tensor_is_what_the_loader_gave(samples: dp.Manifest, name: str) -> None:
    recipe = RECIPES[name]
    expected = trained(samples, recipe)
    served = [recipe.tensor(samples.resolve(sample.index), sample.frame) for sample in samples]
    assert served[0].dtype == expected.dtype
    assert torch.equal(torch.stack(served), expected)
    assert served[0].stride() == expected[0].stride()
    data = [samples.resolve(sample.index).read_bytes() for sample in samples]
    batch = recipe.batch(data, samples.frames.tolist())
    assert torch.equal(batch, expected)
    assert batch.dtype == expected.dtype
    assert batch.stride() == expected.stride()


def test_with_a_cache_under_fast_parity(samples: dp.Manifest) -> None:
    recipe = RECIPES["fast"]
    expected = trained(samples, recipe, cache_mode="memory")
    assert not torch.equal(expected, trained(samples, recipe))
    paths = [samples.resolve(i) for i in range(len(samples))]
    with dp.Serving(recipe, cached=True) as serving:
        assert torch.equal(serving.batch(paths, samples.frames.tolist()), expected)


def test_a_sandbox_gives_the_same(samples: dp.Manifest) -> None:
    recipe = RECIPES["plain"]
    paths = [samples.resolve(i) for i in range(len(samples))]
    with dp.Serving(recipe, sandbox=True, workers=2) as serving:
        mixed = [path if i % 2 else path.read_bytes() for i, path in enumerate(paths)]
        assert torch.equal(serving.batch(mixed, samples.frames.tolist()), trained(samples, recipe))
    with pytest.raises(dp.ConfigError, match="closed"):
        serving.tensor(paths[0])
    assert torch.equal(recipe.tensor(paths[0], sandbox=True), recipe.tensor(paths[0]))


@pytest.mark.parametrize("name", ["plain", "gray", "deep", "deep-window", "larger base", "fast"])
@pytest.mark.parametrize("kind", ["colour", "gray", "deep gray"])
def test_pixels_are_what_a_png_of_them_is(name: str, kind: str) -> None:
    pixels = noise(3, 23, 31) if kind == "colour" else noise(4, 23, 31, 1)
    if kind == "deep gray":
        pixels = pixels.astype(np.uint16) * 211
    recipe = RECIPES[name]
    expected = recipe.tensor(raster(pixels, "PNG"))
    assert torch.equal(recipe.tensor(pixels), expected)
    if pixels.ndim == 2:
        assert torch.equal(recipe.tensor(pixels[..., None]), expected)
    assert torch.equal(recipe.tensor(np.asfortranarray(pixels)), expected)


def test_many_threads_share_one(samples: dp.Manifest) -> None:
    recipe = RECIPES["plain"]
    expected = trained(samples, recipe)
    with dp.Serving(recipe) as serving, ThreadPoolExecutor(8) as pool:
        order = np.random.default_rng(0).integers(0, len(samples), 200).tolist()
        served = list(pool.map(lambda i: serving.tensor(samples.resolve(i), int(samples.frames[i])), order))
    assert all(torch.equal(tensor, expected[i]) for i, tensor in zip(order, served))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("dali-pipes-serve")]


def test_errors_say_which_file_and_what_is_allowed(tmp_path: Path) -> None:
    recipe, good = dp.Recipe(size=8), coded(1)
    with pytest.raises(dp.DecodeError, match=r"^file 1 of 3: "):
        recipe.batch([good, good[:100], good])
    with pytest.raises(dp.UnsupportedError, match="not an image format"):
        recipe.tensor(b"a text")
    with pytest.raises(FileNotFoundError):
        recipe.tensor(tmp_path / "absent")
    with pytest.raises(dp.ConfigError, match="give a list of files; tensor takes a single one"):
        recipe.batch(good)  # type: ignore[arg-type]
    with pytest.raises(dp.ConfigError, match="2 files and 1 frames"):
        recipe.batch([good, good], [0])
    with pytest.raises(dp.ConfigError, match="int: give a file's bytes, its path, or an array"):
        recipe.tensor(3)  # type: ignore[arg-type]
    with pytest.raises(dp.ConfigError, match="an array of pixels is one frame"):
        recipe.tensor(np.zeros((4, 4), np.uint8), 1)
    for wrong in (np.zeros((4, 4), np.float32), np.zeros(4, np.uint8), np.zeros((0, 4), np.uint8)):
        with pytest.raises(dp.DecodeError, match="allowed are uint8 and uint16"):
            recipe.tensor(wrong)
    with pytest.raises(dp.DecodeError, match="an array of 4 channels"):
        recipe.tensor(np.zeros((4, 4, 4), np.uint8))
    with pytest.raises(dp.ConfigError, match="give a Recipe"):
        dp.Serving(224)  # type: ignore[arg-type]
    with pytest.raises(dp.ConfigError, match="decode_options has a name"):
        dp.Serving(recipe, decode_options={"limit": 1})
    with pytest.raises(dp.ConfigError, match="at least 1"):
        dp.Serving(recipe, workers=0)
    assert recipe.batch([]).shape == (0, 3, 8, 8)


def test_limits_hold() -> None:
    few = {"limits": Limits(pixels=100)}
    for source in (coded(1), noise(1, 24, 20)):
        with pytest.raises(dp.LimitError):
            dp.Serving(dp.Recipe(size=8), decode_options=few).tensor(source)


def test_burned_in_annotation_is_warned_of_or_refused() -> None:
    data = dicom(noise(1, 20, 30, 1), BurnedInAnnotation="YES")
    with pytest.warns(dp.DaliPipesWarning, match="burned"):
        dp.Recipe(size=8).tensor(data)
    with pytest.raises(dp.DecodeError):
        dp.Serving(dp.Recipe(size=8), decode_options={"burned_in": "error"}).tensor(data)


def test_frames_of_a_photo() -> None:
    with pytest.raises(dp.DecodeError, match="frame 1 was asked for"):
        dp.Recipe(size=8).tensor(coded(1), 1)


def test_pillow_images_come_as_arrays() -> None:
    image = Image.fromarray(noise(5, 30, 20))
    assert torch.equal(
        dp.Recipe(size=8).tensor(np.asarray(image)), dp.Recipe(size=8).tensor(raster(np.asarray(image), "PNG"))
    )


@pytest.mark.slow
def test_a_thousand_files_and_frames(tmp_path: Path) -> None:
    files = {**pictures(700), **{f"{i}.dcm": dicom([noise(i + k, 21, 33, 1) for k in range(3)]) for i in range(100)}}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    lines = [f"{name},{frame}" for name in files for frame in range(3 if name.endswith("dcm") else 1)]
    (tmp_path / "list.csv").write_text("\n".join(["path,frame", *lines]))
    samples = dp.Manifest.from_csv(tmp_path / "list.csv")
    assert len(samples) == 1000
    for name in ("plain", "deep-window", "fast"):
        expected = trained(samples, RECIPES[name], cache_mode="none")
        for sample, image in zip(samples, expected):
            assert torch.equal(RECIPES[name].tensor(samples.resolve(sample.index), sample.frame), image), name
