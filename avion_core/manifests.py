"""Provenance of results, read from their manifests and not from the present configuration.

Each result's folder holds a `manifest.json` (`avion_core.files.write_manifest`). A setting that a manifest
lacks did not exist yet and counts as its default.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from avion_core.config import (
    RENAMED,
    EvaluationSettings,
    Section,
    Settings,
    StageSettings,
    evaluation_class,
    run_of,
    stage_class,
)
from avion_core.evaluations import EVALUATIONS
from avion_core.files import read_json

MANIFEST = "manifest.json"
NARRATIONS = "narrations"
"""Folder of a data set with one folder of clip tables per provider."""
NOT_RECORDED = "not recorded"
"""Marks a value that a manifest does not have."""

_Settings = TypeVar("_Settings", bound=Section)


class _Input(BaseModel, strict=True):
    path: str
    sha256: str


class _Measured(BaseModel, strict=True):
    step: int
    figures: dict[str, float | None]


class _Recorded(BaseModel, strict=True):
    validation: dict[str, _Measured] = {}


class _Manifest(BaseModel, strict=True):
    """Types of a manifest's entries; manifests of older versions may lack some."""

    settings: _Recorded = _Recorded()
    inputs: dict[str, _Input] = {}


@dataclass(frozen=True)
class StageRecord:
    """What a stage was trained with."""

    recipe: StageSettings | None
    """None if the manifest has no recipe that this version can read."""
    seed: int | None
    clips: int | None
    """Rows of its clip tables."""
    providers: tuple[str, ...]
    """Who made the narrations beside the human ones that it was trained on."""


@dataclass(frozen=True)
class Difference:
    """A setting whose value in a result on disk differs from the configuration."""

    folder: Path
    """Folder of the result."""
    setting: str
    recorded: Any
    configured: Any

    def __str__(self) -> str:
        if self.recorded is NOT_RECORDED:
            return f"{self.folder}: {MANIFEST} has no {self.setting} that this version can read"
        return (
            f"{self.folder}: {self.setting} is {_written(self.recorded)} in {MANIFEST}, "
            f"{_written(self.configured)} in the configuration"
        )


def differences(settings: Settings) -> list[Difference]:
    """Differences between the selected runs' results on disk and the configuration.

    Missing results, and results without a manifest, have no differences. A difference is expected if the
    result is about to be remade. Raises ValueError, naming the file, for a manifest that is not JSON.
    """
    results = Path(settings.results_dir)
    found: list[Difference] = []
    for run in (folder for selected in settings.selected_runs for folder in settings.seeds(selected)):
        entry = settings.runs[run_of(run)]
        for stage in entry.stages:
            folder = results / run / stage
            if (folder / MANIFEST).is_file():
                found += stage_differences(folder, read_manifest(folder), settings, run=run, stage=stage)
        for name in entry.evaluations:
            folder = results / run / name
            if (folder / MANIFEST).is_file():
                found += evaluation_differences(folder, read_manifest(folder), settings.evaluations[name])
    return found


def read_manifest(folder: Path) -> Mapping[str, Any]:
    """The manifest of a result's folder. Raises ValueError, naming the file, if it is not one."""
    try:
        manifest = read_json(folder / MANIFEST)
    except ValueError as error:
        raise ValueError(f"{error}; delete the folder to remake the result") from None
    if not isinstance(manifest, Mapping):
        raise ValueError(f"{folder / MANIFEST}: not a JSON object; delete the folder to remake the result")
    try:
        _Manifest.model_validate(manifest)
    except ValidationError as error:
        problem = error.errors()[0]
        where = "".join(f"{part}: " for part in problem["loc"])
        raise ValueError(
            f"{folder / MANIFEST}: {where}{problem['msg']}; delete the folder to remake the result"
        ) from None
    return manifest


def stage_record(manifest: Mapping[str, Any]) -> StageRecord:
    """Read a stage's manifest; missing entries are None or empty."""
    settings = _mapping(manifest.get("settings"))
    seed, clips = (
        value if isinstance(value, int) else None for value in map(settings.get, ("seed", "clips"))
    )
    return StageRecord(
        recipe=recorded_recipe(settings.get("stage")),
        seed=seed,
        clips=clips,
        providers=tuple(dict.fromkeys(_providers(manifest))),
    )


def recorded_recipe(raw: Any) -> StageSettings | None:
    """A stage's recorded settings, without those that its task no longer has; None if they are unreadable."""
    try:
        return _parsed(stage_class(_mapping(raw)), _mapping(raw))
    except ValidationError:
        return None


def same_recipe(raw: Any, recipe: Mapping[str, Any]) -> bool:
    """Whether a stage's recorded settings mean what `recipe` does, in whatever form they are."""
    recorded = recorded_recipe(raw)
    return recorded is not None and recorded.recipe() == recipe


def evaluation_record(manifest: Mapping[str, Any]) -> EvaluationSettings | None:
    """The settings in an evaluation's manifest; None if this version can read none."""
    raw = _mapping(manifest.get("settings"))
    kind = raw.get("kind")
    return _parsed(evaluation_class(str(kind)), raw) if kind in EVALUATIONS else None


def stage_differences(
    folder: Path, manifest: Mapping[str, Any], settings: Settings, *, run: str, stage: str
) -> list[Difference]:
    """Differences between a stage's manifest and the configuration: recipe, seed, narration provider.

    `run` is the folder of the run's seed.
    """
    recorded, recipe = stage_record(manifest), settings.stage(run, stage)
    found = _differences(folder, recorded.recipe, recipe)
    seed = settings.seed_of(run)
    if recorded.seed is not None and recorded.seed != seed:
        found.append(Difference(folder, "seed", recorded.seed, seed))
    chosen = {"rephrased": "narrate", "narrated": "narrator"}
    sections = [chosen[kind] for kind in recipe.clip_tables if kind in chosen]
    now = {f"{name}.provider": str(getattr(settings, name).provider) for name in sections}
    others = [name for name in recorded.providers if name not in now.values()]
    if recorded.recipe is not None and others:
        changed = {setting: name for setting, name in now.items() if name not in recorded.providers}
        found += [Difference(folder, setting, ", ".join(others), name) for setting, name in changed.items()]
    return found


def evaluation_differences(
    folder: Path, manifest: Mapping[str, Any], entry: EvaluationSettings
) -> list[Difference]:
    """Differences between an evaluation's manifest and the configuration."""
    return _differences(folder, evaluation_record(manifest), entry)


def _differences(
    folder: Path, recorded: StageSettings | EvaluationSettings | None, configured: Any
) -> list[Difference]:
    if recorded is None:
        return [Difference(folder, "settings", NOT_RECORDED, None)]
    ours, theirs = configured.recipe(), recorded.recipe()
    now, then = (settings.model_dump(mode="json") for settings in (configured, recorded))
    return [
        Difference(folder, name, then.get(name), now.get(name))
        for name in ours | theirs
        if name in type(configured).model_fields and ours.get(name) != theirs.get(name)
    ]


def _providers(manifest: Mapping[str, Any]) -> Iterator[str]:
    """Providers from the paths of clip tables, `…/narrations/<provider>/<table>`."""
    for entry in _mapping(manifest.get("inputs")).values():
        parents = Path(str(_mapping(entry).get("path", ""))).parents
        if len(parents) > 1 and parents[1].name == NARRATIONS:
            yield RENAMED.get(parents[0].name, parents[0].name)


def _parsed(section: type[_Settings], raw: Mapping[str, Any]) -> _Settings | None:
    """Recorded settings, without those that this version no longer has."""
    try:
        return section.model_validate({name: raw[name] for name in raw if name in section.model_fields})
    except ValidationError:
        return None


def _written(value: Any) -> str:
    return "null" if value is None else str(value)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
