"""Every loss over two and three processes: the value and gradient of one process with the whole batch.

With local negatives they are those of one process that takes the mean over the parts of the batch.
"""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from avion_core.config import CONTRASTIVE_LOSSES, RELEVANCY_LOSSES
from avion_core.data.clips import ClipTable, Sentences
from avion_core.registry import load
from avion_core.train import losses
from avion_core.train.averaging import averaged
from avion_core.train.distributed import World, alone
from avion_core.train.relevancy import PairRelevancy
from tests.support.processes import exit_codes

pytestmark = pytest.mark.slow

ROWS = 12
VALUES = {
    "symmetric_multi_similarity": {"margin": 0.6, "relaxation": 0.1},
    "max_margin": {"margin": 0.2},
    "adaptive_max_margin": {"margin": 0.4},
}
ALL = [*CONTRASTIVE_LOSSES, "info_nce of two sources", *RELEVANCY_LOSSES]


def pair_relevancy() -> PairRelevancy:
    """Of more clips than a batch has, few classes, so that many pairs are partly relevant."""
    rng = np.random.default_rng(4)
    verbs, nouns = rng.integers(3, size=40), rng.integers(5, size=(40, 2)).tolist()
    clip = {"video_id": "a", "start_s": 0.0, "end_s": 1.0, "texts": ["x"]}
    clips = [{**clip, "verb": int(verb), "nouns": both} for verb, both in zip(verbs, nouns, strict=True)]
    sentences = Sentences(texts=["x"] * 20, verbs=verbs[:20], nouns=nouns[20:])
    return PairRelevancy(ClipTable.from_rows(clips), sentences, device=torch.device("cpu"))


def loss_functions() -> dict[str, partial]:
    """Each called with (video, text, rows, text_ids, scale, bias, gather=)."""
    relevancy = pair_relevancy()
    verb_tags, noun_tags = torch.rand(2, 40, 5, generator=torch.Generator().manual_seed(6)) < 0.3

    def contrastive(video, text, rows, text_ids, scale, bias, *, gather):
        return losses.info_nce(video, text, scale=scale, gather=gather) + 0 * bias

    def of_two_sources(video, text, rows, text_ids, scale, bias, *, gather):
        given = {"narrated": rows % 2 == 0, "narrated_scale": -bias}
        return losses.info_nce(video, text, scale=scale, gather=gather, **given)

    def egonce(video, text, rows, text_ids, scale, bias, *, gather):
        tags = {"verb_tags": verb_tags[rows], "noun_tags": noun_tags[rows]}
        return losses.ego_nce(video, text, scale=scale, gather=gather, **tags) + 0 * bias

    def sigmoid(video, text, rows, text_ids, scale, bias, *, gather):
        return losses.sigmoid(video, text, scale=scale, bias=bias, gather=gather)

    def ranking(video, text, rows, text_ids, scale, bias, *, gather, name):
        matrix = relevancy(gather(rows), gather(text_ids))
        value = load(RELEVANCY_LOSSES[name].function)(video, text, matrix, **VALUES[name], gather=gather)
        return value + 0 * scale + 0 * bias

    rankings = {name: partial(ranking, name=name) for name in RELEVANCY_LOSSES}
    ours = {"info_nce": contrastive, "info_nce of two sources": of_two_sources}
    return {**ours, "sigmoid": sigmoid, "egonce": egonce, **rankings}


def gradients(world: World, *, negatives: str, parts: int) -> dict[str, torch.Tensor]:
    """Mean loss and averaged gradient by name: of this world's shares, or alone of so many parts in turn."""
    generator = torch.Generator().manual_seed(3)
    x, y = torch.randn(2, ROWS, 5, generator=generator)
    rows = torch.randint(40, (ROWS,), generator=generator)
    text_ids = torch.randint(20, (ROWS,), generator=generator)
    weights = torch.nn.ParameterList(
        [torch.randn(2, 5, 4, generator=generator), torch.tensor(5.0), torch.tensor(-2.0)]
    )
    gather = world.gather if negatives == "global" else losses.local
    share = ROWS // (parts * world.size)
    mine = [world.rank + part for part in range(parts)]
    found = {}
    for name, loss in loss_functions().items():
        projections, scale, bias = weights
        embedded = [F.normalize(z @ w, dim=-1) for z, w in zip((x, y), projections, strict=True)]
        shares = [
            loss(
                *(z[n * share : (n + 1) * share] for z in (*embedded, rows, text_ids)),
                scale,
                bias,
                gather=gather,
            )
            for n in mine
        ]
        value = torch.stack(shares).mean()
        weights.zero_grad()
        with averaged(weights, world):
            value.backward()
        found[name] = torch.tensor(world.mean([value]))
        found |= {f"{name}.{place}": weight.grad.clone() for place, weight in enumerate(weights)}
    return found


@pytest.fixture(scope="module", params=[2, 3])
def processes(request):
    return request.param


@pytest.fixture(scope="module")
def gathered(processes, tmp_path_factory):
    """What so many processes left in a folder."""
    folder = tmp_path_factory.mktemp("gathered")
    assert exit_codes(partial(leave, folder), processes=processes) == [0] * processes
    return folder


def leave(folder: Path, world: World) -> None:
    for negatives in ("global", "local"):
        found = gradients(world, negatives=negatives, parts=1)
        if world.leads:
            save_file(found, folder / f"{negatives}.safetensors")


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("negatives", ["global", "local"])
def test_many_processes_have_the_loss_and_gradient_of_one(gathered, processes, negatives, name):
    many = load_file(gathered / f"{negatives}.safetensors")
    one = gradients(alone(), negatives=negatives, parts=processes if negatives == "local" else 1)
    assert one[name] > 0
    assert one[f"{name}.0"].abs().max() > 1e-3
    for key in (name, *(f"{name}.{place}" for place in range(3))):
        torch.testing.assert_close(many[key], one[key], rtol=1e-5, atol=1e-6)


def test_local_negatives_are_fewer(gathered):
    everyone, own = (load_file(gathered / f"{name}.safetensors") for name in ("global", "local"))
    assert all(abs(everyone[name] - own[name]) > 1e-3 for name in ALL)
