"""Fetching DICOM files: who is warned of what they say, what is refused, and the frames of one file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from archives import CACHE_MODES, indices, manifest_of, noise
from make_images import dicom

import dali_pipes as dp
from dali_pipes import cache
from dali_pipes.fetch.fetcher import Fetcher
from tests.settled import settle

RECIPE = dp.Recipe(size=(16, 12))
BURNED = ("NO", "YES", None, "YES")


def archive(folder: Path, attribute: str, values: Any) -> dp.Manifest:
    """A file for each value of the attribute; no two have the same content."""
    pixels = noise(1, 20, 30, 1)
    files = {f"canary{i}.dcm": dicom(pixels + i, **{attribute: value}) for i, value in enumerate(values)}
    return manifest_of(folder, files)


def load(manifest: dp.Manifest, folder: Path, mode: str, **options: Any) -> tuple[list[int], dict[int, str]]:
    """The samples of two epochs, and the failures."""
    with dp.Loader(manifest, RECIPE, batch_size=3, backend="torch", cache_mode=mode, num_workers=1,
                   cache_dir=folder if mode == "pinned" else None, **options) as loader:  # fmt: skip
        seen = [i for _ in range(2) for i in indices(loader)]
        return seen, loader.failures()


@pytest.mark.parametrize("mode", CACHE_MODES)
def test_burned_in_annotation_is_warned_of_once_with_the_first_samples_number(tmp_path: Path, mode: str) -> None:
    manifest = archive(tmp_path / "archive", "BurnedInAnnotation", BURNED)
    with pytest.warns(dp.DaliPipesWarning) as warned:
        assert load(manifest, tmp_path / "cache", mode) == ([0, 1, 2, 3] * 2, {})
    said = [str(each.message) for each in warned]
    assert [text.startswith(f"{manifest.describe(1)}: the file says that annotation") for text in said] == [True]
    assert "canary" not in "".join(said)


@pytest.mark.filterwarnings("ignore::dali_pipes.DaliPipesWarning")
@pytest.mark.parametrize("mode", CACHE_MODES)
@pytest.mark.parametrize(
    ("policy", "attribute", "values"),
    [
        ("burned_in", "BurnedInAnnotation", BURNED),
        ("processing", "PresentationIntentType", (None, "FOR PROCESSING", "FOR PRESENTATION", "FOR PROCESSING")),
    ],
)
def test_refused_files_are_skipped_from_a_warm_cache_too(
    tmp_path: Path, mode: str, policy: str, attribute: str, values: Any
) -> None:
    manifest = archive(tmp_path / "archive", attribute, values)
    taken, _ = load(manifest, tmp_path / "cache", mode, decode_options={policy: "ignore"})
    assert taken == [0, 1, 2, 3] * 2
    taken, failures = load(manifest, tmp_path / "cache", mode, decode_options={policy: "error"}, on_error="skip")
    assert taken == [0, 2] * 2
    assert sorted(failures) == [1, 3]
    assert all(f'{policy}="error" refuses it' in message for message in failures.values())


def test_raw_images_among_those_made_for_looking_at_are_noticed(tmp_path: Path) -> None:
    intents = ["FOR PRESENTATION", "FOR PRESENTATION", None, "FOR PROCESSING", "FOR PROCESSING"]
    manifest = archive(tmp_path / "archive", "PresentationIntentType", intents)
    load(manifest.subset(range(3)), tmp_path / "cache", "pinned")
    with pytest.warns(dp.DaliPipesWarning) as warned:
        load(manifest, tmp_path / "other", "pinned")
    (said,) = [str(each.message) for each in warned]
    assert said.startswith(f"{manifest.describe(3)}: this data set mixes images FOR PRESENTATION and FOR PROCESSING")


@pytest.mark.parametrize("syntax", ["explicit", "rle"])
def test_a_long_file_is_read_whole_to_know_it_and_not_for_each_frame(tmp_path: Path, syntax: str) -> None:
    path = tmp_path / "stack.dcm"
    path.write_bytes(dicom([noise(i, 20, 30, 1) for i in range(60)], syntax))
    settle(tmp_path)
    with cache.open_store("none") as store:
        fetcher = Fetcher(dp.Manifest.from_dicom_tree(tmp_path), RECIPE, store, workers=1)
        try:
            frames = [fetcher.decoded(i) for i in range(60)]
            assert fetcher.counts()["bytes_read"] == path.stat().st_size
        finally:
            fetcher.close()
    assert len({np.asarray(frame).tobytes() for frame in frames}) == 60
