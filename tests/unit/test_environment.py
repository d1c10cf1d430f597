"""What the user's shell has set for other work changes nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from avion_core.environment import prepare_environment, use_writable_cache

ROOT = Path(__file__).parents[2]


def test_jobs_run_this_code_by_this_interpreter_whatever_the_shell_has_set(tmp_path: Path) -> None:
    """Another Python by a start-up script, others' packages, no UTF-8, another launcher's rank."""
    (tmp_path / "yaml.py").write_text("raise SystemExit('another yaml')")
    (tmp_path / "start").write_text("export PATH=/nowhere")
    variables = {
        **{"PATH": "/usr/bin:/bin", "BASH_ENV": str(tmp_path / "start"), "PYTHONPATH": str(tmp_path)},
        **{"PYTHONHOME": "/nowhere", "LC_ALL": "C", "WORLD_SIZE": "8", "RANK": "3", "HOME": "/root"},
    }
    prepare_environment(variables, code=ROOT)
    program = (
        "import avion_core, os, sys, yaml; print(open(sys.argv[1]).read(), sorted(os.environ), sys.prefix)"
    )
    (tmp_path / "text").write_text("größer", encoding="utf-8")
    line = ["bash", "-c", 'python -c "$@"', "bash", program, str(tmp_path / "text")]
    said = subprocess.run(line, env=variables, capture_output=True, check=True).stdout.decode()
    assert "größer" in said and sys.prefix in said and "HOME" in said
    assert "WORLD_SIZE" not in said and "'RANK'" not in said and "BASH_ENV" not in said


def test_make_hands_nothing_of_other_work_on(tmp_path: Path) -> None:
    (tmp_path / "requirements.lock").touch()
    snakemake = tmp_path / ".venv/bin/snakemake"
    snakemake.parent.mkdir(parents=True)
    snakemake.write_text("#!/bin/sh\nenv\n")
    snakemake.chmod(0o755)
    (tmp_path / ".venv/.ready").touch()
    others = ("PYTHONPATH", "PYTHONHOME", "SNAKEMAKE_PROFILE", "PIP_TARGET", "PIP_PREFIX")
    said = subprocess.run(
        ["make", "--file", str(ROOT / "Makefile"), "demo"],
        cwd=tmp_path,
        env=os.environ | dict.fromkeys(others, "/nowhere") | {"PIP_USER": "1"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "/nowhere" not in said and "PIP_USER=0" in said


def test_a_home_that_cannot_be_written_needs_no_cache(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for home in (tmp_path / "file", tmp_path / "file/below"):
        variables = {"HOME": str(home)}
        use_writable_cache(variables, instead=tmp_path / "cache")
        assert variables["XDG_CACHE_HOME"] == str(tmp_path / "cache")
    variables = {"HOME": str(tmp_path / "new")}
    use_writable_cache(variables, instead=tmp_path / "cache")
    assert "XDG_CACHE_HOME" not in variables
    variables["XDG_CACHE_HOME"] = str(tmp_path / "chosen")
    use_writable_cache(variables, instead=tmp_path / "cache")
    assert variables["XDG_CACHE_HOME"] == str(tmp_path / "chosen")
