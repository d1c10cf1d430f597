"""Fetch one data set as its owner publishes it."""

import argparse
from pathlib import Path

from avion_core.command import run
from avion_core.config import DatasetSettings
from avion_core.sources.download import DataSet, download


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", help="name of the data set")
    parser.add_argument("--settings", required=True, help="its section of the config, as JSON")
    parser.add_argument("--home", type=Path, required=True, help="folder of the data set")
    arguments = parser.parse_args()
    settings = DatasetSettings.model_validate_json(arguments.settings)
    download(DataSet(arguments.dataset, settings, home=arguments.home))


if __name__ == "__main__":
    run(main)
