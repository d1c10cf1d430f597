"""Classification evaluator: top-1 of verb, noun and action, or top-1 and top-5 of one label.

Shapes: N clips that could be read, K classes; A all clips of a table, readable or not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from avion_core.config import known
from avion_core.data.clips import ClipTable
from avion_core.evaluate.bootstrap import Scores
from avion_core.evaluate.recognition import (
    accuracy_figures,
    action_chance,
    action_classes,
    action_right,
    class_chance,
    class_right,
)
from avion_core.evaluate.subject import (
    Arrays,
    EvaluationError,
    Measurement,
    Rows,
    Subject,
    clip_counts,
    filled,
    video_numbers,
)
from avion_core.files import read_json
from avion_core.layouts import label_columns


class Recognition:
    """Top-1 of verb, noun and action (EPIC-KITCHENS), or top-1 and top-5 of one label.

    Outputs: `probabilities_NK, labels_N`, and `verb_probabilities_NK` … of heads for further labels.
    """

    def __init__(self, subject: Subject) -> None:
        self.subject = subject

    def run(self) -> Measurement:
        model = self.subject.classifier()
        clips = ClipTable.load(self.subject.files["clips"])
        label = self.subject.description.label
        names = {name: self._class_names(name) for name in self.subject.description.heads}
        found = self.subject.classify_clips(clips, model)
        rows = found.rows
        borders = np.cumsum([len(own) for own in names.values()])[:-1]
        heads = dict(zip(names, np.split(found.outputs, borders, axis=1), strict=True))
        probabilities_NK = heads.pop(label)
        labels_A = clips.column(label_columns()[label])
        if label == "action":
            verbs_A, nouns_A = clips.column("verb"), clips.column("noun")
            verbs_N, nouns_N = verbs_A[rows], nouns_A[rows]
            right = action_right(
                probabilities_NK,
                names[label],
                labels_N=labels_A[rows],
                verbs_N=verbs_N,
                nouns_N=nouns_N,
                own_heads=heads,
            )
            chance = action_chance(verbs_N, nouns_N)
            classes = action_classes(verbs_A, nouns_A)
        else:
            right = class_right(probabilities_NK, labels_A[rows])
            chance = class_chance(labels_A[rows])
            classes = {"top1": labels_A}
        scores, strict = (clip_scores(clips, rows, right, classes, unread) for unread in (np.nan, 0))
        chance |= {name: 100 / scores.counts()[name] for name in scores.classes}
        figures = {
            **accuracy_figures(right, chance),
            **{name: scores.values()[name] for name in scores.classes},
            **clip_counts(clips, found),
            "bad_clips": found.bad_clips(),
        }
        outputs: Arrays = {"rows_N": rows, "probabilities_NK": probabilities_NK, "labels_N": labels_A[rows]}
        outputs |= {f"{name}_probabilities_NK": own_NK for name, own_NK in heads.items()}
        return Measurement(figures, outputs, scores, strict)

    def _class_names(self, label: str) -> list[str]:
        """Class names of a label. Raises EvaluationError unless its head has as many outputs."""
        path, description = self.subject.files["classes"], self.subject.description
        classes = read_json(path)
        known([label], classes, f"{path}: classes of the stage's label")
        if len(classes[label]) != description.heads[label]:
            raise EvaluationError(
                f"{self.subject.title}: the model has {description.heads[label]} classes of '{label}', "
                f"{path} has {len(classes[label])}; were they made from other data?"
            )
        return [str(name) for name in classes[label]]


def clip_scores(
    clips: ClipTable,
    rows_N: Rows,
    right: Mapping[str, npt.NDArray[Any]],
    classes: Mapping[str, Rows],
    unread: float,
) -> Scores:
    """Scores of each clip of the table, and the same again for the means over classes."""
    scores = {name: filled(100 * right_N, rows_N, len(clips), unread) for name, right_N in right.items()}
    means = {name: name.replace("top1", "class_mean_top1") for name in classes}
    scores |= {mean: scores[name] for name, mean in means.items()}
    by_class = {means[name]: class_A for name, class_A in classes.items()}
    return Scores(np.arange(len(clips)), video_numbers(clips), scores, by_class)
