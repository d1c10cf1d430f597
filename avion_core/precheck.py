"""Find what would fail later, before any job: one list of all problems, each with a way out.

A check is a function that yields problems, listed in `CHECKS`. Checks take seconds: they read settings and
annotations, never videos.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from avion_core.config import EvaluationSettings, unserved
from avion_core.data.layout_files import layout_reader
from avion_core.data.source_videos import is_utf8
from avion_core.data.tables import row_count
from avion_core.data.tokenizer import check_tokenizer
from avion_core.evaluations import EVALUATIONS
from avion_core.layouts import LAYOUTS
from avion_core.media.program import ffmpeg_program
from avion_core.media.sample import Sampling
from avion_core.media.source_file import returned_sources
from avion_core.media.transcode import have_other_settings
from avion_core.models.architecture import load_architecture, model_kind
from avion_core.models.starts import check_start
from avion_core.narrate.clip_provider import clip_provider_of
from avion_core.narrate.exchange import ProviderError
from avion_core.narrate.local_programs import server_problems
from avion_core.narrate.narrated import estimate_clips
from avion_core.narrate.provider import provider_of
from avion_core.narrate.rephrase import estimate
from avion_core.shards import shard_names
from avion_core.sources.download import source_problems
from avion_core.sources.state import SourceRecord
from avion_core.start_checks import check_entries, check_patterns, check_start_files, check_starts
from avion_core.workflow import PlannedStage, Workflow


def check(workflow: Workflow, *, trains: bool, narrates: bool) -> str:
    """Print warnings; return all problems as one text, empty if there are none.

    Raises ValueError if one of the pipeline's own records is damaged.
    """
    for line in warnings(workflow, trains=trains):
        print(f"warning: {line}", file=sys.stderr)
    found = problems(workflow, trains=trains, narrates=narrates)
    return "\n".join(["before any job:", *(f"- {problem}" for problem in found)]) if found else ""


def problems(workflow: Workflow, *, trains: bool = True, narrates: bool = True) -> list[str]:
    """Everything known now that would make a job fail, in order of the work.

    Too few clips are a problem only if something is trained; otherwise a warning. Starts, patterns of weights
    and what losses need are checked only then. A provider and its key are needed only if narrations are
    rephrased.
    """
    spared = [
        check
        for check, needed in (
            (check_clips, trains),
            (check_patterns, trains),
            (check_starts, trains),
            (check_entries, trains),
            (check_narrations, narrates),
            (check_local_server, narrates),
        )
        if not needed
    ]
    checks = [check for check in CHECKS if check not in spared]
    return list(dict.fromkeys(problem for check in checks for problem in check(workflow)))


def check_folders(workflow: Workflow) -> Iterator[str]:
    """Names of the folders for data and results, which are stored in tables."""
    for setting in ("data_dir", "results_dir"):
        path = Path(getattr(workflow.settings, setting)).absolute()
        if not is_utf8(str(path)):
            name = str(path).encode(errors="backslashreplace").decode()
            yield f"{setting}: the name of its folder is not UTF-8: {name}; rename it, or set another one"


def check_sources(workflow: Workflow) -> Iterator[str]:
    """Files and accounts that the data sets come from."""
    for dataset in workflow.used_datasets():
        yield from source_problems(workflow.data_set(dataset), workflow.source_state(dataset))


def check_clip_files(workflow: Workflow) -> Iterator[str]:
    """The published files whose clips are trained on (`clips_from`)."""
    for name in workflow.used_datasets():
        data_set = workflow.data_set(name)
        settings, file = data_set.settings, data_set.settings.clips_from
        if file is None or not settings.source_settings.official or (data_set.raw_dir / file).is_file():
            continue
        try:
            there = file in data_set.source().annotations()
        except (OSError, ValueError):
            continue  # another check's problem
        if not there:
            yield (
                f"data set '{name}': clips_from: {file} is not there; put it beside ego4d.json (source "
                "local), or name its path in the source's settings"
            )


def check_ffmpeg(workflow: Workflow) -> Iterator[str]:
    """The FFmpeg program, if there are videos left to transcode."""
    data = Path(workflow.settings.data_dir)
    if all((data / dataset / "chunks.parquet").exists() for dataset in workflow.used_datasets()):
        return
    try:
        ffmpeg_program()
    except ValueError as error:
        yield str(error)


def check_narrations(workflow: Workflow) -> Iterator[str]:
    """The providers, if anything is left for them, and their key, if requests are left to send."""
    datasets = {False: workflow.rephrased_datasets(), True: workflow.narrated_datasets()}
    for looks, names in datasets.items():
        left = [name for name in names if not _exists(workflow.narration_table(name, looks=looks))]
        if not left:
            continue
        try:
            settings = workflow.settings
            provider = clip_provider_of(settings.narrator) if looks else provider_of(settings.narrate)
            provider.check()
            if workflow.local_server(looks=looks) is None:
                provider.check_key()
        except ProviderError as error:
            if any(_must_ask(workflow, dataset, looks=looks) for dataset in left):  # reads all texts
                yield str(error)
        except ValueError as error:
            yield str(error)


def check_local_server(workflow: Workflow) -> Iterator[str]:
    """The local server, if narrations are left to make with it."""
    datasets = {False: workflow.rephrased_datasets(), True: workflow.narrated_datasets()}
    models, server = workflow.settings.local_models(), workflow.settings.local_server
    left = [
        looks
        for looks in models
        for name in datasets[looks]
        if not _exists(workflow.narration_table(name, looks=looks))
    ]
    if server and left:
        yield from server_problems(server, looks=True in left)


def _must_ask(workflow: Workflow, dataset: str, *, looks: bool) -> bool:
    """Whether some narration or clip has no answer yet, as far as known."""
    settings = workflow.settings
    shards = shard_names(workflow.narration_shards(looks=looks))
    if all(_exists(workflow.narration_table(dataset, shard, looks=looks)) for shard in shards):
        return False
    clips, chunks = Path(workflow.clip_table(dataset, "train")), Path(workflow.chunks(dataset))
    journal = Path(workflow.narration_journal(dataset, looks=looks))
    held_out = [Path(path) for path in workflow.held_out_tables(dataset)] if looks else []
    if not all(path.exists() for path in (clips, *held_out, *([chunks] if looks else []))):
        return True
    if looks:
        left = estimate_clips(clips, chunks, settings.narrator, journal_dir=journal, held_out=held_out)
        return left.requests > 0
    return estimate(clips, settings.narrate, journal_dir=journal).requests > 0


def _exists(path: str) -> bool:
    return Path(path).exists()


def check_models(workflow: Workflow) -> Iterator[str]:
    """Architectures that do not fit their task, sizes or start, and tokenizers without their vocabulary."""
    for stage in workflow.trained_stages():
        try:
            kind = model_kind(stage.recipe)
            if stage.recipe.trains in ("embeddings", "texts"):
                model, writes = load_architecture(stage.recipe.model), stage.recipe.trains == "texts"
                check_tokenizer(model.tokenizer, vocabulary=model.vocabulary, writes=writes)
            if stage.recipe.start:
                check_start(kind, model_kind(workflow.settings.stage(stage.run, stage.recipe.start)))
        except ValueError as error:
            yield f"{stage.where}: {error}"


def check_layouts(workflow: Workflow) -> Iterator[str]:
    """Faulty readers, and tasks and evaluations that their data set's layout does not support."""
    for dataset in workflow.used_datasets():
        try:
            layout_reader(workflow.settings.datasets[dataset].layout)
        except ValueError as error:
            yield f"data set '{dataset}': layout: {error}"
    for run in workflow.runs:  # also of those named as targets
        yield from unserved(workflow.settings, run)


def check_evaluations(workflow: Workflow) -> Iterator[str]:
    """Evaluations that do not fit the model they measure."""
    datasets = workflow.settings.datasets
    for where, entry, stage in workflow.measured_stages():
        layout = datasets[entry.dataset].layout
        reads = LAYOUTS[layout].evaluations.get(entry.kind, {})
        learned = EVALUATIONS[entry.kind].needs == "classes" and "classes" in reads
        if learned and layout != datasets[stage.recipe.dataset].layout:
            yield (
                f"{where}: {entry.kind} on '{entry.dataset}' of the stage '{stage.name}', which learns the "
                f"classes of '{stage.recipe.dataset}'"
            )
        yield from _wrong_length(where, entry, stage)
        sampling = {"sampling": stage.recipe.sampling, "stride": stage.recipe.stride} | entry.own_sampling
        try:
            Sampling(frames=entry.frames, clips=entry.clips, **sampling)
        except ValueError as error:
            yield f"{where}: {error}"


def _wrong_length(where: str, entry: EvaluationSettings, stage: PlannedStage) -> Iterator[str]:
    """Clips with a number of frames that the model does not take."""
    try:
        model = load_architecture(stage.recipe.model)
        model.check_input(frames=entry.frames, image_size_px=stage.recipe.image_size_px)
    except ValueError as error:
        if entry.frames != stage.recipe.frames:  # otherwise listed as the stage's problem
            yield f"{where}: {error}"
        return
    if model.fixed_frames and entry.frames != stage.recipe.frames:
        yield (
            f"{where}: frames: {entry.frames}, but the stage '{stage.name}' is trained with "
            f"{stage.recipe.frames} frames, and a {model.kind} model takes no other number; set frames: "
            f"{stage.recipe.frames}"
        )


def check_clips(workflow: Workflow) -> Iterator[str]:
    """Too few clips for a batch or an evaluation, as far as known before annotation."""
    settings, counts = workflow.settings, {}
    for dataset in {s.recipe.dataset for s in workflow.trained_stages()} | workflow.evaluated_datasets():
        counts[dataset] = _known_clips(workflow, dataset)
    for stage in workflow.trained_stages():
        recipe = stage.recipe
        clips = counts[recipe.dataset].get("train", recipe.batch_size) * len(recipe.clip_tables)
        if recipe.epochs and clips < recipe.batch_size and not workflow.is_made(stage):
            yield (
                f"{stage.where}: {clips} clips of '{recipe.dataset}' do not fill one batch of "
                f"{recipe.batch_size}; set a smaller batch_size or give the data set more clips"
            )
    for where, entry, _ in workflow.measured_stages():
        layout = LAYOUTS[settings.datasets[entry.dataset].layout]
        if (
            entry.kind in layout.evaluations
            and counts[entry.dataset].get(layout.evaluation_table(entry.kind)) == 0
        ):
            yield (
                f"{where}: there is nothing in '{entry.dataset}' to evaluate on: "
                f"{layout.why_nothing_to_evaluate}"
            )


def _known_clips(workflow: Workflow, dataset: str) -> dict[str, int]:
    """Clips by table: counted in tables made from the present source, else an upper bound from its
    annotations."""
    data_set = workflow.data_set(dataset)
    record, layout = SourceRecord.read(data_set.home), LAYOUTS[data_set.settings.layout]
    names = {"train"} | layout.evaluation_tables
    tables = {name: Path(workflow.clip_table(dataset, name)) for name in names}
    if record.state == workflow.source_state(dataset) and all(path.exists() for path in tables.values()):
        return {name: row_count(path) for name, path in tables.items()}
    try:
        return data_set.source().clips_at_most(record.videos)
    except (OSError, ValueError):
        return {}  # listed by check_sources


def missing_here(executor: str, jobs: Iterable[Any]) -> str | None:
    """What Snakemake's jobs need and this machine lacks: Slurm, several nodes, GPUs; or None."""
    if executor == "slurm" and shutil.which("sbatch") is None:
        return (
            "this machine has no Slurm (no program `sbatch`): start Snakemake on a login node of the "
            "cluster, or leave out --profile profiles/slurm"
        )
    jobs = list(jobs)
    if executor not in ("local", "dryrun", "touch") and any(job.is_service for job in jobs):
        return (
            "local_server runs beside the jobs that use it, on one machine: start Snakemake without "
            f"--executor {executor} there, such as within an allocation, or start the server yourself and "
            "set base_url (docs/local_llm.md)"
        )
    if executor in ("slurm", "touch"):
        return None
    gpus = 0
    for job in jobs:
        if job.resources.get("nodes", 1) > 1:
            return (
                f"the stage {job.wildcards.stage} of the run {job.wildcards.run} is set to nodes: "
                f"{job.resources.nodes}, which needs Slurm: use --profile profiles/slurm, set nodes: 1, or "
                "start it by hand on each machine (docs/cluster.md)"
            )
        gpus = max(gpus, job.resources.get("gpu", 0))
    return missing_gpus(gpus)


def missing_gpus(wanted: int) -> str | None:
    """The problem if jobs of this machine need more GPUs at once than it has; or None."""
    if wanted == 0:
        return None
    import torch  # takes seconds

    here = torch.cuda.device_count()
    if wanted <= here:
        return None
    return (
        f"trainings or evaluations of this run are set to `gpus: {wanted}`, and this machine shows {here}: "
        "start it where they are (on a cluster with --profile profiles/slurm), or set `gpus` and `processes` "
        "to what is here; `snakemake --cores 2 annotate` makes the data without a GPU"
    )


def warnings(workflow: Workflow, *, trains: bool = True) -> list[str]:
    """Settings that work but are rarely intended, or will be a problem later."""
    measured = [(where, entry.dataset, stage.recipe) for where, entry, stage in workflow.measured_stages()]
    trained = [(stage.where, stage.recipe.dataset, stage.recipe) for stage in workflow.trained_stages()]
    found = [] if trains else list(check_clips(workflow))
    for where, dataset, recipe in [*trained, *measured]:
        short_side_px = workflow.settings.datasets[dataset].transcode.short_side_px
        if recipe.image_size_px > short_side_px:
            found.append(
                f"{where}: the model's input (image_size_px: {recipe.image_size_px}) is larger than the "
                f"chunks of '{dataset}', which are enlarged; set datasets.{dataset}.transcode.short_side_px "
                f"({short_side_px}) to {recipe.image_size_px} or more"
            )
    for dataset in workflow.used_datasets():
        home = Path(workflow.settings.data_dir, dataset)
        transcode = workflow.settings.datasets[dataset].transcode
        videos, chunks = home / "videos.parquet", home / "chunks"
        if videos.exists() and have_other_settings(videos, chunks_dir=chunks, settings=transcode):
            found.append(
                f"data set '{dataset}': its chunks were made with other settings than those of "
                f"datasets.{dataset}.transcode, and are made anew; to keep them, set these back"
            )
        returned = returned_sources(home / "quarantine.json")
        if returned:
            found.append(
                f"data set '{dataset}': {len(returned)} quarantined videos were away and are back, "
                f"{returned[0]} for one; their shards are transcoded again"
            )
    return list(dict.fromkeys(found))


CHECKS: tuple[Callable[[Workflow], Iterator[str]], ...] = (
    check_folders,
    check_sources,
    check_clip_files,
    check_ffmpeg,
    check_narrations,
    check_local_server,
    check_models,
    check_patterns,
    check_starts,
    check_start_files,
    check_layouts,
    check_evaluations,
    check_clips,
    check_entries,
)
"""All checks, in order of the work."""
