"""Rephrase one shard of a data set's distinct narrations."""

import argparse
import json
from pathlib import Path

from avion_core.command import run
from avion_core.config import NarrateSettings
from avion_core.narrate.local_server import local_server
from avion_core.narrate.rephrase import rephrase_shard


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clips", type=Path, help="clip table")
    parser.add_argument("--recipe", required=True, help="settings that affect the texts, as JSON")
    parser.add_argument("--job", default="{}", help="settings of the requests, as JSON")
    parser.add_argument("--class-lists", type=Path, nargs="*", default=[], help="CSVs of classes")
    parser.add_argument("--journal", type=Path, required=True, help="folder of paid answers")
    parser.add_argument(
        "--before", type=Path, nargs="*", default=[], help="tables whose texts are left to others"
    )
    parser.add_argument("--after", type=Path, nargs="*", default=[], help="further ones that share the limit")
    parser.add_argument("--shard", required=True, help="k-of-n: every n-th text from the k-th")
    parser.add_argument("--server", type=Path, nargs="*", help="state of the local server")
    parser.add_argument("--out", type=Path, required=True, help="table of rephrasings to write")
    arguments = parser.parse_args()
    settings = NarrateSettings.join(json.loads(arguments.recipe), json.loads(arguments.job))
    with local_server(arguments.server) as address:
        rephrase_shard(
            arguments.clips,
            settings=settings.at(address),
            shard=arguments.shard,
            class_lists=arguments.class_lists,
            journal_dir=arguments.journal,
            out=arguments.out,
            before=arguments.before,
            after=arguments.after,
        )


if __name__ == "__main__":
    run(main)
