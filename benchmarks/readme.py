"""Writes the tables of README.md: `python benchmarks/readme.py`.

Cache modes from `results/epoch_time.json`, hardware from `results/gpu_acceptance.json`, where that is there.
"""

import json
import statistics
from pathlib import Path

HERE = Path(__file__).parent
BEGIN, END = "<!-- modes:begin -->", "<!-- modes:end -->"
BACKENDS = ("torch", "dali-cpu", "dali-gpu")
HARDWARE = "<!-- hardware:begin -->", "<!-- hardware:end -->"
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


def main() -> None:
    """Puts the tables between their marks."""
    readme, result = HERE.parent / "README.md", HERE / "results" / "gpu_acceptance.json"
    text = readme.read_text()
    accepted = json.loads(result.read_text()) if result.exists() else None
    for (begin, end), made in (((BEGIN, END), table()), (HARDWARE, hardware(accepted))):
        before, after = text.split(begin)[0], text.split(end)[1]
        text = f"{before}{begin}\n{made}\n{end}{after}"
    readme.write_text(text)


if __name__ == "__main__":
    main()
