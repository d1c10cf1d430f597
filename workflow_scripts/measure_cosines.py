"""Measure the cosines between clips and the texts that a provider wrote about them, one shard."""

import argparse
import json
from pathlib import Path

from avion_core.clip_cosines import measure_cosines
from avion_core.command import run
from avion_core.config import CosineFilter


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clips", type=Path, help="clip table with human narrations")
    parser.add_argument("--chunks", type=Path, required=True, help="chunk index")
    parser.add_argument("--texts", type=Path, nargs="+", required=True, help="the provider's tables of texts")
    parser.add_argument("--looks", action="store_true", help="the texts are narrations of clips")
    parser.add_argument("--model", type=Path, required=True, help="weights of the stage that embeds both")
    parser.add_argument("--recipe", required=True, help="settings that affect the cosines, as JSON")
    parser.add_argument("--job", default="{}", help="settings of the job, as JSON")
    parser.add_argument("--shard", required=True, help="k-of-n: the k-th of n ranges of the clips")
    parser.add_argument("--out", type=Path, required=True, help="table of cosines to write")
    arguments = parser.parse_args()
    measure_cosines(
        arguments.clips,
        arguments.chunks,
        arguments.texts,
        looks=arguments.looks,
        settings=CosineFilter.model_validate(json.loads(arguments.recipe) | json.loads(arguments.job)),
        shard=arguments.shard,
        model=arguments.model,
        out=arguments.out,
    )


if __name__ == "__main__":
    run(main)
