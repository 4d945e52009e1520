"""The command line: exit codes, one JSON document on stdout and nothing else there, and what the commands do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from archives import coded, manifest_of, noise, pictures
from make_images import dicom
from PIL import Image

import dali_pipes as dp
from dali_pipes.cli import main


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    manifest_of(tmp_path / "archive", {**pictures(4), "x.dcm": coded(3, "dicom")})
    return tmp_path / "archive"


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, dict[str, Any]]:
    """Exit code and the document on stdout, which must be all that is there."""
    code = main([*map(str, arguments), "--json"])
    document = json.loads(capsys.readouterr().out)
    assert isinstance(document, dict)
    return code, document


def test_warm_then_warm_again(archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("warm", archive / "list.csv", "--root", archive, "--cache-dir", tmp_path / "cache",
                 "--cache-mode", "pinned", "--img-size", 16, "--num-workers", 1)  # fmt: skip
    code, document = call(capsys, *arguments)
    assert (code, document["samples"], document["decoded"], document["failed"]) == (0, 5, 5, 0)
    code, document = call(capsys, *arguments)
    assert (code, document["decoded"], document["hits"]) == (0, 0, 5)


def test_warm_says_what_failed(archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (archive / "002.jpg").write_bytes(b"")
    code, document = call(capsys, "warm", archive / "list.csv", "--cache-dir", tmp_path / "c", "--img-size", 8)
    assert code == 1
    assert document["failed"] == 1
    assert [failure["sample"] for failure in document["failures"]] == [2]
    assert "empty" in document["failures"][0]["message"]


@pytest.mark.parametrize("mode", ["none", "memory"])
def test_warm_takes_modes_that_persist(archive: Path, mode: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["warm", str(archive / "list.csv"), "--cache-mode", mode])
    assert "invalid choice" in capsys.readouterr().err


def test_warm_ends_at_once_where_nothing_can_be_kept(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder that is a file, and a machine on which no secret can be had."""
    (tmp_path / "file").write_bytes(b"")
    code, document = call(capsys, "warm", archive / "list.csv", "--cache-dir", tmp_path / "file")
    assert (code, document["error"]) == (1, "CacheError")
    monkeypatch.delenv("DALI_PIPES_CACHE_SECRET", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "file"))
    code, document = call(capsys, "warm", archive / "list.csv", "--cache-dir", tmp_path / "cache")
    assert (code, document["error"]) == (2, "SecretError")


def test_text_tells_how_to_learn_which_files_failed(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (archive / "002.jpg").write_bytes(b"")
    arguments = ["warm", str(archive / "list.csv"), "--cache-dir", str(tmp_path / "c"), "--img-size", "8"]
    assert main(arguments) == 1
    assert "1 could not be decoded (DALI_PIPES_SHOW_PATHS=1 names their files)." in capsys.readouterr().out
    monkeypatch.setenv("DALI_PIPES_SHOW_PATHS", "1")
    assert main(arguments) == 1
    assert "1 could not be decoded." in capsys.readouterr().out


def test_a_root_without_the_files_is_told_at_once(
    archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, document = call(capsys, "parity", archive / "list.csv", "--root", tmp_path)
    assert (code, document["error"]) == (2, "ManifestError")
    assert f"none of its 5 files is under {tmp_path}; give --root" in document["message"]
    code, document = call(capsys, "parity", archive, "--root", archive)
    assert (code, document["error"]) == (2, "ConfigError")
    assert "--root goes with a CSV" in document["message"]
    (archive / "gone.csv").write_text("path\n" + "".join(f"gone{i}.jpg\n" for i in range(99)) + "001.jpg\n")
    code, document = call(capsys, "warm", archive / "gone.csv", "--cache-dir", tmp_path / "c", "--img-size", 8)
    assert (code, len(document["failures"])) == (1, 99)


def test_bench_takes_any_names_and_rows(archive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file listed twice, a name that is no UTF-8, and a file that cannot be decoded."""
    folder = archive / "class"
    folder.mkdir()
    (archive / "000.jpg").rename(os.fsdecode(bytes(folder / "caf") + b"\xe9.jpg"))
    (folder / "bad.jpg").write_bytes((archive / "001.jpg").read_bytes()[:99])
    options = ("--img-size", "16", "--epochs", "2", "--backends", "torch", "--modes", "none")
    assert main(["bench", str(archive), *options]) == 1
    assert "1 images an epoch; 1 could not be decoded (warm and parity name them)" in capsys.readouterr().out
    (archive / "list.csv").write_text("path\n001.jpg\n001.jpg\n")
    code, document = call(capsys, "bench", archive / "list.csv", *options)
    assert (code, document["results"][0]["images"]) == (0, 2)


def test_parity(archive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, document = call(capsys, "parity", archive / "list.csv", "--root", archive, "--img-size", 16)
    assert code == 0
    assert document["identical"] is True
    assert document["samples"] == 5


def test_a_bad_file_is_named_once(archive: Path) -> None:
    """By a command that makes a loader for every stage and backend."""
    (archive / "002.jpg").write_bytes(b"")
    command = [sys.executable, "-m", "dali_pipes", "parity", str(archive / "list.csv"), "--img-size", "16"]
    told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert "1 could not be decoded" in told.stdout
    assert told.stderr.count("sample 2") == 1


def test_a_folder_is_a_dicom_tree_or_class_folders(
    archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By its first image: every frame of DICOM files in whatever folders, or the images of class folders."""
    for place in ("study/a", "study/b/c"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "x.dcm").write_bytes(dicom([noise(i, 8, 9, 1) for i in range(6)]))
    (tmp_path / "study" / ".preview.jpg").write_bytes((archive / "001.jpg").read_bytes())  # hidden: no sample
    (tmp_path / "classes" / "one").mkdir(parents=True)
    (archive / "000.jpg").rename(tmp_path / "classes" / "one" / "0.jpg")
    for folder, samples in (("study", 12), ("classes", 1)):
        code, document = call(capsys, "warm", tmp_path / folder, "--cache-dir", tmp_path / "cache", "--img-size", 8)
        assert (code, document["samples"]) == (0, samples)


def test_inspect(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x"
    path.write_bytes(dicom(noise(1, 20, 30, 1), "rle", PhotometricInterpretation="MONOCHROME1"))
    code, document = call(capsys, "inspect", path, "--out", tmp_path / "deep" / "x.png")
    assert code == 0
    assert document["kind"] == "dcm.5"
    assert document["decoder"]
    assert "window" in document
    assert "inverted" in document["polarity"]
    with Image.open(tmp_path / "deep" / "x.png") as picture:
        assert picture.size[1] == 20
        assert picture.size[0] >= 60  # two, side by side


def test_inspect_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Draws of one epoch after another, masks laid over them in colour."""
    white, mask = np.full((60, 80), 255, np.uint8), np.zeros((60, 80), np.uint8)
    mask[:, 40:] = 1
    Image.fromarray(white).save(tmp_path / "image.png")
    nothing = Image.fromarray(np.zeros_like(mask))
    nothing.save(tmp_path / "mask.tif", save_all=True, append_images=[Image.fromarray(mask)])
    recipe = dp.Recipe(64, base_size=70, views=2, augment=dp.Augment(0.5, rotation=20), mean=0.5, std=0.2)
    (tmp_path / "r.toml").write_text(recipe.to_toml())
    out = tmp_path / "sheet.png"
    given = ("--augment", 9, "--recipe", tmp_path / "r.toml", "--mask", tmp_path / "mask.tif", "--out", out)
    code, document = call(capsys, "inspect", tmp_path / "image.png", *given, "--mask-frame", 1)
    assert code == 0
    assert document["draws"] == 9
    pixels = np.asarray(Image.open(out)).reshape(3, 128, 3, 128, 3).transpose(0, 2, 1, 3, 4).reshape(9, 128, 128, 3)
    assert len({tile.tobytes() for tile in pixels}) > 5
    for tile in pixels:
        red = (tile[..., 0] > tile[..., 1].astype(int) + 50).mean()
        assert 0.05 < red < 0.25  # half of a tile of 64 in a place of 128


@pytest.mark.parametrize(
    "given", [("--augment", 4), ("--recipe", "r.toml"), ("--mask", "m.png", "--out", "x.png"), ("--mask-frame", 1)]
)
def test_inspect_draws_what_it_is_told_all_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], given: tuple[Any, ...]
) -> None:
    Image.fromarray(np.zeros((6, 8), np.uint8)).save(tmp_path / "image.png")
    assert main(["inspect", str(tmp_path / "image.png"), *map(str, given)]) == 2
    assert "needs --recipe FILE and --out PNG" in capsys.readouterr().err


def test_inspect_writes_a_png_whatever_its_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x"
    path.write_bytes(dicom(noise(1, 20, 30, 1)))
    assert call(capsys, "inspect", path, "--out", tmp_path / "picture.of it")[0] == 0
    with Image.open(tmp_path / "picture.of it") as picture:
        assert picture.format == "PNG"
    code, document = call(capsys, "inspect", path, "--out", tmp_path)
    assert (code, document["message"]) == (2, f"{tmp_path}: Is a directory")


def test_inspect_needs_the_decoders_that_it_is_told_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x"
    path.write_bytes(dicom(noise(1, 20, 30, 1)))
    assert call(capsys, "inspect", path, "--require-decoder", "1.2.840.10008.1.2.4.70")[0] == 0
    code, document = call(capsys, "inspect", path, "--require-decoder", "1.2.840.10008.1.2.4.92")
    assert (code, document["error"]) == (3, "UnsupportedError")
    assert "Part 2" in document["message"]


def test_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    code, document = call(capsys, "doctor")
    assert code == 0
    assert document["backends"].keys() == {"dali-gpu", "dali-cpu", "torch"}
    assert document["backends"]["torch"] is None
    assert document["auto"] in document["backends"]


def test_doctor_says_which_limits_it_found_where(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    code, document = call(capsys, "doctor")
    assert code == 0
    found = {each["what"]: each for each in document["limits"] if each["counts"]}
    assert found["ranks of this machine"]["amount"] == 2
    assert found["ranks of this machine"]["where"] == "LOCAL_WORLD_SIZE"
    assert found["cores"]["amount"] >= 1
    assert document["by_default"]["memory_bytes"] == found["memory"]["amount"] // 8
    assert document["by_default"]["shared_memory_bytes"] == found["memory"]["amount"] // 4
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert ["ranks", "of", "this", "machine", "2", "LOCAL_WORLD_SIZE"] in [line.split() for line in text.splitlines()]
    assert "By default a rank uses" in text
    assert "ranks share" in text


@pytest.mark.parametrize(
    ("arguments", "code", "error"),
    [
        (["warm", "missing.csv"], 2, "ManifestError"),
        (["inspect", "missing.dcm"], 2, "FileNotFoundError"),
        (["inspect", "{archive}/text"], 3, "UnsupportedError"),
        (["inspect", "{archive}/empty"], 1, "TruncatedError"),
        (["parity", "{archive}/list.csv", "--img-size", "big"], 2, "ConfigError"),
        (["inspect", "{archive}"], 2, "IsADirectoryError"),
        (["inspect", "{archive}/001.jpg", "--reduce", "999999"], 2, "ConfigError"),
        (["demo", "--dir", "{archive}/nothing", "--img-size", "0"], 2, "ConfigError"),
        (["warm", "{archive}/list.csv", "--cache-mode", "npy"], 2, "StoreConfigError"),
        (["bench", "{archive}/list.csv", "--epochs", "1"], 2, "ConfigError"),
        (["warm", "{archive}/list.csv", "--window", "percentile:99,1"], 2, "ConfigError"),
        (["parity", "{archive}/list.csv", "--split", "none"], 2, "ConfigError"),
    ],
)
def test_errors_are_documents_too(
    archive: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, error: str
) -> None:
    (archive / "text").write_bytes(b"no image")
    (archive / "empty").write_bytes(b"")
    found, document = call(capsys, *(argument.format(archive=archive) for argument in arguments))
    assert (found, document["error"]) == (code, error)
    assert document["message"]


@pytest.mark.parametrize(
    "arguments",
    [
        *([], ["nothing"], ["warm"], ["warm", "x", "--cache-mode", "tape"]),
        *(
            ["bench", "x", "--batch-size", "0"],
            ["doctor", "x", "--num-workers", "-1"],
            ["inspect", "x", "--reduce", "0"],
        ),
    ],
)
def test_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert capsys.readouterr().out == ""


def test_an_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("dali_pipes.cli.doctor.examine", interrupted)
    assert main(["doctor"]) == 130


def test_text_for_people(archive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["parity", str(archive / "list.csv"), "--img-size", "8"]) == 0
    assert "identical, every bit" in capsys.readouterr().out
    assert main(["doctor"]) == 0
    assert "backend" in capsys.readouterr().out
