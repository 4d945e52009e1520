"""Why torchvision gives other numbers: each cause is planted alone, and named alone."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from make_images import dicom, jpeg, raster
from parity_samples import manifest_of, mixed, noise
from PIL import Image
from simplejpeg import decode_jpeg

import dali_pipes as dp
from dali_pipes.arithmetic import base_image
from dali_pipes.arithmetic.dali_base import dali_base_image
from dali_pipes.errors import ConfigError, ParityError
from dali_pipes.parity import USUAL, Explanation, Usual, against, explain
from dali_pipes.parity.usual import OURS, pillow
from dali_pipes.recipe import Recipe

pytestmark = pytest.mark.filterwarnings("ignore:.*it is left out:dali_pipes.errors.DaliPipesWarning")

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def explained(manifest: dp.Manifest, recipe: Recipe, **pipelines: Usual) -> Explanation:
    *_, found = explain(manifest, recipe, pipelines, num_workers=1)
    assert isinstance(found, tuple)
    return found[0]


def planted(**parts: object) -> Usual:
    return Usual(**{**OURS.__dict__, **parts})


def hasty(data: bytes, channels: int) -> np.ndarray:
    """A decoder that saves time on chroma, as some loaders do."""
    return decode_jpeg(data, "RGB", fastupsample=True, fastdct=True)


@pytest.fixture
def photos(tmp_path: Path) -> dp.Manifest:
    return manifest_of(tmp_path, [(f"{i}.jpg", jpeg(noise(80 + i, 120, i), subsampling=2)) for i in range(3)])


@pytest.mark.parametrize(
    ("usual", "cause"),
    [
        (planted(decoder=hasty), "decoder"),
        (planted(antialias=False), "antialias"),
        (planted(resize="pillow"), "rounding"),
        (planted(resize="float32"), "rounding"),
        (planted(divide_first=True), "normalisation order"),
    ],
)
@pytest.mark.parametrize("fit", ["stretch", "crop", "pad"])
def test_a_planted_cause_is_named_alone(photos: dp.Manifest, usual: Usual, cause: str, fit: str) -> None:
    found = explained(photos, Recipe(size=(33, 41), fit=fit, **IMAGENET), planted=usual)
    assert [each.name for each in found.causes] == [cause]
    assert found.causes[0].difference.values > 0
    assert found.causes[0].worst is not None
    assert not found.total.identical
    assert found.samples == 3


@pytest.mark.parametrize(("interpolation", "causes"), [("bilinear", []), ("bicubic", ["antialias"])])
def test_enlarging_is_antialiased_by_any_bilinear(photos: dp.Manifest, interpolation: str, causes: list[str]) -> None:
    """A cubic has another shape without antialias, which is said."""
    recipe = Recipe(size=200, interpolation=interpolation)
    found = explained(photos, recipe, usual=USUAL["tensor, antialias=False"])
    assert [each.name for each in found.causes] == [*causes, "rounding"]
    assert all("-0.75" in each.words for each in found.causes if each.name == "antialias")


def test_every_cause_at_once(photos: dp.Manifest) -> None:
    usual = Usual(decoder=hasty, resize="float32", antialias=False)
    assert (
        tuple(each.name for each in explained(photos, Recipe(size=40, **IMAGENET), all=usual).causes) == against.CAUSES
    )


def test_no_cause_where_nothing_is_swapped(photos: dp.Manifest) -> None:
    found = explained(photos, Recipe(size=40, **IMAGENET), ours=OURS)
    assert found.total.identical
    assert not found.causes


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_the_usual_pipelines(photos: dp.Manifest, interpolation: str) -> None:
    *_, found = explain(photos, Recipe(size=40, interpolation=interpolation, **IMAGENET), num_workers=1)
    causes = {each.pipeline: [cause.name for cause in each.causes] for each in found}
    assert causes == {
        "PIL image": ["rounding", "normalisation order"],
        "tensor (v1)": ["rounding", "normalisation order"],
        "tensor (v2)": ["normalisation order"],
        "tensor, antialias=False": ["antialias", "rounding", "normalisation order"],
    }


def test_without_normalisation_tensors_of_bytes_are_identical(photos: dp.Manifest) -> None:
    found = explained(photos, Recipe(size=40), v2=USUAL["tensor (v2)"])
    assert found.total.identical


def test_normalisation_order_moves_no_level(photos: dp.Manifest) -> None:
    found = explained(photos, Recipe(size=40, **IMAGENET), planted=planted(divide_first=True))
    assert found.causes[0].difference.largest < 1e-6


def test_rounding_moves_a_level_at_most(photos: dp.Manifest) -> None:
    found = explained(photos, Recipe(size=40), planted=planted(resize="pillow"))
    assert found.causes[0].difference.largest == 1


def test_a_16_bit_png_is_a_matter_of_the_decoder(tmp_path: Path) -> None:
    deep = raster(noise(40, 40, channels=1).astype(np.uint16) * 257, "PNG")
    found = explained(manifest_of(tmp_path, [("deep.png", deep)]), Recipe(size=40), pil=Usual())
    assert [each.name for each in found.causes] == ["decoder"]


def test_what_torchvision_cannot_load_is_counted(tmp_path: Path) -> None:
    found = explained(mixed(tmp_path), Recipe(size=32), pil=Usual())
    assert (found.samples, found.skipped) == (5, 2)  # the DICOM image, and the file that is cut short


def test_a_picture_that_resize_would_blow_up_is_left_out(tmp_path: Path) -> None:
    strip = manifest_of(tmp_path, [("strip.jpg", jpeg(noise(1, 9000)))])
    found = explained(strip, Recipe(size=256, fit="crop"), pil=Usual())
    assert (found.samples, found.skipped) == (0, 1)


def test_native_images_are_explained_too(photos: dp.Manifest) -> None:
    found = explained(photos, Recipe(size=40, parity="fast"), pil=Usual())
    (cause,) = found.causes
    assert cause.name == "rounding"
    assert "DALI repeats the last pixel" in cause.words
    on_gpu = Recipe(size=40, parity="fast", emulate="dali-gpu")  # compared by what is verified
    assert explained(photos, on_gpu, pil=Usual()) == found


def test_gray_is_ours_under_fast_parity_too(photos: dp.Manifest) -> None:
    """DALI's operators do not make gray base images, so it is not their form that is explained."""
    found = explained(photos, Recipe(size=40, channels=1, parity="fast"), pil=Usual())
    (cause,) = (cause for cause in found.causes if cause.name == "rounding")
    assert "ours is PyTorch's integer form" in cause.words


def test_dalis_resize_is_a_level_off_but_at_the_border() -> None:
    """As the words say."""
    pixels = noise(120, 90)
    apart = abs(dali_base_image(pixels, (40, 30), "stretch").astype(int) - base_image(pixels, (40, 30), "stretch"))
    assert apart[:, 1:-1, 1:-1].max() == 1
    assert apart.max() > 2


def test_what_varies_at_random_is_left_out_and_said(photos: dp.Manifest) -> None:
    for parity in ("exact", "fast"):
        recipe = Recipe(size=40, parity=parity, **IMAGENET)
        varied = replace(recipe, augment=dp.Augment(0.5, rotation=90, hue=90))
        still, found = explained(photos, recipe, pil=Usual()), explained(photos, varied, pil=Usual())
        assert (still.note, found.note) == ("", "What varies at random is left out of this comparison.")
        assert replace(found, note="") == still


@pytest.mark.parametrize(
    ("cause", "usual", "expected"),
    [
        ("decoder", Usual(), "another JPEG library"),
        ("antialias", Usual(antialias=False), "2 x 2 source pixels"),
        ("rounding", Usual(), "Pillow resizes with weights of 22 bits"),
        ("rounding", Usual(resize="float32"), "once, at the end"),
        ("normalisation order", Usual(), "round three times"),
    ],
)
def test_words(cause: str, usual: Usual, expected: str) -> None:
    assert expected in against.in_words(cause, usual, Recipe(size=8))


def test_parts_that_do_not_add_up_are_a_bug(photos: dp.Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    genuine = against.output_of
    monkeypatch.setattr(against, "output_of", lambda *args: genuine(*args) + 1)
    with pytest.raises(ParityError, match=r"sample 0.*bug"):
        explained(photos, Recipe(size=16, **IMAGENET), pil=Usual())


def test_depth_16_has_no_torchvision_form(tmp_path: Path) -> None:
    manifest = manifest_of(tmp_path, [("scan.dcm", dicom(noise(9, 9, channels=1).astype(np.uint16)))])
    with pytest.raises(ConfigError, match="depth 8"):
        explain(manifest, Recipe(size=8, depth=16))  # at once, before anything is loaded


def test_the_usual_pipeline_is_pillow_and_pytorch_written_out(photos: dp.Manifest) -> None:
    """The parts, put together, are the pipeline as its authors write it."""
    recipe = Recipe(size=(33, 41), **IMAGENET)
    data = photos.resolve(0).read_bytes()
    image = Image.open(io.BytesIO(data)).convert("RGB").resize((41, 33), Image.Resampling.BILINEAR)
    tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().to(torch.float32).div(255)
    mean, std = (torch.tensor(recipe_part).view(-1, 1, 1) for recipe_part in recipe.normalisation)
    usual = USUAL["PIL image"]
    base = against.base_of(usual, pillow(data, 3), None, recipe)
    assert np.array_equal(against.output_of(usual, base, recipe), tensor.sub(mean).div(std).numpy())
