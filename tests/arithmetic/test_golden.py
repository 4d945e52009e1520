"""The bits are those that caches on users' disks hold. If a change here is meant, see golden.py."""

import json

import golden
import pytest

from dali_pipes.arithmetic import integer


def test_the_bits_have_not_changed() -> None:
    assert golden.digests() == json.loads(golden.FILE.read_text("utf-8"))


def test_the_digests_do_not_hang_on_the_fast_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(integer, "fast_path_is_exact", lambda: False)
    assert golden.digests() == json.loads(golden.FILE.read_text("utf-8"))
