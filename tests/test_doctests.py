"""The examples in docstrings run, and give what they show."""

import doctest
import importlib
from pathlib import Path

import pytest
from archives import coded, manifest_of

ROOT = Path(__file__).parent.parent
MODULES = sorted(
    (f"dali_pipes.{name}" if name.startswith("cache") else name).removesuffix(".__init__")
    for folder in ("cache", "dali_pipes")
    for path in ROOT.glob(f"{folder}/**/*.py")
    if ">>>" in path.read_text("utf-8")
    for name in [".".join(path.relative_to(ROOT).with_suffix("").parts)]
)


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest_of(tmp_path, {"a.jpg": coded(0), "b.jpg": coded(1)})
    (tmp_path / "list.csv").rename(tmp_path / "train.csv")
    monkeypatch.chdir(tmp_path)
    found = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert found.attempted, f"{name} has >>> where doctest does not look: put the example into a docstring"
    assert not found.failed
