"""CSVs as people have them, and what each becomes: samples, or an error that says what to do.

Each row of `READ` is a name, the file's bytes, the options of `from_csv`, and the (path, label) pairs that come out;
each row of `REFUSED` has a part of the message instead.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dali_pipes as dp

Case = tuple[str, bytes, dict[str, Any], Any]

READ: list[Case] = [
    ("plain", b"path,label\na.jpg,0\nb.jpg,1\n", {}, [("a.jpg", 0), ("b.jpg", 1)]),
    ("no newline at the end", b"path,label\na.jpg,0", {}, [("a.jpg", 0)]),
    ("paths alone", b"path\na.jpg\n", {}, [("a.jpg", -1)]),
    ("byte order mark", b"\xef\xbb\xbfpath,label\na.jpg,1\n", {}, [("a.jpg", 1)]),
    ("UTF-16 of Excel", "path\tlabel\na.jpg\t1\n".encode("utf-16"), {}, [("a.jpg", 1)]),
    ("cp1252", "path;label\nMüller.jpg;1\n".encode("cp1252"), {"encoding": "cp1252"}, [("Müller.jpg", 1)]),
    ("line ends of Windows", b"path,label\r\na.jpg,1\r\nb.jpg,0\r\n", {}, [("a.jpg", 1), ("b.jpg", 0)]),
    ("line ends of old Macs", b"path,label\ra.jpg,1\r", {}, [("a.jpg", 1)]),
    ("semicolons", b"path;label\na.jpg;1\n", {}, [("a.jpg", 1)]),
    ("tabs", b"path\tlabel\na.jpg\t1\n", {}, [("a.jpg", 1)]),
    ("bars", b"path|label\na.jpg|1\n", {}, [("a.jpg", 1)]),
    ("another separator", b"path:label\na.jpg:1\n", {"sep": ":"}, [("a.jpg", 1)]),
    ("semicolons around commas", b"path;label;note\na,b.jpg;1;x,y\n", {}, [("a,b.jpg", 1)]),
    ("Excel names its separator", b"sep=;\r\npath;label\r\na.jpg;1\r\n", {}, [("a.jpg", 1)]),
    ("quotes", b'"path","label"\n"a, b.jpg","1"\n"say ""x"".jpg","0"\n', {}, [("a, b.jpg", 1), ('say "x".jpg', 0)]),
    ("a newline in a note", b'path,note,label\na.jpg,"one\ntwo",1\n', {}, [("a.jpg", 1)]),
    ("blank lines", b"\xef\xbb\xbfpath,label\n\na.jpg,1\n\n\n  \nb.jpg,0\n\n", {}, [("a.jpg", 1), ("b.jpg", 0)]),
    ("empty rows of a spreadsheet", b"path,label\na.jpg,1\n,\n , \n", {}, [("a.jpg", 1)]),
    ("a comma after each row", b"path,label\na.jpg,1,\nb.jpg,0,,\n", {}, [("a.jpg", 1), ("b.jpg", 0)]),
    ("a comma after the header too", b"path,label,\na.jpg,1,\n", {}, [("a.jpg", 1)]),
    ("spaces in the header", b" path , label \na.jpg,1\n", {}, [("a.jpg", 1)]),
    ("spaces after commas", b"path, label\na.jpg, 1\n b.jpg , 0 \n", {}, [("a.jpg", 1), ("b.jpg", 0)]),
    ("a header in capitals", b"Path,LABEL\na.jpg,1\n", {}, [("a.jpg", 1)]),
    ("other names", b"file,dx\na.jpg,1\n", {"path_column": "file", "label_column": "dx"}, [("a.jpg", 1)]),
    ("the index of pandas", b",path,label\n0,a.jpg,1\n1,b.jpg,0\n", {}, [("a.jpg", 1), ("b.jpg", 0)]),
    ("labels as floats", b"path,label\na.jpg,1.0\nb.jpg,0.0\n", {}, [("a.jpg", 1), ("b.jpg", 0)]),
    ("booleans", b"path,label\na.jpg,True\nb.jpg,False\n", {}, [("a.jpg", 1), ("b.jpg", 0)]),
    ("names", b"path,label\na.jpg,nevus\nb.jpg,melanoma\n", {}, [("a.jpg", 1), ("b.jpg", 0)]),
    ("names with spaces around", b"path,label\na.jpg,nevus\nb.jpg, nevus \n", {}, [("a.jpg", 0), ("b.jpg", 0)]),
    ("classes given", b"path,label\na.jpg,b\nb.jpg,a\n", {"classes": ["b", "a", "c"]}, [("a.jpg", 0), ("b.jpg", 1)]),
    ("numbers of named classes", b"path,label\na.jpg,1\n", {"classes": ["benign", "malign"]}, [("a.jpg", 1)]),
    (
        "numbers and names, told apart",
        b"path,label\na.jpg,2\nb.jpg,unknown\nc.jpg,10\n",
        {"classes": [*map(str, range(12)), "unknown"]},
        [("a.jpg", 2), ("b.jpg", 12), ("c.jpg", 10)],
    ),
    (
        "a class that is called NA",
        b"path,label\na.jpg,NA\nb.jpg,K\n",
        {"classes": ["K", "NA"]},
        [("a.jpg", 1), ("b.jpg", 0)],
    ),
    ("a class that is called none", b"path,label\na.jpg,none\nb.jpg,some\n", {}, [("a.jpg", 0), ("b.jpg", 1)]),
    (
        "missing labels kept",
        b"path,label\na.jpg,3\nb.jpg,\nc.jpg,NaN\nd.jpg,NA\ne.jpg,null\n",
        {"missing_label": -1},
        [("a.jpg", 3), ("b.jpg", -1), ("c.jpg", -1), ("d.jpg", -1), ("e.jpg", -1)],
    ),
    (
        "missing labels among names",
        b"path,label\na.jpg,x\nb.jpg,nan\n",
        {"missing_label": -1},
        [("a.jpg", 0), ("b.jpg", -1)],
    ),
    ("negative labels", b"path,label\na.jpg,-1\nb.jpg,+2\n", {}, [("a.jpg", -1), ("b.jpg", 2)]),
    ("duplicate rows stay two samples", b"path,label\na.jpg,1\na.jpg,1\n", {}, [("a.jpg", 1), ("a.jpg", 1)]),
    ("a column twice that is not read", b"path,x,x,label\na.jpg,1,2,1\n", {}, [("a.jpg", 1)]),
    ("paths of Windows", b"path,label\nimages\\left\\a.jpg,1\n", {}, [("images/left/a.jpg", 1)]),
    ("paths from find", b"path,label\n./images/a.jpg,1\n", {}, [("images/a.jpg", 1)]),
    ("absolute paths below the root", b"path,label\n{root}/images/a.jpg,1\n", {}, [("images/a.jpg", 1)]),
    ("paths with dots", b"path,label\na..b/c...jpg,1\n", {}, [("a..b/c...jpg", 1)]),
    ("a regression's column", b"path,label\na.jpg,0.5\n", {"targets": ["label"]}, [("a.jpg", -1)]),
    ("thousands of a column", b"path,label\n" + b"a.jpg,1\n" * 3000, {}, [("a.jpg", 1)] * 3000),
]

REFUSED: list[Case] = [
    ("no header", b"a.jpg,1\nb.jpg,0\n", {}, r"no column named 'path'; found \['a\.jpg', '1'\]\. path_column="),
    ("an empty file", b"", {}, r"no column named 'path'; found \[\]"),
    ("cp1252 unsaid", "path\nMüller.jpg\n".encode("cp1252"), {}, "not a UTF-8 CSV.*Give encoding=, such as 'cp1252'"),
    ("an encoding unheard of", b"path\na\n", {"encoding": "cp9"}, "unknown encoding: cp9; give one that Python knows"),
    ("an open quote", b'path\n"a.jpg\n', {}, "not a UTF-8 CSV, after line 2"),
    ("two label columns", b"path,label,label\na.jpg,1,2\n", {}, "2 columns are named 'label'; rename all but one"),
    ("no such label column", b"path,label\na.jpg,1\n", {"label_column": "dx"}, "no column named 'dx'; found"),
    (
        "one stray name",
        b"path,label\na.jpg,0\nb.jpg,2\nc.jpg,unknown\n",
        {},
        r"1 of 3 rows cannot be used:\n  line 4: label 'unknown' is a name among numbers; .*classes=",
    ),
    ("one stray number", b"path,label\na.jpg,x\nb.jpg,y\nc.jpg,1\n", {}, "line 4: label '1' is a number among names"),
    (
        "an empty label",
        b"path,label\na.jpg,1\nb.jpg,\n",
        {},
        "line 3: label is empty; correct it, or keep such rows by missing_label=-1",
    ),
    ("NaN among numbers", b"path,label\na.jpg,1.0\nb.jpg,nan\n", {}, "line 3: label 'nan' means that it is missing"),
    ("NA among names", b"path,label\na.jpg,x\nb.jpg,NA\n", {}, "line 3: label 'NA' means that it is missing"),
    ("a float label", b"path,label\na.jpg,1\nb.jpg,0.5\n", {}, r"line 3: label 0\.5 is not a whole number.*targets=\["),
    ("a label in scientific writing", b"path,label\na.jpg,1\nb.jpg,1e-3\n", {}, "label 1e-3 is not a whole number"),
    (
        "a class that is not known",
        b"path,label\na.jpg,z\n",
        {"classes": ["x"]},
        r"label 'z' is none of the classes \['x'\]",
    ),
    (
        "a number beyond the classes",
        b"path,label\na.jpg,2\n",
        {"classes": ["x", "y"]},
        r"label 2 is no number of a class; they are 0\.\.1",
    ),
    ("a short row", b"path,label\na.jpg\n", {}, "line 2: it has 1 fields, the header has 2"),
    ("a comma too many", b"path,label\na,b.jpg,1\n", {}, "line 2: it has 3 fields, the header has 2"),
    ("a drive", b"path\nC:\\images\\a.jpg\n", {}, "must be relative to the root"),
    ("an address among others", b"path\na.jpg\nhttps://host/a.jpg\n", {}, "must be relative to the root"),
    (
        "an absolute path elsewhere",
        b"path\n/elsewhere/a.jpg\n",
        {},
        "path is absolute and not under the root /.*set root=",
    ),
    ("out of the root", b"path\n../a.jpg\n", {}, r"may not leave the root"),
    ("a control character", b"path\na\x07.jpg\n", {}, "control characters, and there is no such file"),
    (
        "a decimal comma",
        b"path;age\na.jpg;40,5\n",
        {"targets": ["age"]},
        "target 'age' is '40,5'; give a finite number with a decimal point",
    ),
    ("an infinite target", b"path,age\na.jpg,inf\n", {"targets": ["age"]}, "target 'age' is 'inf'"),
    ("targets as one text", b"path,age\na.jpg,1\n", {"targets": "age"}, r"targets='age': give a list of names"),
    ("no such target", b"path,age\na.jpg,1\n", {"targets": ["size"]}, "no column named 'size'"),
    ("a frame in words", b"path,frame\na.jpg,first\n", {}, "frame is 'first'; give a number from 0"),
    ("a class twice", b"path,label\na.jpg,x\n", {"classes": ["x", "x"]}, "a name stands there twice"),
    (
        "another policy",
        b"path,label\na.jpg,1\n",
        {"missing_label": "skip"},
        "missing_label='skip': give 'error', or -1",
    ),
    ("a long separator", b"path,label\na.jpg,1\n", {"sep": ", "}, "sep=', ': give one character"),
]


def read(folder: Path, data: bytes, options: dict[str, Any]) -> dp.Manifest:
    (folder / "list.csv").write_bytes(data.replace(b"{root}", str(folder).encode()))
    return dp.Manifest.from_csv(folder / "list.csv", **options)


@pytest.mark.parametrize(("name", "data", "options", "expected"), READ, ids=[case[0] for case in READ])
def test_it_is_read(tmp_path: Path, name: str, data: bytes, options: dict[str, Any], expected: Any) -> None:
    found = read(tmp_path, data, options)
    assert [(sample.path, sample.label) for sample in found] == expected


@pytest.mark.parametrize(("name", "data", "options", "words"), REFUSED, ids=[case[0] for case in REFUSED])
def test_it_is_refused(tmp_path: Path, name: str, data: bytes, options: dict[str, Any], words: str) -> None:
    with pytest.raises((dp.ManifestError, dp.ConfigError), match=rf"(?s){words}"):
        read(tmp_path, data, options)


def test_targets_and_further_columns(tmp_path: Path) -> None:
    data = b"Path,age,Density,Note,frame,label\na.jpg,40.5,True,x,0.0,1\nb.jpg,,0,,3.0,0\n\nc.jpg,NaN,1e1, y ,,1\n"
    found = read(tmp_path, data, {"targets": ["age", "density"]})
    assert found.targets["age"].dtype == np.float32
    assert np.array_equal(found.targets["age"], np.array([40.5, np.nan, np.nan], np.float32), equal_nan=True)
    assert found.targets["density"].tolist() == [1, 0, 10]
    assert {name: list(column) for name, column in found.columns.items()} == {"Note": ["x", "", "y"]}
    assert found.frames.tolist() == [0, 3, 0]
    assert found.rows.tolist() == [0, 1, 2]
    chosen = found.subset([2, 0])
    assert (chosen.rows.tolist(), list(chosen.columns["Note"])) == ([2, 0], ["y", "x"])
    assert chosen.targets["density"].tolist() == [10, 1]
    assert found.digest() != read(tmp_path, data, {"targets": ["age"]}).digest()
    few = read(tmp_path, data, {"columns": ["note"]})
    assert list(few.columns) == ["Note"]


def test_classes_that_differ_in_case_are_warned_of(tmp_path: Path) -> None:
    data = b"path,label\na.jpg,Benign\nb.jpg,benign\n"
    with pytest.warns(dp.DaliPipesWarning, match="'Benign' and 'benign' differ in the case of letters only"):
        assert read(tmp_path, data, {}).classes == ("Benign", "benign")
    assert read(tmp_path, data, {"classes": ["benign", "Benign"]}).labels.tolist() == [1, 0]


@pytest.mark.parametrize("name", ["back\\slash.jpg", " outer .jpg ", "new\nline.jpg", "tab\t.jpg"])
def test_odd_names_are_taken_literally_where_such_a_file_is_there(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    found = read(tmp_path, b'path\n"' + name.encode() + b'"\n', {})
    assert list(found.paths) == [name]


def test_a_root_that_is_a_link_takes_absolute_paths_of_either_kind(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    data = f"path\n{tmp_path}/real/a.jpg\n{tmp_path}/link/b.jpg\n".encode()
    found = read(tmp_path, data, {"root": tmp_path / "link"})
    assert list(found.paths) == ["a.jpg", "b.jpg"]
