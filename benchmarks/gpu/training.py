"""A ResNet-50 in bfloat16 on a fixed batch, and fed by the loader: cold, warm, and from GPU memory."""

import time
from typing import Any

import torch
from torch import nn

import dali_pipes as dp
from gpu.context import IMAGENET, Context


class Bottleneck(nn.Module):
    """The block of ResNet-50 (He et al., "Deep residual learning for image recognition", 2015), stride in the 3x3."""

    def __init__(self, given: int, width: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(given, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(True)),
            *(nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(True)),
            *(nn.Conv2d(width, 4 * width, 1, bias=False), nn.BatchNorm2d(4 * width)),
        )
        shortcut = nn.Sequential(nn.Conv2d(given, 4 * width, 1, stride, bias=False), nn.BatchNorm2d(4 * width))
        self.shortcut = nn.Identity() if stride == 1 and given == 4 * width else shortcut

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


def resnet(depths: tuple[int, ...] = (3, 4, 6, 3), width: int = 64) -> nn.Module:
    """ResNet-50 with 10 classes."""
    layers: list[nn.Module] = [
        *(nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU(True), nn.MaxPool2d(3, 2, 1)),
    ]
    given = width
    for stage, depth in enumerate(depths):
        for block in range(depth):
            layers.append(Bottleneck(given, width << stage, 2 if stage and not block else 1))
            given = 4 * (width << stage)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(given, 10))


class Step:
    """One step of training, and the GPU's time in it."""

    def __init__(self, context: Context) -> None:
        model = resnet() if context.gpu else resnet((1, 1), 8)
        self.context, self.model = context, model.to(context.device, memory_format=torch.channels_last)
        self.optimiser = torch.optim.SGD(self.model.parameters(), 0.01, momentum=0.9)
        self.marks: list[tuple[Any, Any]] = []

    def __call__(self, image: torch.Tensor, label: torch.Tensor) -> None:
        if self.context.gpu:
            self.marks.append((torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)))
            self.marks[-1][0].record()
        with torch.autocast(self.context.device.type, torch.bfloat16):
            output = self.model(image.contiguous(memory_format=torch.channels_last))
            loss = nn.functional.cross_entropy(output, label % 10)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()
        if self.context.gpu:
            self.marks[-1][1].record()

    def busy_seconds(self) -> float:
        """Seconds between the marks of all steps since the last call."""
        self.context.synchronize()
        marks, self.marks = self.marks, []
        return sum(begin.elapsed_time(end) for begin, end in marks) / 1e3


def epoch_figures(context: Context, loader: dp.Loader, step: Step, number: int) -> dict[str, float]:
    """One epoch: milliseconds a step, the share that the loop waited, the share that the GPU trained."""
    loader.set_epoch(number)
    step.busy_seconds()
    started, steps = time.perf_counter(), 0
    for image, label in loader:
        step(image, label)
        steps += 1
    context.synchronize()
    seconds = time.perf_counter() - started
    return {
        "ms a step": round(1e3 * seconds / steps, 2),
        "share waiting": round(loader.stats()["epochs"][-1]["share_waiting"], 4),
        "share in steps on the GPU": round(step.busy_seconds() / seconds, 4),
    }


def training(context: Context) -> dict[str, Any]:
    """Milliseconds a step on a fixed batch, and fed by the loader."""
    batch, side = context.size(64, 2), context.size(224, 32)
    step = Step(context)
    image = torch.randn(batch, 3, side, side, device=context.device)
    label = torch.zeros(batch, dtype=torch.int64, device=context.device)
    fixed = context.median_seconds(lambda: step(image, label), context.size(40, 2))
    found: dict[str, Any] = {"batch": batch, "side": side, "fixed batch, ms a step": round(1e3 * fixed, 2)}
    manifest = context.small_jpegs(context.size(4096, 8))
    recipe = dp.Recipe(side, **IMAGENET, augment=dp.Augment(0.5))
    ways: dict[str, dict[str, Any]] = {
        "cold, then warm": {"cache_mode": "pinned", "cache_dir": context.work / "training"},
        "gpu_bytes": {"cache_mode": "pinned", "cache_dir": context.work / "training", "gpu_bytes": 4 * 2**30},
    }
    if not context.gpu:
        del ways["gpu_bytes"]
    for title, options in ways.items():
        with dp.Loader(
            manifest, recipe, batch_size=batch, backend=context.backend, shuffle=True, drop_last=True, **options
        ) as loader:
            found[title] = [epoch_figures(context, loader, step, number) for number in range(3)]
        context.keep("training", found)
    context.need_gpu(**found)
    return found
