"""Start weights of a stage, from an earlier stage or a third party."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from avion_core.config import StageSettings
from avion_core.file_arguments import numbered
from avion_core.models.base import VideoModel
from avion_core.models.foreign import start_from_foreign
from avion_core.models.store import start_from


def fill_from_start(
    model: VideoModel, settings: StageSettings, files: Mapping[str, Path], *, title: str
) -> None:
    """Load `start` or `start_weights` into a fresh model and print a summary.

    Raises ValueError for weights that do not fit, for a missing third-party file, and for a model that must
    not be fresh.
    """
    if "start" in files:
        source = str(files["start"].parent)
        report = start_from(model, source, **settings.waivers())
    elif settings.start_sources:
        paths = [_weight_file(files, place, settings, title) for place in range(len(settings.start_sources))]
        source, key = " and ".join(settings.start_sources), settings.start_weights_key
        report = start_from_foreign(model, *paths, source=source, key=key, **settings.waivers())
    else:
        model.after_start(model.state_dict())
        return
    model.check_frozen(settings.frozen, fresh=report.missing)
    model.after_start(report.missing)
    print(f"{title}: starts from {source}; {report}", file=sys.stderr, flush=True)


def _weight_file(files: Mapping[str, Path], place: int, settings: StageSettings, title: str) -> Path:
    """The file of an entry of `start_weights`. Raises ValueError if it was not given."""
    role = numbered("start_weights", place)
    if role not in files:
        raise ValueError(
            f"{title}: {settings.start_sources[place]} is not on this machine; fetch it with 'snakemake "
            f"weights' where there is a network, and give the file as '--files {role}=PATH'"
        )
    return files[role]
