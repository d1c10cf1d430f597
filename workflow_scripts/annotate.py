"""Make the clip tables of one data set from its official annotations."""

import argparse
import json
from pathlib import Path

from avion_core.command import run
from avion_core.data.annotate import annotate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", help="name of the data set")
    parser.add_argument("--recipe", required=True, help="layout and settings that affect the clips, as JSON")
    parser.add_argument("--raw", type=Path, required=True, help="folder of the official files")
    parser.add_argument("--videos", type=Path, required=True, help="list of source videos")
    parser.add_argument("--chunks", type=Path, required=True, help="chunk index")
    parser.add_argument("--clips", type=Path, required=True, help="folder for the tables")
    arguments = parser.parse_args()
    annotate(
        arguments.dataset,
        recipe=json.loads(arguments.recipe),
        raw_dir=arguments.raw,
        videos=arguments.videos,
        chunks=arguments.chunks,
        clips_dir=arguments.clips,
    )


if __name__ == "__main__":
    run(main)
