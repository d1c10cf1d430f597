"""Errors for settings that do not fit the task, loss or kind of evaluation beside them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from avion_core.registry import nearest


def misfit(message: str, *place: str) -> InitErrorDetails:
    """One problem of a section, with a message of ours."""
    return InitErrorDetails(type="value_error", loc=place, input=None, ctx={"error": ValueError(message)})


def unknown_setting(name: str, value: Any, among: Iterable[str]) -> InitErrorDetails:
    """A setting that nothing has, with the nearest of those that fit."""
    advice = {"advice": nearest(name, among)}
    return InitErrorDetails(
        type=PydanticCustomError("unknown_setting", "{advice}", advice), loc=(name,), input=value
    )


def refusal(*problems: InitErrorDetails) -> ValidationError:
    """The error that lists these problems of a section."""
    return ValidationError.from_exception_data("settings", list(problems))


def fitting(
    settings: type[BaseModel],
    raw: Mapping[str, Any],
    *,
    homes: Callable[[str], list[str]],
    beside: Callable[[list[str]], str],
    nullable: Collection[str] = (),
) -> dict[str, Any]:
    """Raw settings of this class; null stands for the default of `nullable` ones, and for what others have.

    `homes` names the classes that have a setting, and `beside` what it does not go with here. Raises
    ValidationError for settings of other classes, and for unknown ones.
    """
    kept, problems = {}, []
    for name, value in raw.items():
        others = [] if name in settings.model_fields else homes(name)
        if value is None and (others or name in nullable):
            continue
        kept[name] = value
        if others:
            does_not = f"{name} does not go with {beside(others)}"
            problems.append(misfit(f"{does_not}; it is a setting of {' and '.join(others)}"))
        elif name not in settings.model_fields:
            problems.append(unknown_setting(str(name), value, settings.model_fields))
    if problems:
        raise refusal(*problems)
    return kept
