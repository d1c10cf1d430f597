"""Time and peak memory of the demo, stage by stage, on a fresh workspace.

Runs the default configuration as `make demo` does, but in a temporary folder. `figures` holds wall
seconds and the largest memory of all jobs together; `ratios` each stage's share of the CPU time.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import pandas as pd
import psutil

from benchmarks import write_result

ROOT = Path(__file__).parents[1]
STAGE_OF = {
    "fetch_dataset": "download",
    "transcode_videos": "transcode",
    "gather_chunks": "transcode",
    "annotate": "annotate",
    "rephrase_narrations": "narrate",
    "gather_narrations": "narrate",
    "narrate_clips": "narrate",
    "gather_narrated_clips": "narrate",
    "train": "train",
    "evaluate": "evaluate",
    "report": "report",
}


def memory_of_tree(process: psutil.Process) -> float:
    """Proportional memory of a process and its children in MB; pages they share count once."""
    total = 0
    for member in [process, *process.children(recursive=True)]:
        try:
            total += member.memory_full_info().pss
        except psutil.Error:
            continue
    return total / 1e6


def run_demo(folder: Path) -> dict[str, float]:
    """Run the default workflow in `folder`; wall seconds and peak memory in MB."""
    cores = str(os.cpu_count())
    line = [str(Path(sys.executable).parent / "snakemake"), "--snakefile", str(ROOT / "Snakefile")]
    start = time.monotonic()
    child = subprocess.Popen([*line, "--directory", str(folder), "--cores", cores])
    tree, peak = psutil.Process(child.pid), 0.0
    while child.poll() is None:
        peak = max(peak, memory_of_tree(tree))
        time.sleep(1)
    if child.returncode:
        sys.exit(child.returncode)
    return {"wall_seconds": time.monotonic() - start, "peak_memory_mb": peak}


def stage_figures(folder: Path) -> dict[str, dict[str, float]]:
    """Per stage: jobs, summed wall and CPU seconds, and the largest job's memory in MB."""
    stages: dict[str, dict[str, float]] = defaultdict(
        lambda: {"jobs": 0, "wall_seconds": 0.0, "cpu_seconds": 0.0, "largest_job_mb": 0.0}
    )
    for path in sorted((folder / "results/logs/benchmark").glob("*.tsv")):
        row = pd.read_csv(path, sep="\t", na_values="-").iloc[0]
        entry = stages[STAGE_OF[path.stem.split("-")[0]]]
        entry["jobs"] += 1
        entry["wall_seconds"] += float(row["s"])
        entry["cpu_seconds"] += float(row.get("cpu_time", 0.0) or 0.0)
        entry["largest_job_mb"] = max(entry["largest_job_mb"], float(row["max_rss"]))
    return dict(stages)


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="avion-demo-") as name:
        whole = run_demo(Path(name))
        stages = stage_figures(Path(name))
    total = sum(stage["cpu_seconds"] for stage in stages.values())
    figures: dict[str, Any] = {**whole, "stages": stages}
    shares = {f"{name}_share_of_cpu": stage["cpu_seconds"] / total for name, stage in stages.items()}
    write_result("demo", figures=figures, ratios=shares)


if __name__ == "__main__":
    main()
