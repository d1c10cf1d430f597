"""Files of settings: what is refused where, and what an experiment takes from the demo."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from snakemake.cli import parse_config

from avion_core.config import NEW_ENTRY, Settings, SettingsError, load_settings
from avion_core.configfile import check_command_line, check_value, lay_over, read_config
from avion_core.workflow import Workflow
from tests.support.experiments import DEMO, EXPERIMENTS, experiment

ALONE = [name for name in EXPERIMENTS if "datasets" in experiment(name, demo={})]
"""Those with data of their own; the others build on the demo."""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"seed: 1\nstages: {pretrain: {epochs: 3}\n", ["line 3", "'}'", "from line 2 on"]),
        (b"seed: 1\nstages:\n\tpretrain: {}\n", ["line 3", "a tab"]),
        (b"seed: 1\nselected_runs: [human\n", ["line 3", "']'"]),
        (b"seed: 1\n shards: 2\n", ["line 2", "mapping values are not allowed"]),
        (b"seed: 1\nshards: 2\nseed: 3\n", ["line 3", "'seed' appears twice"]),
        (b"stages:\n  a: {task: x}\n  b: {epochs: 1, epochs: 2}\n", ["line 3", "'epochs' appears twice"]),
        (b"seed: 1\n# caf\xe9\n", ["line 2", "not UTF-8"]),
        (b"", ["holds nothing"]),
        (b"# seed: 1\n", ["holds nothing"]),
        (b"- seed\n", ["holds a list"]),
        (b"seed\n", ["holds a str"]),
        (b"seed: \x00\n", ["not valid YAML"]),
        (b"seed: 1\nshards: 2026-02-30\n", ["line 2", "'2026-02-30'", "quotes"]),
        (b"seed: !!int x\n", ["line 1", "is read as int"]),
        (b"seed: 1\nshards: 010\n", ["line 2", "'010' is read as an octal"]),
        (b"stages: {a: {warmup_epochs: 1:30}}\n", ["line 1", "'1:30' is read as"]),
    ],
)
def test_a_file_that_cannot_be_meant_is_refused_with_its_line(
    tmp_path: Path, text: bytes, words: list[str]
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(text)
    with pytest.raises(SettingsError) as caught:
        read_config(path)
    message = str(caught.value)
    assert all(word in message for word in [str(path), *words]), message
    assert "\n" not in message


@pytest.mark.parametrize("name", ["nowhere.yaml", "."])
def test_a_file_that_is_not_there_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(SettingsError, match=r"cannot be read \((No such file|Is a dir)"):
        read_config(tmp_path / name)


def test_a_target_behind_the_configuration_files_is_told_where_to_stand(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("seed: 1\n")
    check_command_line([str(path)], [])
    with pytest.raises(SystemExit, match=r"transcode: no such file; .* target, write it before --configfile"):
        check_command_line([str(path), "transcode"], [])


def test_json_anchors_and_merge_keys_are_read(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text('{\n\t"seed": 3\n}')
    assert read_config(path) == {"seed": 3}
    path.write_text("a: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}\nc: *a\n")
    assert read_config(path)["b"] == {"x": 3, "y": 2}


def used(settings: Settings) -> dict[str, Any]:
    """Everything that decides what the selected runs make."""
    workflow = Workflow(settings)
    entries = {
        "datasets": {name: settings.datasets[name] for name in workflow.used_datasets()},
        "stages": {stage.where: stage.recipe for stage in workflow.stages()},
        "evaluations": {name: entry for _, name, entry in workflow.evaluations()},
        "runs": {name: settings.runs[name] for name in settings.selected_runs},
    }
    return {**settings.model_dump(exclude=set(NEW_ENTRY)), **entries}


@pytest.mark.parametrize("name", ALONE)
def test_an_experiment_takes_nothing_from_the_demo(name: str) -> None:
    """It is the same over nothing as over the demo."""
    alone = load_settings(experiment(name, demo={}))
    assert used(load_settings(experiment(name))) == used(alone)


def test_outside_its_entries_the_demo_stands_at_the_defaults() -> None:
    """So that an experiment which leaves a setting out has the documented value."""
    settings = load_settings(DEMO)
    for name in settings.model_dump(exclude={*NEW_ENTRY, "selected_runs"}):
        assert getattr(settings, name) == Settings.model_fields[name].get_default(), name


MINE = {
    "datasets": {
        "ego4d": {"layout": "folder", "source": "folder", "folder": {"videos": "v", "narrations": "n.csv"}}
    },
    "stages": {"pretrain": {"task": "contrastive", "dataset": "ego4d", "model": "toy_dual_encoder"}},
    "evaluations": {"egomcq": {"kind": "retrieval", "dataset": "ego4d", "stage": "pretrain"}},
    "runs": {"human": {"title": "Mine", "stages": {"pretrain": {}}, "evaluations": ["egomcq"]}},
}


def test_an_entry_that_says_what_it_is_takes_nothing_from_the_demos_of_its_name() -> None:
    assert used(load_settings(lay_over(DEMO, MINE))) == used(
        load_settings({**MINE, "selected_runs": ["human"]})
    )


def test_an_experiment_with_runs_of_its_own_selects_them_unless_it_says_which() -> None:
    assert lay_over(DEMO, MINE)["selected_runs"] == ["human"]
    assert lay_over(DEMO, {**MINE, "selected_runs": ["llm"]})["selected_runs"] == ["llm"]
    assert lay_over(DEMO, {"runs": {"llm": {"evaluations": []}}})["selected_runs"] == DEMO["selected_runs"]


def test_a_small_overlay_changes_what_it_names_and_nothing_else() -> None:
    changed = lay_over(
        DEMO, {"stages": {"pretrain": {"epochs": 99}}, "evaluations": {"kinetics": {"frames": 16}}}
    )
    expected = load_settings(DEMO).model_dump()
    expected["stages"]["pretrain"]["epochs"] = 99
    expected["evaluations"]["kinetics"]["frames"] = 16
    assert load_settings(changed).model_dump() == expected


def test_common_chunk_settings_reach_the_demos_data_sets_too() -> None:
    overlay = {"transcode": {"short_side_px": 96}, "datasets": {"ek100": {"transcode": {"crf": 30}}}}
    datasets = load_settings(lay_over(DEMO, overlay)).datasets
    assert {entry.transcode.short_side_px for entry in datasets.values()} == {96}
    assert datasets["ek100"].transcode.crf == 30
    assert datasets["ek100"].transcode.preset == "veryfast"  # the demo's


def test_the_demo_stays_as_it_is_under_an_experiment() -> None:
    before = copy.deepcopy(DEMO)
    lay_over(DEMO, {"transcode": {"crf": 30}, "stages": {"pretrain": {"epochs": 2}}, **MINE})
    lay_over(DEMO, {"transcode": {"crf": 30}})
    assert before == DEMO


@pytest.mark.parametrize(
    "entry", [None, [1], "x", {"transcode": None}, {"transcode": [1]}, {"transcode": "x"}]
)
def test_a_data_set_of_another_type_is_an_error_of_the_settings(entry: Any) -> None:
    for common in ({}, {"transcode": {"crf": 20}}):
        with pytest.raises(SettingsError, match=r"datasets\.ek100.*a mapping is expected"):
            load_settings(lay_over(DEMO, {"datasets": {"ek100": entry}, **common}))


@pytest.mark.parametrize("value", ["seed", "=3", "stages.pretrain.epochs=2", "pretrain", "", "2x=1"])
def test_a_value_of_the_command_line_without_a_name_is_told_with_the_way_out(value: str) -> None:
    with pytest.raises(SettingsError, match=f"--config {value}: write name=value"):
        check_value(value)


@pytest.mark.parametrize(
    ("value", "taken"),
    [
        ("seed=1", {"seed": 1}),
        ("data_dir=", {"data_dir": None}),
        ("stages={pretrain: {start_weights: a=b.pt}}", {"stages": {"pretrain": {"start_weights": "a=b.pt"}}}),
    ],
)
def test_a_value_of_the_command_line_that_snakemake_takes_is_taken(value: str, taken: dict[str, Any]) -> None:
    check_value(value)
    assert parse_config([value]) == taken


@pytest.mark.parametrize("value", ["seed", "=3", "stages.pretrain.epochs=2", "2x=1"])
def test_a_value_of_the_command_line_that_is_refused_is_one_that_snakemake_does_not_take(value: str) -> None:
    with pytest.raises(ValueError, match="Invalid config definition"):
        parse_config([value])
    with pytest.raises(SettingsError):
        check_value(value)


@pytest.mark.parametrize(
    ("value", "read"),
    [
        ("stages={pretrain: {loss: null}}", {"stages": {"pretrain": {"loss": "null"}}}),
        ("runs={human: {stages: [~]}}", {"runs": {"human": {"stages": ["~"]}}}),
        ("seed=null", {"seed": "null"}),
    ],
)
def test_null_on_the_command_line_which_snakemake_reads_as_a_word_is_told(
    value: str, read: dict[str, Any]
) -> None:
    assert parse_config([value]) == read
    with pytest.raises(SettingsError, match="reads null as a word here; write it in a file"):
        check_value(value)


@pytest.mark.parametrize("section", [None, [], "x"])
def test_a_section_of_another_type_is_an_error_of_the_settings(section: Any) -> None:
    for name in ("datasets", "stages", "transcode"):
        with pytest.raises(SettingsError, match=name):
            load_settings(lay_over(DEMO, {name: section, "transcode": {"crf": 20}} | {name: section}))
