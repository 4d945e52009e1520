"""Writes the table of cache modes in README.md from `results/epoch_time.json`: `python benchmarks/readme.py`."""

import json
import statistics
from pathlib import Path

HERE = Path(__file__).parent
BEGIN, END = "<!-- modes:begin -->", "<!-- modes:end -->"
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


def main() -> None:
    """Puts the table between its marks."""
    readme = HERE.parent / "README.md"
    text = readme.read_text()
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    readme.write_text(f"{before}{BEGIN}\n{table()}\n{END}{after}")


if __name__ == "__main__":
    main()
