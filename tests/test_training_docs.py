"""The code of docs/training-loops.md runs, and what it names is there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from archives import coded, manifest_of

import dali_pipes as dp

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs/training-loops.md").read_text("utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


def test_the_code_runs_from_top_to_bottom(tmp_path: Path) -> None:
    manifest = manifest_of(tmp_path, {f"{i}.img": coded(i) for i in range(6)}, [i % 2 for i in range(6)])
    names: dict[str, Any] = {
        "dp": dp, "torch": torch, "manifest": manifest, "recipe": dp.Recipe(size=8, mean=0.5, std=0.25),
    }  # fmt: skip
    assert len(BLOCKS) >= 7
    for block in BLOCKS:
        if "ImageDataModule" not in block:
            exec(block, names)
    assert names["total"] == 6
    assert names["images"].shape == (4, 3, 8, 8)


def test_lightnings_line_is_that_of_the_example() -> None:
    (block,) = [block.strip() for block in BLOCKS if "ImageDataModule" in block]
    assert block in (ROOT / "examples/lightning_module.py").read_text("utf-8")


def test_every_example_that_is_named_is_there() -> None:
    for name in set(re.findall(r"examples/\w+\.py", TEXT)):
        assert (ROOT / name).exists(), name
