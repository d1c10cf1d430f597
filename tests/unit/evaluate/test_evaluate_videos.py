"""An evaluation over real chunks: the frames that the model sees, and a chunk that is damaged afterwards."""

from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.numpy import load_file

from avion_core.config import EvaluationSettings, TranscodeSettings
from avion_core.data.chunks import ChunkIndex
from avion_core.data.clips import write_clips
from avion_core.evaluate.runner import evaluate
from avion_core.files import read_json
from avion_core.media.chunk_table import read_chunk_table
from avion_core.media.crop import center_crop
from avion_core.models.architecture import load_architecture
from avion_core.models.store import ModelDescription, build_model, save_model
from tests.support.chunked import transcode_all

SECONDS, FPS = 2, 30


def draw_video(path, seed):
    """Coarse noise that changes every half second, 96 × 64 pixels."""
    rng = np.random.default_rng(seed)
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for _ in range(2 * SECONDS):
            picture = rng.integers(256, size=(4, 6, 3), dtype=np.uint8).repeat(16, 0).repeat(16, 1)
            for _ in range(FPS // 2):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


@pytest.fixture(scope="module")
def kitchen(tmp_path_factory):
    """Three videos as chunks of one second, three clips in each, and a fresh model."""
    home = tmp_path_factory.mktemp("kitchen")
    names = ["a", "b", "c"]
    for seed, name in enumerate(names):
        draw_video(home / f"{name}.mp4", seed)
    paths = [str(home / f"{name}.mp4") for name in names]
    pq.write_table(pa.table({"video_id": names, "path": paths, "bytes": [1, 1, 1]}), home / "videos.parquet")
    transcode_all(home, TranscodeSettings(chunk_seconds=1, short_side_px=64, preset="ultrafast"))
    write_clips(
        home / "clips.arrow",
        [
            {"video_id": name, "start_s": start, "end_s": start + 1, "texts": [f"{name} {start}"]}
            for name in names
            for start in (0.0, 0.5, 1.0)
        ],
    )
    torch.manual_seed(0)
    model = build_model("dual_encoder", "toy_dual_encoder", frames=2, image_size_px=64)
    seen = {"sampling": "segments", "stride": 4}
    description = ModelDescription("dual_encoder", "toy_dual_encoder", 2, 64, **seen)
    save_model(home / "model", model, description)
    return home


def measure(home, out, frames=2, **others):
    evaluate(
        EvaluationSettings.of_kind("retrieval", dataset="toy", stage="trained", frames=frames, **others),
        title=out,
        model=home / "model",
        files={"chunks": home / "chunks.parquet", "clips": home / "clips.arrow"},
        out=home / out,
    )
    return read_json(home / out / "metrics.json"), load_file(home / out / "outputs.safetensors")


def test_the_model_sees_the_middles_of_the_clips_segments(kitchen):
    metrics, outputs = measure(kitchen, "whole", batch_size=4, threads=2)
    assert (metrics["clips"], metrics["bad_clips"]) == (9, [])
    chunks = ChunkIndex.load(kitchen / "chunks.parquet")
    # clip 4: video b from 0.5 s to 1.5 s is frames 15 to 45, across a chunk boundary
    frames = chunks.read("b", [22, 37], crop=center_crop(96, 64), size_px=64)
    torch.manual_seed(0)
    model = build_model("dual_encoder", load_architecture("toy_dual_encoder"), frames=2, image_size_px=64)
    with torch.inference_mode():
        embedding = model.eval().encode_video(model.normalise(torch.from_numpy(frames)[None]))
    np.testing.assert_allclose(outputs["video_embed_ND"][4], embedding[0].numpy(), atol=1e-5)


def test_views_differ_and_their_mean_has_length_one(kitchen):
    _, one = measure(kitchen, "whole")
    _, six = measure(kitchen, "views", clips=2, crops=3)
    np.testing.assert_allclose(np.linalg.norm(six["video_embed_ND"], axis=1), 1, atol=1e-5)
    assert np.abs(six["video_embed_ND"] - one["video_embed_ND"]).max() > 1e-3


def test_more_frames_than_any_clip_has_are_refused(kitchen):
    with pytest.raises(ValueError, match="long: frames is 31, and the longest clip has 30; set fewer"):
        measure(kitchen, "long", frames=31)
    assert not (kitchen / "long").exists()


def test_a_damaged_chunk_costs_the_clips_that_need_it_and_no_other(kitchen):
    rows = read_chunk_table(kitchen / "chunks.parquet").to_pylist()
    chunk = Path(next(row["path"] for row in rows if (row["video_id"], row["chunk"]) == ("c", 1)))
    content = chunk.read_bytes()
    chunk.write_bytes(content[: len(content) // 2])
    try:
        metrics, outputs = measure(kitchen, "damaged", max_bad_share=0.3)
    finally:
        chunk.write_bytes(content)
    assert [(clip["video_id"], clip["start_s"]) for clip in metrics["bad_clips"]] == [("c", 0.5), ("c", 1.0)]
    np.testing.assert_array_equal(outputs["rows_N"], range(7))
