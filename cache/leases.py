"""Which files of a folder nobody will finish: those of the dead, and after a lease those of processes unknown here."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod

from .owner import Owner

FOREIGN_LEASE = 3600.0  # seconds after which what another host has made counts as left behind


class Leases(ABC):
    """What a folder knows of its files' owners."""

    @abstractmethod
    def names(self, shard: str = "") -> list[str]:
        """Return the names in the folder, or in one of its shards."""

    @abstractmethod
    def status(self, name: str) -> os.stat_result | None:
        """Return stat of a file; None if there is none."""

    @abstractmethod
    def delete(self, name: str) -> bool:
        """Remove a file; False if it was gone."""

    @abstractmethod
    def now(self) -> float:
        """Return the time by the clock that stamps the files."""

    def orphans(self) -> list[str]:
        """Return the temporary files that nobody will finish."""
        return [name for name in self.names() if self.is_orphan(name)]

    def sweep(self) -> int:
        """Remove the orphans; return how many there were."""
        return sum(self.delete(name) for name in self.orphans())

    def is_orphan(self, name: str) -> bool:
        """Return whether ``name`` is a temporary file that nobody will finish."""
        maker = temporary_owner(name)
        return maker is not None and self.is_left(name, maker)

    def is_left(self, name: str, owner: Owner) -> bool:
        """Return whether a file's owner is dead, or unknown and has not changed it for an hour.

        Unknown are the processes of other hosts: of other machines, of containers, and of this one before it was
        started again. The hour is one of the file server's clock, because this machine's may be wrong.
        """
        alive = owner.alive()
        return self.is_old(name) if alive is None else not alive

    def is_old(self, name: str) -> bool:
        """Return whether nobody has changed a file for an hour."""
        found = self.status(name)
        return found is not None and abs(self.now() - found.st_mtime) > FOREIGN_LEASE


def temporary_owner(name: str) -> Owner | None:
    """Return who made a temporary file; None if ``name`` is not one of ours."""
    parts = name.split(".")
    return Owner.parse(parts[1]) if len(parts) == 4 and not parts[0] and parts[3] == "tmp" else None
