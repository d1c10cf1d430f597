"""Kinds of evaluation: their figures, and how these are named and compared.

Pure data for the configuration, the rules and the report. To add a kind, register its record below, write the
module that `evaluator` names, and list its files in the layouts that support it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from avion_core.registry import Registry

DUAL_SOFTMAX = "dual_softmax"
"""Entry of metrics.json that marks figures of a ranking that uses the whole test set at once."""


@dataclass(frozen=True)
class EvaluationKind:
    """One kind of evaluation."""

    evaluator: str
    """`package.module:Name` of the `avion_core.evaluate.subject.Evaluator`."""
    needs: str
    """Output that the model must have (`ModelKind.output`): `embeddings`, `classes` or `texts`."""
    files: tuple[str, ...]
    """Files that it needs, by their role in layouts; its evaluator gets all files that the layout lists."""
    figures: Mapping[str, tuple[str, ...]]
    """Figure names by the label that a classifier learns, for other models by whether clips have `one label`
    or `several labels`; "" is the default."""
    headlines: tuple[str, ...]
    """Figures that sum up a result; the first that was measured is used."""
    columns: Mapping[str, str]
    """Column headings by figure, in the order of the columns."""
    titles: Mapping[str, str]
    """Titles by weights (`zero_shot`, `in_domain`, `imported`) or by label; "" is the default. `{dataset}`
    stands for the data set's name."""
    settings: str = "avion_core.config.evaluations:EvaluationSettings"
    """`package.module:Name` of its settings, a subclass of the default if it has further ones."""
    optional: frozenset[str] = frozenset()
    """Figures missing from results of earlier versions."""
    per_cent: float = 1.0
    """Factor that converts a figure to per cent."""
    tops: Mapping[str, float] = field(default_factory=dict)
    """Highest values, after that factor, of figures that are not shares."""
    headline_is_mean: bool = False
    """Whether the headline is the mean of the other figures; findings then mention only the headline."""
    counted: str = ""
    """What the headline counts, such as `clip`; empty if findings need not say."""
    note: str = ""
    """Explanation of the columns, below the table."""
    averages_views: bool = True
    """Whether several views of a clip can be averaged (`clips`, `crops`)."""
    in_gallery: bool = False
    """Whether the outputs are clip and sentence embeddings, as the gallery needs."""

    def __post_init__(self) -> None:
        """Raise ValueError for figures, headlines and columns that do not belong together."""
        for name in ("figures", "columns", "titles"):
            if not isinstance(getattr(self, name), Mapping):
                raise ValueError(f"`{name}` is {getattr(self, name)!r}; a mapping is expected")
        if "" not in self.figures or "" not in self.titles:
            raise ValueError("`figures` and `titles` need an entry '', the default")
        if any(isinstance(names, str) for names in (*self.figures.values(), self.headlines, self.files)):
            raise ValueError("`figures`, `headlines` and `files` hold tuples of names, such as ('top1',)")
        figures = {name for names in self.figures.values() for name in names}
        for name in figures - self.columns.keys():
            raise ValueError(f"the figure '{name}' has no heading in `columns`")
        for name in {*self.columns, *self.headlines, *self.optional, *self.tops} - figures:
            raise ValueError(f"'{name}' of `columns`, `headlines`, `optional` or `tops` is not in `figures`")
        for label, names in self.figures.items():
            if not set(names) & set(self.headlines):
                raise ValueError(f"no figure of '{label}' in `figures` is in `headlines`")

    def figure_names(self, label: str = "") -> tuple[str, ...]:
        """Figures for a model that learned this label."""
        return self.figures.get(label, self.figures[""])

    def top(self, figure: str) -> float:
        """The highest value of a figure as reported: 100 for shares."""
        return self.tops.get(figure, 100.0)

    def required(self, label: str = "") -> tuple[str, ...]:
        """Figures that every result has."""
        return tuple(name for name in self.figure_names(label) if name not in self.optional)


EVALUATIONS: Registry[EvaluationKind] = Registry(
    "kind of evaluation", record=EvaluationKind, refers=("evaluator", "settings")
)
EVALUATIONS.register(
    "retrieval",
    EvaluationKind(
        evaluator="avion_core.evaluate.retrieval_evaluator:Retrieval",
        settings="avion_core.config.evaluations:RetrievalSettings",
        needs="embeddings",
        files=("clips",),
        figures={
            "": (
                "mAP.video_to_text",
                "mAP.text_to_video",
                "mAP.mean",
                "nDCG.video_to_text",
                "nDCG.text_to_video",
                "nDCG.mean",
            )
        },
        headlines=("mAP.mean", "nDCG.mean"),
        columns={
            "mAP.mean": "mAP",
            "mAP.video_to_text": "v→t",
            "mAP.text_to_video": "t→v",
            "nDCG.mean": "nDCG",
            "nDCG.video_to_text": "v→t",
            "nDCG.text_to_video": "t→v",
        },
        titles={
            "": "Fine-tuned multi-instance retrieval",
            "zero_shot": "Zero-shot multi-instance retrieval",
            "in_domain": "Multi-instance retrieval",
            "imported": "Multi-instance retrieval",
        },
        per_cent=100.0,
        headline_is_mean=True,
        note="v→t: from video to text; t→v: from text to video; mAP and nDCG are their means.",
        in_gallery=True,
    ),
)
EVALUATIONS.register(
    "recognition",
    EvaluationKind(
        evaluator="avion_core.evaluate.recognition_evaluator:Recognition",
        needs="classes",
        files=("clips", "classes"),
        figures={
            "action": (
                "verb_top1",
                "noun_top1",
                "action_top1",
                "verb_class_mean_top1",
                "noun_class_mean_top1",
                "action_class_mean_top1",
            ),
            "": ("top1", "top5", "class_mean_top1"),
        },
        headlines=("action_top1", "top1"),
        columns={
            "verb_top1": "verb top-1",
            "noun_top1": "noun top-1",
            "action_top1": "action top-1",
            "verb_class_mean_top1": "verb class mean",
            "noun_class_mean_top1": "noun class mean",
            "action_class_mean_top1": "action class mean",
            "top1": "top-1",
            "top5": "top-5",
            "class_mean_top1": "class mean",
        },
        titles={"": "Video classification", "action": "Action classification"},
        optional=frozenset(f"{name}class_mean_top1" for name in ("", "verb_", "noun_", "action_")),
        counted="clip",
        note="Class mean: mean over the classes that occur; n is their number.",
    ),
)
EVALUATIONS.register(
    "multiple_choice",
    EvaluationKind(
        evaluator="avion_core.evaluate.multiple_choice_evaluator:MultipleChoice",
        settings="avion_core.config.evaluations:MultipleChoiceSettings",
        needs="embeddings",
        files=("clips",),
        figures={"": ("inter_video", "intra_video")},
        headlines=("inter_video", "intra_video"),
        columns={"inter_video": "inter-video", "intra_video": "intra-video"},
        titles={"": "EgoMCQ (multiple choice)"},
    ),
)
EVALUATIONS.register(
    "captions",
    EvaluationKind(
        evaluator="avion_core.evaluate.captions_evaluator:Captions",
        needs="texts",
        files=("clips",),
        figures={"": ("cider", "rouge_l", "likelihood")},
        headlines=("cider",),
        columns={"cider": "CIDEr", "rouge_l": "ROUGE-L", "likelihood": "likelihood"},
        titles={"": "Captions of held-out clips"},
        per_cent=100.0,
        tops={"cider": 1000.0},
        averages_views=False,
        note=(
            "CIDEr is times 100, and its weights come from the clips measured. Likelihood: "
            "geometric mean of the probabilities of the human narration's tokens, the inverse of its "
            "perplexity. Chance: each clip with another clip's narration."
        ),
    ),
)
EVALUATIONS.register(
    "zero_shot_classes",
    EvaluationKind(
        evaluator="avion_core.evaluate.zero_shot_classes_evaluator:ZeroShotClasses",
        settings="avion_core.config.evaluations:ZeroShotClassesSettings",
        needs="embeddings",
        files=("clips", "classes"),
        figures={
            "": ("top1", "top5", "class_mean_top1", "mAP"),
            "one label": ("top1", "top5", "class_mean_top1"),
            "several labels": ("mAP",),
        },
        headlines=("top1", "mAP"),
        columns={"top1": "top-1", "top5": "top-5", "class_mean_top1": "class mean", "mAP": "mAP"},
        titles={
            "": "Classification of {dataset} by class names, fine-tuned",
            "zero_shot": "Zero-shot classification of {dataset}",
            "in_domain": "Classification of {dataset} by class names",
            "imported": "Classification of {dataset} by class names",
        },
        counted="clip",
        note=(
            "Class mean: mean over the classes that occur; mAP: mean over these of the average precision of "
            "their clips, with clips of several labels; n is the number of these classes."
        ),
    ),
)
