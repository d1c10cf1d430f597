"""Settings, paths, input functions that need Snakemake itself, and checks before a run.

The wildcard `run` is the folder of one of a run's seeds: `<run>`, or `<run>/seed-<seed>` (`Settings.seeds`).

Rules that make data have priority 10 and fine-tuning 5, so that short trainings at the end of the graph do not
delay the longest chain (data, pretraining, fine-tuning).
"""

import json
import os
import shlex
import signal
import sys
from pathlib import Path

from snakemake.cli import get_argument_parser

sys.path.insert(0, workflow.basedir)

import workflow_scripts  # no traceback at Ctrl-C from here on

from snakemake.io import IOFile
from snakemake.logging import logger

from avion_core.begin import before_the_first_job, check_before_work, settings_or_exit
from avion_core.environment import prepare_environment
from avion_core.evaluate.code import evaluation_code
from avion_core.file_arguments import file_words, named_files
from avion_core.folder_lock import forget_dead_owner, release_folder
from avion_core.launch import growing, launcher, shard_minutes, slurm_resources
from avion_core.layouts import LAYOUTS
from avion_core.models.architecture import load_architecture
from avion_core.screen import stop_gently, take_over
from avion_core.slurm import use_patient_executor
from avion_core.workflow import Workflow, inputs
from avion_core.workflow.code import FILTER_CODE, annotation_code, library_code, provider_code
from avion_core.workflow.estimate_plan import estimate_files, estimate_plan
from avion_core.workflow.records import Records, annotation_record
from avion_core.workflow.remakes import Remakes
from avion_core.workflow.report_plan import report_plan
from avion_core.workflow.source_watch import SourceWatch

# Jobs find this code and interpreter from any folder.
prepare_environment(os.environ, code=workflow.basedir)

# Slurm sends its warning signal to all processes of a job. Trainings save, if their parents ignore the signal.
signal.signal(signal.SIGUSR1, signal.SIG_IGN)

# A job's shell and log writer survive Ctrl-C, and SIGTERM or SIGHUP to the whole job, until the program has saved or
# cleaned up.
shell.prefix(
    "set -euo pipefail; trap : HUP INT TERM; to_log() {{ trap '' HUP INT TERM; exec tee -- \"$1\"; }}; "
)

SETTINGS = settings_or_exit(
    config,
    files=workflow.overwrite_configfiles,
    demo=Path(workflow.basedir) / "config.yaml",
    alone=workflow.config_settings.replace_workflow_config,
)

DATA, RESULTS = SETTINGS.data_dir, SETTINGS.results_dir
LOGS = f"{RESULTS}/logs"
PROVIDER = SETTINGS.narrate.provider

WORKFLOW = Workflow(SETTINGS)
SOURCES = SourceWatch(WORKFLOW, looks=workflow.is_main_process)
REMAKES = Remakes(
    WORKFLOW, looks=workflow.is_main_process, force=lambda path: workflow.dag.forcefiles.add(path)
)
RECORDS = Records(lambda path: workflow.persistence.params(IOFile(path)))
USED, REPHRASED = WORKFLOW.used_datasets(), WORKFLOW.rephrased_datasets()
NARRATED = WORKFLOW.narrated_datasets()
COSINES = WORKFLOW.cosine_providers()
PRETRAIN_STAGES = [name for name, stage in SETTINGS.stages.items() if stage.pretrains]
FINETUNE_STAGES = [name for name in SETTINGS.stages if name not in PRETRAIN_STAGES]


def one_of(names):
    """A wildcard constraint that matches these names and nothing else."""
    return "|".join(names) or "(?!)"


wildcard_constraints:
    dataset=one_of(SETTINGS.datasets),
    run=one_of(folder for run in SETTINGS.runs for folder in SETTINGS.seeds(run)),
    stage=one_of(SETTINGS.stages),
    evaluation=one_of(SETTINGS.evaluations),
    scatteritem=r"\d+-of-\d+",


scattergather:
    shards=SETTINGS.shards,
    rephrased=WORKFLOW.narration_shards(looks=False),
    narrated=WORKFLOW.narration_shards(looks=True),


def list_of_videos(dataset, *, same):
    """The list of source videos; its age is ignored while the relevant part of the source is the `same`."""
    return ancient(WORKFLOW.videos(dataset)) if same else WORKFLOW.videos(dataset)


def class_lists(wildcards):
    """Input that downloads the verb and noun classes read by the provider."""
    lists = WORKFLOW.class_lists(wildcards.dataset)
    return list_of_videos(lists, same=SOURCES.same_class_lists(wildcards.dataset)) if lists else []


def shared_tables(wildcards):
    """Clip tables of data sets that share answers: the age of those after this one does not count."""
    before, after = WORKFLOW.sharing(wildcards.dataset, looks=False)
    tables = [WORKFLOW.clip_table(dataset, "train") for dataset in before]
    return tables, [ancient(WORKFLOW.clip_table(dataset, "train")) for dataset in after]


def other_tables(wildcards):
    """Clip tables, chunk indexes, packets and held-out clips of data sets that share the narrator's limit, whatever
    their age."""
    before, after = WORKFLOW.sharing(wildcards.dataset, looks=True)
    others = [*before, *after]
    return (
        [ancient(WORKFLOW.clip_table(dataset, "train")) for dataset in others],
        [ancient(WORKFLOW.chunks(dataset)) for dataset in others],
        [ancient(WORKFLOW.packets(dataset)) for dataset in others],
        [ancient(path) for dataset in others for path in WORKFLOW.held_out_tables(dataset)],
    )


def stage_of(wildcards):
    return SETTINGS.stage(wildcards.run, wildcards.stage)


def evaluated(wildcards):
    return SETTINGS.evaluations[wildcards.evaluation]


def cosines_of(wildcards):
    return WORKFLOW.cosine_filter(wildcards.provider)


def start_weights(wildcards):
    """The files of third-party weights that a stage starts from."""
    files = inputs.start_weights(WORKFLOW, wildcards.run, wildcards.stage)
    return [path if age_counts else ancient(path) for path, age_counts in files.items()]


def slurm(name):
    """The Snakemake resource `name` of a training job; None for not set."""
    return lambda wildcards: slurm_resources(stage_of(wildcards))[name]


SCREEN = take_over(logger)
use_patient_executor()

if workflow.is_main_process:
    forget_dead_owner()
    targets = get_argument_parser().parse_known_args()[0].targets  # Snakemake sets them later
    check_before_work(SETTINGS, targets, REMAKES, dry=workflow.output_settings.dryrun)
