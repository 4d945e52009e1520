"""What is no table, folder or data set is refused by its type, with the method that takes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from dali_pipes import ConfigError, Manifest

PATHS = ("from_csv", "from_parquet", "from_folder", "from_dicom_tree")
METHODS = (*PATHS, "from_records", "from_pandas", "from_hf")
WRONG = (3, None, b"rows.csv", [3], {"path": ["a.png"]}, pd.Series(["a.png"]), object())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("given", WRONG, ids=lambda given: type(given).__name__)
def test_of_another_type(method: str, given: Any) -> None:
    with pytest.raises(ConfigError, match=rf"^{method}: "):
        getattr(Manifest, method)(given)


@pytest.mark.parametrize(
    ("method", "given", "message"),
    [
        ("from_pandas", 3, "an int where a pandas data frame belongs; files and folders"),
        ("from_pandas", "rows.csv", "a str where a pandas data frame belongs; from_csv and from_parquet take a file"),
        ("from_pandas", [{"path": "a"}], "a list where a pandas data frame belongs; from_records takes a list"),
        ("from_records", pd.DataFrame({"path": ["a"]}), "a DataFrame where mappings belong.*from_pandas takes a data"),
        ("from_records", {"path": ["a"]}, r"a dict where mappings belong.*from_pandas\(pandas.DataFrame"),
        ("from_records", [{"path": "a"}, "b"], "record 1 is a str, not a mapping"),
        ("from_csv", pd.DataFrame(), "a DataFrame where the path of a CSV belongs; from_pandas takes"),
        ("from_hf", "archive", "a str where a Hugging Face data set belongs"),
    ],
)
def test_the_message_names_the_method_that_takes_it(method: str, given: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        getattr(Manifest, method)(given)


def test_another_kind_of_frame_is_told_how_to_become_one() -> None:
    class Polars:
        columns = ("path",)

        def to_pandas(self) -> None: ...

    with pytest.raises(ConfigError, match=r"a Polars where a pandas data frame belongs; call its to_pandas\(\)"):
        Manifest.from_pandas(Polars())


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ({"root": 3}, r"from_records\(root=\): an int where the path of a folder belongs"),
        ({"classes": 3}, r"classes=3: give a list of names, such as \[3\]"),
        ({"targets": "age"}, r"targets='age': give a list of names, such as \['age'\]"),
        ({"columns": b"age"}, "columns=b'age': give a list of names"),
        ({"path_column": 3}, "path_column=3: give the name of a column"),
        ({"label_column": None}, "label_column=None: give the name of a column"),
    ],
)
def test_other_arguments(argument: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        Manifest.from_records([{"path": "a.png"}], **{"root": tmp_path, **argument})


def test_any_iterable_of_mappings_will_do(tmp_path: Path) -> None:
    found = Manifest.from_records(({"path": f"{n}.png"} for n in range(3)), root=tmp_path)
    assert list(found.paths) == ["0.png", "1.png", "2.png"]
    with pytest.raises(ConfigError, match="classes=3"):
        Manifest.from_folder(tmp_path, classes=3)  # type: ignore[arg-type]
