"""The whole configuration: its sections, its runs, and checks of references between them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, SerializeAsAny, ValidationError, field_validator, model_validator

from avion_core.config.base import Count, Folder, Name, Positive, Section, Seed, SettingsError, known
from avion_core.config.datasets import DatasetSettings, TranscodeSettings
from avion_core.config.evaluations import EvaluationSettings
from avion_core.config.fit import unserved
from avion_core.config.language_model import ChatSettings, LanguageModelSettings
from avion_core.config.local_server import LocalServerSettings
from avion_core.config.messages import explain, without_passwords
from avion_core.config.narration import NarrateSettings
from avion_core.config.narrator import NarratorSettings
from avion_core.config.providers import PROVIDERS
from avion_core.config.sources import SOURCE_SETTINGS, ToyKitchenSettings
from avion_core.config.stages import StageSettings
from avion_core.evaluations import EVALUATIONS
from avion_core.layouts import LAYOUTS
from avion_core.plugins import load_plugins

LOCAL_TIMEOUT_SECONDS = 600.0
"""Default time limit of a request to the local server, which includes the wait for a slot."""


class RunSettings(Section):
    """One row of the report: its stages in order, and its evaluations."""

    title: str
    """Name in the report."""
    stages: Annotated[dict[Name, dict[str, Any]], Field(min_length=1)]
    """Stages by name, each with what differs from the section `stages`."""
    evaluations: tuple[Name, ...]
    """Evaluations by name."""
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] | None = None
    """Seeds, each with stages and evaluations of its own; null for the configuration's `seed` alone. The
    report shows means over them, with deviations and intervals. Results of the configuration's `seed` are in
    the run's folder, those of other seeds in `<run>/seed-<seed>`."""

    @field_validator("seeds")
    @classmethod
    def _each_seed_once(cls, seeds: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if seeds and len(set(seeds)) < len(seeds):
            raise ValueError("a seed is named twice; remove one")
        return seeds


class Settings(Section):
    """The whole configuration."""

    seed: Seed = 0
    """Seed of the trainings of every run without `seeds`."""
    data_dir: Folder = "data"
    """Folder of data sets."""
    results_dir: Folder = "results"
    """Folder of runs and the report."""
    shards: Count = 2
    """Number of jobs that videos and narrations are divided among."""
    transcode_minutes_per_gb: Positive = 30.0
    """Time limit of a transcoding shard under a scheduler: two hours, plus this many minutes per gigabyte of
    its videos; doubled at each further attempt."""
    plugins: tuple[str, ...] = ()
    """Python modules, installed or in the working directory, that register tasks, losses and so on. They are
    imported before the rest of the configuration is read."""
    preflight_clips: Count = 200
    """Clips of each table decoded by the target `preflight`."""
    selected_runs: Annotated[tuple[Name, ...], Field(min_length=1)]
    """Runs to make and show in the report."""
    toy_kitchen: ToyKitchenSettings = ToyKitchenSettings()
    """Generator of data sets with the source `toy_kitchen`."""
    transcode: TranscodeSettings = TranscodeSettings()
    """Default chunk settings of data sets."""
    datasets: dict[Name, DatasetSettings]
    language_model: LanguageModelSettings = LanguageModelSettings()
    """What providers with a language model share."""
    narrate: NarrateSettings = NarrateSettings()
    narrator: NarratorSettings = NarratorSettings()
    local_server: LocalServerSettings | None = None
    """Null: servers are started by others."""
    stages: dict[Name, SerializeAsAny[StageSettings]]
    """Training recipes by name."""
    evaluations: dict[Name, SerializeAsAny[EvaluationSettings]]
    """Evaluations by name."""
    runs: dict[Name, RunSettings]
    """Runs by name."""

    def stage(self, run: str, stage: str) -> StageSettings:
        """The recipe of a run's stage: the common one with the run's changes.

        `run` may be the folder of one of its seeds.
        """
        common = self.stages[stage].model_dump(exclude_unset=True)
        return StageSettings.model_validate({**common, **self.runs[run_of(run)].stages[stage]})

    def seeds(self, run: str) -> dict[str, int]:
        """Seeds of a run by the folder of their results: `<run>` for `seed`, else `<run>/seed-<seed>`."""
        seeds = self.runs[run].seeds or (self.seed,)
        return {run if seed == self.seed else f"{run}/seed-{seed}": seed for seed in seeds}

    def seed_of(self, folder: str) -> int:
        """The seed whose results are in this folder."""
        return self.seeds(run_of(folder))[folder]

    def local_models(self) -> dict[bool, ChatSettings]:
        """The language models served by `local_server`, by whether they look at clips."""
        models = self._language_models() if self.local_server else {}
        return {looks: model for looks, model in models.items() if model.base_url is None}

    def _language_models(self) -> dict[bool, ChatSettings]:
        chosen = {False: self.narrate.own, True: self.narrator.own if self.narrator.provider else None}
        return {looks: own for looks, own in chosen.items() if isinstance(own, ChatSettings)}

    @model_validator(mode="before")
    @classmethod
    def _local_models_are_free(cls, raw: Any) -> Any:
        """Fill in the price, patience and parallel requests of language models on the local server.

        Validators like this one run from the last to the first: the common settings are filled in already.
        """
        server = raw.get("local_server") if isinstance(raw, Mapping) else None
        if not isinstance(server, Mapping):
            return raw
        free = {
            "usd_per_million_input_tokens": 0.0,
            "usd_per_million_cached_input_tokens": 0.0,
            "usd_per_million_output_tokens": 0.0,
            "timeout_seconds": LOCAL_TIMEOUT_SECONDS,
            "parallel_requests": server.get("slots", LocalServerSettings.model_fields["slots"].default),
        }
        filled = dict(raw)
        for name in ("narrate", "narrator"):
            section = raw.get(name)
            provider = section.get("provider") if isinstance(section, Mapping) else None
            own = section.get(provider, {}) if isinstance(provider, str) else None
            chats = provider in PROVIDERS and issubclass(PROVIDERS[str(provider)], ChatSettings)
            if chats and isinstance(own, Mapping) and own.get("base_url") is None:
                filled[name] = {**section, str(provider): {**free, **own}}
        return filled

    @model_validator(mode="before")
    @classmethod
    def _language_models_inherit(cls, raw: Any) -> Any:
        """Fill in the sections of providers with a language model from the common one."""
        if not (isinstance(raw, Mapping) and raw.get("language_model")):
            return raw
        filled = dict(raw)
        for section in ("narrate", "narrator"):
            entry = raw.get(section)
            if isinstance(entry, Mapping):
                names = [name for name in PROVIDERS if name in entry or name == entry.get("provider")]
                sections = [name for name in names if issubclass(PROVIDERS[name], LanguageModelSettings)]
                common = raw["language_model"]
                filled[section] = {**entry, **{s: _inherited(common, entry.get(s, {})) for s in sections}}
        return filled

    @model_validator(mode="before")
    @classmethod
    def _datasets_inherit(cls, raw: Any) -> Any:
        """Fill in the sections `transcode` and of the source from the common ones."""
        if not (isinstance(raw, Mapping) and isinstance(raw.get("datasets"), Mapping)):
            return raw
        datasets = dict(raw["datasets"])
        for name, entry in raw["datasets"].items():
            if isinstance(entry, Mapping):
                sections = [s for s in cls.model_fields if s in ("transcode", entry.get("source"))]
                datasets[name] = {**entry, **{s: _inherited(raw.get(s), entry.get(s, {})) for s in sections}}
        return {**raw, "datasets": datasets}

    @model_validator(mode="after")
    def _local_server_has_models(self) -> Settings:
        models, elsewhere = self.local_models().values(), self._language_models().values()
        if self.local_server and elsewhere and not models:
            where = " and ".join(f"{model.where}.base_url" for model in elsewhere)
            raise ValueError(f"local_server and {where} are set; leave one out")
        for model in models:
            if "model" not in model.model_fields_set:
                raise ValueError(
                    f"{model.where}.model: name the model of local_server, such as its file's name; answers "
                    "are kept by this name"
                )
        return self

    @model_validator(mode="after")
    def _names_refer(self) -> Settings:
        known(self.selected_runs, self.runs, "selected_runs")
        if len(set(self.selected_runs)) < len(self.selected_runs):
            raise ValueError("selected_runs: a run is named twice; remove one")
        if Path(self.data_dir).absolute() == Path(self.results_dir).absolute():
            raise ValueError("data_dir and results_dir are the same folder; name two")
        for name in self.stages.keys() & self.evaluations.keys():
            raise ValueError(f"evaluations.{name}: '{name}' is a stage too, and both would share a folder")
        for name in {"logs", "report"} & self.runs.keys():
            raise ValueError(f"runs.{name}: '{name}' is a folder of results already; choose another name")
        for name, run in self.runs.items():
            known(run.stages, self.stages, f"runs.{name}.stages")
            known(run.evaluations, self.evaluations, f"runs.{name}.evaluations")
            for stage in run.stages:
                self._check_stage(name, stage)
            self._check_starts(name)
            for evaluation in run.evaluations:
                self._check_evaluation(name, evaluation)
        for name, dataset in self.datasets.items():
            if dataset.class_lists is not None:
                listed = [
                    other for other, entry in self.datasets.items() if LAYOUTS[entry.layout].class_lists
                ]
                known([dataset.class_lists], listed, f"datasets.{name}.class_lists")
        for selected in self.selected_runs:  # others may refer to data sets that this configuration replaced
            for problem in unserved(self, selected):
                raise ValueError(problem)
        for name in self.runs:  # a kind that no task could measure there has been refused by its layout
            self._check_measured(name)
        return self

    def _check_stage(self, run: str, stage: str) -> None:
        where = f"runs.{run}.stages.{stage}"
        try:
            recipe = self.stage(run, stage)
            recipe.check_in_run()
        except ValidationError as error:
            problem = explain(error.errors()[0], StageSettings)
            raise ValueError(f"{where}: {problem}") from None
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        known([recipe.dataset], self.datasets, f"{where}.dataset")
        if recipe.validate_with is not None:
            known([recipe.validate_with], self.evaluations, f"{where}.validate_with")
            measured = self.evaluations[recipe.validate_with].dataset
            known([measured], self.datasets, f"evaluations.{recipe.validate_with}.dataset")
        if recipe.start is not None:
            known([recipe.start], self.runs[run].stages, f"{where}.start")

    def _check_evaluation(self, run: str, name: str) -> None:
        entry, stages = self.evaluations[name], self.runs[run].stages
        known([entry.stage], stages, f"runs.{run}: evaluation '{name}' needs the stage")
        known([entry.dataset], self.datasets, f"evaluations.{name}.dataset")

    def _check_starts(self, run: str) -> None:
        """Raise ValueError for a stage that starts, directly or through others, from itself."""
        starts = {name: self.stage(run, name).start for name in self.runs[run].stages}
        for name in starts:
            before = starts[name]
            for _ in starts:
                if before == name:
                    raise ValueError(f"runs.{run}.stages.{name}.start: the stage would start from itself")
                before = starts[before] if before else None

    def _check_measured(self, run: str) -> None:
        """Raise ValueError for a kind of evaluation that the task of its stage does not allow."""
        for stage in self.runs[run].stages:
            recipe, where = self.stage(run, stage), f"runs.{run}.stages.{stage}"
            if recipe.validate_with is None:
                continue
            validation = self.evaluations[recipe.validate_with]
            kind, layout = validation.kind, LAYOUTS[self.datasets[validation.dataset].layout]
            if kind not in recipe.measured_by:
                raise ValueError(
                    f"{where}.validate_with: '{recipe.validate_with}' measures {kind}; {recipe.task} is "
                    f"validated by {' or '.join(recipe.measured_by)}"
                )
            if recipe.best_metric is not None:
                labels = recipe.predicts or ("several labels" if layout.several_labels else "one label")
                figures = EVALUATIONS[kind].figure_names(labels)
                known([recipe.best_metric], figures, f"{where}.best_metric")
        for name in self.runs[run].evaluations:
            entry = self.evaluations[name]
            recipe = self.stage(run, entry.stage)
            if entry.kind not in recipe.measured_by:
                fits = " or ".join(recipe.measured_by) or "no evaluation"
                raise ValueError(
                    f"evaluations.{name}: {entry.kind} of the stage '{entry.stage}', whose task "
                    f"{recipe.task} allows {fits}"
                )


SOURCE_SETTINGS.reserved |= Settings.model_fields.keys()


def run_of(folder: str) -> str:
    """The run with results in this folder, its own or that of one of its seeds."""
    return folder.partition("/")[0]


def load_settings(raw: Mapping[str, Any]) -> Settings:
    """Validate a merged configuration, as given by Snakemake.

    Raises SettingsError with one line per problem: where, what, and the nearest known name.
    """
    try:
        _load_plugins(raw.get("plugins", ()))
        return Settings.model_validate(raw)
    except ValidationError as error:
        found = error.errors()
        problems = [p for p in found if not (_is_inherited(p, found) or _is_consequence(p, found))]
        lines = [without_passwords(explain(problem, Settings)) for problem in problems]
        raise SettingsError("config: " + "\nconfig: ".join(lines)) from None


def _inherited(common: Any, own: Any) -> Any:
    """A section laid over the common one; other values are refused later, with their place."""
    mappings = isinstance(own, Mapping) and isinstance(common, Mapping)
    return {**common, **own} if mappings else own


def _load_plugins(named: Any) -> None:
    """Import the named modules; other values are refused with the other settings."""
    if isinstance(named, list | tuple) and all(isinstance(module, str) for module in named):
        try:
            load_plugins(named)
        except ValueError as error:
            raise SettingsError(f"config: plugins: {error}") from None


def _is_consequence(problem: Any, problems: list[Any]) -> bool:
    """Whether a list only seems too short, as pydantic leaves out its bad items."""
    place = problem["loc"]
    return problem["type"] == "too_short" and any(
        len(place) < len(other["loc"]) and other["loc"][: len(place)] == place for other in problems
    )


def _is_inherited(problem: Any, problems: list[Any]) -> bool:
    """Whether the problem of a data set or a provider only repeats a common section's."""
    section, place = problem["loc"][:1], problem["loc"][2:]
    if section in (("narrate",), ("narrator",)):
        section, place = ("datasets",), ("language_model", *place)
    return section == ("datasets",) and place != () and any(other["loc"] == place for other in problems)
