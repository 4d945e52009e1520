"""Who shares the `memory` mode: the ranks of a machine, and the workers of a DataLoader.

Ranks find each other by a name that all of one launch have in common. Keys of base images name their content, so
nothing else need be agreed.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

from dali_pipes.cache import SecretError, default_secret
from dali_pipes.cache.limits import default_memory_bytes, local_ranks
from dali_pipes.cache.named import PLACE
from dali_pipes.manifest.manifest import Manifest

log = logging.getLogger(__name__)

_LAUNCH = ("MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID", "SLURM_JOB_ID", "SLURM_STEP_ID")
"""Variables that the ranks of one launch agree on, and those of another one at the same time do not."""


def launch_name() -> str | None:
    """Return what this machine's ranks of one launch have in common; None where there is one rank only."""
    if local_ranks() == 1:
        return None
    said = [f"{name}={os.environ[name]}" for name in _LAUNCH if name in os.environ]
    return " ".join(said) or f"parent={os.getppid()}"


def shared_options(
    mode: str, options: Mapping[str, Any] | None, manifest: Manifest, *, workers: bool = False
) -> dict[str, Any]:
    """Return the arguments of `cache.open_store` with which a store in memory is shared as far as this machine can.

    Each manifest has a copy and a budget of its own, as without ranks; so has each set of options.

    Args:
        mode: the cache's.
        options: what the user gave; `shared` in it decides.
        manifest: the samples.
        workers: the store is handed to worker processes.
    """
    given = dict(options or {})
    if mode != "memory" or "shared" in given or not os.path.isdir(PLACE):
        return given
    name = launch_name()
    if name is not None and _has_secret():
        wanted, status = given.get("memory_bytes") or default_memory_bytes(1), os.statvfs(PLACE)
        room = status.f_blocks * status.f_frsize
        if isinstance(wanted, int) and wanted <= room:
            said = blake2b(repr(sorted(given.items())).encode(), digest_size=8)  # among them may be a secret
            return {"shared": f"{name} samples={manifest.digest()} options={said.hexdigest()}", **given}
        log.info("%s has %d bytes, fewer than memory_bytes=%s: each rank keeps a copy of its own", PLACE, room, wanted)
    return {"shared": True, **given} if workers else given


def _has_secret() -> bool:
    """Whether names can be made for what is shared. Memory of a process's own needs none."""
    try:
        return bool(default_secret())
    except SecretError as error:
        log.warning("ranks of this machine do not share memory, so each keeps a copy of its own: %s", error)
        return False
