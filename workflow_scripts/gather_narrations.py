"""Join the rephrasings of all shards into a table aligned with the clips."""

import argparse
import json
from pathlib import Path

from avion_core.command import run
from avion_core.config import FilterSettings
from avion_core.narrate.rephrase import gather_narrations


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clips", type=Path, help="clip table")
    parser.add_argument("--shards", type=Path, nargs="+", required=True, help="tables of rephrasings")
    parser.add_argument("--shared", type=Path, nargs="*", default=[], help="other data sets' tables")
    parser.add_argument("--filters", default="{}", help="which texts are kept, as JSON")
    parser.add_argument("--cosines", type=Path, nargs="*", default=[], help="tables of cosines, in order")
    parser.add_argument("--class-lists", type=Path, nargs="*", default=[], help="CSVs of classes")
    parser.add_argument("--journal", type=Path, required=True, help="folder of a language model's answers")
    parser.add_argument(
        "--out", type=Path, required=True, help="clip table to write, with counts and dead letters beside it"
    )
    arguments = parser.parse_args()
    gather_narrations(
        arguments.clips,
        arguments.shards,
        filters=FilterSettings.model_validate(json.loads(arguments.filters)),
        class_lists=arguments.class_lists,
        cosines=arguments.cosines,
        journal_dir=arguments.journal,
        out=arguments.out,
        shared=arguments.shared,
    )


if __name__ == "__main__":
    run(main)
