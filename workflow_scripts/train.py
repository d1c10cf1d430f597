"""Train one stage of one run; torchrun starts it on several processes."""

import argparse
import json
from pathlib import Path

from avion_core.command import run
from avion_core.config import EvaluationSettings, StageSettings
from avion_core.file_arguments import VALIDATION, add_files, parse_files
from avion_core.train.stages import train_stage
from avion_core.train.validation import ValidationData


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--title", required=True, help="run/stage, for the progress line")
    parser.add_argument("--recipe", required=True, help="settings that affect the result, as JSON")
    parser.add_argument("--job", default="{}", help="settings of the job, as JSON")
    parser.add_argument("--seed", type=int, required=True, help="seed of the run")
    parser.add_argument("--out", type=Path, required=True, help="folder of this stage")
    parser.add_argument("--validation", help="settings of the evaluation that validates, as JSON")
    add_files(
        parser,
        "clips_1 … (clip tables), chunks (chunk index); if needed: sentences, classes, start (weights of the "
        "stage to start from), start_weights (third-party weights), validation_chunks …",
    )
    arguments = parser.parse_args()
    files = parse_files(arguments.files, required=("clips_1", "chunks"))
    measured = {
        name.removeprefix(VALIDATION): path for name, path in files.items() if name.startswith(VALIDATION)
    }
    validation = arguments.validation and EvaluationSettings.model_validate_json(arguments.validation)
    train_stage(
        StageSettings.model_validate(json.loads(arguments.recipe) | json.loads(arguments.job)),
        title=arguments.title,
        seed=arguments.seed,
        files={name: path for name, path in files.items() if not name.startswith(VALIDATION)},
        out=arguments.out,
        validation=ValidationData(validation, measured) if validation else None,
    )


if __name__ == "__main__":
    run(main)
