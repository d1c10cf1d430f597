"""Settings, paths and the questions that rules ask of the configuration. Functions only."""

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, workflow.basedir)

from snakemake.exceptions import WorkflowError

from avion_core.config import SettingsError, load_settings
from avion_core.data.download import check_source
from avion_core.files import code_fingerprint
from avion_core.narrate.rephrase import check_provider

# Jobs find this code and this interpreter wherever they start.
os.environ["PYTHONPATH"] = workflow.basedir
os.environ["PATH"] = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])

try:
    SETTINGS = load_settings(config)
except SettingsError as error:
    raise WorkflowError(str(error))

DATA, RESULTS = SETTINGS.data_dir, SETTINGS.results_dir
LOGS = f"{RESULTS}/logs"
SCRIPTS = f"{workflow.basedir}/workflow_scripts"
PROVIDER = SETTINGS.narrate.provider

PRETRAIN_STAGES = [n for n, s in SETTINGS.stages.items() if s.task in ("contrastive", "reconstruction")]
FINETUNE_STAGES = [n for n, s in SETTINGS.stages.items() if n not in PRETRAIN_STAGES]

EVALUATION_TABLE = {
    "ego4d": "egomcq",
    "ek100": "validation",
    "kinetics": "val",
    "folder": "validation",
}
TABLES = {
    "ego4d": ["train", "egomcq"],
    "ek100": ["train", "validation", "sentences_train", "sentences_test"],
    "kinetics": ["train", "val"],
    "folder": ["train", "validation"],
}
"""Tables that annotate makes of each layout."""
LABELLED = ["ek100", "kinetics"]
"""Layouts with classes, which annotate lists in classes.json."""


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
    return [
        (run, stage, SETTINGS.stage(run, stage))
        for run in SETTINGS.selected_runs
        for stage in SETTINGS.runs[run].stages
    ]


def selected_evaluations():
    """(run, evaluation) of the selected runs."""
    return [(run, name) for run in SETTINGS.selected_runs for name in SETTINGS.runs[run].evaluations]


def rephrased_datasets():
    """Data sets whose narrations a selected stage wants rephrased."""
    return sorted({s.dataset for _, _, s in selected_stages() if "rephrased" in s.narrations})


def used_datasets():
    """Data sets that the selected runs need."""
    trained = {recipe.dataset for _, _, recipe in selected_stages()}
    evaluated = {SETTINGS.evaluations[name].dataset for _, name in selected_evaluations()}
    listed = {SETTINGS.narrate.lexicon.class_lists} if lexicon_lists_needed() else set()
    return sorted(trained | evaluated | listed)


def lexicon_lists_needed():
    return PROVIDER == "lexicon" and rephrased_datasets() and SETTINGS.narrate.lexicon.class_lists


def clip_table(dataset, table):
    return f"{DATA}/{dataset}/clips/{table}.parquet"


def evaluation_table(dataset):
    return clip_table(dataset, EVALUATION_TABLE[SETTINGS.datasets[dataset].layout])


def narration_table(dataset):
    return f"{DATA}/{dataset}/narrations/{PROVIDER}/train.parquet"


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
    return f"--{name} {path}" if path else ""


def check_before_work():
    """Raise one clear error for what would fail later: sources on disk, the provider's key."""
    try:
        for dataset in used_datasets():
            check_source(dataset, SETTINGS.datasets[dataset])
        if not all(os.path.exists(narration_table(dataset)) for dataset in rephrased_datasets()):
            check_provider(SETTINGS.narrate)
    except ValueError as error:
        raise WorkflowError(str(error))


if workflow.is_main_process:
    check_before_work()
