"""Print the cost of rephrasing the narrations that have no answer yet. Nothing is sent."""

import argparse
import json
from pathlib import Path

from avion_core.command import run
from avion_core.config import NarrateSettings
from avion_core.narrate.budget import money
from avion_core.narrate.ledger import journal_bills, total_usd
from avion_core.narrate.provider import provider_of
from avion_core.narrate.rephrase import estimate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--datasets", required=True, help="clip table and journal by data set, as JSON")
    parser.add_argument("--recipe", required=True, help="settings that affect the texts, as JSON")
    parser.add_argument("--job", default="{}", help="settings of the requests, as JSON")
    arguments = parser.parse_args()
    settings = NarrateSettings.join(json.loads(arguments.recipe), json.loads(arguments.job))
    provider_of(settings).check()
    for name, files in json.loads(arguments.datasets).items():
        journal = Path(files["journal"])
        left = estimate(Path(files["clips"]), settings, journal_dir=journal)
        print(f"{name}: ${money(total_usd(journal_bills(journal)))} billed so far; to ask: {left}")


if __name__ == "__main__":
    run(main)
