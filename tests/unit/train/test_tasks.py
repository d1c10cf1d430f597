"""What one step computes, by hand or by a property, and which sentence it is computed with."""

import math
from collections import Counter
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from timm.data.mixup import Mixup
from torch import nn

from avion_core.config import RELEVANCY_LOSSES
from avion_core.data.clips import ClipTable, Sentences
from avion_core.models.architecture import DualEncoderConfig, VideoMAEConfig
from avion_core.models.dual_encoder import DualEncoder
from avion_core.models.narrator import Narrator
from avion_core.models.towers import TextConfig, VisionConfig
from avion_core.models.videomae import VideoMAE
from avion_core.registry import load
from avion_core.train.losses import ego_nce, info_nce, local, sigmoid
from avion_core.train.tasks.captioning import CaptioningTask
from avion_core.train.tasks.classification import ClassificationTask, Labels, mix
from avion_core.train.tasks.contrastive import ContrastiveTask
from avion_core.train.tasks.reconstruction import ReconstructionTask
from avion_core.train.tasks.relevancy import RelevancyTask
from avion_core.train.texts import AnyText, RelevantSentence
from tests.support.gates import open_gates
from tests.unit.train.tiny_tasks import NARRATOR

SMALL = DualEncoderConfig(
    vision=VisionConfig(width=16, layers=1, heads=2, patch_px=8),
    text=TextConfig(width=16, layers=1, heads=2, context_length=8, vocabulary=20),
    embed_dim=8,
)
SMALL_MAE = VideoMAEConfig(width=16, layers=1, heads=2, patch_px=8, decoder_width=8, decoder_heads=2)


@pytest.fixture
def batch():
    torch.manual_seed(5)
    frames = torch.randint(256, (4, 2, 16, 16, 3), dtype=torch.uint8)
    return {
        "frames": frames,
        "tokens": torch.randint(1, 20, (4, 8)),
        "rows": torch.tensor([3, 0, 2, 0]),
        "text_ids": torch.tensor([1, 1, 0, 2]),
    }


@pytest.fixture
def dual_encoder():
    torch.manual_seed(0)
    return DualEncoder(SMALL, frames=2, image_size_px=16, learn_temperature=True)


class Pixels(nn.Module):
    """A classifier that looks at the mean of each channel."""

    def normalise(self, frames_BTHWC):
        return frames_BTHWC.permute(0, 4, 1, 2, 3).float() / 255

    def forward(self, frames_BCTHW):
        return frames_BCTHW.mean(dim=(2, 3, 4))


def test_contrastive_is_info_nce_of_the_models_embeddings(batch, dual_encoder):
    result = ContrastiveTask(dual_encoder).loss(batch)
    video, text, scale = dual_encoder(dual_encoder.normalise(batch["frames"]), batch["tokens"])
    assert result.loss.item() == pytest.approx(info_nce(video, text, scale=scale).item())
    assert result.metrics["temperature"].item() == pytest.approx(0.07, rel=1e-5)


@pytest.mark.parametrize(("moved_to", "kept"), [(-3.0, 0.0), (9.0, 4.6051702), (2.0, 2.0)])
def test_the_temperature_stays_in_its_bounds(dual_encoder, moved_to, kept):
    dual_encoder.logit_scale.data.fill_(moved_to)
    ContrastiveTask(dual_encoder).after_update()
    assert dual_encoder.logit_scale.item() == pytest.approx(kept)


def test_a_frozen_temperature_is_the_settings_whatever_it_is():
    model = DualEncoder(SMALL, frames=2, image_size_px=16, temperature=10)
    ContrastiveTask(model).after_update()
    assert model.logit_scale.exp().item() == pytest.approx(0.1)


def test_the_sigmoid_loss_takes_the_models_bias(batch):
    torch.manual_seed(0)
    model = DualEncoder(SMALL, frames=2, image_size_px=16, logit_bias=-10.0)
    result = ContrastiveTask(model, loss=sigmoid).loss(batch)
    video, text, scale = model(model.normalise(batch["frames"]), batch["tokens"])
    assert result.loss.item() == pytest.approx(sigmoid(video, text, scale=scale, bias=-10.0).item())
    assert result.metrics["logit_bias"].item() == -10
    result.loss.backward()
    # by hand: the bias's gradient is the mean over clips of the sum over texts of the probabilities, minus 1
    probabilities = torch.sigmoid(scale * video @ text.T - 10)
    assert model.logit_bias.grad.item() == pytest.approx(probabilities.sum().item() / 4 - 1, rel=1e-5)


def test_narrated_clips_may_have_a_temperature_of_their_own(batch):
    torch.manual_seed(0)
    sizes = {"frames": 2, "image_size_px": 16, "narrated_temperature": 0.2, "learn_temperature": True}
    model = DualEncoder(SMALL, **sizes)
    narrated = torch.arange(len(batch["frames"])) % 2 == 0
    task = ContrastiveTask(model, entries=["narrated"])
    result = task.loss({**batch, "narrated": narrated})
    video, text, scale = model(model.normalise(batch["frames"]), batch["tokens"])
    expected = info_nce(video, text, scale=scale, narrated=narrated, narrated_scale=5.0)
    assert result.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert result.loss.item() != pytest.approx(info_nce(video, text, scale=scale).item(), rel=1e-3)
    assert result.metrics["narrated_temperature"].item() == pytest.approx(0.2, rel=1e-5)
    result.loss.backward()
    assert model.logit_scale_narrated.grad.item() != 0
    model.logit_scale_narrated.data.fill_(9.0)
    task.after_update()
    assert model.logit_scale_narrated.item() == pytest.approx(4.6051702)
    assert not DualEncoder(SMALL, **{**sizes, "learn_temperature": False}).logit_scale_narrated.requires_grad


def test_the_tags_of_a_batch_reach_the_loss(batch, dual_encoder):
    tags = {"verb_tags": torch.ones(len(batch["frames"]), 3, dtype=torch.bool)}
    task = ContrastiveTask(dual_encoder, loss=ego_nce, entries=["verb_tags"])
    # every pair is a positive
    assert task.loss({**batch, **tags}).loss.item() == pytest.approx(0, abs=1e-5)
    assert ContrastiveTask(dual_encoder, loss=ego_nce).loss(batch).loss.item() > 0.1


def two_processes(x):
    """A gather from another process that holds the same clips and sentences."""
    return torch.cat([x, x])


@pytest.mark.parametrize("name", RELEVANCY_LOSSES)
@pytest.mark.parametrize("gather", [local, two_processes])
def test_relevancy_ranks_by_the_relevancy_of_all_gathered_rows_and_sentences(
    batch, dual_encoder, name, gather
):
    matrix = torch.rand(4, 3, generator=torch.Generator().manual_seed(2))
    ranking = load(RELEVANCY_LOSSES[name].function)
    values = {"margin": 0.3, **({"relaxation": 0.05} if name == "symmetric_multi_similarity" else {})}
    task = RelevancyTask(
        dual_encoder,
        ranking=partial(ranking, **values),
        relevancy=lambda rows, text_ids: matrix[rows][:, text_ids],
        gather=gather,
    )
    video, text, _ = dual_encoder(dual_encoder.normalise(batch["frames"]), batch["tokens"])
    relevancy = matrix[gather(batch["rows"])][:, gather(batch["text_ids"])]
    expected = ranking(gather(video), gather(text), relevancy, **values)
    assert task.loss(batch).loss.item() == pytest.approx(expected.item())


def test_classification_takes_the_labels_of_the_rows(batch):
    task = ClassificationTask(Pixels(), labels=torch.tensor([1, 0, 2, 1]), classes=3, label_smoothing=0.1)
    result, model = task.loss(task.prepare(batch)), Pixels()
    logits, labels = model(model.normalise(batch["frames"])), torch.tensor([1, 1, 2, 1])
    assert result.loss.item() == pytest.approx(F.cross_entropy(logits, labels, label_smoothing=0.1).item())
    assert result.metrics["accuracy"].item() == (logits.argmax(1) == labels).float().mean().item()


def test_the_losses_of_several_labels_are_added_each_over_its_own_outputs(batch):
    labels, verbs = torch.tensor([1, 0, 1, 1]), torch.tensor([0, 0, 0, 0])
    further = {"verb": Labels(verbs, 1)}
    task = ClassificationTask(Pixels(), labels=labels, classes=2, further=further, label_smoothing=0.1)
    result, model = task.loss(task.prepare(batch)), Pixels()
    logits, own = model(model.normalise(batch["frames"])), labels[batch["rows"]]
    expected = F.cross_entropy(logits[:, :2], own, label_smoothing=0.1)
    expected += F.cross_entropy(logits[:, 2:], verbs, label_smoothing=0.1)
    assert result.loss.item() == pytest.approx(expected.item())
    assert result.metrics.keys() == {"accuracy", "verb_accuracy"}
    assert result.metrics["accuracy"].item() == (logits[:, :2].argmax(1) == own).float().mean().item()
    with pytest.raises(ValueError, match="go from 0 to 0, the class list has 0"):
        ClassificationTask(Pixels(), labels=labels, classes=2, further={"verb": Labels(verbs, 0)})


@pytest.mark.parametrize("cutmix", [0.0, 1.0])
def test_all_labels_of_a_clip_are_mixed_by_the_same_share(cutmix):
    frames, labels = torch.rand(4, 3, 2, 8, 8), torch.tensor([[0, 1], [1, 0], [2, 2], [0, 3]])
    mixups = [
        Mixup(mixup_alpha=0.8 - 0.8 * cutmix, cutmix_alpha=cutmix, label_smoothing=0.1, num_classes=count)
        for count in (3, 4)
    ]
    torch.manual_seed(7)
    alone, first = mix(frames, labels[:, :1], mixups[:1])
    torch.manual_seed(7)
    mixed, targets = mix(frames, labels, mixups)
    assert torch.equal(mixed, alone)
    assert torch.equal(targets[:, :3], first)
    share = (targets[1, 1] - 0.1 / 3).item()  # of clip 1, whose partner is clip 2
    assert 0 < share < 0.9
    assert targets[1].split([3, 4])[1][0].item() - 0.1 / 4 == pytest.approx(share)


def test_a_label_beyond_the_class_list_is_refused():
    with pytest.raises(ValueError, match="go from 0 to 4, the class list has 3"):
        ClassificationTask(Pixels(), labels=torch.tensor([0, 4]), classes=3)


def test_cutmix_cuts_the_same_box_from_all_frames_and_weighs_labels_by_its_area():
    frames = torch.zeros(2, 3, 4, 10, 10)
    frames[1] = 1
    cutmix = Mixup(mixup_alpha=0, cutmix_alpha=1, label_smoothing=0, num_classes=2)
    torch.manual_seed(1)
    mixed, targets = mix(frames, torch.tensor([[0], [1]]), [cutmix])
    assert (mixed == mixed[:, :1, :1]).all()
    foreign = mixed[0].mean().item()
    assert 0 < foreign < 1
    torch.testing.assert_close(targets, torch.tensor([[1 - foreign, foreign], [foreign, 1 - foreign]]))
    assert frames[0].sum() == 0


def test_mixing_repeats_with_torchs_seed_and_leaves_numpys_generator_alone():
    frames, labels = torch.rand(4, 3, 2, 8, 8), torch.tensor([[0], [1], [2], [0]])
    mixup = Mixup(mixup_alpha=0.8, cutmix_alpha=1, label_smoothing=0.1, num_classes=3)
    drawn = []
    for seed in (7, 7, 8):
        torch.manual_seed(seed)
        np.random.seed(123)
        drawn.append(mix(frames, labels, [mixup]))
        assert np.random.rand() == np.random.RandomState(123).rand()
    assert torch.equal(drawn[0][0], drawn[1][0])
    assert torch.equal(drawn[0][1], drawn[1][1])
    assert not torch.equal(drawn[0][0], drawn[2][0])
    assert drawn[0][1].sum(dim=1).tolist() == pytest.approx([1, 1, 1, 1], abs=1e-5)


def test_reconstruction_compares_hidden_pixels_and_repeats_with_the_seed(batch):
    torch.manual_seed(0)
    model = VideoMAE(SMALL_MAE, frames=2, image_size_px=16)
    task = ReconstructionTask(model, mask_ratio=0.5)
    losses = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        losses.append(task.loss(task.prepare(batch)).loss.item())
    torch.manual_seed(1)
    mask = model.tube_mask(4, 0.5, torch.default_generator)
    expected = F.mse_loss(model(model.normalise(batch["frames"]), mask), model.target(batch["frames"], mask))
    assert losses[0] == losses[1] == pytest.approx(expected.item())
    assert losses[2] != losses[0]


def clip(**columns):
    return {"video_id": "a", "start_s": 0.0, "end_s": 1.0, "texts": ["x"], **columns}


def test_any_of_a_rows_texts_is_drawn():
    choose = AnyText(ClipTable.from_rows([clip(texts=["one", "two", "three"]), clip(texts=["four"])]))
    rng = np.random.default_rng(0)
    assert {choose(0, rng) for _ in range(50)} == {(0, "one"), (1, "two"), (2, "three")}
    assert choose(1, rng) == (0, "four")


def test_a_clip_without_a_text_is_named():
    with pytest.raises(ValueError, match=r"row 1 .* has no text"):
        AnyText(ClipTable.from_rows([clip(), clip(texts=[])]))


SENTENCES = Sentences(
    texts=["take cup", "take the cup", "wash cup and plate", "cut bread"],
    verbs=np.array([0, 0, 1, 2]),
    nouns=[[5], [5], [5, 6], [7]],
)


def test_sentences_are_drawn_evenly_from_those_above_the_bound():
    clips = ClipTable.from_rows([clip(verb=0, noun=5, nouns=[5])])
    rng = np.random.default_rng(0)
    choose = RelevantSentence(clips, SENTENCES, min_relevancy=0.1)
    drawn = Counter(choose(0, rng)[0] for _ in range(900))
    assert drawn.keys() == {0, 1, 2}  # relevancies 1, 1, (0 + 1/2) / 2, 0
    assert max(drawn.values()) - min(drawn.values()) < 90
    strict = RelevantSentence(clips, SENTENCES, min_relevancy=0.25)
    assert {strict(0, rng) for _ in range(50)} == {(0, "take cup"), (1, "take the cup")}


def test_a_clip_without_a_relevant_sentence_is_named():
    clips = ClipTable.from_rows([clip(verb=9, noun=9, nouns=[9])])
    with pytest.raises(ValueError, match=r"row 0 .* lower min_relevancy"):
        RelevantSentence(clips, SENTENCES, min_relevancy=0.1)(0, np.random.default_rng(0))


@pytest.fixture
def narrations():
    """Token ids of four texts, 3, 5, 6 and 8 long, the last of which has the padding's id inside."""
    tokens = torch.tensor([[1, 5, 2, 0, 0, 0, 0, 0], [1, 7, 8, 9, 2, 0, 0, 0], [1, 7, 8, 9, 3, 2, 0, 0]])
    return torch.cat([tokens, torch.tensor([[1, 4, 0, 6, 7, 8, 9, 2]])])


@pytest.fixture
def narrator():
    torch.manual_seed(0)
    return open_gates(Narrator(NARRATOR, frames=2, image_size_px=16))


def captioning_loss(task, batch) -> tuple[float, float]:
    result = task.loss(task.prepare(batch))
    return result.loss.item(), result.metrics["perplexity"].item()


def test_captioning_averages_over_tokens_and_never_counts_padding(batch, narrator, narrations):
    batch["tokens"] = narrations
    logits = narrator(narrator.normalise(batch["frames"]), narrations[:, :-1])
    by_clip = [
        [-row[place].log_softmax(-1)[token].item() for place, token in enumerate(text[1:]) if token]
        for row, text in zip(logits, narrations.tolist(), strict=True)
    ]
    assert [len(losses) for losses in by_clip] == [2, 4, 5, 6]
    summed, means = sum(map(sum, by_clip)), [sum(losses) / len(losses) for losses in by_clip]
    perplexity = sum(map(math.exp, means)) / 4
    found = captioning_loss(CaptioningTask(narrator), batch)
    assert found == pytest.approx((summed / 17, perplexity), rel=1e-5)
    published = captioning_loss(CaptioningTask(narrator, over_places=True), batch)
    assert published == pytest.approx((summed / (4 * 7), perplexity), rel=1e-5)
    three = {"frames": batch["frames"][:3]}
    lengths = [
        captioning_loss(CaptioningTask(narrator), {**three, "tokens": narrations[:3, :length]})
        for length in (6, 8)
    ]
    assert lengths[0] == pytest.approx(lengths[1], rel=1e-5)


def test_captioning_learns_what_is_said(batch, narrator, narrations):
    batch["tokens"] = narrations
    task = CaptioningTask(narrator)
    optimizer = torch.optim.AdamW([w for w in narrator.parameters() if w.requires_grad], lr=1e-2)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = task.loss(task.prepare(batch)).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 < 2 < losses[0]
