"""Base classes of settings: types of values, and sections that refuse unknown names."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, create_model, model_validator

from avion_core.registry import nearest

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0)]
Precision = Literal["fp32", "bf16", "fp16"]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_]*$")]


def _folder(path: str) -> str:
    """A folder's path that Snakemake allows in a rule: no trailing slash, no braces, no line breaks."""
    if not path.strip() or set(path) & set("{}\n"):
        raise ValueError(
            "name a folder without '{', '}' and line breaks, which Snakemake does not allow in a path"
        )
    return str(Path(path).expanduser())


def _address(url: str) -> str:
    """A server's address, without parts that may hold a key or password: addresses are shown and stored."""
    if "@" in url or "?" in url or "#" in url:
        raise ValueError(
            "give the address alone, without user, password, '?' and '#': it is shown and stored; the key is "
            "read from the environment (`key_variable`)"
        )
    return url


LONGEST_TEXT_BYTES = 30_000
"""Limit of a text as it is written in a job's command: Linux allows 128 KiB for all that a command has."""
Folder = Annotated[str, AfterValidator(_folder)]
Address = Annotated[str, AfterValidator(_address)]


class SettingsError(ValueError):
    """A setting is unknown, missing or out of range. The message names it and a way out."""


class Section(BaseModel):
    """Base of all settings: unknown names are errors, values cannot change after loading."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,
    )

    @classmethod
    def types(cls) -> dict[str, Any]:
        """Types of the settings by name."""
        return {name: field.annotation for name, field in cls.model_fields.items()}

    @model_validator(mode="before")
    @classmethod
    def _no_truth_value_for_a_number(cls, raw: Any) -> Any:
        """Refuse booleans as numbers, also in lists: YAML reads `yes` as true, which would count as 1."""
        for name, value in raw.items() if isinstance(raw, Mapping) else ():
            listed = value if isinstance(value, list | tuple) else [value]
            truths = [str(one).lower() for one in listed if isinstance(one, bool)]
            field = cls.model_fields.get(name) if truths else None
            types = _types(field.annotation) if field else set()
            if types & {int, float} and bool not in types:
                raise ValueError(f"{name}: a number is expected (got {truths[0]})")
        return raw

    @model_validator(mode="before")
    @classmethod
    def _texts_fit_a_command(cls, raw: Any) -> Any:
        """Refuse texts that a job's command cannot hold."""
        for name, value in raw.items() if isinstance(raw, Mapping) else ():
            listed = value if isinstance(value, list | tuple) else [value]
            for text in (one for one in listed if isinstance(one, str)):
                if "\0" in text:
                    raise ValueError(f"{name}: has a NUL character, which no command can hold; remove it")
                size = len(shlex.quote(json.dumps(text)))
                if size > LONGEST_TEXT_BYTES:
                    raise ValueError(
                        f"{name}: too long for a job's command ({size} bytes with quotes and escapes, limit "
                        f"{LONGEST_TEXT_BYTES}); shorten it"
                    )
        return raw


@cache
def sections(**types: type[Section]) -> type[Section]:
    """A class of settings whose fields are sections of these types."""
    fields: dict[str, Any] = {name: (own, ...) for name, own in types.items()}
    return create_model("Sections", __base__=Section, **fields)


def _types(annotation: Any) -> set[Any]:
    """Types of a setting's values: those of a union, a list or a Literal."""
    if get_origin(annotation) is Annotated:
        return _types(get_args(annotation)[0])
    if get_origin(annotation) is Literal:
        return {type(value) for value in get_args(annotation)}
    inner = get_args(annotation)
    return set().union(*map(_types, inner)) if inner else {annotation}


def known(names: Iterable[str], among: Iterable[str], where: str) -> None:
    """Raise ValueError for the first of `names` that is not known, with the nearest known name."""
    choices = list(among)
    for name in names:
        if name not in choices:
            raise ValueError(f"{where}: unknown name '{name}'{nearest(name, choices)}")
