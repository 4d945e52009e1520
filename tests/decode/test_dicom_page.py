"""The page on DICOM and photos names every transfer syntax with its decoder, every limit, every measured format."""

from dataclasses import fields
from pathlib import Path

import damage

from dali_pipes.decode import Limits, decoders

PAGE = (Path(__file__).parents[2] / "docs" / "dicom.md").read_text()
LINES = PAGE.splitlines()


def test_every_transfer_syntax_has_a_row():
    for row in decoders():
        (line,) = [line for line in LINES if f"| {row['uid']} |" in line]
        package = row["decoder"].split()[0] if row["decoder"] else "none"
        assert package.replace("native", "ours") in line
        assert f"`{row['tag']}`" in line


def test_every_limit_has_a_row():
    for field in fields(Limits):
        assert sum(line.startswith(f"| `{field.name}` |") for line in LINES) == 1, field.name


def test_every_format_was_measured():
    for name in damage.FORMATS:
        assert sum(line.startswith(f"| {name} |") for line in LINES) == 1, name
