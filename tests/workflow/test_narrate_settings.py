"""A language model's settings as the workflow passes them on: any prompt is text, a port is no recipe."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import harness

ODD = "Say {it} {wildcards.x} {dataset} {{x}} 'differently' $HOME `id` \"y\" \\n %s\nsecond line"
"""A prompt with all that Snakemake, a shell and Python's formatting could take for their own."""


def overlay(**own: Any) -> dict[str, Any]:
    narrate = {"provider": "language_model", "rephrase": {"instruction": ODD}}
    narrate["language_model"] = {"model": "{m}", **harness.PRICES, **own}
    return {"narrate": narrate, "selected_runs": ["llm"]}


def commands(folder: Path, program: str, overlay: dict[str, Any]) -> list[list[str]]:
    """What a dry run would start of a program, as words."""
    said = harness.snakemake(
        folder,
        "narrate",
        overlay=overlay,
        options=("--dry-run", "--printshellcmds"),
        OPENAI_API_KEY="sk-test",
    )
    assert said.returncode == 0, said.stdout[-6000:]
    whole = said.stdout.split(f"python -m workflow_scripts.{program} ")[1:]
    return [shlex.split(text.partition("2>&1")[0]) for text in whole]


def test_a_prompt_with_braces_is_text(tmp_path):
    planned = commands(tmp_path, "narrate", overlay())
    assert planned
    for words in planned:
        recipe = json.loads(words[words.index("--recipe") + 1])
        assert recipe["rephrase"]["instruction"] == ODD and recipe["openai"]["model"] == "{m}"
        assert "base_url" not in recipe["openai"]


def test_data_sets_that_share_answers_get_each_other_s_tables(tmp_path):
    stage = {"pretrain": {"narrations": ["rephrased", "narrated"], "dataset": "ek100"}}
    both = {"llm": {"stages": {"pretrain": {"narrations": ["rephrased", "narrated"]}}}}
    runs = {**both, "other": {"title": "Other", "stages": stage, "evaluations": []}}
    shared = {
        **overlay(),
        "runs": runs,
        "selected_runs": ["llm", "other"],
        "narrator": {"provider": "vision"},
    }
    table = "data/{}/clips/train.arrow".format
    for words in commands(tmp_path, "narrate", shared):
        before, after = (words[words.index(option) + 1] for option in ("--before", "--after"))
        assert (words[0], before, after) in (
            (table("ego4d"), "--after", table("ek100")),
            (table("ek100"), table("ego4d"), "--journal"),
        )
    clips = commands(tmp_path, "narrate_clips", shared)
    assert {(words[0], words[words.index("--other-clips") + 1]) for words in clips} == {
        (table("ego4d"), table("ek100")),
        (table("ek100"), table("ego4d")),
    }
    gathered = {words[0]: words for words in commands(tmp_path, "gather_narrations", shared)}
    assert "data/ego4d/narrations/openai/2-of-2.arrow" in gathered[table("ek100")]
    assert not any("data/ek100/narrations" in word for word in gathered[table("ego4d")][:8])


def test_the_estimate_reads_the_configuration_of_the_run_and_needs_no_key(annotated, tmp_path):
    folder = harness.copy_workspace(annotated, tmp_path / "workspace")
    said = harness.finished(
        folder, "estimate", overlay=overlay(narrations_per_request=5, max_tokens_per_reply=900)
    )
    line = next(line for line in said.splitlines() if "distinct narrations" in line)
    texts, requests = int(line.split(" distinct")[0].split()[-1]), int(line.split(" requests")[0].split()[-1])
    assert line.startswith("ego4d, narrate.language_model: $0.00 billed so far") and requests == -(
        -texts // 5
    )
