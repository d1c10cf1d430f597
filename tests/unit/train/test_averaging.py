"""Gradients averaged during the backward pass: values, order of the collectives, communication of a step."""

import json
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch.utils.checkpoint import checkpoint

from avion_core.train import averaging
from avion_core.train.accumulation import Accumulation
from avion_core.train.averaging import averaged
from avion_core.train.distributed import World, alone
from avion_core.train.optim import broadcast_bytes, make_optimizer, parameter_groups
from avion_core.train.protocols import Task
from avion_core.train.tasks.classification import ClassificationTask
from tests.support.processes import exit_codes, start
from tests.unit.train.tiny_tasks import CLASSES, CLIPS, DUAL, LABELS, make_batch, make_task, make_training

pytestmark = pytest.mark.slow

TASKS = ("contrastive", "relevancy", "classification")
PARTS = (1, 2)
ENTRIES = {"loss", "size", "norm", "stop", "checkpoint"}
"""What a step of `tiny_training` averages besides its gradients, 8 bytes each."""


def task_of(name: str, world: World) -> Task:
    """A tiny task without mixup, which draws differently in each process."""
    task = make_task(name, world=world)
    if name == "classification":
        return ClassificationTask(task.model, labels=LABELS, classes=CLASSES)
    return task


def trained(task: Task) -> dict[str, torch.nn.Parameter]:
    return {name: weight for name, weight in task.model.named_parameters() if weight.requires_grad}


def backward(task: Task, world: World, parts: int, averaging=nullcontext) -> None:
    """Gradients of this process's share of a batch."""
    Accumulation(
        parts=parts,
        reseed=torch.manual_seed,
        autocast=nullcontext,
        scale=lambda loss: loss,
        averaging=averaging,
    ).backward(task, make_batch(0, world=world))


def gradients(name: str, world: World, parts: int) -> dict[str, torch.Tensor]:
    task = task_of(name, world)
    weights = trained(task)
    backward(task, world, parts, partial(averaged, weights.values(), world))
    return {place: weight.grad for place, weight in weights.items()}


def in_one_message(name: str, world: World, parts: int) -> dict[str, torch.Tensor]:
    """The same, averaged after the backward pass."""
    task = task_of(name, world)
    weights = trained(task)
    backward(task, world, parts)
    flat = torch.cat([weight.grad.flatten() for weight in weights.values()])
    dist.all_reduce(flat)
    flat /= world.size
    means = flat.split([weight.numel() for weight in weights.values()])
    return {place: mean.view_as(weight) for (place, weight), mean in zip(weights.items(), means, strict=True)}


def events(name: str, world: World, parts: int) -> list[str]:
    """Order of a step's all-reduces, by their number of values, and of its gradients, by their weights."""
    found, sum_of = [], World.start_sum

    def noted(world: World, x: torch.Tensor) -> dist.Work:
        found.append(f"reduce {x.numel()}")
        return sum_of(world, x)

    task = task_of(name, world)
    weights = trained(task)
    for place, weight in weights.items():
        weight.register_post_accumulate_grad_hook(lambda _, place=place: found.append(place))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(World, "start_sum", noted)
        backward(task, world, parts, partial(averaged, weights.values(), world))
    return found


def with_gaps(world: World) -> dict[str, list[float] | None]:
    """Values of the gradients of weights, each a bucket of 64 bytes, that some processes or none use.

    `factor` is complete before the gather's gradient is back, but on one process only.
    """
    embedding, other, unused, factor = (torch.nn.Parameter(torch.ones(16)) for _ in range(4))
    weights = {"embedding": embedding, "other": other, "unused": unused, "factor": factor}
    with averaged(weights.values(), world):
        loss = world.gather(world.rank * embedding[None]).sum()
        loss = loss * factor.mean() if world.leads else loss + 4 * other.sum()
        loss.backward()
    grads = {name: weight.grad for name, weight in weights.items()}
    return {name: None if grad is None else grad.unique().tolist() for name, grad in grads.items()}


def added_twice(world: World) -> str:
    """The error of a weight that two reentrantly checkpointed layers share."""
    layer, x = torch.nn.Linear(2, 2), torch.ones(1, 2, requires_grad=True)
    with pytest.raises(RuntimeError) as caught, averaged(layer.parameters(), world):
        for _ in range(2):
            x = checkpoint(layer, x, use_reentrant=True)
        x.sum().backward()
    hooks = [weight._post_accumulate_grad_hooks for weight in layer.parameters()]
    return f"{caught.value}; hooks left: {sum(map(len, hooks))}"


def traffic_of_a_step(folder: Path, world: World, parts: int) -> list[int]:
    training = make_training(folder, "relevancy", world=world, accumulation_steps=parts)
    for step in range(2):  # counts are those of one step
        training.update(make_batch(step, world=world))
    return [world.traffic.reduced, world.traffic.gathered]


def broadcasts(world: World) -> list[int]:
    """Bytes that a step of a sharded optimiser broadcasts: counted, and expected."""
    task, sent, send = make_task("contrastive", world=world), [], dist.broadcast

    def noted(tensor: torch.Tensor, **options):
        sent.append(tensor.nbytes)
        return send(tensor, **options)

    groups = parameter_groups(task.model, weight_decay=0.01, layer_decay=1.0)
    optimizer = make_optimizer("adamw", groups, shard=True)
    backward(task, world, 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dist, "broadcast", noted)
        optimizer.step()
    return [sum(sent), broadcast_bytes(optimizer)]


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """What two processes left in a folder."""
    folder = tmp_path_factory.mktemp("averaging")
    assert exit_codes(partial(leave, folder)) == [0, 0]
    return folder


def leave(folder: Path, world: World) -> None:
    averaging.BUCKET_BYTES = 64
    ordered = {}
    for name in TASKS:
        for parts in PARTS:
            found, whole = gradients(name, world, parts), in_one_message(name, world, parts)
            ordered[f"{name}-{parts}"] = events(name, world, parts)
            if world.leads:
                save_file(found, folder / f"{name}-{parts}.safetensors")
                save_file(
                    {k: v.clone() for k, v in whole.items()}, folder / f"{name}-{parts}-whole.safetensors"
                )
    (folder / f"events-{world.rank}.json").write_text(json.dumps(ordered))
    (folder / f"gaps-{world.rank}.json").write_text(json.dumps(with_gaps(world)))
    traffic = {parts: traffic_of_a_step(folder / f"traffic-{parts}", world, parts) for parts in PARTS}
    broadcast = broadcasts(world)
    twice = added_twice(world)
    if world.leads:
        (folder / "traffic.json").write_text(json.dumps(traffic))
        (folder / "broadcasts.json").write_text(json.dumps(broadcast))
        (folder / "twice.txt").write_text(twice)


@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("name", TASKS)
def test_two_processes_have_the_gradient_of_one(pair, name, parts):
    one, two = gradients(name, alone(), 1), load_file(pair / f"{name}-{parts}.safetensors")
    assert two.keys() == one.keys()
    largest = max(gradient.abs().max().item() for gradient in one.values())
    for place, gradient in one.items():
        torch.testing.assert_close(two[place], gradient, rtol=1e-5, atol=1e-5 * largest, msg=place)


@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("name", TASKS)
def test_many_buckets_have_the_bits_of_one_message(pair, name, parts):
    buckets, whole = (load_file(pair / f"{name}-{parts}{how}.safetensors") for how in ("", "-whole"))
    assert all(torch.equal(buckets[place], gradient) for place, gradient in whole.items())


@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("name", TASKS)
def test_reductions_start_in_one_order_before_the_backward_pass_ends(pair, name, parts):
    first, second = (json.loads((pair / f"events-{rank}.json").read_text()) for rank in range(2))
    found = first[f"{name}-{parts}"]
    assert found == second[f"{name}-{parts}"]
    weights = trained(task_of(name, alone()))
    arrivals = [place for place, event in enumerate(found) if event in weights]
    reductions = [place for place, event in enumerate(found) if event not in weights]
    gathers = 0 if name == "classification" else 2
    assert all(found[place] == f"reduce {CLIPS * DUAL.embed_dim}" for place in reductions[:gathers])
    buckets = reductions[gathers:]
    last_pass = arrivals[-(len(arrivals) // parts) :]
    assert last_pass[0] < buckets[0] < buckets[len(buckets) // 2] < last_pass[-1]
    sizes = [int(found[place].split()[1]) for place in buckets]
    assert sum(sizes) == sum(weight.numel() + 1 for weight in weights.values())


def test_weights_without_a_gradient_on_some_processes_or_on_all(pair):
    first, second = (json.loads((pair / f"gaps-{rank}.json").read_text()) for rank in range(2))
    assert first == second
    # the sum over the processes of the gathered rows' gradients reaches rank 1's embedding alone
    assert first == {"embedding": [1.0], "other": [2.0], "unused": None, "factor": [0.5]}


def test_a_gradient_that_is_added_to_twice_is_an_error(pair):
    assert "use_reentrant=False; hooks left: 0" in (pair / "twice.txt").read_text()


@pytest.mark.parametrize("parts", PARTS)
def test_traffic_is_that_of_the_collectives_of_one_step(pair, parts):
    reduced, gathered = json.loads((pair / "traffic.json").read_text())[str(parts)]
    weights = trained(task_of("relevancy", alone())).values()
    embeddings, ids = 2 * CLIPS * DUAL.embed_dim * 4, 2 * CLIPS * 8
    loss_norm_and_requests = 4 * 8
    gradient = sum(weight.numel() + 1 for weight in weights) * 4
    assert reduced == gradient + embeddings + loss_norm_and_requests
    assert gathered == embeddings + ids


def test_a_sharded_optimizer_broadcasts_the_weights(pair):
    counted, expected = json.loads((pair / "broadcasts.json").read_text())
    assert (
        counted == expected == 4 * sum(w.numel() for w in trained(task_of("contrastive", alone())).values())
    )


def test_a_training_shows_once_what_a_step_communicates(tmp_path):
    done = start(Path(__file__).with_name("tiny_training.py"), tmp_path)
    assert done.returncode == 0, done.stderr
    weights = 6 * 8 + 8 + 8 + 1
    reduced = (weights + 4) * 4 + 8 * len(ENTRIES)
    shown = [line for line in done.stderr.splitlines() if line.startswith("a step")]
    assert shown == [f"a step all-reduces {1e-6 * reduced:.6g} MB, gathers 0 MB and broadcasts 0 MB"]
