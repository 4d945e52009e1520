"""Manifests: what is read, what is refused and how it is named, and that nothing outside the root is reached."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from archives import coded, write_csv
from hypothesis import given
from hypothesis import strategies as st
from make_images import dicom

import dali_pipes as dp
from dali_pipes.errors import ConfigError, ManifestError
from dali_pipes.manifest.columns import TextColumn, joined

texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)


def csv_of(folder: Path, text: str) -> dp.Manifest:
    (folder / "list.csv").write_text(text, encoding="utf-8")
    return dp.Manifest.from_csv(folder / "list.csv")


def refusing(opener: Callable[..., Any], *names: str) -> Callable[..., Any]:
    """`opener` for all paths but those that end in one of the names."""

    def opened(path: Any, *arguments: Any, **options: Any) -> Any:
        if os.path.basename(path) in names:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), os.fspath(path))
        return opener(path, *arguments, **options)

    return opened


def test_a_csv_with_every_column(tmp_path: Path) -> None:
    found = csv_of(
        tmp_path,
        "group,id,path,note,frame,split,label\np1,one,a/b.dcm,ignored,2,train,7\np2,two,c.jpg,,,val,-3\n",
    )
    assert list(found) == [
        dp.Sample(0, "one", "a/b.dcm", 2, 7, "train", "p1"),
        dp.Sample(1, "two", "c.jpg", 0, -3, "val", "p2"),
    ]
    assert found.classes == ()
    assert found.root == tmp_path


def test_defaults_of_a_csv_with_paths_alone(tmp_path: Path) -> None:
    assert list(csv_of(tmp_path, "path\nx.jpg\n")) == [dp.Sample(0, "x.jpg", "x.jpg", 0, -1, "", "")]


def test_class_names_are_numbered_in_sorted_order(tmp_path: Path) -> None:
    found = csv_of(tmp_path, "path,label\na,nevus\nb,melanoma\nc,nevus\n")
    assert found.labels.tolist() == [1, 0, 1]
    assert found.classes == ("melanoma", "nevus")


@pytest.mark.parametrize("labels", [["x", "y"], ["1_0", "2_0"], ["1,0", "two"], ["1-2", "3-4"], ["١", "٢"]])
def test_what_is_not_plainly_a_number_is_a_name(tmp_path: Path, labels: list[str]) -> None:
    found = csv_of(tmp_path, "path;label\n" + "".join(f"{i};{label}\n" for i, label in enumerate(labels)))
    assert found.classes == tuple(sorted(labels))
    assert [found.classes[label] for label in found.labels] == labels


def test_byte_order_mark_quotes_blank_lines_and_windows_line_ends(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_bytes('\ufeffpath,label\r\n"a,b.jpg",1\r\n\r\n"é ü.jpg",2\r\n'.encode())
    found = dp.Manifest.from_csv(tmp_path / "list.csv")
    assert list(found.paths) == ["a,b.jpg", "é ü.jpg"]
    assert found.labels.tolist() == [1, 2]


def test_frames_make_ids(tmp_path: Path) -> None:
    assert list(csv_of(tmp_path, "path,frame\na,0\na,3\n").ids) == ["a", "a#3"]


def test_every_bad_row_is_named_with_its_line(tmp_path: Path) -> None:
    rows = [
        "good.jpg,1,a,0",  # line 2
        ",1,b,0",
        "/etc/passwd,1,c,0",
        "a/../../b,1,d,0",
        "http://host/x,1,e,0",
        "C:/x,1,f,0",
        "D:\\b,1,g,0",
        "x,,h,0",
        "x,1,,0",
        "x,1,a,0",
        "x,1,j,-1",
        "x,1,k,one",
        "x,1,l",  # too short
        "x,1,m,0,9",  # too long
        '"a\x07b",1,n,0',
        "x,1,o,99999999999",
    ]
    with pytest.raises(ManifestError) as caught:
        csv_of(tmp_path, "path,label,id,frame\n" + "\n".join(rows) + "\n")
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'list.csv'}: 15 of 16 rows cannot be used:")
    lines = {int(line.split(":")[0].removeprefix("  line ")): line for line in message.splitlines()[1:]}
    assert sorted(lines) == list(range(3, 18))
    for line, reason in {
        3: "path is empty",
        4: "absolute and not under the root",
        5: r"may not leave the root",
        6: "relative to the root",
        9: "label is empty",
        10: "id is empty",
        11: "line 2 too; ids must be unique",
        12: "frame is '-1'",
        13: "frame is 'one'",
        14: "it has 3 fields, the header has 4",
        15: "it has 5 fields, the header has 4",
        16: "control characters",
    }.items():
        assert reason in lines[line]


def test_a_row_over_several_lines_is_named_by_its_last(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="line 4: label is empty"):
        csv_of(tmp_path, 'path,label,note\nx,1,"a\nb"\ny,,c\n')


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "no column named 'path'"),
        (b"file,label\nx,1\n", r"found \['file', 'label'\]"),
        (b"path\n\xff\xfe\n", "not a UTF-8 CSV, after line "),
        (b'path\n"open\n', "not a UTF-8 CSV, after line 2"),
    ],
)
def test_a_malformed_csv(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "list.csv").write_bytes(content)
    with pytest.raises(ManifestError, match=reason):
        dp.Manifest.from_csv(tmp_path / "list.csv")


def test_a_missing_csv(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"no\.csv: cannot be read: No such file"):
        dp.Manifest.from_csv(tmp_path / "no.csv")


@pytest.mark.parametrize("name", ["narrow\u202fspace.png", "no\u00a0break.png", "zwj\u200d.png", "🙂.png"])
def test_names_as_desktops_give_them(tmp_path: Path, name: str) -> None:
    """macOS puts U+202F before AM and PM in the names of its screenshots."""
    assert list(csv_of(tmp_path, f"path\n{name}\n").paths) == [name]


def test_parquet_gives_what_the_csv_gives(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {"path": ["a", "b/c"], "label": [3, 1], "frame": [None, 4], "split": ["x", None], "more": [0.1, 0.2]}
    pq.write_table(pa.table(columns), tmp_path / "list.parquet")
    found = dp.Manifest.from_parquet(tmp_path / "list.parquet", root=tmp_path)
    expected = csv_of(tmp_path, "path,label,frame,split\na,3,,x\nb/c,1,4,\n")
    assert list(found) == list(expected)
    assert found.digest() == expected.digest()


def test_bad_rows_of_parquet_are_named_by_number(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"path": ["a", "../b", None]}), tmp_path / "list.parquet")
    with pytest.raises(ManifestError, match=r"(?s)2 of 3 rows.*line 1: .*leave the root.*line 2: path is empty"):
        dp.Manifest.from_parquet(tmp_path / "list.parquet")
    (tmp_path / "list.parquet").write_bytes(b"junk")
    with pytest.raises(ManifestError, match="not readable as Parquet"):
        dp.Manifest.from_parquet(tmp_path / "list.parquet")
    with pytest.raises(ManifestError, match="not readable as Parquet"):
        dp.Manifest.from_parquet(tmp_path / "missing.parquet")
    pq.write_table(pa.table({"file": ["a"]}), tmp_path / "list.parquet")
    with pytest.raises(ManifestError, match="no column named 'path'"):
        dp.Manifest.from_parquet(tmp_path / "list.parquet")


def test_class_folders_are_listed_by_content(tmp_path: Path) -> None:
    for name, data in {
        "b/1.jpg": coded(1),
        "b/deep/er/2.bin": coded(2, "png"),
        "a/3.dcm": coded(3, "dicom"),
        "a/notes.jpg": b"a text with the name of an image",
        "a/.hidden.jpg": coded(4),
        ".git/5.jpg": coded(5),
        "loose.jpg": coded(6),
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    found = dp.Manifest.from_folder(tmp_path)
    assert [(sample.path, sample.label) for sample in found] == [("a/3.dcm", 0), ("b/1.jpg", 1), ("b/deep/er/2.bin", 1)]
    assert found.classes == ("a", "b")


def test_class_folders_stay_classes_when_their_names_are_numbers(tmp_path: Path) -> None:
    for name in ("10", "9"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.jpg").write_bytes(coded(1))
    found = dp.Manifest.from_folder(tmp_path)
    by_path = {sample.path: sample.label for sample in found}
    assert by_path in ({"10/x.jpg": 0, "9/x.jpg": 1}, {"10/x.jpg": 10, "9/x.jpg": 9})


def test_a_dicom_tree_lists_every_frame(tmp_path: Path) -> None:
    frame = np.zeros((4, 5), np.uint8)
    (tmp_path / "p1").mkdir()
    (tmp_path / "p1" / "IM0001").write_bytes(dicom([frame, frame, frame]))
    (tmp_path / "single").write_bytes(dicom(frame))
    (tmp_path / "damaged").write_bytes(dicom(frame)[:-10])
    (tmp_path / "photo.dcm").write_bytes(coded(1))
    found = dp.Manifest.from_dicom_tree(tmp_path)
    listed = [(sample.path, sample.frame, sample.group, sample.label) for sample in found]
    assert ("damaged", 0, "", -1) in listed  # so that its damage is reported, not hidden
    assert [row for row in listed if row[0] != "damaged"] == [
        *(("p1/IM0001", i, "p1", -1) for i in range(3)),
        ("single", 0, "", -1),
    ]


def test_dicom_files_without_preamble_are_listed_when_asked(tmp_path: Path) -> None:
    frame = np.zeros((4, 5), np.uint8)
    (tmp_path / "whole").write_bytes(dicom(frame))
    (tmp_path / "bare").write_bytes(dicom([frame, frame])[132:])
    (tmp_path / "text").write_text("no image")
    assert list(dp.Manifest.from_dicom_tree(tmp_path).paths) == ["whole"]
    assert list(dp.Manifest.from_dicom_tree(tmp_path, without_preamble=True).paths) == ["bare", "bare", "whole"]
    (tmp_path / "whole").unlink()
    with pytest.raises(ManifestError, match="give without_preamble=True"):
        dp.Manifest.from_dicom_tree(tmp_path)


@pytest.mark.parametrize("make", [dp.Manifest.from_folder, dp.Manifest.from_dicom_tree])
def test_files_that_cannot_be_read_are_all_named(
    tmp_path: Path, make: Callable[[Path], dp.Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "class").mkdir()
    (tmp_path / "class" / "good").write_bytes(coded(1, "dicom"))
    for name in ("one", "two"):
        (tmp_path / "class" / name).write_bytes(coded(1))
    monkeypatch.setattr(Path, "open", refusing(Path.open, "one", "two"))
    with pytest.raises(ManifestError, match=r"2 of 3 files cannot be read; make them readable") as bad:
        make(tmp_path)
    assert sorted(bad.value.problems) == [1, 2]
    assert "one" not in str(bad.value)
    assert "DALI_PIPES_SHOW_PATHS=1 names them" in str(bad.value)
    monkeypatch.setenv("DALI_PIPES_SHOW_PATHS", "1")
    with pytest.raises(ManifestError, match=r"\n.*class/one: Permission denied\n.*class/two: Permission denied"):
        make(tmp_path)


@pytest.mark.parametrize("make", [dp.Manifest.from_folder, dp.Manifest.from_dicom_tree])
def test_a_folder_that_cannot_be_listed_is_named(
    tmp_path: Path, make: Callable[[Path], dp.Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "class" / "inner").mkdir(parents=True)
    monkeypatch.setattr(os, "scandir", refusing(os.scandir, "inner"))
    with pytest.raises(ManifestError, match=r"cannot be listed: Permission denied\. Make it readable") as caught:
        make(tmp_path)
    assert "inner" not in str(caught.value)
    monkeypatch.setenv("DALI_PIPES_SHOW_PATHS", "1")
    with pytest.raises(ManifestError, match=r"class/inner cannot be listed"):
        make(tmp_path)


@pytest.mark.parametrize("make", [dp.Manifest.from_folder, dp.Manifest.from_dicom_tree])
def test_empty_and_missing_folders(tmp_path: Path, make: object) -> None:
    with pytest.raises(ManifestError, match="found"):
        make(tmp_path)  # type: ignore[operator]
    with pytest.raises(ManifestError, match="no such folder"):
        make(tmp_path / "missing")  # type: ignore[operator]


@pytest.mark.parametrize("through", ["file", "folder", "chain"])
def test_a_link_out_of_the_root_is_refused_when_the_file_is_about_to_be_read(tmp_path: Path, through: str) -> None:
    root, outside = tmp_path / "root", tmp_path / "root-secret"  # a sibling whose name begins alike
    root.mkdir()
    outside.mkdir()
    (outside / "x.jpg").write_bytes(coded(1))
    if through == "file":
        (root / "x.jpg").symlink_to(outside / "x.jpg")
        path = "x.jpg"
    elif through == "folder":
        (root / "sub").symlink_to(outside)
        path = "sub/x.jpg"
    else:
        (root / "one").symlink_to("two")
        (root / "two").symlink_to(outside / "x.jpg")
        path = "one"
    found = dp.Manifest.from_csv(write_csv(tmp_path / "list.csv", [(path, 1)]), root=root)
    with pytest.raises(ManifestError, match="leads out of the manifest's root through a link"):
        found.resolve(0)
    with dp.Loader(found, dp.Recipe(size=4), batch_size=1, backend="torch") as loader, pytest.raises(ManifestError):
        next(iter(loader))


def test_links_inside_the_root_and_a_root_that_is_a_link_are_fine(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "x.jpg").write_bytes(coded(1))
    (tmp_path / "real" / "alias.jpg").symlink_to("x.jpg")
    (tmp_path / "root").symlink_to("real")
    found = dp.Manifest.from_csv(write_csv(tmp_path / "list.csv", [("alias.jpg", 1)]), root=tmp_path / "root")
    assert found.resolve(0) == (tmp_path / "real" / "x.jpg").resolve()


def test_split_and_subset(tmp_path: Path) -> None:
    found = csv_of(tmp_path, "path,label,split,frame\na,x,train,0\nb,y,val,1\nc,x,train,2\n")
    train = found.split("train")
    assert [(sample.path, sample.label, sample.frame) for sample in train] == [("a", 0, 0), ("c", 0, 2)]
    assert train.classes == ("x", "y")
    assert [sample.index for sample in train] == [0, 1]
    assert [sample.path for sample in found.subset([2, 0, 2])] == ["c", "a", "c"]
    assert list(found.subset(range(0))) == []
    with pytest.raises(ConfigError, match=r"split 'test': no such split; the manifest has \['train', 'val'\]"):
        found.split("test")
    for wrong in ([3], [-1]):
        with pytest.raises(ConfigError, match=r"indices must lie in 0\.\.2"):
            found.subset(wrong)


def test_a_manifest_is_a_sequence(tmp_path: Path) -> None:
    found = csv_of(tmp_path, "path\na\nb\n")
    assert len(found) == 2
    assert found[-1] == found[1] == list(found)[1]
    with pytest.raises(IndexError):
        found[2]
    assert str(tmp_path) in repr(found)
    assert "2 samples" in repr(found)


@pytest.mark.parametrize("change", ["path,label\na,1\nc,2\n", "path,label\na,1\nb,3\n", "path,label\nb,2\na,1\n",
                                    "path,label,frame\na,1,0\nb,2,1\n", "path,label,id\na,1,x\nb,2,y\n",
                                    "path,label\na,1\n"])  # fmt: skip
def test_the_digest_tells_manifests_apart(tmp_path: Path, change: str) -> None:
    base = csv_of(tmp_path, "path,label\na,1\nb,2\n")
    assert base.digest() == csv_of(tmp_path, "label,path\n1,a\n2,b\n").digest()
    assert base.digest() != csv_of(tmp_path, change).digest()


def test_messages_name_samples_without_their_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = csv_of(tmp_path, "path,id\nmiller^anna.dcm,miller\n")
    monkeypatch.delenv("DALI_PIPES_SHOW_PATHS", raising=False)
    assert "miller" not in found.describe(0)
    assert found.describe(0).startswith("sample 0 [")
    monkeypatch.setenv("DALI_PIPES_SHOW_PATHS", "1")
    assert "miller^anna.dcm" in found.describe(0)


def test_a_large_manifest_is_compact(tmp_path: Path) -> None:
    count = 50_000
    rows = "".join(f"some/folder/{i:07d}.dcm,{i % 7}\n" for i in range(count))
    found = csv_of(tmp_path, "path,label\n" + rows)
    assert len(found) == count
    held = sum(column.nbytes for column in (found.paths, found.ids, found.splits, found.groups))
    assert held + found.labels.nbytes + found.frames.nbytes < 130 * count
    assert found[count - 1].path == f"some/folder/{count - 1:07d}.dcm"


@given(st.lists(texts))
def test_a_column_holds_any_text(values: list[str]) -> None:
    column = TextColumn(values)
    assert list(column) == values
    assert len(column) == len(values)
    assert list(column[::-1]) == values[::-1]
    assert [column[i - len(values)] for i in range(len(values))] == values
    with pytest.raises(IndexError):
        column[len(values)]


@given(st.binary(max_size=20))
def test_a_column_holds_names_that_are_not_utf8(raw: bytes) -> None:
    name = os.fsdecode(raw)
    assert os.fsencode(TextColumn([name, "x"])[0]) == raw


@given(st.lists(texts, min_size=1), st.data())
def test_take_is_indexing(values: list[str], data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.integers(0, len(values) - 1)))
    assert list(TextColumn(values).take(np.array(chosen, np.int64))) == [values[i] for i in chosen]


@given(st.lists(texts), st.lists(texts))
def test_columns_with_equal_buffers_are_equal(left: list[str], right: list[str]) -> None:
    assert (TextColumn(left).buffers() == TextColumn(right).buffers()) == (left == right)


@given(st.binary(max_size=200))
def test_only_our_errors_come_out_of_any_csv(raw: bytes) -> None:
    import tempfile

    with tempfile.NamedTemporaryFile(suffix=".csv") as file:
        file.write(b"path,label,frame\n" + raw)
        file.flush()
        try:
            found = dp.Manifest.from_csv(file.name)
        except ManifestError:
            return
        for sample in found:
            assert sample.path
            assert ".." not in sample.path.split("/")
            assert not os.path.isabs(sample.path)


def test_whole_numbers_written_with_a_point_are_whole_numbers(tmp_path: Path) -> None:
    found = csv_of(tmp_path, "path,label\na,0.0\nb,10.0\nc,2\n")
    assert found.labels.tolist() == [0, 10, 2]
    assert found.classes == ()


def test_numbers_with_a_fraction_are_no_labels(tmp_path: Path) -> None:
    with pytest.raises(dp.ManifestError, match=r"line 3: label 0\.5 is not a whole number"):
        csv_of(tmp_path, "path,label\na,1\nb,0.5\n")


def test_classes_can_be_numbered_alike_in_several_manifests(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text("path,label\na,melanoma\n")
    found = dp.Manifest.from_csv(path, classes=["nevus", "melanoma"])
    assert (found.labels.tolist(), found.classes) == ([1], ("nevus", "melanoma"))
    with pytest.raises(dp.ManifestError, match="none of the classes") as caught:
        dp.Manifest.from_csv(path, classes=["nevus"])
    assert list(caught.value.problems) == [2]


def test_masks_and_slices_choose_samples(tmp_path: Path) -> None:
    found = csv_of(tmp_path, "path,label\na,0\nb,1\nc,1\n")
    assert list(found.subset(found.labels == 1).paths) == ["b", "c"]
    assert list(found[1:].paths) == ["b", "c"]
    with pytest.raises(dp.ConfigError, match="whole numbers, or 3 booleans"):
        found.subset([0.5])


def test_a_root_that_is_no_folder_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("path\na\n")
    with pytest.raises(dp.ManifestError, match="is no folder; give root="):
        dp.Manifest.from_csv(tmp_path / "m.csv", root=tmp_path / "absent")


def test_pipes_are_not_listed(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(dp.ManifestError, match="no DICOM file"):
        dp.Manifest.from_dicom_tree(tmp_path)


@given(
    st.lists(st.sampled_from(["", "a", "ab", "ba", "é", "train", "trai"])),
    st.sampled_from(["", "a", "ab", "é", "train"]),
)
def test_looking_for_a_value_is_comparing_each(values: list[str], wanted: str) -> None:
    column = TextColumn(values)
    assert column.equals(wanted).tolist() == [value == wanted for value in values]
    names, codes = column.codes()
    assert names == list(dict.fromkeys(values))
    assert [names[code] for code in codes.tolist()] == values


@given(st.lists(st.lists(texts), min_size=1, max_size=4))
def test_columns_one_after_another(parts: list[list[str]]) -> None:
    assert list(joined([TextColumn(part) for part in parts])) == [value for part in parts for value in part]
