"""Evaluate one trained stage."""

import argparse
import json
from pathlib import Path

from avion_core.command import run
from avion_core.config import EvaluationSettings
from avion_core.evaluate.runner import evaluate
from avion_core.file_arguments import add_files, parse_files


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--title", required=True, help="run/evaluation, for the progress line")
    parser.add_argument("--recipe", required=True, help="settings that affect the result, as JSON")
    parser.add_argument("--job", default="{}", help="settings of the job, as JSON")
    parser.add_argument("--model", type=Path, required=True, help="folder of the trained stage")
    add_files(
        parser,
        "chunks (chunk index), clips (clip or question table), and what else the kind reads: sentences, "
        "classes …",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of this evaluation")
    arguments = parser.parse_args()
    evaluate(
        EvaluationSettings.model_validate(json.loads(arguments.recipe) | json.loads(arguments.job)),
        title=arguments.title,
        model=arguments.model,
        files=parse_files(arguments.files, required=("chunks", "clips")),
        out=arguments.out,
    )


if __name__ == "__main__":
    run(main)
