"""Mirrored views, ensembles and dual softmax of retrieval, on clips without videos."""

import numpy as np
import pytest
import torch

from avion_core.data.clips import write_clips, write_sentences
from avion_core.evaluate import runner
from avion_core.evaluate.relevancy import relevancy_matrix
from avion_core.evaluate.retrieval import dual_softmax, mean_average_precision
from avion_core.evaluate.subject import EvaluationError
from avion_core.files import read_json
from tests.support.evaluated import measure, pixels, save, settings
from tests.unit.evaluate.test_evaluate_runner import DUAL_ENCODER, embed, write_ek100

TABLES = ("clips", "sentences")
MEMBER = {"ensemble": [{"run": "other", "evaluation": "mir"}]}


def relevancy_of(rows, texts):
    by_text = {row["texts"][0]: row for row in rows}
    own = [by_text[text] for text in texts]
    parts = [[row[name] for row in part] for part in (rows, own) for name in ("verb", "nouns")]
    return relevancy_matrix(*parts)


def measured_with(place, others, **changes):
    """The evaluation `out`, averaged with the outputs of others; its figures."""
    files = {"chunks": place / "chunks.parquet", **{name: place / f"{name}.arrow" for name in TABLES}}
    files |= {f"ensemble_{k}": place / name / "outputs.safetensors" for k, name in enumerate(others, 1)}
    entry = settings("retrieval", ensemble=MEMBER["ensemble"] * len(others), **changes)
    runner.evaluate(entry, title="toy", model=place / "model", files=files, out=place / "out")
    return read_json(place / "out" / "metrics.json")


def another(place, seed):
    """Another model in the same folder."""

    def change(model):
        torch.manual_seed(seed)
        torch.nn.init.normal_(model.vision.projection)
        torch.nn.init.normal_(model.text.projection)

    return save(place / "model", "dual_encoder", DUAL_ENCODER, change=change)


def test_the_embedding_of_the_mirror_image_is_added(place):
    model = save(place / "model", "dual_encoder", DUAL_ENCODER)
    rows, _ = write_ek100(place, *(f"P{k:02}" for k in range(6)))
    _, outputs = measure(place, "retrieval", tables=TABLES, mirror=True)
    clips = torch.from_numpy(np.concatenate([pixels(row["video_id"], row["start_s"], 4) for row in rows]))
    with torch.inference_mode():
        mirrored = model.encode_video(model.normalise(clips.flip(3))).numpy()
    wanted = embed(model, rows) + mirrored
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    np.testing.assert_allclose(outputs["video_embed_ND"], wanted, atol=1e-6)
    assert np.abs(wanted - embed(model, rows)).max() > 1e-3


def test_an_ensemble_averages_similarities(place):
    rows, texts = write_ek100(place, *(f"P{k:02}" for k in range(20)))
    similarities = []
    for seed, out in enumerate(("first", "second", "third")):
        another(place, seed)
        _, outputs = measure(place, "retrieval", tables=TABLES, out=out)
        similarities.append(outputs["video_embed_ND"] @ outputs["text_embed_MD"].T)
    metrics = measured_with(place, ["first", "second"])
    wanted = mean_average_precision(np.mean(similarities, 0), relevancy_of(rows, texts))
    assert metrics["mAP"]["mean"] == pytest.approx(wanted.mean)
    alone = mean_average_precision(similarities[2], relevancy_of(rows, texts))
    assert metrics["mAP"]["mean"] != pytest.approx(alone.mean, rel=1e-3)


@pytest.mark.parametrize("other", TABLES)
def test_a_member_of_other_clips_or_sentences_is_refused(place, other):
    save(place / "model", "dual_encoder", DUAL_ENCODER)
    rows, texts = write_ek100(place, "P00", "P01", "P02")
    measure(place, "retrieval", tables=TABLES, out="first")
    if other == "clips":
        write_clips(place / "clips.arrow", [*rows[:2], {**rows[2], "video_id": "torn"}])
    else:
        parts = {"verb": rows[0]["verb"], "nouns": rows[0]["nouns"]}
        table = [{"sentence_id": k, "text": f"{text} again", **parts} for k, text in enumerate(texts)]
        write_sentences(place / "sentences.arrow", table)
    with pytest.raises(EvaluationError, match="ensemble: other/mir has other sentences, or could read other"):
        measured_with(place, ["first"])


def test_dual_softmax_ranks_and_marks_the_figures(place):
    another(place, 1)
    rows, texts = write_ek100(place, *(f"P{k:02}" for k in range(20)))
    metrics, outputs = measure(place, "retrieval", tables=TABLES, dual_softmax=True)
    similarity = outputs["video_embed_ND"] @ outputs["text_embed_MD"].T
    told = [row["texts"][0] for row in rows]
    # as EgoVLP does it: a sentence for each clip, and the columns of the sentences afterwards
    each = dual_softmax(similarity[:, [texts.index(text) for text in told]], np.ones(len(told)))
    ranks = each[:, [told.index(text) for text in texts]]
    wanted = mean_average_precision((ranks - ranks.mean()) / ranks.std(), relevancy_of(rows, texts))
    assert metrics["mAP"]["text_to_video"] == pytest.approx(wanted.text_to_video)
    assert metrics["mAP"]["video_to_text"] == pytest.approx(wanted.video_to_text)
    plain = mean_average_precision(similarity, relevancy_of(rows, texts))
    assert wanted.text_to_video != pytest.approx(plain.text_to_video, rel=1e-4)
    assert metrics["dual_softmax"] is True
    assert "dual_softmax" not in measure(place, "retrieval", tables=TABLES, out="plain")[0]
