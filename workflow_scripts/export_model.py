"""Export a trained stage's model: AVION's, LaViLa's or EgoVLP's checkpoint, or a folder for open_clip."""

import argparse
from pathlib import Path

from avion_core.command import run
from avion_core.models.export import EXPORTS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="folder of a stage, results/<run>/<stage>")
    parser.add_argument("--format", choices=list(EXPORTS), required=True, help="whose layout")
    parser.add_argument(
        "--out", type=Path, required=True, help="file (avion…, lavila, egovlp) or folder (open_clip) to write"
    )
    arguments = parser.parse_args()
    EXPORTS[arguments.format](arguments.model, arguments.out)


if __name__ == "__main__":
    run(main)
