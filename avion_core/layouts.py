"""Annotation layouts: the tables that annotate makes of each, and the tasks and evaluations they serve.

Pure data for the configuration, the rules and the report. To add a layout, add its record below and the
module that `reader` names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from avion_core.registry import Registry, code_files

Files = Mapping[str, str]
"""Files in a data set's folder `clips/` by role: `clips`, `sentences`, `classes` …"""
SUFFIX = ".arrow"
"""Suffix of the tables' file names."""
RESERVED_ROLES = ("chunks", "model", "weights", "start", "start_weights")
"""Roles of files that no layout makes."""
CLASSES = "classes.json"
"""File with the class names of each label."""
LABEL_COLUMNS = ("verb", "noun", "label")
"""Columns of a clip table (`avion_core.data.clips`) that may hold a label's class numbers."""

TAG_COLUMNS = ("verb_tags", "noun_tags")
"""Columns of a clip table with the verb and noun tags of a narration."""


@dataclass(frozen=True)
class Layout:
    """One annotation layout."""

    reader: str
    """`package.module:NAME` of the layout's `avion_core.data.layout_files.LayoutReader`."""
    tables: tuple[str, ...]
    """Tables made by annotate; `train` holds the training clips."""
    evaluations: Mapping[str, Files]
    """Kinds of evaluation that the layout supports, each with its files."""
    narrated: bool = True
    """Whether the training clips have narrations."""
    training: Files = field(default_factory=dict)
    """Files that tasks read beside the training clips."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Labels of the clips, each with its column in the clip tables, one of LABEL_COLUMNS; annotate lists
    their classes in CLASSES, in the order of their numbers."""
    tags: bool = False
    """Whether its training clips have verb and noun tags, or classes that serve as such."""
    tag_file: str | None = None
    """The annotation file with the tags, which may be missing; None if they are in the others."""
    class_lists: Files = field(default_factory=dict)
    """Official verb and noun class lists by label, used as synonyms by the lexicon."""
    code: tuple[str, ...] = ()
    """Further files behind its tables, relative to `avion_core` or absolute, whose changes make them anew."""
    several_labels: bool = False
    """Whether an evaluated clip may have several classes, or none."""
    clip_files: tuple[str, ...] = ()
    """Published files with training clips, of which a data set may name one instead (`clips_from`)."""
    may_lack_metadata: bool = False
    """Whether a data set may allow that its list of benchmarks is missing (`allow_missing_ego4d_json`)."""
    why_nothing_to_evaluate: str = "its evaluation table is empty"
    """Why there may be no clips to evaluate, for a message."""

    def __post_init__(self) -> None:
        """Raise ValueError for tables and files that do not belong together."""
        if isinstance(self.tables, str):
            raise ValueError(f"`tables` is a tuple of names, such as ('{self.tables}',)")
        if not isinstance(self.labels, Mapping):
            raise ValueError(f"`labels` is {self.labels!r}; a mapping from labels to columns is expected")
        for label, column in self.labels.items():
            if column not in LABEL_COLUMNS:
                raise ValueError(
                    f"`labels`: the column '{column}' of '{label}' cannot hold a label; choose one of "
                    f"{', '.join(LABEL_COLUMNS)}"
                )
        if "train" not in self.tables:
            raise ValueError("`tables` needs `train`, the training clips")
        for kind, files in self.evaluations.items():
            if "clips" not in files:
                raise ValueError(f"`evaluations`: {kind} needs a file `clips`")
        for files in (self.training, *self.evaluations.values()):
            for role in set(files) & set(RESERVED_ROLES):
                raise ValueError(f"'{role}' is the role of another file; choose another name")
            for file in set(files.values()) - set(self.files):
                raise ValueError(
                    f"the file '{file}' is not made: there are {', '.join(self.files)}; add its table to "
                    f"`tables`, or `labels` for {CLASSES}"
                )
        code_files(self.code)

    @property
    def files(self) -> tuple[str, ...]:
        """Names of all files made by annotate."""
        return (*(f"{table}{SUFFIX}" for table in self.tables), *((CLASSES,) if self.labels else ()))

    @property
    def evaluation_tables(self) -> set[str]:
        """The tables with clips or questions of any evaluation."""
        return {self.evaluation_table(kind) for kind in self.evaluations}

    def evaluation_table(self, kind: str) -> str:
        """The table with the clips or questions of a kind of evaluation."""
        return self.evaluations[kind]["clips"].removesuffix(SUFFIX)


LAYOUTS: Registry[Layout] = Registry("layout", record=Layout, refers=("reader",))


def label_columns() -> dict[str, str]:
    """Labels of all layouts with their columns. Raises ValueError for one with two columns."""
    columns: dict[str, str] = {}
    for name, layout in LAYOUTS.items():
        for label, column in layout.labels.items():
            if columns.setdefault(label, column) != column:
                raise ValueError(
                    f"the layout '{name}' has the label '{label}' in the column '{column}', another layout "
                    f"has it in '{columns[label]}'; give it another name"
                )
    return columns


LAYOUTS.register(
    "ego4d",
    Layout(
        reader="avion_core.data.ego4d_clips:READER",
        tables=("train", "egomcq"),
        evaluations={
            "multiple_choice": {"clips": "egomcq.arrow"},
            "captions": {"clips": "egomcq.arrow"},
        },
        tags=True,
        tag_file="egoclip.csv",
        code=(
            "data/ego4d.py",
            "data/ego4d_published.py",
            "data/egoclip.py",
            "data/plain_pickle.py",
            "data/published_text.py",
        ),
        clip_files=("ego4d_train.pkl", "egoclip.csv"),
        may_lack_metadata=True,
        why_nothing_to_evaluate=(
            "EgoMCQ's file is missing (`ego4d.egomcq`, or egomcq.json beside ego4d.json), or its videos are"
        ),
    ),
)
LAYOUTS.register(
    "ek100",
    Layout(
        reader="avion_core.data.ek100:READER",
        tables=("train", "validation", "sentences_train", "sentences_test"),
        training={"sentences": "sentences_train.arrow", "classes": CLASSES},
        evaluations={
            "retrieval": {"clips": "validation.arrow", "sentences": "sentences_test.arrow"},
            "recognition": {"clips": "validation.arrow", "classes": CLASSES},
            "captions": {"clips": "validation.arrow"},
            "zero_shot_classes": {
                "clips": "validation.arrow",
                "classes": CLASSES,
                "narrations": "train.arrow",
            },
        },
        labels={"verb": "verb", "noun": "noun", "action": "label"},
        tags=True,
        class_lists={"verb": "EPIC_100_verb_classes.csv", "noun": "EPIC_100_noun_classes.csv"},
        why_nothing_to_evaluate="none of the videos of EPIC_100_validation.csv is there",
    ),
)
LAYOUTS.register(
    "kinetics",
    Layout(
        reader="avion_core.data.kinetics:READER",
        tables=("train", "val"),
        narrated=False,
        training={"classes": CLASSES},
        evaluations={
            "recognition": {"clips": "val.arrow", "classes": CLASSES},
            "zero_shot_classes": {"clips": "val.arrow", "classes": CLASSES},
        },
        labels={"label": "label"},
        why_nothing_to_evaluate="none of the clips of the list `val` is there",
    ),
)
LAYOUTS.register(
    "egtea",
    Layout(
        reader="avion_core.data.egtea:READER",
        tables=("train", "test"),
        narrated=False,
        training={"classes": CLASSES},
        evaluations={
            "recognition": {"clips": "test.arrow", "classes": CLASSES},
            "zero_shot_classes": {"clips": "test.arrow", "classes": CLASSES},
        },
        labels={"label": "label"},
        why_nothing_to_evaluate="none of the clips of test_split1.txt is there",
    ),
)
LAYOUTS.register(
    "charades_ego",
    Layout(
        reader="avion_core.data.charades_ego:READER",
        tables=("train", "test"),
        evaluations={"zero_shot_classes": {"clips": "test.arrow", "classes": CLASSES}},
        labels={"label": "label"},
        several_labels=True,
        why_nothing_to_evaluate="none of the videos of CharadesEgo_v1_test_only1st.csv is there",
    ),
)
LAYOUTS.register(
    "folder",
    Layout(
        reader="avion_core.data.folder:READER",
        tables=("train", "validation"),
        evaluations={
            "retrieval": {"clips": "validation.arrow"},
            "captions": {"clips": "validation.arrow"},
        },
        why_nothing_to_evaluate=(
            "no row is held out; write `validation` in the column `split`, or raise `validation_fraction`"
        ),
    ),
)
