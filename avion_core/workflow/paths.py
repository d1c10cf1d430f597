"""Paths of the workflow's files. A name may be one of Snakemake's wildcards, such as "{dataset}"."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from avion_core.config import OPEN_CLIP, Settings, StageSettings, VisionSettings
from avion_core.layouts import SUFFIX
from avion_core.narrate.rephrase import DEAD_LETTERS, SUMMARY
from avion_core.sources.download import DataSet


class WeightFile(NamedTuple):
    """A file of third-party weights."""

    source: str
    """Its entry in `start_weights`."""
    path: str
    fetched: bool
    """Whether the workflow fetches it."""


@dataclass(frozen=True)
class Paths:
    """Paths of data and results by the names in the configuration."""

    settings: Settings

    def data_set(self, name: str) -> DataSet:
        """A data set with its settings and folder."""
        home = Path(self.settings.data_dir) / name
        return DataSet(name, self.settings.datasets[name], home)

    def data(self, dataset: str, file: str) -> str:
        """A file in a data set's folder."""
        return f"{self.settings.data_dir}/{dataset}/{file}"

    def videos(self, dataset: str) -> str:
        """List of a data set's source videos."""
        return self.data(dataset, "videos.parquet")

    def chunks(self, dataset: str) -> str:
        """Index of a data set's chunks."""
        return self.data(dataset, "chunks.parquet")

    def packets(self, dataset: str) -> str:
        """Packets that the index of chunks points into."""
        return self.data(dataset, "packets.npy")

    def clips(self, dataset: str, file: str) -> str:
        """A file made by annotate, by its name in the layout's record."""
        return self.data(dataset, f"clips/{file}")

    def result(self, run: str, name: str, file: str) -> str:
        """A file of a run's stage or evaluation."""
        return f"{self.settings.results_dir}/{run}/{name}/{file}"

    def report(self, file: str) -> str:
        """A file of the report."""
        return f"{self.settings.results_dir}/report/{file}"

    def model(self, run: str, stage: str) -> str:
        """Weights of a trained stage."""
        return self.result(run, stage, "model.safetensors")

    def weight_files(self, recipe: StageSettings) -> list[WeightFile]:
        """The third-party files that a stage starts from, in the order of `start_weights`."""
        folder = f"{self.settings.data_dir}/weights/open_clip"
        return [
            WeightFile(source, f"{folder}/{source.removeprefix(OPEN_CLIP)}", fetched=True)
            if source.startswith(OPEN_CLIP)
            else WeightFile(source, source, fetched=False)
            for source in recipe.start_sources
        ]

    def clip_table(self, dataset: str, table: str) -> str:
        """Path of a clip table."""
        return f"{self.settings.data_dir}/{dataset}/clips/{table}{SUFFIX}"

    def narration_table(self, dataset: str, table: str = "train", *, looks: bool = False) -> str:
        """Path of a data set's rephrased clips, or of a shard of its rephrased texts; with `looks` of the
        clips narrated from their frames, or of a shard of them."""
        return f"{self._narrations(dataset, looks=looks)}/{table}{SUFFIX}"

    def narration_files(self, dataset: str, *, looks: bool = False) -> dict[str, str]:
        """Results of rephrasing a data set's narrations, or of narrating its clips: the table, narrations or
        clips without a sentence, their counts."""
        folder = self._narrations(dataset, looks=looks)
        return {
            "table": self.narration_table(dataset, looks=looks),
            "dead": f"{folder}/{DEAD_LETTERS}",
            "summary": f"{folder}/{SUMMARY}",
        }

    def cosine_table(self, dataset: str, provider: str, shard: str) -> str:
        """Path of the cosines between clips and a provider's texts, of a shard."""
        return self.data(dataset, f"narrations/{provider}/cosines/{shard}{SUFFIX}")

    def narration_journal(self, dataset: str, *, looks: bool = False) -> str:
        """Folder of a language model's answers for a data set."""
        return f"{self._narrations(dataset, looks=looks)}/journal"

    def local_server(self, *, looks: bool) -> str | None:
        """State of the local server while it runs, if it serves `narrate`, or with `looks` the `narrator`."""
        served = looks in self.settings.local_models()
        return f"{self.settings.results_dir}/logs/local_server.json" if served else None

    def images_of_local_server(self) -> int:
        """Most images in a request to the local server."""
        vision = self.settings.local_models().get(True)
        return vision.frames if isinstance(vision, VisionSettings) else 0

    def narration_shards(self, *, looks: bool) -> int:
        """Number of jobs that make a data set's narrations: one alone where they share a local server."""
        return 1 if self.local_server(looks=looks) else self.settings.shards

    def _narrations(self, dataset: str, *, looks: bool) -> str:
        """Folder of the chosen provider's texts."""
        section = self.settings.narrator if looks else self.settings.narrate
        provider = section.recorded if section.provider else None
        return f"{self.settings.data_dir}/{dataset}/narrations/{provider}"
