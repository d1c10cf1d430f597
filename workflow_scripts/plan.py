"""Print the trainings of the selected runs, and the hours that they are predicted to take."""

import argparse
import json
from pathlib import Path

from avion_core.command import run
from avion_core.config import load_settings
from avion_core.models.sizes import training_flops
from avion_core.workflow import Workflow
from avion_core.workflow.hours import Measured, hours_report
from avion_core.workflow.trainings import trainings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", required=True, help="the whole configuration, as JSON")
    parser.add_argument("--measured", type=Path, required=True, help="result of the GPU benchmark, if any")
    arguments = parser.parse_args()
    settings = load_settings(json.loads(arguments.settings))
    titles = {name: entry.title for name, entry in settings.runs.items()}
    found = trainings(Workflow(settings), training_flops)
    print("\n".join(hours_report(found, titles, Measured.read(arguments.measured))))


if __name__ == "__main__":
    run(main)
