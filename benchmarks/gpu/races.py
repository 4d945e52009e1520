"""What a race would spoil: batches read late, dropped early, or by another stream have the digests of torch's."""

from typing import Any

import torch
from torch.utils._pytree import tree_leaves

import dali_pipes as dp
from dali_pipes.parity.fingerprint import fingerprint
from gpu.context import IMAGENET, Context, StepFailed


def late(context: Context, batch: dp.Batch, stream: Any) -> dp.Batch:
    """The batch as a consumer sees it who is slow: after some milliseconds, copied on a stream of its own."""
    if stream is None:
        return batch
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(3_000_000)
        copied = batch._each(lambda values: values.clone())
        for values in tree_leaves(batch):  # all that the copies read
            values.record_stream(stream)
    return copied


def races(context: Context) -> dict[str, Any]:
    """300 batches, in several modes: a delayed stream, dropped references, early breaks."""
    batches = context.size(300, 6)
    manifest = context.small_jpegs(context.size(512, 16))
    recipe = dp.Recipe(context.size(96, 16), **IMAGENET, augment=dp.Augment(0.5, rotation=10, brightness=0.2))
    stream = torch.cuda.Stream() if context.gpu else None
    options: dict[str, Any] = {"batch_size": 8, "shuffle": True}
    found: dict[str, Any] = {"batches": 0, "differ": []}
    for mode, more in (("pinned", {}), ("memory", {}), ("memory", {"gpu_bytes": 2**30} if context.gpu else {})):
        title = f"{mode}{', gpu_bytes' if more else ''}"
        caching: dict[str, Any] = {"cache_mode": mode}
        if mode == "pinned":
            caching["cache_dir"] = context.work / "races"
        with (
            dp.Loader(manifest, recipe, backend="torch", **options, **caching) as torchs,
            dp.Loader(manifest, recipe, backend=context.backend, **options, **caching, **more) as ours,
        ):
            seen, epoch = 0, 0
            while seen < batches:
                for each in (torchs, ours):
                    each.set_epoch(epoch)
                expected = fingerprint(torchs)
                if epoch % 3 == 2:  # dropped: an early break, with batches under way
                    for i, batch in enumerate(ours):
                        del batch
                        if i == 2:
                            break
                    ours.set_epoch(epoch)
                kept = []
                for batch in ours:
                    kept.append(late(context, batch, stream))
                    del batch
                    seen += 1
                context.synchronize()
                if fingerprint(kept) != expected:
                    found["differ"].append(f"{title}, epoch {epoch}")
                epoch += 1
            found["batches"] += seen
    if found["differ"]:
        raise StepFailed(f"batches are not what torch gives: {found['differ'][:5]}", found)
    context.need_gpu(**found)
    return found
