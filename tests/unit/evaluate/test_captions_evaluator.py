"""Captions of small random narrators on clips without videos."""

import numpy as np
import pytest
import torch

from avion_core.data.clips import write_clips, write_questions
from avion_core.data.tokenizer import decode, tokenize
from avion_core.evaluate.captions import cider, rouge_l
from avion_core.evaluate.subject import EvaluationError
from avion_core.models.architecture import DualEncoderConfig, NarratorConfig
from avion_core.models.generate import TextSampling, clip_seed, generate
from tests.support.evaluated import TOWER, measure, pixels, save, settings
from tests.support.gates import open_gates

VISION = {**TOWER, "patch_px": 8}
LANGUAGE = {**TOWER, "context_length": 12, "positions": 12}
NARRATOR = NarratorConfig.model_validate(
    {"vision": VISION, "language_model": LANGUAGE, "queries": 3, "pool_heads": 2, "pool_head_width": 8}
)
TEXTS = ["#C C picks up the mug", "#C C washes a knife", "#C C cuts the onion", "#C C opens the drawer"]


def write_described(place, *video_ids):
    rows = [
        {"video_id": video, "start_s": float(row), "end_s": row + 1.0, "texts": [TEXTS[row % 4], "do it"]}
        for row, video in enumerate(video_ids)
    ]
    write_clips(place / "clips.arrow", rows)
    return rows


def save_narrator(place):
    return save(place / "model", "narrator", NARRATOR, change=open_gates)


@torch.inference_mode()
def by_hand(model, rows):
    """Caption and mean log-likelihood of each clip, alone."""
    found = []
    for row in rows:
        frames = model.normalise(torch.from_numpy(pixels(row["video_id"], row["start_s"], 4)))
        seeds = [clip_seed(0, row["video_id"], row["start_s"], row["end_s"])]
        made = generate(model, frames, TextSampling(texts=1, max_tokens=12), seeds=seeds)
        words = made.words(begin=49406, end=49407)[0][0]
        tokens = tokenize(row["texts"][:1], 12)
        length = int((tokens != 0).sum())
        logits = model(frames, tokens[:, : length - 1])[0].log_softmax(-1)
        likelihood = logits[torch.arange(length - 1), tokens[0, 1:length]].mean()
        found.append((decode(words), float(likelihood)))
    return zip(*found, strict=True)


def test_figures_are_those_of_the_narrators_own_captions_and_likelihoods(place):
    model = save_narrator(place)
    rows = write_described(place, *"abcdefg")
    metrics, outputs = measure(place, "captions", tables=("clips",), batch_size=3)
    captions, likelihoods = by_hand(model, rows)
    written = [
        decode([token for token in text if 0 < token < 49406]) for text in outputs["tokens_NL"].tolist()
    ]
    assert written == list(captions) and len(set(captions)) == len(rows)
    told = [row["texts"] for row in rows]
    assert metrics["cider"] == pytest.approx(cider(captions, told).mean(), abs=1e-9)
    assert metrics["rouge_l"] == pytest.approx(rouge_l(captions, told).mean(), abs=1e-9)
    np.testing.assert_allclose(outputs["log_likelihood_N"], likelihoods, rtol=1e-5)
    assert metrics["likelihood"] == pytest.approx(np.exp(likelihoods).mean())
    assert metrics["perplexity"] == pytest.approx(np.exp(-np.array(likelihoods)).mean())
    assert metrics["chance"]["likelihood"] == pytest.approx(1 / 49408)
    assert metrics["likelihood_n"] == 7 and len(metrics["likelihood_interval"]) == 2


def test_unreadable_clips_are_left_out_and_counted_as_wrong(place):
    save_narrator(place)
    rows = write_described(place, "a", "torn", "b")
    metrics, outputs = measure(place, "captions", tables=("clips",))
    assert outputs["rows_N"].tolist() == [0, 2]
    assert metrics["likelihood_with_unreadable"] == pytest.approx(metrics["likelihood"] * 2 / 3)
    assert metrics["bad_clips"][0]["video_id"] == rows[1]["video_id"]


def test_of_questions_the_right_choices_are_described(place):
    model = save_narrator(place)
    choices = {"video_ids": list("abcde"), "starts_s": [0.0, 1, 2, 3, 4], "ends_s": [1.0, 2, 3, 4, 5]}
    write_questions(
        place / "clips.arrow",
        [
            {"question_id": str(answer), "type": 1, "text": TEXTS[answer], "answer": answer, **choices}
            for answer in (1, 3)
        ],
    )
    metrics, outputs = measure(place, "captions", tables=("clips",))
    rows = [
        {"video_id": "abcde"[k], "start_s": float(k), "end_s": k + 1.0, "texts": [TEXTS[k]]} for k in (1, 3)
    ]
    np.testing.assert_allclose(outputs["log_likelihood_N"], list(by_hand(model, rows))[1], rtol=1e-5)
    assert metrics["clips"] == 2


def test_misfits_are_one_error(place):
    write_clips(place / "clips.arrow", [{"video_id": "a", "start_s": 0.0, "end_s": 1.0, "texts": [" "]}])
    save_narrator(place)
    with pytest.raises(EvaluationError, match=r"toy: clip 0 \(a at 0 s\) has no text to compare"):
        measure(place, "captions", tables=("clips",))
    text = {**TOWER, "context_length": 16}
    dual = DualEncoderConfig.model_validate({"vision": VISION, "text": text, "embed_dim": 8})
    save(place / "model", "dual_encoder", dual)
    with pytest.raises(EvaluationError, match="captions needs a stage with the task 'captioning'"):
        measure(place, "captions", tables=("clips",))
    with pytest.raises(ValueError, match="captions take one view of a clip"):
        settings("captions", crops=3)
