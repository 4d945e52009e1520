"""`dali-pipes preview` shows what training sees, sample by sample and epoch by epoch; `bench --plot` draws a chart."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from archives import coded, noise, write_csv
from make_images import dicom, jpeg
from PIL import Image

import dali_pipes as dp
from dali_pipes.cli import main
from dali_pipes.tools import preview

RECIPE = dp.Recipe(size=(24, 20), mean=0.5, std=0.25, augment=dp.Augment(0.5, rotation=20, contrast=0.3))


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    for i in range(5):
        (tmp_path / f"{i}.jpg").write_bytes(jpeg(noise(i, 40, 30)))
    (tmp_path / "deep.dcm").write_bytes(dicom(noise(9, 31, 22, 1).astype(np.uint16) * 16))
    names = [*(f"{i}.jpg" for i in range(5)), "deep.dcm"]
    write_csv(tmp_path / "list.csv", [(name, "nevus" if name == "deep.dcm" else "melanoma") for name in names])
    (tmp_path / "recipe.toml").write_text(RECIPE.to_toml())
    return tmp_path


def test_pictures_are_those_of_training(archive: Path) -> None:
    manifest = dp.Manifest.from_csv(archive / "list.csv")
    told = list(preview.rows(manifest, RECIPE, epochs=3, samples=3, seed=4))
    assert [row["index"] for row in told] == [0, 2, 5]
    plain = replace(RECIPE, mean=None, std=None)
    with dp.Loader(manifest, plain, batch_size=6, backend="torch", seed=4) as loader:
        for epoch, batch in zip(range(3), (next(iter(loader)) for _ in range(3))):
            for row in told:
                expected = batch.image[row["index"]].permute(1, 2, 0).numpy()
                if epoch == 0:
                    assert np.array_equal(row["pictures"][0], expected)
    assert any(not np.array_equal(row["pictures"][0], row["pictures"][1]) for row in told)
    assert told[2]["label"] == "nevus"
    assert (told[2]["size"], told[2]["window"].split(",")[0]) == ([31, 22], "percentile")
    assert told[0]["window"] == "none: it is 8-bit already"


def test_the_command_writes_a_sheet(archive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = archive / "deep" / "sheet.png"
    arguments = ["preview", str(archive / "list.csv"), "--recipe", str(archive / "recipe.toml"), "--out", str(out)]
    assert main([*arguments, "--epochs", "2", "--samples", "4", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["failed"], document["classes"]) == (0, {"melanoma": 5, "nevus": 1})
    assert [row["id"] for row in document["samples"]] == ["0.jpg", "1.jpg", "3.jpg", "deep.dcm"]
    with Image.open(out) as sheet:
        width, height = sheet.size
        columns = np.asarray(sheet).max(axis=(0, 2)) > 24
    assert (width, height) == (preview.CAPTION + 2 * 200 + 8, 24 + 4 * 200)
    assert columns[: preview.CAPTION].any()
    assert columns[preview.CAPTION + 8 : preview.CAPTION + 28].all()


def test_a_file_that_cannot_be_drawn_is_said(archive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (archive / "2.jpg").write_bytes(coded(1)[:100])
    arguments = ["preview", str(archive / "list.csv"), "--img-size", "16", "--out", str(archive / "sheet.png")]
    assert main(arguments) == 1
    told = capsys.readouterr().out
    assert "1 could not be decoded" in told
    assert "of each class: melanoma 5, nevus 1" in told


def test_views_and_deep_images_are_drawn(archive: Path) -> None:
    manifest = dp.Manifest.from_csv(archive / "list.csv")
    deep = dp.Recipe(size=16, channels=1, depth=16, window=None, views=2)
    told = list(preview.rows(manifest, deep, epochs=1, samples=2))
    assert [row["pictures"][0].shape for row in told] == [(16, 16, 3)] * 2
    with pytest.raises(dp.ConfigError, match="at least 1 of each"):
        next(preview.rows(manifest, deep, epochs=0, samples=2))


def test_a_recipe_of_16_bit_floats_is_drawn_as_it_is_without_them(archive: Path) -> None:
    manifest = dp.Manifest.from_csv(archive / "list.csv")
    (plain,), (half,) = (
        list(preview.rows(manifest, recipe, epochs=2, samples=1))
        for recipe in (RECIPE, replace(RECIPE, dtype="bfloat16", memory_format="channels_last"))
    )
    assert all(np.array_equal(a, b) for a, b in zip(plain["pictures"], half["pictures"], strict=True))


def test_bench_draws_a_chart(archive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chart = archive / "charts" / "speeds.png"
    options = ("--img-size", "16", "--epochs", "2", "--backends", "torch", "--modes", "none", "--plot", str(chart))
    assert main(["bench", str(archive / "list.csv"), *options, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["plot"] == str(chart)
    with Image.open(chart) as picture:
        assert picture.format == "PNG"
        assert np.asarray(picture.convert("L")).std() > 5
