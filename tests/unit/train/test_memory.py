"""A step that does not fit the device is one error that names the settings to change."""

import pytest
import torch

from avion_core.models.layers import set_checkpointing
from avion_core.train.memory import DeviceMemoryError
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
