"""Whether a data set's source has changed since it was fetched, in terms that a rule can declare.

Digests of the source are params of the rules that depend on them. Jobs of a queue load the rules too and must
not look at sources; for them every digest is empty and nothing has changed.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from avion_core.workflow.planned import Workflow


@dataclass(frozen=True)
class SourceWatch:
    """The sources as they are now and as they were fetched."""

    workflow: Workflow
    looks: bool
    """Whether this process may look at them."""

    def digest(self, dataset: str) -> str:
        """Changes when the source must be fetched again."""
        return self.workflow.source_state(dataset).digest if self.looks else ""

    def videos(self, dataset: str) -> str:
        """Changes when a source video comes, goes or is replaced."""
        return self.workflow.source_state(dataset).videos_digest if self.looks else ""

    def annotations(self, dataset: str, names: Collection[str] | None = None) -> str:
        """Changes with the annotation files, all or those of these names."""
        return self.workflow.source_state(dataset).annotations_digest(names) if self.looks else ""

    def same_videos(self, dataset: str) -> bool:
        """Whether the videos are as they were fetched."""
        recorded = self.workflow.recorded_state
        return not self.looks or self.videos(dataset) == recorded(dataset).videos_digest

    def class_lists(self, dataset: str) -> str:
        """Changes with the class lists by which a data set's narrations are rephrased."""
        lists = self.workflow.class_lists(dataset)
        return self.annotations(lists, self.workflow.class_list_names(lists)) if lists else ""

    def same_class_lists(self, dataset: str) -> bool:
        """Whether those lists, if there are any, are as they were fetched."""
        lists = self.workflow.class_lists(dataset)
        return not lists or self.same_annotations(lists, self.workflow.class_list_names(lists))

    def same_annotations(self, dataset: str, names: Collection[str] | None = None) -> bool:
        """Whether the annotation files, all or those of these names, are as they were fetched."""
        recorded = self.workflow.recorded_state
        return not self.looks or self.annotations(dataset, names) == recorded(dataset).annotations_digest(
            names
        )
