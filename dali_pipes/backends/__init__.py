"""Backends turn the base images of a batch into one tensor; three stand side by side behind `base.Backend`.

None of them imports another, and all give the same bits where the recipe's parity is "exact".
"""

from dali_pipes.backends.base import Backend, Keeper, Named, Overlapping
from dali_pipes.backends.graphs import decodes
from dali_pipes.backends.locking import lock_pages
from dali_pipes.backends.pool import Pool
from dali_pipes.backends.select import create, missing, resolve
from dali_pipes.names import BACKENDS

__all__ = [
    "BACKENDS",
    "Backend",
    "Keeper",
    "Named",
    "Overlapping",
    "Pool",
    "create",
    "decodes",
    "lock_pages",
    "missing",
    "resolve",
]
