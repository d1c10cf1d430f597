"""Outputs to remake whatever Snakemake's records say, which may be absent or of other results.

Each method is an input function that adds no input and forces the output if needed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from avion_core.manifests import NOT_RECORDED, Difference
from avion_core.media.source_file import returned_sources
from avion_core.workflow.planned import Workflow


@dataclass(frozen=True)
class Remakes:
    """Inspects the disk, and passes outputs to remake to `force`."""

    workflow: Workflow
    looks: bool
    """Whether this process may look: jobs of a queue load the rules too."""
    force: Callable[[str], None]
    _differences: dict[tuple[str, str], list[Difference]] = field(default_factory=dict, init=False)

    def look(self) -> None:
        """Compare manifests with the configuration. Raises ValueError, naming a file that is damaged."""
        self._differences.update(self.workflow.differences() if self.looks else {})

    def shard(self, dataset: str, item: str) -> list[str]:
        """Retranscode a shard with a quarantined video that was away and is back."""
        shard = self.workflow.data(dataset, f"chunks/{item}")
        if self.looks and returned_sources(Path(f"{shard}.quarantine.json")):
            self.force(f"{shard}.parquet")
        return []

    def result(self, run: str, name: str, file: str) -> list[str]:
        """Remake a result whose manifest differs from the configuration, and print the differences once."""
        found = self._differences.pop((run, name), [])
        for difference in found:
            print(difference, file=sys.stderr)
        if any(difference.recorded is not NOT_RECORDED for difference in found):
            self.force(self.workflow.result(run, name, file))
        return []

    def report(self) -> list[str]:
        """Remake the report if it shows other results."""
        if self.looks and self.workflow.report_is_outdated():
            self.force(self.workflow.report("index.html"))
        return []
