"""Clips per CPU second of our decoder against decord as used in AVION's loader.

Three requests on the same footage: 4 frames of 1 second and 16 frames of 3 seconds (segments with
jitter), and Kinetics' window of 16 frames, 4 apart. decord opens the file twice, decodes whole
frames, and torch crops and resizes them, on chunks of the format `avion`; ours reads the packet index of
`random_access` and of `all_intra` chunks. One thread; every round times all of them in turn, and
the medians of the rounds are compared. Picture quality is measured against a lossless transcoding.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.transforms import InterpolationMode, RandomResizedCrop

from avion_core.media.crop import random_resized_crop
from avion_core.media.decode import Scaler, decode_packets, empty_clip
from avion_core.media.sample import segment_frames, window_frames
from benchmarks import write_result
from benchmarks.footage import VIDEO, Chunks, street, transcode

SECONDS, FPS, SIZE_PX = 60, 30, 224
ROUNDS, CLIPS, FASTER = 7, 24, 8
"""Rounds; clips per round for decord; and how many times as many for the others in about that time."""
REQUESTS = ("four_frames", "sixteen_frames", "kinetics_window")


def request(name: str, rng: np.random.Generator) -> NDArray[np.int64]:
    """Frame numbers of a random clip that lies within one chunk."""
    length = {"four_frames": FPS, "sixteen_frames": 3 * FPS, "kinetics_window": 10 * FPS}[name]
    chunk = int(rng.integers(SECONDS // 15))
    start = chunk * 15 * FPS + int(rng.integers(15 * FPS - length + 1))
    if name == "kinetics_window":
        return window_frames(start, start + length, 16, stride=4, rng=rng)
    return segment_frames(start, start + length, 4 if name == "four_frames" else 16, rng=rng)


def with_decord(chunks: Chunks, numbers: Sequence[int]) -> None:
    """As AVION's loader: length from a first opening, frames from a second, then torchvision's crop."""
    import decord

    chunk, local = divmod(np.asarray(numbers), 15 * FPS)
    path = str(chunks.paths[int(chunk[0])])
    len(decord.VideoReader(path, num_threads=1))
    frames = decord.VideoReader(path, num_threads=1).get_batch(local.tolist()).asnumpy()
    _crop_in_torch(frames)


def _crop_in_torch(frames_THWC: NDArray[np.uint8]) -> None:
    clip_TCHW = torch.from_numpy(frames_THWC.astype(np.float32)).permute(0, 3, 1, 2)
    RandomResizedCrop(SIZE_PX, scale=(0.5, 1.0), interpolation=InterpolationMode.BILINEAR)(clip_TCHW)


def with_packets(chunks: Chunks, numbers: Sequence[int], rng: np.random.Generator) -> None:
    """As our loader."""
    crop = random_resized_crop(*chunks.index.size(VIDEO), scale=(0.5, 1.0), rng=rng)
    chunks.index.read(VIDEO, np.asarray(numbers), crop=crop, size_px=SIZE_PX)


def clips_per_second(read: Callable[[NDArray[np.int64]], None], name: str, seed: int, *, clips: int) -> float:
    """Clips per second of this process's CPU time."""
    rng = np.random.default_rng(seed)
    wanted = [request(name, rng) for _ in range(clips)]
    start = time.process_time()
    for numbers in wanted:
        read(numbers)
    return clips / (time.process_time() - start)


def rates(baseline: Chunks, ours: Chunks, intra: Chunks) -> dict[str, dict[str, float]]:
    """Median clips per CPU second by request and reader."""
    rng = np.random.default_rng(0)
    readers: dict[str, Callable[[NDArray[np.int64]], None]] = {
        "decord_avion": lambda numbers: with_decord(baseline, numbers.tolist()),
        "avion": lambda numbers: with_packets(baseline, numbers.tolist(), rng),
        "random_access": lambda numbers: with_packets(ours, numbers.tolist(), rng),
        "all_intra": lambda numbers: with_packets(intra, numbers.tolist(), rng),
    }
    measured: dict[str, dict[str, list[float]]] = {name: {r: [] for r in readers} for name in REQUESTS}
    for round_number in range(ROUNDS + 1):
        for name in REQUESTS:
            for reader, read in readers.items():
                clips = CLIPS if reader == "decord_avion" else FASTER * CLIPS
                rate = clips_per_second(read, name, round_number, clips=clips)
                if round_number:  # the first round warms caches
                    measured[name][reader].append(rate)
    return {
        name: {reader: statistics.median(values) for reader, values in entry.items()}
        for name, entry in measured.items()
    }


class Stopwatch:
    """CPU seconds by part of the work."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = {}

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        start = time.process_time()
        yield
        self.spent[part] = self.spent.get(part, 0.0) + time.process_time() - start

    def milliseconds(self, clips: int) -> dict[str, float]:
        return {f"{part}_ms": 1000 * seconds / clips for part, seconds in self.spent.items()}


def where_our_time_goes(chunks: Chunks) -> dict[str, dict[str, float]]:
    """Milliseconds a clip for each step of a read, done one by one, and for the whole read.

    `decode` is libavcodec's time for the packets, `everything_else` the remainder.
    """
    result = {}
    for name in REQUESTS:
        rng, watch = np.random.default_rng(1), Stopwatch()
        wanted = [request(name, rng) for _ in range(4 * CLIPS)]
        decoded = sum(_step_by_step(chunks, numbers, rng, watch) for numbers in wanted)
        parts = watch.milliseconds(len(wanted))
        rest = 2 * parts["whole_read_ms"] - sum(parts.values())
        result[name] = {**parts, "everything_else_ms": rest, "frames_decoded": decoded / len(wanted)}
    return result


def _step_by_step(
    chunks: Chunks, numbers: NDArray[np.int64], rng: np.random.Generator, watch: Stopwatch
) -> int:
    """Time the steps of reading one clip; returns the number of decoded frames."""
    crop = random_resized_crop(*chunks.index.size(VIDEO), scale=(0.5, 1.0), rng=rng)
    row, local = int(numbers[0]) // (15 * FPS), sorted(set((numbers % (15 * FPS)).tolist()))
    index, path = chunks.index.packet_index(row), chunks.paths[row]
    assert index is not None
    with watch("find_packets"):
        runs = index.runs(local)
    with watch("read_packets"), path.open("rb") as file:
        data = [
            [_packet(file.fileno(), *record) for record in index.packets[run][["size", "offset"]].tolist()]
            for run in runs
        ]
    context = _decoder_of(index.codec, index.extradata)
    with watch("decode"):
        for run in data:
            for packet in run:
                context.decode(packet)
            context.decode(None)
            context.flush_buffers()
    frames = [frame for _, frame in decode_packets(path, index, local)]
    clip_THWC = empty_clip(len(frames), SIZE_PX)
    with watch("crop_scale_copy"):
        scale = Scaler(crop, SIZE_PX)
        for frame, out_HWC in zip(frames, clip_THWC, strict=True):
            scale(frame, out_HWC)
    with watch("whole_read"):
        chunks.index.read(VIDEO, numbers, crop=crop, size_px=SIZE_PX)
    return sum(map(len, data))


_decoders: dict[bytes, Any] = {}


def _decoder_of(codec: str, extradata: bytes) -> Any:
    if extradata not in _decoders:
        context: Any = av.CodecContext.create(codec, "r")
        context.extradata, context.thread_count = extradata, 1
        _decoders[extradata] = context
    return _decoders[extradata]


def _packet(file: int, size: int, offset: int) -> av.Packet:
    data = os.pread(file, size, offset)
    zlib.crc32(data)
    return av.Packet(data)


def where_decords_time_goes(chunks: Chunks) -> dict[str, dict[str, float]]:
    """Milliseconds a clip: opening the file twice, decoding whole frames, crop and resize in torch."""
    import decord

    result = {}
    for name in REQUESTS:
        rng, watch = np.random.default_rng(1), Stopwatch()
        for _ in range(CLIPS):
            chunk, local = divmod(request(name, rng), 15 * FPS)
            path = str(chunks.paths[int(chunk[0])])
            with watch("open"):
                len(decord.VideoReader(path, num_threads=1))
                reader = decord.VideoReader(path, num_threads=1)
            with watch("demultiplex_and_decode"):
                frames = reader.get_batch(local.tolist()).asnumpy()
            with watch("crop_and_resize"):
                _crop_in_torch(frames)
        result[name] = watch.milliseconds(CLIPS)
    return result


def luma(path: Path) -> NDArray[np.uint8]:
    """Brightness of every frame, T,H,W."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="gray") for frame in container.decode(video=0)])


def psnr_db(chunks: Chunks, reference: Chunks) -> float:
    """Of all frames' brightness together."""
    squares = [
        np.square(luma(ours).astype(np.float32) - luma(theirs)).mean()
        for ours, theirs in zip(chunks.paths, reference.paths, strict=True)
    ]
    return float(10 * np.log10(255**2 / np.average(squares, weights=reference.frames)))


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="avion-decode-") as name:
        folder = Path(name)
        source = street(folder / "street.mp4", seconds=SECONDS)
        formats = {
            key: transcode(source, folder / key, format=key)
            for key in ("avion", "random_access", "all_intra")
        }
        lossless = transcode(source, folder / "lossless", format="all_intra", crf=0)
        quality = {key: psnr_db(chunks, lossless) for key, chunks in formats.items()}
        speed = rates(formats["avion"], formats["random_access"], formats["all_intra"])
        parts = {
            "random_access": where_our_time_goes(formats["random_access"]),
            "all_intra": where_our_time_goes(formats["all_intra"]),
            "decord_avion": where_decords_time_goes(formats["avion"]),
        }
        size = {key: chunks.bytes / formats["avion"].bytes for key, chunks in formats.items()}
    ratios = {key: entry["random_access"] / entry["decord_avion"] for key, entry in speed.items()}
    ratios |= {
        "all_intra_four_frames": speed["four_frames"]["all_intra"] / speed["four_frames"]["decord_avion"]
    }
    ratios |= {"bytes": size["random_access"], "all_intra_bytes": size["all_intra"]}
    figures = {
        "clips_per_cpu_second": speed,
        "milliseconds_a_clip": parts,
        "psnr_db": quality,
        "psnr_difference_db": quality["random_access"] - quality["avion"],
    }
    write_result("decode", figures=figures, ratios=ratios)


if __name__ == "__main__":
    main()
