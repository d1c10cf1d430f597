"""Run the server of a language model until the shell that started this ends."""

import argparse
import json
from pathlib import Path

from avion_core.command import run
from avion_core.config import LocalServerSettings
from avion_core.narrate.local_server import serve


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", required=True, help="the section local_server, as JSON")
    parser.add_argument("--names", nargs="+", required=True, help="names of the model in requests")
    parser.add_argument("--images", type=int, required=True, help="most images in a request")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--run", type=int, required=True, help="process id of Snakemake")
    parser.add_argument(
        "--state", type=Path, required=True, help="file with the shell's pid; gets the address"
    )
    parser.add_argument("--log", type=Path, required=True, help="where the output of this program goes")
    arguments = parser.parse_args()
    serve(
        LocalServerSettings.model_validate(json.loads(arguments.settings)),
        names=arguments.names,
        images=arguments.images,
        threads=arguments.threads,
        run=arguments.run,
        state=arguments.state,
        log=arguments.log,
    )


if __name__ == "__main__":
    run(main)
