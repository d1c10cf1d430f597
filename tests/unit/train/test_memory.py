"""Estimated memory decides on checkpointing; a step that does not fit is an error that says what to do."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from avion_core.config import StageSettings
from avion_core.models.layers import set_checkpointing
from avion_core.models.sizes import Size
from avion_core.train import memory
from avion_core.train.distributed import World, alone
from avion_core.train.memory import DeviceMemoryError, choose_checkpointing, step_bytes
from tests.support.processes import exit_codes
from tests.support.recipes import CONTRASTIVE
from tests.unit.train.tiny_tasks import make_training

TORCH_SAYS = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 23.69 GiB. "
    "Of the allocated memory 21.30 GiB is allocated by PyTorch. If reserved but unallocated memory is large "
    "try setting PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True to avoid fragmentation."
)


def error_of(training) -> str:
    def loss(batch):
        raise torch.OutOfMemoryError(TORCH_SAYS)

    training.task.loss = loss
    with pytest.raises(DeviceMemoryError) as raised:
        training.run("full")
    assert isinstance(raised.value, ValueError), "programs print it as one line"
    return str(raised.value)


def test_the_error_names_what_to_lower_and_how_much_was_missing(tmp_path):
    assert error_of(make_training(tmp_path, "classification", accumulation_steps=2)) == (
        "a training step does not fit the device: set gradient_checkpointing: true, raise "
        "accumulation_steps, now 2, or lower batch_size, now 8, or frames. CUDA out of memory. Tried to "
        "allocate 2.00 GiB. GPU 0 has a total capacity of 23.69 GiB."
    )


def test_checkpointing_is_not_advised_where_it_is_on(tmp_path):
    training = make_training(tmp_path, "contrastive")
    set_checkpointing(training.task.model, True)
    assert "gradient_checkpointing" not in error_of(training)


SIZE = Size(parameters=100, multiply_adds=1, activation_bytes=1000, checkpointed_bytes=100, block_bytes=50)
PLAIN, CHECKPOINTED = 9600, 2800
"""Bytes of a step of 8 clips in fp32 with AdamW, 16 for each of 100 weights."""


def stage(**changes) -> StageSettings:
    return StageSettings.model_validate({**CONTRASTIVE, "batch_size": 8, **changes})


def test_neighbours_need_the_memory_of_as_many_clips():
    with_neighbours = stage(batch_size=4, neighbours=True)
    assert step_bytes(with_neighbours, SIZE, checkpointing=False) == PLAIN
    assert step_bytes(stage(batch_size=4), SIZE, checkpointing=False) == PLAIN - 4 * SIZE.activation_bytes


@pytest.mark.parametrize(
    ("changes", "clips", "bytes_a_weight"),
    [
        ({}, 8, 16),
        ({"accumulation_steps": 4}, 2, 16),
        ({"precision": "fp16"}, 8, 18),
        ({"precision": "bf16", "ema_decay": 0.9}, 8, 22),
        ({"optimizer": "lion"}, 8, 12),
        ({"optimizer": "sgd"}, 8, 12),
        ({"optimizer": "sgd", "momentum": 0.0}, 8, 8),
        ({"processes": 2}, 4, 16),
        ({"processes": 2, "nodes": 2, "shard_optimizer": True}, 2, 10),
    ],
)
def test_a_step_needs_its_clips_and_all_that_goes_with_a_weight(changes, clips, bytes_a_weight):
    plain, checkpointed = (step_bytes(stage(**changes), SIZE, checkpointing=on) for on in (False, True))
    assert plain == 1000 * clips + 100 * bytes_a_weight
    assert checkpointed == 150 * clips + 100 * bytes_a_weight


def test_frozen_weights_have_no_gradient_and_no_state():
    mostly_frozen = replace(SIZE, frozen_parameters=90)
    assert step_bytes(stage(), mostly_frozen, checkpointing=False) == 8000 + 90 * 4 + 10 * 16
    average = stage(precision="bf16", ema_decay=0.9)
    assert step_bytes(average, mostly_frozen, checkpointing=False) == 8000 + 90 * 10 + 10 * 22


def chosen(monkeypatch, device_bytes, **changes) -> bool:
    monkeypatch.setattr(memory, "device_bytes", lambda device: device_bytes)
    return choose_checkpointing(stage(**changes), lambda: SIZE, title="run/stage", world=alone())


def test_blocks_are_recomputed_where_a_step_would_pass_seven_eighths_of_the_device(monkeypatch, capsys):
    assert chosen(monkeypatch, PLAIN / 7 * 8 + 1) is False
    assert chosen(monkeypatch, PLAIN / 7 * 8 - 1) is True
    assert chosen(monkeypatch, CHECKPOINTED / 7 * 8 + 1) is True
    assert "warning" not in capsys.readouterr().err


def test_the_choice_is_said_with_its_figures_and_what_to_lower_if_nothing_fits(monkeypatch, capsys):
    monkeypatch.setattr(memory, "step_bytes", lambda *_, checkpointing: 2.04e10 if checkpointing else 6.72e10)
    need = "a step needs an estimated 67.2 GB without it, 20.4 GB with it; usable on the smallest GPU:"
    assert chosen(monkeypatch, 8e10) is False
    assert capsys.readouterr().err == f"run/stage: gradient checkpointing is off: {need} 70.0 GB\n"
    assert chosen(monkeypatch, 2e10, accumulation_steps=2) is True
    assert capsys.readouterr().err == (
        f"run/stage: gradient checkpointing is on: {need} 17.5 GB\n"
        "run/stage: warning: a step may not fit the GPU even so: raise accumulation_steps, now 2, or lower "
        "batch_size, now 8, or frames\n"
    )


def never() -> Size:
    raise AssertionError("nothing needs measuring")


@pytest.mark.parametrize("set_to", [True, False])
def test_what_is_set_needs_no_estimate(monkeypatch, set_to):
    monkeypatch.setattr(memory, "device_bytes", lambda device: 1)
    settings = stage(gradient_checkpointing=set_to)
    assert choose_checkpointing(settings, never, title="run/stage", world=alone()) is set_to


def test_nothing_is_recomputed_on_the_cpu():
    assert stage().gradient_checkpointing == "auto"
    assert choose_checkpointing(stage(), never, title="run/stage", world=alone()) is False


@pytest.mark.slow
def test_the_smallest_device_decides_for_all_processes(tmp_path):
    assert exit_codes(partial(in_a_process, tmp_path)) == [0, 0]
    assert [json.loads((tmp_path / str(rank)).read_text()) for rank in range(2)] == [True, True]
    assert (tmp_path / "said").read_text().count("gradient checkpointing is on") == 1


def in_a_process(folder: Path, world: World) -> None:
    """On devices of which only rank 0's has room for the whole step; only that one measures."""
    own = 2 * PLAIN if world.leads else PLAIN
    memory.device_bytes = lambda device: own
    memory.say = lambda line: print(line, file=(folder / "said").open("a"), flush=True)
    settings = stage(processes=world.size, batch_size=8 * world.size)
    on = choose_checkpointing(
        settings, (lambda: SIZE) if world.leads else never, title="run/stage", world=world
    )
    (folder / str(world.rank)).write_text(json.dumps(on))
