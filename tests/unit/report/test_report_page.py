"""The page and its metrics as a whole: what a reader sees, what a program reads, what cannot happen."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest

from avion_core.data.clips import CLIPS, SENTENCES, write_clips, write_sentences
from avion_core.data.tables import map_table
from avion_core.files import sha256, write_json
from avion_core.report.page import build_report
from avion_core.report.plan import ReportError

VOID = {"meta", "img", "br", "hr", "input", "link", "path", "rect", "line", "polyline"}
SCRIPT = "<script>alert('x')</script> & \"quoted\""


class Page(HTMLParser):
    """Text, tags and attributes of a page; fails on a tag that closes what is not open."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.pieces: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if not (self.open and self.open[-1] == "style"):
            self.pieces.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.pieces).split())


def build(world) -> tuple[str, dict]:
    out = world.root / "report"
    build_report(world.read_plan(), out=out)
    return (out / "index.html").read_text(), json.loads((out / "metrics.json").read_text())


def test_the_page_says_what_was_found(world):
    page = Page(build(world)[0])
    rephrased = "adding text rephrased by the lexicon beats human narrations alone"
    assert f"{rephrased}: mAP 25.7 against 21.3 %, +4.4 points (95 % interval +4.4 to +4.4)" in page.text
    assert "3.6× the untrained model (7.1) and 4.2× chance (6.1)" in page.text
    assert "lifts mAP from 25.7 to 58.4 %, +32.7 points" in page.text
    assert "which closes 44.0 % of the gap to 100" in page.text
    same = "VideoMAE pretraining shows no clear difference from training from scratch"
    assert f"{same}: top-1 41.7 against 43.8 % of 48 clips, " in page.text


def test_the_page_is_one_well_formed_file_that_loads_nothing(world):
    html = build(world)[0]
    page = Page(html)
    assert html.startswith("<!DOCTYPE html>")
    assert {"script", "link", "iframe", "object", "embed"}.isdisjoint(tag for tag, _ in page.tags)
    for tag, attributes in page.tags:
        for name in ("src", "href", "srcset", "data", "action", "poster"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:image/jpeg;base64,", "#")), (tag, name)
    assert "url(http" not in html and "@import" not in html


def test_headings_step_down_one_level_at_a_time_and_pictures_are_described(world):
    page = Page(build(world)[0])
    levels = [int(tag[1]) for tag, _ in page.tags if tag in ("h1", "h2", "h3", "h4")]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(later <= earlier + 1 for earlier, later in pairwise(levels))
    assert all(attributes["alt"] for tag, attributes in page.tags if tag == "img")
    tables = sum(tag == "table" for tag, _ in page.tags)
    assert tables == sum(tag == "caption" for tag, _ in page.tags)
    ids = [attributes["id"] for _, attributes in page.tags if attributes.get("id")]
    assert len(ids) == len(set(ids))
    targets = {attributes["href"][1:] for tag, attributes in page.tags if tag == "a"}
    assert targets <= set(ids)


def test_text_from_data_is_escaped_everywhere(world):
    run = world.plan["runs"]["llm"]
    run["title"] = f"Run {SCRIPT}"
    world.plan["title"] = SCRIPT
    world.plan["revision"] = f"abc{SCRIPT}"
    planned = run["evaluations"]["mir"]["files"]
    rows = map_table(planned["clips"], CLIPS).to_pylist()
    for row in rows:
        row["texts"] = [f"{SCRIPT} {row['texts'][0]}"]
    write_clips(planned["clips"], rows)
    sentences = map_table(planned["sentences"], SENTENCES).to_pylist()
    for row in sentences:
        row["text"] = f"{SCRIPT} {row['text']}"
    write_sentences(planned["sentences"], sentences)
    table = Path(world.plan["narrations"]["ego4d"]["table"])
    write_clips(table, [{**row, "texts": [SCRIPT, f"{SCRIPT}!"]} for row in rows])
    quarantine = [{"video_id": SCRIPT, "path": SCRIPT, "reason": SCRIPT}]
    Path(world.plan["datasets"]["ek100"]["quarantine"]).write_text(json.dumps(quarantine))
    world.plan["dag"] = {"nodes": [SCRIPT, "b"], "edges": [[SCRIPT, "b"]]}
    world.plan["config"]["runs"]["llm"]["title"] = SCRIPT

    html = build(world)[0]

    assert "<script" not in html and "alert('x')</" not in html
    assert Page(html).text.count("<script>alert('x')</script>") > 30


def test_metrics_hold_every_figure_as_it_was_measured(world):
    metrics = build(world)[1]
    assert set(metrics) == {"runs", "provenance"}
    assert list(metrics["runs"]) == ["untrained", "human", "llm", "videomae", "scratch"]
    mir = metrics["runs"]["llm"]["mir"]
    figures = {"video_to_text": 0.594, "text_to_video": 0.574, "mean": 0.584}
    assert {name: mir["mAP"][name] for name in figures} == figures
    assert set(mir["chance"]["mAP"]) == set(mir["chance"]["nDCG"]) == set(figures)
    beside = {f"{name}_{what}" for name in figures for what in ("n", "interval")}
    assert set(mir["nDCG"]) == set(mir["mAP"]) == set(figures) | beside
    cls = metrics["runs"]["llm"]["cls"]
    assert (cls["verb_top1"], cls["noun_top1"], cls["action_top1"]) == (61.7, 48.3, 35.0)
    assert cls["chance"] == {"verb_top1": 18.3, "noun_top1": 21.7, "action_top1": 5.0}
    assert metrics["runs"]["scratch"]["kinetics"]["top1"] == 43.75
    assert metrics["runs"]["human"]["egomcq"]["intra_video"] == 31.0


def test_provenance_names_revision_config_and_every_manifest(world):
    provenance = build(world)[1]["provenance"]
    assert provenance["revision"] == "0123456789ab"
    expected = {str(path): sha256(path) for path in world.root.glob("results/*/*/manifest.json")}
    assert len(expected) == 19 and provenance["manifests"] == expected
    again = provenance["config"]
    world.plan["config"]["seed"] = 7
    assert build(world)[1]["provenance"]["config"] != again


def test_what_could_not_be_measured_is_null_and_a_dash(world):
    path = world.folder("human", "egomcq") / "metrics.json"
    entry = json.loads(path.read_text())
    path.write_text(json.dumps({**entry, "intra_video": math.nan}))
    html, metrics = build(world)
    assert metrics["runs"]["human"]["egomcq"]["intra_video"] is None
    assert "nan" not in Page(html).text.lower().split()


@pytest.mark.parametrize(
    "missing",
    [
        "results/llm/mir/metrics.json",
        "results/llm/mir/outputs.safetensors",
        "results/llm/cls/manifest.json",
        "results/human/pretrain/train.jsonl",
        "results/scratch/finetune_videomae/model.json",
        "data/ek100/quarantine.json",
        "data/ek100/clips/sentences_test.arrow",
        "data/ego4d/narrations/lexicon/train.arrow",
        "data/ego4d/narrations/lexicon/summary.json",
    ],
)
def test_a_missing_file_is_named_and_nothing_is_written(world, missing):
    (world.root / missing).unlink()
    with pytest.raises(ReportError, match=missing):
        build(world)
    assert not (world.root / "report").exists()


def test_an_evaluation_without_its_figures_is_named(world):
    path = world.folder("llm", "cls") / "metrics.json"
    path.write_text(json.dumps({"verb_top1": 3.0, "chance": {}}))
    with pytest.raises(
        ReportError, match=r"llm/cls/metrics\.json: recognition needs the figures verb_top1, "
    ):
        build(world)


def test_left_out_videos_and_clips_are_listed_with_reasons(world):
    text = Page(build(world)[0]).text
    assert "ek100 P01_07 no video stream" in text
    assert "ek100 validation the video is not in the chunks 4" in text
    assert "1 (1 validation)" in text  # of the two videos that lost clips one is quarantined
    assert "Dropped from this table: 4 entries, with 1 quarantined video (see Data)." in text
    assert "clips/dropped.csv" in text
    assert "Human and LLM narrations: cls P01_09 the chunk is gone" in text


def test_counts_of_older_versions_name_no_table(world):
    path = Path(world.plan["datasets"]["ek100"]["dropped"])
    path.with_name("dropped.csv").unlink()
    path.write_text(json.dumps({"clips": 4, "reasons": {"no chunks": 4}}))
    assert "ek100 – no chunks 4" in Page(build(world)[0]).text


def test_a_language_models_bill_and_dead_letters_are_shown(world):
    bill = {"answers": 3, "lost": 2, "requests": 5, "input_tokens": 3000, "output_tokens": 600, "usd": 0.75}
    reasons = {"cut off <b>": 3, "no sentence": 1}
    summary = {"texts": 40, "other_subject": 7, "reasons": reasons, "bill": {"a-model": bill}}
    write_json(world.plan["narrations"]["ego4d"]["summary"], summary)
    text = Page(build(world)[0]).text
    assert "a-model 5 2 3,000 0 600 0.7500" in text
    assert "cut off <b> 3 7.5 % no sentence 1 2.5 %" in text
    assert "dead_letters.csv. Left out: 7 sentences whose subject is not" in text


def test_a_folder_of_ones_own_videos_has_no_classes(world):
    """Without a sentence table the ranked sentences come from the outputs, relevancy from equal text."""
    from safetensors.numpy import load_file, save_file

    for planned in (
        world.plan["runs"][run]["evaluations"]["zero_shot_mir"] for run in ("untrained", "human")
    ):
        del planned["files"]["sentences"]
    planned = world.plan["runs"]["llm"]["evaluations"]["mir"]
    del planned["files"]["sentences"]
    outputs = Path(planned["folder"]) / "outputs.safetensors"
    texts = [text for text, _, _ in world.sentences]
    save_file(load_file(outputs), outputs, metadata={"sentences": json.dumps(texts)})
    table = map_table(planned["files"]["clips"], CLIPS)
    write_clips(planned["files"]["clips"], table.drop_columns(["verb", "noun", "nouns"]))
    text = Page(build(world)[0]).text
    assert "partly (0" not in text and "1 right" in text


def test_training_on_the_measured_data_set_alone_is_called_neither_zero_shot_nor_fine_tuned(world):
    for run in ("human", "llm"):
        world.change_manifest(run, "pretrain", dataset="ek100")
    text = Page(build(world)[0]).text
    assert "Zero-shot multi-instance retrieval Ours" not in text
    assert "Multi-instance retrieval, best with “Human and LLM narrations”: mAP 25.7" in text


def test_equal_results_make_equal_files(world):
    first = build(world)
    assert build(world) == first


def test_the_report_needs_no_torch():
    code = "import sys, avion_core.report.page; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_narrated_clips_are_shown_with_their_texts_and_what_filters_left_out(world):
    planned = dict(world.plan["narrations"]["ego4d"])
    place = {name: world.clips[0][name] for name in ("video_id", "start_s", "end_s")}
    example = {**place, "text": "a mug <b>", "human": "#C C takes a mug"}
    summary = {"texts": 40, "windows": 3, "other_subject": 0, "reasons": {}, "bill": {}}
    filters = {"written": 200, "filtered": {"no tag": 50}, "examples": {"no tag": [example]}}
    write_json(Path(planned["summary"]), summary | filters)
    world.plan["narrations"] = {}
    world.plan["narrated"] = {"ego4d": {**planned, "provider": "vision", "looks": True}}
    html = build(world)[0]
    text = Page(html).text
    assert "Texts left out" in text and "no tag 50 25.0" in text.replace("\N{NO-BREAK SPACE}", " ")
    assert "a mug <b>" in text and "people wrote: #C C takes a mug" in text
    section = html[html.index('id="narrations"') :].partition("</section>")[0]
    assert section.count('<img src="data:image/jpeg;base64,') + section.count("cannot be shown") == 7


def test_rephrased_texts_that_filters_left_out_are_shown_with_the_clip_and_the_cosine(world):
    path = Path(world.plan["narrations"]["ego4d"]["summary"])
    place = {name: world.clips[0][name] for name in ("video_id", "start_s", "end_s")}
    example = {**place, "text": "open <b>", "human": "#C C takes a mug", "cosine": 0.0321}
    filters = {"written": 200, "filtered": {"far": 50}, "examples": {"far": [example]}}
    write_json(path, json.loads(path.read_text()) | filters | {"cosines": {"0.05": 0.0123, "0.5": 0.25}})
    html = build(world)[0]
    text = Page(html).text.replace("\N{NO-BREAK SPACE}", " ")
    assert "Of 200 texts of all clips, by narrate.filters; each under its first reason." in text.replace(
        "`", ""
    )
    assert "open <b> (cosine 0.032) people wrote: #C C takes a mug" in text
    assert "5.0 % 0.012 50.0 % 0.250" in text
    section = html[html.index('id="narrations"') :].partition("</section>")[0]
    assert section.count('<img src="data:image/jpeg;base64,') + section.count("cannot be shown") == 1
