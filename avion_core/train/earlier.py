"""Keep trainings of earlier versions valid: their recipes had the settings of all tasks.

A recorded recipe that means the same as the present one replaces it in the identity to compare.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from avion_core.config import StageJob
from avion_core.files import fingerprint, read_json
from avion_core.manifests import same_recipe


def finished_identity(identity: Mapping[str, Any], manifest: Mapping[str, Any]) -> str:
    """The fingerprint in a manifest whose result has this identity."""
    recorded = manifest.get("settings", {}).get("stage")
    if not same_recipe(recorded, identity["recipe"]):
        return fingerprint(identity)
    job = StageJob.model_fields.keys() - identity["recipe"].keys()
    return fingerprint({**identity, "recipe": {name: recorded[name] for name in recorded.keys() - job}})


def begun_identity(identity: Mapping[str, Any], checkpoints: Path) -> Mapping[str, Any]:
    """This identity as an earlier version wrote it to `checkpoints`, if one did; else unchanged."""
    for path in sorted(checkpoints.glob("*/recipe.json")):
        begun: dict[str, Any] = read_json(path)
        recipe = begun.get("recipe")
        if {**begun, "recipe": identity["recipe"]} == identity and same_recipe(recipe, identity["recipe"]):
            return begun
    return identity
