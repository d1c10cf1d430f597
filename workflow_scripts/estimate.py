"""Print the cost of what language models have not answered yet. Nothing is sent."""

import argparse
import json

from avion_core.command import run
from avion_core.narrate.estimates import estimate_lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plan", required=True, help="settings and files of what is asked, as JSON")
    arguments = parser.parse_args()
    for line in estimate_lines(json.loads(arguments.plan)):
        print(line)


if __name__ == "__main__":
    run(main)
