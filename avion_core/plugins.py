"""Plug-ins: modules outside the package that register records when they are imported.

A faulty one is refused before any work, with one error that names it.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import os
import re
import subprocess
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path

from avion_core.registry import registered

PLUGINS_VARIABLE = "AVION_PLUGINS"
"""Plug-in modules, separated by commas; the workflow sets it for its jobs."""

FIND = """
import importlib.util, sys
sys.path.append("")
print(*(module for module in sys.argv[1:] if importlib.util.find_spec(module) is None))
"""
"""Program that prints those of its arguments that a job would not find."""


def plugin_names(modules: Iterable[str] = ()) -> list[str]:
    """These modules and those of PLUGINS_VARIABLE."""
    return list(dict.fromkeys([*modules, *filter(None, os.environ.get(PLUGINS_VARIABLE, "").split(","))]))


def load_plugins(modules: Iterable[str] = ()) -> None:
    """Import these modules and those of PLUGINS_VARIABLE, which register their records.

    They may be in the working directory. Raises ValueError for one that cannot be imported, that has the name
    of another module, or whose records refer to code that does not exist.
    """
    for module in plugin_names(modules):
        if (here := str(Path.cwd())) not in sys.path:
            sys.path.append(here)
        before = len(registered)
        _import(module)
        _check_place(module)
        for registry, name in registered[before:]:
            for attribute in registry.refers:
                reference = getattr(registry[name], attribute)
                if problem := _missing(reference):
                    raise ValueError(
                        f"the module '{module}': the {registry.what} '{name}': `{attribute}` is "
                        f"'{reference}', but {problem}"
                    )


def check_jobs_find(modules: Iterable[str]) -> None:
    """Raise ValueError for a plug-in that this process has imported and a job would not find.

    Jobs look in the working directory, beside this package and among the environment's packages, but not in
    the shell's PYTHONPATH, in `~/.local`, or in the folder in which `python -m snakemake` was started.
    """
    roots = list(dict.fromkeys(module.partition(".")[0] for module in modules))
    lost = subprocess.check_output([sys.executable, "-c", FIND, *roots], text=True).split() if roots else []
    for root in lost:
        raise ValueError(
            f"the module '{root}' ({_file(root)}) is not found by jobs, which use neither the shell's "
            f"PYTHONPATH nor packages in ~/.local; install it in {sys.prefix}, or put it in the working "
            f"directory {Path.cwd()}"
        )


def _file(module: str) -> str:
    """Where an imported module is."""
    return getattr(sys.modules[module], "__file__", None) or "a folder without __init__.py"


def _import(module: str) -> None:
    if not re.fullmatch(r"\w+(\.\w+)*", module) or module.endswith(".py"):
        raise ValueError(
            f"'{module}' is not the name of a module; write my_plugin for my_plugin.py in the working "
            "directory, my_package.my_plugin for a module of a package"
        )
    if module.partition(".")[0] in (*sys.stdlib_module_names, "__main__"):
        raise ValueError(f"the module '{module}' is a part of Python; give your file another name")
    try:
        importlib.import_module(module)
    except (Exception, SystemExit) as error:
        raise ValueError(
            f"the module '{module}' cannot be imported ({_cause(error)}); {_advice(module, error)}"
        ) from error


def _cause(error: BaseException) -> str:
    """What ended an import, and the line outside this package and Python where it did."""
    said = " ".join(str(error).split())
    if isinstance(error, SystemExit):
        said = f"it calls sys.exit({said})"
    elif not isinstance(error, ImportError) and type(error) is not ValueError:
        said = f"{type(error).__name__}: {said}" if said else type(error).__name__
    ours = (f"{Path(__file__).parent}{os.sep}", f"{Path(importlib.__file__).parent}{os.sep}", "<")
    for frame in traceback.extract_tb(error.__traceback__):
        if not frame.filename.startswith(ours):
            return f"{frame.filename}, line {frame.lineno}: {said}"
    return said


def _advice(module: str, error: BaseException) -> str:
    if not isinstance(error, ModuleNotFoundError):
        return "correct it"
    if not error.name or not f"{module}.".startswith(f"{error.name}."):
        return "install what it imports"
    root = module.partition(".")[0]
    if root in sys.modules and Path.cwd().joinpath(*module.split(".")).with_suffix(".py").is_file():
        return f"'{root}' is {_file(root)}; give your package another name"
    return f"install it, or put it in the working directory {Path.cwd()}"


def _check_place(module: str) -> None:
    """Raise ValueError for a file of the working directory if another module of its name was imported."""
    place = Path.cwd().joinpath(*module.split("."))
    found = _file(module)
    for file in (place.with_name(f"{place.name}.py"), place / "__init__.py"):
        if file.is_file() and not (Path(found).is_file() and file.samefile(found)):
            raise ValueError(f"the module '{module}' is {found}, not {file}; give your file another name")


def _missing(reference: str) -> str:
    """What is wrong with `package.module:Name`, or nothing; a module that is not imported is read as text."""
    module, _, name = reference.partition(":")
    if module in sys.modules:
        return "" if hasattr(sys.modules[module], name) else f"the module '{module}' has no '{name}'"
    try:
        spec = importlib.util.find_spec(module)
    except Exception as error:  # its package cannot be imported
        return f"the module '{module}' is not found ({type(error).__name__}: {error})"
    if spec is None:
        return f"there is no module '{module}'"
    if spec.origin is None or not spec.origin.endswith(".py"):
        return ""
    source = Path(spec.origin).read_bytes()
    try:
        ast.parse(source)
    except SyntaxError as error:
        return f"{spec.origin}, line {error.lineno}: {error.msg}"
    computed = r"import +\*|\b__getattr__\b|\bglobals\b"  # names that are not written out
    return "" if re.search(rf"\b{name}\b|{computed}".encode(), source) else f"{spec.origin} has no '{name}'"
