"""Zero-shot classes: naive twins of the metrics, and the evaluator on small random models."""

import json

import numpy as np
import pytest
import torch

from avion_core.data.clips import write_clips
from avion_core.data.tokenizer import tokenize
from avion_core.evaluate import subject
from avion_core.evaluate.bootstrap import Scores
from avion_core.evaluate.recognition import class_right
from avion_core.evaluate.zero_shot_classes import (
    chance_precision,
    class_embeddings,
    class_sentences,
    precisions,
    probabilities,
)
from avion_core.models.architecture import DualEncoderConfig
from avion_core.models.store import load_model
from tests.support.evaluated import TOWER, NoVideos, computed_batches, measure, pixels, save

NAMES = ["open box", "close box", "wash cup"]


def cases():
    rng = np.random.default_rng(0)
    for _ in range(200):
        clips, classes = rng.integers(1, 30), rng.integers(1, 9)
        scores_NK = rng.normal(size=(clips, classes))
        if rng.random() < 0.3:  # ties
            scores_NK = scores_NK.round()
        yield rng, scores_NK


def naive_average_precision(scores, labels):
    """Mean over the positives of the precision among all that score as high or higher; None without any."""
    found = [
        sum(labels[j] for j in range(len(scores)) if scores[j] >= scores[i])
        / sum(scores[j] >= scores[i] for j in range(len(scores)))
        for i in range(len(scores))
        if labels[i]
    ]
    return sum(found) / len(found) if found else None


def test_average_precision_equals_its_naive_twin_with_unlabelled_clips_and_absent_classes():
    for rng, scores_NK in cases():
        labels_NK = rng.random(scores_NK.shape) < rng.choice([0.05, 0.3])
        labels_NK[rng.integers(len(labels_NK)), rng.integers(labels_NK.shape[1])] = True
        ranked_NK = np.where(labels_NK.any(1, keepdims=True), scores_NK, -np.inf)  # as the original does
        expected = {}
        for k in range(scores_NK.shape[1]):
            value = naive_average_precision(ranked_NK[:, k].tolist(), labels_NK[:, k].tolist())
            if value is not None:
                expected[k] = value
        assert precisions(scores_NK, labels_NK).average() == pytest.approx(expected)
        alike = precisions(np.zeros_like(scores_NK), labels_NK).average().values()
        assert np.mean(list(alike)) == pytest.approx(chance_precision(labels_NK))


def test_class_mean_beside_top_1_equals_its_naive_twin():
    for rng, scores_NK in cases():
        labels_N = rng.integers(scores_NK.shape[1], size=len(scores_NK))
        right_N = class_right(scores_NK, labels_N)["top1"]
        by_class: dict = {}
        for scores, label in zip(scores_NK.tolist(), labels_N.tolist(), strict=True):
            first = all(scores[label] > other for k, other in enumerate(scores) if k != label)
            by_class.setdefault(label, []).append(100.0 * first)
        clips = np.arange(len(labels_N))
        both = {"top1": 100.0 * right_N, "class_mean_top1": 100.0 * right_N}
        scores = Scores(clips, clips, both, {"class_mean_top1": labels_N})
        every = [one for own in by_class.values() for one in own]
        assert scores.values()["top1"] == pytest.approx(np.mean(every))
        means = [np.mean(own) for own in by_class.values()]
        assert scores.values()["class_mean_top1"] == pytest.approx(np.mean(means))
        assert scores.counts()["class_mean_top1"] == len(means)


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        (np.zeros((2, 3)), np.zeros((2, 2), bool), "do not fit"),
        (np.full((2, 2), np.nan), np.ones((2, 2), bool), "not a finite"),
        (np.zeros((2, 2)), np.zeros((2, 2), bool), "no clip has a label"),
    ],
)
def test_what_cannot_be_ranked_is_refused(scores, labels, message):
    with pytest.raises(ValueError, match=message):
        precisions(scores, labels)


def test_a_class_is_the_direction_between_its_sentences():
    """Two sentences at right angles, one of them long; the second class has none."""
    found = class_embeddings(np.array([[5.0, 0.0], [0.0, 1.0]]), np.array([0, 0]), 2)
    np.testing.assert_allclose(found, [[0.5**0.5, 0.5**0.5], [0, 0]], rtol=1e-6)


def test_sentences_of_a_class_are_distinct_and_names_may_have_braces():
    assert class_sentences(["a {x}", "a {x}"], ["#C C {}", "#C {}"]) == ["#C C a {x}", "#C a {x}"]


DUAL_ENCODER = DualEncoderConfig.model_validate(
    {"vision": {**TOWER, "patch_px": 8}, "text": {**TOWER, "context_length": 16}, "embed_dim": 8}
)


@pytest.fixture
def place(place):
    """With three classes and a model."""
    (place / "classes.json").write_text(json.dumps({"verb": ["x"], "label": NAMES}))
    save(place / "model", "dual_encoder", DUAL_ENCODER)
    return place


def clip_rows(*, several=False, torn=False):
    rows = [
        {"video_id": f"P{k}", "start_s": float(k), "end_s": k + 1.0, "texts": [f"do {k % 4}"], "label": k % 3}
        for k in range(8)
    ]
    if torn:
        rows[2]["video_id"] = "torn"
    if several:
        labels = [[0], [0, 2], [2], [], [0], [2], [0, 2], []]
        rows = [
            {**{name: row[name] for name in row if name != "label"}, "labels": own, "texts": []}
            for row, own in zip(rows, labels, strict=True)
        ]
    return rows


def cosines(model, sentences, *, views=1):
    """V,N,K of the eight clips, one by one."""
    with torch.inference_mode():
        classes = []
        for own in sentences:
            text = model.encode_text(torch.as_tensor(tokenize(own, 16)))
            classes.append(torch.nn.functional.normalize(text.mean(0), dim=-1))
        found = [
            [
                model.encode_video(model.normalise(torch.from_numpy(pixels(f"P{k}", k + v, 4))))[0]
                for k in range(8)
            ]
            for v in range(views)
        ]
    return np.array([[[float(one @ other) for other in classes] for one in clips] for clips in found])


def loaded(place):
    return load_model(place / "model")[0].eval()


TEMPLATES = ("#C C {}", "#C {}")


def test_clips_are_scored_by_the_sentences_of_the_class_names(place):
    write_clips(place / "clips.arrow", clip_rows())
    metrics, outputs = measure(place, "zero_shot_classes", tables=("clips", "classes"), templates=TEMPLATES)
    sentences = [[template.replace("{}", name) for template in TEMPLATES] for name in NAMES]
    scores_NK = cosines(loaded(place), sentences)[0]
    np.testing.assert_allclose(outputs["scores_NK"], scores_NK, atol=1e-5)
    labels = np.arange(8) % 3
    assert metrics["top1"] == pytest.approx(100 * np.mean(scores_NK.argmax(1) == labels))
    assert metrics["top5"] == 100 and metrics["class_mean_top1_n"] == 3
    assert metrics["chance"]["class_mean_top1"] == pytest.approx(100 / 3)
    assert (metrics["classes"], metrics["clips"], metrics["clips_in_table"]) == (3, 8, 8)
    assert metrics["top1_interval"][0] <= metrics["top1"] <= metrics["top1_interval"][1]


@pytest.mark.parametrize("pool", ["max", "mean"])
def test_several_views_are_pooled_and_then_become_probabilities(place, pool):
    write_clips(place / "clips.arrow", clip_rows())
    _, outputs = measure(place, "zero_shot_classes", tables=("clips", "classes"), clips=3, pool=pool)
    views_VNK = cosines(loaded(place), [[name] for name in NAMES], views=3)
    pooled_NK = views_VNK.max(0) if pool == "max" else views_VNK.mean(0)
    np.testing.assert_allclose(outputs["scores_NK"], probabilities(pooled_NK), atol=1e-5)
    _, plain = measure(
        place, "zero_shot_classes", tables=("clips", "classes"), clips=3, pool=pool, softmax=False, out="2"
    )
    np.testing.assert_allclose(plain["scores_NK"], pooled_NK, atol=1e-5)


def test_several_labels_are_measured_by_map_and_unreadable_clips_count_as_wrong_beside_it(place):
    write_clips(place / "clips.arrow", clip_rows(several=True, torn=True))
    metrics, outputs = measure(place, "zero_shot_classes", tables=("clips", "classes"))
    ranked = precisions(outputs["scores_NK"], outputs["labels_NK"].astype(bool))
    assert metrics["mAP"] == pytest.approx(100 * np.mean(list(ranked.average().values())))
    assert (metrics["mAP_n"], metrics["clips"], metrics["clips_without_labels"]) == (2, 7, 2)
    averages = ranked.average()
    with_it = (averages[0] + averages[2] * 3 / 4) / 2  # class 2 has four clips, one is torn
    assert metrics["mAP_with_unreadable"] == pytest.approx(100 * with_it)
    assert metrics["chance"]["mAP"] == pytest.approx(100 * (4 / 5 + 3 / 5) / 2)
    assert "top1" not in metrics


def test_narrations_are_the_sentences_of_actions_and_a_class_without_any_is_never_chosen(place):
    write_clips(place / "clips.arrow", clip_rows()[:2])
    train = [{**row, "texts": ["do more"]} for row in clip_rows()[:1]]
    write_clips(place / "narrations.arrow", train)
    metrics, outputs = measure(place, "zero_shot_classes", tables=("clips", "classes", "narrations"))
    assert (metrics["classes"], metrics["classes_without_sentences"]) == (3, 1)
    assert (outputs["scores_NK"][:, 2] == -1).all()
    expected = cosines(loaded(place), [["do more", "do 0"], ["do 1"]])[0, :2]
    np.testing.assert_allclose(outputs["scores_NK"][:, :2], expected, atol=1e-5)


def test_the_evaluations_own_sampling_comes_before_the_stages(place):
    write_clips(place / "clips.arrow", clip_rows())
    tables = ("clips", "classes")
    measure(place, "zero_shot_classes", tables=tables, sampling="padded_window", stride=2)
    assert (NoVideos.seen[-1].sampling, NoVideos.seen[-1].stride) == ("padded_window", 2)
    measure(place, "zero_shot_classes", tables=tables, out="2")
    assert (NoVideos.seen[-1].sampling, NoVideos.seen[-1].stride) == ("segments", 4)


def test_scores_are_not_rounded_to_the_models_precision(place):
    """Half precision has few numbers, and equal scores count as wrong."""
    write_clips(place / "clips.arrow", clip_rows())
    _, outputs = measure(place, "zero_shot_classes", tables=("clips", "classes"), precision="bf16")
    scores_NK = torch.from_numpy(outputs["scores_NK"])
    assert (scores_NK != scores_NK.bfloat16().float()).float().mean() > 0.9


WRONG = {
    "a class list of another label": ({"verb": NAMES}, clip_rows(), "no classes of the column 'label'"),
    "no classes": ({"label": []}, clip_rows(), "no classes of the column 'label'"),
    "a short list": (
        {"label": NAMES[:2]},
        clip_rows(),
        "go from 0 to 2, but .*classes.json lists 2; annotate",
    ),
    "an unknown class": (
        {"label": NAMES},
        [{**row, "labels": [-1]} for row in clip_rows(several=True)],
        "go from -1 to -1, but .* lists 3",
    ),
    "no labels": (
        {"label": NAMES},
        [{**row, "labels": []} for row in clip_rows(several=True)],
        r"no clip in .*clips\.arrow has a class",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_labels_that_do_not_fit_are_refused_before_a_clip_is_read(place, monkeypatch, name):
    classes, rows, message = WRONG[name]
    computed = computed_batches(monkeypatch)
    write_clips(place / "clips.arrow", rows)
    (place / "classes.json").write_text(json.dumps(classes))
    with pytest.raises(subject.EvaluationError, match=message):
        measure(place, "zero_shot_classes", tables=("clips", "classes"))
    assert computed == []
