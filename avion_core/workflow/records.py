"""What Snakemake has on record of finished outputs: a rule's params, which trigger a rerun where they differ.

A param keeps the form that earlier versions recorded as long as it means the same, so that a new form of
settings remakes nothing.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from avion_core.config import DatasetSettings, StageSettings
from avion_core.manifests import same_recipe


@dataclass(frozen=True)
class Records:
    """The params of finished outputs, for rules to declare again."""

    params: Callable[[str], Sequence[str] | None]
    """Snakemake's record of an output: `repr` of each param, None where there is no record."""

    def recipe(self, model: str, recipe: StageSettings) -> str:
        """A stage's recipe as JSON: the one recorded for `model` where it means the same."""
        now = recipe.recipe()
        for recorded in map(_read, self.params(model) or ()):
            if isinstance(recorded, dict) and same_recipe(recorded, now):
                return json.dumps(recorded)
        return json.dumps(now)


def annotation_record(dataset: DatasetSettings) -> str:
    """What decides a data set's clip tables beside the files, as JSON in the form of the first version."""
    own = dataset.source_settings.annotation_recipe() or None
    missing = dataset.allow_missing_ego4d_json
    recipe = {"layout": dataset.layout, "folder": own, "allow_missing_ego4d_json": missing}
    if dataset.clips_from:
        recipe["clips_from"] = dataset.clips_from
    return json.dumps(recipe, separators=(",", ":"))


def _read(param: str) -> Any:
    """The JSON value that a recorded param holds, None if it holds none."""
    try:
        return json.loads(ast.literal_eval(param))
    except (SyntaxError, TypeError, ValueError):
        return None
