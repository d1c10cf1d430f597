"""Rephrase one shard of a data set's distinct narrations, or estimate the bill of all of them."""

import argparse
import json
from pathlib import Path

from avion_core.command import run
from avion_core.config import NarrateSettings
from avion_core.narrate.rephrase import estimate, rephrase_shard


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clips", type=Path, help="clip table")
    parser.add_argument("--recipe", required=True, help="settings that decide the texts, as JSON")
    parser.add_argument("--machine", default="{}", help="how an openai server is asked, as JSON")
    parser.add_argument("--class-lists", type=Path, nargs="*", default=[], help="CSVs for the lexicon")
    parser.add_argument("--journal", type=Path, help="folder of answers kept for ever")
    work = parser.add_mutually_exclusive_group(required=True)
    work.add_argument("--shard", help="k-of-n: every n-th text from the k-th; needs --journal and --out")
    work.add_argument("--estimate", action="store_true", help="print the bill of what is not answered yet")
    parser.add_argument("--out", type=Path, help="table of rephrasings to write")
    arguments = parser.parse_args()
    settings = NarrateSettings.join(json.loads(arguments.recipe), json.loads(arguments.machine))
    if arguments.estimate:
        print(estimate(arguments.clips, settings, journal_dir=arguments.journal))
        return
    if arguments.journal is None or arguments.out is None:
        parser.error("--shard needs --journal and --out")
    rephrase_shard(
        arguments.clips,
        settings=settings,
        shard=arguments.shard,
        class_lists=arguments.class_lists,
        journal_dir=arguments.journal,
        out=arguments.out,
    )


if __name__ == "__main__":
    run(main)
