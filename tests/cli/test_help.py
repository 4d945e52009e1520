"""Help is quick: it imports neither PyTorch nor NumPy, whatever the command."""

from __future__ import annotations

import subprocess
import sys

import pytest

from dali_pipes import backends, names, recipe
from dali_pipes.cli import COMMANDS

CACHE_COMMANDS = ("stats", "verify", "gc", "purge", "explain")

HEAVY = ("torch", "numpy", "pydicom", "PIL", "nvidia", "tqdm")

CODE = f"""
import sys
from dali_pipes.cli import main
for line in sys.argv[1].split(","):
    try:
        main([*line.split(), "--help"])
    except SystemExit as end:
        assert end.code == 0, line
    found = [name for name in {HEAVY} if name in sys.modules]
    assert not found, (line, found)
"""


def test_no_help_imports_anything_heavy() -> None:
    lines = ["", *COMMANDS, *(f"cache {name}" for name in CACHE_COMMANDS)]
    told = subprocess.run(
        [sys.executable, "-c", CODE, ",".join(lines)], capture_output=True, text=True, timeout=60, check=False
    )
    assert told.returncode == 0, told.stderr
    assert told.stdout.count("usage: dali-pipes") == len(lines)


def test_wrong_usage_imports_nothing_heavy_either() -> None:
    code = "import sys, dali_pipes.cli as c\ntry: c.main(['nothing'])\nfinally: assert 'numpy' not in sys.modules"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (told.returncode, "AssertionError" in told.stderr) == (2, False)


def test_the_names_are_those_of_the_modules_that_use_them() -> None:
    assert backends.BACKENDS is names.BACKENDS
    assert recipe.CHOICES is names.CHOICES


def test_an_interrupt_during_the_imports_is_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from dali_pipes import cli

    def interrupted(name: str) -> object:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.importlib, "import_module", interrupted)
    assert cli.main(["doctor"]) == 130
    assert "Traceback" not in capsys.readouterr().err
