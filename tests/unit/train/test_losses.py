"""The losses against naive versions of themselves, in value and gradient; and what they keep in memory."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from avion_core.train import losses


def embeddings(rows: int, *, width: int = 6, dtype=torch.float64, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    pair = torch.randn(2, rows, width, generator=generator, dtype=dtype)
    return [F.normalize(x, dim=1).requires_grad_() for x in pair]


def scalars(dtype=torch.float64) -> list[torch.Tensor]:
    return [torch.tensor(value, dtype=dtype, requires_grad=True) for value in (14.0, -3.0)]


def lean_info_nce(video, text, scale, bias):
    return losses.info_nce(video, text, scale=scale) + 0 * bias


def plain_info_nce(video, text, scale, bias):
    logits, places = scale * video @ text.T, torch.arange(len(video))
    return (F.cross_entropy(logits, places) + F.cross_entropy(logits.T, places)) / 2 + 0 * bias


def lean_sigmoid(video, text, scale, bias):
    return losses.sigmoid(video, text, scale=scale, bias=bias)


def plain_sigmoid(video, text, scale, bias):
    matches = 2 * torch.eye(len(video), dtype=video.dtype) - 1
    return -F.logsigmoid(matches * (scale * video @ text.T + bias)).sum() / len(video)


def tags_of(rows: int) -> dict[str, torch.Tensor]:
    """Of few classes; some rows have none."""
    generator = torch.Generator().manual_seed(rows)
    chosen = torch.rand(2, rows, 4, generator=generator) < 0.3
    return {"verb_tags": chosen[0], "noun_tags": chosen[1][:, :3]}


def lean_ego_nce(video, text, scale, bias):
    return losses.ego_nce(video, text, scale=scale, **tags_of(len(video))) + 0 * bias


def plain_ego_nce(video, text, scale, bias):
    """Row by row, by the definition."""
    logits = scale * text @ video.T
    verbs, nouns = (tags.tolist() for tags in tags_of(len(video)).values())
    value = 0 * bias
    for row in range(len(video)):
        positives = [
            other
            for other in range(len(video))
            if other == row
            or all(
                any(mine and theirs for mine, theirs in zip(tags[row], tags[other], strict=True))
                for tags in (verbs, nouns)
            )
        ]
        for scores in (logits[row], logits[:, row]):
            value = value - scores.log_softmax(dim=0)[positives].logsumexp(dim=0) / len(video)
    return value


PAIRS = [
    (lean_info_nce, plain_info_nce),
    (lean_sigmoid, plain_sigmoid),
    (lean_ego_nce, plain_ego_nce),
]
TOLERANCES = {torch.float64: {"rtol": 1e-12, "atol": 1e-12}, torch.float32: {"rtol": 2e-5, "atol": 3e-5}}


@pytest.mark.parametrize(("lean", "plain"), PAIRS)
@pytest.mark.parametrize("dtype", TOLERANCES)
@settings(deadline=None, max_examples=30)
@given(rows=st.integers(1, 40), at_once=st.integers(1, 2000), seed=st.integers(0, 9))
def test_blocks_change_neither_value_nor_gradient(lean, plain, dtype, rows, at_once, seed):
    found = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(losses, "LOGITS_AT_ONCE", at_once)
        for loss in (lean, plain):
            inputs = [*embeddings(rows, dtype=dtype, seed=seed), *scalars(dtype)]
            value = loss(*inputs)
            found.append([value, *torch.autograd.grad(3 * value, inputs)])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, **TOLERANCES[dtype])


@pytest.mark.parametrize("needed", [[], [0], [1], [2], [0, 1]])
def test_any_input_may_be_frozen(needed):
    inputs = [*embeddings(5), *scalars()]
    for place, x in enumerate(inputs):
        x.requires_grad_(place in needed)
    value = lean_info_nce(*inputs[:3], 0.0)
    assert value.requires_grad == bool(needed)
    if needed:
        value.backward()
    assert [place for place, x in enumerate(inputs) if x.grad is not None] == needed


class Largest(TorchDispatchMode):
    """Notes the numbers in the largest tensor that any operation makes."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        sizes = [x.numel() for x in tree_leaves(made) if isinstance(x, torch.Tensor)]
        self.numbers = max([self.numbers, *sizes])
        return made


@pytest.mark.parametrize(("lean", "plain"), PAIRS[:2])
def test_no_more_logits_than_a_block_of_them_exist_in_either_pass(monkeypatch, lean, plain):
    rows, width = 64, 4
    monkeypatch.setattr(losses, "LOGITS_AT_ONCE", 8 * rows)
    largest = []
    for loss in (lean, plain):
        inputs = [*embeddings(rows, width=width), *scalars()]
        with Largest() as seen:
            loss(*inputs).backward()
        largest.append(seen.numbers)
    assert largest == [8 * rows, rows * rows]


def test_ego_nce_has_no_more_logits_than_a_block_of_them(monkeypatch):
    rows = 64
    monkeypatch.setattr(losses, "LOGITS_AT_ONCE", 8 * rows)
    with Largest() as seen:
        lean_ego_nce(*embeddings(rows, width=4), *scalars()).backward()
    # of two kinds of tags, whether a block of pairs shares them
    assert seen.numbers == 2 * 8 * rows


def test_ego_nce_by_hand():
    """Rows 0 and 1 share verb and noun, rows 1 and 2 only the noun."""
    # cosines of texts 0, 1, 2 (rows) with videos 0, 1, 2 (columns)
    cosine = torch.tensor([[0.1, 0.2, 0.0], [0.0, 0.1, 0.1], [0.2, 0.0, 0.3]])
    exp = (10 * cosine).exp().tolist()
    verbs, nouns = (torch.tensor(x, dtype=torch.bool) for x in ([[1, 0], [1, 0], [0, 1]], [[1], [1], [1]]))
    text_to_video = [(exp[0][0] + exp[0][1]) / sum(exp[0]), (exp[1][0] + exp[1][1]) / sum(exp[1])]
    text_to_video.append(exp[2][2] / sum(exp[2]))
    columns = list(zip(*exp, strict=True))
    video_to_text = [sum(columns[0][:2]) / sum(columns[0]), sum(columns[1][:2]) / sum(columns[1])]
    video_to_text.append(columns[2][2] / sum(columns[2]))
    expected = -sum(map(math.log, text_to_video)) / 3 - sum(map(math.log, video_to_text)) / 3
    found = losses.ego_nce(torch.eye(3), cosine, scale=10.0, verb_tags=verbs, noun_tags=nouns)
    assert found.item() == pytest.approx(expected, rel=1e-5)
    alone = losses.ego_nce(torch.eye(3), cosine, scale=10.0, verb_tags=verbs)
    assert alone.item() == pytest.approx(expected, rel=1e-5)  # the noun is shared by all
    everything = losses.ego_nce(torch.eye(3), cosine, scale=10.0, noun_tags=nouns)
    assert everything.item() == pytest.approx(0, abs=1e-6)


@given(rows=st.integers(1, 20), seed=st.integers(0, 9))
@settings(deadline=None, max_examples=20)
def test_ego_nce_without_tags_is_twice_info_nce_and_no_tags_are_shared(rows, seed):
    video, text = embeddings(rows, seed=seed)
    twice = 2 * losses.info_nce(video, text, scale=20.0)
    torch.testing.assert_close(losses.ego_nce(video, text, scale=20.0), twice)
    none = torch.zeros(rows, 3, dtype=torch.bool)
    torch.testing.assert_close(losses.ego_nce(video, text, scale=20.0, verb_tags=none, noun_tags=none), twice)


def test_ego_nce_does_not_depend_on_the_order_of_rows():
    video, text = embeddings(9)
    order, tags = torch.randperm(9, generator=torch.Generator().manual_seed(1)), tags_of(9)
    given = losses.ego_nce(video, text, scale=20.0, **tags)
    shuffled = {name: x[order] for name, x in tags.items()}
    torch.testing.assert_close(losses.ego_nce(video[order], text[order], scale=20.0, **shuffled), given)


def test_ego_nce_stays_finite_where_a_probability_underflows():
    # each clip is opposite to its own text, and the other's twin: exp(-400) is 0 in 32 bits
    video = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], requires_grad=True)
    text = torch.tensor([[-1.0, 0.0], [1.0, 0.0]])
    value = losses.ego_nce(video, text, scale=200.0)
    value.backward()
    assert value.item() == pytest.approx(800)
    assert torch.isfinite(video.grad).all()


def test_one_temperature_for_both_sources_is_plain_info_nce():
    video, text = embeddings(9)
    narrated = torch.arange(9) % 2 == 0
    both = losses.info_nce(video, text, scale=14.0, narrated=narrated, narrated_scale=14.0)
    torch.testing.assert_close(both, losses.info_nce(video, text, scale=14.0))
    own = losses.info_nce(video, text, scale=14.0, narrated=narrated, narrated_scale=4.0)
    # by the definition: a scale for each pair
    root = torch.where(narrated, 4.0, 14.0).double().sqrt()
    logits = root[:, None] * root * (video @ text.T)
    places = torch.arange(9)
    expected = (F.cross_entropy(logits, places) + F.cross_entropy(logits.T, places)) / 2
    torch.testing.assert_close(own, expected)
    assert abs(own - both) > 1e-2


def relevancies(rows: int) -> torch.Tensor:
    steps = torch.randint(0, 5, (rows, rows), generator=torch.Generator().manual_seed(1))
    return steps.double() / 4


def naive_max_margin(video, text, relevancy, margin=0.2):
    return naive_ranking(video, text, lambda i, j, own, other: max(0, margin - own + other))


def naive_adaptive_max_margin(video, text, relevancy, margin=0.4):
    return naive_ranking(video, text, lambda i, j, own, other: max(0, margin * relevancy[i, i] - own + other))


def naive_ranking(video, text, cost):
    similarity, rows = video @ text.T, range(len(video))
    pairs = [(i, j) for i in rows for j in rows if i != j]
    forth = sum(cost(i, j, similarity[i, i], similarity[i, j]) for i, j in pairs)
    back = sum(cost(i, j, similarity[i, i], similarity[j, i]) for i, j in pairs)
    return (forth + back) / (2 * len(pairs))


def naive_symmetric_multi_similarity(video, text, relevancy, margin=0.6, relaxation=0.1):
    similarity, rows, costs = video @ text.T, range(len(video)), []
    for s, r in ((similarity, relevancy), (similarity.T, relevancy.T)):
        for i in rows:
            for j in rows:
                wanted, gap = margin * (r[i, i] - r[i, j]), s[i, i] - s[i, j]
                if i == j:
                    continue
                if wanted > 0:
                    costs.append(max(0, wanted - gap))
                elif wanted < 0:
                    costs.append(max(0, gap - wanted))
                else:
                    costs.append(max(0, abs(gap) - relaxation))
    return sum(costs) / len(costs)


@pytest.mark.parametrize(
    ("name", "naive", "values"),
    [
        ("max_margin", naive_max_margin, {"margin": 0.2}),
        ("adaptive_max_margin", naive_adaptive_max_margin, {"margin": 0.4}),
        (
            "symmetric_multi_similarity",
            naive_symmetric_multi_similarity,
            {"margin": 0.6, "relaxation": 0.1},
        ),
    ],
)
def test_rankings_equal_naive_ones(name, naive, values):
    found = []
    for loss, options in ((getattr(losses, name), values), (naive, {})):
        video, text = embeddings(7)
        value = loss(video, text, relevancies(7), **options)
        found.append([value, *torch.autograd.grad(value, (video, text))])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_symmetric_multi_similarity_is_nothing_where_gaps_are_as_wanted():
    # two equally relevant pairs, all similarities alike; a third clip whose pairs have nothing in common
    video = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    relevancy = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    options = {"margin": 1.0, "relaxation": 0.0}
    assert losses.symmetric_multi_similarity(video, video, relevancy, **options) == 0
    # the max margin wants the equal ones apart: 4 of the 12 comparisons miss the whole margin
    assert losses.max_margin(video, video, margin=0.3).item() == pytest.approx(0.3 * 4 / 12)


def test_the_sigmoid_loss_begins_small_at_its_published_start():
    # by hand: all similarities 0, so every logit is -10 whatever the scale
    video, text = torch.eye(4)[:2], torch.eye(4)[2:]
    value = losses.sigmoid(video, text, scale=10.0, bias=-10.0)
    assert value.item() == pytest.approx(math.log1p(math.exp(10)) + math.log1p(math.exp(-10)), rel=1e-6)


def test_the_mean_over_pairs_is_that_of_a_mask_bit_by_bit():
    values = torch.randn(2, 7, 7, generator=torch.Generator().manual_seed(0)).requires_grad_()
    found = losses._mean_off_diagonal(values)
    expected = values[:, ~torch.eye(7, dtype=torch.bool)].mean()
    assert torch.equal(found, expected)
    assert torch.equal(*(torch.autograd.grad(mean, values)[0] for mean in (found, expected)))
