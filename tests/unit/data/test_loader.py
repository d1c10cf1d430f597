import itertools
import multiprocessing
import os
import subprocess
import sys
import time
import tracemalloc
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pytest
import torch

from avion_core.data.clips import ClipTable
from avion_core.data.loader import BatchLoader
from avion_core.media import MediaError


class Clips:
    """Stands for a ClipDataset: a sample is its row and what its generator drew; some rows are bad."""

    def __init__(self, count: int, *, bad: tuple[int, ...] = (), texts: bool = False) -> None:
        rows = [{"video_id": f"v{row}", "start_s": 0.0, "end_s": 1.0, "texts": []} for row in range(count)]
        self.clips = ClipTable.from_rows(rows)
        self._bad, self._texts = bad, texts
        self.read: list[int] = []

    def __len__(self) -> int:
        return len(self.clips)

    def sample(self, row: int, rng: np.random.Generator, out: Any = None) -> dict[str, Any]:
        self.read.append(row)
        if row in self._bad:
            raise MediaError(f"v{row}.mp4", "the chunk is gone")
        frames = rng.integers(0, 256, (2, 3, 3, 3)).astype(np.uint8)
        frames[0, 0, 0, 0] = row % 256
        texts = {"tokens": torch.full((5,), row), "text_id": 100 + row} if self._texts else {}
        return {"row": row, "frames": frames, **texts}


def loader(dataset: Clips, **changes: Any) -> BatchLoader:
    options = {"batch_size": 4, "seed": 7, "shuffle": True, "drop_last": True}
    return BatchLoader(dataset, **{"clip_timeout_s": 60.0, **options, **changes})


def rows_of(batches: Any) -> list[list[int]]:
    return [batch["rows"].tolist() for batch in batches]


def joined(steps: list[list[int]]) -> list[int]:
    return list(itertools.chain.from_iterable(steps))


def test_batches_hold_what_the_samples_gave():
    [batch, _] = loader(Clips(8, texts=True)).epoch(0)
    assert set(batch) == {"frames", "rows", "tokens", "text_ids"}
    assert batch["frames"].shape == (4, 2, 3, 3, 3) and batch["frames"].dtype == torch.uint8
    assert batch["rows"].dtype == batch["text_ids"].dtype == torch.int64
    assert batch["frames"][:, 0, 0, 0, 0].tolist() == batch["rows"].tolist()
    assert batch["tokens"][:, 0].tolist() == batch["rows"].tolist()
    assert batch["text_ids"].tolist() == [100 + row for row in batch["rows"].tolist()]


def test_texts_are_cut_to_the_longest_of_the_batch():
    dataset = Clips(8, texts=True)
    sample = dataset.sample

    def padded(row, rng, out=None):
        tokens = torch.zeros(12, dtype=torch.long)
        tokens[: 2 + row] = 1 + row
        return {**sample(row, rng, out), "tokens": tokens}

    dataset.sample = padded
    first, second = loader(dataset, shuffle=False).epoch(0)
    assert (first["tokens"].shape, second["tokens"].shape) == ((4, 5), (4, 9))
    assert second["tokens"][3].tolist() == 9 * [8]
    assert second["tokens"].is_contiguous()


def test_every_epoch_has_every_row_once_in_an_order_of_its_own():
    epochs = [joined(rows_of(loader(Clips(12)).epoch(epoch))) for epoch in range(3)]
    assert all(sorted(rows) == list(range(12)) for rows in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert epochs[0] != joined(rows_of(loader(Clips(12), seed=8).epoch(0)))
    assert rows_of(loader(Clips(6), shuffle=False, drop_last=False).epoch(5)) == [[0, 1, 2, 3], [4, 5]]


def test_the_order_is_the_seeds_permutation():
    """Results that were published with a seed keep it."""
    order = np.random.default_rng([7, 3]).permutation(20)
    assert joined(rows_of(loader(Clips(20)).epoch(3))) == order.tolist()


@pytest.mark.parametrize("shuffle", [True, False])
def test_the_order_of_many_clips_is_small(shuffle):
    """At most five bytes a clip, wherever the epoch begins."""
    count = 500_000
    dataset = Clips(1)
    dataset.clips = ClipTable(dataset.clips.arrow().take(pa.array(np.zeros(count, np.int32))))
    batches = loader(dataset, shuffle=shuffle)
    tracemalloc.start()
    try:
        [batch] = itertools.islice(batches.epoch(0, first_step=100_000), 1)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(batch["rows"]) == 4 and peak < 5 * count


def test_a_row_is_seen_differently_in_every_epoch():
    def frames_of_row_5(epoch: int) -> bytes:
        batches = loader(Clips(8), shuffle=False).epoch(epoch)
        return list(batches)[1]["frames"][1].numpy().tobytes()

    assert len({frames_of_row_5(epoch) for epoch in range(3)}) == 3


def test_the_number_of_workers_changes_nothing():
    """Over two epochs, the second read from its third step on, with bad clips among them."""
    found = []
    for workers in (0, 2):
        batches = loader(Clips(30, bad=(3, 17)), workers=workers, max_bad_share=0.5)
        found.append([*batches.epoch(0), *batches.epoch(1, first_step=3)])
        assert {clip.row for clip in batches.bad} == {3, 17}
    assert len(found[0]) == len(found[1]) == 7 + 4
    for alone, by_workers in zip(*found, strict=True):
        assert all(torch.equal(alone[name], by_workers[name]) for name in alone)


def test_batches_that_are_kept_stay_what_they_were():
    """More of them than a worker keeps pieces of memory for, of one epoch and the next, views too."""
    batches = loader(Clips(40), workers=1)
    kept = [batch["frames"][:, 0, 0, 0, 0] for epoch in (0, 1) for batch in batches.epoch(epoch)]
    expected = [torch.tensor(rows) for epoch in (0, 1) for rows in rows_of(loader(Clips(40)).epoch(epoch))]
    assert all(torch.equal(seen, rows) for seen, rows in zip(kept, expected, strict=True))


def test_an_epoch_left_in_the_middle_does_not_disturb_the_next():
    for workers in (0, 2):
        batches = loader(Clips(24), workers=workers)
        for _ in zip(range(2), batches.epoch(0)):  # noqa: B905
            pass
        assert rows_of(batches.epoch(1)) == rows_of(loader(Clips(24)).epoch(1))


def test_resuming_in_an_epoch_reads_nothing_of_what_was_done():
    whole = list(loader(Clips(20)).epoch(2))
    dataset = Clips(20)
    rest = list(loader(dataset).epoch(2, first_step=3))
    assert rows_of(rest) == rows_of(whole)[3:]
    assert all(torch.equal(a["frames"], b["frames"]) for a, b in zip(rest, whole[3:], strict=True))
    assert dataset.read == joined(rows_of(rest))


def test_bad_clips_are_recorded_once_with_their_reason():
    order = joined(rows_of(loader(Clips(12)).epoch(0)))
    bad = (order[1], order[2], order[11])
    batches = loader(Clips(12, bad=bad), max_bad_share=0.5)
    list(batches.epoch(0))
    assert sorted(clip.row for clip in batches.bad) == sorted(bad)
    assert all(clip.reason == f"v{clip.row}.mp4: the chunk is gone" for clip in batches.bad)
    list(batches.epoch(1))
    assert len(batches.bad) == 3


@pytest.mark.parametrize(
    ("clips", "world_size"), [(10, 1), (12, 2), (16, 4), *itertools.product([23, 120], [1, 2, 4])]
)
def test_no_step_has_a_clip_twice_though_some_are_bad(clips, world_size):
    """The bad ones follow each other, in the order of the first epoch; good clips keep their places."""
    whole = rows_of(loader(Clips(clips), batch_size=8).epoch(0))
    bad = tuple(joined(whole)[5:7])
    ranks = []
    for rank in range(world_size):
        options = {"batch_size": 8 // world_size, "rank": rank, "world_size": world_size}
        ranks.append(rows_of(loader(Clips(clips, bad=bad), max_bad_share=1.0, **options).epoch(0)))
    steps = [joined(list(shares)) for shares in zip(*ranks, strict=True)]
    assert [len(set(rows)) for rows in steps] == [8] * len(whole)
    assert not set(joined(steps)) & set(bad)
    for rows, undisturbed in zip(steps, whole, strict=True):
        assert [b for a, b in zip(rows, undisturbed, strict=True) if a != b] == [
            row for row in undisturbed if row in bad
        ]


def test_stand_ins_come_from_all_over_the_epoch():
    """200 of 2,000 clips are bad, in every other step: other steps give the stand-ins, each a few."""
    whole = rows_of(loader(Clips(2000), batch_size=20).epoch(0))
    bad = tuple(joined(whole[::2])[::5])
    place = {row: step for step, rows in enumerate(whole) for row in rows}
    steps = rows_of(loader(Clips(2000, bad=bad), batch_size=20, max_bad_share=1.0).epoch(0))
    stand_ins = [
        (step, place[row])
        for step, rows in enumerate(steps)
        for row, planned in zip(rows, whole[step], strict=True)
        if row != planned
    ]
    assert len(stand_ins) == len(bad)
    assert len({home for _, home in stand_ins}) >= 50
    assert all(home != step for step, home in stand_ins)
    counts = np.unique(joined(steps), return_counts=True)[1]
    assert counts.max() <= 4


def test_a_step_that_nothing_can_complete_is_an_error():
    batches = loader(Clips(8, bad=(3,)), batch_size=8, max_bad_share=0.5)
    with pytest.raises(ValueError, match=r"no clips are left.*smaller batch_size; .*v3\.mp4"):
        list(batches.epoch(0))


@pytest.mark.parametrize("workers", [0, 1])
def test_too_many_bad_clips_stop_the_run(workers):
    batches = loader(Clips(40, bad=(1, 2, 3)), max_bad_share=0.05, workers=workers)
    with pytest.raises(
        ValueError, match=r"3 of 40 clips cannot be decoded.*max_bad_share.*the chunk is gone"
    ):
        list(batches.epoch(0))
    assert len(list(loader(Clips(40, bad=(1, 2)), max_bad_share=0.05).epoch(0))) == 10


def test_nothing_but_bad_clips_ends_with_an_error():
    with pytest.raises(ValueError, match="no clips are left to take the places"):
        list(loader(Clips(30, bad=tuple(range(30))), max_bad_share=1.0).epoch(0))


@pytest.mark.parametrize("drop_last", [True, False])
def test_processes_share_a_step_that_does_not_depend_on_their_number(drop_last):
    alone = rows_of(loader(Clips(22), batch_size=4, drop_last=drop_last).epoch(0))
    pairs = [
        rows_of(loader(Clips(22), batch_size=2, rank=rank, world_size=2, drop_last=drop_last).epoch(0))
        for rank in range(2)
    ]
    assert [first + second for first, second in zip(*pairs, strict=True)] == alone
    assert len(alone) == (5 if drop_last else 6)


def test_a_last_step_that_does_not_divide_wraps_round():
    loaders = [
        loader(Clips(9), batch_size=2, rank=rank, world_size=2, drop_last=False, shuffle=False)
        for rank in range(2)
    ]
    assert [rows_of(batches.epoch(0)) for batches in loaders] == [
        [[0, 1], [4, 5], [8]],
        [[2, 3], [6, 7], [0]],
    ]
    assert {batches.steps_per_epoch for batches in loaders} == {3}


def test_fewer_clips_than_a_batch_are_refused():
    with pytest.raises(ValueError, match="3 clips do not fill one batch of 8; choose a smaller batch_size"):
        loader(Clips(3), batch_size=4, world_size=2)
    with pytest.raises(ValueError, match="0 clips"):
        loader(Clips(0), drop_last=False)


LARGE_BATCHES = """
from tests.unit.data.test_loader import Clips, loader, np

class LargeClips(Clips):
    def sample(self, row, rng, out=None):
        return super().sample(row, rng) | {"frames": np.full((16, 64, 64, 3), row % 256, np.uint8)}

batches = loader(LargeClips(400, texts=True), batch_size=100, workers=2)
print(sum(int(batch["frames"][:, 0, 0, 0, 0].sum()) for batch in batches.epoch(0)))
"""


def read_with_dev_shm_of(size: str) -> subprocess.CompletedProcess[str]:
    small = ["unshare", "--mount", "sh", "-c"]
    small += [f'mount -t tmpfs -o size={size} tmpfs /dev/shm && exec "$@"', "sh"]
    if subprocess.run([*small, "true"], capture_output=True).returncode:
        pytest.skip("a small /dev/shm needs root and util-linux")
    command = [*small, sys.executable, "-c", LARGE_BATCHES]
    return subprocess.run(command, cwd=Path(__file__).parents[3], capture_output=True, text=True, timeout=120)


def test_batches_need_no_room_in_dev_shm():
    """A container's /dev/shm may be smaller than a batch: here 64 KiB for batches of 20 MB."""
    done = read_with_dev_shm_of("64k")
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == sum(row % 256 for row in range(400))


def test_a_full_dev_shm_is_named_with_the_way_out():
    done = read_with_dev_shm_of("4k")
    assert done.stderr.splitlines()[-1].startswith("OSError: /dev/shm is full"), done.stderr
    assert "loader_workers: 0" in done.stderr


class HangingClips(Clips):
    """Its worker says who it is and hangs."""

    def __init__(self, note: Path) -> None:
        super().__init__(8)
        self._note = note

    def sample(self, row: int, rng: np.random.Generator, out: Any = None) -> dict[str, Any]:
        self._note.write_text(str(os.getpid()))
        time.sleep(1000)
        return super().sample(row, rng)


def read_one_batch(note: Path) -> None:
    next(iter(loader(HangingClips(note), workers=1, clip_timeout_s=1000.0).epoch(0)))


def test_workers_end_when_their_process_is_killed(tmp_path):
    parent = multiprocessing.get_context("fork").Process(target=read_one_batch, args=(tmp_path / "pid",))
    parent.start()
    while not ((tmp_path / "pid").exists() and (tmp_path / "pid").read_text()):
        time.sleep(0.05)
    worker = psutil.Process(int((tmp_path / "pid").read_text()))
    parent.kill()
    try:
        worker.wait(timeout=20)
    finally:
        with suppress(psutil.NoSuchProcess):
            worker.kill()
    assert not worker.is_running()


class SlowClips(Clips):
    """Row 3 takes its time."""

    def sample(self, row: int, rng: np.random.Generator, out: Any = None) -> dict[str, Any]:
        if row == 3:
            time.sleep(5)
        return super().sample(row, rng)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_clip_that_takes_too_long_is_a_bad_one(workers):
    batches = loader(SlowClips(8), workers=workers, clip_timeout_s=0.5, max_bad_share=0.5)
    assert len(list(batches.epoch(0))) == 2
    [bad] = batches.bad
    assert bad.row == 3 and "v3: reading a clip took longer than 0.5 seconds" in bad.reason


class HungStorage(Clips):
    """Every clip takes its time."""

    def sample(self, row: int, rng: np.random.Generator, out: Any = None) -> dict[str, Any]:
        time.sleep(5)
        raise AssertionError("unreachable")


def test_a_batch_does_not_hang_for_longer_than_the_other_processes_wait(monkeypatch):
    monkeypatch.setattr("avion_core.data.loader.LONGEST_HANG_SECONDS", 0.5)
    batches = loader(HungStorage(64), clip_timeout_s=0.2, max_bad_share=1.0, world_size=2)
    with pytest.raises(ValueError, match=r"^3 clips of one batch .* in 0.5 seconds.* Check the storage"):
        next(iter(batches.epoch(0)))


def test_a_single_process_waits_for_every_clip(monkeypatch):
    monkeypatch.setattr("avion_core.data.loader.LONGEST_HANG_SECONDS", 0.1)
    batches = loader(SlowClips(8), clip_timeout_s=0.5, max_bad_share=0.5)
    assert len(list(batches.epoch(0))) == 2 and [clip.row for clip in batches.bad] == [3]
