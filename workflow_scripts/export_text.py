"""Write a clip table as one of LaViLa's pickles of texts."""

import argparse
from pathlib import Path

from avion_core.command import run
from avion_core.data.clips import CLIPS
from avion_core.data.published_text import FORMS, write_pickle
from avion_core.data.tables import map_table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clips", type=Path, help="clip table, such as data/ego4d/clips/train.arrow")
    parser.add_argument(
        "--form", choices=list(FORMS), required=True, help="ego4d_train, rephraser or narrator"
    )
    parser.add_argument("--out", type=Path, required=True, help="pickle to write")
    arguments = parser.parse_args()
    write_pickle(arguments.out, map_table(arguments.clips, CLIPS), arguments.form)


if __name__ == "__main__":
    run(main)
