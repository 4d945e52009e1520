"""Studies: several images as one sample, and what is wrong with a study said by its name."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from archives import CPU_BACKENDS, pictures, write_csv

import dali_pipes as dp
from dali_pipes.fetch import study_fetch
from dali_pipes.fetch.item import ready
from dali_pipes.manifest.columns import TextColumn
from dali_pipes.manifest.studies import Studies

VIEWS = ("L-CC", "L-MLO", "R-CC", "R-MLO")


def write(folder: Path, rows: list[tuple[Any, ...]], header: tuple[str, ...]) -> dp.Manifest:
    files = pictures(len(rows), seed=3)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return dp.Manifest.from_csv(write_csv(folder / "all.csv", zip(files, *zip(*rows)), ("path", *header)))


def patients(folder: Path) -> dp.Manifest:
    """Three: of four views, of three, of one; rows out of order."""
    rows = [("p1", view, 1) for view in reversed(VIEWS)] + [("p2", view, 0) for view in VIEWS[1:]] + [("p3", "R-CC", 1)]
    return write(folder, rows, ("group", "view", "label"))


@pytest.fixture
def manifest(tmp_path: Path) -> dp.Manifest:
    return patients(tmp_path)


def test_views_have_their_places(manifest: dp.Manifest) -> None:
    studies = manifest.studies(by="group", view="view")
    assert isinstance(studies, Studies)
    assert studies.views == VIEWS
    assert list(studies.ids) == ["p1", "p2", "p3"]
    assert studies.labels.tolist() == [1, 0, 1]
    assert studies.members.tolist() == [[3, 2, 1, 0], [-1, 4, 5, 6], [-1, -1, 7, -1]]
    assert studies.present.tolist() == (studies.members >= 0).tolist()
    some = manifest.subset([0, 4]).studies(view="view", views=["R-MLO", "L-MLO"])
    assert some.members.tolist() == [[0, -1], [-1, 1]]
    assert studies.subset([2, 0]).members.tolist() == [[-1, -1, 7, -1], [3, 2, 1, 0]]
    assert studies.digest() != manifest.digest()
    assert studies.digest() != manifest.studies(view="view", views=VIEWS[::-1]).digest()


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("mode", ["none", "memory", "pinned"])
def test_batches_of_studies(manifest: dp.Manifest, tmp_path: Path, mode: str, backend: str) -> None:
    """Each image is what the loader of images gives, with the draws of its study; cold and warm."""
    augment = dp.Augment(0.5, 0.5, resized_crop=(0.3, 1))
    recipe = dp.Recipe((10, 12), base_size=24, augment=augment, mean=0.5, std=0.2)
    studies = manifest.studies(view="view")
    given: dict[str, Any] = {"batch_size": 2, "backend": backend, "cache_mode": mode, "seed": 4, "matrix": True}
    given["cache_dir"] = tmp_path / "cache" if mode == "pinned" else None
    with dp.Loader(studies, recipe, **given) as loader:
        for _ in range(2):
            loader.set_epoch(1)
            batches = list(loader)
            image, present = (torch.cat([getattr(batch, name) for batch in batches]) for name in ("image", "present"))
            assert image.shape == (3, 4, 3, 10, 12)
            assert batches[0].matrix is not None
            assert batches[0].matrix.shape == (2, 4, 2, 3)
            assert torch.equal(present, torch.from_numpy(studies.present))
            assert [name for batch in batches for name in batch.id] == ["p1", "p2", "p3"]
            nothing = image[2, 0]
            assert (nothing == nothing.flatten()[0]).all()
        if mode != "none":
            assert loader.stats()["decoded"] == 8
    plain = dp.Recipe((10, 12), base_size=24, mean=0.5, std=0.2)
    with dp.Loader(manifest, plain, batch_size=8) as flat, dp.Loader(studies, plain, batch_size=3) as still:
        (images,), (together,) = list(flat), list(still)
        for study, row in enumerate(studies.members.tolist()):
            for place, member in enumerate(row):
                if member >= 0:
                    assert torch.equal(together.image[study, place], images.image[member])


def test_images_of_a_study_are_changed_alike(tmp_path: Path) -> None:
    """A series stays a volume: the same flips, and the same crops of slices of one size."""
    files = [np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)] * 3
    from make_images import raster

    for i, pixels in enumerate(files):
        (tmp_path / f"{i}.png").write_bytes(raster(pixels, "PNG"))
    rows = [(f"{i}.png", "s", i * 2.5) for i in (2, 0, 1)]
    manifest = dp.Manifest.from_csv(write_csv(tmp_path / "all.csv", rows, ("path", "group", "z")))
    recipe = dp.Recipe(16, augment=dp.Augment(0.5, resized_crop=(0.2, 0.5), noise=0.2))
    with dp.Loader(manifest.studies(position="z"), recipe, batch_size=1) as loader:
        for _ in range(3):
            for batch in loader:
                assert torch.equal(batch.image[0, 0], batch.image[0, 1])
                assert torch.equal(batch.image[0, 0], batch.image[0, 2])


def test_series_are_sorted_by_position(tmp_path: Path) -> None:
    rows = [("a", 5.0), ("b", 1), ("a", 0), ("a", 2.5), ("b", -1)]
    series = write(tmp_path, rows, ("group", "z")).studies(position="z")
    assert series.members.tolist() == [[2, 3, 0], [4, 1, -1]]
    assert series.present.tolist() == [[True] * 3, [True, True, False]]


def test_missing_and_doubled_slices_are_named(tmp_path: Path) -> None:
    rows = [("a", z) for z in (0, 2, 4, 10, 12)] + [("b", z) for z in (1, 2, 2, 3)] + [("c", z) for z in (0, 1, 2)]
    with pytest.raises(dp.ManifestError) as caught:
        write(tmp_path, rows, ("group", "z")).studies(position="z")
    assert str(caught.value).splitlines() == [
        "2 faults in the studies:",
        "  series 'a': 2 missing after 4, where slices are 2 apart",
        "  series 'b': a slice is there twice, at 2",
    ]


@pytest.mark.parametrize(
    ("positions", "faults"),
    [
        ((0, 1, 3), ["1 missing after 1, where slices are 1 apart"]),
        ((7, 5, 4), ["1 missing after 5, where slices are 1 apart"]),
        (
            (0, 1, 4, 5, 8),
            ["2 missing after 1, where slices are 1 apart", "2 missing after 5, where slices are 1 apart"],
        ),
        ((0, 1, 3, 5, 7), ["only 1 from 0 to the next slice, where others are 2 apart"]),
        ((0, 2, 3, 5, 7, 9), ["only 1 from 2 to the next slice, where others are 2 apart"]),
        ((0, 1e-5, 1), ["a slice is there twice, at 0"]),
        ((3, 3), ["a slice is there twice, at 3"]),
        ((0, 1, 1.9, 3.05, 4), []),
        ((0, 5), []),
        ((-2,), []),
    ],
)
def test_slices_that_are_not_evenly_apart_are_named(
    tmp_path: Path, positions: tuple[float, ...], faults: list[str]
) -> None:
    manifest = write(tmp_path, [("s", z) for z in positions], ("group", "z"))
    if not faults:
        assert manifest.studies(position="z").members.shape == (1, len(positions))
        return
    with pytest.raises(dp.ManifestError) as caught:
        manifest.studies(position="z")
    assert str(caught.value).splitlines()[1:] == [f"  series 's': {fault}" for fault in faults]


def test_doubled_and_unknown_views_are_named(tmp_path: Path) -> None:
    rows = [("p", "L-CC"), ("p", "L-CC"), ("q", "spot")]
    manifest = write(tmp_path, rows, ("group", "view"))
    with pytest.raises(dp.ManifestError, match=r"study 'p': the view 'L-CC' is there twice\n.*'q': 'spot' is none of"):
        manifest.studies(view="view", views=VIEWS)


def test_odd_views_and_positions_are_refused(tmp_path: Path) -> None:
    manifest = write(tmp_path, [("p", "a", 0), ("p", "b", "nan"), ("q", "", 3)], ("group", "view", "z"))
    for views in ("ab", ["a", "b", "a"]):
        with pytest.raises(dp.ConfigError, match="give a list of names, each of them once"):
            manifest.studies(view="view", views=views)
    with pytest.raises(dp.ManifestError, match=r"study 'q': sample 2 \[.*\] has nothing in the column 'view'"):
        manifest.studies(view="view")
    with pytest.raises(dp.ManifestError, match=r"sample 1 \[.*\] has 'nan' in the column 'z'; .*finite numbers"):
        manifest.studies(position="z")


def test_a_study_lies_in_one_split_and_one_group(tmp_path: Path) -> None:
    rows = [("s", "a", "train", "g"), ("s", "b", "val", "g"), ("t", "a", "val", "g"), ("t", "b", "val", "h")]
    manifest = write(tmp_path, rows, ("exam", "view", "split", "group"))
    with pytest.raises(dp.ManifestError) as caught:
        manifest.studies(by="exam", view="view")
    assert str(caught.value).splitlines()[1:] == [
        "  study 's': its images lie in different splits: ['train', 'val']",
        "  study 't': its images lie in different groups: ['g', 'h']",
    ]


def test_splits_of_studies_know_the_files_of_all_images(tmp_path: Path) -> None:
    """Here two exams share a file of frames that is the first image of neither."""
    rows = [(f"e{i}", view, "") for i in range(8) for view in "ab"]
    manifest = write(tmp_path, rows, ("exam", "view", "split"))
    paths = list(manifest.paths)
    paths[3] = paths[1]
    frames = np.arange(16, dtype=np.int32)
    shared = dataclasses.replace(manifest, paths=TextColumn(paths), frames=frames)
    studies = shared.studies(by="exam", view="view")
    for seed in range(20):
        found = studies.split_by_group({"train": 0.5, "val": 0.5}, seed)
        assert found.splits[0] == found.splits[1]
        found.check_splits()
        assert isinstance(found.split("val"), Studies)
        found.subset([5, 2]).check_splits()
    turned = shared.subset(range(15, -1, -1)).studies(by="exam", view="view")
    one, other = (each.split_by_group({"train": 0.5, "val": 0.5}, 3) for each in (studies, turned))
    assert dict(zip(one.ids, one.splits)) == dict(zip(other.ids, other.splits))  # whatever the order of the rows
    apart = dataclasses.replace(studies, splits=TextColumn(["train", "val"] * 4))
    with pytest.raises(
        dp.ManifestError, match=r"1 groups or files .*\n  a file .*'train' \(sample 1\), 'val' \(sample 3\)"
    ):
        apart.check_splits()


def test_studies_are_not_taken_for_their_first_images(manifest: dp.Manifest, tmp_path: Path) -> None:
    studies = manifest.studies(view="view")
    for refused in (
        lambda: studies.to_csv(tmp_path / "studies.csv"),
        lambda: studies.to_parquet(tmp_path / "studies.parquet"),
        lambda: studies.studies(position="frame"),
        lambda: dp.Manifest.concat([studies, studies]),
    ):
        with pytest.raises(dp.ConfigError, match="a manifest of studies"):
            refused()
    assert not list(tmp_path.glob("studies.*"))


@pytest.mark.parametrize("order", [None, dp.Balanced(), dp.Grouped()], ids=str)
def test_everything_resumes_at_every_step_on_another_backend(tmp_path: Path, order: Any) -> None:
    """Views of studies with masks and matrices, in several orders, over two epochs."""
    studies = masked(tmp_path).studies(view="view")
    studies = dataclasses.replace(studies, labels=np.array([0, 1, 1]))
    recipe = dp.Recipe(12, base_size=30, views=2, augment=dp.Augment.preset("photo", noise=0.1, rotation=10))
    given: dict[str, Any] = {"batch_size": 1, "cache_mode": "memory", "matrix": True, "seed": 5, "order": order}
    names = ("image", "mask", "matrix", "present", "index", "valid")
    with dp.Loader(studies, recipe, backend=CPU_BACKENDS[0], **given) as whole:
        steps = [(batch, whole.state_dict()) for _ in range(2) for batch in whole]
    assert len(steps) == 6
    for done, (_, state) in enumerate(steps, 1):
        with dp.Loader(studies, recipe, backend=CPU_BACKENDS[done % len(CPU_BACKENDS)], **given) as rest:
            rest.load_state_dict(state)
            again = list(rest) + (list(rest) if done < 3 else [])
        wanted = steps[done:]
        if done < 6:
            assert len(again) == len(wanted)
        for batch, (other, _) in zip(again, wanted):
            for name in names:
                assert torch.equal(getattr(batch, name), getattr(other, name)), (done, name)


def test_labels_that_disagree(tmp_path: Path) -> None:
    rows = [("p", "a", 0), ("p", "b", 1), ("q", "a", 0)]
    manifest = write(tmp_path, rows, ("group", "view", "label"))
    with pytest.raises(dp.ManifestError, match=r"1 studies have different values of label, the first of them 'p'"):
        manifest.studies(view="view")
    assert manifest.studies(view="view", label="max").labels.tolist() == [1, 0]


def test_what_does_not_go_together(manifest: dp.Manifest, tmp_path: Path) -> None:
    for given, words in (
        ({}, "give view=, a column of names"),
        ({"view": "view", "position": "frame"}, "give view="),
        ({"position": "frame", "views": ["a"]}, "give view="),
        ({"view": "laterality"}, "no column 'laterality'; it has 'group'"),
        ({"view": "view", "label": "mean"}, "allowed are 'same' and 'max'"),
    ):
        with pytest.raises(dp.ConfigError, match=words):
            manifest.studies(**given)  # type: ignore[arg-type]
    with pytest.raises(dp.ManifestError, match="which are numbers"):
        manifest.studies(position="view")


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_views_of_studies(manifest: dp.Manifest, backend: str) -> None:
    """Each view is a study by itself, and the first is what the recipe without views gives."""
    studies = manifest.studies(view="view")
    options: dict[str, Any] = {"base_size": 24, "augment": dp.Augment(0.5, resized_crop=(0.3, 1)), "mean": 0.5}
    found = []
    for views in (1, 2):
        recipe = dp.Recipe((10, 12), std=0.2, views=views, **options)
        with dp.Loader(studies, recipe, batch_size=3, seed=4, backend=backend, matrix=True) as loader:
            found += list(loader)
    plain, both = found
    assert both.image.shape == (3, 2, 4, 3, 10, 12)
    assert both.matrix.shape == (3, 2, 4, 2, 3)
    assert both.present.shape == (3, 4)
    assert torch.equal(both.image[:, 0], plain.image)
    assert torch.equal(both.matrix[:, 0], plain.matrix)
    assert not torch.equal(both.image[:, 1], plain.image)
    assert both._repr_png_().startswith(b"\x89PNG")


@pytest.mark.parametrize("views", [1, 2])
@pytest.mark.parametrize("mode", ["none", "npy"])
def test_a_dataset_gives_the_studies_of_the_loader(
    manifest: dp.Manifest, tmp_path: Path, mode: str, views: int
) -> None:
    studies = manifest.studies(view="view")
    augment = dp.Augment(0.5, resized_crop=(0.3, 1), noise=0.1)
    recipe = dp.Recipe((10, 12), base_size=24, augment=augment, mean=0.5, std=0.2, views=views)
    given: dict[str, Any] = {"cache_mode": mode, "cache_dir": tmp_path / "cache" if mode == "npy" else None}
    with dp.Loader(studies, recipe, batch_size=3, seed=4, **given) as loader:
        (batch,) = list(loader)
    with dp.ImageDataset(studies, recipe, seed=4, **given) as dataset:
        rows = list(torch.utils.data.DataLoader(dataset, batch_size=3, num_workers=0))
        assert dataset.stats()["decoded"] == (0 if mode == "npy" else 8)
    ((image, label, row),) = rows
    assert torch.equal(image, batch.image)
    assert torch.equal(row["present"], batch.present)
    assert label.tolist() == batch.label.tolist()
    assert row["id"] == batch.id


def test_a_dataset_replaces_studies_with_bad_images(manifest: dp.Manifest) -> None:
    (manifest.root / manifest.paths[5]).write_bytes(b"nothing")
    studies = manifest.studies(view="view")
    with dp.ImageDataset(studies, dp.Recipe(8)) as dataset, pytest.raises(dp.DecodeError, match="sample 5"):
        dataset[1]
    with dp.ImageDataset(studies, dp.Recipe(8), on_error="substitute") as dataset:
        with pytest.warns(dp.DaliPipesWarning):
            image, _, row = dataset[1]
        assert row["id"] == "p3"
        assert torch.equal(image, dataset[2][0])


def masked(folder: Path) -> dp.Manifest:
    """Two patients; masks are where the image is white. One image has none, one study lacks a view."""
    from make_images import raster

    rows = []
    for i, (group, view) in enumerate([("a", "x"), ("a", "y"), ("b", "y"), ("c", "x"), ("c", "y")]):
        white = np.zeros((30, 40), bool)
        white[4 + 3 * i : 16 + 3 * i, 5 + 4 * i : 20 + 4 * i] = True
        (folder / f"{i}.png").write_bytes(raster(np.repeat(white[..., None] * np.uint8(255), 3, 2), "PNG"))
        (folder / f"m{i}.png").write_bytes(raster(white * np.uint8(i + 1), "PNG"))
        rows.append((f"{i}.png", group, view, f"m{i}.png" if i != 4 else ""))
    return dp.Manifest.from_csv(write_csv(folder / "all.csv", rows, ("path", "group", "view", "mask")))


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("views", [1, 2])
def test_masks_of_studies_lie_where_their_images_lie(tmp_path: Path, backend: str, views: int) -> None:
    studies = masked(tmp_path).studies(view="view")
    augment = dp.Augment(0.5, 0.5, quarter_turns=0.5, resized_crop=(0.5, 1))
    recipe = dp.Recipe((32, 28), base_size=(36, 40), augment=augment, views=views)
    with dp.Loader(studies, recipe, batch_size=3, seed=1, backend=backend) as loader:
        (batch,) = list(loader)
        assert loader.stats()["masks"]["decoded"] == 4
    assert batch.mask.shape == ((3, 2, 32, 28) if views == 1 else (3, 2, 2, 32, 28))
    image, mask = (each if views == 2 else each[:, None] for each in (batch.image, batch.mask))
    seen = 0
    for study, row in enumerate(studies.members.tolist()):
        for place, member in enumerate(row):
            for k in range(views):
                white, one = image[study, k, place, 0], mask[study, k, place]
                number = member + 1 if member not in (-1, 4) else 0
                assert set(one.unique().tolist()) <= {0, number}
                if number:
                    assert ((white > 200) & (one == 0)).sum() <= 0.02 * one.numel()
                    assert ((white < 55) & (one > 0)).sum() <= 0.02 * one.numel()
                    seen += int((one > 0).sum())
    assert seen > 500
    with dp.ImageDataset(studies, recipe, seed=1) as dataset:
        assert torch.equal(torch.stack([dataset[i][2]["mask"] for i in range(3)]), batch.mask)


def test_a_bad_mask_is_its_studys_failure(tmp_path: Path) -> None:
    from make_images import raster

    manifest = masked(tmp_path)
    (tmp_path / "m1.png").write_bytes(raster(np.zeros((5, 9), np.uint8), "PNG"))
    studies = manifest.studies(view="view")
    with dp.Loader(studies, dp.Recipe(8), batch_size=3) as loader, pytest.raises(dp.DecodeError, match="mask 5 x 9"):
        list(loader)
    with dp.Loader(studies, dp.Recipe(8), batch_size=3, on_error="skip") as loader:
        with pytest.warns(dp.DaliPipesWarning):
            (batch,) = list(loader)
        assert batch.id == ["b", "c"]


def test_a_bad_image_is_its_studys_failure(manifest: dp.Manifest) -> None:
    (manifest.root / manifest.paths[5]).write_bytes(b"nothing")
    studies = manifest.studies(view="view")
    with dp.Loader(studies, dp.Recipe(8), batch_size=3, on_error="skip") as loader:
        with pytest.warns(dp.DaliPipesWarning):
            (batch,) = list(loader)
        assert batch.id == ["p1", "p3"]
    with dp.Loader(studies, dp.Recipe(8), batch_size=3) as loader, pytest.raises(dp.DecodeError, match="sample 5"):
        list(loader)


def test_what_lies_beside_a_bad_image_is_warmed(
    manifest: dp.Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each image is waited for, so that none is dropped when the loader is closed."""
    waited: list[Any] = []
    monkeypatch.setattr(study_fetch, "ready", lambda request: (waited.append(request), ready(request))[1])
    studies = manifest.studies(by="group", view="view")
    (manifest.root / manifest.paths[3]).write_bytes(b"no image")  # the first of the first study
    with pytest.warns(dp.DaliPipesWarning, match="it is left out"):
        report = dp.warm(studies, dp.Recipe(8), tmp_path / "cache", processes=1, num_workers=1)
    assert (report.decoded, report.failed, len(waited)) == (7, 1, 8)


def test_resumes_on_another_backend(manifest: dp.Manifest) -> None:
    studies = manifest.studies(view="view")
    recipe = dp.Recipe(8, base_size=20, augment=dp.Augment.preset("photo"))
    given: dict[str, Any] = {"batch_size": 1, "shuffle": True, "cache_mode": "memory"}
    with dp.Loader(studies, recipe, backend="torch", **given) as whole:
        batches, states = [], []
        for batch in whole:
            batches.append(batch)
            states.append(whole.state_dict())
    for done in (1, 2):
        with dp.Loader(studies, recipe, backend="dali-cpu", **given) as rest:
            rest.load_state_dict(states[done - 1])
            for one, other in zip(rest, batches[done:], strict=True):
                assert torch.equal(one.image, other.image)
                assert one.id == other.id
