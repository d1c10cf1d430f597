"""Parts of the report on their own: published rows, graph, charts, gallery choices, number formats."""

from __future__ import annotations

import base64
import io
import re
import xml.etree.ElementTree as ElementTree
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from avion_core.config import EvaluationSettings, TranscodeSettings
from avion_core.config.stage_classes import stage_class
from avion_core.data.chunks import ChunkIndex
from avion_core.data.clips import ClipTable
from avion_core.data.dataset import ClipDataset
from avion_core.evaluate.subject import evaluation_view
from avion_core.media.sample import Sampling
from avion_core.report import formats
from avion_core.report.dag import dag_svg, parse_rulegraph
from avion_core.report.figures import Series, line_chart, thin, ticks
from avion_core.report.gallery import (
    FRAME_PX,
    GAP_PX,
    build_gallery,
    choose_evaluation,
    choose_queries,
    clip_strip,
    jpeg_strip,
    seen_frames,
)
from avion_core.report.page import build_report
from avion_core.report.plan import Dag, ReportError
from avion_core.report.published import PUBLISHED, PublishedRow, published_results
from avion_core.report.results import load_results
from avion_core.report.tables import published_table
from avion_core.report.training_log import read_log
from tests.support.chunked import transcode_all
from tests.support.counted_video import read_number, write_counted

RULEGRAPH = """digraph snakemake_dag {
    graph[bgcolor=white, margin=0];
    node[shape=box, style=rounded, fontname=sans, fontsize=10, penwidth=2];
    edge[penwidth=2, color=grey];
	0[label = "all", color = "0.00 0.6 0.85", style="rounded"];
	1[label = "train", color = "0.33 0.6 0.85", style="rounded"];
	2[label = "transcode_videos", color = "0.50 0.6 0.85", style="rounded"];
	1 -> 0
	2 -> 1
	1 -> 1
}
"""


def rows_of(kind: str, variant: str, layout: str) -> tuple[PublishedRow, ...]:
    table = published_results(kind, variant, layout)
    assert table is not None
    return table.rows


def figures_of(kind: str, variant: str, layout: str, method: str) -> list[dict[str, float]]:
    return [dict(row.figures) for row in rows_of(kind, variant, layout) if row.method == method]


def test_published_figures_are_those_of_the_papers():
    zero_shot = rows_of("retrieval", "zero_shot", "ek100")
    hours = {(row.method, row.backbone): row.gpu_hours for row in zero_shot if row.gpu_hours}
    assert list(hours.values()) == [1536, 130, 1824, 260, 680, 680]
    assert [row.figures["mAP.mean"] for row in zero_shot if row.gpu_hours] == [
        16.6,
        27.4,
        30.9,
        33.2,
        36.4,
        37.6,
    ]
    assert figures_of("retrieval", "zero_shot", "ek100", "EgoVLP, measured by LaViLa") == [
        {"mAP.mean": 22.1, "nDCG.mean": 22.1}
    ]
    assert {"mAP.mean": 51.7, "nDCG.mean": 66.8} in figures_of("retrieval", "in_domain", "ek100", "AVION")
    assert {"verb_top1": 73.0, "noun_top1": 65.4, "action_top1": 54.5} in figures_of(
        "recognition", "action", "ek100", "AVION"
    )
    assert [dict(row.figures) for row in rows_of("recognition", "", "kinetics")] == [
        {"top1": 80.0, "top5": 94.4},
        {"top1": 80.1, "top5": 94.5},
    ]
    assert figures_of("multiple_choice", "", "ego4d", "AVION") == [{"inter_video": 94.5, "intra_video": 61.4}]


def test_the_zoo_row_that_repeats_other_numbers_is_not_a_videomae_result():
    figures = [value for row in rows_of("recognition", "", "kinetics") for value in row.figures.values()]
    assert 67.9 not in figures and 57.6 not in figures


@pytest.mark.parametrize("published", PUBLISHED, ids=lambda table: table.benchmark)
def test_published_rows_are_complete_and_marked(published):
    for row in published.rows:
        assert row.source and set(row.figures) <= set(published.figures)
        settings = stage_class(row.recipe).model_fields if row.recipe else {}
        assert row.recipe.keys() - {"layout"} <= settings.keys()
    assert published_table(published, tag="Another data set").tag == "Another data set"


def test_a_table_of_the_same_layout_is_shown_rather_than_another():
    own, other = (published_results("retrieval", "", layout) for layout in ("ek100", "folder"))
    assert own is other is not None
    assert published_results("retrieval", "no such variant", "ek100") is None


def test_rulegraph_keeps_rules_and_drops_the_target():
    assert parse_rulegraph(RULEGRAPH) == Dag(
        nodes=("train", "transcode_videos"), edges=(("transcode_videos", "train"), ("train", "train"))
    )
    with pytest.raises(ReportError, match="no rule"):
        parse_rulegraph("Building DAG of jobs...")


def places(svg: str) -> dict[str, float]:
    """Upper edge of every node of a drawn graph."""
    root = ElementTree.fromstring(svg)
    boxes = [float(box.attrib["y"]) for box in root.iter("rect")]
    names = [text.text or "" for text in root.iter("text")]
    return dict(zip(names, boxes, strict=True))


def test_every_edge_of_the_graph_points_down():
    edges = [("a", "b"), ("b", "c"), ("a", "c"), ("c", "d"), ("x", "d"), ("a", "d")]
    y = places(dag_svg(Dag(nodes=("d", "c", "x", "b", "a"), edges=tuple(edges))))
    assert all(y[first] < y[second] for first, second in edges)
    assert y["x"] == y["c"]


def test_an_edge_that_follows_from_others_is_left_out():
    edges = (("a", "b"), ("b", "c"), ("c", "d"), ("a", "c"), ("a", "d"))
    svg = dag_svg(Dag(nodes=("a", "b", "c", "d"), edges=edges))
    assert svg.count('class="edge"') == 3


def test_nodes_do_not_overlap_and_lie_inside():
    nodes = tuple(f"rule_{index}" for index in range(9))
    edges = tuple((nodes[0], name) for name in nodes[1:])
    root = ElementTree.fromstring(dag_svg(Dag(nodes=nodes, edges=edges)))
    boxes = [
        {key: float(box.attrib[key]) for key in ("x", "y", "width", "height")} for box in root.iter("rect")
    ]
    for index, one in enumerate(boxes):
        assert one["x"] >= 0 and one["x"] + one["width"] <= float(root.attrib["width"])
        assert one["y"] >= 0 and one["y"] + one["height"] <= float(root.attrib["height"])
        for other in boxes[index + 1 :]:
            left, right = sorted((one, other), key=lambda box: box["x"])
            assert one["y"] != other["y"] or left["x"] + left["width"] < right["x"]


def test_a_circle_of_rules_is_drawn_with_one_edge_backwards():
    edges = (("a", "b"), ("b", "c"), ("c", "a"), ("b", "b"))
    svg = dag_svg(Dag(nodes=("a", "b", "c"), edges=edges))
    y = places(svg)
    assert y["a"] < y["b"] < y["c"]
    assert svg.count('marker-start="url(#arrow)"') == 1 and svg.count('marker-end="url(#arrow)"') == 3


def test_an_edge_to_an_unknown_rule_is_refused():
    with pytest.raises(ReportError, match="'nowhere'"):
        dag_svg(Dag(nodes=("a",), edges=(("a", "nowhere"),)))


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 10, [0, 5, 10]),
        (0.7, 3.4, [0, 1, 2, 3, 4]),
        (10, 600, [0, 200, 400, 600]),
        (-0.2, 0.2, [-0.2, -0.1, 0, 0.1, 0.2]),
    ],
)
def test_ticks_are_round_and_cover(low, high, expected):
    assert ticks(low, high) == pytest.approx(expected)


@pytest.mark.parametrize("value", [0.0, 1e-9, 5.0, -3.0])
def test_ticks_of_a_constant_have_a_range(value):
    found = ticks(value, value)
    assert found[0] <= value < found[-1]


def test_thinning_keeps_the_ends():
    points = [(float(x), 0.0) for x in range(5000)]
    thinned = thin(points)
    assert len(thinned) == 300 and thinned[0] == points[0] and thinned[-1] == points[-1]


def test_a_chart_stays_in_its_frame_and_skips_what_is_not_a_number():
    series = [Series("a", [(0, 1.0), (10, float("nan")), (20, 3.0)]), Series("empty", [])]
    chart = line_chart("loss", series=series, x_label="step", y_label="loss")
    root = ElementTree.fromstring(chart.svg)
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    (line,) = root.iter("polyline")
    points = [tuple(map(float, point.split(","))) for point in line.attrib["points"].split()]
    assert len(points) == 2
    assert all(0 <= x <= width and 0 <= y <= height for x, y in points)
    assert points[1][1] < points[0][1]  # larger is higher
    assert chart.legend == ((0, "a", "3"),)


def test_queries_are_spread_over_sentences_that_some_clip_shows():
    texts = [f"s{index:02}" for index in range(30)]
    relevancy = np.zeros((30, 4), np.float32)
    relevancy[10:, 0] = 1
    relevancy[:10, 1] = 0.5
    chosen = choose_queries(texts, relevancy, 4)
    assert chosen == [12, 17, 22, 27]
    assert choose_queries(texts[:12], relevancy[:12], 4) == [10, 11]


def test_a_strip_shows_the_frames_side_by_side():
    frames = np.stack([np.full((16, 16, 3), value, np.uint8) for value in (20, 90, 160, 230)])
    uri = jpeg_strip(frames)
    image = Image.open(io.BytesIO(base64.b64decode(uri.split(",", 1)[1])))
    assert image.size == (4 * 16 + 3 * 2, 16)
    middles = [np.asarray(image)[8, 8 + 18 * place].mean() for place in range(4)]
    assert middles == pytest.approx([20, 90, 160, 230], abs=8)


def results_of(world):
    plan = world.read_plan()
    from avion_core.config import load_settings

    return load_results(plan, load_settings(plan.config))


def test_the_gallery_shows_the_fine_tuned_retrieval_in_order_of_similarity(world):
    result = choose_evaluation(results_of(world))
    assert (result.run, result.name) == ("llm", "mir")
    gallery = build_gallery(result)
    assert len(gallery.queries) == 12 and gallery.clips == 60
    assert len({query.text for query in gallery.queries}) == 12
    for query in gallery.queries:
        assert len(query.clips) == 5
        verdicts = [clip.verdict for clip in query.clips]
        assert [clip.sentence == query.text for clip in query.clips] == [word == "right" for word in verdicts]
        first = next((rank for rank, word in enumerate(verdicts, 1) if word == "right"), None)
        assert query.first_right_rank == first or (first is None and query.first_right_rank > 5)
        for clip in query.clips:
            assert clip.strip.problem == "" and clip.strip.data_uri.startswith("data:image/jpeg;base64,/9j/")


def make_chunks(folder, *, fps, size=256, frames=60):
    source = write_counted(folder / "a.mp4", frames, width=size, height=size, fps=fps)
    pq.write_table(pa.table({"video_id": ["a"], "path": [str(source)]}), folder / "videos.parquet")
    settings = TranscodeSettings(short_side_px=128, preset="ultrafast", fps=None)
    return ChunkIndex.load(transcode_all(folder, settings))


def test_a_strip_shows_frames_of_the_clip(tmp_path):
    """Frames 15 to 18 of a video whose rate is no whole number of frames a second."""
    fps = Fraction(30000, 1001)
    chunks = make_chunks(tmp_path, fps=fps)
    row = {"video_id": "a", "start_s": float(15 / fps), "end_s": float(19 / fps), "texts": [""]}
    sampling = Sampling(frames=4, sampling="segments", stride=1)
    uri = clip_strip(ClipTable.from_rows([row]), 0, chunks, sampling).data_uri
    pixels_HWC = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))))
    left_px = [place * (FRAME_PX + GAP_PX) for place in range(4)]
    assert [read_number(pixels_HWC[:, left : left + FRAME_PX]) for left in left_px] == [15, 16, 17, 18]


@pytest.mark.parametrize(
    ("frames", "sampling", "stride", "clips", "shown"),
    [
        (4, "segments", 1, 1, [0, 1, 2, 3]),
        (4, "window", 2, 1, [0, 1, 2, 3]),
        (2, "spread_window", 3, 1, [0, 1]),
        (16, "window", 2, 1, [2, 6, 10, 14]),
        (4, "segments", 1, 2, [1, 3, 5, 7]),
    ],
)
def test_a_strip_shows_the_frames_that_the_model_sees(
    tmp_path, monkeypatch, frames, sampling, stride, clips, shown
):
    """As many as it has room for, of those that the evaluation's own data set asks the decoder for."""
    chunks = make_chunks(tmp_path, fps=Fraction(30), size=64)
    table = ClipTable.from_rows([{"video_id": "a", "start_s": 0.2, "end_s": 1.7, "texts": [""]}])
    settings = EvaluationSettings.of_kind(
        "retrieval", dataset="any", stage="any", frames=frames, clips=clips, batch_size=2
    )
    chosen = {"sampling": sampling, "stride": stride}
    view = evaluation_view(settings, SimpleNamespace(**chosen, image_size_px=32))
    asked, read = [], chunks.read
    monkeypatch.setattr(chunks, "read", lambda *a, **options: asked.append(a[1]) or read(*a, **options))
    ClipDataset(table, chunks, view).sample(0, np.random.default_rng(0))
    decoded = sorted(np.concatenate(asked).tolist())
    asked.clear()
    evaluation = SimpleNamespace(
        manifest={"settings": settings.model_dump(mode="json")},
        stages=[SimpleNamespace(settings=SimpleNamespace(**chosen, frames=frames))],
    )
    strip = clip_strip(table, 0, chunks, seen_frames(evaluation))
    assert asked[0].tolist() == [decoded[place] for place in shown]
    assert strip.width_px == len(shown) * (FRAME_PX + GAP_PX) - GAP_PX


def test_a_strip_of_a_manifest_that_says_little_spreads_its_frames():
    stage = SimpleNamespace(settings=SimpleNamespace(sampling="window", stride=3, frames=8))
    assert seen_frames(SimpleNamespace(manifest={}, stages=[stage])) == Sampling(
        frames=8, sampling="window", stride=3
    )
    recorded = {"settings": {"stage": "gone", "frames": 8}}
    even = Sampling(frames=4, sampling="segments", stride=1)
    assert seen_frames(SimpleNamespace(manifest=recorded, stages=[])) == even


def test_relevancy_in_between_is_partly_right(world):
    clips = [
        clip for query in build_gallery(choose_evaluation(results_of(world))).queries for clip in query.clips
    ]
    for query_verb, clip in ((clip.sentence.split()[0], clip) for clip in clips):
        assert clip.relevancy in (0.0, 0.5, 1.0), query_verb
    assert {clip.verdict for clip in clips} >= {"right", "wrong"}


def test_a_clip_that_is_gone_leaves_a_note_instead_of_a_picture(world):
    world.plan["runs"]["llm"]["evaluations"]["mir"]["files"]["chunks"] = str(world.chunks_without("P01_01"))
    gallery = build_gallery(choose_evaluation(results_of(world)))
    clips = [clip for query in gallery.queries for clip in query.clips]
    gone = [clip for clip in clips if clip.video_id == "P01_01"]
    assert gone and all("not in the chunk index" in clip.strip.problem for clip in gone)
    assert all(not clip.strip.problem for clip in clips if clip not in gone)


def test_embeddings_of_other_tables_are_refused(world):
    from safetensors.numpy import load_file, save_file

    path = world.folder("llm", "mir") / "outputs.safetensors"
    tensors = load_file(path)
    save_file({**tensors, "text_embed_MD": tensors["text_embed_MD"][:-1].copy()}, path)
    with pytest.raises(ReportError, match="39 texts, but the split has 40 sentences"):
        build_report(world.read_plan(), out=world.root / "report")


def test_a_resumed_log_counts_a_step_once(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text(
        '{"step": 10, "loss": 3.0, "elapsed_s": 1}\n{"step": 20, "loss": 2.5, "elapsed_s": 2}\n'
        '{"note": "resumed"}\n{"step": 20, "loss": 2.0, "elapsed_s": 3}\n'
    )
    log = read_log(path)
    assert log.curve("loss") == [(10, 3.0), (20, 2.0)] and log.seconds == 3
    path.write_text('{"step": 10, "loss"\n')
    with pytest.raises(ReportError, match=re.escape("train.jsonl, line 1: not JSON")):
        read_log(path)


def test_the_lineage_counts_only_stages_that_trained(world):
    found = {(r.run, r.name): r for r in results_of(world).evaluations}
    assert found["untrained", "zero_shot_mir"].untrained
    assert [stage.task for stage in found["llm", "mir"].lineage] == ["contrastive", "relevancy"]
    assert [stage.task for stage in found["scratch", "kinetics"].lineage] == ["classification"]
    assert found["llm", "mir"].fine_tuned and not found["llm", "zero_shot_mir"].fine_tuned
    assert found["llm", "mir"].added_texts == ("rephrased",)
    assert not found["human", "zero_shot_mir"].added_texts


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"runs": 3}, "runs: Input should be a valid dictionary"),
        ({"titel": "x"}, "titel: Extra inputs are not permitted"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused_by_name(world, change, message):
    world.plan |= change
    with pytest.raises(ReportError, match=message):
        world.read_plan()


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "–"), (48.4, "48 s"), (192, "3 min 12 s"), (7500, "2 h 5 min")]
)
def test_durations(seconds, text):
    assert formats.duration(seconds) == text


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00.0"), (64.24, "1:04.2"), (59.99, "1:00.0")])
def test_clock(seconds, text):
    assert formats.clock(seconds) == text
