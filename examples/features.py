"""Compute the features of a frozen backbone once, for all epochs, folds, heads, ranks and runs.

`CachedModule` wraps the backbone. Given a `dp.Batch` it knows the samples itself; given tensors it needs their ids.
Each function below is one pattern; run the file to see all of them on the demo set:

    python examples/features.py
"""

import tempfile
import time
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch import nn

import dali_pipes as dp


class Block(nn.Module):
    """Two convolutions and a way around them, as in ResNet-18."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.second = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)])
        self.around = nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the block's output, float32[N, outputs, H / stride, W / stride]."""
        y = F.relu(self.norms[0](self.first(x)))
        return F.relu(self.norms[1](self.second(y)) + self.around(x))


def backbone(width: int = 32) -> nn.Module:
    """Return a small frozen ResNet: float32[N, 3, H, W] to float32[N, 8 * width]."""
    torch.manual_seed(0)  # stands for pretrained weights
    widths = [width, width, 2 * width, 4 * width, 8 * width]
    blocks = [Block(a, b, 2 if at else 1) for at, (a, b) in enumerate(pairwise(widths))]
    stem = nn.Conv2d(3, width, 7, 4, 3, bias=False)
    return nn.Sequential(stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval().requires_grad_(False)


def train_head(cached: nn.Module, batches: Iterable[Any], head: nn.Linear) -> float:
    """Train a linear head on features for one epoch; return the mean loss."""
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
    losses = []
    for batch in batches:
        loss = F.cross_entropy(head(cached(batch)), batch.label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return sum(losses) / len(losses)


def frozen_extractor(manifest: dp.Manifest, cache_dir: Path, size: int = 128, epochs: int = 3) -> list[float]:
    """Loader to features to head: everything from files to loss. Return the seconds of each epoch."""
    recipe = dp.Recipe(size=size, mean=0.5, std=0.25)
    seconds = []
    with (
        dp.Loader(manifest, recipe, batch_size=8, cache_mode="pinned", cache_dir=cache_dir, shuffle=True) as loader,
        dp.CachedModule(backbone(), cache_dir) as cached,
    ):
        head = nn.Linear(256, 3)
        for epoch in range(epochs):
            loader.set_epoch(epoch)
            start = time.perf_counter()
            train_head(cached, loader, head)
            seconds.append(time.perf_counter() - start)
        computed = cached.stats()["computed"]
    print(f"{computed} images went through the backbone in {epochs} epochs of {len(manifest)}")
    print(
        "seconds an epoch:", ", ".join(f"{each:.2f}" for each in seconds), f"- {seconds[0] / seconds[-1]:.0f}x faster"
    )
    return seconds


def folds(images: torch.Tensor, ids: list[str], cache_dir: Path, count: int = 4) -> int:
    """K-fold cross-validation over one cache; return how many samples were computed in all."""
    with dp.CachedModule(backbone(), cache_dir) as cached:
        for fold in range(count):
            for held_out in (False, True):
                rows = [at for at in range(len(ids)) if (at % count == fold) == held_out]
                cached(images[rows], cache_ids=[ids[at] for at in rows])
        return int(cached.stats()["computed"])


def several_heads(images: torch.Tensor, ids: list[str], cache_dir: Path) -> int:
    """Three heads over one backbone, one after the other; return how many samples were computed in all."""
    with dp.CachedModule(backbone(), cache_dir) as cached:
        for classes in (2, 3, 5):
            model = nn.ModuleDict({"backbone": cached, "head": nn.Linear(256, classes)})
            model.train()  # the backbone stays as it is
            model["head"](model["backbone"](images, cache_ids=ids)).sum().backward()
        return int(cached.stats()["computed"])


class TwoHeads(nn.Module):
    """Returns a nest: maps, a vector, and what the network was."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = backbone()

    def forward(self, x: torch.Tensor) -> dict[str, Any]:
        """Return the nest."""
        maps = self.backbone[:-2](x)
        return {"visual": maps.half(), "semantic": self.backbone[-2:](maps), "about": {"width": 256}}


def nested_outputs(images: torch.Tensor, ids: list[str], cache_dir: Path) -> dict[str, Any]:
    """Keep and give back a nested output, types and all."""
    with dp.CachedModule(TwoHeads().eval(), cache_dir) as cached:
        cached(images, cache_ids=ids)
        found: dict[str, Any] = cached(images, cache_ids=ids)
        return found


def enrichment(images: torch.Tensor, ids: list[str], cache_dir: Path) -> list[int]:
    """Runs that each see more of the data; return how many samples each computed."""
    computed = []
    for share in (0.25, 0.5, 1.0):
        count = int(len(ids) * share)
        with dp.CachedModule(backbone(), cache_dir) as cached:
            cached(images[:count], cache_ids=ids[:count])
            computed.append(int(cached.stats()["computed"]))
    return computed


def ranks(images: torch.Tensor, ids: list[str], cache_dir: Path) -> list[int]:
    """Two ranks that both write, over two epochs; return how many samples each computed."""
    context = mp.get_context("spawn")
    counts = context.SimpleQueue()
    meet = f"file://{cache_dir}/meet-{time.monotonic_ns()}"
    cache_dir.mkdir(parents=True, exist_ok=True)
    workers = [context.Process(target=_rank, args=(at, images, ids, cache_dir, meet, counts)) for at in range(2)]
    for worker in workers:
        worker.start()
    found = dict(counts.get() for _ in workers)
    for worker in workers:
        worker.join()
    return [found[rank] for rank in range(2)]


def _rank(rank: int, images: torch.Tensor, ids: list[str], cache_dir: Path, meet: str, counts: Any) -> None:
    dist.init_process_group("gloo", init_method=meet, rank=rank, world_size=2)
    with dp.CachedModule(backbone(), cache_dir / "features") as cached:
        for epoch in range(2):
            mine = [at for at in range(len(ids)) if (at + epoch) % 2 == rank]
            cached(images[mine], cache_ids=[ids[at] for at in mine])
            cached.flush()  # what this rank computed is there for the others
            dist.barrier()
        counts.put((rank, int(cached.stats()["computed"])))
    dist.destroy_process_group()


def main() -> None:
    """Run all patterns on the demo set."""
    from dali_pipes.tools.demo_data import make_demo_set

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        manifest = dp.Manifest.from_csv(make_demo_set(folder / "demo"))
        frozen_extractor(manifest, folder / "cache")
        images, ids = torch.rand(16, 3, 64, 64), [f"sample-{at}" for at in range(16)]
        print("four folds of 16 samples computed", folds(images, ids, folder / "folds"))
        print("three heads over 16 samples computed", several_heads(images, ids, folder / "heads"))
        kept = nested_outputs(images, ids, folder / "nested")
        print("a nest of", {name: getattr(value, "dtype", value) for name, value in kept.items()})
        print("runs over 4, 8 and 16 samples computed", enrichment(images, ids, folder / "runs"))
        print("two ranks, two epochs, 16 samples: they computed", ranks(images, ids, folder / "ranks"))


if __name__ == "__main__":
    main()
