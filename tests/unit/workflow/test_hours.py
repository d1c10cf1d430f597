"""Predicted hours by hand, the benchmark's utilisation in them, and the table."""

import json
from dataclasses import replace

import pytest

from avion_core.config import StageSettings
from avion_core.workflow.hours import (
    ASSUMED_UTILISATION,
    Measured,
    gpu_hours,
    hours_report,
    wall_hours,
)
from avion_core.workflow.planned import PlannedStage
from avion_core.workflow.trainings import Training
from tests.unit.test_experiments import experiment

RECIPE = {
    "task": "contrastive",
    "dataset": "own",
    "model": "clip_vit_b_16",
    "precision": "bf16",
    "epochs": 2,
    "batch_size": 100,
    "processes": 4,
    "gpus": 4,
    "runtime_minutes": 600,
}
TITLES = {"r": "A run"}


def training(name="s", *, clips=1050, flops_per_clip=10**12, finished=False, **changes) -> Training:
    recipe = StageSettings.model_validate({**RECIPE, **changes})
    return Training(PlannedStage("r", name, recipe), "folder", clips, flops_per_clip, finished)


def test_neighbours_are_computed_too():
    assert training(neighbours=True).flops == 2 * training().flops
    assert training(neighbours=True).steps == training().steps


def gpu_json(tmp_path, device="NVIDIA H100 80GB HBM3", **rows):
    path = tmp_path / "gpu.json"
    path.write_text(json.dumps({"figures": {"device": {"name": device}, "rows": rows}}))
    return path


def row(utilisation, **changes):
    plain = {
        "architecture": "clip_vit_b_16",
        "frames": 4,
        "precision": "bf16",
        "attention": "sdpa",
        "sdpa": None,
        "compile": False,
        "checkpointing": False,
        "loader": False,
    }
    return {"clips_per_s": 1.0, "utilisation": utilisation, "row": {**plain, **changes}}


def table(*trainings, measured=None):
    """The report by the first word of a line, each with its other words."""
    lines = list(hours_report(trainings, TITLES, measured or Measured()))
    return lines, {line.split()[0]: line.split()[1:] for line in lines if line.strip()}


def test_hours_are_operations_over_peak_and_the_share_of_it_that_is_used():
    item = training(flops_per_clip=10**15)
    assert item.steps == 20 and item.flops == 2e18
    assert gpu_hours(item, "A100", Measured()) == pytest.approx(2e18 / (312e12 * ASSUMED_UTILISATION) / 3600)
    assert wall_hours(item, "A100", Measured()) == gpu_hours(item, "A100", Measured()) / 4
    several = training(nodes=2, batch_size=80)
    assert gpu_hours(several, "A100", Measured()) == wall_hours(several, "A100", Measured()) * 8


@pytest.mark.parametrize("changes", [{"gpus": 0}, {"precision": "fp32"}])
def test_cpus_and_fp32_have_operations_and_no_hours(changes):
    item = training(**changes)
    assert gpu_hours(item, "H100", Measured()) is wall_hours(item, "H100", Measured()) is None
    _, words = table(item, training("other"))
    assert words["exaFLOP"] == ["0.002", "0.002"]
    assert words["H200"][0] == "–"
    lines, _ = table(training(gpus=0))
    assert not any("A5000" in line for line in lines)


def test_what_the_benchmark_measured_on_this_gpu_for_this_model_counts(tmp_path):
    rows = {
        "vit_b": row(0.5),
        "vit_b_compiled": row(0.6, compile=True),
        "vit_b_16_frames": row(0.55, frames=16),
        "vit_b_loader": row(0.3, loader=True),
        "plain_ours": {"clips_per_s": 1.0, "row": row(0)["row"]},
        "vit_b_flash": {"skipped": "no flash-attn"},
    }
    measured = Measured.read(gpu_json(tmp_path, **rows))
    shares = [
        measured.utilisation("H100", training(**changes).stage.recipe)
        for changes in ({}, {"compile": True}, {"frames": 16}, {"frames": 8}, {"model": "clip_vit_l_14"})
    ]
    assert shares == [0.5, 0.6, 0.55, 0.5, None]
    assert measured.utilisation("A100", training().stage.recipe) is None
    assert gpu_hours(training(), "H100", measured) == pytest.approx(
        gpu_hours(training(), "H100", Measured()) * ASSUMED_UTILISATION / 0.5
    )
    lines, _ = table(training(), measured=measured)
    assert "On H100 at what make bench NAME=gpu measured: clip_vit_b_16 with 4 frames 50%." in lines
    assert Measured.read(tmp_path / "none.json") == Measured()
    other = Measured.read(gpu_json(tmp_path, device="Some other GPU", vit_b=row(0.5)))
    assert table(training(), measured=other) == table(training())


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        '{"figures": []}',
        '{"figures": {"device": {"name": "H100"}, "rows": {"a": {"utilisation": "much", "row": ROW}}}}',
        '{"figures": {"device": {"name": "H100"}, "rows": {"a": {"utilisation": -0.5, "row": ROW}}}}',
        '{"figures": {"device": {"name": "H100"}, "rows": {"a": {"utilisation": NaN, "row": ROW}}}}',
        '{"figures": {"device": {"name": "H100"}, "rows": {"a": {"utilisation": 0.5, "row": {}}}}}',
        '{"figures": {"device": {"name": "H100"}, "rows": {"a": {"utilisation": 0.5, "row": "a"}}}}',
    ],
)
def test_a_file_that_is_no_result_is_one_error(tmp_path, text):
    (tmp_path / "gpu.json").write_text(text.replace("ROW", '{"architecture": "clip_vit_b_16"}'))
    with pytest.raises(ValueError, match=r"gpu.json: not a result of `make bench NAME=gpu`; delete it"):
        Measured.read(tmp_path / "gpu.json")


def test_a_row_without_a_later_setting_counts(tmp_path):
    older = {"utilisation": 0.5, "row": {"architecture": "clip_vit_b_16", "frames": 4}}
    measured = Measured.read(gpu_json(tmp_path, older=older))
    assert measured.utilisation("H100", training().stage.recipe) == 0.5


def test_a_batch_that_no_epoch_fills_is_named():
    lines, _ = table(training("one", clips=3), training("two", clips=3, epochs=0), training("three"))
    assert [line for line in lines if "fill" in line] == ["one: 3 clips do not fill one batch of 100"]


def test_runs_that_train_nothing_have_a_line():
    assert list(hours_report([], TITLES, Measured())) == ["The selected runs train nothing."]


def test_a_table_has_a_column_for_each_stage():
    lines, words = table(training("one"), training("two", clips=3, epochs=1, finished=True))
    assert lines[0] == "r: A run"
    assert lines[1].split() == ["one", "two"]
    assert words["clips"] == ["1,050", "3"]
    assert words["steps"] == ["20", "0"]
    assert words["TFLOP"] == ["a", "clip", "1", "1"]
    assert words["finished"] == ["no", "yes"]
    assert words["GPUs"] == ["4", "4"]
    assert len({len(line) for line in lines[1:9]}) == 1, "columns are aligned"
    assert "Hours are those of training steps, at an assumed 40% of the peak in bf16 or fp16." in lines


def test_unknown_clips_are_said_and_figures_are_for_each_million():
    lines, words = table(training(clips=None))
    assert (words["clips"], words["steps"], words["exaFLOP"]) == (["unknown"], ["unknown"], ["2*"])
    assert words["H200"] == [f"{2e18 / (989e12 * 0.4) / 3600 / 4:.3g}*"]
    assert any(line.startswith("* for each million clips: clips unknown until annotate") for line in lines)


def test_a_time_limit_that_is_too_short_is_named():
    long = training(flops_per_clip=10**16)
    lines, _ = table(long)
    limit = next(line for line in lines if "runtime_minutes" in line)
    assert limit.startswith("s: runtime_minutes (600, 10 h) is below the prediction: A5000 ")
    assert "A100 11.1 h" in limit and "H100 3.51 h" not in limit
    lines, _ = table(training(flops_per_clip=10**17))
    assert max(map(len, lines)) <= 100, "although all GPUs are named"
    for fine in (replace(long, finished=True), replace(long, clips=None), training(runtime_minutes=6000)):
        assert not any("runtime_minutes" in line for line in table(fine)[0])


@pytest.mark.parametrize(
    ("name", "run", "stage", "hours"),
    [
        ("avion", "vit_b_human", "avion_pretrain", "130 on 8×A5000"),
        ("avion", "vit_b_llm", "avion_pretrain", "260 on 8×A5000"),
        ("avion", "vit_l_llm", "avion_pretrain", "680 on 8×A5000"),
        ("avion", "vit_l_llm", "avion_mir", "–"),
        ("videomae", "videomae_avion", "vit_b_videomae", "583 on 4×A5000, with fine-tuning"),
        ("videomae", "videomae_original", "vit_b_videomae", "995 on 4×A5000, with fine-tuning"),
        ("videomae", "videomae_original", "vit_b_kinetics", "–"),
    ],
)
def test_published_hours_stand_beside_the_recipe_that_took_them(name, run, stage, hours):
    settings = experiment(name)
    recipe = settings.stage(run, stage)
    layout = settings.datasets[recipe.dataset].layout
    item = Training(PlannedStage("r", stage, recipe), layout, None, 1, False)
    lines, _ = table(item)
    assert next(line for line in lines if "published" in line).endswith(hours)
    lines, _ = table(replace(item, layout="folder"))
    assert next(line for line in lines if "published" in line).endswith("–")
