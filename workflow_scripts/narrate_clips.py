"""Narrate one shard of a data set's clips from their frames."""

import argparse
import json
from pathlib import Path

from avion_core.command import run
from avion_core.config import NarratorSettings
from avion_core.narrate.local_server import local_server
from avion_core.narrate.narrated import narrate_shard


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clips", type=Path, help="clip table with human narrations")
    parser.add_argument("--chunks", type=Path, required=True, help="chunk index")
    parser.add_argument(
        "--held-out", type=Path, nargs="*", default=[], help="tables of clips that windows leave out"
    )
    parser.add_argument("--recipe", required=True, help="settings that affect the texts, as JSON")
    parser.add_argument("--job", default="{}", help="the other settings, as JSON")
    parser.add_argument("--model", type=Path, nargs="*", help="weights of a trained narrator")
    parser.add_argument("--journal", type=Path, required=True, help="folder of paid answers")
    parser.add_argument("--other-clips", type=Path, nargs="*", default=[], help="tables that share the limit")
    parser.add_argument("--other-chunks", type=Path, nargs="*", default=[], help="their chunk indexes")
    parser.add_argument("--shard", required=True, help="k-of-n: every n-th distinct clip from the k-th")
    parser.add_argument("--server", type=Path, nargs="*", help="state of the local server")
    parser.add_argument("--out", type=Path, required=True, help="table of narrated clips to write")
    arguments = parser.parse_args()
    settings = NarratorSettings.join(json.loads(arguments.recipe), json.loads(arguments.job))
    with local_server(arguments.server) as address:
        narrate_shard(
            arguments.clips,
            arguments.chunks,
            settings=settings.at(address),
            shard=arguments.shard,
            model=arguments.model[0] if arguments.model else None,
            journal_dir=arguments.journal,
            out=arguments.out,
            held_out=arguments.held_out,
            others=list(zip(arguments.other_clips, arguments.other_chunks, strict=True)),
        )


if __name__ == "__main__":
    run(main)
