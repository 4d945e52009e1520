"""The README keeps its word: what it links to exists, and the first lines of its quick start run as they stand."""

import dataclasses
import re
from pathlib import Path

import dali_pipes as dp
from dali_pipes.tools.demo_data import make_demo_set

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
PAGES = {path.name: path.read_text("utf-8") for path in sorted((ROOT / "docs").glob("*.md"))}


def test_every_file_that_is_linked_exists() -> None:
    pages = {ROOT / "README.md": README, **{ROOT / "docs" / name: text for name, text in PAGES.items()}}
    pages |= {path: path.read_text("utf-8") for path in (ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md")}
    links = [(page, link) for page, text in pages.items() for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text)]
    assert len(links) > 100
    assert [(page.name, link) for page, link in links if not (page.parent / link).exists()] == []


def test_the_readme_leads_to_every_page() -> None:
    assert {name for name in PAGES if f"(docs/{name})" not in README} <= {"cache-format.md", "security.md"}


def test_the_commands_are_the_ones_there_are() -> None:
    from dali_pipes.cli import COMMANDS

    named = re.findall(
        r"^\| `(\w+)[ `]", PAGES["command-line.md"].split("## Commands")[1].split("## ")[0], re.MULTILINE
    )
    assert set(named) == set(COMMANDS)


def test_every_promise_links_tests() -> None:
    promises = [line.split("|")[2] for line in PAGES["promises.md"].splitlines() if re.search(r"\| \[`tests/", line)]
    assert len(promises) > 10
    short = README.split("## Promises")[1].split("\n\n[docs")[0]
    assert short.count("\n- ") == short.count(" ([`tests/") >= 5
    for row in [*promises, short]:
        for link in re.findall(r"\]\((?:\.\./)?(tests/.+?)\)", row):
            files = sorted((ROOT / link).rglob("test_*.py")) or [ROOT / link]
            assert all(re.search(r"^ *def test_", file.read_text("utf-8"), re.MULTILINE) for file in files), link


def test_every_option_and_variable_is_there() -> None:
    """Of the commands, by their parsers; of the benchmarks, and variables, by the text of the code."""
    from dali_pipes.cli import COMMANDS, parser

    files = [
        file for folder in ("cache", "dali_pipes", "benchmarks", "tests") for file in (ROOT / folder).rglob("*.py")
    ]
    code = "".join(file.read_text("utf-8") for file in files if file != Path(__file__))
    known = set(re.findall(r'"(--[a-z-]+)"', code))
    assert set(re.findall(r"--[a-z][a-z-]+", README)) <= known
    told = "".join([README, *PAGES.values()])
    assert {name for name in re.findall(r"DALI_PIPES_[A-Z_]+", told) if f'"{name}"' not in code} == set()
    table = PAGES["command-line.md"].split("## Environment variables")[1]
    of_ours = set(re.findall(r'"(DALI_PIPES_[A-Z_]+)"', code)) - {"DALI_PIPES_FAIL_ON_UNEXPECTED_SKIPS"}
    assert {name for name in of_ours if f"`{name}" not in table} == set()
    shown = re.findall(r"`dali-pipes ([a-z]+[^`|]*)`", told.replace("\n", " "))
    shown = [line for line in shown if " " in line and "\\" not in line and not re.search(r" (N|K/N)\b", line)]
    lines = [line.split() for line in shown if line.split()[0] in COMMANDS]
    assert len(lines) > 5
    for line in lines:
        parser(line).parse_args(line)


def test_the_recipes_table_names_its_fields() -> None:
    table = PAGES["recipe.md"].split("| `Recipe(...)` | |")[1].split("\n\n")[0]
    names = set(re.findall(r"`(\w+)`", "".join(line.split("|")[1] for line in table.splitlines()[2:])))
    assert names == {field.name for field in dataclasses.fields(dp.Recipe)}
    augment = re.search(r"`Augment\((.+?)\)`", table)
    assert augment is not None
    assert set(re.findall(r"(\w+)=", augment[1])) == {field.name for field in dataclasses.fields(dp.Augment)}


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
