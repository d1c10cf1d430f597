import pickle
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import torch

from avion_core.data.shared import Pool, Room

SHAPE = (2, 3, 5)


def sent(room: Room) -> torch.Tensor:
    """What the process gets that it is sent to; here the same one."""
    return pickle.loads(ForkingPickler.dumps(room.hand_over()))


def test_a_piece_is_used_again_when_the_last_view_of_it_is_gone():
    pool = Pool()
    room = pool.room(SHAPE)
    room.tensor.fill_(1)
    view = sent(room)[1:].movedim(0, -1)
    pool.room(SHAPE).tensor.fill_(2)
    assert view.unique().tolist() == [1]
    del view
    pool.room(SHAPE).tensor.fill_(3)
    assert room.tensor.unique().tolist() == [3]


def test_a_smaller_tensor_fits_and_a_larger_one_gets_a_piece_of_its_own():
    pool = Pool()
    first = pool.room(SHAPE)
    assert pool.room((2, 3, 4)).tensor.data_ptr() == first.tensor.data_ptr()
    assert pool.room((2, 3, 6)).tensor.data_ptr() != first.tensor.data_ptr()


def test_where_all_pieces_are_read_there_is_another():
    pool = Pool()
    held = [sent(pool.room(SHAPE)) for _ in range(7)]
    for number, tensor in enumerate(held):
        tensor.fill_(number)
    assert [tensor.unique().tolist() for tensor in held] == [[number] for number in range(len(held))]


def test_many_batches_leave_no_descriptor_open():
    pool = Pool()
    sent(pool.room(SHAPE))
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        sent(pool.room(SHAPE))
    assert len(list(Path("/proc/self/fd").iterdir())) == before
