"""Parameter groups, update rules and schedules: recorded groups and values, and rules worked out by hand."""

import json
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from avion_core.train.optim import (
    Schedule,
    load_tensor_state,
    make_optimizer,
    parameter_groups,
    tensor_state,
)

REFERENCE = json.loads(
    (Path(__file__).parents[2] / "reference" / "data" / "reference.json").read_text(encoding="utf-8")
)


class Layered(nn.Module):
    """Three layers with a table and biases that must not decay, and a weight that is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.ones(3, 2))
        self.block = nn.Linear(2, 2)
        self.head = nn.Linear(2, 1)
        self.frozen = nn.Parameter(torch.ones(()), requires_grad=False)

    def no_decay(self) -> set[str]:
        return {"table", "block.bias", "head.bias"}

    def layer_of(self, parameter_name: str) -> int:
        return {"table": 0, "block": 1}.get(parameter_name.split(".")[0], 2)


def by_name(groups):
    return {name: group for group in groups for name in group["names"]}


def test_groups_follow_the_models_decay_and_layers():
    groups = by_name(parameter_groups(Layered(), weight_decay=0.05, layer_decay=0.5))
    assert {name: group["weight_decay"] for name, group in groups.items()} == {
        "table": 0.0,
        "block.weight": 0.05,
        "block.bias": 0.0,
        "head.weight": 0.05,
        "head.bias": 0.0,
    }
    assert groups["table"]["rate_scale"] == 0.25
    assert groups["block.bias"]["rate_scale"] == 0.5
    assert groups["head.weight"]["rate_scale"] == 1.0


def test_no_layer_decay_leaves_two_groups():
    groups = parameter_groups(Layered(), weight_decay=0.05, layer_decay=1.0)
    assert sorted((group["weight_decay"], group["rate_scale"]) for group in groups) == [
        (0.0, 1.0),
        (0.05, 1.0),
    ]


def test_a_recipe_exempts_further_weights_from_decay():
    plain = by_name(parameter_groups(Layered(), weight_decay=0.05, layer_decay=1.0))
    exempt = by_name(
        parameter_groups(Layered(), weight_decay=0.05, layer_decay=1.0, no_decay=["head.*", "block.bias"])
    )
    assert plain["head.weight"]["weight_decay"] == 0.05
    decay = {name: group["weight_decay"] for name, group in exempt.items()}
    assert decay == {name: 0.05 if name == "block.weight" else 0.0 for name in plain}
    with pytest.raises(ValueError, match="no_weight_decay: no weight of this model matches 'heads'"):
        parameter_groups(Layered(), weight_decay=0.05, layer_decay=1.0, no_decay=["heads"])


def test_a_recipe_forces_decay_on_tables_and_vectors():
    options = {"weight_decay": 0.05, "layer_decay": 1.0}
    forced = by_name(parameter_groups(Layered(), **options, force_decay=["table", "block.*"]))
    decay = {name for name, group in forced.items() if group["weight_decay"]}
    assert decay == {"table", "block.weight", "block.bias", "head.weight"}
    with pytest.raises(ValueError, match="force_weight_decay: no weight of this model matches 'frozen'"):
        parameter_groups(Layered(), **options, force_decay=["frozen"])
    with pytest.raises(ValueError, match=r"both match head\.bias; leave out one"):
        parameter_groups(Layered(), **options, no_decay=["head.*"], force_decay=["head.bias"])


def test_cosine_schedule_has_the_recorded_values():
    recorded = REFERENCE["cosine_schedule"]
    args = recorded["args"]
    schedule = Schedule(
        shape="cosine",
        peak=args["base"],
        steps=args["epochs"] * args["steps_per_epoch"],
        warmup_steps=args["warmup_epochs"] * args["steps_per_epoch"],
        start=args["start"],
        final=args["final"],
    )
    values = [schedule.rate(step) for step in range(schedule.steps)]
    assert values == pytest.approx(recorded["values"], rel=1e-12)


def test_constant_schedule_rises_then_stays():
    schedule = Schedule(shape="constant", peak=1.0, steps=6, warmup_steps=3, start=0.0)
    assert [schedule.rate(step) for step in range(6)] == [0.0, 0.5, 1.0, 1.0, 1.0, 1.0]


def test_a_rate_reaches_each_group_times_its_scale():
    optimizer = make_optimizer("sgd", parameter_groups(Layered(), weight_decay=0.0, layer_decay=0.5))
    rate = Schedule(shape="constant", peak=0.8, steps=1).apply(optimizer, 0)
    assert rate == 0.8
    assert sorted({group["lr"] for group in optimizer.param_groups}) == [0.2, 0.4, 0.8]


def test_the_whole_state_of_a_sharded_rule_is_put_on_the_weights_device():
    """Also AdamW's count of steps: on a GPU the fused rule refuses one on the CPU."""
    weight = nn.Parameter(torch.zeros(2, device="meta"))
    groups = [{"params": [weight], "names": ["weight"], "rate_scale": 1.0, "weight_decay": 0.1}]
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        optimizer = make_optimizer("adamw", groups, shard=True)
        load_tensor_state(optimizer, {"step/weight": torch.tensor(3.0), "exp_avg/weight": torch.ones(2)})
        state = optimizer.optim.state[weight]
    finally:
        dist.destroy_process_group()
    assert {name: value.device.type for name, value in state.items()} == {"step": "meta", "exp_avg": "meta"}


def test_lion_by_hand():
    weight = nn.Parameter(torch.tensor([[1.0, -1.0]]))
    groups = [{"params": [weight], "names": ["weight"], "rate_scale": 1.0, "weight_decay": 0.1}]
    optimizer = make_optimizer("lion", groups, betas=(0.9, 0.95))
    expected, average = weight.detach().clone(), torch.zeros(1, 2)
    for gradient in (torch.tensor([[0.5, -2.0]]), torch.tensor([[-0.05, 3.0]])):
        Schedule(shape="constant", peak=0.01, steps=2).apply(optimizer, 0)
        weight.grad = gradient
        optimizer.step()
        direction = torch.sign(0.9 * average + 0.1 * gradient)
        expected = expected * (1 - 0.01 * 0.1) - 0.01 * direction
        average = 0.95 * average + 0.05 * gradient
    torch.testing.assert_close(weight.detach(), expected)


@pytest.mark.parametrize("rule", ["adamw", "sgd"])
def test_rules_are_fused_on_a_gpu_and_sgd_is_not_on_the_cpu(rule):
    for place in ("cpu", "meta"):
        weight = nn.Parameter(torch.zeros(2, device=place))
        [group] = make_optimizer(rule, [{"params": [weight]}]).param_groups
        assert group["fused"] == (place == "meta" or rule == "adamw")


@pytest.mark.parametrize("rule", ["adamw", "sgd", "lion", "fused_sgd"])
def test_state_goes_through_tensors_without_loss(rule):
    def steps(model, optimizer, seeds):
        for seed in seeds:
            torch.manual_seed(seed)
            Schedule(shape="constant", peak=0.1, steps=9).apply(optimizer, seed)
            optimizer.zero_grad()
            model.head(model.block(torch.randn(4, 2))).square().mean().backward()
            optimizer.step()

    def fresh():
        torch.manual_seed(0)
        model = Layered()
        groups = parameter_groups(model, weight_decay=0.01, layer_decay=0.9)
        optimizer = make_optimizer(rule.removeprefix("fused_"), groups)
        if rule == "fused_sgd":  # as on a GPU
            for group in optimizer.param_groups:
                group["fused"] = True
        return model, optimizer

    whole, optimizer = fresh()
    steps(whole, optimizer, range(6))
    first, optimizer = fresh()
    steps(first, optimizer, range(3))
    second, resumed = fresh()
    second.load_state_dict(first.state_dict())
    load_tensor_state(resumed, {key: value.clone() for key, value in tensor_state(optimizer).items()})
    steps(second, resumed, range(3, 6))
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, second.state_dict()[name]), name


def test_an_unknown_rule_lists_the_known_ones():
    with pytest.raises(ValueError, match="adamw, sgd, lion"):
        make_optimizer("adam", [])
