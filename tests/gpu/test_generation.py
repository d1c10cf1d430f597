"""Texts written on the device: those of the CPU, in half precision too, and the clips' own."""

import pytest
import torch

from avion_core.models.generate import TextSampling, generate
from avion_core.models.precision import autocast
from tests.unit.models.test_narrator import END, clips, narrator

SAMPLING = TextSampling(texts=4, temperature=1.0, max_tokens=12)


def test_texts_and_scores_are_those_of_the_cpu(device):
    here, there = (
        generate(narrator().to(where), clips(3).to(where), SAMPLING, seeds=[1, 2, 3])
        for where in (device, "cpu")
    )
    assert here.tokens.device.type == device
    assert torch.equal(here.tokens.cpu(), there.tokens)
    torch.testing.assert_close(here.scores.cpu(), there.scores, rtol=1e-4, atol=0)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_scores_texts_nearly_alike(device, precision):
    """Draws may differ where two tokens divide the range nearly where the number lies."""
    model, seen = narrator().to(device), clips(8).to(device)
    whole = generate(model, seen, SAMPLING, seeds=range(8))
    with autocast(torch.device(device), precision):
        half = generate(model, seen, SAMPLING, seeds=range(8))
    same = (half.tokens == whole.tokens).all(dim=-1)
    assert same.float().mean() > 0.5
    assert ((half.tokens == END).sum(dim=-1) <= 1).all()
    torch.testing.assert_close(half.scores[same], whole.scores[same], rtol=0.1, atol=0)
