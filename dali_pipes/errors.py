"""Every error that dali_pipes raises on purpose.

    DaliPipesError
    ├── ConfigError          a recipe, an argument or a combination of them that cannot work
    ├── ManifestError        rows of a manifest that cannot be used, all of them at once
    ├── DecodeError          one file that did not become pixels
    │   ├── TruncatedError   it ends before its pixels do
    │   ├── LimitError       it asks for more than the limits allow
    │   ├── UnsupportedError no decoder here takes it; the message says which would
    │   ├── NoImageError     it is intact, but holds no image
    │   ├── WindowError      it lacks the window that was asked for, or gives one without meaning
    │   ├── RefusedError     a policy of the caller refuses it
    │   ├── UnsteadyError    it changes while it is read
    │   └── WorkerError      the process that was to decode it died, which may be no fault of the file
    ├── BackendError         a backend that cannot run here, or failed
    ├── StateError           a saved loader state that belongs to other data or another order
    └── ParityError          two computations that must give the same bits did not

    DaliPipesWarning         a UserWarning: what a user must act on, though the work goes on

The disk cache has a tree of its own (`cache.CacheError`), because it stands alone.
"""

from collections.abc import Mapping
from typing import Any


class DaliPipesWarning(UserWarning):
    """What a user must act on, though the work goes on; shown without any configuration of logging."""


class DaliPipesError(Exception):
    """Base of all errors raised by dali_pipes."""


class ConfigError(DaliPipesError, ValueError):
    """A recipe or an argument that cannot work; the message lists what is allowed."""


class ManifestError(DaliPipesError, ValueError):
    """Rows of a manifest that cannot be used; the message names them.

    Attributes:
        problems: line number to reason, for every bad row; of a folder, number of the file in sorted order to reason;
            of splits, name of the group or file to the splits that it lies in.
    """

    def __init__(self, message: str, problems: Mapping[int, str] | Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.problems: dict[Any, str] = dict(problems or {})


class DecodeError(DaliPipesError):
    """One file that did not become pixels."""


class TruncatedError(DecodeError):
    """The file ends before its pixels do."""


class LimitError(DecodeError):
    """The file asks for more memory, pixels or time than the limits allow."""


class UnsupportedError(DecodeError):
    """No decoder on this machine takes the file."""


class NoImageError(DecodeError):
    """The file is intact, but holds no image: a DICOMDIR, a report, a plan."""


class WindowError(DecodeError):
    """The file lacks the window that was asked for, or gives one to which the standard gives no meaning."""


class RefusedError(DecodeError):
    """The file could be decoded, but a policy of the caller refuses it."""


class UnsteadyError(DecodeError):
    """The file changes while it is read: somebody is still writing it."""


class WorkerError(DecodeError):
    """The process that was to decode the file could not start, or was killed; another try may do."""


class BackendError(DaliPipesError):
    """A backend that cannot run on this machine, or that failed while running."""


class StateError(DaliPipesError, ValueError):
    """A loader state that does not belong to this loader's data or order."""


class ParityError(DaliPipesError):
    """Two computations that must give the same bits did not."""
