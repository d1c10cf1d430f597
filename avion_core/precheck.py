"""What would fail later, found before any job: one list of everything, each entry with the way out.

A check is a function that yields problems; adding one is that function and its line in `CHECKS`. Checks take
seconds: they read settings and annotations, never videos.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from avion_core.data.download import check_source
from avion_core.media.program import ffmpeg_program
from avion_core.models.architecture import check_start, kind_of
from avion_core.narrate.rephrase import check_provider
from avion_core.workflow import Workflow


def problems(workflow: Workflow) -> list[str]:
    """Everything known now that would make a job fail, in the order of the work; empty when all is well."""
    found = [problem for check in CHECKS for problem in check(workflow)]
    return list(dict.fromkeys(found))


def check_sources(workflow: Workflow) -> Iterator[str]:
    """Files and accounts that the data sets come from."""
    for dataset in workflow.used_datasets():
        try:
            check_source(dataset, workflow.settings.datasets[dataset])
        except ValueError as error:
            yield str(error)


def check_ffmpeg(workflow: Workflow) -> Iterator[str]:
    """The FFmpeg program, where there are videos left to transcode."""
    data = Path(workflow.settings.data_dir)
    if all((data / dataset / "chunks.parquet").exists() for dataset in workflow.used_datasets()):
        return
    try:
        ffmpeg_program()
    except ValueError as error:
        yield str(error)


def check_narrations(workflow: Workflow) -> Iterator[str]:
    """The provider, where there are narrations left to rephrase."""
    if all(Path(workflow.narration_table(dataset)).exists() for dataset in workflow.rephrased_datasets()):
        return
    try:
        check_provider(workflow.settings.narrate)
    except ValueError as error:
        yield str(error)


def check_models(workflow: Workflow) -> Iterator[str]:
    """Architectures against tasks, sizes and the stages they start from."""
    for stage in workflow.stages():
        try:
            kind = kind_of(stage.recipe)
            if stage.recipe.start:
                check_start(kind, kind_of(workflow.settings.stage(stage.run, stage.recipe.start)))
        except ValueError as error:
            yield f"{stage.where}: {error}"


def check_start_files(workflow: Workflow) -> Iterator[str]:
    """Files of third-party weights."""
    for stage in workflow.stages():
        if stage.recipe.start_file and not Path(stage.recipe.start_file).is_file():
            yield f"{stage.where}: start_weights: {stage.recipe.start_file}: no such file; correct the path"


CHECKS: tuple[Callable[[Workflow], Iterator[str]], ...] = (
    check_sources,
    check_ffmpeg,
    check_narrations,
    check_models,
    check_start_files,
)
"""Every check, in the order of the work."""
