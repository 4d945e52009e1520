"""`dali-pipes parity`: exit codes, JSON, pictures, report, record and replay."""

import dataclasses
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from parity_samples import mixed, require_dali
from PIL import Image

import dali_pipes as dp
from dali_pipes import cli
from dali_pipes.backends.dali import DaliBackend
from dali_pipes.cli import common
from dali_pipes.cli.parity import replayed
from dali_pipes.parity import golden
from dali_pipes.tools.demo_data import make_demo_set

require_dali()


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("command")
    mixed(folder)
    return folder / "samples.csv"


VARIED = dp.Recipe(
    size=(20, 26),
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    augment=dp.Augment(0.5, 0.5, 45, (0.7, 1.4), 0.2, 0.4, 0.4, 0.8, 120),
)


def command(table: Path, *more: str) -> list[str]:
    return ["parity", str(table), "--img-size", "20x26", "--normalise", "--num-workers", "1", *more]


@pytest.fixture
def wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """A DALI whose base images are off by one level in one place."""
    genuine = DaliBackend.run

    def run(self: DaliBackend, items: Any, draws: Any) -> torch.Tensor:
        image = genuine(self, items, draws).clone()
        if self._graph.recipe.mean is None:
            image[0, 0, 0, 0] ^= 1
        return image

    monkeypatch.setattr(DaliBackend, "run", run)


@pytest.mark.parametrize("parity", ["exact", "fast"])
def test_good(table: Path, capsys: pytest.CaptureFixture[str], parity: str) -> None:
    assert cli.main(command(table, "--parity", parity)) == 0
    text = capsys.readouterr().out
    assert "geometry    dali-cpu = torch: identical, every bit (6 samples)." in text
    assert f'The promise of parity="{parity}" is kept.' in text


@pytest.mark.parametrize("parity", ["exact", "fast"])
def test_a_recipe_that_turns_and_recolours(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], parity: str
) -> None:
    """Every option at once; then the record is replayed, but not for a recipe that varies otherwise."""
    recipe, record, report = tmp_path / "recipe.toml", tmp_path / "golden.json", tmp_path / "report.html"
    recipe.write_text(VARIED.to_toml())
    options = ("--recipe", str(recipe), "--parity", parity)
    more = ("--against", "torchvision", "--record", str(record), "--html", str(report), "--out", str(tmp_path))
    assert cli.main(command(table, *options, *more)) == 0
    text = capsys.readouterr().out
    assert "photometry  dali-cpu = torch: identical, every bit (6 samples)." in text
    assert text.count("What varies at random is left out of this comparison.") == 4
    assert report.read_text("utf-8").count("What varies at random is left out of this comparison.") == 4
    stages = json.loads(record.read_text())["samples"]["0"]
    assert len({stages[stage]["torch"] for stage in ("geometry", "photometry", "normalise")}) == 3
    assert cli.main(command(table, *options, "--replay", str(record))) == 0
    assert "identical, every bit.\n" in capsys.readouterr().out
    recipe.write_text(dataclasses.replace(VARIED, augment=dp.Augment(rotation=45)).to_toml())
    assert cli.main(command(table, *options, "--replay", str(record))) == 2
    assert "recorded with another recipe" in capsys.readouterr().err


def test_what_torchvision_has_no_form_of_is_refused_at_once(
    table: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dali_pipes.cli.parity._compare", lambda *_: pytest.fail("the long work began"))
    assert cli.main(command(table, "--depth", "16", "--against", "torchvision")) == 2
    assert "recipe of depth 8" in capsys.readouterr().err


def test_emulating_a_gpu_is_compared_with_a_gpu_only(
    table: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(common, "present_backends", lambda: ["dali-cpu", "torch"])
    assert cli.main(command(table, "--parity", "fast", "--emulate", "dali-gpu")) == common.LACKING
    assert "only torch runs here" in capsys.readouterr().err


def test_json(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(command(table, "--json", "--against", "torchvision")) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["identical"] is True
    assert document["backends"] == ["torch", "dali-cpu"]
    assert (document["samples"], document["failed"]) == (6, 1)
    assert [stage["stage"] for stage in document["stages"]] == [
        "decode",
        "window",
        "geometry",
        "photometry",
        "normalise",
    ]
    causes = {each["pipeline"]: [cause["cause"] for cause in each["causes"]] for each in document["against"]}
    assert causes["tensor (v2)"] == ["normalisation order"]
    assert causes["tensor, antialias=False"] == ["antialias", "rounding", "normalisation order"]


def test_broken(table: Path, capsys: pytest.CaptureFixture[str], wrong: None, tmp_path: Path) -> None:
    assert cli.main(command(table, "--json", "--out", str(tmp_path))) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["identical"] is False
    assert document["kept"] is False
    assert document["first_difference"] == "geometry"
    (difference,) = document["stages"][2]["differences"]
    assert (difference["values"], difference["largest"], difference["worst"]) == (1, 1.0, 0)
    (picture,) = document["pictures"]
    assert Path(picture).parent == tmp_path
    assert np.asarray(Image.open(picture)).any()


def test_broken_in_words(table: Path, capsys: pytest.CaptureFixture[str], wrong: None) -> None:
    assert cli.main(command(table)) == 1
    text = capsys.readouterr().out
    assert "dali-cpu differs from torch in 1 values of 1 samples, by at most 1" in text
    assert "most in sample 0" in text
    assert "The first difference arises in geometry." in text
    assert "BROKEN" in text


class Outside(HTMLParser):
    """Collects what a page would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.fetched += [value or "" for name, value in attributes if name in ("src", "href")]


def test_report_is_self_contained(table: Path, wrong: None, tmp_path: Path) -> None:
    report = tmp_path / "deep" / "report.html"
    assert cli.main(command(table, "--html", str(report), "--against", "torchvision")) == 1
    page = Outside()
    text = report.read_text("utf-8")
    page.feed(text)
    assert page.fetched
    assert all(each.startswith("data:image/png;base64,") for each in page.fetched)
    assert "script" not in page.tags
    assert "url(" not in text
    assert {"img", "svg", "table"} <= set(page.tags)
    assert "The promise is broken" in text
    assert "The first difference arises in geometry." in text
    assert "normalisation order" in text


def test_record_and_replay(table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = tmp_path / "golden.json"
    assert cli.main(command(table, "--record", str(record))) == 0
    document = json.loads(record.read_text())
    assert set(document["machine"]) >= {"platform", "python", "gpu", "torch", "numpy"}
    assert ".jpg" not in record.read_text()
    assert sorted(document["samples"]) == ["0", "1", "2", "3", "4", "5"]
    assert set(document["samples"]["0"]["decode"]) == {"canonical", "dali-cpu"}
    assert len(document["operators"]["cpu"]) == len(golden._probes("cpu"))
    capsys.readouterr()
    assert cli.main(command(table, "--replay", str(record), "--json")) == 0
    replay = json.loads(capsys.readouterr().out)["replay"]
    assert replay["identical"]
    assert replay["compared"] > 50


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda d: d["samples"]["3"]["geometry"].update(torch="00"),
            "geometry: torch here differs from torch there in 1",
        ),
        (
            lambda d: d["samples"]["1"]["decode"].update(canonical="00"),
            "decode: dali-cpu here differs from canonical there",
        ),
        (lambda d: d["operators"]["cpu"].update({"resize 0": "00"}), "operator resize 0: PyTorch twin here differs"),
        (lambda d: d["operators"].update(gpu={"resize 1": "00"}), "differs from dali-gpu there"),
        (lambda d: d["samples"]["2"]["normalise"].update({"dali-gpu": "00"}), "differs from dali-gpu there"),
    ],
)
def test_replay_finds_what_differs(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Any, message: str
) -> None:
    record = tmp_path / "golden.json"
    assert cli.main(command(table, "--record", str(record))) == 0
    document = json.loads(record.read_text())
    change(document)
    record.write_text(json.dumps(document))
    assert cli.main(command(table, "--replay", str(record))) == 1
    assert message in capsys.readouterr().out


@pytest.mark.parametrize("gone", ["here", "there"])
def test_replay_finds_samples_that_one_machine_lacks(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], gone: str
) -> None:
    record = tmp_path / "golden.json"
    assert cli.main(command(table, "--record", str(record))) == 0
    document = json.loads(record.read_text())
    if gone == "there":
        del document["samples"]["3"]
    else:
        document["samples"]["6"] = document["samples"]["3"]  # the one that does not decode here
    record.write_text(json.dumps(document))
    capsys.readouterr()
    assert cli.main(command(table, "--replay", str(record))) == 1
    text = capsys.readouterr().out
    assert (
        f"1 samples gave an output on one of the two machines only, first sample {3 if gone == 'there' else 6}" in text
    )
    assert "identical, every bit.\n" not in text


def test_a_gpus_native_pixels_are_not_compared_with_a_cpus(table: Path, tmp_path: Path) -> None:
    recorded = {"samples": {"0": {"geometry": {"dali-gpu": "00"}}}, "machine": {}}
    recorder = golden.Recorder()
    recorder.watch("geometry", "torch", 0, np.zeros((1, 2, 2), np.uint8))
    fast = golden.replay(recorded, recorder, golden.Recipe(size=2, parity="fast"))
    assert (fast.compared, fast.alone, fast.identical) == (0, ("dali-gpu",), False)
    assert "not compared" in replayed(fast)
    assert golden.replay(recorded, recorder, golden.Recipe(size=2)).mismatches[0].recorded == "dali-gpu"


@pytest.mark.parametrize(
    ("text", "more", "message"),
    [
        ("{", (), "not a record of"),
        ("[]", (), "not a record of version"),
        (None, ("--fit", "crop"), "recorded with another recipe"),
        ("manifest", (), "recorded with other samples"),
    ],
)
def test_a_record_of_something_else_is_refused(
    table: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    text: str | None,
    more: tuple[str, ...],
    message: str,
) -> None:
    record = tmp_path / "golden.json"
    if text in (None, "manifest"):
        assert cli.main(command(table, "--record", str(record))) == 0
        if text:
            record.write_text(re.sub(r'"manifest": "\w', '"manifest": "x', record.read_text()))
    else:
        record.write_text(text)
    assert cli.main(command(table, "--replay", str(record), *more)) == 2
    assert message in capsys.readouterr().err


def test_alone_torch_can_record_but_not_compare(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(common, "present_backends", lambda: ["torch"])
    assert cli.main(command(table)) == 3
    assert "install DALI" in capsys.readouterr().err
    assert cli.main(command(table, "--record", str(tmp_path / "r.json"))) == 0
    assert json.loads((tmp_path / "r.json").read_text())["samples"]["0"]["decode"].keys() == {"canonical"}
    assert cli.main(command(table, "--replay", str(tmp_path / "r.json"))) == 0
    capsys.readouterr()
    assert cli.main(command(table, "--against", "torchvision", "--json")) == 0
    assert json.loads(capsys.readouterr().out)["backends"] == ["torch"]


@pytest.mark.slow
def test_the_demo_set_is_identical_and_its_causes_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = make_demo_set(tmp_path, mammograms=5, photos=6)
    assert cli.main(command(table, "--json", "--against", "torchvision")) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["identical"] is True
    assert document["samples"] > 50
    causes = {each["pipeline"]: [cause["cause"] for cause in each["causes"]] for each in document["against"]}
    assert causes == {
        "PIL image": ["rounding", "normalisation order"],
        "tensor (v1)": ["rounding", "normalisation order"],
        "tensor (v2)": ["normalisation order"],
        "tensor, antialias=False": ["antialias", "rounding", "normalisation order"],
    }
