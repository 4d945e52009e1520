"""docs/command-line.md knows every command and every option that there is, and no others."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from dali_pipes.cli import COMMANDS, parser

PAGE = (Path(__file__).parent.parent / "docs/command-line.md").read_text("utf-8")


def commands_of(made: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    found = [each for each in made._actions if isinstance(each, argparse._SubParsersAction)]
    return dict(found[0].choices) if found else {}


def options_of(made: argparse.ArgumentParser) -> set[str]:
    return {name for each in made._actions for name in each.option_strings if name.startswith("--")} - {"--help"}


def all_commands() -> dict[str, argparse.ArgumentParser]:
    """Every command, those of `cache` too, with its own parser."""
    found = {}
    for name in COMMANDS:
        made = commands_of(parser([name]))[name]
        found |= {f"{name} {inner}": each for inner, each in commands_of(made).items()} or {name: made}
    return found


def test_every_command_and_option_is_on_the_page() -> None:
    there = all_commands()
    rows = {match[1]: match[0] for match in re.finditer(r"^\| `([a-z ]+)` \|.*$", PAGE, re.MULTILINE)}
    assert set(rows) == set(there)
    shared = set(re.findall(r"--[a-z-]+", PAGE.split("## Commands")[0])) | {"--cache-dir"}
    for name, made in there.items():
        assert options_of(made) <= set(re.findall(r"--[a-z-]+", rows[name])) | shared, name
        assert set(re.findall(r"(?<=`)--[a-z-]+", rows[name].split("|")[3])) <= options_of(made), name


def test_the_lines_that_it_shows_are_understood() -> None:
    lines = [line.split("#")[0].split()[1:] for line in re.findall(r"^\$ (dali-pipes .*)$", PAGE, re.MULTILINE)]
    assert len(lines) > 5
    for line in lines:
        assert parser(line).parse_args(line).command in COMMANDS
