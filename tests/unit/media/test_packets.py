import errno
import os

import numpy as np
import pytest

from avion_core.media import MediaError
from avion_core.media.crop import Crop
from avion_core.media.decode import decode_frames, decode_packets
from avion_core.media.packets import (
    KEYFRAME,
    PACKET,
    REFERENCE,
    NotIndexableError,
    PacketIndex,
    index_packets,
    read_packets,
    write_packets,
)
from tests.support.counted_video import RANDOM_ACCESS, read_number, write_counted

WHOLE = Crop(0, 0, 128, 128)


def hand_made(kinds: str, numbers: list[int]) -> PacketIndex:
    """Packets in decoding order: K keyframe, P reference, b neither; and the frames they hold."""
    flags = {"K": KEYFRAME | REFERENCE, "P": REFERENCE, "b": 0}
    records = [
        (0, 0, number - place, flags[kind], 0)
        for place, (kind, number) in enumerate(zip(kinds, numbers, strict=True))
    ]
    return PacketIndex("h264", b"", np.array(records, PACKET))


@pytest.mark.parametrize(
    ("wanted", "runs"),
    [
        ([0], [[0]]),
        ([1], [[0, 1, 2]]),
        ([2], [[0, 1, 3]]),
        ([1, 2], [[0, 1, 2, 3]]),
        ([3], [[0, 1]]),
        ([4], [[4]]),
        ([6], [[4, 5, 7]]),
        ([2, 6], [[0, 1, 3], [4, 5, 7]]),
        ([6, 0, 0], [[0], [4, 5, 7]]),
    ],
)
def test_closed_groups(wanted, runs):
    """K0 P3 b1 b2 | K4 P7 b5 b6: a B frame needs both its neighbours, and nothing else is read."""
    index = hand_made("KPbbKPbb", [0, 3, 1, 2, 4, 7, 5, 6])
    assert index.groups_are_closed
    assert [run.tolist() for run in index.runs(wanted)] == runs


@pytest.mark.parametrize(
    ("wanted", "runs"),
    [
        ([5], [[0, 1, 4, 6]]),  # shown before the keyframe it follows: the group before it is needed
        ([6], [[4]]),
        ([7], [[4, 7, 8]]),
        ([6, 5], [[0, 1, 4, 6]]),
        ([1, 7], [[0, 1, 2], [4, 7, 8]]),
        ([1, 5, 7], [[0, 1, 2, 4, 6], [4, 7, 8]]),
    ],
)
def test_open_groups(wanted, runs):
    """K0 P3 b1 b2 | K6 b4 b5 P8 b7."""
    index = hand_made("KPbbKbbPb", [0, 3, 1, 2, 6, 4, 5, 8, 7])
    assert not index.groups_are_closed
    found = [run.tolist() for run in index.runs(wanted)]
    assert found == runs or found == [sorted({place for run in runs for place in run})]


def test_records_survive_the_file_and_name_what_is_none(tmp_path):
    packets = index_packets(write_counted(tmp_path / "a.mp4", 40, options=RANDOM_ACCESS)).packets
    path = tmp_path / "packets.npy"
    write_packets(path, [packets[:10], packets[10:]], count=40)
    assert read_packets(path).tobytes() == packets.tobytes() and PACKET.itemsize == 12
    np.save(tmp_path / "other.npy", np.zeros(3))
    with pytest.raises(ValueError, match=r"other\.npy: not a packet index; its records are float64"):
        read_packets(tmp_path / "other.npy")
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ValueError, match=r"packets\.npy: not a packet index"):
        read_packets(path)


@pytest.mark.parametrize(
    ("name", "codec"), [("a.mkv", "libx264"), ("b.mov", "libx265"), ("c.mkv", "libx265")]
)
def test_containers_that_keep_packets_whole_are_indexed(tmp_path, name, codec):
    options = {"g": "12", "x265-params": "log-level=error"}
    path = write_counted(tmp_path / name, 40, codec=codec, options=options, sound=name == "b.mov")
    index = index_packets(path)
    pictures = {
        number: frame.to_ndarray(format="rgb24") for number, frame in decode_packets(path, index, [7, 39])
    }
    assert {number: read_number(picture[:, :128]) for number, picture in pictures.items()} == {7: 7, 39: 39}


def test_what_cannot_be_indexed_says_why(tmp_path):
    stream = write_counted(tmp_path / "a.ts", 20)
    with pytest.raises(NotIndexableError, match=r"parameter sets|does not keep packets"):
        index_packets(stream)
    other = write_counted(tmp_path / "b.mp4", 20, codec="mpeg4", options={})
    with pytest.raises(NotIndexableError, match="mpeg4 in this container"):
        index_packets(other)


def test_another_content_of_the_same_size_is_refused(tmp_path):
    """A chunk made anew after indexing must not pass for the old one."""
    path = write_counted(tmp_path / "a.mp4", 40, options=RANDOM_ACCESS)
    index = index_packets(path)
    content = bytearray(path.read_bytes())
    record = index.packets[5]
    content[record["offset"] + record["size"] // 2] ^= 1
    path.write_bytes(content)
    number = 5 + int(record["shift"])
    with pytest.raises(MediaError, match="damaged: the packet at byte"):
        decode_frames(path, [number], crop=WHOLE, size_px=64, packets=index)
    other = next(n for n in range(40) if all(5 not in run for run in index.runs([n])))
    decode_frames(path, [other], crop=WHOLE, size_px=64, packets=index)  # untouched frames can be read


def test_a_disk_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    path = write_counted(tmp_path / "a.mp4", 40, options=RANDOM_ACCESS)
    index = index_packets(path)

    def fails(*arguments):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "pread", fails)
    with pytest.raises(MediaError, match=r"a\.mp4: cannot be read \(Input/output error\)"):
        decode_frames(path, [3], crop=WHOLE, size_px=64, packets=index)
