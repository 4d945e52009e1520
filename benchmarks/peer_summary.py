"""What `peers.py` has found, in short: medians, the table against the best peer, and text."""

from __future__ import annotations

import statistics
from typing import Any

NOISY = 0.1
"""A run in which others took more of the processors than this counts only where there is no other."""

OURS = ("ours, torch", "ours, dali-cpu")

RATES = ("cold", "warm", "again", "busy", "dropped")
"""First words of the figures that are images per second."""

Results = dict[str, dict[str, dict[str, Any]]]

ROWS: tuple[tuple[str, str, str, str | None], ...] = (
    ("warm, uint8 512x512", "photos", "warm uint8", "bound: two threads copy"),
    ("warm, float32 512x512", "photos", "warm float32", None),
    ("the same, 8 ms of Python a batch", "photos", "busy float32", None),
    ("warm, uint8 224x224, batches of 256", "small", "warm uint8", "bound: two threads copy"),
    ("warm, float32 224x224, batches of 256", "small", "warm float32", None),
    ("cold, photos", "photos", "cold", "bound: codecs alone"),
    ("cold, mammograms", "mammograms", "cold", "bound: codecs alone"),
    ("cold, 20,000 files of 64x64", "many", "cold", "bound: codecs alone"),
    ("the same, first epoch of a second process", "many", "again", None),
    ("page cache dropped, first epoch", "photos", "dropped", None),
    ("start to first batch, cold, s", "photos", "start to first batch, cold, s", None),
    ("start to first batch, cached, s", "photos", "start to first batch, again, s", None),
    ("memory, MiB", "photos", "PSS, cold, MiB", None),
    ("memory that no file holds, MiB", "photos", "PSS of its own, cold, MiB", None),
)
"""Title, kind, figure, and the bound that it has."""


def medians(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians of a peer's runs of one kind; of quiet ones, where there are any of a stage."""
    found: dict[str, Any] = {}
    good = [run for run in runs if "error" not in run]
    for stage in dict.fromkeys(run["stage"] for run in good):
        those = [run for run in good if run["stage"] == stage]
        quiet = [run for run in those if run["share of others"] <= NOISY]
        names = [name for name in those[0] if name not in ("stage", "share of others", "import, s")]
        found |= {name: round(statistics.median(run[name] for run in quiet or those), 3) for name in names}
        found[f"runs, {stage}"] = len(those)
        found[f"noisy runs, {stage}"] = len(those) - len(quiet)
    if errors := [run["error"] for run in runs if "error" in run]:
        found["error"] = errors[-1]
    return found


def smaller_is_better(figure: str) -> bool:
    """Whether a figure is seconds or MiB, and no rate."""
    return figure.endswith((", s", "MiB"))


def best(figures: dict[str, float], figure: str) -> tuple[str, float] | None:
    """The best of several, by name."""
    if not figures:
        return None
    choose = min if smaller_is_better(figure) else max
    name = choose(figures, key=lambda each: figures[each])
    return name, figures[name]


def of(results: Results, kind: str, figure: str) -> dict[str, float]:
    """A figure of all that have it and gave the right pixels, by name."""
    peers = results.get(kind, {})
    return {name: each[figure] for name, each in peers.items() if figure in each and "error" not in each}


def rows(results: Results) -> list[list[str]]:
    """Cells of the table: title, ours on torch and on dali-cpu, the best peer, how many times as good, of the bound."""
    lines = []
    for title, kind, figure, bound in (*ROWS, REDUCED):
        there = of(results, kind, figure)
        ours = {name: there[name] for name in there if name.startswith("ours")}
        if title == REDUCED[0]:
            ours = {"ours, torch": there["ours, reduced"]} if "ours, reduced" in there else {}
        mine = best({name: ours[name] for name in OURS if name in ours}, figure)
        peer = best({name: there[name] for name in there if not name.startswith(("ours", "bound"))}, figure)
        if mine is None:
            continue
        cells = [title, *(number(ours.get(name)) for name in OURS), "", "", ""]
        if peer is not None:
            ratio = peer[1] / mine[1] if smaller_is_better(figure) else mine[1] / peer[1]
            cells[3] = f"{peer[0]}: {number(peer[1])}"
            cells[4] = f"{ratio:.2f}" if ratio >= 1 else f"**{ratio:.2f}: not first**"
        if bound and bound in there:
            cells[5] = f"{mine[1] / there[bound]:.2f} of {number(there[bound])}"
        lines.append(cells)
    return lines


REDUCED = ("cold, mammograms, `reduce=True` (other pixels)", "mammograms", "cold", None)


def number(value: float | None) -> str:
    """Three digits, or all before the point."""
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def table(document: dict[str, Any]) -> str:
    """The table as Markdown, with what it was measured on."""
    facts, results = document["machine"], document["results"]
    peers = sorted({name for kind in results.values() for name in kind if not name.startswith(("ours", "bound"))})
    head = "| images/s, or as said | torch | dali-cpu | best peer | against it | of what the machine allows |"
    noisy = sum(
        count for kind in results.values() for each in kind.values() for name, count in each.items()
        if name.startswith("noisy runs")
    )  # fmt: skip
    return "\n".join(
        [
            head,
            "|---|---|---|---|---|---|",
            *(f"| {' | '.join(cells)} |" for cells in rows(results)),
            "",
            f"Measured with `python benchmarks/peers.py` on {facts['cores']} cores ({facts['cpu']}), "
            f"{facts['memory_gib']} GiB, not run on a GPU; medians. {noisy} runs came while others used the machine. "
            f"Peers: {', '.join(peers)}.",
        ]
    )


def show(results: Results) -> None:
    """Print all peers by kind, and the table."""
    for kind, peers in results.items():
        print(f"\n{kind}", flush=True)
        order = sorted(peers.items(), key=lambda item: -item[1].get("warm uint8", item[1].get("cold", 0)))
        for name, found in order:
            wrong = f"  failed: {found['error']}" if "error" in found else ""
            rates = {name: value for name, value in found.items() if name.split()[0] in RATES}
            texts = [f"{what} {number(value)}" for what, value in rates.items()]
            print(f"  {name:26s} {', '.join(texts)}{wrong}", flush=True)
    print(flush=True)
    for cells in rows(results):
        print("  ".join(cells), flush=True)
