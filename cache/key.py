"""What identifies an entry: a 16-byte digest of everything that decides its bytes.

``Key.of`` writes its parts in one canonical form (names sorted; each name and value with its length and type before
it), so that no two sets of parts give the same text, and takes BLAKE2b of it, keyed with a secret. So a name on disk
tells nothing of the file behind it: without the secret nobody can test whether some patient's file is in a cache.

The secret is 32 random bytes in the user's configuration folder, outside every cache, made at first use; or whatever
the environment variable ``DALI_PIPES_CACHE_SECRET`` holds, for machines that share a cache.
"""

from __future__ import annotations

import contextlib
import functools
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b

from .errors import EntryError, SecretError, StoreConfigError
from .files import Folder

SECRET_VARIABLE = "DALI_PIPES_CACHE_SECRET"
_SECRET_NAME = "cache-secret"
_PERSON = b"dali-pipes key 1"


@dataclass(frozen=True)
class Key:
    """The name of an entry: 16 bytes.

    >>> Key.of(source=b"..", frame=0).hex == Key.of(frame=0, source=b"..").hex
    True
    """

    digest: bytes

    def __post_init__(self) -> None:
        if not isinstance(self.digest, bytes) or len(self.digest) != 16:
            raise StoreConfigError(
                f"a key is 16 bytes; got {self.digest!r}: make keys with Key.of(...) or Key.from_hex"
            )

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        return f"Key({self.hex})"

    @property
    def hex(self) -> str:
        """32 lower-case hexadecimal digits."""
        return self.digest.hex()

    @classmethod
    def from_hex(cls, text: str) -> Key:
        """Return the key that ``.hex`` wrote. Raises StoreConfigError for anything else."""
        if len(text) != 32 or text.strip("0123456789abcdef"):
            raise StoreConfigError(f"a key is written as 32 lower-case hexadecimal digits; got {text!r}")
        return cls(bytes.fromhex(text))

    @classmethod
    def of(cls, secret: bytes = b"", **parts: str | int | bytes) -> Key:
        """Return the key of named parts.

        Raises EntryError for a part that is not str, int or bytes (bool is refused).
        """
        text = b"".join([_written(name, parts[name]) for name in sorted(parts)])
        return cls(blake2b(text, digest_size=16, key=fold(secret), person=_PERSON).digest())

    @classmethod
    def over(cls, varying: str, secret: bytes = b"", /, **parts: str | int | bytes) -> Callable[[bytes], bytes]:
        """Return a function from the bytes of one part to the digest of the key that it makes with the others.

        >>> Key.over("source", frame=0)(b"..") == Key.of(source=b"..", frame=0).digest
        True
        """
        before = b"".join([_written(name, parts[name]) for name in sorted(parts) if name < varying])
        after = b"".join([_written(name, parts[name]) for name in sorted(parts) if name > varying])
        begun = blake2b(before, digest_size=16, key=fold(secret), person=_PERSON)

        def digest(value: bytes) -> bytes:
            hasher = begun.copy()
            hasher.update(_write(varying, value) + after)
            return hasher.digest()

        return digest


def _written(name: str, part: object) -> bytes:
    """One part in canonical form. Texts and numbers recur from key to key, and are remembered."""
    return _remembered(name, part) if type(part) in (str, int) else _write(name, part)


def _write(name: str, part: object) -> bytes:
    kind, value = _encode(name, part)
    label = name.encode("utf-8", "surrogateescape")
    return b"%d:%s%s%d:%s" % (len(label), label, kind, len(value), value)


_remembered = functools.lru_cache(maxsize=4096, typed=True)(_write)


def _encode(name: str, value: object) -> tuple[bytes, bytes]:
    if isinstance(value, bytes):
        return b"b", value
    if isinstance(value, str):
        return b"s", value.encode("utf-8", "surrogateescape")
    if isinstance(value, int) and not isinstance(value, bool):
        return b"i", b"%d" % value
    raise EntryError(
        f"part {name!r} of a key is a {type(value).__name__}; str, int and bytes are allowed: "
        "give a number with a fraction or a structure as canonical text"
    )


def fold(secret: bytes) -> bytes:
    """Return a secret as a key of BLAKE2b, which takes at most 64 bytes."""
    return secret if len(secret) <= 64 else blake2b(secret, digest_size=64).digest()


def default_secret() -> bytes:
    """Return 32 secret bytes of this user; they are made at first use.

    Raises SecretError if they can be neither read nor made; the message says how to give them.
    """
    given = os.environ.get(SECRET_VARIABLE)
    if given:
        return _of_text(given.encode("utf-8", "surrogateescape"))
    base = os.environ.get("XDG_CONFIG_HOME") or os.path.join(os.path.expanduser("~"), ".config")
    folder = Folder(os.path.join(base, "dali-pipes"))
    try:
        try:
            secret = folder.read(_SECRET_NAME, limit=33)
        except FileNotFoundError:
            with contextlib.suppress(FileExistsError):  # another process was first: its secret counts
                folder.publish(_SECRET_NAME, [secrets.token_bytes(32)], replace=False, sync=True)
            secret = folder.read(_SECRET_NAME, limit=33)
    except OSError as error:
        raise SecretError(
            f"the cache's secret cannot be read or made in {folder.path}: {error}; "
            f"make that folder writable, or set {SECRET_VARIABLE} to a text of your own"
        ) from error
    finally:
        folder.close()
    if len(secret) != 32:
        raise SecretError(
            f"{os.path.join(folder.path, _SECRET_NAME)} should hold 32 bytes and holds {len(secret)}: "
            "restore it from a copy, or delete it (entries cached under the old one are then not found again)"
        )
    return secret


def secret_in(file: str | os.PathLike[str]) -> bytes:
    """Return the secret of another host: of a copy of its file ``cache-secret``, or of a text that it sets.

    ``file`` holds 32 random bytes, or the text of its environment variable ``DALI_PIPES_CACHE_SECRET``. Raises
    SecretError for anything else, OSError if it cannot be read.
    """
    with open(file, "rb") as opened:
        data = opened.read(1 << 16)
    text = data.rstrip(b"\r\n")
    if text and all(32 <= byte < 127 for byte in text):  # which 32 random bytes never are
        return _of_text(text)
    if len(data) != 32:
        raise SecretError(
            f"{os.fspath(file)} holds {len(data)} bytes: give a copy of the other host's cache-secret (32 bytes), or a "
            f"file with the text of its {SECRET_VARIABLE} (printable ASCII)"
        )
    return data


def _of_text(text: bytes) -> bytes:
    return blake2b(text, digest_size=32, person=b"dali-pipes env").digest()
