"""Needs of the selected runs for the rules: stages, data sets, paths, files. Works without a DAG."""

from avion_core.workflow.planned import PlannedStage, Workflow
from avion_core.workflow.targets import narrates, planned_runs, trains

__all__ = ["PlannedStage", "Workflow", "narrates", "planned_runs", "trains"]
