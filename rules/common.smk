"""Settings, paths, the rules' input functions and parameters, and what is checked before a run.

Rules that make data have priority 10 and fine-tuning 5, so that cores are not kept from the longest chain
(data, pretraining, fine-tuning) by short trainings that nothing waits for.
"""

import atexit
import json
import os
import shlex
import shutil
import signal
import socket
import sys
from pathlib import Path

import psutil
from snakemake.cli import get_argument_parser

sys.path.insert(0, workflow.basedir)

import workflow_scripts  # no traceback at Ctrl-C from here on

from snakemake.logging import logger

from avion_core.config import SettingsError, load_settings
from avion_core.configfile import lay_over, read_config
from avion_core.data.ek100 import CLASSES
from avion_core.environment import prepare_environment
from avion_core.files import code_fingerprint, write_json
from avion_core.finished import set_planned_aside
from avion_core.launch import growing, launcher, shard_minutes, slurm_resources
from avion_core.manifests import NOT_RECORDED, differences
from avion_core.media.source_file import returned_sources
from avion_core.models.architecture import load_architecture
from avion_core.precheck import missing_gpus, problems, warnings
from avion_core.screen import stop_gently, take_over
from avion_core.slurm import use_patient_executor
from avion_core.workflow import LABELS, TABLES, Workflow, narrates, planned_runs, trains

# Jobs find this code and this interpreter wherever they start.
prepare_environment(os.environ, code=workflow.basedir)

# A queue sends its warning to all processes of a job. Trainings save then, as long as what started them lives.
signal.signal(signal.SIGUSR1, signal.SIG_IGN)

# A job's shell and the writer of its log outlive Ctrl-C, and a SIGTERM or SIGHUP to the whole job, until the program
# itself has saved or cleaned up.
shell.prefix(
    "set -euo pipefail; trap : HUP INT TERM; to_log() {{ trap '' HUP INT TERM; exec tee -- \"$1\"; }}; "
)

try:
    for path in workflow.overwrite_configfiles:
        read_config(path)  # which `profiles/default` has done, if it is used
    alone = workflow.config_settings.replace_workflow_config
    SETTINGS = load_settings(
        lay_over({} if alone else read_config(Path(workflow.basedir) / "config.yaml"), config)
    )
except SettingsError as error:
    sys.exit(str(error))  # without the lines of this file, which a WorkflowError adds

DATA, RESULTS = SETTINGS.data_dir, SETTINGS.results_dir
LOGS = f"{RESULTS}/logs"
PROVIDER = SETTINGS.narrate.provider

WORKFLOW = Workflow(SETTINGS)
used_datasets, rephrased_datasets, evaluated_datasets = (
    WORKFLOW.used_datasets,
    WORKFLOW.rephrased_datasets,
    WORKFLOW.evaluated_datasets,
)
clip_table, evaluation_table, narration_table, narration_files, narration_journal = (
    WORKFLOW.clip_table,
    WORKFLOW.evaluation_table,
    WORKFLOW.narration_table,
    WORKFLOW.narration_files,
    WORKFLOW.narration_journal,
)

PRETRAIN_STAGES = [n for n, s in SETTINGS.stages.items() if s.task in ("contrastive", "reconstruction")]
FINETUNE_STAGES = [n for n, s in SETTINGS.stages.items() if n not in PRETRAIN_STAGES]


def one_of(names):
    """A wildcard constraint that matches these names and nothing else."""
    return "|".join(names) or "(?!)"


wildcard_constraints:
    dataset=one_of(SETTINGS.datasets),
    run=one_of(SETTINGS.runs),
    stage=one_of(SETTINGS.stages),
    evaluation=one_of(SETTINGS.evaluations),
    scatteritem=r"\d+-of-\d+",


scattergather:
    shards=SETTINGS.shards,


def library(*patterns):
    """Digest of modules of avion_core: a cheap rule has it as a parameter and reruns when they change."""
    room = Path(workflow.basedir) / "avion_core"
    return code_fingerprint(
        path for pattern in patterns for path in sorted(room.glob(pattern)) if path.is_file()
    )


def selected_stages():
    """(run, stage, recipe) of every stage of the selected runs."""
    return [(stage.run, stage.name, stage.recipe) for stage in WORKFLOW.stages()]


def selected_evaluations():
    """(run, evaluation) of the selected runs."""
    return [(run, name) for run, name, _ in WORKFLOW.evaluations()]


def clip_tables(dataset):
    """Clip tables of a data set that selected stages and evaluations read, by name."""
    stages = [recipe for _, _, recipe in selected_stages() if recipe.dataset == dataset]
    kinds = {kind for recipe in stages for kind in recipe.narrations}
    evaluated = evaluated_datasets()
    return (
        ({"train": clip_table(dataset, "train")} if "human" in kinds else {})
        | ({"narrations": narration_table(dataset)} if "rephrased" in kinds else {})
        | ({"evaluation": evaluation_table(dataset)} if dataset in evaluated else {})
    )


def shortest_clip_timeout():
    """Seconds that every selected stage and evaluation gives a clip."""
    readers = [recipe for _, _, recipe in selected_stages()]
    readers += [SETTINGS.evaluations[name] for _, name in selected_evaluations()]
    return min(reader.clip_timeout_seconds for reader in readers)


def datasets_of_layout(layout):
    return [name for name, dataset in SETTINGS.datasets.items() if dataset.layout == layout]


def stage_folder(run, stage):
    return f"{RESULTS}/{run}/{stage}"


def trained_models(stages):
    """Models of the selected runs that come out of these stages."""
    return [f"{stage_folder(r, s)}/model.safetensors" for r, s, _ in selected_stages() if s in stages]


def all_metrics():
    """Metrics of every evaluation of the selected runs."""
    return [f"{RESULTS}/{run}/{name}/metrics.json" for run, name in selected_evaluations()]


def as_option(name, path):
    """`--name path` for a command line, or nothing where there is no path."""
    return f"--{name} {shlex.quote(str(path))}" if path else ""


# Download


# What a source is, beside settings. Digests of it are params. The list of its videos is an `ancient` input of what
# depends on a part that is as it was fetched: fetching again because of another part reruns nothing else.
# Jobs of a queue load this file too, and must not look at sources.


def source_digest(wildcards):
    """Changes when the source must be fetched again."""
    return WORKFLOW.source_state(wildcards.dataset).digest if workflow.is_main_process else ""


def videos_digest(wildcards):
    """Changes when a source video comes, goes or is replaced."""
    return WORKFLOW.source_state(wildcards.dataset).videos_digest if workflow.is_main_process else ""


def annotations_digest(dataset, names=None):
    """Changes with the annotation files, all or those of these names."""
    return WORKFLOW.source_state(dataset).annotations_digest(names) if workflow.is_main_process else ""


def fetched_videos(wildcards):
    """The list of videos, where the videos decide."""
    same = not workflow.is_main_process or (
        videos_digest(wildcards) == WORKFLOW.recorded_state(wildcards.dataset).videos_digest
    )
    return list_of_videos(wildcards.dataset, same=same)


def fetched_annotations(dataset, names=None):
    """The list of videos, where the annotation files decide, all or those of these names."""
    same = not workflow.is_main_process or (
        annotations_digest(dataset, names) == WORKFLOW.recorded_state(dataset).annotations_digest(names)
    )
    return list_of_videos(dataset, same=same)


def list_of_videos(dataset, *, same):
    path = f"{DATA}/{dataset}/videos.parquet"
    return ancient(path) if same else path


# Transcode


def transcode_minutes(wildcards, input, attempt):
    minutes = shard_minutes(
        Path(str(input.videos)),
        wildcards.scatteritem,
        minutes_per_gb=SETTINGS.transcode_minutes_per_gb,
    )
    return growing(minutes)(wildcards, attempt)


def returned_videos(wildcards):
    """No input; transcodes a shard again whose quarantined video was away and is back."""
    shard = f"{DATA}/{wildcards.dataset}/chunks/{wildcards.scatteritem}"
    if workflow.is_main_process and returned_sources(Path(f"{shard}.quarantine.json")):
        workflow.dag.forcefiles.add(f"{shard}.parquet")
    return []


# Narrate

CLASS_LISTS = tuple(CLASSES.values())


def class_lists(wildcards):
    """Where the lexicon reads verb and noun classes: its download must have run."""
    lists = WORKFLOW.class_lists(wildcards.dataset)
    return fetched_annotations(lists, CLASS_LISTS) if lists else []


def class_lists_digest(wildcards):
    """Changes with those lists."""
    lists = WORKFLOW.class_lists(wildcards.dataset)
    return annotations_digest(lists, CLASS_LISTS) if lists else ""


def class_list_options(wildcards):
    lists = WORKFLOW.class_lists(wildcards.dataset)
    names = [f"{DATA}/{lists}/raw/{name}" for name in CLASS_LISTS]
    return f"--class-lists {shlex.join(names)}" if lists else ""


def lexicon_code():
    """The lexicon is cheap and reruns when its code changes; a model's answers are paid for and kept."""
    names = (
        "lexicon.py",
        "analysis.py",
        "grammar.py",
        "words.py",
        "words.yaml",
        "synonyms.yaml",
        "class_lists.py",
        "sentences.py",
    )
    return library(*(f"narrate/{name}" for name in names)) if PROVIDER == "lexicon" else ""


# Train


def training_clips(wildcards):
    """Clip tables a stage trains on."""
    recipe = SETTINGS.stage(wildcards.run, wildcards.stage)
    human, rephrased = clip_table(recipe.dataset, "train"), narration_table(recipe.dataset)
    return [human if kind == "human" else rephrased for kind in recipe.narrations]


def training_chunks(wildcards):
    return f"{DATA}/{SETTINGS.stage(wildcards.run, wildcards.stage).dataset}/chunks.parquet"


def architecture(wildcards):
    """The values of the stage's architecture, which belong to what decides its result."""
    return load_architecture(SETTINGS.stage(wildcards.run, wildcards.stage).model).model_dump_json()


def training_packets(wildcards):
    return f"{DATA}/{SETTINGS.stage(wildcards.run, wildcards.stage).dataset}/packets.npy"


def training_sentences(wildcards):
    recipe = SETTINGS.stage(wildcards.run, wildcards.stage)
    return clip_table(recipe.dataset, "sentences_train") if recipe.task == "relevancy" else []


def training_classes(wildcards):
    recipe = SETTINGS.stage(wildcards.run, wildcards.stage)
    return f"{DATA}/{recipe.dataset}/clips/classes.json" if recipe.task == "classification" else []


def start_model(wildcards):
    """Weights of the stage that this one starts from."""
    start = SETTINGS.stage(wildcards.run, wildcards.stage).start
    return f"{stage_folder(wildcards.run, start)}/model.safetensors" if start else []


def start_weights(wildcards):
    """The file of third-party weights that this stage starts from.

    Where it is gone, Snakemake takes a finished model for a plain file. That is right for one that was made
    with it; any other is a problem of `precheck`, and the dry run's plan goes without the file.
    """
    stage = WORKFLOW.stage(wildcards.run, wildcards.stage)
    fetched = WORKFLOW.fetched_weights(stage)
    if fetched:
        return ancient(fetched) if os.path.exists(fetched) or not WORKFLOW.is_made(stage) else []
    path = stage.recipe.start_file
    return path if path and (os.path.exists(path) or WORKFLOW.is_made(stage)) else []


def validation(wildcards):
    """The evaluation that validates a stage while it is trained, or None."""
    name = SETTINGS.stage(wildcards.run, wildcards.stage).validate_with
    return SETTINGS.evaluations[name] if name else None


def validation_files(wildcards):
    """What that evaluation reads, but for the packets."""
    entry = validation(wildcards)
    if entry is None:
        return []
    return list(validation_paths(entry).values())


def validation_packets(wildcards):
    """The packets that its chunk index points into."""
    entry = validation(wildcards)
    return f"{DATA}/{entry.dataset}/packets.npy" if entry else []


def validation_paths(entry):
    """Its files by the names that the command line gives them."""
    paths = {
        "chunks": f"{DATA}/{entry.dataset}/chunks.parquet",
        "clips": evaluation_table(entry.dataset),
        "sentences": sentences_of(entry),
        "classes": classes_of(entry),
    }
    return {name: path for name, path in paths.items() if path}


def validation_options(wildcards, input):
    entry = validation(wildcards)
    if entry is None:
        return ""
    settings = shlex.quote(json.dumps(entry.recipe()))
    names = validation_paths(entry)
    files = shlex.join(f"{name}={path}" for name, path in zip(names, input.validation, strict=True))
    return f"--validation {settings} --validation-files {files}"


def results_that_differ():
    """Differences between manifests and the configuration, by folder of the result."""
    found = {}
    try:
        for difference in differences(SETTINGS) if workflow.is_main_process else []:
            found.setdefault((difference.folder.parent.name, difference.folder.name), []).append(difference)
    except ValueError as error:
        sys.exit(str(error))
    return found


def made_with_other_settings(run, name, file):
    """No input; remakes the result where its manifest disagrees with the configuration, whatever Snakemake's
    records say: they may be absent, or those of other results."""
    found = DIFFERENT.pop((run, name), [])
    for difference in found:
        print(difference, file=sys.stderr)
    if any(difference.recorded is not NOT_RECORDED for difference in found):
        workflow.dag.forcefiles.add(f"{RESULTS}/{run}/{name}/{file}")
    return []


def machine(wildcards):
    return SETTINGS.stage(wildcards.run, wildcards.stage)


def slurm(name):
    """The Snakemake resource `name` of a training job, absent where it is None."""
    return lambda wildcards: slurm_resources(machine(wildcards))[name]


# Evaluate


def evaluated(wildcards):
    return SETTINGS.evaluations[wildcards.evaluation]


def evaluation_sentences(wildcards):
    return sentences_of(evaluated(wildcards))


def sentences_of(entry):
    """The sentences of EPIC-KITCHENS retrieval; other layouts are searched by their own texts."""
    has_sentences = SETTINGS.datasets[entry.dataset].layout == "ek100" and entry.kind == "retrieval"
    return clip_table(entry.dataset, "sentences_test") if has_sentences else []


def evaluation_classes(wildcards):
    return classes_of(evaluated(wildcards))


def classes_of(entry):
    return f"{DATA}/{entry.dataset}/clips/classes.json" if entry.kind == "recognition" else []


# Report


def report_plan(wildcards):
    """What the report shows and where each piece lies, as JSON."""
    return json.dumps(
        {
            "config": SETTINGS.model_dump(mode="json"),
            "runs": {run: run_plan(run) for run in SETTINGS.selected_runs},
            "datasets": {name: dataset_plan(name) for name in used_datasets()},
            "narrations": {
                name: {"provider": PROVIDER, **narration_files(name)} for name in rephrased_datasets()
            },
        }
    )


def run_plan(run):
    entry = SETTINGS.runs[run]
    return {
        "title": entry.title,
        "stages": {stage: stage_folder(run, stage) for stage in entry.stages},
        "evaluations": {name: evaluation_plan(run, name) for name in entry.evaluations},
    }


def evaluation_plan(run, name):
    entry = SETTINGS.evaluations[name]
    return {
        "folder": f"{RESULTS}/{run}/{name}",
        "kind": entry.kind,
        "dataset": entry.dataset,
        "stage": entry.stage,
        "clips": evaluation_table(entry.dataset),
        "sentences": sentences_of(entry) or None,
        "chunks": f"{DATA}/{entry.dataset}/chunks.parquet",
    }


def dataset_plan(name):
    dataset = SETTINGS.datasets[name]
    return {
        "layout": dataset.layout,
        "source": dataset.source,
        "chunks": f"{DATA}/{name}/chunks.parquet",
        "quarantine": f"{DATA}/{name}/quarantine.json",
        "dropped": f"{DATA}/{name}/clips/dropped.json",
        "clips": {table: clip_table(name, table) for table in TABLES[dataset.layout]},
    }


def outdated_report(wildcards):
    """No input; remakes the report where it shows other results, whatever Snakemake's records say."""
    if workflow.is_main_process and WORKFLOW.report_is_outdated():
        workflow.dag.forcefiles.add(f"{RESULTS}/report/index.html")
    return []


# Before the work


def check_before_work():
    """Stop with the list of all that would fail. A dry run prints it after the plan."""
    targets = get_argument_parser().parse_known_args()[0].targets  # Snakemake tells them only later
    planned = Workflow(SETTINGS, planned_runs(SETTINGS, targets))
    try:
        for line in warnings(planned, trains=trains(SETTINGS, targets)):
            print(f"warning: {line}", file=sys.stderr)
        found = problems(planned, trains=trains(SETTINGS, targets), narrates=narrates(targets))
    except ValueError as error:  # a record of the pipeline's own is damaged
        sys.exit(str(error))
    if not found:
        return
    text = "\n".join(["before any job:", *(f"- {problem}" for problem in found)])
    if not workflow.output_settings.dryrun:
        sys.exit(f"This stops the run {text}")
    atexit.register(print, f"\nThis would stop the run {text}", file=sys.stderr)


def check_machine():
    """End with one clear error where this machine lacks what its jobs need: Slurm, several nodes, GPUs."""
    executor = workflow.executor_plugin.name
    if executor == "slurm" and shutil.which("sbatch") is None:
        sys.exit(
            "this machine has no Slurm (no program `sbatch`): start Snakemake on a login node of the cluster, or "
            "leave out --profile profiles/slurm"
        )
    if executor in ("slurm", "touch"):
        return
    for job in workflow.dag.needrun_jobs():
        if job.resources.get("nodes", 1) > 1:
            sys.exit(
                f"the stage {job.wildcards.stage} of the run {job.wildcards.run} is set to nodes: "
                f"{job.resources.nodes}, which needs Slurm: use --profile profiles/slurm, set nodes: 1, or "
                "start it by hand on each machine (docs/cluster.md)"
            )
    missing = missing_gpus(
        max((job.resources.get("gpu", 0) for job in workflow.dag.needrun_jobs()), default=0)
    )
    if missing:
        sys.exit(missing)


def set_finished_aside():
    """Let trainings and evaluations that are about to run find what they had made, unless the user forces them."""
    if workflow.executor_plugin.name != "touch":
        set_planned_aside(workflow.dag)


OWNER = Path(".snakemake/owner.json")
"""Who holds Snakemake's lock on this folder: host, process and when it began. There while work goes on."""


def claim_folder():
    process = psutil.Process()
    write_json(OWNER, [socket.gethostname(), process.pid, process.create_time()])


def release_folder():
    OWNER.unlink(missing_ok=True)


def forget_dead_owner():
    """Remove the lock of a Snakemake that was killed on this machine, so that the same command goes on."""
    try:
        host, pid, began = json.loads(OWNER.read_text())
    except (OSError, ValueError, TypeError):
        return  # nobody's, or cut; a lock is then Snakemake's to explain
    alive = psutil.pid_exists(pid) and psutil.Process(pid).create_time() == began
    if host == socket.gethostname() and not alive:
        release_folder()
        for lock in OWNER.parent.glob("locks/*.lock"):
            lock.unlink()


DIFFERENT = results_that_differ()
SCREEN = take_over(logger)
use_patient_executor()

if workflow.is_main_process:
    forget_dead_owner()
    check_before_work()
