"""Whatever a library throws while a file is read, every front door of decoding gives an error of ours."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dali_pipes.cli import main
from dali_pipes.decode import DecodePolicy, Kind, decode, describe, extent, frames, identify
from dali_pipes.errors import DecodeError, TruncatedError
from tests.make_images import dicom

DATA = dicom(np.arange(300, dtype=np.uint16).reshape(15, 20))
POLICY = DecodePolicy()
DOORS: dict[str, tuple[Callable[[], Any], str, str]] = {  # what is called, and what in it fails
    "decode": (lambda: decode(DATA, Kind.from_tag("dcm.1"), 0), "dicom.image", "read_frame"),
    "describe": (lambda: describe(DATA), "describe", "read_frame"),
    "describe, later": (lambda: describe(DATA), "describe", "window_table"),
    "extent": (lambda: extent(DATA, Kind.from_tag("dcm.1"), 0, POLICY), "extent", "read_header"),
    "frames": (lambda: frames(DATA), "api", "read_header"),
    "identify": (lambda: identify(None, DATA), "sniff", "transfer_syntax"),
}


def failing(error: BaseException) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    return fail


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(
    "kind", [AttributeError, KeyError, RecursionError, OverflowError, OSError, NotImplementedError]
)
def test_every_error_is_one_of_ours(monkeypatch: pytest.MonkeyPatch, door: str, kind: type[Exception]) -> None:
    call, module, name = DOORS[door]
    call()
    monkeypatch.setattr(importlib.import_module(f"dali_pipes.decode.{module}"), name, failing(kind("DOE^JANE")))
    with pytest.raises(DecodeError, match=f"^{kind.__name__} in the (decoder|headers): the file is damaged"):
        call()


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("error", [TruncatedError("short"), MemoryError(), KeyboardInterrupt()])
def test_these_pass(monkeypatch: pytest.MonkeyPatch, door: str, error: BaseException) -> None:
    call, module, name = DOORS[door]
    monkeypatch.setattr(importlib.import_module(f"dali_pipes.decode.{module}"), name, failing(error))
    with pytest.raises(type(error)):
        call()


def test_inspect_says_it_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "crafted.dcm"
    path.write_bytes(DATA)
    describing = importlib.import_module("dali_pipes.decode.describe")
    monkeypatch.setattr(describing, "window_table", failing(AttributeError("'Sequence' has no 'DOE'")))
    code = main(["inspect", str(path), "--json"])
    told = json.loads(capsys.readouterr().out)
    assert code == 1
    assert told["error"] == "DecodeError"
    assert "DOE" not in json.dumps(told)
