"""Check every clip against its chunks, decode a sample, and write one page about what would fail."""

import argparse
import json
from pathlib import Path

from avion_core.command import run
from avion_core.data.preflight import check_dataset
from avion_core.report.preflight import write_page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--datasets", required=True, help="chunk index and clip tables by data set, as JSON")
    parser.add_argument("--samples", type=int, required=True, help="clips of each table to decode")
    parser.add_argument("--seed", type=int, required=True, help="decides which clips are decoded")
    parser.add_argument("--clip-timeout", type=float, required=True, help="seconds one clip may take")
    parser.add_argument("--out", type=Path, required=True, help="page to write")
    arguments = parser.parse_args()
    found = [
        check_dataset(
            name,
            Path(entry["chunks"]),
            {table: Path(path) for table, path in entry["tables"].items()},
            samples=arguments.samples,
            seed=arguments.seed,
            clip_timeout_s=arguments.clip_timeout,
        )
        for name, entry in json.loads(arguments.datasets).items()
    ]
    write_page(found, out=arguments.out)
    for dataset in found:
        for problem in dataset.problems:
            print(f"{dataset.dataset}, {problem.where}: {problem.count} {problem.what}; {problem.example}")
    problems = sum(len(dataset.problems) for dataset in found)
    print(f"preflight: {problems or 'no'} problems; see {arguments.out}")


if __name__ == "__main__":
    run(main)
