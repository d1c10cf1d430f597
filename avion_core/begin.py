"""How a run of the workflow begins: settings, the check of all that would fail, what the first job finds."""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from avion_core import precheck
from avion_core.config import Settings, SettingsError, load_settings
from avion_core.configfile import lay_over, read_config
from avion_core.finished import set_planned_aside
from avion_core.folder_lock import claim_folder
from avion_core.plugins import PLUGINS_VARIABLE, check_jobs_find, plugin_names
from avion_core.workflow.planned import Workflow
from avion_core.workflow.remakes import Remakes
from avion_core.workflow.targets import narrates, planned_runs, trains


def settings_or_exit(given: Mapping[str, Any], *, files: Iterable[Path], demo: Path, alone: bool) -> Settings:
    """The settings of the configuration `given` to Snakemake, laid over the demo's unless it stands `alone`.

    `files` are those it was read from: their errors name file and line. Exits with the list of errors. Jobs
    load the plug-ins too.
    """
    try:
        for path in files:
            read_config(path)
        settings = load_settings(lay_over({} if alone else read_config(demo), given))
        plugins = plugin_names(settings.plugins)
        check_jobs_find(plugins)
    except SettingsError as error:
        sys.exit(str(error))  # without the lines of the rules, which a WorkflowError adds
    except ValueError as error:
        sys.exit(f"config: plugins: {error}")
    os.environ[PLUGINS_VARIABLE] = ",".join(plugins)
    return settings


def check_before_work(settings: Settings, targets: Sequence[str], remakes: Remakes, *, dry: bool) -> None:
    """Exit with the list of all that would fail; a dry run prints it after the jobs."""
    if set(targets) == {"plan"}:  # which works without any file
        return
    try:
        remakes.look()
        text = precheck.check(
            Workflow(settings, planned_runs(settings, targets)),
            trains=trains(settings, targets),
            narrates=narrates(targets),
        )
    except ValueError as error:  # a record of the pipeline's own is damaged
        sys.exit(str(error))
    if text and not dry:
        sys.exit(f"This stops the run {text}")
    if text:
        atexit.register(print, f"\nThis would stop the run {text}", file=sys.stderr)


def before_the_first_job(dag: Any, *, executor: str) -> None:
    """Exit where this machine lacks what the jobs of Snakemake's `dag` need; else claim the folder.

    Trainings and evaluations that are about to run may find what they had made, unless the user forces them.
    """
    missing = precheck.missing_here(executor, dag.needrun_jobs())
    if missing:
        sys.exit(missing)
    claim_folder()
    if executor != "touch":
        set_planned_aside(dag)
