"""What language models would be asked for the selected runs: for the target `estimate`."""

from __future__ import annotations

from typing import Any

from avion_core.workflow.planned import Workflow


def estimate_plan(workflow: Workflow) -> dict[str, Any]:
    """Settings, and files by data set, of what is rephrased (`narrate`) and narrated (`narrator`)."""
    plan: dict[str, Any] = {}
    for section, looks, datasets in (
        ("narrate", False, workflow.rephrased_datasets()),
        ("narrator", True, workflow.narrated_datasets()),
    ):
        if datasets:
            settings = getattr(workflow.settings, section)
            plan[section] = {
                "provider": settings.provider,
                "recipe": settings.recipe(),
                "job": settings.job_settings(),
                "datasets": {name: _files(workflow, name, looks=looks) for name in datasets},
            }
    return plan


def estimate_files(workflow: Workflow) -> list[str]:
    """The files that the estimate reads, without journals."""
    plan = estimate_plan(workflow)
    return sorted(
        {
            path
            for section in plan.values()
            for files in section["datasets"].values()
            for role, path in files.items()
            if role != "journal"
        }
    )


def _files(workflow: Workflow, dataset: str, *, looks: bool) -> dict[str, str]:
    journal = workflow.narration_journal(dataset, looks=looks)
    files = {"clips": workflow.clip_table(dataset, "train"), "journal": journal}
    if looks:
        files |= {"chunks": workflow.chunks(dataset), "packets": workflow.packets(dataset)}
        held_out = workflow.held_out_tables(dataset)
        files |= {f"held_out_{number}": path for number, path in enumerate(held_out, start=1)}
    return files
