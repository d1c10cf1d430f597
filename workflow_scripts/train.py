"""Train one stage of one run; torchrun starts it on several processes."""

import argparse
import json
from pathlib import Path

from avion_core.command import run
from avion_core.config import StageSettings
from avion_core.train.stages import train_stage
from avion_core.train.validation import ValidationData


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--title", required=True, help="run/stage, for the progress line")
    parser.add_argument("--recipe", required=True, help="settings that decide the result, as JSON")
    parser.add_argument("--machine", default="{}", help="settings of the job, as JSON")
    parser.add_argument("--seed", type=int, required=True, help="seed of the run")
    parser.add_argument("--clips", type=Path, nargs="+", required=True, help="clip tables")
    parser.add_argument("--chunks", type=Path, required=True, help="chunk index")
    parser.add_argument("--sentences", type=Path, help="sentence table of a relevancy task")
    parser.add_argument("--classes", type=Path, help="class names of a classification task")
    parser.add_argument("--start", type=Path, help="folder of the stage to start from")
    parser.add_argument(
        "--start-weights", type=Path, nargs="?", help="file of the third-party weights to start from"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of this stage")
    parser.add_argument("--validation", help="settings of the evaluation that validates, as JSON")
    parser.add_argument(
        "--validation-files", nargs="*", default=[], help="its files: chunks=PATH clips=PATH …"
    )
    arguments = parser.parse_args()
    files = {name: Path(path) for name, path in (pair.split("=", 1) for pair in arguments.validation_files)}
    train_stage(
        StageSettings.model_validate(json.loads(arguments.recipe) | json.loads(arguments.machine)),
        title=arguments.title,
        seed=arguments.seed,
        clips=arguments.clips,
        chunks=arguments.chunks,
        sentences=arguments.sentences,
        classes=arguments.classes,
        start=arguments.start,
        start_weights=arguments.start_weights,
        out=arguments.out,
        validation=ValidationData.parse(arguments.validation, files) if arguments.validation else None,
    )


if __name__ == "__main__":
    run(main)
