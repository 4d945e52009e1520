"""The README keeps its word: what it links to exists, and the first lines of its quick start run as they stand."""

import re
from pathlib import Path

import dali_pipes as dp
from dali_pipes.demo_data import make_demo_set

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")


def test_every_file_that_is_linked_exists() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert len(links) > 20
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_commands_are_the_ones_there_are() -> None:
    from dali_pipes.cli import COMMANDS

    assert set(re.findall(r"^\| `dali-pipes (\w+)", README, re.MULTILINE)) == set(COMMANDS)


def test_the_quick_start_runs(tmp_path: Path) -> None:
    make_demo_set(tmp_path, mammograms=2, photos=3)
    lines = ["path,label,split", *(f"photos/00{i}.jpg,{i % 2},train" for i in range(3)), "photos/000.jpg,0,test"]
    (tmp_path / "train.csv").write_text("\n".join(lines))
    code = next(block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "Loader(" in block)
    code = code.replace('"train.csv", root="archive"', f"{str(tmp_path / 'train.csv')!r}, root={str(tmp_path)!r}")
    code = code.replace('"cache-dir"', repr(str(tmp_path / "cache"))).replace("range(10)", "range(2)")
    seen: list[tuple[int, ...]] = []
    names = {"train_step": lambda image, label: seen.append((*image.shape, len(label)))}
    exec(compile(code, "README.md", "exec"), names)
    names["loader"].close()
    assert seen == [(3, 3, 512, 512, 3)] * 2
    assert isinstance(names["recipe"], dp.Recipe)
