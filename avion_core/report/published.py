"""Published figures that the report shows beside ours, each with its paper.

All were measured on the real data sets with models a hundred times larger than the demo's, so a page
that shows them must name their data. AVION's model zoo also lists a "pre-train"
row of 67.9 / 57.6 under VideoMAE: it repeats the verb and noun accuracies of EK100 classification and
is left out on purpose.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

AVION = "AVION, arXiv 2309.16669"
LAVILA = "LaViLa, CVPR 2023, arXiv 2212.04501"
EGOVLP = "EgoVLP, NeurIPS 2022, arXiv 2206.01670"
VIDEOMAE = "VideoMAE, NeurIPS 2022, arXiv 2203.12602, as listed in AVION, arXiv 2309.16669"
SMS = "Symmetric multi-similarity loss: arXiv 2406.12256 and 2506.14356"
EVA02_AT = "reproduced in EVA02-AT, arXiv 2506.14356"


@dataclass(frozen=True)
class PublishedRow:
    """One published result."""

    run: str
    """Name of the method."""
    backbone: str
    """Vision tower."""
    figures: Mapping[str, float]
    """Per cent, under the same dotted names as in our `metrics.json`."""
    source: str
    """Paper with the result."""
    hardware: str = ""
    gpu_hours: int | None = None
    gb_per_gpu: int | None = None
    batch_per_gpu: int | None = None
    note: str = ""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the stage that took the GPU hours, with the `layout` of its data set; empty if not one of
    ours."""
    hours_include: str = ""
    """Another stage that the GPU hours include."""


@dataclass(frozen=True)
class PublishedTable:
    """The published rows of one benchmark."""

    benchmark: str
    """Task and data set in words."""
    layout: str
    """Layout of their data set."""
    figures: Mapping[str, str]
    """Column headings by dotted figure name."""
    size: int | None
    """Number of clips or questions measured; None if the papers do not say and copies differ."""
    unit: str
    """Unit of `size`, as in our `metrics.json`."""
    rows: tuple[PublishedRow, ...] = field(default=())
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


_PRETRAINING = {"layout": "ego4d", "task": "contrastive", "frames": 4, "epochs": 5}
_VIDEOMAE = {"layout": "kinetics", "task": "reconstruction", "model": "videomae_vit_b", "epochs": 800}
_ZERO_SHOT = PublishedTable(
    "Zero-shot multi-instance retrieval on EPIC-KITCHENS-100",
    "ek100",
    {"mAP.mean": "mAP"},
    9668,
    "clips",
    (
        PublishedRow("EgoVLP", "TimeSformer-B", {"mAP.mean": 22.1}, EGOVLP, "32×A100", 1536, 22, 16),
        PublishedRow(
            "AVION, Ego4D narrations only",
            "ViT-B/16",
            {"mAP.mean": 27.4},
            AVION,
            "8×A5000",
            130,
            19,
            256,
            "27.5 with 4 frames, 28.4 with 16",
            recipe={**_PRETRAINING, "model": "clip_vit_b_16", "narrations": ("human",)},
        ),
        PublishedRow("LaViLa", "TimeSformer-B", {"mAP.mean": 30.9}, LAVILA, "32×V100", 1824, 25, 32),
        PublishedRow(
            "AVION + LLM narrations",
            "ViT-B/16",
            {"mAP.mean": 33.2},
            AVION,
            "8×A5000",
            260,
            19,
            256,
            "model zoo: 31.1 and 32.9",
            recipe={**_PRETRAINING, "model": "clip_vit_b_16", "narrations": ("rephrased",)},
        ),
        PublishedRow(
            "AVION + LLM narrations, 4 frames",
            "ViT-L/14",
            {"mAP.mean": 36.4},
            AVION,
            "8×A5000",
            680,
            None,
            112,
            recipe={**_PRETRAINING, "model": "clip_vit_l_14", "narrations": ("rephrased",)},
        ),
        PublishedRow(
            "AVION + LLM narrations, 16 frames",
            "ViT-L/14",
            {"mAP.mean": 37.6},
            AVION,
            "8×A5000",
            680,
            None,
            112,
        ),
    ),
)

_MIR = PublishedTable(
    "Fine-tuned multi-instance retrieval on EPIC-KITCHENS-100",
    "ek100",
    {"mAP.mean": "mAP", "nDCG.mean": "nDCG"},
    9668,
    "clips",
    (
        PublishedRow("LaViLa", "TimeSformer-B", {"mAP.mean": 50.5, "nDCG.mean": 65.0}, LAVILA),
        PublishedRow("LaViLa", "TimeSformer-L", {"mAP.mean": 50.9, "nDCG.mean": 66.5}, LAVILA),
        PublishedRow(
            "AVION",
            "ViT-B/16",
            {"mAP.mean": 51.7, "nDCG.mean": 66.8},
            AVION,
            note="model zoo: 52.0 and 66.5",
        ),
        PublishedRow("AVION", "ViT-L/14", {"mAP.mean": 54.5, "nDCG.mean": 69.0}, AVION),
        PublishedRow(
            "AVION with the SMS loss",
            "ViT-B/16",
            {"mAP.mean": 57.0, "nDCG.mean": 69.2},
            SMS,
            note="later work",
        ),
        PublishedRow(
            "AVION with the SMS loss",
            "ViT-L/14",
            {"mAP.mean": 62.1, "nDCG.mean": 73.0},
            SMS,
            note="later work",
        ),
    ),
)

_CLS = PublishedTable(
    "Action classification on EPIC-KITCHENS-100",
    "ek100",
    {"verb_top1": "verb", "noun_top1": "noun", "action_top1": "action"},
    9668,
    "clips",
    (
        PublishedRow("LaViLa", "TimeSformer-B", {"action_top1": 46.9}, LAVILA),
        PublishedRow(
            "AVION, narrations only",
            "ViT-B/16",
            {"verb_top1": 67.9, "noun_top1": 57.6, "action_top1": 47.3},
            AVION,
        ),
        PublishedRow(
            "AVION",
            "ViT-B/16",
            {"verb_top1": 70.0, "noun_top1": 59.4, "action_top1": 49.5},
            AVION,
        ),
        PublishedRow("LaViLa", "TimeSformer-L", {"action_top1": 51.0}, LAVILA),
        PublishedRow(
            "AVION",
            "ViT-L/14",
            {"verb_top1": 73.0, "noun_top1": 65.4, "action_top1": 54.5},
            AVION,
        ),
    ),
)

_KINETICS = PublishedTable(
    "Kinetics-400 classification after 800 epochs of VideoMAE",
    "kinetics",
    {"top1": "top-1", "top5": "top-5"},
    None,  # videos vanish, and copies of the split differ by thousands
    "clips",
    (
        PublishedRow(
            "VideoMAE, original",
            "ViT-B",
            {"top1": 80.0, "top5": 94.4},
            VIDEOMAE,
            "4×A5000",
            995,
            recipe={**_VIDEOMAE, "optimizer": "adamw"},
            hours_include="fine-tuning",
        ),
        PublishedRow(
            "VideoMAE in AVION",
            "ViT-B",
            {"top1": 80.1, "top5": 94.5},
            AVION,
            "4×A5000",
            583,
            recipe={**_VIDEOMAE, "optimizer": "lion"},
            hours_include="fine-tuning",
        ),
    ),
)

_EGOMCQ = PublishedTable(
    "Zero-shot EgoMCQ on Ego4D",
    "ego4d",
    {"inter_video": "inter-video", "intra_video": "intra-video"},
    39_000,  # EgoVLP, section 4
    "questions",
    (
        PublishedRow("LaViLa", "TimeSformer-B", {"inter_video": 93.8, "intra_video": 59.9}, LAVILA),
        PublishedRow("LaViLa", "TimeSformer-L", {"inter_video": 94.5, "intra_video": 63.1}, LAVILA),
        PublishedRow("AVION", "ViT-B/16", {"inter_video": 94.5, "intra_video": 61.4}, AVION, note=EVA02_AT),
    ),
    rounded_to=1000,
)

PUBLISHED: dict[tuple[str, str], PublishedTable] = {
    ("retrieval", "zero_shot"): _ZERO_SHOT,
    ("retrieval", "imported"): _ZERO_SHOT,
    ("retrieval", "in_domain"): _MIR,
    ("retrieval", ""): _MIR,
    ("recognition", "action"): _CLS,
    ("recognition", ""): _KINETICS,
    ("multiple_choice", ""): _EGOMCQ,
}
"""Published tables by kind of evaluation, and by weights or label as in the kind's `titles`."""


def published_training(layout: str, settings: Mapping[str, Any]) -> PublishedRow | None:
    """The row whose GPU hours are those of a stage with these settings on a data set of this layout."""
    own = {**settings, "layout": layout}
    rows = [row for table in PUBLISHED.values() for row in table.rows if row.recipe]
    return next((row for row in rows if row.recipe.items() <= own.items()), None)
