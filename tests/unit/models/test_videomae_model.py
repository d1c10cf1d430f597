"""Properties of VideoMAE: masks, targets, positions, what the encoder may see."""

import math

import pytest
import torch

from avion_core.models.architecture import VideoMAEConfig
from avion_core.models.videomae import VideoMAE, VideoMAEClassifier, running_cells, sine_cosine, split_mask

CONFIG = VideoMAEConfig(
    width=24, layers=3, heads=2, patch_px=4, decoder_width=12, decoder_layers=1, decoder_heads=2
)
SIZES = {"frames": 4, "image_size_px": 16}


@pytest.fixture
def model() -> VideoMAE:
    torch.manual_seed(0)
    return VideoMAE(CONFIG, **SIZES)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def clip(batch: int = 2) -> torch.Tensor:
    return torch.randint(0, 256, (batch, 4, 16, 16, 3), dtype=torch.uint8, generator=generator(9))


def test_tubes_hide_the_same_places_in_every_frame(model):
    mask = model.tube_mask(8, 0.9, generator())
    assert mask.shape == (8, model.tokens) == (8, 32)
    first, second = mask[:, :16], mask[:, 16:]
    assert torch.equal(first, second)
    assert first.sum(1).tolist() == [14] * 8
    assert len({tuple(row.tolist()) for row in first}) > 1


def test_masks_come_from_the_generator_alone(model):
    torch.manual_seed(1)
    first = model.tube_mask(8, 0.75, generator(5))
    torch.manual_seed(2)
    assert torch.equal(first, model.tube_mask(8, 0.75, generator(5)))
    assert not torch.equal(first, model.tube_mask(8, 0.75, generator(6)))


@pytest.mark.parametrize("ratio", [0.01, 1.0])
def test_a_ratio_that_hides_nothing_or_all_is_refused(model, ratio):
    with pytest.raises(ValueError, match="mask_ratio"):
        model.tube_mask(2, ratio, generator())


def test_clips_that_hide_unequal_numbers_are_refused():
    with pytest.raises(ValueError, match="the same number of tubelets"):
        split_mask(torch.tensor([[True, False, False], [True, True, False]]))


def test_the_prediction_does_not_see_hidden_pixels(model):
    mask = model.tube_mask(2, 0.75, generator())
    frames = model.normalise(clip())
    hidden = mask.view(2, 1, 2, 4, 4).repeat_interleave(2, 2)
    hidden = hidden.repeat_interleave(4, 3).repeat_interleave(4, 4)
    scrambled = torch.where(hidden, torch.randn_like(frames), frames)
    assert torch.equal(model(frames, mask), model(scrambled, mask))
    assert not torch.equal(model(frames, mask), model(torch.where(hidden, frames, 0.0), mask))


def test_a_running_cell_by_hand():
    left_out = running_cells(torch.tensor([0, 3]), 0.5, times=2, side=2)
    assert left_out.int().tolist() == [[1, 1, 0, 0, 1, 0, 0, 1], [0, 1, 1, 0, 1, 1, 0, 0]]


def test_decoder_masking_predicts_its_share_of_what_is_hidden():
    model = VideoMAE(CONFIG, frames=8, image_size_px=16, decoder_mask_ratio=0.75)
    mask = model.tube_mask(8, 0.9, generator())
    hidden, predicted = (mask > 0).sum(1), (mask == 1).sum(1)
    assert hidden.tolist() == [4 * 14] * 8
    assert predicted.tolist() == [14] * 8
    places = mask.view(8, 4, 16)
    assert ((places > 0) == (places[:, :1] > 0)).all()
    assert torch.equal((places == 1).any(1), places[:, 0] > 0)


def test_what_decoder_masking_predicts_has_the_targets_of_the_plain_mask():
    torch.manual_seed(0)
    model = VideoMAE(CONFIG, frames=8, image_size_px=16, decoder_mask_ratio=0.5)
    pixels = clip().repeat(1, 2, 1, 1, 1)
    mask = model.tube_mask(2, 0.75, generator())
    prediction, target = model(model.normalise(pixels), mask), model.target(pixels, mask)
    assert prediction.shape == target.shape == (2, 24, 2 * 4 * 4 * 3)
    wanted = model.target(pixels, mask > 0)[mask[mask > 0].view(2, -1) == 1].view(2, 24, -1)
    assert torch.equal(target, wanted)
    hidden = mask.view(2, 1, 4, 4, 4).repeat_interleave(2, 2) > 0
    hidden = hidden.repeat_interleave(4, 3).repeat_interleave(4, 4)
    scrambled = torch.where(hidden, torch.randn(2, 3, 8, 16, 16), model.normalise(pixels))
    assert torch.equal(model(scrambled, mask), prediction)


def test_decoder_masking_needs_whole_periods():
    with pytest.raises(ValueError, match="decoder_mask_ratio needs frames in multiples of 8, not 4"):
        VideoMAE(CONFIG, **SIZES, decoder_mask_ratio=0.5)


@pytest.mark.parametrize("epsilon", [1e-6, 2.0])
def test_target_of_one_tubelet_by_hand(model, epsilon):
    pixels = clip()
    mask = model.tube_mask(2, 0.75, generator())
    target = model.target(pixels, mask, epsilon=epsilon)
    assert target.shape == (2, 24, 2 * 4 * 4 * 3)
    number = int(mask[1].nonzero()[3])
    frame, row, column = number // 16 * 2, number % 16 // 4 * 4, number % 4 * 4
    cube = pixels[1, frame : frame + 2, row : row + 4, column : column + 4].double()
    wanted = (cube - cube.mean((0, 1, 2))) / (cube.std((0, 1, 2), unbiased=True) + epsilon)
    torch.testing.assert_close(target[1, 3].double(), wanted.flatten(), atol=1e-4, rtol=1e-4)
    normalised = model.target(model.normalise(pixels), mask, epsilon=epsilon)
    torch.testing.assert_close(target, normalised, atol=1e-4, rtol=1e-4)


def test_a_flat_patch_has_a_finite_target(model):
    target = model.target(torch.full_like(clip(), 7), model.tube_mask(2, 0.75, generator()))
    assert not target.any()


def test_positions_by_hand():
    table = sine_cosine(3, 4)
    wanted = [math.sin(2), math.cos(2), math.sin(2 / 100), math.cos(2 / 100)]
    torch.testing.assert_close(table[2], torch.tensor(wanted))
    assert table[0].tolist() == [0, 1, 0, 1]


def test_positions_are_no_weights(model):
    assert not [name for name in model.state_dict() if "position" in name]


def test_fresh_weights_are_drawn_as_the_originals(model):
    for name, layer in model.named_modules():
        if isinstance(layer, torch.nn.Linear):  # Glorot and Bengio 2010, uniform
            bound = (6 / (layer.in_features + layer.out_features)) ** 0.5
            assert 0.95 * bound < layer.weight.abs().max() <= bound, name
            assert layer.bias is None or not layer.bias.any(), name


def test_drop_path_grows_linearly():
    model = VideoMAEClassifier(CONFIG, classes=5, **SIZES, drop_path=0.2)
    rates = [getattr(block.drop_path, "drop_prob", 0.0) for block in model.encoder.blocks]
    assert rates == pytest.approx([0.0, 0.1, 0.2])


def test_a_fresh_classifier_is_nearly_undecided():
    torch.manual_seed(0)
    model = VideoMAEClassifier(CONFIG, classes=5, **SIZES)
    logits = model(model.normalise(clip()))
    assert logits.shape == (2, 5)
    assert logits.abs().max() < 0.01


def test_decoder_and_head_are_the_last_layer(model):
    assert model.num_layers == 5
    assert model.layer_of("encoder.patch.weight") == 0
    assert model.layer_of("encoder.blocks.2.attn.qkv.weight") == 3
    assert model.layer_of("decoder.blocks.0.attn.qkv.weight") == 4
    assert model.layer_of("mask_token") == 4


def test_a_few_steps_lower_the_loss(model):
    mask = model.tube_mask(2, 0.75, generator())
    frames, target = model.normalise(clip()), model.target(clip(), mask)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(30):
        loss = torch.nn.functional.mse_loss(model(frames, mask), target)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.9 * losses[0]
