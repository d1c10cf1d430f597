"""Changes of a data set's source since it was fetched, as params of rules.

Rules that depend on a source have digests of it as params. Jobs of a queue load the rules too and must not
read sources; for them every digest is empty and nothing has changed.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from avion_core.workflow.planned import Workflow


@dataclass(frozen=True)
class SourceWatch:
    """The present and the fetched state of the sources."""

    workflow: Workflow
    looks: bool
    """Whether this process may look at them."""

    def digest(self, dataset: str) -> str:
        """Changes when the source must be fetched again."""
        return self.workflow.source_state(dataset).digest if self.looks else ""

    def videos(self, dataset: str) -> str:
        """Changes when a source video is added, removed or replaced."""
        return self.workflow.source_state(dataset).videos_digest if self.looks else ""

    def annotations(self, dataset: str, names: Collection[str] | None = None) -> str:
        """Changes with the annotation files: all, or those of these names."""
        return self.workflow.source_state(dataset).annotations_digest(names) if self.looks else ""

    def same_videos(self, dataset: str) -> bool:
        """Whether the videos are unchanged since the fetch."""
        recorded = self.workflow.recorded_state
        return not self.looks or self.videos(dataset) == recorded(dataset).videos_digest

    def class_lists(self, dataset: str) -> str:
        """Changes with the class lists for rephrasing a data set's narrations."""
        lists = self.workflow.class_lists(dataset)
        return self.annotations(lists, self.workflow.class_list_names(lists)) if lists else ""

    def same_class_lists(self, dataset: str) -> bool:
        """Whether those lists, if any, are unchanged since the fetch."""
        lists = self.workflow.class_lists(dataset)
        return not lists or self.same_annotations(lists, self.workflow.class_list_names(lists))

    def same_annotations(self, dataset: str, names: Collection[str] | None = None) -> bool:
        """Whether the annotation files, all or those of these names, are unchanged since the fetch."""
        recorded = self.workflow.recorded_state
        return not self.looks or self.annotations(dataset, names) == recorded(dataset).annotations_digest(
            names
        )
