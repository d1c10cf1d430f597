"""open_clip's published weights: fetched once with a network, read wherever jobs run.

`snakemake weights` fetches those that the selected runs start from; trainings only read the fetched file.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from avion_core.config import OPEN_CLIP, known
from avion_core.files import publish
from avion_core.models.checkpoint_file import read_checkpoint
from avion_core.models.weights import ModelError


def check_name(source: str) -> None:
    """Raise ModelError, naming the nearest, unless open_clip knows `open_clip:<model>/<tag>`."""
    import open_clip

    model, _, tag = source.removeprefix(OPEN_CLIP).partition("/")
    try:
        known([model], open_clip.list_models(), f"{source}: model")
        known([tag], open_clip.list_pretrained_tags_by_model(model), f"{source}: tag")
    except ValueError as error:
        raise ModelError(str(error)) from None


def fetch(source: str, out: Path) -> None:
    """Publish the weights of `open_clip:<model>/<tag>` as the file `out`, from open_clip's cache or servers.

    Raises ModelError for a name that open_clip does not know, and if no server provides the weights.
    """
    check_name(source)
    cached = _download(source, out)
    read_checkpoint(cached, shapes_only=True)
    with publish(out) as draft:
        shutil.copyfile(cached, draft)


def _download(source: str, out: Path) -> Path:
    """open_clip's own file: from the Hugging Face hub, else from its original address."""
    import open_clip

    config = open_clip.get_pretrained_cfg(*source.removeprefix(OPEN_CLIP).split("/"))
    reasons = []
    for prefer_hf_hub in (True, False):
        try:
            return Path(open_clip.download_pretrained(config, prefer_hf_hub=prefer_hf_hub))
        except (OSError, RuntimeError, ValueError) as error:
            reasons.append((str(error) or type(error).__name__).splitlines()[0])
    raise ModelError(
        f"{source}: cannot be downloaded; run 'snakemake weights' where there is a network, or put the file "
        f"at {out} ({'; '.join(dict.fromkeys(reasons))})"
    )
