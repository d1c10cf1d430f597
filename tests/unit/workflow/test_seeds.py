"""Runs of several seeds: their folders, what is planned, what is left alone, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from avion_core.config import Settings, SettingsError, load_settings, run_of
from avion_core.configfile import lay_over, read_config
from avion_core.files import sha256, write_json, write_manifest
from avion_core.manifests import differences
from avion_core.workflow import Workflow, planned_runs
from avion_core.workflow.hours import Measured, hours_report
from avion_core.workflow.report_plan import report_plan
from avion_core.workflow.trainings import trainings

ROOT = Path(__file__).parents[3]
DEMO = read_config(ROOT / "config.yaml")


def settings_of(tmp_path: Path, seeds: Any, **overlay: Any) -> Settings:
    """The demo, with these seeds for the run `human`."""
    overlay = {"selected_runs": ["untrained", "human"], "runs": {"human": {"seeds": seeds}}, **overlay}
    folders = {"data_dir": str(tmp_path / "data"), "results_dir": str(tmp_path / "results")}
    return load_settings(lay_over(DEMO, {**folders, **overlay}))


def stages_of(workflow: Workflow) -> list[tuple[str, str]]:
    return [(stage.run, stage.name) for stage in workflow.stages()]


def finish(workflow: Workflow, run: str, stage: str, *, seed: int) -> None:
    """A trained stage as it is on disk."""
    folder = Path(workflow.model(run, stage)).parent
    folder.mkdir(parents=True)
    (folder / "model.safetensors").touch()
    recorded = {"stage": workflow.settings.stage(run, stage).model_dump(mode="json"), "seed": seed}
    write_manifest(folder / "manifest.json", settings=recorded, inputs={}, identity={"inputs": {}})


def test_the_seed_of_the_configuration_keeps_the_run_s_folder(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, [1, 0, 2])
    assert settings.seeds("human") == {"human/seed-1": 1, "human": 0, "human/seed-2": 2}
    assert settings.seeds("untrained") == {"untrained": 0}
    assert settings_of(tmp_path, None, seed=4).seeds("human") == {"human": 4}
    assert settings_of(tmp_path, [0], seed=4).seeds("human") == {"human/seed-0": 0}
    assert settings.seed_of("human/seed-2") == 2 and run_of("human/seed-2") == "human"


def test_each_seed_has_a_chain_of_its_own(tmp_path: Path) -> None:
    stages = {"pretrain": {}, "finetune_mir": {}}
    runs = {"human": {"seeds": [0, 5], "stages": stages, "evaluations": ["egomcq"]}}
    workflow = Workflow(settings_of(tmp_path, None, selected_runs=["human"], runs=runs))
    assert stages_of(workflow) == [
        (run, stage) for run in ("human", "human/seed-5") for stage in ("pretrain", "finetune_mir")
    ]
    start = workflow.stage("human/seed-5", "finetune_mir").recipe.start
    assert workflow.model("human/seed-5", str(start)).endswith(
        "/results/human/seed-5/pretrain/model.safetensors"
    )
    assert workflow.results(["metrics.json"]) == [
        f"{tmp_path}/results/{run}/egomcq/metrics.json" for run in ("human", "human/seed-5")
    ]
    assert {stage.where for stage in workflow.stages()} == {
        "runs.human.stages.pretrain",
        "runs.human.stages.finetune_mir",
    }


def test_further_seeds_leave_the_finished_one_alone(tmp_path: Path) -> None:
    before = Workflow(settings_of(tmp_path, None))
    finish(before, "human", "pretrain", seed=0)
    now = Workflow(settings_of(tmp_path, [0, 1, 2]))
    finish(now, "human/seed-1", "pretrain", seed=1)
    made = {stage.run: now.is_made(stage) for stage in now.stages() if run_of(stage.run) == "human"}
    assert made == {"human": True, "human/seed-1": True, "human/seed-2": False}
    assert differences(now.settings) == [] and now.differences() == {}


def test_a_result_of_another_seed_in_the_folder_is_named(tmp_path: Path) -> None:
    workflow = Workflow(settings_of(tmp_path, [0, 1]))
    finish(workflow, "human/seed-1", "pretrain", seed=8)
    (found,) = workflow.differences()["human/seed-1", "pretrain"]
    assert str(found).endswith("human/seed-1/pretrain: seed is 8 in manifest.json, 1 in the configuration")


def test_the_report_is_of_all_seeds(tmp_path: Path) -> None:
    workflow = Workflow(settings_of(tmp_path, [0, 1]))
    plan = report_plan(workflow)
    assert list(plan.runs) == ["untrained", "human", "human/seed-1"]
    assert plan.runs["human/seed-1"].stages["pretrain"] == tmp_path / "results/human/seed-1/pretrain"
    assert plan.runs["human/seed-1"].title == plan.runs["human"].title


@pytest.mark.parametrize(("recorded", "outdated"), [([0, 1], False), ([0], True), ([0, 1, 2], True)])
def test_a_report_of_other_seeds_is_outdated(tmp_path: Path, recorded: list[int], outdated: bool) -> None:
    workflow = Workflow(settings_of(tmp_path, [0, 1]))
    for run in ("untrained", "human", "human/seed-1", "human/seed-2"):
        for name in ("pretrain", "zero_shot_mir", "egomcq"):
            write_json(Path(workflow.result(run, name, "manifest.json")), {"run": run})
    then = Workflow(settings_of(tmp_path, recorded))
    shown = [
        Path(workflow.result(run, name, "manifest.json"))
        for run in then.folders()
        for name in ("pretrain", "zero_shot_mir", "egomcq")
    ]
    manifests = {str(path): sha256(path) for path in shown}
    write_json(Path(workflow.report("metrics.json")), {"provenance": {"manifests": manifests}})
    assert workflow.report_is_outdated() is outdated


def test_the_first_seed_narrates(tmp_path: Path) -> None:
    narrator = {"provider": "trained", "trained": {"run": "human", "stage": "pretrain"}}
    for seeds, folder in ((None, "human"), ([0, 1], "human"), ([2, 0], "human/seed-2")):
        workflow = Workflow(settings_of(tmp_path, seeds, narrator=narrator))
        assert workflow.narrator_model() == f"{tmp_path}/results/{folder}/pretrain/model.safetensors"


def test_a_file_of_a_seed_is_a_target_of_its_run(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, [0, 1], selected_runs=["untrained"])
    target = f"{tmp_path}/results/human/seed-1/pretrain/model.safetensors"
    assert planned_runs(settings, [target]) == ("untrained", "human")


def test_hours_are_listed_for_each_seed(tmp_path: Path) -> None:
    workflow = Workflow(settings_of(tmp_path, [0, 1], selected_runs=["human"]))
    titles = {name: entry.title for name, entry in workflow.settings.runs.items()}
    lines = list(hours_report(trainings(workflow, lambda recipe: 1), titles, Measured()))
    assert {"human: Human narrations", "human/seed-1: Human narrations"} <= set(lines)


@pytest.mark.parametrize(
    ("seeds", "words"),
    [
        ([], "at least 1 item"),
        ([1, 1], "a seed is named twice"),
        ([0, -1], "greater than or equal to 0"),
        ([0.5], "integer"),
        ([True], "a number is expected"),
        (3, "runs.human.seeds"),
    ],
)
def test_seeds_that_cannot_be_are_refused(tmp_path: Path, seeds: Any, words: str) -> None:
    with pytest.raises(SettingsError, match=r"runs\.human") as caught:
        settings_of(tmp_path, seeds)
    assert words in str(caught.value)
