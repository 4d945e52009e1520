"""Charts of measurements. Needs matplotlib, the extra `bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dali_pipes.errors import BackendError

COLOURS = {"torch": "#ee6a2c", "dali-cpu": "#5aa02c", "dali-gpu": "#2c7a3a", "bound": "#8a8f98"}
"""Of the backends, and of bounds that are no backend."""


def epoch_time(document: dict[str, Any], axes: Any) -> None:
    """Draw images per second, first and later epochs, per mode and backend, of the document of `dali-pipes bench`."""
    results = document["results"]
    labels = [f"{each['cache_mode']}, {each['backend']}" for each in results]
    for place, (epochs, alpha) in enumerate((("first_epoch", 0.45), ("later_epochs", 1.0))):
        rates = [each["images_per_second"][epochs] for each in results]
        colours = [COLOURS[each["backend"]] for each in results]
        rows = [i + 0.4 * place for i in range(len(results))]
        bars = axes.barh(rows, rates, 0.38, color=colours, alpha=alpha)
        axes.bar_label(bars, [f"{rate:.0f}" for rate in rates], padding=3, fontsize=7)
    axes.set_yticks([i + 0.2 for i in range(len(results))], labels)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel("images/s (pale: first epoch; full: later epochs, median)")
    kind = "float32" if "mean" in document["recipe"] else "integers"
    axes.set_title(f"{results[0]['images']} images, to {'x'.join(map(str, document['recipe']['size']))}, {kind}")


def write_epoch_time(document: dict[str, Any], path: Path) -> None:
    """Write the chart of `epoch_time` as a PNG.

    Raises:
        BackendError: matplotlib is not installed.
    """
    check_matplotlib()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 1.5 + 0.42 * len(document["results"])), layout="constrained")
    epoch_time(document, figure.add_subplot())
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120, format="png")


def check_matplotlib() -> None:
    """Refuse charts where they cannot be drawn.

    Raises:
        BackendError: matplotlib is not installed.
    """
    import importlib.util

    if importlib.util.find_spec("matplotlib") is None:
        raise BackendError("charts need matplotlib: pip install 'dali-pipes[bench]'.")
