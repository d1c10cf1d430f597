"""Transcode one shard of a data set's videos into chunks."""

import argparse
from pathlib import Path

from avion_core.command import run
from avion_core.config import TranscodeSettings
from avion_core.media.transcode import transcode_shard


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("videos", type=Path, help="list of source videos")
    parser.add_argument("--settings", required=True, help="the section transcode, as JSON")
    parser.add_argument("--shard", required=True, help="k-of-n: every n-th video from the k-th")
    parser.add_argument("--chunks", type=Path, required=True, help="folder for the chunks")
    parser.add_argument("--index", type=Path, required=True, help="chunk index to write")
    parser.add_argument("--quarantine", type=Path, required=True, help="list of bad videos to write")
    arguments = parser.parse_args()
    transcode_shard(
        arguments.videos,
        settings=TranscodeSettings.model_validate_json(arguments.settings),
        shard=arguments.shard,
        chunks_dir=arguments.chunks,
        index=arguments.index,
        quarantine=arguments.quarantine,
    )


if __name__ == "__main__":
    run(main)
