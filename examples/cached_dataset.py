"""Keep the items of any deterministic dataset in the cache: the second epoch computes nothing.

`CachedDataset` takes any map-style dataset. At first use it computes one item twice and refuses a dataset that draws
random numbers; what varies belongs after the cache, as the flip here does.

    python examples/cached_dataset.py
"""

import tempfile
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Dataset

import dali_pipes as dp


class Spectra(Dataset[dict[str, torch.Tensor]]):
    """A dataset that is slow to compute: magnitude spectra of signals, each made from its number."""

    def __init__(self, length: int) -> None:
        self.length = length
        self.computed = 0

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        self.computed += 1
        signal = torch.sin(torch.arange(4096) * (0.01 + 0.001 * index))
        return {"spectrum": torch.fft.rfft(signal).abs(), "label": torch.tensor(index % 2)}


def epochs(cache_dir: Path, length: int = 64) -> list[int]:
    """Run two epochs; return how many items each of them computed."""
    dataset = Spectra(length)
    kept = dp.CachedDataset(dataset, cache_mode="npy", cache_dir=cache_dir, version="spectra-1")
    counts = []
    for _ in range(2):
        before = dataset.computed
        for batch in DataLoader(kept, batch_size=16, shuffle=True):
            flip = torch.rand(len(batch["label"]), 1) < 0.5
            spectra = torch.where(flip, batch["spectrum"].flip(1), batch["spectrum"])
            spectra.mean()  # stands for a training step
        counts.append(dataset.computed - before)
    kept.close()
    return counts


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        first, second = epochs(Path(folder))
        print(f"items computed: {first} in the first epoch, {second} in the second")
