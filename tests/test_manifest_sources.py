"""Manifests of data frames, mappings and Hugging Face data sets, joined, written and read back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from archives import coded, label_of
from PIL import Image

import dali_pipes as dp

ROWS: list[dict[str, Any]] = [
    {"path": "a.jpg", "label": "x", "frame": 0, "split": "train", "group": "p1", "age": 40.0, "site": "north"},
    {"path": "b/c.dcm", "label": "y", "frame": 3, "split": "val", "group": None, "age": None, "site": 7},
]


def as_plain(manifest: dp.Manifest) -> dict[str, Any]:
    """Everything but the root, as plain values."""
    return {
        "samples": list(manifest),
        "classes": manifest.classes,
        "targets": {name: values.tolist() for name, values in manifest.targets.items()},
        "columns": {name: list(column) for name, column in manifest.columns.items()},
    }


def test_records_pandas_csv_and_parquet_give_the_same(tmp_path: Path) -> None:
    import pandas as pd

    frame = pd.DataFrame(ROWS)
    frame.to_csv(tmp_path / "list.csv", index=False)
    pd.DataFrame({name: frame[name].astype(str) if name == "site" else frame[name] for name in frame}).to_parquet(
        tmp_path / "list.parquet"
    )
    options: dict[str, Any] = {"root": tmp_path, "targets": ["age"]}
    found = [
        dp.Manifest.from_records(ROWS, **options),
        dp.Manifest.from_pandas(frame, **options),
        dp.Manifest.from_csv(tmp_path / "list.csv", **options),
        dp.Manifest.from_parquet(tmp_path / "list.parquet", **options),
    ]
    first = as_plain(found[0])
    assert first["samples"][1] == dp.Sample(1, "b/c.dcm#3", "b/c.dcm", 3, 1, "val", "")
    assert first["columns"] == {"site": ["north", "7"]}
    assert np.array_equal(found[0].targets["age"], np.array([40, np.nan], np.float32), equal_nan=True)
    for each in found[1:]:
        assert each.digest() == found[0].digest()
        assert {**as_plain(each), "targets": None} == {**first, "targets": None}


def test_without_a_root_it_is_the_common_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = dp.Manifest.from_records([{"path": tmp_path / "x" / "a.jpg"}, {"path": f"{tmp_path}/y/b.jpg"}])
    assert (found.root, list(found.paths)) == (tmp_path, ["x/a.jpg", "y/b.jpg"])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x").mkdir()
    found = dp.Manifest.from_records([{"path": "x/a.jpg"}, {"path": "x/b.jpg"}])
    assert (found.root, list(found.paths)) == (tmp_path / "x", ["a.jpg", "b.jpg"])


def test_what_pandas_holds_for_nothing(tmp_path: Path) -> None:
    import pandas as pd

    frame = pd.DataFrame(
        {"path": ["a", "b", "c"], "label": pd.array([1, None, 2], "Int64"), "when": [pd.NaT, None, "x"]}
    )
    with pytest.raises(dp.ManifestError, match="line 1: label is empty"):
        dp.Manifest.from_pandas(frame, tmp_path)
    found = dp.Manifest.from_pandas(frame, tmp_path, missing_label=-1)
    assert (found.labels.tolist(), list(found.columns["when"])) == ([1, -1, 2], ["", "", "x"])
    floats = dp.Manifest.from_pandas(frame.astype({"label": float}), tmp_path, missing_label=-1)
    assert floats.labels.tolist() == [1, -1, 2]
    with pytest.raises(dp.ManifestError, match=r"label 0\.5 is not a whole number"):
        dp.Manifest.from_pandas(frame.assign(label=0.5), tmp_path)


def test_parquet_of_odd_types(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table(
        {
            "path": pa.array(["a", "b"]).dictionary_encode(),
            "label": pa.array([True, False]),
            "frame": pa.array([1.0, None]),
            "nothing": pa.nulls(2),
            "day": pa.array([0, 1], pa.date32()),
            "raw": pa.array([b"x", b"y"]),
            "many": pa.array([[1], [2, 3]]),
        }
    )
    pq.write_table(table, tmp_path / "list.parquet", row_group_size=1)
    found = dp.Manifest.from_parquet(tmp_path / "list.parquet")
    assert [(s.path, s.label, s.frame) for s in found] == [("a", 1, 1), ("b", 0, 0)]
    assert {name: list(column) for name, column in found.columns.items()} == {
        "nothing": ["", ""],
        "day": ["1970-01-01", "1970-01-02"],
    }
    with pytest.raises(dp.ManifestError, match="column 'raw' holds neither text nor numbers"):
        dp.Manifest.from_parquet(tmp_path / "list.parquet", path_column="raw")
    pq.write_table(table.slice(0, 0), tmp_path / "list.parquet")
    assert len(dp.Manifest.from_parquet(tmp_path / "list.parquet")) == 0


def test_records_that_cannot_be_rows(tmp_path: Path) -> None:
    with pytest.raises(dp.ManifestError, match="records: none given; give at least one row with 'file'"):
        dp.Manifest.from_records([], path_column="file")
    with pytest.raises(dp.ManifestError, match=r"row 1: 'label' holds neither text nor a number"):
        dp.Manifest.from_records([{"path": "a", "label": 1}, {"path": "b", "label": [1, 0]}], tmp_path)


def hugging_face(folder: Path, as_bytes: bool) -> Any:
    """Three images with labels of a ClassLabel, one missing, in the data set itself or beside it."""
    import datasets

    folder.mkdir(exist_ok=True)
    images = []
    for label in range(3):
        path = folder / f"{label}.png"
        path.write_bytes(coded(label, "png"))
        images.append({"bytes": path.read_bytes(), "path": None} if as_bytes else {"bytes": None, "path": str(path)})
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=["zero", "one", "two"]),
            "age": datasets.Value("float32"),
        }
    )
    return datasets.Dataset.from_dict({"image": images, "label": [0, 1, 2], "age": [1.5, None, 2.5]}, features=features)


@pytest.mark.parametrize("as_bytes", [True, False])
def test_a_hugging_face_data_set(tmp_path: Path, as_bytes: bool) -> None:
    data = hugging_face(tmp_path / "images", as_bytes)
    if as_bytes:
        import datasets

        data.to_parquet(tmp_path / "data.parquet")
        data = datasets.Dataset.from_parquet(str(tmp_path / "data.parquet"), cache_dir=str(tmp_path / "hf"))
        with pytest.raises(dp.ManifestError, match="row 0 holds an image's bytes; give root="):
            dp.Manifest.from_hf(data)
    root = tmp_path / "kept" if as_bytes else None
    if root:
        root.mkdir()
    for _ in range(2):  # the second time the files are there
        found = dp.Manifest.from_hf(data, root, targets=["age"])
    assert (found.labels.tolist(), found.classes) == ([0, 1, 2], ("zero", "one", "two"))
    assert np.array_equal(found.targets["age"], np.array([1.5, np.nan, 2.5], np.float32), equal_nan=True)
    assert found.root == (root or tmp_path / "images")
    assert sum(path.is_file() for path in found.root.rglob("*")) == 3
    with dp.Loader(found, dp.Recipe(size=8), batch_size=3, backend="torch", num_workers=1) as loader:
        (batch,) = loader
    assert [label_of(image) for image in batch.image] == [0, 1, 2]


@pytest.mark.parametrize("as_bytes", [True, False])
def test_masks_of_a_hugging_face_data_set(tmp_path: Path, as_bytes: bool) -> None:
    """An image column `mask`: bytes become files, an absent mask stays absent."""
    import datasets

    data = hugging_face(tmp_path / "images", as_bytes)
    masks: list[Any] = [None]
    (tmp_path / "masks").mkdir()
    with Image.open(tmp_path / "images" / "0.png") as image:
        size = (image.height, image.width)
    for i in (1, 2):
        path = tmp_path / "masks" / f"{i}.png"
        Image.fromarray(np.full(size, i, np.uint8)).save(path)
        masks.append({"bytes": path.read_bytes(), "path": None} if as_bytes else {"bytes": None, "path": str(path)})
    data = data.add_column("mask", masks, feature=datasets.Image())
    root = tmp_path / "kept" if as_bytes else None
    if root:
        root.mkdir()
    found = dp.Manifest.from_hf(data, root)
    assert found.root == (root or tmp_path)
    assert not found.columns["mask"][0]
    with dp.Loader(found, dp.Recipe(size=8), batch_size=3, backend="torch", num_workers=1) as loader:
        (batch,) = loader
    assert [label_of(image) for image in batch.image] == [0, 1, 2]
    assert batch.mask is not None
    assert [mask.unique().tolist() for mask in batch.mask] == [[0], [1], [2]]


def test_a_hugging_face_data_set_without_an_image_column() -> None:
    import datasets

    with pytest.raises(dp.ManifestError, match=r"0 image columns among \['x'\]; name one by image_column="):
        dp.Manifest.from_hf(datasets.Dataset.from_dict({"x": [1]}))


def made(root: Path, rows: list[dict[str, Any]], **options: Any) -> dp.Manifest:
    root.mkdir(exist_ok=True)
    return dp.Manifest.from_records(rows, root, **options)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_what_is_written_reads_back_as_the_same(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"written.{kind}"
    (tmp_path / "new\nline.jpg").write_bytes(b"")
    rows = [*ROWS, {"path": "new\nline.jpg", "label": "", "age": 0.1, "site": 'a "b", c'}]
    found = made(tmp_path, rows, targets=["age"], missing_label=-1)
    getattr(found, f"to_{kind}")(path)
    again = getattr(dp.Manifest, f"from_{kind}")(path, tmp_path, targets=["age"], missing_label=-1)
    assert again.digest() == found.digest()
    assert {**as_plain(again), "targets": None} == {**as_plain(found), "targets": None}
    assert again.targets["age"].tobytes() == found.targets["age"].tobytes()


@pytest.mark.parametrize("classes", [["b", "a"], ["a", "b", "c"]])
def test_numbers_of_classes_never_move_through_a_file(tmp_path: Path, classes: list[str]) -> None:
    """Sorted names of the classes that are there would give other numbers: a CSV holds the numbers, Parquet both."""
    found = made(tmp_path, [{"path": "x", "label": "b"}, {"path": "y", "label": "a"}], classes=classes)
    found.to_csv(tmp_path / "m.csv")
    found.to_parquet(tmp_path / "m.parquet")
    again = dp.Manifest.from_csv(tmp_path / "m.csv")
    assert (again.labels.tolist(), again.classes) == (found.labels.tolist(), ())
    assert dp.Manifest.from_csv(tmp_path / "m.csv", classes=classes).classes == found.classes
    again = dp.Manifest.from_parquet(tmp_path / "m.parquet")
    assert (again.labels.tolist(), again.classes) == (found.labels.tolist(), found.classes)


def test_names_that_are_not_utf8_are_in_no_table(tmp_path: Path) -> None:
    (tmp_path / "class").mkdir()
    (tmp_path / "class" / "caf\udce9.png").write_bytes(coded(1, "png"))
    found = dp.Manifest.from_folder(tmp_path)
    for write in (found.to_csv, found.to_parquet):
        with pytest.raises(dp.ManifestError, match="some paths are not UTF-8"):
            write(tmp_path / "list")


def test_manifests_are_joined(tmp_path: Path) -> None:
    first = made(tmp_path / "one", ROWS, targets=["age"])
    second = made(tmp_path / "two", [{"path": "a.jpg", "label": "y", "more": "m"}], classes=["x", "y"])
    found = dp.Manifest.concat([first, second])
    assert found.root == tmp_path
    assert list(found.paths) == ["one/a.jpg", "one/b/c.dcm", "two/a.jpg"]
    assert list(found.ids) == ["one/a.jpg", "one/b/c.dcm#3", "two/a.jpg"]
    assert (found.labels.tolist(), found.classes) == ([0, 1, 1], ("x", "y"))
    assert np.isnan(found.targets["age"]).tolist() == [False, True, True]
    assert {name: list(column) for name, column in found.columns.items()} == {
        "site": ["north", "7", ""],
        "more": ["", "", "m"],
    }
    assert found.rows.tolist() == [0, 1, 0]
    assert dp.Manifest.concat([first]).digest() == first.digest()
    assert dp.Manifest.concat([first.subset([0]), first.subset([1])]).digest() == first.digest()


def test_manifests_that_number_differently_are_not_joined_in_silence(tmp_path: Path) -> None:
    first = made(tmp_path, [{"path": "a", "label": "x"}, {"path": "b", "label": "y"}])
    second = made(tmp_path, [{"path": "c", "label": "y"}])
    with pytest.raises(dp.ConfigError, match=r"number different classes: \['x', 'y'\] and \['y'\]\. Give classes="):
        dp.Manifest.concat([first, second])
    found = dp.Manifest.concat([first, second], classes=["y", "x"])
    assert (found.labels.tolist(), found.classes) == ([1, 0, 0], ("y", "x"))
    with pytest.raises(dp.ConfigError, match="a manifest has 'x' besides"):
        dp.Manifest.concat([first, second], classes=["y"])
    with pytest.raises(dp.ConfigError, match="a manifest has 'numbers' besides"):
        dp.Manifest.concat([first, made(tmp_path, [{"path": "d", "label": 3}])], classes=["x", "y"])
    unlabelled = dp.Manifest.concat([first, made(tmp_path, [{"path": "e"}])])
    assert unlabelled.labels.tolist() == [0, 1, -1]
    with pytest.raises(dp.ConfigError, match="no manifest given"):
        dp.Manifest.concat([])


def test_ids_of_their_own_must_differ_where_manifests_are_joined(tmp_path: Path) -> None:
    first = made(tmp_path / "one", [{"path": "a", "id": "7"}])
    second = made(tmp_path / "two", [{"path": "b", "id": "7"}])
    with pytest.raises(dp.ManifestError, match="sample 1 has the id of sample 0"):
        dp.Manifest.concat([first, second])


def test_classes_are_counted(tmp_path: Path) -> None:
    rows = [{"path": str(i), "label": label} for i, label in enumerate(["x", "y", "x", ""])]
    found = made(tmp_path, rows, classes=["y", "x", "z"], missing_label=-1)
    assert found.class_counts() == {"y": 1, "x": 2, "z": 0, -1: 1}
    numbers = made(tmp_path, [{"path": "a", "label": 4}, {"path": "b", "label": 4}, {"path": "c", "label": 0}])
    assert numbers.class_counts() == {0: 1, 4: 2}


def test_a_manifests_arrays_are_read_only(tmp_path: Path) -> None:
    found = made(tmp_path, ROWS, targets=["age"])
    for values in (found.labels, found.frames, found.rows, found.targets["age"]):
        with pytest.raises(ValueError, match="read-only"):
            values[0] = 1


def test_targets_reach_batches_and_items(tmp_path: Path) -> None:
    rows = [{"path": f"{i}.png", "age": None if i == 2 else i / 4, "dense": i % 2} for i in range(5)]
    for i, row in enumerate(rows):
        (tmp_path / row["path"]).write_bytes(coded(i, "png"))
    found = made(tmp_path, rows, targets=["age", "dense"])
    with dp.Loader(found, dp.Recipe(size=8), batch_size=2, backend="torch", shuffle=True, num_workers=1) as loader:
        for batch in loader:
            assert batch.target is not None
            for name, values in found.targets.items():
                expected = torch.from_numpy(values[batch.index.numpy()])
                assert batch["target"][name].dtype == torch.float32
                assert torch.equal(batch.target[name].nan_to_num(-1), expected.nan_to_num(-1))
                moved = batch.to("meta").target
                assert moved is not None
                assert moved[name].device.type == "meta"
    with dp.ImageDataset(found, dp.Recipe(size=8)) as dataset:
        _, _, collated = next(iter(torch.utils.data.DataLoader(dataset, batch_size=5)))
    assert collated["target"]["age"].dtype == torch.float32
    assert torch.equal(collated["target"]["dense"], torch.tensor([0.0, 1, 0, 1, 0]))
    plain = found.subset([0])
    with dp.Loader(made(tmp_path, rows[:1]), dp.Recipe(size=8), batch_size=1, backend="torch") as loader:
        assert "target" not in next(iter(loader))
    assert plain.targets["age"].tolist() == [0]


def test_spaces_around_values_mean_nothing_in_any_table(tmp_path: Path) -> None:
    """Else a patient of two spellings would be two groups, which may lie in two splits."""
    import pandas as pd

    rows = [("a.png", "p1", "L"), ("b.png", "p1 ", "\u00a0R"), (" c.png", "p2", "L")]
    frame = pd.DataFrame(rows, columns=["path", "group", "view"])
    frame.to_parquet(tmp_path / "a.parquet")
    frame.to_csv(tmp_path / "a.csv", index=False)
    for name in ("a.png", "b.png", " c.png"):
        (tmp_path / name).write_bytes(b"")
    for manifest in (
        dp.Manifest.from_csv(tmp_path / "a.csv"),
        dp.Manifest.from_parquet(tmp_path / "a.parquet"),
        dp.Manifest.from_pandas(frame, root=tmp_path),
        dp.Manifest.from_records(frame.to_dict("records"), root=tmp_path),
    ):
        assert list(manifest.groups) == ["p1", "p1", "p2"]
        assert list(manifest.columns["view"]) == ["L", "R", "L"]
        assert list(manifest.paths) == ["a.png", "b.png", " c.png"]
    named = dp.Manifest.from_csv(tmp_path / "a.csv")
    named.to_parquet(tmp_path / "again.parquet")
    assert dp.Manifest.from_parquet(tmp_path / "again.parquet").digest() == named.digest()
