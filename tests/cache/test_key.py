"""Keys: canonical, unambiguous, hidden; the secret: private, made once, outside the cache."""

from __future__ import annotations

import os
import pickle
import stat
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dali_pipes.cache import EntryError, Key, SecretError, StoreConfigError, default_secret, secret_in

parts = st.dictionaries(
    st.from_regex(r"[a-z_]{1,6}", fullmatch=True).filter(lambda name: name not in ("cls", "secret")),
    st.one_of(st.text(max_size=6), st.integers(), st.binary(max_size=6)),
    max_size=4,
)


@given(parts, parts)
def test_equal_if_and_only_if_the_parts_are(one: dict, two: dict) -> None:
    same_types = one == two and all(type(one[name]) is type(two[name]) for name in one)
    assert (Key.of(**one) == Key.of(**two)) == same_types
    assert Key.of(**one) == Key.of(**dict(reversed(one.items())))


@given(parts)
def test_depends_on_the_secret(one: dict) -> None:
    keys = {Key.of(secret, **one) for secret in (b"", b"a", b"b", b"a" * 65, b"a" * 66)}
    assert len(keys) == 5


def test_known_digest() -> None:
    """A change of the canonical form would silently empty every cache."""
    assert Key.of(source=b"\x01", frame=0, decoder="d 1").hex == "1f6c9ea4da6f521ea5774f229e1be1c2"


def test_round_trips() -> None:
    key = Key.of(a=1)
    assert Key.from_hex(key.hex) == key == pickle.loads(pickle.dumps(key))  # noqa: S301
    assert hash(Key(key.digest)) == hash(key)
    assert key.hex in repr(key)


@pytest.mark.parametrize("text", ["", "0" * 31, "0" * 33, "g" * 32, "A" * 32, "../" + "0" * 29, "0" * 31 + "\n"])
def test_from_hex_takes_nothing_else(text: str) -> None:
    with pytest.raises(StoreConfigError, match="32 lower-case"):
        Key.from_hex(text)


def test_other_parts_are_refused() -> None:
    for part in (1.5, None, True, [1]):
        with pytest.raises(EntryError, match="part 'size'"):
            Key.of(size=part)  # type: ignore[arg-type]
    with pytest.raises(StoreConfigError, match="16 bytes"):
        Key(b"short")


def test_the_secret_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("DALI_PIPES_CACHE_SECRET", raising=False)
    found: list[bytes] = []
    threads = [threading.Thread(target=lambda: found.append(default_secret())) for _ in range(8)]
    old = os.umask(0)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        os.umask(old)
    assert len(found) == 8
    assert len(set(found)) == 1
    assert len(found[0]) == 32
    files = list((tmp_path / "config" / "dali-pipes").iterdir())
    assert [file.name for file in files] == ["cache-secret"]
    assert stat.S_IMODE(files[0].stat().st_mode) == 0o600
    assert stat.S_IMODE(files[0].parent.stat().st_mode) == 0o700


def test_the_secret_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("DALI_PIPES_CACHE_SECRET", "ours")
    ours = default_secret()
    monkeypatch.setenv("DALI_PIPES_CACHE_SECRET", "theirs")
    assert default_secret() != ours
    assert list(tmp_path.iterdir()) == []


def test_a_secret_that_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dali-pipes").write_text("a file in its place")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("DALI_PIPES_CACHE_SECRET", raising=False)
    with pytest.raises(SecretError, match="DALI_PIPES_CACHE_SECRET"):
        default_secret()
    (tmp_path / "dali-pipes").unlink()
    (tmp_path / "dali-pipes").mkdir()
    (tmp_path / "dali-pipes" / "cache-secret").write_bytes(b"short")
    with pytest.raises(SecretError, match="should hold 32 bytes"):
        default_secret()


def test_what_is_remembered_of_parts_keeps_their_types_apart() -> None:
    for one, two in ((1, "1"), ("1", b"1"), (1, b"1")):
        for _ in range(2):
            assert Key.of(part=one) != Key.of(part=two)
            assert Key.of(part=one) == Key.of(part=one)
    assert Key.of(a="1", b=1) != Key.of(a=1, b="1")
    for bad in (True, 1.0, [1], {"a": 1}, None):
        with pytest.raises(EntryError, match=f"part 'part' of a key is a {type(bad).__name__}"):
            Key.of(part=bad)  # type: ignore[arg-type]


@given(parts, st.lists(st.binary(max_size=40), max_size=3), st.binary(max_size=70))
def test_keys_over_one_part_are_the_keys_of_all_parts(others: dict, values: list[bytes], secret: bytes) -> None:
    others.pop("name", None)
    digest = Key.over("name", secret, **others)
    for value in values:
        assert digest(value) == Key.of(secret, name=value, **others).digest


def test_the_secret_of_another_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "secret"
    monkeypatch.setenv("DALI_PIPES_CACHE_SECRET", "of the others")
    for text in (b"of the others", b"of the others\n", b"of the others\r\n"):
        file.write_bytes(text)
        assert secret_in(file) == default_secret()
    monkeypatch.delenv("DALI_PIPES_CACHE_SECRET")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    mine = default_secret()
    assert secret_in(tmp_path / "dali-pipes" / "cache-secret") == mine
    for wrong in (b"", b"\n", bytes(31), b"a\tb"):
        file.write_bytes(wrong)
        with pytest.raises(SecretError, match=f"holds {len(wrong)} bytes"):
            secret_in(file)
