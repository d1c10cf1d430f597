"""The narrator: plain while its gates are closed, frozen where it looks, the same with a cache."""

import pytest
import torch

from avion_core.models.architecture import LanguageModelConfig, NarratorConfig
from avion_core.models.causal_lm import Cache
from avion_core.models.generate import (
    Generated,
    TextSampling,
    clip_seed,
    draw,
    draw_keys,
    generate,
    nucleus,
)
from avion_core.models.layers import set_checkpointing
from avion_core.models.narrator import Narrator
from avion_core.models.towers import VisionConfig
from tests.support.gates import open_gates
from tests.support.scores import text_scores

WORDS, BEGIN, END, SIDE = 40, 38, 39, 16
CONFIG = NarratorConfig(
    vision=VisionConfig(width=16, layers=2, heads=2, patch_px=8),
    language_model=LanguageModelConfig(
        width=24,
        layers=3,
        heads=2,
        vocabulary=WORDS,
        begin_token=BEGIN,
        end_token=END,
        context_length=10,
        positions=12,
    ),
    cross_attention_every=2,
    queries=5,
    pool_heads=3,
    pool_head_width=8,
)


def narrator(**arguments) -> Narrator:
    """With open gates and logits that differ by token and by clip."""
    torch.manual_seed(0)
    return open_gates(Narrator(CONFIG, frames=2, image_size_px=SIDE, **arguments), gain=7).eval()


def clips(count: int) -> torch.Tensor:
    return torch.randn(count, 3, 2, SIDE, SIDE, generator=torch.Generator().manual_seed(5))


def texts(count: int, length: int = 8) -> torch.Tensor:
    return torch.randint(1, BEGIN, (count, length), generator=torch.Generator().manual_seed(6))


def test_a_fresh_narrator_is_the_plain_language_model():
    torch.manual_seed(0)
    model = Narrator(CONFIG, frames=2, image_size_px=SIDE).eval()
    torch.testing.assert_close(model(clips(3), texts(3)), model.language_model(texts(3)), atol=1e-6, rtol=0)
    opened = narrator()
    difference = opened(clips(3), texts(3)) - opened.language_model(texts(3))
    assert difference.abs().max() > 0.1


def test_every_second_block_looks():
    blocks = narrator().language_model.blocks
    assert [block.cross is not None for block in blocks] == [True, False, True]


def test_a_token_does_not_see_those_after_it():
    model, tokens = narrator(), texts(2)
    changed = tokens.clone()
    changed[:, 5:] = 1
    same = model(clips(2), tokens)[:, :5] - model(clips(2), changed)[:, :5]
    assert same.abs().max() < 1e-5


def test_several_texts_look_at_their_own_clip():
    model, tokens = narrator(), texts(6)
    together = model(clips(2), tokens)
    alone = torch.cat([model(clips(2)[i // 3 : i // 3 + 1], tokens[i : i + 1]) for i in range(6)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("settings", [(), ("freeze_language_model",), ("text_only",)])
def test_only_what_is_trained_has_gradients(settings):
    model = narrator(**dict.fromkeys(settings, True), dropout=0.5).train()
    assert not any(layer.training for layer in model.vision.modules())
    assert model.language_model.dropout.training
    model(clips(2), texts(2)).square().mean().backward()
    trained = {name for name, weight in model.named_parameters() if weight.grad is not None}
    cross = {name for name, _ in model.named_parameters() if ".cross." in name}
    pool = {name for name, _ in model.named_parameters() if name.startswith("pool.")}
    language = {name for name, _ in model.named_parameters() if name.startswith("language_model.")}
    expected = {"freeze_language_model": pool | cross, "text_only": language - cross}
    assert trained == expected.get("".join(settings), pool | language)


def test_checkpointing_changes_no_gradient():
    found = []
    for on in (False, True):
        model = narrator().train()
        set_checkpointing(model, on)
        model(clips(2), texts(2)).square().mean().backward()
        found.append({name: w.grad for name, w in model.named_parameters() if w.grad is not None})
    assert all(torch.allclose(found[1][name], gradient) for name, gradient in found[0].items())


def one_text(model: Narrator, clip: torch.Tensor, sampling: TextSampling, seed: int, text: int):
    """(tokens, score) of a single text, the whole prefix again at every step."""
    tokens, entropies, clip_BQD = [BEGIN], [], model.encode_clip(clip[None])
    while len(tokens) < sampling.max_tokens and END not in tokens:
        logits = model.next_token(torch.tensor([tokens]), clip_BQD)[0, -1]
        probabilities = logits.softmax(-1)
        entropies.append(-(probabilities * probabilities.log()).sum())
        keys = draw_keys(torch.tensor([seed]), texts=sampling.texts, place=len(tokens))
        tokens.append(int(draw(logits[None], keys[text : text + 1], sampling)))
    return tokens, torch.stack(entropies).mean().exp()


@pytest.mark.parametrize(("temperature", "texts"), [(0.0, 1), (1.0, 3), (5.0, 1)])
@torch.no_grad()
def test_cached_generation_is_that_without_a_cache_token_by_token(temperature, texts, monkeypatch):
    """Clips whose texts have all ended leave the batch; the others must keep their own cache."""
    left = []
    keep = Cache.keep
    monkeypatch.setattr(
        Cache,
        "keep",
        lambda self, clips_b, texts_r: left.append(clips_b.tolist()) or keep(self, clips_b, texts_r),
    )
    model, seeds = narrator(), range(10)
    sampling = TextSampling(texts=texts, temperature=temperature, nucleus=0.95, max_tokens=12)
    found = generate(model, clips(10), sampling, seeds=seeds)
    for clip, seed in enumerate(seeds):
        for text in range(texts):
            tokens, score = one_text(model, clips(10)[clip], sampling, seed, text)
            padded = tokens + [0] * (12 - len(tokens))
            assert found.tokens[clip, text].tolist() == padded
            assert found.scores[clip, text].item() == pytest.approx(score.item(), rel=1e-5)
    if temperature == 5.0:
        assert any(kept != list(range(len(kept))) for kept in left), "a clip before others has left"


def test_texts_of_a_clip_do_not_depend_on_the_batch_nor_on_their_number():
    model, sampling = narrator(), TextSampling(texts=3, temperature=1.0, max_tokens=12)
    together = generate(model, clips(4), sampling, seeds=[7, 8, 9, 7])
    for clip, seed in enumerate([7, 8, 9, 7]):
        alone = generate(model, clips(4)[clip : clip + 1], sampling, seeds=[seed])
        assert torch.equal(alone.tokens[0], together.tokens[clip])
        torch.testing.assert_close(alone.scores[0], together.scores[clip])
    more = generate(
        model, clips(4), TextSampling(texts=5, temperature=1.0, max_tokens=12), seeds=[7, 8, 9, 7]
    )
    assert torch.equal(more.tokens[:, :3], together.tokens)
    other = generate(model, clips(4), sampling, seeds=[1, 2, 3, 4])
    assert not torch.equal(other.tokens, together.tokens)


def test_a_clips_seed_is_its_own():
    seeds = {
        clip_seed(seed, video, start, end)
        for seed in (0, 1)
        for video in ("a", "b")
        for start, end in ((0, 1), (0, 2), (1, 2))
    }
    assert len(seeds) == 12
    assert clip_seed(0, "a", 0, 1) == clip_seed(0, "a", 0.0, 1.0)
    assert all(torch.Generator().manual_seed(seed) for seed in seeds)


@torch.no_grad()
def test_scores_of_given_texts_are_those_of_their_generation():
    model, sampling = narrator(), TextSampling(texts=4, temperature=1.0, max_tokens=12)
    found = generate(model, clips(2), sampling, seeds=[1, 2])
    tokens = found.tokens.flatten(0, 1)
    scores = text_scores(model(clips(2), tokens), tokens, end=END)
    torch.testing.assert_close(scores, found.scores.flatten())


@torch.no_grad()
def test_the_score_of_a_uniform_distribution_is_its_size():
    model = narrator()
    model.language_model.token_embedding.weight.zero_()
    found = generate(model, clips(2), TextSampling(texts=3, temperature=1.0, max_tokens=12), seeds=[1, 2])
    assert found.scores.flatten().tolist() == pytest.approx([WORDS] * 6, rel=1e-5)


def test_words_are_without_begin_end_and_padding():
    tokens = torch.tensor([[[9, 5, 9, 0], [9, 9, 0, 0], [9, 5, 6, 7]]])
    found = Generated(tokens, torch.zeros(1, 3)).words(begin=9, end=9)
    assert found == [[[5], [], [5, 6, 7]]]


def naive_nucleus(probabilities: list[float], size: float) -> set[int]:
    kept, mass = set(), 0.0
    for token in sorted(range(len(probabilities)), key=lambda token: -probabilities[token]):
        if kept and mass > size:
            break
        kept.add(token)
        mass += probabilities[token]
    return kept


@pytest.mark.parametrize("words", [30, 3000])
@pytest.mark.parametrize("size", [0.0, 0.5, 0.95, 1.0])
def test_the_nucleus_is_that_of_a_naive_search(words, size):
    """Flat distributions over 3000 tokens need more of them than are sorted at first."""
    logits = torch.randn(4, words, dtype=torch.float64) * torch.tensor([[0.01], [0.5], [3.0], [20.0]])
    kept, ids = nucleus(logits, size)
    for row, probabilities in enumerate(logits.softmax(-1).tolist()):
        assert set(ids[row][kept[row] > 0].tolist()) >= naive_nucleus(probabilities, size - 1e-9)
        assert set(ids[row][kept[row] > 0].tolist()) <= naive_nucleus(probabilities, size + 1e-9)
        assert kept[row].sum() == pytest.approx(sum(probabilities[i] for i in ids[row][kept[row] > 0]))


def test_tokens_are_drawn_by_their_probabilities():
    logits = torch.tensor([0.5, 0.3, 0.15, 0.04, 0.01]).log()
    sampling, count = TextSampling(temperature=1.0, nucleus=0.9), 40_000
    keys = draw_keys(torch.arange(count // 100), texts=100, place=3)
    assert len(keys.unique()) == count
    drawn = draw(logits.expand(count, -1), keys, sampling).bincount(minlength=5) / count
    wanted = torch.tensor([0.5, 0.3, 0.15, 0, 0]) / 0.95
    torch.testing.assert_close(drawn, wanted, atol=0.01, rtol=0)
    cooler = TextSampling(temperature=0.5, nucleus=1.0)
    drawn = draw(logits.expand(count, -1), keys, cooler).bincount(minlength=5) / count
    torch.testing.assert_close(drawn, (2 * logits).softmax(-1), atol=0.01, rtol=0)


def test_rounding_hardly_ever_changes_a_draw():
    """Also of flat distributions over many tokens."""
    logits = torch.randn(500, 3000, generator=torch.Generator().manual_seed(1)) * 0.1
    keys, sampling = draw_keys(torch.arange(500), texts=1, place=1), TextSampling(temperature=1.0)
    noise = 1e-5 * torch.randn(logits.shape, generator=torch.Generator().manual_seed(2))
    assert (draw(logits, keys, sampling) != draw(logits + noise, keys, sampling)).sum() <= 1


def test_texts_places_and_clips_have_draws_of_their_own():
    flat = torch.zeros(600, 100)
    drawn = [
        draw(flat, draw_keys(torch.arange(20), texts=30, place=place), TextSampling(temperature=1.0))
        for place in (1, 2)
    ]
    assert (drawn[0] == drawn[1]).float().mean() < 0.05
    by_clip = drawn[0].view(20, 30)
    assert all((by_clip[0] == row).float().mean() < 0.3 for row in by_clip[1:])
    assert all((by_clip[:, 0] == column).float().mean() < 0.4 for column in by_clip.T[1:])


def test_too_long_a_text_is_refused():
    with pytest.raises(ValueError, match="max_tokens is 13; this model takes 2 to 12"):
        generate(narrator(), clips(1), TextSampling(max_tokens=13), seeds=[0])
    with pytest.raises(ValueError, match="texts of 13 tokens do not fit 12 positions"):
        narrator()(clips(1), texts(1, length=13))
