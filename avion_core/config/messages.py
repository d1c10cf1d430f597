"""Messages: turn pydantic's errors into one line each, with the setting and a way out."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, get_args

import yaml

from avion_core.config.base import Section
from avion_core.registry import nearest

NEW_ENTRY: dict[Any, tuple[str, ...]] = {
    "datasets": ("layout", "source"),
    "stages": ("task",),
    "evaluations": ("kind",),
    "runs": ("title",),
}
"""Settings that make an experiment's entry in these sections a new one (`configfile.lay_over`)."""


def explain(problem: Mapping[str, Any], settings: type[Section]) -> str:
    """One line for a pydantic error in settings of this class."""
    where = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "unknown_setting":
        return f"unknown setting '{where}'{problem['msg']}"
    if problem["type"] == "extra_forbidden":
        name = str(problem["loc"][-1])
        siblings = _fields_at(settings, problem["loc"][:-1])
        return f"unknown setting '{where}'{nearest(name, siblings)}"
    if problem["type"] == "missing":
        return f"setting '{where}' is missing{_why_missing(problem['loc'], problem['input'])}"
    if problem["type"] in ("tuple_type", "list_type"):
        value = problem["input"]
        write = f"; write {_yaml_list(value)}" if isinstance(value, str) else ""
        return f"{where}: a list is expected{write} (got {value!r})"
    if problem["type"] in ("dict_type", "model_type", "mapping_type"):
        return f"{where}: a mapping is expected, `name: value` (got {problem['input']!r})"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return f"{where}: {message}" if where else message
    return f"{where}: {message} (got {problem['input']!r})"


def _yaml_list(value: str) -> str:
    """A list of one text, quoted where YAML would read something else."""
    return str(yaml.safe_dump([value], default_flow_style=True, width=math.inf, allow_unicode=True)).strip()


def _why_missing(location: tuple[int | str, ...], entry: Mapping[str, Any]) -> str:
    """Hint for an entry that lacks a setting."""
    if len(location) != 3 or location[0] not in NEW_ENTRY:
        return ""
    marks = [mark for mark in NEW_ENTRY[location[0]] if mark in entry]
    if marks:
        return f"; with its `{marks[0]}` the entry is a new one and takes nothing from config.yaml"
    return (
        f"; no entry is called '{location[1]}' yet: correct the name if it should change another, or give "
        "the file that has it first (`--configfile configs/folder.yaml mine.yaml`)"
    )


def _fields_at(settings: type[Section], location: tuple[int | str, ...]) -> list[str]:
    """Names of the settings allowed at a location such as ('datasets', 'ego4d', 'transcode')."""
    section: Any = settings
    for part in location:
        if isinstance(section, type) and issubclass(section, Section):
            section = section.types().get(str(part))
        else:  # dict[Name, Section]: any key, then the value's type
            section = get_args(section)[1] if get_args(section) else None
        options = [option for option in get_args(section) if option is not type(None)]
        if type(None) in get_args(section) and options:
            section = options[0]
    return list(section.types()) if isinstance(section, type) and issubclass(section, Section) else []


def without_passwords(text: str) -> str:
    """A text without user, password and query values in its addresses."""
    text = re.sub(r"//[^/@\s'\"]*@", "//***@", text)
    return re.sub(r"([?&][^=&\s'\"]+=)[^&\s'\"]+", r"\1***", text)
