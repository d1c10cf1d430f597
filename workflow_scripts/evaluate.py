"""Measure one trained stage."""

import argparse
from pathlib import Path

from avion_core.command import run
from avion_core.config import EvaluationSettings
from avion_core.evaluate.runner import evaluate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--title", required=True, help="run/evaluation, for the progress line")
    parser.add_argument("--settings", required=True, help="the evaluation's section, as JSON")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--gpus", type=int, default=0, help="1 to evaluate on a GPU")
    parser.add_argument("--model", type=Path, required=True, help="folder of the trained stage")
    parser.add_argument("--chunks", type=Path, required=True, help="chunk index")
    parser.add_argument("--clips", type=Path, required=True, help="clip or question table")
    parser.add_argument("--sentences", type=Path, help="sentence table of EPIC-KITCHENS retrieval")
    parser.add_argument("--classes", type=Path, help="class names of recognition")
    parser.add_argument("--out", type=Path, required=True, help="folder of this evaluation")
    arguments = parser.parse_args()
    machine = {"threads": arguments.threads, "gpus": arguments.gpus}
    evaluate(
        EvaluationSettings.model_validate_json(arguments.settings).model_copy(update=machine),
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
