"""Every error that the cache raises on purpose.

    CacheError
    ├── StoreConfigError    an argument, a mode or a folder that cannot work (also a ValueError)
    ├── EntryError          an array or a key part that cannot be stored (also a TypeError)
    ├── StoreIOError        the operating system refused a read or a write; only under strict=True (also an OSError)
    ├── IntegrityError      an entry whose bytes are not those that were put; only under strict=True
    └── SecretError         the secret that hides names cannot be read or made, or is not that of the cache

Without ``strict=True`` a store never raises for a bad disk: it counts the failure, warns once, and answers with a miss.
"""


class CacheError(Exception):
    """Base of all errors raised by the cache."""


class StoreConfigError(CacheError, ValueError):
    """An argument, a mode or a folder that cannot work; the message lists what is allowed."""


class EntryError(CacheError, TypeError):
    """An array or a part of a key of a kind that the cache does not store."""


class StoreIOError(CacheError, OSError):
    """The operating system refused a read or a write (``strict=True`` only)."""


class IntegrityError(CacheError):
    """An entry whose bytes are not those that were put (``strict=True`` only)."""


class SecretError(CacheError):
    """The secret that hides names on disk cannot be read or made, or a cache's names were made with another."""
