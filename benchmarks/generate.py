"""How many texts a second does a narrator write, against LaViLa's way? GPT-2's size, random weights.

LaViLa's way runs the whole prefix again at every step, and every text to the full length. Ours keeps keys
and values, and ends a text with its end token. Random weights hardly ever end a text, so the logit of the end
token is raised until a text has about ten tokens, as a narration has. One thread; the vision tower is left
out of both.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from avion_core.models.architecture import NarratorConfig, load_architecture
from avion_core.models.causal_lm import Cache
from avion_core.models.generate import Generated, TextSampling, draw, draw_keys, write_texts
from avion_core.models.narrator import Narrator
from benchmarks import median_seconds, write_result

ARCHITECTURE, CLIPS, TEXTS, WORDS, ROUNDS = "narrator_gpt2", 1, 2, 10, 1
SAMPLING = TextSampling(texts=TEXTS)


class Ending(Narrator):
    """A narrator with random weights whose texts have WORDS tokens on average, or no end."""

    ends = True

    def next_token(self, tokens_RL: Tensor, clip_BQD: Tensor, *, cache: Cache | None = None) -> Tensor:
        logits_RLV = super().next_token(tokens_RL, clip_BQD, cache=cache)
        language = self.config.language_model
        likely = SAMPLING.temperature * math.log(language.vocabulary / (WORDS - 1))
        logits_RLV[..., language.end_token] = likely if self.ends else -math.inf
        return logits_RLV


@torch.no_grad()
def plainly(model: Narrator, clip_BQD: Tensor) -> Tensor:
    """Token ids R,L of full length: at every step all tokens so far go through the model."""
    tokens_RL = torch.full((len(clip_BQD) * TEXTS, 1), model.config.language_model.begin_token)
    for place in range(1, SAMPLING.max_tokens):
        logits_RV = model.next_token(tokens_RL, clip_BQD)[:, -1]
        keys_R = draw_keys(torch.arange(len(clip_BQD)), texts=TEXTS, place=place)
        drawn_R = draw(logits_RV, keys_R, SAMPLING)
        tokens_RL = torch.cat([tokens_RL, drawn_R[:, None]], dim=1)
    return tokens_RL


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = load_architecture(ARCHITECTURE)
    assert isinstance(config, NarratorConfig)
    model = Ending(config, frames=4, image_size_px=224).eval()
    clip_BQD = torch.randn(CLIPS, config.queries, config.language_model.width)
    written: list[Generated] = []

    def whole_prefix() -> None:
        model.ends = False
        plainly(model, clip_BQD)

    def cached(*, ends: bool) -> None:
        model.ends = ends
        written.append(write_texts(model, clip_BQD, SAMPLING, seeds=range(CLIPS)))

    seconds = median_seconds(
        {
            "whole_prefix": whole_prefix,
            "cache": lambda: cached(ends=False),
            "cache_and_early_stop": lambda: cached(ends=True),
        },
        rounds=ROUNDS,
    )
    lengths = (written[-1].tokens > 0).sum(dim=-1).float()
    write_result(
        "generate",
        figures={
            "texts": CLIPS * TEXTS,
            "tokens_of_an_ended_text": lengths.mean().item(),
            "texts_per_s": {name: CLIPS * TEXTS / value for name, value in seconds.items()},
        },
        ratios={
            "cache_over_whole_prefix": seconds["whole_prefix"] / seconds["cache"],
            "cache_and_early_stop_over_whole_prefix": seconds["whole_prefix"]
            / seconds["cache_and_early_stop"],
        },
    )


if __name__ == "__main__":
    main()
