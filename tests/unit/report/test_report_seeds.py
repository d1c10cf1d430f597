"""The report of runs with several seeds: one row, means and differences, no more than the seeds can tell."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from avion_core.files import write_json
from avion_core.report.compare import gap
from avion_core.report.differences import differences_table
from avion_core.report.figures import Series, line_chart, mean_series
from avion_core.report.findings import findings, tiles
from avion_core.report.plan import ReportError
from avion_core.report.seeds import mean_metrics
from avion_core.report.tables import results_table
from tests.unit.report.test_report_page import Page, build
from tests.unit.report.test_report_truth import bold, results_of, row_of


def repeat(world: Any, run: str, further: dict[int, float]) -> None:
    """Give a run further seeds, whose zero-shot mAP are these; they copy the rest from seed 0."""
    world.config["runs"][run]["seeds"] = [0, *further]
    for seed, mean_map in further.items():
        folder = f"{run}/seed-{seed}"
        names = [*world.config["runs"][run]["stages"], *world.config["runs"][run]["evaluations"]]
        for name in names:
            shutil.copytree(world.folder(run, name), world.folder(folder, name))
        path = world.folder(folder, "zero_shot_mir") / "metrics.json"
        metrics = json.loads(path.read_text())
        metrics["mAP"]["mean"] = mean_map
        write_json(path, metrics)
        for stage in world.config["runs"][run]["stages"]:
            change_seed(world.folder(folder, stage), seed)
        own = json.dumps(world.plan["runs"][run]).replace(f"results/{run}/", f"results/{folder}/")
        world.plan["runs"][folder] = json.loads(own)


def change_seed(folder: Path, seed: int) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["settings"]["seed"] = seed
    write_json(folder / "manifest.json", manifest)


def named(world: Any, run: str, name: str = "zero_shot_mir") -> Any:
    return next(result for result in results_of(world).named(name) if result.run == run)


def test_a_run_of_three_seeds_is_one_row_with_its_mean(world):
    repeat(world, "human", {1: 0.233, 2: 0.253})
    table = results_table(results_of(world).named("zero_shot_mir"))
    titles = [row.cells[0].text for row in table.rows]
    assert titles.count("Human narrations") == 1
    cell = row_of(table, "Human narrations").cells[1]
    assert cell.text == "23.3"
    assert cell.detail.replace("\u2060", "") == "±2.0, 18.3–28.3"  # 23.3 ± 4.3027 · 2 / √3
    assert cell.error_bar == pytest.approx((0.1833, 0.0994), abs=1e-3)
    assert "Mean of 3 seeds" in table.note and "covers the seed and not the clips" in table.note
    single = row_of(table, "Human and LLM narrations").cells[1]
    assert single.text == "25.7" and "±" not in single.detail and single.error_bar is None


def test_the_page_and_its_figures_name_every_seed(world):
    repeat(world, "human", {1: 0.233, 2: 0.253})
    html, metrics = build(world)
    text = Page(html).text
    assert "5 runs," in text and "seeds 0, 1 and 2" in text
    assert "A figure with ± is a mean over several seeds" in text
    assert "Human narrations (human/seed-2)" in text and "human/seed-2/pretrain" in text
    figures = metrics["runs"]["human"]["zero_shot_mir"]
    assert list(metrics["runs"]) == ["untrained", "human", "llm", "videomae", "scratch"]
    assert figures["mAP"]["mean"] == pytest.approx(0.233)
    assert figures["mAP"]["mean_deviation"] == pytest.approx(0.02)
    assert [figures["seeds"][seed]["mAP"]["mean"] for seed in "012"] == [0.213, 0.233, 0.253]
    assert any("human/seed-2/egomcq" in path for path in metrics["provenance"]["manifests"])
    assert metrics["provenance"]["differences"] == []


def test_a_page_of_single_seeds_has_nothing_of_it(world):
    html = build(world)[0]
    assert "Differences between runs" not in html and "several seeds" not in html and "±" not in html
    assert "They do not cover the seed: each figure comes from one training." in " ".join(html.split())
    assert "<polygon" not in html.partition('id="curves"')[2].partition("</section>")[0] and "<i " not in html


def test_the_same_seeds_decide_what_is_beyond_chance(world):
    """Seed by seed +4.4, +4.6, +4.2: beyond chance, although the runs overlap."""
    repeat(world, "human", {1: 0.233, 2: 0.253})
    repeat(world, "llm", {1: 0.279, 2: 0.295})
    found = gap(named(world, "llm"), named(world, "human"), "mAP.mean")
    assert (found.clear, found.over, found.word) == (True, "3 seeds, paired", "beats")
    assert str(found) == "+4.4 points (95 % interval over 3 seeds, paired: +3.9 to +4.9)"
    table = differences_table(results_of(world).named("zero_shot_mir"))
    row = next(row for row in table.rows if "against “Human narrations”" in row.cells[0].detail)
    assert row.cells[1].text == "+4.4" and row.cells[1].detail == "+3.9 to +4.9: beyond chance"
    assert row.cells[-1].text == "3 seeds, paired"
    said = next(finding for finding in findings(results_of(world)) if "adding text" in finding.text)
    words = said.text.replace("\N{NO-BREAK SPACE}", " ")
    assert "beats human narrations alone: mAP 27.7 against 23.3 %" in words and not said.tag
    assert ("Human and LLM narrations", "mAP") not in bold(
        results_table(results_of(world).named("zero_shot_mir"))
    ), "the untrained run has a single seed, so nothing is tested against it"


def test_what_varies_more_than_it_differs_is_not_beyond_chance(world):
    repeat(world, "human", {1: 0.303, 2: 0.153})
    repeat(world, "llm", {1: 0.207, 2: 0.257})
    found = gap(named(world, "llm"), named(world, "human"), "mAP.mean")
    assert found.clear is False and found.word == "shows no clear difference from"
    text = Page(build(world)[0]).text
    assert "Differences between runs" in text and ": not beyond chance" in text


def test_other_seeds_are_independent_samples(world):
    repeat(world, "human", {1: 0.233})
    repeat(world, "llm", {1: 0.277, 2: 0.267})
    found = gap(named(world, "llm"), named(world, "human"), "mAP.mean")
    assert found.over == "3 and 2 seeds" and found.clear is not None


def test_a_single_training_is_not_tested_against_a_mean(world):
    repeat(world, "human", {1: 0.233})
    found = gap(named(world, "llm"), named(world, "human"), "mAP.mean")
    assert (found.clear, found.low, found.word) == (None, None, "against")
    assert "not tested: one of the two runs has a single seed" in Page(build(world)[0]).text


def test_two_single_trainings_are_still_tested_over_the_clips(world):
    repeat(world, "human", {1: 0.233})
    table = differences_table(results_of(world).named("zero_shot_mir"))
    row = next(
        row
        for row in table.rows
        if "against “Untrained" in row.cells[0].detail and "LLM" in row.cells[0].text
    )
    assert row.cells[-1].text == "clips, one seed each" and row.reference


def test_one_named_seed_is_a_single_training(world):
    world.config["runs"]["human"]["seeds"] = [0]
    assert named(world, "human").seeds == {} and "Differences between runs" not in build(world)[0]


def test_the_tile_of_a_mean_has_its_deviation(world):
    repeat(world, "llm", {1: 0.277, 2: 0.267})
    tile = next(tile for tile in tiles(results_of(world)) if tile.label.startswith("Zero-shot"))
    assert tile.value.startswith("26.7") and tile.detail.startswith("±1.0, ")


@pytest.mark.parametrize("missing", ["pretrain/train.jsonl", "pretrain/manifest.json", "egomcq/metrics.json"])
def test_a_seed_whose_results_are_missing_is_named(world, missing):
    repeat(world, "human", {1: 0.233})
    (world.root / "results/human/seed-1" / missing).unlink()
    with pytest.raises(ReportError, match=f"human/seed-1/{missing}: missing"):
        build(world)


def test_curves_of_several_seeds_are_their_mean_in_a_band():
    curves = [[(10, 4.0), (20, 2.0), (30, 1.0)], [(10, 6.0), (20, 4.0)]]
    series = mean_series("run", curves)
    assert series == Series(
        "run", points=[(10, 5.0), (20, 3.0)], low=[(10, 4.0), (20, 2.0)], high=[(10, 6.0), (20, 4.0)]
    )
    assert mean_series("run", curves[:1]) == Series("run", curves[0])
    chart = line_chart("loss", series=[series], x_label="step", y_label="loss")
    assert chart.svg.count("<polygon") == 1 and ">6</text>" in chart.svg, "the axis holds the band"
    assert chart.legend == ((0, "run", "3"),)


def test_a_mark_of_every_seed_is_kept():
    figures = {"top1": 50.0, "chance": {"top1": 1.0}}
    marked = mean_metrics({seed: {**figures, "dual_softmax": True} for seed in range(2)}, ["top1"])
    assert marked["dual_softmax"] is True
    assert "dual_softmax" not in mean_metrics(dict.fromkeys(range(2), figures), ["top1"])
