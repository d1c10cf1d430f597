"""Measure one trained stage."""

import argparse
import json
from pathlib import Path

from avion_core.command import run
from avion_core.config import EvaluationSettings
from avion_core.evaluate.runner import evaluate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--title", required=True, help="run/evaluation, for the progress line")
    parser.add_argument("--recipe", required=True, help="settings that decide the result, as JSON")
    parser.add_argument("--machine", default="{}", help="settings of the job, as JSON")
    parser.add_argument("--model", type=Path, required=True, help="folder of the trained stage")
    parser.add_argument("--chunks", type=Path, required=True, help="chunk index")
    parser.add_argument("--clips", type=Path, required=True, help="clip or question table")
    parser.add_argument("--sentences", type=Path, help="sentence table of EPIC-KITCHENS retrieval")
    parser.add_argument("--classes", type=Path, help="class names of recognition")
    parser.add_argument("--out", type=Path, required=True, help="folder of this evaluation")
    arguments = parser.parse_args()
    evaluate(
        EvaluationSettings.model_validate(json.loads(arguments.recipe) | json.loads(arguments.machine)),
        title=arguments.title,
        model=arguments.model,
        chunks=arguments.chunks,
        clips=arguments.clips,
        sentences=arguments.sentences,
        classes=arguments.classes,
        out=arguments.out,
    )


if __name__ == "__main__":
    run(main)
