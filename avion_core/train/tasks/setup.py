"""Setup of a stage's task: model arguments, a text for each clip, and the task itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from avion_core.config import StageSettings
from avion_core.data.clips import ClipTable
from avion_core.data.dataset import ChooseText, Entries
from avion_core.registry import load
from avion_core.train.distributed import World
from avion_core.train.protocols import Task


class TaskSetup:
    """Builds the task of one stage; the settings name the class (`StageSettings.setup`)."""

    settings: StageSettings
    classes: int = 0
    """Outputs of a classifier's head; 0 for other tasks."""
    further_classes: Mapping[str, int] = MappingProxyType({})
    """Outputs of its heads for further labels, by label."""

    def __init__(self, settings: Any, files: Mapping[str, Path]) -> None:
        """`files` by their role on the command line: `chunks`, and those of `StageSettings.files`."""
        self.settings, self.files = settings, files

    def model_arguments(self) -> dict[str, Any]:
        """Arguments for building the model."""
        return self.settings.model_arguments()

    def choose_text(self, clips: ClipTable) -> ChooseText | None:
        """Function that chooses the text for each clip; None for clips alone."""
        return None

    def entries(self, clips: ClipTable) -> Entries | None:
        """Further entries of each clip's sample, for the loss. Raises ValueError for clips that lack them."""
        return None

    def task(self, model: Any, clips: ClipTable, world: World) -> Task:
        """The task that trains `model`, already on its device, on `clips`."""
        raise NotImplementedError

    def file(self, role: str) -> Path:
        """A file that the task reads. Raises ValueError if it was not given."""
        if role not in self.files:
            raise ValueError(f"the task '{self.settings.task}' needs the file '{role}'")
        return self.files[role]


def task_setup(settings: StageSettings, files: Mapping[str, Path]) -> TaskSetup:
    """The setup of a stage's task. Raises ValueError for files that do not fit the settings."""
    setup: TaskSetup = load(settings.setup, base=TaskSetup)(settings, files)
    return setup
