"""Train on DICOM at depth 16, with two windows as two channels, decoding each file once.

At depth 16 the cache keeps modality values (Hounsfield units of a CT, detector values of a mammogram), and a window is
applied when a sample is read. So any number of windows share one cache, and trying another decodes nothing.

    python examples/dicom_windows.py train.csv --root archive --cache-dir cache-dir
"""

import argparse
from pathlib import Path

import torch

import dali_pipes as dp

WIDE = dp.PercentileWindow(0.5, 99.5)
DENSE = dp.PercentileWindow(50, 99.9)


def two_windows(manifest: dp.Manifest, cache_dir: Path, size: int = 512) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Load a data set under two windows at once.

    Returns:
        uint16[N, 2, size, size] images, a window a channel; int64[N] labels; how many files the second window decoded.
    """
    channels, labels, decoded = [], torch.empty(0), 0
    for window in (WIDE, DENSE):
        recipe = dp.Recipe(size=size, channels=1, depth=16, window=window)
        with dp.Loader(manifest, recipe, batch_size=8, cache_mode="pinned", cache_dir=cache_dir) as loader:
            batches = list(loader)
            decoded = loader.stats()["decoded"]
        channels.append(torch.cat([batch.image for batch in batches]))
        labels = torch.cat([batch.label for batch in batches])
    return torch.cat(channels, dim=1), labels, decoded


def main() -> None:
    """Read the command line and say what was loaded."""
    parser = argparse.ArgumentParser(description="Two windows of each DICOM file from one cache.")
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--root", type=Path)
    parser.add_argument("--cache-dir", type=Path, default=Path("cache-dir"))
    args = parser.parse_args()
    images, labels, decoded = two_windows(dp.Manifest.from_csv(args.manifest, root=args.root), args.cache_dir)
    print(
        f"images {tuple(images.shape)} {images.dtype}, {len(labels)} labels; the second window decoded {decoded} files"
    )


if __name__ == "__main__":
    main()
