"""Charts from the benchmarks' JSON: one PNG beside each file, or in another folder. Needs the extra `bench`.

    python benchmarks/plot.py [FILE.json ...] [--out DIR]

Without files: all of benchmarks/results/.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

from dali_pipes.tools.charts import COLOURS, epoch_time

RESULTS = Path(__file__).parent / "results"


def warm_bound(document: dict[str, Any], axes: Any) -> None:
    """Gigabytes of base images per second, of the bounds and of the loaders."""
    rates = document["images_per_second"]
    gigabytes = 3 * document["img_size"] ** 2 / 1e9
    colours = [COLOURS.get(name.split()[0], COLOURS["bound"]) for name in rates]
    bars = axes.barh(list(rates), list(rates.values()), color=colours)
    notes = [f"{rate:.0f}, {rate * gigabytes:.1f} GB/s of uint8" for rate in rates.values()]
    axes.bar_label(bars, notes, padding=3, fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("images/s")
    side = document["img_size"]
    axes.set_title(f"Warm epochs from `pinned`, {side}x{side}x3, batches of {document['batch_size']}, against memory")


def cold_bound(document: dict[str, Any], axes: Any) -> None:
    """Cold epochs as a share of what decoding alone allows."""
    results = document["results"]
    ratios = [100 * each["ratio"] for each in results.values()]
    bars = axes.barh(list(results), ratios, 0.5, color=COLOURS["torch"])
    notes = [
        f"{each['loader_images_per_second']:.1f} of {each['bound_images_per_second']:.1f} images/s"
        for each in results.values()
    ]
    axes.bar_label(bars, notes, padding=3, fontsize=8)
    axes.axvline(100, color=COLOURS["bound"], linewidth=1)
    axes.set_xlabel("% of decoding alone")
    axes.set_title("First epoch: decode, resize, cache, deliver")


def micro(document: dict[str, Any], axes: Any) -> None:
    """Milliseconds of each operation."""
    results = document["results"]
    bars = axes.barh([each["operation"] for each in results], [each["median_ms"] for each in results], color="#4a6fa5")
    axes.bar_label(bars, [f"{each['median_ms']:.3g}" for each in results], padding=3, fontsize=7)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel("ms, median, one thread")
    axes.set_title("Single operations")


def gpu_acceptance(document: dict[str, Any], axes: Any) -> None:
    """Warm images per second on a GPU, of the loader and of others, against what the bus allows."""
    figures = document["steps"]["warm"]["figures"]
    rates = {name: each["images/s"] for name, each in figures.items() if isinstance(each, dict) and "images/s" in each}
    bound = figures.get("images/s that the bus allows")
    names = {name: f"dali-gpu, {name}" if name.startswith(("uint8", "float32")) else name for name in rates}
    colours = [COLOURS["dali-gpu"] if names[name] != name else COLOURS["bound"] for name in rates]
    bars = axes.barh([names[name] for name in rates], list(rates.values()), color=colours)
    axes.bar_label(bars, [f"{rate:.0f}" for rate in rates.values()], padding=3, fontsize=7)
    if bound:
        axes.axvline(bound, color=COLOURS["bound"], linewidth=1)
    axes.invert_yaxis()
    axes.set_xlabel("images/s (line: what page-locked copies over the bus allow)")
    side = figures["side"]
    axes.set_title(f"Warm epochs, {side}x{side}x3" + ("" if bound else "; not run on a GPU"))


def peers(document: dict[str, Any], axes: Any) -> None:
    """Warm images per second of ours and of its peers, bytes and floats, against two threads that copy."""
    found = document["results"]["photos"]
    bound = found.get("bound: two threads copy", {}).get("warm uint8")
    rates = {
        name: (each["warm uint8"], each.get("warm float32"))
        for name, each in found.items()
        if "warm uint8" in each and "error" not in each and not name.startswith("bound")
    }
    names = sorted(rates, key=lambda name: rates[name][0])
    for shift, which, shade in ((0.2, 0, 1.0), (-0.2, 1, 0.45)):
        values = [rates[name][which] or float("nan") for name in names]
        places = [place + shift for place in range(len(names))]
        colours = [COLOURS["torch"] if name.startswith("ours") else "#777777" for name in names]
        bars = axes.barh(places, values, 0.38, color=colours, alpha=shade, label=("uint8", "float32")[which])
        axes.bar_label(bars, [f"{value:,.0f}" if value == value else "" for value in values], padding=2, fontsize=6)
    if bound:
        axes.axvline(bound, color=COLOURS["bound"], linewidth=1)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_xscale("log")
    axes.set_xlabel("images/s, log scale; dark: uint8, light: float32; line: two threads that copy the bytes")
    side, batch = (document["kinds"]["photos"][name] for name in ("side", "batch"))
    axes.set_title(f"Warm epochs, {side}x{side}x3, batches of {batch}")


CHARTS: dict[str, Callable[[dict[str, Any], Any], None]] = {
    "epoch_time": epoch_time,
    "warm_bound": warm_bound,
    "cold_bound": cold_bound,
    "micro": micro,
    "gpu_acceptance": gpu_acceptance,
    "peers": peers,
}


def draw(source: Path, out: Path) -> Path:
    """Draws one document; the PNG's path."""
    document = json.loads(source.read_text("utf-8"))
    figure, axes = plt.subplots(figsize=(9, 6))
    CHARTS[document["benchmark"]](document, axes)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.25)
    facts = document["machine"] if "machine" in document else document["steps"]["facts"]["figures"]["machine"]
    torch = facts["versions"].get("torch", "?")
    note = f"{facts['cpu']}, {facts['cores']} cores, {facts['memory_gib']:.0f} GiB; GPU: {facts['gpu']}; torch {torch}"
    figure.text(0.01, 0.01, note, fontsize=7, color="#666666")
    figure.tight_layout(rect=(0, 0.03, 1, 1))
    path = out / f"{source.stem}.png"
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return path


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--out", type=Path, help="folder of the PNGs (default: beside each file)")
    options = parser.parse_args(arguments)
    for source in options.files or sorted(RESULTS.glob("*.json")):
        print(draw(source, options.out or source.parent))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
