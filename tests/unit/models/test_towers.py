"""Properties of the video and text towers and of the models made from them."""

import pytest
import torch

from avion_core.models.architecture import DualEncoderConfig
from avion_core.models.classifier import VideoClassifier
from avion_core.models.dual_encoder import DualEncoder
from avion_core.models.towers import TextConfig, VisionConfig

CONFIG = DualEncoderConfig(
    vision=VisionConfig(width=24, layers=3, heads=2, patch_px=8),
    text=TextConfig(width=16, layers=2, heads=2, context_length=12, vocabulary=50),
    embed_dim=8,
)
SIZES = {"frames": 4, "image_size_px": 16}
TOKENS = torch.tensor([[1, 7, 9, 49, 0, 0, 0], [1, 8, 3, 4, 49, 0, 0]])


@pytest.fixture
def model() -> DualEncoder:
    torch.manual_seed(0)
    return DualEncoder(CONFIG, **SIZES)


def clip(batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 3, 4, 16, 16, generator=torch.Generator().manual_seed(1))


def test_embeddings_have_length_one_and_the_scale_is_one_over_the_temperature(model):
    video, text, scale = model(clip(), TOKENS)
    for embedding in (video, text):
        assert embedding.shape == (2, 8)
        torch.testing.assert_close(embedding.norm(dim=-1), torch.ones(2))
    assert scale.item() == pytest.approx(1 / 0.07)


def test_temperature_is_trained_only_on_request():
    assert not DualEncoder(CONFIG, **SIZES).logit_scale.requires_grad
    learning = DualEncoder(CONFIG, **SIZES, temperature=0.5, learn_temperature=True)
    assert learning.logit_scale.requires_grad
    assert learning.logit_scale.exp().item() == pytest.approx(2.0)
    assert "logit_scale" in learning.no_decay()


def test_cutting_the_batch_to_its_longest_text_changes_nothing(model):
    padded = torch.nn.functional.pad(TOKENS, (0, 5))
    torch.testing.assert_close(model.encode_text(padded), model.encode_text(TOKENS[:, :5]))


def test_a_text_does_not_depend_on_its_batch_nor_on_what_follows_its_end(model):
    alone = model.encode_text(TOKENS[:1, :4])
    torch.testing.assert_close(model.encode_text(TOKENS)[:1], alone)
    changed = TOKENS.clone()
    changed[0, 5:] = 3
    torch.testing.assert_close(model.encode_text(changed)[:1], alone)


def test_a_text_longer_than_the_context_is_refused(model):
    with pytest.raises(ValueError, match="texts of 13 tokens do not fit the context of 12"):
        model.encode_text(torch.ones(1, 13, dtype=torch.long))


def test_only_the_temporal_embedding_tells_the_order_of_frames(model):
    frames = clip()
    torch.nn.init.normal_(model.vision.temporal_embedding, std=0.02)
    backwards = frames.flip(2)
    assert not torch.allclose(model.encode_video(frames), model.encode_video(backwards), atol=1e-4)
    torch.nn.init.zeros_(model.vision.temporal_embedding)
    torch.testing.assert_close(
        model.encode_video(frames), model.encode_video(backwards), atol=1e-5, rtol=1e-5
    )


def test_a_clip_of_another_shape_is_refused(model):
    with pytest.raises(ValueError, match=r"takes clips of shape B×3×4×16×16 .*, not 2×3×8×16×16"):
        model.encode_video(torch.zeros(2, 3, 8, 16, 16))


def test_layers_of_both_towers_are_counted_from_the_top(model):
    assert model.num_layers == 5
    layers = {name: model.layer_of(name) for name, _ in model.named_parameters()}
    assert layers["vision.patch.weight"] == layers["vision.temporal_embedding"] == 0
    assert [layers[f"vision.blocks.{i}.norm1.bias"] for i in range(3)] == [1, 2, 3]
    assert layers["text.token_embedding.weight"] == layers["text.positional_embedding"] == 1
    assert [layers[f"text.blocks.{i}.norm1.bias"] for i in range(2)] == [2, 3]
    for name in ("vision.projection", "vision.ln_post.weight", "text.projection", "logit_scale"):
        assert layers[name] == 4


def test_same_seed_same_weights():
    states = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        states.append(DualEncoder(CONFIG, **SIZES).state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not torch.equal(states[0]["vision.projection"], states[2]["vision.projection"])


def test_every_trained_weight_gets_a_gradient(model):
    video, text, scale = model(clip(), TOKENS)
    (scale * video @ text.T).square().sum().backward()
    lacking = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not lacking


def test_drop_path_is_equal_in_all_layers():
    model = DualEncoder(CONFIG, **SIZES, drop_path=0.1)
    assert [block.drop_path.drop_prob for block in model.vision.blocks] == [0.1] * 3


def test_classifier_head_starts_small_and_its_dropout_acts_in_training_only():
    torch.manual_seed(0)
    model = VideoClassifier(CONFIG, classes=400, **SIZES, head_dropout=0.5)
    assert model.head.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert not model.head.bias.any()
    frames = clip(1)
    assert not torch.equal(model.train()(frames), model(frames))
    assert torch.equal(model.eval()(frames), model(frames))


def test_the_embedding_is_the_projected_first_token(model):
    tower, frames = model.vision, clip()
    tokens = tower.tokens(frames)
    assert tokens.shape == (2, 1 + 4 * 4, 24)
    torch.testing.assert_close(tokens[:, 0] @ tower.projection, tower(frames))
    torch.testing.assert_close(tokens.mean(-1), torch.zeros(2, 17), atol=1e-6, rtol=0)  # after the norm


def test_patch_dropout_leaves_out_whole_patches_in_training_only(model):
    dropping = DualEncoder(CONFIG, **SIZES, patch_dropout=0.75)
    dropping.load_state_dict(model.state_dict())
    seen = []
    dropping.vision.blocks[0].register_forward_pre_hook(lambda block, given: seen.append(given[0]))
    frames = clip()
    dropping.train().encode_video(frames)
    dropping.eval().encode_video(frames)
    few, all_tokens = seen
    assert few.shape[1] == 1 + 4
    assert all_tokens.shape[1] == 1 + 16
    for kept, every in zip(few, all_tokens, strict=True):
        assert all(any(torch.allclose(token, other, atol=1e-5) for other in every) for token in kept)
        assert len(kept.unique(dim=0)) == 5
    torch.testing.assert_close(dropping.encode_video(frames), model.encode_video(frames), atol=0, rtol=0)


def test_patches_are_drawn_anew_for_each_clip_and_step_and_one_is_kept_at_least():
    tower = DualEncoder(CONFIG, **SIZES, patch_dropout=0.5).vision
    first, second = (tower._draw_patches(torch.empty(8, 64, 1)) for _ in range(2))
    assert first.shape == (8, 32)
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first, second)
    tower.patch_dropout = 0.999
    assert tower._draw_patches(torch.empty(2, 16, 1)).shape == (2, 1)


def test_quick_gelu_is_another_function():
    torch.manual_seed(0)
    exact = DualEncoder(CONFIG, **SIZES)
    quick = DualEncoder(CONFIG.model_copy(update={"activation": "quick_gelu"}), **SIZES)
    quick.load_state_dict(exact.state_dict())
    gap = (exact.encode_video(clip()) - quick.encode_video(clip())).abs().max()
    assert 1e-5 < gap < 0.1


def test_fresh_position_tables_have_the_architectures_spread():
    torch.manual_seed(0)
    wide = CONFIG.vision.model_copy(update={"temporal_std": 0.5, "positional_std": 0.3})
    sizes = {"frames": 64, "image_size_px": 64}
    tower = DualEncoder(CONFIG.model_copy(update={"vision": wide}), **sizes).vision
    assert tower.temporal_embedding.std().item() == pytest.approx(0.5, rel=0.1)
    assert tower.positional_embedding.std().item() == pytest.approx(0.3, rel=0.1)
    usual = DualEncoder(CONFIG, **sizes).vision
    assert not usual.temporal_embedding.any()
    assert usual.positional_embedding.std().item() == pytest.approx(24**-0.5, rel=0.1)
