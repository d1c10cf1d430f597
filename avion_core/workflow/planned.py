"""Needs of the selected runs: stages, evaluations, data sets; and whether results on disk are up to date."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from avion_core.config import (
    PROVIDERS,
    CosineFilter,
    EvaluationSettings,
    NarrateSettings,
    NarratorSettings,
    StageSettings,
    ensemble_of,
    run_of,
)
from avion_core.files import read_json, sha256
from avion_core.layouts import LAYOUTS
from avion_core.manifests import MANIFEST, Difference, differences, read_manifest, stage_differences
from avion_core.shards import shard_names
from avion_core.sources.download import source_state
from avion_core.sources.state import SourceRecord, SourceState
from avion_core.workflow.paths import Paths


@dataclass(frozen=True)
class PlannedStage:
    """One stage of one run with its recipe, for one seed."""

    run: str
    """Folder of the run's seed."""
    name: str
    recipe: StageSettings

    @property
    def where(self) -> str:
        """The stage's place in the configuration, for a message."""
        return f"runs.{run_of(self.run)}.stages.{self.name}"


@dataclass(frozen=True)
class Workflow(Paths):
    """The configuration for the rules. `runs` are the runs to make, by default the selected ones.

    Methods that take a `run` mean the folder of one of its seeds (`Settings.seeds`).
    """

    runs: tuple[str, ...] = field(default=())
    _states: dict[str, SourceState] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.runs:
            object.__setattr__(self, "runs", self.settings.selected_runs)

    def folders(self) -> list[str]:
        """Folder of every seed of the runs, in order."""
        return [folder for run in self.runs for folder in self.settings.seeds(run)]

    def stages(self) -> list[PlannedStage]:
        """Every stage of the runs, in order."""
        return [
            self.stage(run, stage)
            for run in self.folders()
            for stage in self.settings.runs[run_of(run)].stages
        ]

    def trained_stages(self) -> list[PlannedStage]:
        """The stages of the runs, each after those of any run that it starts from, that narrate its clips, or
        that filter its texts; then those of evaluations that the runs' are averaged with. Unknown ones and
        cycles, which are refused elsewhere, are left out."""
        found: list[PlannedStage] = []
        seen: set[tuple[str, str]] = set()

        def add(run: str, name: str) -> None:
            known = run_of(run) in self.settings.runs and name in self.settings.runs[run_of(run)].stages
            if known and (run, name) not in seen:
                seen.add((run, name))
                planned = self.stage(run, name)
                for needed in self._needed(planned):
                    add(*needed)
                found.append(planned)

        for stage in self.stages():
            add(stage.run, stage.name)
        for _, _, entry in self.evaluations():
            for member in ensemble_of(entry):
                if member.evaluation in self.settings.evaluations:
                    add(*self._first_of(member.run, self.settings.evaluations[member.evaluation].stage))
        return found

    def averaged_with(self, entry: EvaluationSettings) -> list[str]:
        """Outputs of the evaluations that are averaged with this one."""
        places = [self._first_of(member.run, member.evaluation) for member in ensemble_of(entry)]
        return [self.result(*place, "outputs.safetensors") for place in places]

    def _needed(self, stage: PlannedStage) -> Iterator[tuple[str, str]]:
        """Folder of the run, and name, of the stages whose models this one needs."""
        if stage.recipe.start:
            yield stage.run, stage.recipe.start
        for kind, section in (("rephrased", self.settings.narrate), ("narrated", self.settings.narrator)):
            if kind in stage.recipe.clip_tables and section.provider:
                if trained := section.own.trained_stage():
                    yield self._first_of(*trained)
                if cosine := section.filters.cosine:
                    yield self._first_of(cosine.run, cosine.stage)

    def stage(self, run: str, name: str) -> PlannedStage:
        """One stage of one run."""
        return PlannedStage(run, name, self.settings.stage(run, name))

    def evaluations(self) -> list[tuple[str, str, EvaluationSettings]]:
        """(run, name, settings) of every evaluation of the runs."""
        return [
            (run, name, self.settings.evaluations[name])
            for run in self.folders()
            for name in self.settings.runs[run_of(run)].evaluations
        ]

    def is_made(self, stage: PlannedStage) -> bool:
        """Whether a stage has its model, made with these settings and newer than its files of weights.

        Those files are then no longer needed and may be gone.
        """
        folder = Path(self.settings.results_dir) / stage.run / stage.name
        model = folder / "model.safetensors"
        if not (model.is_file() and (folder / MANIFEST).is_file()):
            return False
        own = [Path(file.path) for file in self.weight_files(stage.recipe) if not file.fetched]
        if any(path.is_file() and path.stat().st_mtime > model.stat().st_mtime for path in own):
            return False
        manifest = read_manifest(folder)
        return not stage_differences(folder, manifest, self.settings, run=stage.run, stage=stage.name)

    def report_is_outdated(self) -> bool:
        """Whether the report on disk shows other runs, or results whose manifests have changed since."""
        figures = Path(self.report("metrics.json"))
        if not figures.is_file():
            return False
        names = [(s.run, s.name) for s in self.stages()] + [
            (run, name) for run, name, _ in self.evaluations()
        ]
        try:
            recorded = read_json(figures)["provenance"]["manifests"]
            paths = [Path(self.result(*name, MANIFEST)) for name in names]
            return bool(recorded != {str(path): sha256(path) for path in paths})
        except (AttributeError, KeyError, OSError, TypeError, ValueError):
            return True

    def measured_stages(self) -> list[tuple[str, EvaluationSettings, PlannedStage]]:
        """(where, evaluation, stage) of every evaluation of the runs and every validation of a stage."""
        stages = {(stage.run, stage.name): stage for stage in self.trained_stages()}
        found = [
            (f"evaluations.{name}", entry, stages[run, entry.stage])
            for run, name, entry in self.evaluations()
            if (run, entry.stage) in stages
        ]
        for stage in stages.values():
            if stage.recipe.validate_with:
                entry = self.settings.evaluations[stage.recipe.validate_with]
                entry = entry.model_copy(update={"frames": stage.recipe.frames})
                found.append((f"{stage.where}.validate_with", entry, stage))
        return found

    def rephrased_datasets(self) -> list[str]:
        """Data sets with a stage that uses rephrased narrations."""
        return self._narrated_as("rephrased")

    def narrated_datasets(self) -> list[str]:
        """Data sets with a stage that uses narrations made from frames."""
        return self._narrated_as("narrated")

    def _narrated_as(self, kind: str) -> list[str]:
        return sorted({s.recipe.dataset for s in self.trained_stages() if kind in s.recipe.clip_tables})

    def narrator_model(self) -> str | None:
        """Weights of the stage that narrates clips, if the provider needs one."""
        narrator = self.settings.narrator
        trained = narrator.own.trained_stage() if narrator.provider else None
        return self.model(*self._first_of(*trained)) if trained else None

    def _first_of(self, run: str, stage: str) -> tuple[str, str]:
        """Folder of the run's first seed, and the stage or evaluation."""
        first = next(iter(self.settings.seeds(run))) if run in self.settings.runs else run  # else refused
        return first, stage

    def cosine_filter(self, provider: str) -> CosineFilter | None:
        """The filter by cosine of a provider's texts, if there is one."""
        return self._provided(provider).filters.cosine

    def cosine_providers(self) -> list[str]:
        """Providers whose texts are filtered by cosine."""
        settings = self.settings
        chosen = filter(None, (settings.narrate.provider, settings.narrator.provider))
        return [provider for provider in chosen if self.cosine_filter(provider)]

    def cosine_model(self, provider: str) -> str:
        """Weights of the stage by which a provider's texts are filtered."""
        chosen = self.cosine_filter(provider)
        assert chosen is not None, f"{provider} has no filter by cosine"
        return self.model(*self._first_of(chosen.run, chosen.stage))

    def cosine_tables(self, dataset: str, *, looks: bool) -> list[str]:
        """Cosines by which texts of a data set are filtered; empty without that filter."""
        provider = (self.settings.narrator if looks else self.settings.narrate).provider
        if provider not in self.cosine_providers():
            return []
        shards = shard_names(self.narration_shards(looks=looks))
        return [self.cosine_table(dataset, str(provider), shard) for shard in shards]

    def texts_to_filter(self, dataset: str, provider: str) -> list[str]:
        """A provider's shards of texts of a data set, and those of others that hold some of them."""
        looks = self.looks(provider)
        shards = shard_names(self.narration_shards(looks=looks))
        shared = [] if looks else self.shared_shards(dataset)
        return shared + [self.narration_table(dataset, shard, looks=looks) for shard in shards]

    def sharing(self, dataset: str, *, looks: bool) -> tuple[list[str], list[str]]:
        """Data sets before and after this one that share answers and limit with it."""
        section = self.settings.narrator if looks else self.settings.narrate
        datasets = self.narrated_datasets() if looks else self.rephrased_datasets()
        if dataset not in datasets or not section.own.shares_answers:
            return [], []
        place = datasets.index(dataset)
        return datasets[:place], datasets[place + 1 :]

    def shared_shards(self, dataset: str) -> list[str]:
        """Shards of other data sets that hold rephrasings of some of this one's texts."""
        names = shard_names(self.narration_shards(looks=False))
        before = self.sharing(dataset, looks=False)[0]
        return [self.narration_table(other, shard) for other in before for shard in names]

    def looks(self, provider: str) -> bool:
        """Whether a chosen provider narrates clips."""
        return PROVIDERS[provider].looks

    def _provided(self, provider: str) -> NarrateSettings | NarratorSettings:
        """The section that chooses a provider."""
        return self.settings.narrator if self.looks(provider) else self.settings.narrate

    def evaluated_datasets(self) -> set[str]:
        """Data sets that evaluations read, including validations of stages."""
        return {entry.dataset for entry in self._measured()}

    def _measured(self) -> list[EvaluationSettings]:
        """Settings of every evaluation of the runs and every validation of a stage."""
        validating = [s.recipe.validate_with for s in self.trained_stages() if s.recipe.validate_with]
        names = dict.fromkeys([*validating, *(name for _, name, _ in self.evaluations())])
        return [self.settings.evaluations[name] for name in names]

    def evaluation_tables(self, dataset: str) -> list[str]:
        """Tables of a data set that evaluations use."""
        layout = LAYOUTS[self.settings.datasets[dataset].layout]
        kinds = {entry.kind for entry in self._measured() if entry.dataset == dataset}
        return sorted({layout.evaluation_table(kind) for kind in kinds})

    def held_out_tables(self, dataset: str) -> list[str]:
        """Tables of a data set's clips that no training may see, whatever the runs evaluate."""
        layout = LAYOUTS[self.settings.datasets[dataset].layout]
        return [self.clip_table(dataset, table) for table in sorted(layout.evaluation_tables - {"train"})]

    def training_tables(self, recipe: StageSettings) -> dict[str, str]:
        """Clip tables that a stage trains on: `train` holds human narrations, `narrations` rephrased ones,
        `narrated` those made from frames."""
        tables = {"human": "train", "rephrased": "narrations", "narrated": "narrated"}
        paths = {
            "train": self.clip_table(recipe.dataset, "train"),
            "narrations": self.narration_table(recipe.dataset),
            "narrated": self.narration_table(recipe.dataset, looks=True),
        }
        return {tables[kind]: paths[tables[kind]] for kind in recipe.clip_tables}

    def clip_tables(self, dataset: str) -> dict[str, str]:
        """Clip tables of a data set that the runs read, by their names in preflight."""
        stages = [stage.recipe for stage in self.trained_stages() if stage.recipe.dataset == dataset]
        trained = {name: path for recipe in stages for name, path in self.training_tables(recipe).items()}
        evaluated = self.evaluation_tables(dataset)
        return dict(sorted(trained.items(), reverse=True)) | {
            "evaluation" if len(evaluated) == 1 else f"evaluation ({table})": self.clip_table(dataset, table)
            for table in evaluated
        }

    def shortest_clip_timeout(self) -> float:
        """Shortest time limit for a clip over all stages and evaluations, in seconds."""
        readers = [stage.recipe.clip_timeout_seconds for stage in self.trained_stages()]
        return min(readers + [entry.clip_timeout_seconds for _, _, entry in self.evaluations()])

    def models(self, names: Sequence[str]) -> list[str]:
        """Weights of the runs' stages of these names."""
        return [self.model(stage.run, stage.name) for stage in self.stages() if stage.name in names]

    def results(self, files: Sequence[str]) -> list[str]:
        """These files of every evaluation of the runs."""
        return [self.result(run, name, file) for run, name, _ in self.evaluations() for file in files]

    def used_datasets(self) -> list[str]:
        """Data sets that the runs need."""
        trained = {stage.recipe.dataset for stage in self.trained_stages()}
        return sorted(trained | self.evaluated_datasets() | self.listed_datasets())

    def listed_datasets(self) -> set[str]:
        """Data sets whose class lists the provider needs."""
        lists = {self.class_lists(dataset) for dataset in self.rephrased_datasets()}
        return {name for name in lists if name}

    def class_lists(self, dataset: str) -> str | None:
        """Data set whose class lists the provider reads to rephrase this one's narrations."""
        reads = self.settings.narrate.own.reads_class_lists
        return self.settings.datasets[dataset].class_lists if reads else None

    def class_list_names(self, dataset: str) -> tuple[str, ...]:
        """Official names of a data set's class lists."""
        return tuple(LAYOUTS[self.settings.datasets[dataset].layout].class_lists.values())

    def class_list_files(self, dataset: str) -> list[str]:
        """Class list files for rephrasing a data set's narrations, if any."""
        lists = self.class_lists(dataset)
        return [self.data(lists, f"raw/{name}") for name in self.class_list_names(lists)] if lists else []

    def differences(self) -> Mapping[tuple[str, str], list[Difference]]:
        """Differences between manifests on disk and the configuration, by folder and name of the result.

        Raises ValueError, naming the file, for a manifest that is damaged.
        """
        found: dict[tuple[str, str], list[Difference]] = {}
        for difference in differences(self.settings):
            folder = difference.folder.relative_to(self.settings.results_dir)
            found.setdefault((str(folder.parent), folder.name), []).append(difference)
        return found

    def by_layout(self) -> dict[str, list[str]]:
        """Data sets of every layout."""
        found: dict[str, list[str]] = {layout: [] for layout in LAYOUTS}
        for name, dataset in self.settings.datasets.items():
            found[dataset.layout].append(name)
        return found

    def clips_needed(self, dataset: str) -> dict[str, int]:
        """Rows that each table needs to fill a batch of every stage; a stage may join several tables."""
        needed = {"train": 1, "narrations": 1, "narrated": 1}
        for recipe in (stage.recipe for stage in self.trained_stages()):
            if recipe.dataset == dataset and recipe.epochs:
                tables = self.training_tables(recipe)
                share = math.ceil(recipe.batch_size / len(tables))
                needed |= {table: max(needed[table], share) for table in tables}
        return needed

    def source_state(self, dataset: str) -> SourceState:
        """The present state of a data set's source, read once."""
        if dataset not in self._states:
            self._states[dataset] = source_state(self.data_set(dataset))
        return self._states[dataset]

    def recorded_state(self, dataset: str) -> SourceState:
        """The state of a data set's source when it was fetched."""
        return SourceRecord.read(self.data_set(dataset).home).state
