"""Errors for settings that do not fit the task, loss or kind of evaluation beside them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic import ValidationError
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
