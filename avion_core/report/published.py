"""Published figures that the report shows beside ours: the records of `published.yaml`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import AfterValidator

from avion_core.config import Section


def _frozen(recipe: Mapping[str, Any]) -> Mapping[str, Any]:
    """Lists as tuples, as settings have them."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in recipe.items()}


class PublishedRow(Section):
    """One published result."""

    method: str
    """Name of the method."""
    backbone: str
    """Vision tower."""
    figures: Mapping[str, float]
    """Per cent, under the same dotted names as in our `metrics.json`."""
    source: str
    """Paper or model zoo with the result."""
    hardware: str = ""
    """GPUs of the training."""
    gpu_hours: int | None = None
    """Hours of all GPUs."""
    gb_per_gpu: int | None = None
    """Memory of a GPU that the training took."""
    batch_per_gpu: int | None = None
    """Clips per step on a GPU."""
    note: str = ""
    """How it was measured, and why it may not be comparable."""
    recipe: Annotated[Mapping[str, Any], AfterValidator(_frozen)] = {}
    """Settings of the stage that took the GPU hours, with the `layout` of its data set; empty if not one of
    ours."""
    hours_include: str = ""
    """Another stage that the GPU hours include."""


class PublishedTable(Section):
    """The published rows of one benchmark."""

    benchmark: str
    """Task and data set in words."""
    kind: str
    """Kind of evaluation."""
    variants: tuple[str, ...]
    """Labels or weights as in the kind's `titles`."""
    layout: str
    """Layout of their data set."""
    figures: Mapping[str, str]
    """Column headings by dotted figure name."""
    size: int | None
    """Number of clips or questions measured; None if the papers do not say and copies differ."""
    unit: str
    """Unit of `size`, as in our `metrics.json`."""
    rows: tuple[PublishedRow, ...]
    rounded_to: int = 1
    """Rounding of the published `size`."""

    def objection(self, measured: int) -> str:
        """Why a result on this many clips or questions is not comparable with the rows; empty if it is."""
        if self.size is None:
            return f"Perhaps not comparable: {measured:,} {self.unit} here; the papers do not give theirs"
        if measured >= self.size - self.rounded_to // 2:
            return ""
        about = "about " if self.rounded_to > 1 else ""
        return f"Not comparable: {measured:,} of {about}{self.size:,} {self.unit}"


def _tables(raw: Mapping[str, Any]) -> tuple[PublishedTable, ...]:
    """The tables, each row's source in full. Raises KeyError for a source that is not listed."""
    for row in (row for table in raw["tables"] for row in table["rows"]):
        row["source"] = raw["sources"][row["source"]]
    return tuple(PublishedTable.model_validate(table) for table in raw["tables"])


PUBLISHED = _tables(yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8")))
"""All tables, by importance within a kind of evaluation."""


def published_results(kind: str, variant: str, layout: str) -> PublishedTable | None:
    """The table for a kind of evaluation and a variant: the layout's own if there is one, else the first."""
    fitting = [table for table in PUBLISHED if table.kind == kind and variant in table.variants]
    same = [table for table in fitting if table.layout == layout]
    return next(iter([*same, *fitting]), None)


def published_training(layout: str, settings: Mapping[str, Any]) -> PublishedRow | None:
    """The row whose GPU hours are those of a stage with these settings on a data set of this layout."""
    own = {**settings, "layout": layout}
    rows = [row for table in PUBLISHED for row in table.rows if row.recipe]
    return next((row for row in rows if row.recipe.items() <= own.items()), None)
