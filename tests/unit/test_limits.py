"""Size limits of the library: a file has one subject, a function fits a screen."""

from __future__ import annotations

import ast
from pathlib import Path

import avion_core

LIBRARY = Path(avion_core.__file__).parent
FILE_LINES, FUNCTION_LINES = 400, 50


def test_files_and_functions_keep_to_the_limits() -> None:
    too_long = []
    for path in sorted(LIBRARY.rglob("*.py")):
        text, name = path.read_text(encoding="utf-8"), str(path.relative_to(LIBRARY))
        too_long += [name] if len(text.splitlines()) > FILE_LINES else []
        too_long += [
            f"{name}: {node.name}"
            for node in ast.walk(ast.parse(text))
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
            and (node.end_lineno or 0) - node.lineno + 1 > FUNCTION_LINES
        ]
    assert not too_long
