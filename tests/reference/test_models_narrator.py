"""The narrator reproduces recorded outputs of LaViLa's code."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from avion_core.models.architecture import LanguageModelConfig, NarratorConfig
from avion_core.models.foreign import import_state_dict, start_from_foreign
from avion_core.models.generate import TextSampling, generate, nucleus
from avion_core.models.narrator import Narrator
from avion_core.models.next_token import mean_losses, token_losses
from avion_core.models.towers import TimeSformerConfig
from tests.support.scores import text_scores

DATA = Path(__file__).parent / "data"
END = 100
WRITER = LanguageModelConfig(
    width=48,
    layers=4,
    heads=4,
    vocabulary=101,
    begin_token=END,
    end_token=END,
    context_length=14,
    positions=32,
)


class Recorded:
    def __init__(self, every: int) -> None:
        self.path = DATA / f"narrator_every_{every}.safetensors"
        tensors = load_file(self.path)
        self.weights, self.inputs, self.outputs, self.gradients = (
            {name.removeprefix(prefix): x for name, x in tensors.items() if name.startswith(prefix)}
            for prefix in ("module.", "inputs.", "outputs.", "grads.")
        )
        self.frames = self.inputs["frames_BCTHW"].float()
        self.model = narrator(every)


def narrator(every: int) -> Narrator:
    config = NarratorConfig(
        vision=TimeSformerConfig(width=32, layers=2, heads=4, patch_px=8),
        language_model=WRITER,
        cross_attention_every=every,
        queries=7,
        pool_heads=5,
        pool_head_width=8,
        activation="quick_gelu",
    )
    return Narrator(config, frames=4, image_size_px=32).eval()


@pytest.fixture(params=[1, 2])
def recorded(request):
    found = Recorded(request.param)
    start_from_foreign(found.model, found.path, waive_unexpected=["inputs.*", "outputs.*", "grads.*"])
    return found


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def test_tokens_logits_loss_and_gradients_are_the_recorded_ones(recorded):
    model, outputs, texts = recorded.model, recorded.outputs, recorded.inputs["texts_BL"]
    assert relative(model.video_tokens(recorded.frames)[0], outputs["video_tokens_first_clip_ND"]) < 1e-5
    assert relative(model.encode_clip(recorded.frames), outputs["image_tokens_BQE"]) < 1e-5
    logits = model(recorded.frames, texts[:, :-1])
    assert relative(logits, outputs["logits_BLV"]) < 1e-5
    losses = token_losses(logits, texts[:, 1:])
    assert losses.mean().item() == pytest.approx(outputs["caption_loss"].item(), rel=1e-5)
    perplexity = mean_losses(losses, texts[:, 1:]).exp().mean().item()
    assert perplexity == pytest.approx(outputs["perplexity"].item(), rel=1e-5)
    losses.mean().backward()
    parameters = dict(model.named_parameters())
    gradients = import_state_dict(recorded.gradients, model)
    assert sum(name.endswith("_gate") for name in gradients) == 2 * len(
        [block for block in model.language_model.blocks if block.cross is not None]
    )
    assert max(relative(parameters[name].grad, gradients[name]) for name in gradients) < 1e-4
    assert not any(
        name.startswith("vision.") for name, weight in parameters.items() if weight.grad is not None
    )


@torch.no_grad()
def test_greedy_texts_and_their_scores_are_the_recorded_ones(recorded):
    """The original goes on after the end of a text, or with its early stop loses the last token."""
    outputs, sampling = recorded.outputs, TextSampling(texts=1, temperature=0, max_tokens=20)
    found = generate(recorded.model, recorded.frames, sampling, seeds=[0, 0])
    theirs = outputs["greedy_ids_BG"].tolist()
    for clip, text in enumerate(theirs):
        end = text.index(END, 1)
        assert found.tokens[clip, 0].tolist() == text[: end + 1] + [0] * (19 - end)
        assert found.words(begin=END, end=END)[clip][0] == text[1:end]
    for name in ("greedy_score_B", "greedy_early_stop_score_B"):
        torch.testing.assert_close(found.scores[:, 0], outputs[name], rtol=1e-5, atol=0)


@torch.no_grad()
def test_scores_of_given_texts_are_the_recorded_ones(recorded):
    """With an end token, and without one, where every step counts."""
    for name in ("given", "given_without_end"):
        tokens = recorded.inputs[f"{name}_BG"]
        scores = text_scores(recorded.model(recorded.frames, tokens), tokens, end=END)
        torch.testing.assert_close(scores, recorded.outputs[f"score_of_{name}_B"], rtol=1e-5, atol=0)
    target = recorded.inputs["target_BG"]
    losses = token_losses(recorded.model(recorded.frames, target[:, :-1]), target[:, 1:])
    perplexities = mean_losses(losses, target[:, 1:]).exp()
    torch.testing.assert_close(perplexities, recorded.outputs["perplexity_of_target_B"], rtol=1e-5, atol=0)


@pytest.mark.parametrize(("temperature", "size"), [("0.7", "0.95"), ("1", "0.5")])
def test_the_probabilities_of_a_draw_are_the_recorded_ones(recorded, temperature, size):
    logits = recorded.outputs["draw_logits_BV"]
    kept, ids = nucleus(logits / float(temperature), float(size))
    found = torch.zeros_like(logits).scatter(1, ids, kept / kept.sum(dim=-1, keepdim=True))
    wanted = recorded.outputs[f"draw_probabilities_t{temperature}_p{size}_BV"]
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=0)
