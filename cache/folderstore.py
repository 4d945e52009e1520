"""What all stores with a folder share: the cache's folder and their own in it, the tag, and sweeping."""

from __future__ import annotations

import os
import re
from typing import Any, ClassVar

from .agreement import agree
from .base import Opening, Options, Store
from .files import Folder
from .tagging import tag


class FolderStore(Store):
    """A store whose entries are files in a folder of the cache ``directory`` that is named like the mode.

    ``sweep``: remove what dead processes left. Attributes: ``subfolder``: name of the folder if it is not the mode's.
    """

    persistent = True
    pattern: ClassVar[re.Pattern[str]]
    subfolder: ClassVar[str] = ""
    directory: str

    @classmethod
    def open(cls, opening: Opening) -> Store:
        """Open a store in the folder that was given. Raises StoreConfigError if there was none."""
        return cls(opening.folder(cls.mode), opening.options)

    def __init__(self, directory: str | os.PathLike[str], options: Options, sweep: bool = True) -> None:
        super().__init__(options)
        self.directory = os.path.abspath(os.fspath(directory))
        self._root = Folder(self.directory, options.access_to(self.directory), options.read_only)
        inner = os.path.join(self.directory, self.subfolder or self.mode)
        self._folder = Folder(inner, self._root.access, options.read_only, follow=False)
        self._prepare()
        try:
            if not options.read_only:
                tag(self._root)
                if sweep:
                    self._root.sweep()
                    self.sweep()
            self._begin()
        except OSError as error:
            self._failed("open", error)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.directory, self.options, False)

    def agree(self, secret: bytes) -> None:
        """Make sure that names here are made with ``secret``. Raises SecretError if they were made with another."""
        agree(self._root, secret)

    def orphans(self) -> list[str]:
        """Return the names of files that dead processes left half made."""
        return self._folder.orphans()

    def sweep(self) -> int:
        """Remove the orphans; return how many there were."""
        return sum(self._folder.delete(name) for name in self.orphans())

    def close(self) -> None:
        """End the use of this instance; arrays handed out stay valid."""
        super().close()
        self._folder.close()
        self._root.close()

    # -- for modes -----------------------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        """Set up what the mode needs, before anything is read or written."""

    def _begin(self) -> None:
        """Read what the mode wants to know from the start. May raise OSError."""
