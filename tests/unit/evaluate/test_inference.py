"""A model over every clip: order, views, and clips that cannot be read."""

import threading

import numpy as np
import pytest
import torch

from avion_core.data.clips import ClipTable
from avion_core.evaluate.inference import choose_device, over_clips, over_texts, unit_length
from avion_core.media import MediaError


def table(*video_ids):
    return ClipTable.from_rows(
        {"video_id": name, "start_s": float(row), "end_s": row + 1.0, "texts": []}
        for row, name in enumerate(video_ids)
    )


class Pictures:
    """Clips of two views whose pixels are the row number, and row + 100 in the second view."""

    def __init__(self, clips):
        self.clips = clips

    def sample(self, row, rng):
        if self.clips.video_id(row) == "torn":
            raise MediaError("torn.mp4", f"cut short at row {row}")
        frames = np.full((2, 3, 4, 4, 3), row, np.uint8)
        frames[1] += 100
        return {"frames": frames}


def brightness(frames_BTHWC, rows):
    """Mean pixel, and how many clips came in together."""
    mean = frames_BTHWC.float().mean((1, 2, 3, 4))
    return torch.stack([mean, torch.full_like(mean, len(mean))], dim=1)


class Wrong(Pictures):
    """Code with an error."""

    def sample(self, row, rng):
        raise KeyError("wrong")


def measure(clips, *, pictures=Pictures, forward=brightness, **arguments):
    settings = {"views": 2, "batch_size": 6, "threads": 1, "clip_timeout_s": 60.0, "max_bad_share": 1.0}
    settings |= {"limit": "max_bad_share", "device": torch.device("cpu"), "title": "test"}
    return over_clips(forward, pictures(clips), clips, **{**settings, **arguments})


@pytest.mark.parametrize("threads", [1, 3])
def test_outputs_are_means_over_views_in_the_order_of_rows(threads):
    found = measure(table(*"abcdefg"), threads=threads)
    np.testing.assert_array_equal(found.rows, range(7))
    np.testing.assert_allclose(found.outputs[:, 0], np.arange(7) + 50)
    assert found.bad == ()


def test_the_batch_size_counts_views_and_a_clip_is_never_split():
    np.testing.assert_array_equal(measure(table(*"abcd")).outputs[:, 1], [6, 6, 6, 2])
    np.testing.assert_array_equal(measure(table(*"abcd"), batch_size=1).outputs[:, 1], [2, 2, 2, 2])


@pytest.mark.parametrize("threads", [1, 4])
def test_a_bad_clip_is_listed_and_none_takes_its_place(threads):
    found = measure(table("a", "torn", "b", "c", "torn"), threads=threads)
    np.testing.assert_array_equal(found.rows, [0, 2, 3])
    np.testing.assert_allclose(found.outputs[:, 0], [50, 52, 53])
    assert [(clip["video_id"], clip["start_s"]) for clip in found.bad_clips()] == [("torn", 1), ("torn", 4)]
    assert "cut short at row 4" in found.bad_clips()[1]["reason"]


def test_no_readable_clip_is_an_error_with_the_first_reason():
    with pytest.raises(ValueError, match=r"none of the 2 clips can be read.*cut short at row 0"):
        measure(table("torn", "torn"))
    with pytest.raises(ValueError, match="none of the 0 clips"):
        measure(table())


def test_an_error_of_the_program_is_not_a_bad_clip():
    with pytest.raises(IndexError):
        measure(table("a"), forward=lambda frames, rows: [][0])
    with pytest.raises(KeyError, match="wrong"):
        measure(table("a"), pictures=Wrong, clip_timeout_s=5.0)


class Hanging(Pictures):
    """Clips of the video `stuck` never come."""

    def sample(self, row, rng):
        if self.clips.video_id(row) == "stuck":
            threading.Event().wait()
        return super().sample(row, rng)


@pytest.mark.parametrize("threads", [1, 3])
def test_a_clip_that_never_comes_is_a_bad_one_and_holds_up_no_other(threads):
    """With more of them than threads."""
    clips = table("a", "stuck", "b", "stuck", "stuck", "stuck", "c", "d")
    found = measure(clips, pictures=Hanging, threads=threads, clip_timeout_s=0.2)
    np.testing.assert_array_equal(found.rows, [0, 2, 6, 7])
    assert [clip.start_s for clip in found.bad] == [1, 3, 4, 5]
    assert found.bad[0].reason == "stuck: reading a clip took longer than 0.2 seconds"


def test_no_thread_stays_when_all_is_read():
    before = set(threading.enumerate())
    measure(table(*"abcdefg"), threads=4)
    for thread in set(threading.enumerate()) - before:
        thread.join(timeout=5)
        assert not thread.is_alive()


def test_texts_are_encoded_in_parts_and_order(monkeypatch):
    monkeypatch.setattr("avion_core.evaluate.inference.TEXTS_AT_ONCE", 3)
    tokens = torch.arange(14).reshape(7, 2)
    found = over_texts(lambda part: part * 2, tokens, device=torch.device("cpu"))
    np.testing.assert_array_equal(found, tokens * 2)


def test_unit_length():
    np.testing.assert_allclose(unit_length(np.array([[3, 4], [0, 2]], np.float32)), [[0.6, 0.8], [0, 1]])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_asked_for_in_vain():
    with pytest.raises(ValueError, match="set gpus: 0"):
        choose_device(1)
