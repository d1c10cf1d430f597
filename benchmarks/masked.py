"""What does masking nine tenths of a clip save? VideoMAE ViT-B, 16 frames at 224 px, one thread.

A training step (target, forward, loss, backward, AdamW) with 90 % of the tubes hidden against one whose
encoder sees all tubelets and whose decoder predicts as many; and with half of the hidden tubelets predicted
(VideoMAE V2). Rounds alternate, medians are compared.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor

from avion_core.models.architecture import VideoMAEConfig, load_architecture
from avion_core.models.layers import pick
from avion_core.models.videomae import VideoMAE, split_mask
from avion_core.train.losses import masked_pixels
from benchmarks import median_seconds, write_result

ARCHITECTURE, FRAMES, SIDE, CLIPS, MASK_RATIO, ROUNDS = "videomae_vit_b", 16, 224, 1, 0.9, 5


def hidden(model: VideoMAE, frames_BCTHW: Tensor, mask_BN: Tensor) -> Tensor:
    """As trained: the encoder sees the visible tubelets."""
    prediction_BMP: Tensor = model(frames_BCTHW, mask_BN)
    return prediction_BMP


def all_visible(model: VideoMAE, frames_BCTHW: Tensor, mask_BN: Tensor) -> Tensor:
    """The encoder sees all tubelets and the decoder predicts the same ones as above."""
    x_BND = model.encoder_to_decoder(model.norm(model.encoder(frames_BCTHW))) + model.decoder_positions
    visible_BV, masked_BM = split_mask(mask_BN)
    x_BND = torch.cat([pick(x_BND, visible_BV), pick(x_BND, masked_BM)], dim=1)
    prediction_BMP: Tensor = model.decoder(x_BND, last=masked_BM.shape[1])
    return prediction_BMP


class Step:
    """One training step on a fixed batch."""

    def __init__(self, predict: Callable[..., Tensor], *, decoder_mask_ratio: float = 0.0) -> None:
        torch.manual_seed(0)
        config = cast(VideoMAEConfig, load_architecture(ARCHITECTURE))
        self._predict = predict
        self._model = VideoMAE(
            config, frames=FRAMES, image_size_px=SIDE, decoder_mask_ratio=decoder_mask_ratio
        )
        self._optimizer = torch.optim.AdamW(self._model.parameters(), lr=1e-8)
        self._pixels_BTHWC = torch.randint(0, 256, (CLIPS, FRAMES, SIDE, SIDE, 3), dtype=torch.uint8)

    def __call__(self) -> None:
        model = self._model
        self._optimizer.zero_grad()
        mask_BN = model.tube_mask(CLIPS, MASK_RATIO, torch.default_generator)
        prediction_BMP = self._predict(model, model.normalise(self._pixels_BTHWC), mask_BN)
        masked_pixels(prediction_BMP, model.target(self._pixels_BTHWC, mask_BN)).backward()
        self._optimizer.step()


def main() -> None:
    torch.set_num_threads(1)
    steps = {
        "masked": Step(hidden),
        "masked_decoder_too": Step(hidden, decoder_mask_ratio=0.5),
        "all_visible": Step(all_visible),
    }
    seconds = median_seconds(steps, rounds=ROUNDS)
    write_result(
        "masked",
        figures={"clips": CLIPS, "seconds_a_step": seconds},
        ratios={
            "masked_over_all_visible": seconds["all_visible"] / seconds["masked"],
            "decoder_masked_over_masked": seconds["masked"] / seconds["masked_decoder_too"],
        },
    )


if __name__ == "__main__":
    main()
