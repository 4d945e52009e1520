"""Whatever goes wrong while a file is read becomes an error of ours."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from dali_pipes.errors import DaliPipesError, DecodeError


@contextlib.contextmanager
def damage_named(where: str = "in the decoder") -> Iterator[None]:
    """Turn what a library throws at odd bytes into a DecodeError; our errors and MemoryError pass.

    The library's text is not quoted, because it may hold what the file says. Who runs out of memory knows whether the
    file is to blame.
    """
    try:
        yield
    except (DaliPipesError, MemoryError):
        raise
    except Exception as error:
        raise DecodeError(
            f"{type(error).__name__} {where}: the file is damaged, or of a kind that is not read"
        ) from None
