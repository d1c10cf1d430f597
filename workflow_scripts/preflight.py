"""Check every clip against its chunks, decode a sample, and write a page of problems.

Exits with 1 if something would fail.
"""

import argparse
import json
import sys
from pathlib import Path

from avion_core.command import run
from avion_core.data.preflight import check_dataset
from avion_core.report.preflight import write_page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--datasets", required=True, help="files and needs by data set, as JSON")
    parser.add_argument("--samples", type=int, required=True, help="clips of each table to decode")
    parser.add_argument("--seed", type=int, required=True, help="seed for choosing the clips to decode")
    parser.add_argument("--clip-timeout", type=float, required=True, help="seconds one clip may take")
    parser.add_argument("--out", type=Path, required=True, help="page to write")
    arguments = parser.parse_args()
    found = [
        check_dataset(
            name,
            Path(entry["chunks"]),
            {table: Path(path) for table, path in entry["tables"].items()},
            dropped=Path(entry["dropped"]),
            needed=entry["needed"],
            samples=arguments.samples,
            seed=arguments.seed,
            clip_timeout_s=arguments.clip_timeout,
        )
        for name, entry in json.loads(arguments.datasets).items()
    ]
    write_page(found, out=arguments.out)
    for dataset in found:
        for table in dataset.tables:
            left_out = "; ".join(f"{reason}: {count}" for reason, count in table.dropped.items())
            print(f"{dataset.dataset}, {table.name}: {table.clips} clips; left out: {left_out or 'none'}")
    problems = [(dataset.dataset, problem) for dataset in found for problem in dataset.problems]
    for name, problem in problems:
        print(f"{name}, {problem.where}: {problem.count} {problem.what}; {problem.example}")
    print(f"preflight: {len(problems) or 'no'} problems; see {arguments.out}")
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    run(main)
