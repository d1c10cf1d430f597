"""Whole evaluations of small random models on clips without videos: figures, bad clips, refusals."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from avion_core.config import EvaluationSettings
from avion_core.data.clips import write_clips, write_questions, write_sentences
from avion_core.data.tokenizer import tokenize
from avion_core.evaluate import runner, subject
from avion_core.evaluate.code import evaluation_code
from avion_core.evaluate.relevancy import relevancy_matrix
from avion_core.evaluate.retrieval import mean_average_precision, ndcg
from avion_core.evaluations import EVALUATIONS
from avion_core.files import read_json
from avion_core.layouts import LAYOUTS
from avion_core.models.architecture import DualEncoderConfig, VideoMAEConfig
from avion_core.models.dual_encoder import DualEncoder
from tests.support.evaluated import TOWER, NoVideos, measure, pixels, save, settings

PLUGIN = Path(__file__).parents[2] / "workflow/plugin"
DUAL_ENCODER = DualEncoderConfig.model_validate(
    {"vision": {**TOWER, "patch_px": 8}, "text": {**TOWER, "context_length": 16}, "embed_dim": 8}
)
VIDEOMAE = VideoMAEConfig(**TOWER, patch_px=8, decoder_width=8, decoder_layers=1, decoder_heads=1)
ACTIONS = ["0:0", "0:1", "1:0", "1:2", "2:2", "2:3"]


def ek100_rows(*video_ids):
    rng = np.random.default_rng(1)
    for row, video in enumerate(video_ids):
        verb, noun = map(int, ACTIONS[rng.integers(len(ACTIONS))].split(":"))
        yield {
            "video_id": video,
            "start_s": float(row),
            "end_s": row + 1.0,
            "texts": [f"do {verb} to {noun}"],
            "verb": verb,
            "noun": noun,
            "nouns": [noun, 4],
            "label": ACTIONS.index(f"{verb}:{noun}"),
        }


def write_ek100(place, *video_ids):
    rows = list(ek100_rows(*video_ids))
    write_clips(place / "clips.arrow", rows)
    distinct = {row["texts"][0]: row for row in rows if not row["video_id"].startswith("torn")}
    write_sentences(
        place / "sentences.arrow",
        [
            {"sentence_id": k, "text": text, "verb": row["verb"], "nouns": row["nouns"]}
            for k, (text, row) in enumerate(distinct.items())
        ],
    )
    (place / "classes.json").write_text(json.dumps({"action": ACTIONS, "label": ["x"] * 6}))
    return rows, list(distinct)


@torch.inference_mode()
def embed(model, rows, frames=4):
    clips = np.concatenate([pixels(row["video_id"], row["start_s"], frames) for row in rows])
    return model.encode_video(model.normalise(torch.from_numpy(clips))).numpy()


def test_retrieval_is_the_metric_of_the_models_embeddings(place):
    model = save(place / "model", "dual_encoder", DUAL_ENCODER)
    rows, texts = write_ek100(place, *(f"P{k:02}" for k in range(20)))
    metrics, outputs = measure(place, "retrieval", tables=("clips", "sentences"), batch_size=3)
    with torch.inference_mode():
        text_embed = model.encode_text(torch.as_tensor(tokenize(texts, 16))).numpy()
    by_text = {row["texts"][0]: row for row in rows}
    own = [by_text[text] for text in texts]
    relevancy = relevancy_matrix(
        *([[row[name] for row in part] for part in (rows, own) for name in ("verb", "nouns")])
    )
    similarity = embed(model, rows) @ text_embed.T
    assert metrics["mAP"]["mean"] == pytest.approx(mean_average_precision(similarity, relevancy).mean)
    assert metrics["nDCG"]["mean"] == pytest.approx(ndcg(similarity, relevancy).mean)
    assert 0 < metrics["chance"]["mAP"]["mean"] < 1
    assert (metrics["clips"], metrics["sentences"], metrics["bad_clips"]) == (20, len(texts), [])
    np.testing.assert_allclose(outputs["video_embed_ND"], embed(model, rows), atol=1e-6)
    back = outputs["scores.mAP.text_to_video"]
    assert np.nanmean(back) == pytest.approx(metrics["mAP"]["text_to_video"])
    with safe_open(place / "out" / "outputs.safetensors", "np") as stored:
        assert json.loads(stored.metadata()["sentences"]) == texts


def test_half_precision_is_that_of_both_towers_and_float32_is_no_other_recipe(place):
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = True  # torch's default
    save(place / "model", "dual_encoder", DUAL_ENCODER)
    write_ek100(place, *(f"P{k:02}" for k in range(20)))
    found = {
        precision: measure(
            place, "retrieval", out=precision, tables=("clips", "sentences"), precision=precision
        )
        for precision in ("fp32", "bf16")
    }
    for name in ("video_embed_ND", "text_embed_MD"):
        full, half = (found[precision][1][name] for precision in ("fp32", "bf16"))
        assert full.dtype == half.dtype == np.float32
        assert 1e-4 < np.abs(full - half).max() < 0.05
    assert not torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction, "sums are in fp32"
    assert "precision" not in settings("retrieval").recipe()
    assert settings("retrieval", precision="bf16").recipe()["precision"] == "bf16"


@pytest.mark.parametrize("tower", ["encode_video", "encode_text"])
def test_outputs_that_are_not_finite_are_an_error(place, monkeypatch, tower):
    """As where fp16 overflows; ranks of NaN would be figures like any other."""
    save(place / "model", "dual_encoder", DUAL_ENCODER)
    write_ek100(place, *(f"P{k:02}" for k in range(4)))
    encode = getattr(DualEncoder, tower)
    monkeypatch.setattr(DualEncoder, tower, lambda *inputs, **options: encode(*inputs, **options) * math.nan)
    with pytest.raises(subject.EvaluationError, match="not finite in fp16; set precision to bf16 or fp32"):
        measure(place, "retrieval", tables=("clips", "sentences"), precision="fp16")


def test_a_batch_that_does_not_fit_the_device_is_one_error_with_what_to_lower(place, monkeypatch):
    save(place / "model", "dual_encoder", DUAL_ENCODER)
    write_ek100(place, *(f"P{k:02}" for k in range(4)))

    def full(model, frames, *, normalize):
        raise torch.OutOfMemoryError(
            "CUDA out of memory. GPU 0 is full. Of the allocated memory much is used"
        )

    monkeypatch.setattr(DualEncoder, "encode_video", full)
    with pytest.raises(subject.EvaluationError, match=r"toy: .*batch_size, now 3\. .* is full\.$"):
        measure(place, "retrieval", tables=("clips", "sentences"), batch_size=3)


def test_a_bad_clip_leaves_the_figures_of_the_others(place):
    save(place / "model", "dual_encoder", DUAL_ENCODER)
    write_ek100(place, "P1", "torn1", "P2", "P3", "torn2")
    with_bad, outputs = measure(place, "retrieval", tables=("clips", "sentences"))
    whole = [row for row in ek100_rows("P1", "torn1", "P2", "P3", "torn2") if row["video_id"][0] == "P"]
    write_clips(place / "clips.arrow", whole)
    without, _ = measure(place, "retrieval", tables=("clips", "sentences"), out="again")
    for metric in ("mAP", "nDCG"):
        assert {name: with_bad[metric][name] for name in without[metric]} == without[metric]
    assert with_bad["chance"] == without["chance"]
    assert [clip["video_id"] for clip in with_bad["bad_clips"]] == ["torn1", "torn2"]
    assert (with_bad["clips"], with_bad["clips_in_table"], without["clips_in_table"]) == (3, 5, 3)
    np.testing.assert_array_equal(outputs["rows_N"], [0, 2, 3])


@pytest.mark.parametrize("change", ["nothing", "moved", "frames", "weights", "sentences", "code"])
def test_an_evaluation_is_repeated_only_where_something_has_changed(place, monkeypatch, change):
    save(place / "model", "dual_encoder", DUAL_ENCODER)
    rows, texts = write_ek100(place, "P1", "P2", "P3")
    tables, changed = ("clips", "sentences"), {}
    first = measure(place, "retrieval", tables=tables)
    NoVideos.seen.clear()
    if change == "moved":
        (place / "data").mkdir()
        for path in [path for path in place.iterdir() if path.name != "data"]:
            path.rename(place / "data" / path.name)
        place = place / "data"
    elif change == "frames":
        changed = {"frames": 2}
    elif change == "weights":
        save(place / "model", "dual_encoder", DUAL_ENCODER.model_copy(update={"embed_dim": 4}))
    elif change == "sentences":
        entry = {"sentence_id": 0, "text": texts[0], "verb": rows[0]["verb"], "nouns": rows[0]["nouns"]}
        write_sentences(place / "sentences.arrow", [entry])
    elif change == "code":
        monkeypatch.setattr(runner, "evaluation_code", lambda kind: "another")
    again = measure(place, "retrieval", tables=tables, **changed)
    assert bool(NoVideos.seen) == (change not in ("nothing", "moved"))
    assert (again[0] == first[0]) == (change in ("nothing", "moved", "code"))


def test_an_evaluation_that_could_not_read_a_clip_is_repeated(place):
    save(place / "model", "dual_encoder", DUAL_ENCODER)
    write_ek100(place, "P1", "torn1", "P2", "P3")
    for _ in range(2):
        NoVideos.seen.clear()
        measure(place, "retrieval", tables=("clips", "sentences"))
        assert NoVideos.seen


def test_without_a_sentence_table_clips_are_found_by_their_own_texts(place):
    save(place / "model", "dual_encoder", DUAL_ENCODER)
    texts = ["wash a cup", "cut bread", "wash a cup", "pour"]
    clip = {"start_s": 0.0, "end_s": 1.0}
    write_clips(
        place / "clips.arrow",
        [{**clip, "video_id": f"v{k}", "texts": [text, "other"]} for k, text in enumerate(texts)],
    )
    metrics, outputs = measure(place, "retrieval", tables=("clips",))
    assert metrics["sentences"] == len(outputs["text_embed_MD"]) == 3
    similarity = outputs["video_embed_ND"] @ outputs["text_embed_MD"].T
    relevancy = np.array([[1, 0, 0], [0, 1, 0], [1, 0, 0], [0, 0, 1]], np.float32)
    assert metrics["mAP"]["mean"] == pytest.approx(mean_average_precision(similarity, relevancy).mean)


def test_a_kind_of_a_plug_in_gets_the_files_of_its_record_by_name(place, monkeypatch):
    record = replace(EVALUATIONS["retrieval"], evaluator="stub_match:Match", files=("clips", "pool"))
    monkeypatch.setitem(EVALUATIONS._records, "match", record)
    monkeypatch.syspath_prepend(PLUGIN)
    save(place / "model", "dual_encoder", DUAL_ENCODER)
    write_ek100(place, "P1", "P2")
    with pytest.raises(ValueError, match="toy: match needs the file 'pool'"):
        measure(place, "match", tables=("clips",))
    pool = [{"sentence_id": k, "text": f"own {k}", "verb": 0, "nouns": []} for k in range(2)]
    write_sentences(place / "pool.arrow", pool)
    metrics, _ = measure(place, "match", tables=("clips", "pool"))
    assert metrics["own_first"] in (0, 50, 100)
    assert "pool" in read_json(place / "out/manifest.json")["inputs"]


def test_the_code_of_a_plug_ins_evaluator_counts_whatever_its_name(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    record = replace(EVALUATIONS["retrieval"], evaluator="runner:Match")
    monkeypatch.setitem(EVALUATIONS._records, "match", record)
    digests = set()
    for number in range(2):
        (tmp_path / "runner.py").write_text(f"class Match: {number}\n")  # as a file of the package
        digests.add(evaluation_code("match"))
    assert len(digests) == 2


def test_a_clip_without_a_text_cannot_be_searched(place):
    save(place / "model", "dual_encoder", DUAL_ENCODER)
    write_clips(place / "clips.arrow", [{"video_id": "v", "start_s": 2.0, "end_s": 3.0, "texts": []}])
    with pytest.raises(ValueError, match=r"clip 0 \(v at 2 s\) has no text"):
        measure(place, "retrieval", tables=("clips",))


def test_actions_give_verbs_and_nouns(place):
    model = save(place / "model", "video_classifier", DUAL_ENCODER, label="action", classes=6)
    rows, _ = write_ek100(place, "torn", *(f"P{k:02}" for k in range(30)))
    rows = rows[1:]
    metrics, outputs = measure(place, "recognition", tables=("clips", "classes"))
    clips = torch.from_numpy(np.concatenate([pixels(row["video_id"], row["start_s"], 4) for row in rows]))
    with torch.inference_mode():
        probabilities = model(model.normalise(clips)).softmax(-1).numpy()
    np.testing.assert_allclose(outputs["probabilities_NK"], probabilities, atol=1e-6)
    sums = [np.stack([probabilities[:, a] for a in group]).sum(0) for group in ([0, 1], [2, 3], [4, 5])]
    right = np.argmax(sums, axis=0) == [row["verb"] for row in rows]
    assert metrics["verb_top1"] == pytest.approx(100 * right.mean())
    right = probabilities.argmax(1) == [row["label"] for row in rows]
    assert metrics["action_top1"] == pytest.approx(100 * right.mean())
    plain = {"verb_top1", "noun_top1", "action_top1"}
    assert set(metrics["chance"]) == plain | {name.replace("top1", "class_mean_top1") for name in plain}
    for name in ("verb", "noun", "action"):
        classes = [(row["verb"], row["noun"]) if name == "action" else row[name] for row in rows]
        rights = outputs[f"scores.{name}_top1"][1:]
        by_class = [
            np.mean([r for r, c in zip(rights, classes, strict=True) if c == k]) for k in set(classes)
        ]
        assert metrics[f"{name}_class_mean_top1"] == pytest.approx(np.mean(by_class))
        assert metrics[f"{name}_class_mean_top1_n"] == len(by_class)
        assert metrics["chance"][f"{name}_class_mean_top1"] == pytest.approx(100 / len(by_class))


def test_verbs_and_nouns_come_from_their_own_heads_where_there_are_any(place):
    heads = {"label": "action", "classes": 6, "further": {"verb": 3, "noun": 5}}
    model = save(place / "model", "video_classifier", DUAL_ENCODER, **heads)
    rows, _ = write_ek100(place, *(f"P{k:02}" for k in range(30)))
    (place / "classes.json").write_text(
        json.dumps({"action": ACTIONS, "verb": ["v"] * 3, "noun": ["n"] * 5, "label": []})
    )
    metrics, outputs = measure(place, "recognition", tables=("clips", "classes"))
    clips = torch.from_numpy(np.concatenate([pixels(row["video_id"], row["start_s"], 4) for row in rows]))
    with torch.inference_mode():
        logits = model(model.normalise(clips)).split([6, 3, 5], dim=1)
    for name, column, own in zip(("action", "verb", "noun"), ("label", "verb", "noun"), logits, strict=True):
        right = own.argmax(1).numpy() == [row[column] for row in rows]
        assert metrics[f"{name}_top1"] == pytest.approx(100 * right.mean())
        stored = outputs["probabilities_NK" if name == "action" else f"{name}_probabilities_NK"]
        np.testing.assert_allclose(stored, own.softmax(-1).numpy(), atol=1e-6)
    (place / "classes.json").write_text(json.dumps({"action": ACTIONS, "verb": ["v"] * 4, "noun": ["n"] * 5}))
    with pytest.raises(ValueError, match=r"3 classes of 'verb'.* has 4"):
        measure(place, "recognition", tables=("clips", "classes"), out="other")


def test_a_label_is_read_from_the_column_that_its_layout_names(place, monkeypatch):
    record = replace(LAYOUTS["ek100"], labels={**LAYOUTS["ek100"].labels, "tool": "noun"})
    monkeypatch.setitem(LAYOUTS._records, "ek100", record)
    save(place / "model", "video_classifier", DUAL_ENCODER, label="tool", classes=4)
    rows, _ = write_ek100(place, *(f"P{k:02}" for k in range(30)))
    (place / "classes.json").write_text(json.dumps({"tool": ["x"] * 4}))
    _, outputs = measure(place, "recognition", tables=("clips", "classes"))
    assert outputs["labels_N"].tolist() == [row["noun"] for row in rows]


def test_a_model_that_does_not_say_how_it_samples_is_refused(place):
    save(place / "model", "dual_encoder", DUAL_ENCODER, seen={"stride": 4})
    write_ek100(place, "P1")
    with pytest.raises(ValueError, match=r"stage 'trained' .* needs sampling$"):
        measure(place, "retrieval", tables=("clips", "sentences"))


def test_probabilities_are_averaged_over_views(place):
    seen = {"sampling": "window", "stride": 3}
    save(place / "model", "videomae_classifier", VIDEOMAE, label="label", classes=6, seen=seen)
    write_ek100(place, "P1", "P2", "P3")
    _, twice = measure(place, "recognition", tables=("clips", "classes"), clips=2)
    view = NoVideos.seen[-1]
    assert (view.sampling, view.stride, view.clips, view.training) == ("window", 3, 2, False)
    _, first = measure(place, "recognition", tables=("clips", "classes"), out="first")
    rows = [{**row, "start_s": row["start_s"] + 1, "end_s": 9.0} for row in ek100_rows("P1", "P2", "P3")]
    write_clips(place / "clips.arrow", rows)
    metrics, second = measure(place, "recognition", tables=("clips", "classes"), out="second")
    mean = (first["probabilities_NK"] + second["probabilities_NK"]) / 2
    np.testing.assert_allclose(twice["probabilities_NK"], mean, atol=1e-6)
    assert set(metrics["chance"]) == {"top1", "top5", "class_mean_top1"} < set(metrics)


def figures_of(metrics):
    """Every figure with the object that it stands in."""
    for name, value in metrics.items():
        if isinstance(value, dict) and name != "chance":
            yield from (
                (value, inner) for inner in value if inner in ("video_to_text", "text_to_video", "mean")
            )
        elif name in metrics["chance"]:
            yield metrics, name


@pytest.mark.parametrize(
    ("kind", "model", "count"),
    [
        ("retrieval", "dual_encoder", 6),
        ("recognition", "video_classifier", 6),
        ("multiple_choice", "dual_encoder", 2),
    ],
)
def test_every_figure_has_its_n_and_an_interval_and_the_figure_with_unreadable_clips(
    place, kind, model, count
):
    classes = {"label": "action", "classes": 6} if kind == "recognition" else {}
    save(place / "model", model, DUAL_ENCODER, **classes)
    names = [f"P{k:02}" for k in range(30)]
    for torn in (False, True):
        if kind == "multiple_choice":
            write_questions(place / "clips.arrow", questions(12, torn=torn))
        else:
            write_ek100(place, *names, *(["torn"] if torn else []))
        tables = ("clips",) if kind == "multiple_choice" else ("clips", "sentences", "classes")
        metrics, _ = measure(place, kind, tables=tables, out=f"torn {torn}")
        assert len(list(figures_of(metrics))) == count
        for group, name in figures_of(metrics):
            low, high = group[f"{name}_interval"]
            assert low <= group[name] <= high and group[f"{name}_n"] > 0
            assert (f"{name}_with_unreadable" in group) == torn
            assert group.get(f"{name}_with_unreadable", 0) <= group[name]


def test_an_unreadable_clip_counts_as_wrong_beside_the_figure(place):
    save(place / "model", "video_classifier", DUAL_ENCODER, label="action", classes=6)
    write_ek100(place, *(f"P{k:02}" for k in range(20)), "torn1", "torn2")
    metrics, _ = measure(place, "recognition", tables=("clips", "classes"))
    assert (metrics["clips"], metrics["clips_in_table"], metrics["videos"]) == (20, 22, 20)
    for name in ("verb_top1", "noun_top1", "action_top1"):
        assert metrics[f"{name}_with_unreadable"] == pytest.approx(metrics[name] * 20 / 22)


@pytest.mark.parametrize(("share", "refused"), [(0.05, True), (0.09, True), (0.1, False)])
def test_too_many_unreadable_clips_publish_no_figure(place, share, refused):
    save(place / "model", "dual_encoder", DUAL_ENCODER)
    write_ek100(place, *(f"P{k:02}" for k in range(18)), "torn1", "torn2")
    tables = ("clips", "sentences")
    if refused:
        with pytest.raises(ValueError, match=r"of 20 clips cannot be read.*max_bad_share.*cut short"):
            measure(place, "retrieval", tables=tables, max_bad_share=share)
        assert not (place / "out").exists()
    else:
        assert measure(place, "retrieval", tables=tables, max_bad_share=share)[0]["clips"] == 18


def test_too_many_questions_lost_to_a_few_clips_publish_no_figure(place):
    """One clip of 9 cannot be read, and 8 of 12 questions offer it."""
    save(place / "model", "dual_encoder", DUAL_ENCODER)
    asked = questions(12)
    for question in asked:
        question["video_ids"] = ["torn" if video == "v4" else video for video in question["video_ids"]]
    write_questions(place / "clips.arrow", asked)
    with pytest.raises(ValueError, match=r"8 of 12 questions .*share of 0\.2 .*max_bad_share.*cut short"):
        measure(place, "multiple_choice", tables=("clips",), max_bad_share=0.2)


def test_unless_told_otherwise_a_twentieth_of_the_clips_may_be_unreadable():
    assert EvaluationSettings.of_kind("retrieval", dataset="toy", stage="trained").max_bad_share == 0.05


def questions(count, *, torn=False):
    """Questions of five choices out of nine clips; a choice of one of them is `torn`."""
    rng = np.random.default_rng(2)
    made = [
        {
            "question_id": str(k),
            "type": 1 + k % 2,
            "text": f"sentence {k % 3}",
            "answer": int(rng.integers(5)),
            "video_ids": [f"v{(k + c) % 9}" for c in range(5)],
            "starts_s": [float((k + c) % 9) for c in range(5)],
            "ends_s": [10.0] * 5,
        }
        for k in range(count)
    ]
    if torn:
        made[3]["video_ids"][4] = "torn"
    return made


def test_questions_are_answered_by_the_nearest_clip(place):
    model = save(place / "model", "dual_encoder", DUAL_ENCODER)
    asked = questions(12, torn=True)
    write_questions(place / "clips.arrow", asked)
    metrics, outputs = measure(place, "multiple_choice", tables=("clips",))
    assert (metrics["questions"], metrics["questions_left_out"], metrics["clips"]) == (11, 1, 9)
    np.testing.assert_array_equal(outputs["questions_Q"], [0, 1, 2, *range(4, 12)])
    right = {1: [], 2: []}
    for question in (q for q in asked if "torn" not in q["video_ids"]):
        pairs = zip(question["video_ids"], question["starts_s"], strict=True)
        clips = embed(model, [{"video_id": video, "start_s": start} for video, start in pairs])
        with torch.inference_mode():
            text = model.encode_text(torch.as_tensor(tokenize([question["text"]], 16))).numpy()[0]
        right[question["type"]].append(int(np.argmax(clips @ text)) == question["answer"])
    assert metrics["inter_video"] == pytest.approx(100 * np.mean(right[1]))
    assert metrics["intra_video"] == pytest.approx(100 * np.mean(right[2]))
    assert metrics["chance"] == {"inter_video": 20, "intra_video": 20}


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_choices_are_compared_by_cosines_or_by_products_of_raw_embeddings(place, similarity):
    model = save(place / "model", "dual_encoder", DUAL_ENCODER)
    asked = questions(4)
    write_questions(place / "clips.arrow", asked)
    _, outputs = measure(place, "multiple_choice", tables=("clips",), similarity=similarity)
    for question, similarity_C in zip(asked, outputs["similarity_QC"], strict=True):
        pairs = zip(question["video_ids"], question["starts_s"], strict=True)
        frames = np.concatenate([pixels(video, start, 4) for video, start in pairs])
        with torch.inference_mode():
            clips = model.vision(model.normalise(torch.from_numpy(frames)))
            text = model.text(torch.as_tensor(tokenize([question["text"]], 16)))
            if similarity == "cosine":
                clips, text = (torch.nn.functional.normalize(one, dim=-1) for one in (clips, text))
        np.testing.assert_allclose(similarity_C, (clips @ text[0]).numpy(), rtol=1e-4, atol=1e-6)


def test_two_runs_are_equal_byte_for_byte_and_say_where_they_came_from(place):
    save(place / "model", "dual_encoder", DUAL_ENCODER)
    write_ek100(place, "P1", "P2", "P3", "P4")
    for out, threads in (("one", 1), ("two", 1)):
        measure(place, "retrieval", tables=("clips", "sentences"), out=out, threads=threads)
    for name in ("metrics.json", "outputs.safetensors", "manifest.json"):
        assert (place / "one" / name).read_bytes() == (place / "two" / name).read_bytes()
    manifest = read_json(place / "one" / "manifest.json")
    assert set(manifest["inputs"]) == {"weights", "model", "chunks", "clips", "sentences"}


def test_more_frames_than_in_training_stretch_the_temporal_embedding(place):
    save(place / "model", "dual_encoder", DUAL_ENCODER)
    write_ek100(place, "P1", "P2", "P3")
    metrics, _ = measure(place, "retrieval", tables=("clips", "sentences"), frames=8)
    assert metrics["frames"] == NoVideos.seen[-1].frames == 8


def test_videomae_takes_the_frames_it_was_trained_with(place):
    save(place / "model", "videomae_classifier", VIDEOMAE, label="label", classes=6)
    write_ek100(place, "P1")
    with pytest.raises(ValueError, match=r"trained with 4 frames .* cannot take 8; set .* to 4"):
        measure(place, "recognition", tables=("clips", "classes"), frames=8)


@pytest.mark.parametrize(
    ("kind", "model", "message"),
    [
        ("recognition", "dual_encoder", "recognition needs a stage with the task 'classification'"),
        (
            "retrieval",
            "video_classifier",
            "retrieval needs a stage with the task 'contrastive' or 'relevancy'",
        ),
        ("multiple_choice", "video_classifier", "multiple_choice needs a stage with the task"),
    ],
)
def test_a_model_of_another_kind_is_refused_before_a_clip_is_read(place, kind, model, message):
    classes = 6 if model == "video_classifier" else 0
    save(place / "model", model, DUAL_ENCODER, label="action" if classes else "", classes=classes)
    write_ek100(place, "P1")
    with pytest.raises(ValueError, match=message):
        measure(place, kind, tables=("clips", "sentences", "classes"))
    assert not NoVideos.seen and not (place / "out").exists()


def test_classes_of_other_data_are_refused_before_a_clip_is_read(place):
    save(place / "model", "video_classifier", DUAL_ENCODER, label="action", classes=5)
    write_ek100(place, "P1")
    with pytest.raises(ValueError, match=r"5 classes of 'action'.* has 6"):
        measure(place, "recognition", tables=("clips", "classes"))
    assert not NoVideos.seen


def test_a_split_where_nothing_can_be_measured_is_an_error(place):
    """EgoMCQ with questions of one type only."""
    save(place / "model", "dual_encoder", DUAL_ENCODER)
    question = {"question_id": "0", "type": 1, "text": "cut", "answer": 0, "ends_s": [9.0] * 5}
    choices = {"video_ids": list("abcde"), "starts_s": [0.0] * 5}
    write_questions(place / "clips.arrow", [{**question, **choices}])
    with pytest.raises(ValueError, match=r"nothing .* to measure 'intra_video'"):
        measure(place, "multiple_choice", tables=("clips",))
    assert not (place / "out" / "metrics.json").exists()
