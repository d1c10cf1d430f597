"""Which models may start from which, by what is known without building them. Works without torch."""

from __future__ import annotations

from avion_core.config import StageSettings
from avion_core.models.architecture import MODELS, model_kind


def check_start(kind: str, source: str) -> None:
    """Raise ValueError unless a model of this kind can start from one of the kind `source`."""
    starts = (kind, *MODELS[kind].starts)
    if source not in starts:
        raise ValueError(f"a {kind} cannot start from a {source}; it can from: {', '.join(starts)}")


def surely_starts(stage: StageSettings, source: StageSettings) -> bool:
    """Whether a stage fits the model that `source` trains, as far as is known without building them.

    Raises ValueError where a model of its kind cannot start from one of the other's.
    """
    kind, theirs = model_kind(stage), model_kind(source)
    check_start(kind, theirs)
    if stage.model != source.model:
        return False
    if kind == theirs:
        alike = not stage.labels or (stage.dataset, stage.labels) == (source.dataset, source.labels)
        ours, others = stage.model_arguments(), source.model_arguments()
        return alike and all((name in ours) == (name in others) for name in MODELS[kind].optional)
    fresh = MODELS[kind].fresh
    return bool(fresh) and len(stage.labels) < 2 and {*fresh} <= {*stage.waive_missing, *stage.start_fresh}
