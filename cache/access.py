"""Who may read what a cache writes."""

from __future__ import annotations

import grp
from dataclasses import dataclass

from .errors import StoreConfigError


@dataclass(frozen=True)
class Access:
    """The modes of folders and files, and the group (-1: leave it). By default all is this user's alone."""

    folder: int = 0o700
    file: int = 0o600
    gid: int = -1

    @classmethod
    def of(cls, group: str | int) -> Access:
        """Readable and writable by a group too. Raises StoreConfigError if there is none of this name."""
        try:
            gid = group if isinstance(group, int) else grp.getgrnam(group).gr_gid
        except KeyError:
            raise StoreConfigError(
                f"shared_group={group!r}: no such group on this machine; give a group's name or number"
            ) from None
        return cls(0o2770, 0o660, gid)
