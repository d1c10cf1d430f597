"""The source `toy_kitchen`: renders a layout into the raw folder."""

from __future__ import annotations

from pathlib import Path

from avion_core.config import ToyKitchenSettings
from avion_core.data.source_videos import SourceVideo
from avion_core.sources.raw_folder import RawFolder
from avion_core.sources.source import Source
from avion_core.sources.state import SourceRecord
from avion_core.sources.toy_kitchen.layouts import LAYOUTS


class ToyKitchen(Source[ToyKitchenSettings]):
    """Videos and annotations made from a seed; needs no checks."""

    def fetch(self, record: SourceRecord) -> list[SourceVideo]:
        """Render missing files."""
        return LAYOUTS[self.target.layout](self.own, self.target.raw_dir)

    def annotations(self) -> dict[str, Path]:
        """All written files."""
        return RawFolder(self.target.raw_dir).files()
