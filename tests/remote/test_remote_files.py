"""Remote files arrive whole or with a clear error, whatever the server does meanwhile."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from servers import Bucket, Faults, door

import dali_pipes.files.remote
from dali_pipes.cache import objects
from dali_pipes.errors import BackendError, ConfigError
from dali_pipes.files.remote import RemoteFiles
from dali_pipes.files.urls import is_url, shown

DATA = np.random.default_rng(0).integers(0, 256, 100_000, np.uint8).tobytes()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], RemoteFiles]:
    """Files that are asked for again at once."""
    monkeypatch.setattr(objects, "PIECE", 30_000)
    return lambda url: RemoteFiles(url, pause=lambda seconds: False)


@pytest.mark.parametrize("kind", ["500", "503", "cut", "drop", "slow"])
def test_faults_that_pass(bucket: Bucket, quick: Callable[[str], RemoteFiles], kind: str) -> None:
    bucket.put("a/b.bin", DATA)
    bucket.faults.kinds, bucket.faults.share = (kind,), 0.3
    files = quick(bucket.url)
    for _ in range(3):
        stamp = files.stat("a/b.bin")
        assert stamp.size == len(DATA)
        assert files.read("a/b.bin", stamp.size) == DATA
    assert bucket.faults.injected


def test_a_server_that_stays_broken(bucket: Bucket, quick: Callable[[str], RemoteFiles]) -> None:
    bucket.put("a", DATA)
    files = quick(bucket.url)
    size = files.stat("a").size
    bucket.faults.kinds, bucket.faults.share = ("500",), 1.0
    before = len(bucket.faults.requests)
    with pytest.raises(ConnectionError, match="requests failed, at last with") as found:
        files.read("a", size)
    assert "127.0.0.1" not in str(found.value)
    assert len(bucket.faults.requests) - before >= dali_pipes.files.remote.TRIES


def test_a_piece_that_failed_is_asked_for_again_alone(bucket: Bucket, quick: Callable[[str], RemoteFiles]) -> None:
    bucket.put("a", DATA)
    files = quick(bucket.url)
    size = files.stat("a").size
    bucket.faults.kinds, bucket.faults.share = ("cut",), 0.4
    before = len(bucket.faults.requests)
    assert files.read("a", size) == DATA
    assert len(bucket.faults.requests) - before <= 4 + 2 * bucket.faults.injected


def test_a_replaced_object_has_another_stamp(bucket: Bucket, quick: Callable[[str], RemoteFiles]) -> None:
    bucket.put("a", DATA)
    files = quick(bucket.url)
    first = files.stat("a")
    assert files.stat("a") == first
    assert first.version is not None
    bucket.put("a", DATA[::-1])
    second = files.stat("a")
    assert (second.size, second.version == first.version) == (first.size, False)


def test_what_is_not_there(bucket: Bucket, quick: Callable[[str], RemoteFiles]) -> None:
    bucket.put("a/b", DATA)
    files = quick(bucket.url)
    with pytest.raises(FileNotFoundError, match="no such file"):
        files.stat("c")
    with pytest.raises(IsADirectoryError, match="folder"):
        files.stat("a")
    assert len(bucket.faults.requests) < 10  # nothing is tried again


def test_all_files_are_listed(bucket: Bucket, quick: Callable[[str], RemoteFiles]) -> None:
    for name in ("b/2", "b/1", "a"):
        bucket.put(name, b"x")
    assert quick(bucket.url).names() == ["a", "b/1", "b/2"]


def test_plain_http(tmp_path: Path, quick: Callable[[str], RemoteFiles]) -> None:
    """A server without ranges, etags or listings; what it says of any fault is told from a file that is not there."""
    import functools
    import http.server
    import threading

    (tmp_path / "a.bin").write_bytes(DATA)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    handler.func.log_message = lambda *_: None  # type: ignore[method-assign]
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    faults = Faults()
    try:
        with door(server.server_address[1], faults) as port:
            files = quick(f"http://127.0.0.1:{port}")
            faults.kinds, faults.share = ("500", "cut", "drop"), 0.3
            for _ in range(5):
                stamp = files.stat("a.bin")
                assert files.read("a.bin", stamp.size) == DATA
            assert faults.injected
            faults.share = 0.0
            with pytest.raises(FileNotFoundError):
                files.stat("b.bin")
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_memory_and_forks_and_pickles() -> None:
    system = fsspec.filesystem("memory")
    system.pipe("/remote-test/a", DATA)
    files = RemoteFiles("memory://remote-test")
    assert files.read("a", files.stat("a").size) == DATA
    again = pickle.loads(pickle.dumps(files))  # noqa: S301
    assert again.read("a", len(DATA)) == DATA
    child = os.fork()
    if not child:
        os._exit(0 if files.read("a", len(DATA)) == DATA else 1)
    assert os.waitpid(child, 0)[1] == 0
    system.rm("/remote-test", recursive=True)


def test_urls() -> None:
    assert is_url("s3://bucket/a")
    assert not is_url("a/b.jpg")
    assert not is_url(Path("s3://bucket"))
    assert not is_url("C:/pictures")
    assert shown("s3://key:secret@bucket/a?sig=1#x") == "s3://bucket/a"
    with pytest.raises(ConfigError, match="no such protocol"):
        RemoteFiles("nosuch://a").stat("b")


def test_without_fsspec(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(BackendError, match=r"pip install 'dali-pipes\[remote\]'"):
        RemoteFiles("s3://bucket").stat("a")


def test_closing_ends_the_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    files = RemoteFiles("memory://nothing")
    files.close()
    asked: list[Any] = []

    def fail(path: str) -> dict[str, Any]:
        asked.append(path)
        raise TimeoutError

    monkeypatch.setattr(files, "_system", lambda: (type("System", (), {"info": staticmethod(fail)}), "base"))
    with pytest.raises(ConnectionError, match="1 requests failed"):
        files.stat("a")
    assert len(asked) == 1
