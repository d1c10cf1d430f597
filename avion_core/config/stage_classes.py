"""Which class has the settings of a stage, by its task and loss, and which settings fit it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, get_args

from pydantic import create_model
from pydantic_core import InitErrorDetails

from avion_core.config.misfits import fitting, misfit, refusal
from avion_core.registry import Registry

if TYPE_CHECKING:
    from avion_core.config.stages import StageSettings

STAGE_TASKS: Registry[type[StageSettings]] = Registry("task", needs=("trains",), refers=("setup",))
"""Settings of a training stage by its task."""


def stage_class(raw: Mapping[str, Any]) -> type[StageSettings]:
    """The class that has the settings of a stage, by its task and loss.

    Raises ValidationError for a task that is missing or unknown, and for a loss that the task does not have.
    """
    if "task" not in raw:
        raise refusal(InitErrorDetails(type="missing", loc=("task",), input=raw))
    task, loss = str(raw["task"]), raw.get("loss")
    try:
        settings = STAGE_TASKS[task]
    except ValueError as error:
        raise refusal(misfit(str(error), "task")) from None
    losses = list(settings.losses)
    if "loss" in settings.model_fields and not losses:
        problem = f"the task '{task}' has no losses; register one in `losses` of {settings.__name__}"
        raise refusal(misfit(problem, "task"))
    if task not in get_args(settings.model_fields["task"].annotation):
        problem = f"{settings.__name__} lacks the field `task: Literal['{task}']`; add it"
        raise refusal(misfit(problem, "task"))
    if loss is not None and str(loss) not in losses:
        choice = f"it has: {', '.join(losses)}" if losses else "it has but one, so leave loss out"
        raise refusal(misfit(f"the task '{task}' has no loss '{loss}'; {choice}", "loss"))
    return _with_loss(settings, str(loss or losses[0])) if losses else settings


@cache
def _with_loss(settings: type[StageSettings], loss: str) -> type[StageSettings]:
    """The settings of a task together with those of one of its losses."""
    own = settings.losses[loss]
    for taken in own.model_fields.keys() & settings.model_fields.keys():
        raise ValueError(f"the loss '{loss}' has a setting '{taken}', as its task has; give it another name")
    name, bases = f"{settings.__name__}With{own.__name__}", (settings, own)
    made: type[StageSettings] = create_model(name, __base__=bases, loss=(Literal[loss], loss))  # type: ignore
    return made


def fitting_stage(settings: type[StageSettings], raw: Mapping[str, Any]) -> dict[str, Any]:
    """Raw settings of this class, as in `misfits.fitting`; null stands for a loss's published value."""
    tasks = {plain: task for task, plain in STAGE_TASKS.items()}
    task = next(tasks[plain] for plain in settings.__mro__ if plain in tasks)

    def beside(homes: list[str]) -> str:
        """This task, and its loss for a setting of losses only."""
        if not settings.losses or any(home in STAGE_TASKS for home in homes):
            return f"the task '{task}'"
        loss = settings.model_fields["loss"].default
        own = ", ".join(settings.losses[loss].model_fields)
        return f"the task '{task}' and the loss '{loss}', which takes {own}"

    of_its_losses = {"loss", *(name for own in settings.losses.values() for name in own.model_fields)}
    return fitting(settings, raw, homes=_homes, beside=beside, nullable=of_its_losses)


def _homes(name: str) -> list[str]:
    """Tasks, and losses of tasks, that have this setting."""
    homes = []
    for task, settings in STAGE_TASKS.items():
        losses = [loss for loss, own in settings.losses.items() if name in own.model_fields]
        if losses:
            homes.append(f"{task} with the loss {' or '.join(losses)}")
        elif name in settings.model_fields:
            homes.append(task)
    return homes
