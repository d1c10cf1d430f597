"""Fetch one data set as its owner publishes it."""

import argparse
from pathlib import Path

from avion_core.command import run
from avion_core.config import DatasetSettings, ToyKitchenSettings
from avion_core.data.download import download


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", help="name of the data set")
    parser.add_argument("--settings", required=True, help="its section of the config, as JSON")
    parser.add_argument("--toy-kitchen", default="{}", help="the section toy_kitchen, as JSON")
    parser.add_argument("--raw", type=Path, required=True, help="folder for the official files")
    parser.add_argument("--videos", type=Path, required=True, help="list of source videos to write")
    arguments = parser.parse_args()
    download(
        arguments.dataset,
        settings=DatasetSettings.model_validate_json(arguments.settings),
        toy_kitchen=ToyKitchenSettings.model_validate_json(arguments.toy_kitchen),
        raw_dir=arguments.raw,
        videos=arguments.videos,
    )


if __name__ == "__main__":
    run(main)
