"""What the selected runs need: stages, data sets, paths, files. The rules read it here, without a DAG."""

from avion_core.workflow.planned import PlannedStage, Workflow
from avion_core.workflow.targets import narrates, planned_runs, trains

__all__ = ["PlannedStage", "Workflow", "narrates", "planned_runs", "trains"]
