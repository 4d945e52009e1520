"""The settings of PyTorch that change what a module computes from the same weights and inputs."""

from __future__ import annotations

import torch


def digest_of_state(device: torch.device) -> str:
    """Return a text of autocast, the default type and, on CUDA, of the precision of float32 sums."""
    kind = device.type
    says = [f"default {torch.get_default_dtype()}"]
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        says.append(f"autocast {torch.get_autocast_dtype(kind)}")
    if kind == "cuda":
        says.append(f"matmul {torch.get_float32_matmul_precision()}, cudnn TF32 {torch.backends.cudnn.allow_tf32}")
    return "; ".join(says)
