"""The page says what ran, by the manifests, and no more than the clips can tell."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from avion_core.config import SOURCE_SETTINGS, load_settings
from avion_core.evaluate.bootstrap import Scores
from avion_core.files import write_json
from avion_core.report.findings import findings, tiles
from avion_core.report.plan import ReportError
from avion_core.report.published import published_results
from avion_core.report.results import load_results
from avion_core.report.tables import published_for, result_title, results_table, stage_table
from tests.unit.report.test_report_page import Page, build


def results_of(world):
    plan = world.read_plan()
    return load_results(plan, load_settings(plan.config))


def row_of(table, title):
    return next(row for row in table.rows if row.cells[0].text == title)


def bold(table):
    places = enumerate(zip(table.rows, (row.cells for row in table.rows), strict=True))
    return {
        (row.cells[0].text, table.columns[n])
        for _, (row, cells) in places
        for n, c in enumerate(cells)
        if c.best
    }


def forget_scores(world, run, name):
    path = world.folder(run, name) / "outputs.safetensors"
    kept = {key: array for key, array in load_file(path).items() if not key.startswith(("scores.", "clip_Q"))}
    save_file(kept, path)


def change_metrics(world, run, name, **changes):
    path = world.folder(run, name) / "metrics.json"
    write_json(path, {**json.loads(path.read_text()), **changes})


def test_settings_that_changed_after_the_training_are_not_what_ran(world):
    world.config["seed"] = 7
    world.config["stages"]["pretrain"] |= {
        "epochs": 99,
        "start_weights": "wieghts/vit.pt",
        "batch_size": 1000,
    }
    html, metrics = build(world)
    text = Page(html).text
    assert "seed 0, code revision" in text
    trained = [stage for stage in results_of(world).stages if stage.run == "human"]
    cells = [cell.text for cell in row_of(stage_table({"": trained}), "pretrain").cells]
    assert {"5", "256", "60"} <= set(cells) and not {"99", "1,000"} & set(cells)
    said = f"{world.folder('human', 'pretrain')}: epochs is 5 in manifest.json, 99 in the configuration"
    assert said in text and "Not made with these settings" in text
    assert said in metrics["provenance"]["differences"]
    assert f"{world.folder('llm', 'pretrain')}: seed is 0 in manifest.json, 7 in the configuration" in text


def test_results_of_this_configuration_have_no_warning(world):
    html, metrics = build(world)
    assert "Not made with these settings" not in html and metrics["provenance"]["differences"] == []


def test_another_provider_since_then_did_not_write_the_text(world):
    world.config["narrate"]["provider"] = "language_model"
    text = Page(build(world)[0]).text
    assert "adding text rephrased by the lexicon beats" in text
    assert "narrate.provider is lexicon in manifest.json, language_model in the configuration" in text


def test_manifests_of_older_versions_are_shown_as_far_as_they_go(world):
    for path in world.root.glob("results/*/*/manifest.json"):
        write_json(path, {"revision": "0123456789ab", "settings": {}, "inputs": {}})
    for path in world.root.glob("results/*/*/metrics.json"):
        metrics = json.loads(path.read_text())
        for part in (metrics, *(value for value in metrics.values() if isinstance(value, dict))):
            for name in [name for name in part if name.endswith(("_n", "_interval"))]:
                del part[name]
        write_json(path, metrics)
    for run, planned in world.config["runs"].items():
        for name in planned["evaluations"]:
            forget_scores(world, run, name)
    text = Page(build(world)[0]).text
    assert "seed not recorded" in text
    assert "manifest.json has no settings that this version can read" in text
    assert "adding text rephrased by an unrecorded provider against human narrations alone" in text
    assert "+4.4 points (not tested: no scores of the same clips)" in text


def imported(world):
    """The untrained run, had it started from somebody's checkpoint."""
    world.change_manifest("untrained", "pretrain", start_weights="weights/avion_like.pt")


def test_a_run_is_named_by_its_weights(world):
    imported(world)
    results = results_of(world)
    row = row_of(results_table(results.named("zero_shot_mir")), "Untrained dual encoder")
    assert not row.reference and row.cells[0].detail == "weights: weights/avion_like.pt, as they are"
    assert not any("untrained" in tile.detail for tile in tiles(results))
    assert not any("untrained" in finding.text for finding in findings(results))
    stage = row_of(stage_table({"": results.stages}), "pretrain")
    assert stage.cells[0].detail == "from weights/avion_like.pt"


def test_the_last_epochs_figure_stands_beside_the_best_ones(world):
    world.change_manifest("human", "pretrain", best_metric="mAP.mean", validate_with="zero_shot_mir")
    path = world.folder("human", "pretrain") / "manifest.json"
    manifest = json.loads(path.read_text())
    best = {"step": 1200, "figures": {"mAP.mean": 0.33219}}
    last = {"step": 2000, "figures": {"mAP.mean": 0.31}}
    manifest["settings"]["validation"] = {"best": best, "last": last}
    write_json(path, manifest)
    stages = [stage for stage in results_of(world).stages if stage.run == "human"]
    assert row_of(stage_table({"": stages}), "pretrain").cells[0].detail == (
        "from a fresh model; weights of step 1,200, the best in mAP.mean on zero_shot_mir: 0.3322, "
        "at the end 0.31"
    )


def test_runs_with_other_settings_do_not_differ_by_the_text_alone(world):
    def said():
        return next(f.text for f in findings(results_of(world)) if "adding text" in f.text)

    assert "also differ" not in said()
    world.change_manifest("llm", "pretrain", learning_rate=1.0, epochs=9)
    assert said().endswith(" These two runs also differ in epochs and learning_rate.")


def test_rephrasing_is_judged_by_the_runs_most_alike(world):
    """The untrained run, trained as `llm` but on human text: its figure is the lower one."""
    changes = {"learning_rate": 1.0, "epochs": 9}
    world.change_manifest("llm", "pretrain", **changes)
    world.change_manifest("untrained", "pretrain", **changes)
    said = next(f.text for f in findings(results_of(world)) if "adding text" in f.text)
    assert "25.7 against 7.1" in said and "also differ" not in said


def test_without_a_checkpoint_the_same_run_is_untrained(world):
    results = results_of(world)
    assert row_of(results_table(results.named("zero_shot_mir")), "Untrained dual encoder").reference
    assert any("untrained" in tile.detail for tile in tiles(results))


def test_imported_weights_alone_are_not_called_zero_shot(world):
    imported(world)
    alone = [result for result in results_of(world).named("zero_shot_mir") if result.run == "untrained"]
    assert result_title(alone) == "Multi-instance retrieval"


def test_training_from_imported_weights_is_not_from_scratch(world):
    world.change_manifest("scratch", "pretrain_videomae", start_weights="videomae.pth")
    assert not any("training from scratch" in finding.text for finding in findings(results_of(world)))


def test_only_what_is_clearly_best_is_bold(world):
    results = results_of(world)
    retrieval = results_table(results.named("zero_shot_mir"))
    assert bold(retrieval) == {
        ("Human and LLM narrations", column) for column in ("mAP", "nDCG", "v→t", "t→v")
    }
    assert bold(results_table(results.named("kinetics"))) == set()


def test_without_scores_nothing_is_bold(world):
    forget_scores(world, "human", "zero_shot_mir")
    assert bold(results_table(results_of(world).named("zero_shot_mir"))) == set()


def test_every_figure_stands_with_its_interval_and_n(world):
    table = results_table(results_of(world).named("zero_shot_mir"))
    row = row_of(table, "Human narrations")
    low, high = (float(bound) for bound in row.cells[1].detail.replace("\u2060", "").split("–"))
    assert low < float(row.cells[1].text) < high
    assert "95 % intervals" in table.note and "n: mAP, nDCG 120; mAP v→t" in table.note


def test_figures_that_use_the_whole_test_set_are_marked(world):
    change_metrics(world, "human", "zero_shot_mir", dual_softmax=True)
    note = results_table(results_of(world).named("zero_shot_mir")).note
    assert "Human narrations: ranked by a dual softmax over all clips and sentences of the test set" in note
    assert "LLM narrations: ranked" not in note


def test_a_figure_whose_interval_reaches_chance_is_not_better_than_chance(world):
    change_metrics(world, "llm", "cls", verb_top1_interval=[17.0, 70.0])
    said = next(f for f in findings(results_of(world)) if f.text.startswith("Action classification"))
    assert "verb top-1: not clearly better than guessing." in said.text and said.tag == "not as hoped"


def test_a_few_clips_make_no_finding(world):
    """Five more clips right, and none less: by the interval alone it would be clear."""
    for run, right in (("videomae", 25), ("scratch", 20)):
        path = world.folder(run, "kinetics") / "outputs.safetensors"
        figures = {"top1": 100.0 * (np.arange(48) < right)}
        save_file(Scores(np.arange(48), np.arange(48), figures, {}).to_arrays(), path)
        change_metrics(world, run, "kinetics", top1=100 * right / 48)
    said = next(f for f in findings(results_of(world)) if "VideoMAE" in f.text)
    assert "shows no clear difference from" in said.text and "from 5 clips)" in said.text
    assert said.tag == "no clear difference"


def test_unreadable_clips_counted_as_wrong_stand_below_the_run(world):
    beside = {f"{name}_top1_with_unreadable": 33.0 for name in ("verb", "noun", "action")}
    change_metrics(world, "llm", "cls", clips=57, clips_in_table=60, **beside)
    rows = results_table(results_of(world).named("cls")).rows
    assert rows[1].cells[0].text == "the same, unreadable clips counted as wrong"
    assert rows[1].cells[0].detail.startswith("3 of 60 clips could not be read")
    assert [cell.text for cell in rows[1].cells[1:4]] == ["33.0"] * 3


@pytest.mark.parametrize(
    ("source", "clips", "tag"),
    [
        ("toy_kitchen", 60, "Another data set"),
        ("local", 16, "Not comparable: 16 of 9,668 clips"),
        ("local", 9668, ""),
    ],
)
def test_a_part_of_a_benchmark_is_not_comparable(world, source, clips, tag):
    change_metrics(world, "llm", "mir", clips=clips)
    official = SOURCE_SETTINGS[source].official
    assert published_for(results_of(world).named("mir"), official=official).tag == tag


@pytest.mark.parametrize(
    ("name", "number", "tag"),
    [
        ("multiple_choice", 30, "Not comparable: 30 of about 39,000 questions"),
        ("multiple_choice", 38_600, ""),  # would be rounded to 39,000
        (
            "recognition",
            19_761,
            "Perhaps not comparable: 19,761 clips here; the papers do not give theirs",
        ),
        ("recognition", 16, "Perhaps not comparable: 16 clips here; the papers do not give theirs"),
    ],
)
def test_no_number_is_claimed_that_is_not_published(name, number, tag):
    layout = {"multiple_choice": "ego4d", "recognition": "kinetics"}[name]
    table = published_results(name, "", layout)
    assert table is not None and table.objection(number) == tag


@pytest.mark.parametrize(
    "change",
    [
        {"inter_video": "52.5"},
        {"inter_video_n": "many"},
        {"inter_video_n": {}},
        {"inter_video_interval": {"low": 40}},
        {"inter_video_interval": ["40", "60"]},
        {"inter_video_interval": 40},
        {"inter_video_interval": [40]},
        {"clips": [60]},
        {"chance": {"inter_video": True, "intra_video": 20}},
        {"bad_clips": [3]},
        {"bad_clips": {"video_id": "P01_09"}},
        {"bad_clips": [{"video_id": "P01_09"}]},
    ],
    ids=str,
)
def test_figures_of_other_types_are_named(world, change):
    change_metrics(world, "llm", "egomcq", **change)
    with pytest.raises(ReportError, match=f"egomcq/metrics.json: .*{next(iter(change))}"):
        build(world)


@pytest.mark.parametrize(
    "line",
    [{"step": None}, {"step": "3"}, {"bad_clips": 3}, {"bad_clips": [3]}, {"bad_clips": [{}]}],
    ids=str,
)
def test_a_log_of_other_types_is_named_with_the_line(world, line):
    with (world.folder("llm", "pretrain") / "train.jsonl").open("a") as log:
        log.write(json.dumps({"step": 99, "loss": 1.0} | line) + "\n")
    with pytest.raises(ReportError, match=r"pretrain/train\.jsonl, line \d+: "):
        build(world)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("quarantine", [3]),
        ("quarantine", [{"video_id": {}, "reason": ["x"]}]),
        ("dropped", 3),
        ("dropped", {"clips": 1, "tables": [3]}),
        ("dropped", {"clips": 1, "tables": {"train": {"no text": "many"}}}),
    ],
)
def test_lists_of_what_was_left_out_of_other_types_are_named(world, name, content):
    path = Path(world.plan["datasets"]["ek100"][name])
    write_json(path, content)
    with pytest.raises(ReportError, match=str(path)):
        build(world)


@pytest.mark.parametrize("name", ["metrics.json", "manifest.json", "outputs.safetensors"])
@pytest.mark.parametrize("content", [b"", b"\x85\xff{}", b"[" * 100_000])
def test_a_damaged_result_is_named(world, name, content):
    path = world.folder("llm", "egomcq") / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"egomcq/{name}: "):
        results_of(world)
