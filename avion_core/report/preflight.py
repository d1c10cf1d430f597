"""Page with problems found before training starts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import jinja2

from avion_core.data.preflight import FRAMES, SIZE_PX, Preflight
from avion_core.files import publish


def write_page(found: Sequence[Preflight], *, out: Path) -> None:
    """Publish the findings of all data sets as one page that loads nothing."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    problems = sum(len(dataset.problems) for dataset in found)
    page = environment.get_template("preflight.html.j2").render(
        datasets=found, problems=problems, frames=FRAMES, size_px=SIZE_PX
    )
    with publish(out) as draft:
        draft.write_text(page, encoding="utf-8")
