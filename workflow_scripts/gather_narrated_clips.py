"""Join the narrated clips of all shards into a clip table."""

import argparse
import json
from pathlib import Path

from avion_core.command import run
from avion_core.config import NarratorSettings
from avion_core.narrate.narrated import gather_narrated


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clips", type=Path, help="clip table with human narrations")
    parser.add_argument("--chunks", type=Path, required=True, help="chunk index")
    parser.add_argument(
        "--held-out", type=Path, nargs="*", default=[], help="tables of clips that windows leave out"
    )
    parser.add_argument("--recipe", required=True, help="settings that affect the texts, as JSON")
    parser.add_argument("--filters", default="{}", help="which texts are kept, as JSON")
    parser.add_argument("--shards", type=Path, nargs="+", required=True, help="tables of narrated clips")
    parser.add_argument("--cosines", type=Path, nargs="*", default=[], help="tables of cosines, in order")
    parser.add_argument("--journal", type=Path, required=True, help="folder of a language model's answers")
    parser.add_argument(
        "--out", type=Path, required=True, help="clip table to write, with counts and dead letters beside it"
    )
    arguments = parser.parse_args()
    recipe = {**json.loads(arguments.recipe), "filters": json.loads(arguments.filters)}
    gather_narrated(
        arguments.clips,
        arguments.chunks,
        arguments.shards,
        settings=NarratorSettings.join(recipe, {}),
        cosines=arguments.cosines,
        held_out=arguments.held_out,
        journal_dir=arguments.journal,
        out=arguments.out,
    )


if __name__ == "__main__":
    run(main)
