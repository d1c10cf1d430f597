"""Configuration files: strict reading, and merging over the demo of `config.yaml`.

An experiment changes the demo's entries or adds its own. An entry with a setting of `NEW_ENTRY` is new and
inherits nothing from the demo's entry of the same name; any other entry changes the demo's.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from avion_core.config import NEW_ENTRY, SettingsError


def read_config(path: Path) -> dict[str, Any]:
    """Settings of a YAML (or JSON) file.

    Raises SettingsError, naming the file and if possible the line, for a file that is missing, unreadable,
    empty or not YAML, and for a setting that appears twice.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        text = text.replace("\t", " ") if _is_json(text) else text
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise SettingsError(f"{path}, line {line}: not UTF-8 text; save it as UTF-8") from None
    except OSError as error:
        raise SettingsError(f"{path}: the configuration cannot be read ({error.strerror})") from None
    try:
        node = _composed(text)
        for key in _repeated_keys(node):
            line, name = key.start_mark.line + 1, key.value
            raise SettingsError(f"{path}, line {line}: '{name}' appears twice; only the last would count")
        config = None if node is None else _Loader("").construct_document(node)
    except yaml.YAMLError as error:
        raise SettingsError(f"{path}{_place_and_problem(error)}") from None
    if not isinstance(config, dict):
        held = "nothing" if config is None else f"a {type(config).__name__}"
        raise SettingsError(f"{path}: holds {held}; settings are lines such as `seed: 0`")
    return config


def _composed(text: str) -> yaml.Node | None:
    """By libyaml where PyYAML comes with it, in a tenth of the time; its errors say less."""
    with suppress(yaml.YAMLError, AttributeError):
        return yaml.compose(text, Loader=yaml.CSafeLoader)
    return yaml.compose(text, Loader=yaml.SafeLoader)


class _Loader(yaml.SafeLoader):
    """PyYAML's loader; errors for invalid values, such as the date 2026-13-01, have a place too."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        if node.tag.endswith((":int", ":float")) and re.match(r"[-+]?0[0-9_]|.*:", str(node.value)):
            problem = f"'{node.value}' is read as an octal or base-60 number; write it as a decimal one"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError):
            yaml_type = node.tag.rpartition(":")[2]
            problem = f"'{node.value}' is read as {yaml_type}, and is not valid as one; put it in quotes"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark) from None


def check_command_line(files: Iterable[str], values: Iterable[str]) -> None:
    """Exit with one line if a file of `--configfile` or a value of `--config` is unusable."""
    try:
        for place, path in enumerate(files):
            if place and not Path(path).exists():  # --configfile takes all words after it
                raise SettingsError(
                    f"--configfile {path}: no such file; if it is a target, write it before --configfile: "
                    f"snakemake {path} --cores 2 --configfile …"
                )
            read_config(Path(path))
        for value in values:
            check_value(value)
    except SettingsError as error:
        sys.exit(str(error))


def check_value(value: str) -> None:
    """Raise SettingsError unless Snakemake accepts `value` for `--config`."""
    name, equals, text = value.partition("=")
    if not equals or not re.fullmatch(r"[A-Za-z_][\w-]*\w", name):
        raise SettingsError(
            f"--config {value}: write name=value, such as seed=1, and for a setting within a section "
            "'stages={pretrain: {epochs: 2}}'; targets come before --config"
        )
    with suppress(yaml.YAMLError):
        if text and _holds_null(yaml.load(text, Loader=_Loader)):
            raise SettingsError(
                f"--config {value}: Snakemake reads null as a word here; write it in a file, for --configfile"
            )


def lay_over(demo: Mapping[str, Any], experiment: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of an experiment over the demo's.

    Entries merge by the rule above. The experiment's common `transcode` settings apply to the demo's data
    sets too. An experiment with runs of its own selects those, unless it has `selected_runs`.
    """
    merged = _merge(_with_chunks(demo, _mapping(experiment.get("transcode"))), experiment)
    own_runs = []
    for section, marks in NEW_ENTRY.items():
        for name, entry in _mapping(experiment.get(section)).items():
            if isinstance(entry, Mapping) and any(mark in entry for mark in marks):
                merged[section][name] = entry
                own_runs += [name] if section == "runs" else []
    if own_runs and "selected_runs" not in experiment:
        merged["selected_runs"] = own_runs
    return merged


def _with_chunks(demo: Mapping[str, Any], common: Mapping[str, Any]) -> Mapping[str, Any]:
    """The demo with common chunk settings laid over those of its data sets."""
    if not common or "datasets" not in demo:
        return demo
    changed = {"transcode": common}
    return {**demo, "datasets": {name: _merge(entry, changed) for name, entry in demo["datasets"].items()}}


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` merged over `base`: mappings merge, other values replace."""
    merged = dict(base)
    for name, value in over.items():
        inside = merged.get(name)
        both = isinstance(value, Mapping) and isinstance(inside, Mapping)
        merged[name] = _merge(inside, value) if both else value  # type: ignore[arg-type]
    return merged


def _holds_null(value: Any) -> bool:
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    return value is None or any(map(_holds_null, inside))


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _repeated_keys(node: yaml.Node | None) -> Iterator[yaml.ScalarNode]:
    """Keys that appear twice in their mapping; visits each node once."""
    seen: set[int] = set()
    waiting = [node]
    while waiting:
        node = waiting.pop()
        if node is None or id(node) in seen or isinstance(node, yaml.ScalarNode):
            continue
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            names = [(key.tag, key.value) for key in keys]
            yield from (key for number, key in enumerate(keys) if names[number] in names[:number])
            waiting += [value for _, value in node.value]
        else:
            waiting += node.value


def _is_json(text: str) -> bool:
    """Whether the text is JSON, where tabs are ordinary white space."""
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _place_and_problem(error: yaml.YAMLError) -> str:
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return f": not valid YAML: {str(error).splitlines()[0]}"
    place = f", line {error.problem_mark.line + 1}"
    if "'\\t'" in str(error.problem):
        return f"{place}: a tab; YAML is indented with spaces"
    problem = str(error.problem).replace("'<stream end>'", "the end of the file")
    begin = f" from line {error.context_mark.line + 1} on" if error.context_mark else ""
    context = f" ({error.context}{begin})" if error.context else ""
    return f"{place}: not valid YAML: {problem}{context}"
