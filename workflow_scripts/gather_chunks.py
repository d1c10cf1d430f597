"""Join the chunk indexes and quarantine lists of all shards."""

import argparse
from pathlib import Path

from avion_core.command import run
from avion_core.media.transcode import gather_chunks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=Path, nargs="+", required=True, help="chunk indexes")
    parser.add_argument("--quarantines", type=Path, nargs="+", required=True, help="lists of bad videos")
    parser.add_argument("--index", type=Path, required=True, help="whole chunk index to write")
    parser.add_argument("--quarantine", type=Path, required=True, help="whole list to write")
    arguments = parser.parse_args()
    gather_chunks(
        arguments.shards,
        arguments.quarantines,
        index=arguments.index,
        quarantine=arguments.quarantine,
    )


if __name__ == "__main__":
    run(main)
