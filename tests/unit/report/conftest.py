"""A small made-up set of results in the pipeline's own formats, and the plan over it."""

from __future__ import annotations

import copy
import json
import math
import shutil
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file

from avion_core.config import TranscodeSettings, load_settings
from avion_core.data.clips import write_clips, write_sentences
from avion_core.data.dropped import DroppedClips
from avion_core.evaluate import bootstrap
from avion_core.evaluate.bootstrap import Scores
from avion_core.files import fingerprint, write_json
from avion_core.media.chunk_table import read_chunk_table, write_chunk_table
from avion_core.report.plan import ReportPlan, read_plan
from tests.support.chunked import transcode_all

VERBS = ("take", "put", "open", "close", "wash", "cut", "pour", "stir")
NOUNS = ("mug", "plate", "knife", "pan", "drawer")
FPS = 30
VIDEO_SECONDS = 4
STAGE = {"frames": 4, "image_size_px": 32}


@pytest.fixture(autouse=True)
def few_draws(monkeypatch):
    """Intervals are other tests' matter."""
    monkeypatch.setattr(bootstrap, "DRAWS", 100)


def config() -> dict[str, Any]:
    """A configuration with the shape of the demo's."""
    videomae = {**STAGE, "dataset": "kinetics", "model": "toy_videomae"}
    raw = {
        "selected_runs": ["untrained", "human", "llm", "videomae", "scratch"],
        "datasets": {
            "ego4d": {"layout": "ego4d", "source": "toy_kitchen"},
            "ek100": {"layout": "ek100", "source": "toy_kitchen"},
            "kinetics": {"layout": "kinetics", "source": "toy_kitchen"},
        },
        "stages": {
            "pretrain": {**STAGE, "task": "contrastive", "dataset": "ego4d", "model": "toy_dual_encoder"},
            "finetune_mir": {
                **STAGE,
                "task": "relevancy",
                "dataset": "ek100",
                "model": "toy_dual_encoder",
                "start": "pretrain",
            },
            "finetune_cls": {
                **STAGE,
                "task": "classification",
                "label": "action",
                "dataset": "ek100",
                "model": "toy_dual_encoder",
                "start": "pretrain",
            },
            "pretrain_videomae": {**videomae, "task": "reconstruction"},
            "finetune_videomae": {**videomae, "task": "classification", "start": "pretrain_videomae"},
        },
        "evaluations": {
            "zero_shot_mir": {"kind": "retrieval", "dataset": "ek100", "stage": "pretrain"},
            "egomcq": {"kind": "multiple_choice", "dataset": "ego4d", "stage": "pretrain"},
            "mir": {"kind": "retrieval", "dataset": "ek100", "stage": "finetune_mir"},
            "cls": {"kind": "recognition", "dataset": "ek100", "stage": "finetune_cls"},
            "kinetics": {"kind": "recognition", "dataset": "kinetics", "stage": "finetune_videomae"},
        },
        "runs": {
            "untrained": {
                "title": "Untrained dual encoder",
                "stages": {"pretrain": {"epochs": 0}},
                "evaluations": ["zero_shot_mir", "egomcq"],
            },
            "human": {
                "title": "Human narrations",
                "stages": {"pretrain": {}},
                "evaluations": ["zero_shot_mir", "egomcq"],
            },
            "llm": {
                "title": "Human and LLM narrations",
                "stages": {"pretrain": {"narrations": ["rephrased"]}, "finetune_mir": {}, "finetune_cls": {}},
                "evaluations": ["zero_shot_mir", "egomcq", "mir", "cls"],
            },
            "videomae": {
                "title": "VideoMAE, pretrained",
                "stages": {"pretrain_videomae": {}, "finetune_videomae": {}},
                "evaluations": ["kinetics"],
            },
            "scratch": {
                "title": "VideoMAE, from scratch",
                "stages": {"pretrain_videomae": {"epochs": 0}, "finetune_videomae": {}},
                "evaluations": ["kinetics"],
            },
        },
    }
    return dict(load_settings(raw).model_dump(mode="json"))


def retrieval_figures(mean_map: float) -> dict[str, Any]:
    """`metrics.json` of a retrieval whose mAP is `mean_map` (0…1)."""

    def both(mean: float) -> dict[str, float]:
        return {"video_to_text": mean + 0.01, "text_to_video": mean - 0.01, "mean": mean}

    chance = {"mAP": both(0.061), "nDCG": both(0.152)}
    return {"mAP": both(mean_map), "nDCG": both(mean_map + 0.1), "chance": chance, "clips": 60}


METRICS: dict[str, dict[str, dict[str, Any]]] = {
    "untrained": {
        "zero_shot_mir": retrieval_figures(0.071),
        "egomcq": {
            "inter_video": 21.0,
            "intra_video": 19.0,
            "chance": {"inter_video": 20.0, "intra_video": 20.0},
        },
    },
    "human": {
        "zero_shot_mir": retrieval_figures(0.213),
        "egomcq": {
            "inter_video": 52.5,
            "intra_video": 31.0,
            "chance": {"inter_video": 20.0, "intra_video": 20.0},
        },
    },
    "llm": {
        "zero_shot_mir": retrieval_figures(0.257),
        "egomcq": {
            "inter_video": 50.0,
            "intra_video": 34.0,
            "chance": {"inter_video": 20.0, "intra_video": 20.0},
        },
        "mir": retrieval_figures(0.584),
        "cls": {
            "verb_top1": 61.7,
            "noun_top1": 48.3,
            "action_top1": 35.0,
            "chance": {"verb_top1": 18.3, "noun_top1": 21.7, "action_top1": 5.0},
            "clips": 60,
            "bad_clips": [
                {"video_id": "P01_09", "start_s": 1.0, "end_s": 2.0, "reason": "the chunk is gone"}
            ],
        },
    },
    "videomae": {
        "kinetics": {"top1": 41.7, "top5": 83.3, "chance": {"top1": 12.5, "top5": 62.5}, "clips": 48}
    },
    "scratch": {
        "kinetics": {"top1": 43.75, "top5": 81.25, "chance": {"top1": 12.5, "top5": 62.5}, "clips": 48}
    },
}


class World:
    """A folder with results and a plan that tests may change before the report is built."""

    def __init__(
        self, root: Path, *, chunks: Path, videos: int = 3, clips_a_video: int = 20, log_lines: int = 12
    ) -> None:
        self.root = root
        self.chunks = chunks
        self.rng = np.random.default_rng(0)
        self.config = config()
        self.settings = load_settings(self.config)
        self.log_lines = log_lines
        self.sentences = [
            (f"{verb} {noun}", v, n) for v, verb in enumerate(VERBS) for n, noun in enumerate(NOUNS)
        ]
        self.clips = self._clips(videos, clips_a_video)
        self.plan: dict[str, Any] = {
            "title": "Video and language on two cores",
            "config": self.config,
            "revision": "0123456789ab",
            "runs": {run: self._run(run) for run in self.config["runs"]},
            "datasets": {name: self._dataset(name) for name in self.config["datasets"]},
            "narrations": {"ego4d": self._narrations()},
            "narrated": {},
            "dag": {
                "nodes": ["download", "transcode", "annotate", "rephrase", "train", "evaluate", "report"],
                "edges": [
                    ["download", "transcode"],
                    ["transcode", "annotate"],
                    ["download", "annotate"],
                    ["annotate", "rephrase"],
                    ["annotate", "train"],
                    ["rephrase", "train"],
                    ["train", "train"],
                    ["train", "evaluate"],
                    ["transcode", "train"],
                    ["evaluate", "report"],
                ],
            },
        }

    def copy(self, root: Path) -> World:
        """The same world in another folder."""
        shutil.copytree(self.root, root)
        other = copy.copy(self)
        other.root = root
        other.plan = json.loads(json.dumps(self.plan).replace(str(self.root), str(root)))
        other.config = other.plan["config"]
        return other

    def read_plan(self) -> ReportPlan:
        return read_plan(json.dumps(self.plan))

    def folder(self, run: str, name: str) -> Path:
        return self.root / "results" / run / name

    def chunks_without(self, video_id: str) -> Path:
        """A copy of the chunk index that lacks one video; its files are read without their packets."""
        table = read_chunk_table(self.chunks)
        nothing = pa.nulls(table.num_rows, pa.string())
        table = table.set_column(table.column_names.index("codec"), "codec", nothing)
        path = self.root / "fewer_chunks.parquet"
        write_chunk_table(path, table.filter(pc.not_equal(table["video_id"], video_id)))
        return path

    def _clips(self, videos: int, clips_a_video: int) -> list[dict[str, Any]]:
        rows = []
        for video in range(videos):
            for place in range(clips_a_video):
                text, verb, noun = self.sentences[(7 * video + 3 * place) % len(self.sentences)]
                start = place * (VIDEO_SECONDS - 1) / clips_a_video
                rows.append(
                    {
                        "video_id": f"P01_{video:02}",
                        "start_s": start,
                        "end_s": start + 1.0,
                        "texts": [text],
                        "verb": verb,
                        "noun": noun,
                        "nouns": [noun],
                    }
                )
        return rows

    def _dataset(self, name: str) -> dict[str, Any]:
        room = self.root / "data" / name
        write_clips(room / "clips/train.arrow", self.clips)
        write_clips(room / "clips/validation.arrow", self.clips)
        write_sentences(
            room / "clips/sentences_test.arrow",
            [
                {"sentence_id": row, "text": text, "verb": verb, "nouns": [noun]}
                for row, (text, verb, noun) in enumerate(self.sentences)
            ],
        )
        quarantine = [{"video_id": "P01_07", "path": "P01_07.MP4", "reason": "no video stream"}]
        write_json(room / "quarantine.json", quarantine if name == "ek100" else [])
        lost = DroppedClips()
        annotations, reason = [f"{name}_{row}" for row in range(4)], "the video is not in the chunks"
        videos = ["P01_07", "P01_07", "P01_08", "P01_08"]
        lost.add("validation", {"annotation": pa.array(annotations), "video_id": pa.array(videos)}, reason)
        lost.publish(room / "clips")
        source = self.config["datasets"][name]
        return {
            "layout": source["layout"],
            "source": source["source"],
            "chunks": str(self.chunks),
            "quarantine": str(room / "quarantine.json"),
            "dropped": str(room / "clips/dropped.json"),
            "clips": {split: str(room / f"clips/{split}.arrow") for split in ("train", "validation")},
        }

    def _narrations(self) -> dict[str, str]:
        path = self.root / "data/ego4d/narrations/lexicon/train.arrow"
        rows = [
            {**row, "texts": [f"#C C {row['texts'][0]}", f"#C C grabs: {row['texts'][0]}"]}
            for row in self.clips
        ]
        write_clips(path, rows)
        summary = {"texts": 40, "other_subject": 0, "reasons": {}, "bill": {}}
        write_json(path.with_name("summary.json"), summary)
        path.with_name("dead_letters.csv").write_text("text,reason,tries\n")
        files = {"table": "train.arrow", "dead": "dead_letters.csv", "summary": "summary.json"}
        planned = {kind: str(path.with_name(name)) for kind, name in files.items()}
        return {"provider": "lexicon", "chunks": str(self.chunks), **planned}

    def _run(self, run: str) -> dict[str, Any]:
        entry = self.config["runs"][run]
        for stage in entry["stages"]:
            self._stage(run, stage)
        for evaluation in entry["evaluations"]:
            self._evaluation(run, evaluation)
        return {
            "title": entry["title"],
            "stages": {stage: str(self.folder(run, stage)) for stage in entry["stages"]},
            "evaluations": {name: self._planned(run, name) for name in entry["evaluations"]},
        }

    def _planned(self, run: str, name: str) -> dict[str, Any]:
        entry = self.config["evaluations"][name]
        room = self.root / "data" / entry["dataset"]
        files = {"chunks": str(self.chunks), "clips": str(room / "clips/validation.arrow")}
        if entry["kind"] == "retrieval":
            files["sentences"] = str(room / "clips/sentences_test.arrow")
        return {
            "folder": str(self.folder(run, name)),
            "kind": entry["kind"],
            "dataset": entry["dataset"],
            "stage": entry["stage"],
            "files": files,
        }

    def _stage(self, run: str, stage: str) -> None:
        folder = self.folder(run, stage)
        folder.mkdir(parents=True)
        trained = self.config["runs"][run]["stages"][stage].get("epochs", 1) > 0
        lines = []
        for index in range(self.log_lines if trained else 0):
            loss = 0.8 + 2.5 * math.exp(-4 * index / self.log_lines) + 0.08 * self.rng.standard_normal()
            line = {"step": 10 * (index + 1), "epoch": index // 4, "loss": loss, "accuracy": 0.9 - loss / 5}
            lines.append({**line, "clips_per_s": 41.0, "elapsed_s": 6.5 * (index + 1), "bad_clips": []})
        (folder / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        write_json(folder / "model.json", {"kind": "dual_encoder"})
        self._manifest(
            folder,
            {
                "seed": 0,
                "clips": len(self.clips),
                "stage": self.settings.stage(run, stage).model_dump(mode="json"),
            },
            rephrased="rephrased" in self.settings.stage(run, stage).clip_tables,
        )

    def _evaluation(self, run: str, name: str) -> None:
        folder = self.folder(run, name)
        scores = self._scores(run, name)
        write_json(folder / "metrics.json", with_beside(METRICS[run][name], scores))
        self._manifest(folder, self.settings.evaluations[name].model_dump(mode="json"))
        save_file(scores.to_arrays(), folder / "outputs.safetensors")
        if self.config["evaluations"][name]["kind"] != "retrieval":
            return
        text_MD = np.eye(len(self.sentences), dtype=np.float32)
        own = [row["verb"] * len(NOUNS) + row["noun"] for row in self.clips]
        noise = 0.35 * self.rng.standard_normal((len(own), len(self.sentences)))
        video_ND = (text_MD[own] + noise).astype(np.float32)
        rows_N = np.arange(len(own), dtype=np.int64)
        tensors = {"video_embed_ND": video_ND, "text_embed_MD": text_MD, "rows_N": rows_N}
        tensors |= scores.to_arrays()
        save_file(tensors, folder / "outputs.safetensors")

    def _manifest(self, folder: Path, settings: dict[str, Any], *, rephrased: bool = False) -> None:
        table = "narrations/lexicon/train" if rephrased else "clips/train"
        entry = {"path": f"data/ego4d/{table}.arrow", "sha256": fingerprint(str(folder)) * 4}
        inputs = {"clips_1": entry}
        write_json(
            folder / "manifest.json", {"revision": "0123456789ab", "settings": settings, "inputs": inputs}
        )

    def change_manifest(self, run: str, name: str, **changes: Any) -> None:
        """Change what the manifest of a stage says about its recipe."""
        path = self.folder(run, name) / "manifest.json"
        manifest = json.loads(path.read_text())
        manifest["settings"]["stage"] |= changes
        write_json(path, manifest)

    def _scores(self, run: str, name: str) -> Scores:
        """Scores with about the run's figures; those of two runs go up and down with the same clips."""
        hard = np.random.default_rng(0).normal(0, 0.1, 200)
        metrics = METRICS[run][name]
        clips = 60 if "mAP" in metrics else 48
        place = np.arange(clips)
        if "mAP" not in metrics:
            chance = np.random.default_rng([len(run), clips]).random(clips)
            figures = {
                key: 100.0 * (chance < value / 100)
                for key, value in metrics.items()
                if key in metrics["chance"]
            }
            return Scores(place, place % 3, figures, {})
        nothing = np.full(clips, np.nan)
        figures = {
            f"{metric}.{side}": np.concatenate(halves)
            for metric in ("mAP", "nDCG")
            for side, halves in (
                ("video_to_text", (metrics[metric]["video_to_text"] + hard[:clips], nothing)),
                ("text_to_video", (nothing, metrics[metric]["text_to_video"] + hard[clips : 2 * clips])),
            )
        }
        return Scores(np.tile(place, 2), np.tile(place % 3, 2), figures, {}, top=1.0)


def with_beside(metrics: dict[str, Any], scores: Scores) -> dict[str, Any]:
    """The figures with n and interval beside them, as an evaluation writes them."""
    made = copy.deepcopy(metrics)
    counts = scores.counts()
    for name, bounds in scores.intervals().items():
        group, _, figure = name.rpartition(".")
        place = made[group] if group else made
        place |= {f"{figure}_n": counts[name], f"{figure}_interval": list(bounds)}
    return made


def make_chunks(folder: Path, *, videos: int = 3) -> Path:
    """The chunk index of a few small real videos: a square that wanders over a coloured ground."""
    sources = []
    for number in range(videos):
        path = folder / f"P01_{number:02}.mp4"
        _write_video(path, number)
        sources.append({"video_id": path.stem, "path": str(path), "bytes": path.stat().st_size})
    pq.write_table(pa.Table.from_pylist(sources), folder / "videos.parquet")
    return transcode_all(folder, TranscodeSettings(short_side_px=64, preset="ultrafast"))


def _write_video(path: Path, number: int) -> None:
    rng = np.random.default_rng(number)
    ground, square = rng.integers(0, 255, (2, 3))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for index in range(FPS * VIDEO_SECONDS):
            frame = np.tile(ground.astype(np.uint8), (64, 96, 1))
            left, top = 20 + index % 40, 10 + 8 * number % 30
            frame[top : top + 20, left : left + 20] = square
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


@pytest.fixture(scope="session")
def chunks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_chunks(tmp_path_factory.mktemp("footage"))


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory, chunks: Path) -> World:
    return World(tmp_path_factory.mktemp("template"), chunks=chunks)


@pytest.fixture
def world(tmp_path: Path, template: World) -> World:
    """A fresh copy of the template: writing it anew, every file synced, would take a second a test."""
    return template.copy(tmp_path / "world")
