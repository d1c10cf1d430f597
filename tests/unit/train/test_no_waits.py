"""What a step computes on a GPU needs no value on the host, which would have to wait for it."""

import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch._subclasses.fake_tensor import DataDependentOutputException

from avion_core.train.protocols import on_device
from tests.unit.train.tiny_tasks import TASKS, make_batch, make_task


@pytest.mark.filterwarnings("ignore:.*CUDA is not available")
@pytest.mark.parametrize("name", TASKS)
def test_a_loss_reads_nothing_back(name):
    """On a pretended GPU, tensors have no values. Masks and mixing are drawn on the CPU."""
    task = make_task(name)
    prepared = task.prepare(make_batch(0))
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        task.model.to_empty(device="cuda")
        batch = {
            key: torch.empty(value.shape, dtype=value.dtype, device="cuda") for key, value in prepared.items()
        }
        result = task.loss(batch)
        assert result.loss.device.type == "cuda"
        with pytest.raises(DataDependentOutputException):
            result.loss.item()


def test_what_is_on_the_device_is_not_copied_again():
    with FakeTensorMode():
        batch = {"frames": torch.zeros(2, device="cuda")}
        assert on_device(batch, torch.device("cuda"))["frames"] is batch["frames"]
