"""A plug-in with a source, a layout and a kind of evaluation. What reads and measures is in `stub_match`."""

from __future__ import annotations

from pathlib import Path

from avion_core.config import SOURCE_SETTINGS, SourceSettings
from avion_core.data.source_videos import SourceError, SourceVideo
from avion_core.evaluations import EVALUATIONS, EvaluationKind
from avion_core.layouts import LAYOUTS, Layout
from avion_core.sources.raw_folder import RawFolder
from avion_core.sources.source import Source


class ListSettings(SourceSettings):
    """A folder of videos and a text file."""

    source = "stub_lists:Listed"

    videos: str
    """Folder of the videos."""
    lines: str
    """File with a line for each clip: video, start and end in seconds, sentence."""


class Listed(Source[ListSettings]):
    """The text file, copied; the videos where they are."""

    external = True

    def checks(self, record):
        return [self._check]

    def _check(self):
        if not Path(self.own.lines).is_file():
            raise SourceError(f"{self.own.lines}: no such file; see `lines`")

    def fetch(self, record):
        for name, file in self.annotations().items():
            RawFolder(self.target.raw_dir).copy(file, name)
        return self.list_videos()

    def annotations(self):
        return {"lines.txt": Path(self.own.lines)}

    def list_videos(self):
        return [SourceVideo(path.stem, path) for path in sorted(Path(self.own.videos).rglob("*.MP4"))]


SOURCE_SETTINGS.register("list", ListSettings)
LAYOUTS.register(
    "lines",
    Layout(
        reader="stub_match:READER",
        tables=("train", "asked", "pool"),
        evaluations={"match": {"clips": "asked.arrow", "pool": "pool.arrow"}},
    ),
)
EVALUATIONS.register(
    "match",
    EvaluationKind(
        evaluator="stub_match:Match",
        needs="embeddings",
        files=("clips", "pool"),
        figures={"": ("own_first",)},
        headlines=("own_first",),
        columns={"own_first": "own sentence first"},
        titles={"": "Matching of clips with their sentences"},
    ),
)
