"""A cache filled by a Ray cluster: plain tasks over chunks of samples. Needs the extra `ray`.

Each task opens the cache, decodes its chunk and returns counts and failures, never pixels. Ray retries tasks whose
worker was lost, and scales the cluster.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from dali_pipes.cache.key import SECRET_VARIABLE
from dali_pipes.errors import BackendError
from dali_pipes.manifest.manifest import Manifest
from dali_pipes.recipe import Recipe
from dali_pipes.warming import Job, Progress, Report, warm_samples

RETRIES = 5
"""How often Ray runs a task again whose worker was lost."""


def warm_chunks(
    manifest: Manifest,
    recipe: Recipe,
    job: Job,
    chunks: Sequence[npt.NDArray[np.int64]],
    address: str | None,
    progress: Progress,
) -> Report:
    """Decode chunks of samples in Ray tasks and add up what they did.

    Args:
        manifest, recipe, job: as for `dali_pipes.warming.warm`. A task asks Ray for
            `job.num_workers` CPUs, 1 by default.
        chunks: sample numbers, int64[n] each.
        address: of the cluster; None: the one that this process is connected to, else RAY_ADDRESS, else this machine.
        progress: called with the number of samples of each finished chunk.

    Raises:
        BackendError: Ray is not installed. What a task raises is raised here too.
    """
    try:
        import ray
    except ImportError:
        raise BackendError("engine 'ray' needs Ray: pip install 'dali-pipes[ray]'.") from None

    begun_here = not ray.is_initialized()
    if begun_here:
        ray.init(address=address, log_to_driver=False)
    try:
        workers = max(1, job.num_workers or 1)
        task = ray.remote(num_cpus=workers, max_retries=RETRIES)(_warm_chunk)
        # An argument, not a runtime environment: those are shown on Ray's dashboard.
        shared = ray.put((manifest, recipe, replace(job, num_workers=workers), os.environ.get(SECRET_VARIABLE)))
        waiting: dict[Any, int] = {task.remote(shared, chunk): len(chunk) for chunk in chunks}
        report = Report()
        while waiting:
            done, _ = ray.wait(list(waiting), num_returns=1)
            for each in done:
                report.add(ray.get(each))
                progress(waiting.pop(each))
        return report
    except ray.exceptions.RayTaskError as error:
        raise error.as_instanceof_cause() from None  # type: ignore[no-untyped-call]
    finally:
        if begun_here:
            ray.shutdown()


def _warm_chunk(shared: tuple[Manifest, Recipe, Job, str | None], samples: npt.NDArray[np.int64]) -> Report:
    manifest, recipe, job, secret = shared
    if secret is not None:
        os.environ[SECRET_VARIABLE] = secret
    return warm_samples(manifest, recipe, job, samples, lambda done: None)
