"""Writes the tables of README.md: `python benchmarks/readme.py`.

Cache modes from `results/epoch_time.json`; hardware from `results/gpu_acceptance.json` and peers from
`results/peers.json`, where these are there.
"""

import json
import statistics
from pathlib import Path

from peer_summary import table as table_of_peers

HERE = Path(__file__).parent
BEGIN, END = "<!-- modes:begin -->", "<!-- modes:end -->"
BACKENDS = ("torch", "dali-cpu", "dali-gpu")
HARDWARE = "<!-- hardware:begin -->", "<!-- hardware:end -->"
PEERS = "<!-- peers:begin -->", "<!-- peers:end -->"
KEPT = {
    "none": "nothing",
    "memory": "arrays in RAM, least recently used out first",
    "disk": "a PNG a sample",
    "npy": "a `.npy` file a sample",
    "tensor-disk": "a `.pt` file a sample",
    "tensor-memmap": "a `.dat` and a `.json` file a sample, memory-mapped",
    "pinned": "packed `.npy` segments, memory-mapped, page-locked on CUDA hosts",
    "tiered": "RAM over a disk mode, optionally over a shared read-only folder",
}


def table() -> str:
    """The table, and what it was measured on."""
    measured = json.loads((HERE / "results" / "epoch_time.json").read_text())
    facts = measured["machine"]
    runs: dict[str, dict[str, dict]] = {}
    for run in measured["results"]:
        runs.setdefault(run["cache_mode"], {})[run["backend"]] = run
    lines = [
        "| Mode | keeps | first epoch, s | later epochs, s | RAM, MiB | disk, MiB | processes share it | persists |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for mode, by_backend in runs.items():
        dali, torch = by_backend["dali-cpu"], by_backend["torch"]
        later = [statistics.median(run["later_epochs"]) for run in (dali, torch)]
        cells = [
            f"`{mode}`",
            KEPT[mode],
            f"{dali['first_epoch']:.1f} / {torch['first_epoch']:.1f}",
            f"{later[0]:.3f} / {later[1]:.3f}",
            f"{dali['ram_mib']:.0f} / {torch['ram_mib']:.0f}",
            f"{torch['disk_mib']:.0f}",
            dali["multi_process_safe"],
            "yes" if dali["persistent"] else "no",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(
        [
            *lines,
            "",
            f"Measured with `python benchmarks/epoch_time.py --photos {measured['photos']} --mammograms "
            f"{measured['mammograms']} --epochs 3`: JPEGs of 1600x1200 and DICOM files of 3328x2560 to 512x512x3 "
            f"float32, dali-cpu / torch, {facts['cores']} cores ({facts['cpu']}), {facts['memory_gib']} GiB, "
            "not run on a GPU. First epochs of dali-cpu include the import of DALI.",
        ]
    )


def hardware(accepted: dict | None) -> str:
    """The table of what exact parity was compared on; `accepted`: what `gpu_acceptance.py` wrote."""
    facts = json.loads((HERE / "results" / "epoch_time.json").read_text())["machine"]
    versions = facts["versions"]
    lines = [
        "| Hardware | exact parity | measured |",
        "|---|---|---|",
        f"| x86-64 CPU ({facts['cores']} cores), DALI {versions['nvidia-dali-cuda120']}, torch "
        f"{versions['torch'].split('+')[0]} | identical: torch, dali-cpu | yes, in CI |",
    ]
    digests = (accepted or {}).get("steps", {}).get("digests", {})
    if "dali-gpu" not in digests.get("figures", {}).get("backends", []):
        return "\n".join([*lines, "| any NVIDIA GPU | | not run on a GPU |"])
    found = accepted["steps"]["facts"]["figures"]
    alike = {"passed": "identical", "failed": "**differs**"}[digests["status"]]
    dali = next(value for name, value in found["versions"].items() if name.startswith("nvidia-dali"))
    gpu = f"{found['machine']['gpu']}, driver {found['smi'].get('driver_version', '?')}"
    lines.append(
        f"| {gpu}, DALI {dali}, torch {found['versions']['torch']} | {alike}: torch, dali-cpu, dali-gpu | yes |"
    )
    return "\n".join(lines)


def peers(measured: dict | None) -> str:
    """The chart and the table of peers; `measured`: what `peers.py` wrote."""
    if measured is None:
        return "Not measured yet: `python benchmarks/peers.py` measures it."
    chart = "![Warm epochs of ours and of its peers](benchmarks/results/peers.png)"
    return f"{chart}\n\n{table_of_peers(measured)}"


def document(name: str) -> dict | None:
    """What a benchmark wrote, if it is there."""
    path = HERE / "results" / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def main() -> None:
    """Puts the tables between their marks."""
    readme = HERE.parent / "README.md"
    text = readme.read_text()
    parts = (
        ((BEGIN, END), table()),
        (HARDWARE, hardware(document("gpu_acceptance"))),
        (PEERS, peers(document("peers"))),
    )
    for (begin, end), made in parts:
        before, after = text.split(begin)[0], text.split(end)[1]
        text = f"{before}{begin}\n{made}\n{end}{after}"
    readme.write_text(text)


if __name__ == "__main__":
    main()
