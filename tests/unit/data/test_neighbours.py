"""Neighbours in time: whose cell is whose, and batches of anchors and neighbours."""

import numpy as np
import pytest
import torch

from avion_core.data.clips import ClipTable
from avion_core.data.loader import BatchLoader
from avion_core.data.neighbours import Neighbours
from avion_core.media import MediaError

TIMES = {"a": [1.0, 9.4, 9.6, 25.0], "b": [0.0, 5.0, 12.0]}
"""Starts of clips of one second, so that 9.4 has its middle before 10 and 9.6 after."""


class Clips:
    """Stands for a ClipDataset: a sample is its row and what its generator drew; some rows are bad."""

    def __init__(self, times=TIMES, *, bad=()):
        places = [(video, start) for start in range(30) for video in times if start < len(times[video])]
        rows = [
            {"video_id": video, "start_s": times[video][place], "end_s": times[video][place] + 1, "texts": []}
            for video, place in places
        ]
        self.clips, self.bad = ClipTable.from_rows(rows), bad

    def __len__(self):
        return len(self.clips)

    def sample(self, row, rng, out=None):
        if row in self.bad:
            raise MediaError(f"{row}.mp4", "the chunk is gone")
        frames = rng.integers(0, 256, (1, 2, 2, 3)).astype(np.uint8)
        entries = {"tags": np.arange(3) == row % 3, "narrated": np.array(row > 3)}
        return {"row": row, "frames": frames, "entries": entries}


def cell(clips, row, seconds=10.0):
    return clips.video_id(row), int((clips.start_s(row) + clips.end_s(row)) / 2 // seconds)


def test_a_cell_is_a_stretch_of_one_video():
    clips = Clips().clips
    found = Neighbours(clips, seconds=10.0)
    for row in range(len(clips)):
        same = [other for other in range(len(clips)) if cell(clips, other) == cell(clips, row)]
        assert found.of(row).tolist() == same
    assert {len(found.of(row)) for row in range(len(clips))} == {1, 2}
    everything = Neighbours(clips, seconds=1e6)
    assert sorted(len(everything.of(row)) for row in range(7)) == [3, 3, 3, 4, 4, 4, 4]


def batches(dataset, *, epoch=0, **changes):
    given = {"batch_size": 3, "seed": 5, "shuffle": True, "drop_last": True, "clip_timeout_s": 60.0}
    neighbours = Neighbours(dataset.clips, seconds=10.0)
    loader = BatchLoader(dataset, **{**given, "neighbours": neighbours, **changes})
    return [{name: value.clone() for name, value in batch.items()} for batch in loader.epoch(epoch)]


LONG = {name: np.arange(0, 30, step).tolist() for name, step in (("a", 1.5), ("b", 2.0))}


def test_a_batch_is_the_anchors_and_then_a_neighbour_of_each():
    dataset = Clips(LONG)
    plain = batches(dataset, neighbours=None)
    drawn = []
    for epoch in range(20):
        for batch in batches(dataset, epoch=epoch):
            anchors, others = batch["rows"].tolist()[:3], batch["rows"].tolist()[3:]
            assert [cell(dataset.clips, row) for row in anchors] == [
                cell(dataset.clips, row) for row in others
            ]
            assert batch["frames"].shape == (6, 1, 2, 2, 3)
            assert batch["tags"].tolist() == [
                [row % 3 == tag for tag in range(3)] for row in anchors + others
            ]
            assert batch["narrated"].tolist() == [row > 3 for row in anchors + others]
            drawn += [other == anchor for anchor, other in zip(anchors, others, strict=True)]
    # any clip of a cell is as likely, the anchor itself included: cells have 5 to 7 clips
    assert 1 / 12 < np.mean(drawn) < 1 / 3
    # anchors are the batches without neighbours, seen the same way
    for batch, alone in zip(batches(dataset), plain, strict=True):
        assert batch["rows"][:3].tolist() == alone["rows"].tolist()
        assert torch.equal(batch["frames"][:3], alone["frames"])


@pytest.mark.parametrize("changes", [{"workers": 2}, {"world_size": 3, "batch_size": 1}])
def test_neither_workers_nor_processes_change_the_global_batch(changes):
    def samples(found):
        """Row and frames of each, of anchors and of neighbours."""
        both = [], []
        for batch in found:
            for half, rows, frames in zip(
                both, batch["rows"].chunk(2), batch["frames"].chunk(2), strict=True
            ):
                half += zip(rows.tolist(), frames.flatten(1).tolist(), strict=True)
        return both

    dataset, world = Clips(LONG), changes.get("world_size", 1)
    [one, *_] = batches(dataset)
    shares = [batches(dataset, rank=rank, **changes)[0] for rank in range(world)]
    assert samples([one]) == samples(shares)


def test_a_neighbour_that_cannot_be_read_is_replaced_by_another_of_the_cell():
    dataset = Clips(LONG, bad=(4, 7, 9, 10))
    for batch in batches(dataset, max_bad_share=1.0):
        anchors, others = batch["rows"].tolist()[:3], batch["rows"].tolist()[3:]
        assert not {4, 7, 9, 10} & {*anchors, *others}
        assert [cell(dataset.clips, row) for row in anchors] == [cell(dataset.clips, row) for row in others]
