"""Start weights of a stage, from an earlier stage or a third party."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from avion_core.config import StageSettings
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
    elif settings.start_weights is not None:
        source = settings.start_weights
        if "start_weights" not in files:
            raise ValueError(
                f"{title}: {source} is not on this machine; fetch it with 'snakemake weights' where "
                "there is a network, and give the file as '--files start_weights=PATH'"
            )
        path, key = files["start_weights"], settings.start_weights_key
        report = start_from_foreign(model, path, source=source, key=key, **settings.waivers())
    else:
        model.after_start(model.state_dict())
        return
    model.after_start(report.missing)
    print(f"{title}: starts from {source}; {report}", file=sys.stderr, flush=True)
