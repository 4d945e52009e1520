"""Wrong calls that newcomers make, each answered in words that name the right way."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
from archives import manifest_of, pictures

import dali_pipes as dp

CALLS: dict[str, tuple[Callable[[dp.Manifest], object], str]] = {
    "a number for a recipe": (
        lambda m: dp.ImageDataset(m, 224),  # type: ignore[arg-type]
        r"ImageDataset: int where a Recipe belongs; give one, such as Recipe\(size=224\)",
    ),
    "a size for a recipe": (
        lambda m: dp.Loader(m, (8, 9), batch_size=1),  # type: ignore[arg-type]
        r"Loader: tuple where a Recipe belongs; give one, such as Recipe\(size=\(8, 9\)\)",
    ),
    "a path for a manifest": (
        lambda m: dp.Loader("train.csv", dp.Recipe(size=8), batch_size=1),  # type: ignore[arg-type]
        "str where a Manifest belongs; Manifest.from_csv reads one",
    ),
    "no function for batches": (
        lambda m: dp.Loader(m, dp.Recipe(size=8), batch_size=1, batch_transform="mixup"),  # type: ignore[arg-type]
        "Loader: batch_transform='mixup': give a function, or None",
    ),
    "no function for samples": (
        lambda m: dp.ImageDataset(m, dp.Recipe(size=8), transform=[len]),  # type: ignore[arg-type]
        "ImageDataset: transform=.*: give a function, or None",
    ),
    "another library's name": (
        lambda m: dp.Recipe(img_size=224),  # type: ignore[call-arg]
        r"Recipe has no 'img_size'\. Do you mean size\? Its fields are size, channels",
    ),
    "a typo": (lambda m: dp.Recipe(size=8, chanels=1), "Do you mean channels"),  # type: ignore[call-arg]
    "normalise": (lambda m: dp.Recipe(size=8, normalize=True), "Do you mean mean and std"),  # type: ignore[call-arg]
    "nothing like it": (lambda m: dp.Recipe(size=8, xyzzy=1), r"Recipe has no 'xyzzy'\. Its fields"),  # type: ignore[call-arg]
    "hflip": (lambda m: dp.Augment(hflip=0.5), "Augment has no 'hflip'.* Do you mean horizontal_flip"),  # type: ignore[call-arg]
    "a name in a file": (lambda m: dp.Recipe.from_dict({"size": 8, "img_size": 8}), "Do you mean size"),
    "std in levels": (
        lambda m: dp.Recipe(size=8, mean=0.5, std=58.4),
        r"std=\(58\.4, 58\.4, 58\.4\).*units of full scale; of 255 they are 0\.229, 0\.229, 0\.229",
    ),
    "mean in levels": (lambda m: dp.Recipe(size=8, mean=123.7, std=0.2), "units of full scale"),
}


@pytest.mark.parametrize("name", CALLS)
def test_wrong_calls_are_answered_in_words(tmp_path: Path, name: str) -> None:
    call, words = CALLS[name]
    with pytest.raises(dp.ConfigError, match=words):
        call(manifest_of(tmp_path, pictures(1)))


def test_a_loader_says_that_it_cannot_be_pickled(tmp_path: Path) -> None:
    with dp.Loader(manifest_of(tmp_path, pictures(2)), dp.Recipe(size=8), batch_size=1, backend="torch") as loader:
        for wrong in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(dp.ConfigError, match=r"a Loader holds threads.*make one in each process.*ImageDataset"):
                wrong(loader)
        assert len(list(loader)) == 2


def test_recipes_are_still_copied_and_pickled() -> None:
    recipe = dp.Recipe(size=8, augment=dp.Augment(0.5))
    assert pickle.loads(pickle.dumps(recipe)) == copy.deepcopy(recipe) == recipe  # noqa: S301


def test_an_epoch_shows_how_far_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    samples, recipe = manifest_of(tmp_path, pictures(6)), dp.Recipe(size=8)
    with dp.Loader(samples, recipe, batch_size=2, backend="torch", progress=True) as loader:
        expected = [batch.id for batch in loader]
        assert "epoch 0: 100%" in (told := capsys.readouterr().err)
        assert "3/3" in told
        for batch in loader:
            assert batch.id == expected[0]
            break
        state = loader.state_dict()
        assert "epoch 1" in capsys.readouterr().err
        loader.load_state_dict(state)
        assert [batch.id for batch in loader] == expected[1:]
        assert "3/3" in capsys.readouterr().err
    with dp.Loader(samples, recipe, batch_size=2, backend="torch") as loader:
        assert len(list(loader)) == 3
    assert capsys.readouterr() == ("", "")


def test_parity_says_why_it_wrote_no_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from dali_pipes.cli import main

    manifest_of(tmp_path, pictures(2))
    out = tmp_path / "pictures"
    assert main(["parity", str(tmp_path / "list.csv"), "--img-size", "8", "--out", str(out)]) == 0
    told = capsys.readouterr().out
    assert f"No sample differs, so there is no picture to write into {out}; --html writes a report." in told
    assert list(out.iterdir()) == []
