"""What the selected runs need: stages, data sets, paths. The rules read it here, without a DAG."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from avion_core.config import OPEN_CLIP, EvaluationSettings, Settings, StageSettings
from avion_core.data.tables import SUFFIX
from avion_core.files import read_json, sha256
from avion_core.manifests import MANIFEST, read_manifest, stage_differences
from avion_core.narrate.rephrase import DEAD_LETTERS, SUMMARY
from avion_core.sources.download import DataSet, source_state
from avion_core.sources.state import SourceRecord, SourceState

TABLES = {
    "ego4d": ["train", "egomcq"],
    "ek100": ["train", "validation", "sentences_train", "sentences_test"],
    "kinetics": ["train", "val"],
    "folder": ["train", "validation"],
}
"""Tables that annotate makes of each layout."""
EVALUATION_TABLE = {
    "ego4d": "egomcq",
    "ek100": "validation",
    "kinetics": "val",
    "folder": "validation",
}
"""The table that evaluations of each layout read."""
LABELS: dict[str, tuple[str, ...]] = {"ek100": ("verb", "noun", "action"), "kinetics": ("label",)}
"""Labels of the layouts with classes, which annotate lists in classes.json."""
UNNARRATED_TARGETS = ("download", "weights", "transcode", "annotate", "estimate")
"""Targets of the workflow that need no rephrased narrations."""
DATA_TARGETS = (*UNNARRATED_TARGETS, "narrate", "preflight")
"""Targets of the workflow that train and evaluate nothing."""
TASKS_OF: dict[str, tuple[str, ...]] = {
    "ego4d": ("contrastive", "reconstruction"),
    "ek100": ("contrastive", "relevancy", "classification", "reconstruction"),
    "kinetics": ("classification", "reconstruction"),
    "folder": ("contrastive", "reconstruction"),
}
"""Tasks that the training clips of each layout serve: by their texts, classes and sentences."""
KINDS_OF: dict[str, tuple[str, ...]] = {
    "ego4d": ("multiple_choice",),
    "ek100": ("retrieval", "recognition"),
    "kinetics": ("recognition",),
    "folder": ("retrieval",),
}
"""Kinds of evaluation that the evaluation table of each layout serves."""


def planned_runs(settings: Settings, targets: Iterable[str]) -> tuple[str, ...]:
    """The selected runs, and those of which a result is named as a target."""
    results = Path(settings.results_dir).absolute()
    paths = [Path(target).absolute() for target in targets]
    named = [path.relative_to(results).parts[:1] for path in paths if path.is_relative_to(results)]
    return tuple(
        dict.fromkeys(
            [*settings.selected_runs, *(run for run, *_ in filter(None, named) if run in settings.runs)]
        )
    )


def trains(settings: Settings, targets: Iterable[str]) -> bool:
    """Whether targets need a training or an evaluation: all but data and what looks at them; none is all."""
    data = Path(settings.data_dir).absolute()
    named = list(targets)
    return not named or not all(
        target in DATA_TARGETS or Path(target).absolute().is_relative_to(data) for target in named
    )


def narrates(targets: Iterable[str]) -> bool:
    """Whether targets may need rephrased narrations; none is all."""
    named = list(targets)
    return not named or not all(target in UNNARRATED_TARGETS for target in named)


@dataclass(frozen=True)
class PlannedStage:
    """One stage of one run with its recipe."""

    run: str
    name: str
    recipe: StageSettings

    @property
    def where(self) -> str:
        """The stage's place in the configuration, for a message."""
        return f"runs.{self.run}.stages.{self.name}"


@dataclass(frozen=True)
class Workflow:
    """The configuration as the rules see it. `runs` are those that are made; the selected ones by default."""

    settings: Settings
    runs: tuple[str, ...] = field(default=())
    _states: dict[str, SourceState] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.runs:
            object.__setattr__(self, "runs", self.settings.selected_runs)

    def stages(self) -> list[PlannedStage]:
        """Every stage of the runs, in order."""
        return [self.stage(run, stage) for run in self.runs for stage in self.settings.runs[run].stages]

    def stage(self, run: str, name: str) -> PlannedStage:
        """One stage of one run."""
        return PlannedStage(run, name, self.settings.stage(run, name))

    def evaluations(self) -> list[tuple[str, str, EvaluationSettings]]:
        """(run, name, settings) of every evaluation of the runs."""
        return [
            (run, name, self.settings.evaluations[name])
            for run in self.runs
            for name in self.settings.runs[run].evaluations
        ]

    def is_made(self, stage: PlannedStage) -> bool:
        """Whether a stage has its model, by these settings and since its file of weights last changed.

        Nothing is then needed of that file any more, which may be gone.
        """
        folder = Path(self.settings.results_dir) / stage.run / stage.name
        model, weights = folder / "model.safetensors", stage.recipe.start_file
        if not (model.is_file() and (folder / MANIFEST).is_file()):
            return False
        if weights and Path(weights).is_file() and Path(weights).stat().st_mtime > model.stat().st_mtime:
            return False
        manifest = read_manifest(folder)
        return not stage_differences(folder, manifest, self.settings, run=stage.run, stage=stage.name)

    def report_is_outdated(self) -> bool:
        """Whether the report on disk shows other runs, or results with other manifests than they have now."""
        results = Path(self.settings.results_dir)
        figures = results / "report/metrics.json"
        if not figures.is_file():
            return False
        names = [(s.run, s.name) for s in self.stages()] + [
            (run, name) for run, name, _ in self.evaluations()
        ]
        try:
            recorded = read_json(figures)["provenance"]["manifests"]
            now = {name: sha256(results.joinpath(*name, MANIFEST)) for name in names}
            return now != {Path(path).parts[-3:-1]: digest for path, digest in recorded.items()}
        except (AttributeError, KeyError, OSError, TypeError, ValueError):
            return True

    def fetched_weights(self, stage: PlannedStage) -> str | None:
        """The file into which the weights of open_clip that a stage starts from are fetched."""
        source = stage.recipe.start_weights or ""
        if not source.startswith(OPEN_CLIP):
            return None
        return f"{self.settings.data_dir}/weights/open_clip/{source.removeprefix(OPEN_CLIP)}"

    def measured_stages(self) -> list[tuple[str, EvaluationSettings, PlannedStage]]:
        """(where, evaluation, stage) of every evaluation of the runs and every validation of a stage."""
        stages = {(stage.run, stage.name): stage for stage in self.stages()}
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
        """Data sets whose narrations some stage takes rephrased."""
        return sorted({s.recipe.dataset for s in self.stages() if "rephrased" in s.recipe.narrations})

    def evaluated_datasets(self) -> set[str]:
        """Data sets that evaluations read, those that validate a stage too."""
        validating = {s.recipe.validate_with for s in self.stages() if s.recipe.validate_with}
        names = validating | {name for _, name, _ in self.evaluations()}
        return {self.settings.evaluations[name].dataset for name in names}

    def used_datasets(self) -> list[str]:
        """Data sets that the runs need."""
        trained = {stage.recipe.dataset for stage in self.stages()}
        return sorted(trained | self.evaluated_datasets() | self.listed_datasets())

    def listed_datasets(self) -> set[str]:
        """Data sets that are needed for their class lists, by the lexicon."""
        lists = {self.class_lists(dataset) for dataset in self.rephrased_datasets()}
        return {name for name in lists if name}

    def class_lists(self, dataset: str) -> str | None:
        """Data set whose class lists the lexicon reads to rephrase this one's narrations."""
        return self.settings.datasets[dataset].class_lists if self._provider == "lexicon" else None

    def clips_needed(self, dataset: str) -> dict[str, int]:
        """Training clips that fill a batch of every stage: rows of each table, where stages join several."""
        needed = {"train": 1, "narrations": 1}
        for recipe in (stage.recipe for stage in self.stages()):
            if recipe.dataset == dataset and recipe.epochs:
                for kind in recipe.narrations:
                    table = "train" if kind == "human" else "narrations"
                    share = math.ceil(recipe.batch_size / len(recipe.narrations))
                    needed[table] = max(needed[table], share)
        return needed

    def data_set(self, name: str) -> DataSet:
        """A data set with its settings and folder."""
        home = Path(self.settings.data_dir) / name
        return DataSet(name, self.settings.datasets[name], home)

    def source_state(self, dataset: str) -> SourceState:
        """The source of a data set as it is now; looked at once."""
        if dataset not in self._states:
            self._states[dataset] = source_state(self.data_set(dataset))
        return self._states[dataset]

    def recorded_state(self, dataset: str) -> SourceState:
        """The source of a data set as it was fetched."""
        return SourceRecord.read(self.data_set(dataset).home).state

    def clip_table(self, dataset: str, table: str) -> str:
        """Path of a clip table."""
        return f"{self.settings.data_dir}/{dataset}/clips/{table}{SUFFIX}"

    def evaluation_table(self, dataset: str) -> str:
        """Path of the clip table that evaluations of a data set read."""
        return self.clip_table(dataset, EVALUATION_TABLE[self.settings.datasets[dataset].layout])

    def narration_table(self, dataset: str, table: str = "train") -> str:
        """Path of a data set's rephrased clips, or of a shard of its rephrased texts."""
        return f"{self.settings.data_dir}/{dataset}/narrations/{self._provider}/{table}{SUFFIX}"

    def narration_files(self, dataset: str) -> dict[str, str]:
        """What comes of a data set's narrations: the table, those without a sentence, their counts."""
        folder = f"{self.settings.data_dir}/{dataset}/narrations/{self._provider}"
        return {
            "table": self.narration_table(dataset),
            "dead": f"{folder}/{DEAD_LETTERS}",
            "summary": f"{folder}/{SUMMARY}",
        }

    def narration_journal(self, dataset: str) -> str:
        """Folder of a language model's answers for a data set."""
        return f"{self.settings.data_dir}/{dataset}/narrations/{self._provider}/journal"

    @property
    def _provider(self) -> str:
        return self.settings.narrate.provider
