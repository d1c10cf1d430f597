"""Fetch open_clip's published weights, for stages to start from."""

import argparse
from pathlib import Path

from avion_core.command import run
from avion_core.models.open_clip_weights import fetch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", help="open_clip:<model>/<tag>")
    parser.add_argument("--out", type=Path, required=True, help="file to write")
    arguments = parser.parse_args()
    fetch(arguments.source, arguments.out)


if __name__ == "__main__":
    run(main)
