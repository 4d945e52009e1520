"""The command line, `dali-pipes`; each subcommand is a module with `add(parser)` and `run(args) -> exit code`."""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from dali_pipes.cli.common import FAILED, INTERRUPTED, LACKING, USAGE
from dali_pipes.errors import DaliPipesWarning

COMMANDS = {
    "demo": "make a small data set, load it through every backend and cache mode, and show the pictures",
    "warm": "fill a cache",
    "bench": "measure epoch times, memory and disk of the cache modes on your data",
    "parity": "check that all backends give the same pixels on your data",
    "preview": "draw samples as a model sees them in several epochs",
    "inspect": "show how one file is read, as text and as a picture",
    "cache": "look after a cache: stats, verify, gc, purge, explain, import, export, push",
    "doctor": "say what this machine can run, and what is missing for more",
}


_WRONG_PATH = (FileNotFoundError, IsADirectoryError, NotADirectoryError)


def parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    """Return the parser for a command line; only the command that it names is imported."""
    top = argparse.ArgumentParser(
        prog="dali-pipes", description="Load images through DALI or PyTorch, with the same bits."
    )
    subparsers = top.add_subparsers(dest="command", required=True)
    for name, summary in COMMANDS.items():
        command = subparsers.add_parser(name, help=summary, description=summary)
        if name in arguments:
            module = importlib.import_module(f"dali_pipes.cli.{name}")
            module.add(command)
            command.set_defaults(run=module.run)
    return top


class _Once(logging.Filter):
    """Lets a message through once: a command may make many loaders, which all meet the same bad file."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        new = message not in self._seen
        self._seen.add(message)
        return new


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return 0 good, 1 check failed, 2 usage, 3 something this machine lacks, 130 interrupted."""
    arguments = sys.argv[1:] if arguments is None else arguments
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_Once())
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler])
    logging.getLogger("pydicom").setLevel(logging.ERROR)  # it warns of small faults of files that it reads all the same
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="pydicom")
        warnings.filterwarnings("always", category=DaliPipesWarning)
        warnings.showwarning = partial(_show, warnings.showwarning)
        try:
            args = parser(arguments).parse_args(arguments)
            return int(args.run(args))
        except KeyboardInterrupt:
            return INTERRUPTED
        except Exception as error:
            return _failed(arguments, error)


def _show(usual: Callable[..., None], message: Warning | str, category: type[Warning], *where: Any) -> None:
    """Show a warning of ours as its text alone, where Python would add a line of code."""
    if issubclass(category, DaliPipesWarning):
        logging.getLogger(__name__).warning("%s", message)
    else:
        usual(message, category, *where)


def _failed(arguments: Sequence[str], error: Exception) -> int:
    """Report an error, and return the exit code that it means."""
    from dali_pipes.cache.errors import CacheError, SecretError, StoreConfigError
    from dali_pipes.errors import BackendError, ConfigError, DaliPipesError, ManifestError, UnsupportedError

    _report(arguments, error, _in_words(error))
    if isinstance(error, (ConfigError, ManifestError, StoreConfigError, SecretError, *_WRONG_PATH)):
        return USAGE
    if isinstance(error, (BackendError, UnsupportedError)):
        return LACKING
    if not isinstance(error, (DaliPipesError, CacheError, OSError)):
        traceback.print_exception(error)
    return FAILED


def _in_words(error: Exception) -> str:
    """Return the message; that of an error of the system as "FILE: No such file or directory"."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{os.fsdecode(error.filename)}: {error.strerror}"
    return str(error)


def _report(arguments: Sequence[str], error: Exception, message: str) -> None:
    if "--json" in arguments:
        print(json.dumps({"error": type(error).__name__, "message": message}))
    print(f"dali-pipes: {message}", file=sys.stderr)
