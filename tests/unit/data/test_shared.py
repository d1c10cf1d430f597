import pickle
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import torch

from avion_core.data.shared import BufferPool, SharedTensor

SHAPE = (2, 3, 5)


def sent(shared: SharedTensor) -> torch.Tensor:
    """What the receiving process gets; here the same process."""
    return pickle.loads(ForkingPickler.dumps(shared.hand_over()))


def test_a_buffer_is_reused_once_its_last_view_is_gone():
    pool = BufferPool()
    shared = pool.get(SHAPE)
    shared.tensor.fill_(1)
    view = sent(shared)[1:].movedim(0, -1)
    pool.get(SHAPE).tensor.fill_(2)
    assert view.unique().tolist() == [1]
    del view
    pool.get(SHAPE).tensor.fill_(3)
    assert shared.tensor.unique().tolist() == [3]


def test_a_smaller_tensor_fits_and_a_larger_one_gets_a_buffer_of_its_own():
    pool = BufferPool()
    first = pool.get(SHAPE)
    assert pool.get((2, 3, 4)).tensor.data_ptr() == first.tensor.data_ptr()
    assert pool.get((2, 3, 6)).tensor.data_ptr() != first.tensor.data_ptr()


def test_while_all_buffers_are_read_there_is_another():
    pool = BufferPool()
    held = [sent(pool.get(SHAPE)) for _ in range(7)]
    for number, tensor in enumerate(held):
        tensor.fill_(number)
    assert [tensor.unique().tolist() for tensor in held] == [[number] for number in range(len(held))]


def test_many_batches_leave_no_descriptor_open():
    pool = BufferPool()
    sent(pool.get(SHAPE))
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        sent(pool.get(SHAPE))
    assert len(list(Path("/proc/self/fd").iterdir())) == before
