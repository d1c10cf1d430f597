"""Bad input ends in one clear error before any work, or is set aside with its reason."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from harness import ROOT, SNAKEMAKE, copy_workspace, environment, finished, snakemake, warm

from avion_core.media.program import ffmpeg_binary

FOLDER = ROOT / "configs/folder.yaml"


def folder_run(folder: Path, csv: str, *targets: str) -> subprocess.CompletedProcess[str]:
    """The `folder` source over `folder/videos` and this CSV."""
    (folder / "videos").mkdir(exist_ok=True)
    (folder / "narrations.csv").write_text(csv)
    line = [SNAKEMAKE, "--snakefile", str(ROOT / "Snakefile"), "--directory", str(folder)]
    line += ["--cores", "2", "--configfile", str(FOLDER), "--", *targets]
    return warm(line, environment())


def make_video(path: Path, seconds: int = 4) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    source = f"testsrc2=duration={seconds}:size=160x120:rate=30"
    subprocess.run(
        [ffmpeg_binary(), "-loglevel", "error", "-y", "-f", "lavfi", "-i", source, str(path)], check=True
    )


@pytest.mark.parametrize(
    ("overlay", "words"),
    [
        (
            {"stages": {"finetune_mir": {"learning_rte": 1}}},
            ["stages.finetune_mir.learning_rte", "did you mean 'learning_rate'"],
        ),
        ({"sed": 1}, ["'sed'", "did you mean 'seed'"]),
        ({"transcode": {"crf": 99}}, ["transcode.crf", "less than or equal to 51", "99"]),
        ({"narrate": {"provider": "language_model"}}, ["OPENAI_API_KEY"]),
        ({"stages": {"pretrain": {"model": "toy_dual_encodr"}}}, ["stages.pretrain", "'toy_dual_encoder'"]),
        (
            {"stages": {"pretrain": {"model": "toy_videomae"}}},
            ["stages.pretrain", "'contrastive' cannot train 'toy_videomae'", "dual_encoder"],
        ),
        ({"stages": {"pretrain": {"image_size_px": 90}}}, ["stages.pretrain", "image_size_px (90)"]),
        (
            {"stages": {"finetune_cls": {"start": "pretrain", "model": "toy_videomae"}}},
            ["stages.finetune_cls", "a videomae_classifier cannot start from a dual_encoder"],
        ),
        (
            {"evaluations": {"kinetics": {"frames": 16}}, "narrate": {"provider": "language_model"}},
            ["before any job:\n- ", "evaluations.kinetics", "set frames: 8", "OPENAI_API_KEY"],
        ),
        ({"stages": {"pretrain": {"nodes": 2}}}, ["stage pretrain", "nodes: 2", "--profile profiles/slurm"]),
    ],
    ids=[
        "mistyped setting",
        "mistyped section",
        "value out of range",
        "no key",
        "mistyped model",
        "model of another task",
        "image that the patches do not fill",
        "start of another kind",
        "several problems",
        "nodes without Slurm",
    ],
)
def test_bad_setting_stops_before_any_job(tmp_path: Path, overlay: dict[str, Any], words: list[str]) -> None:
    result = snakemake(tmp_path, overlay=overlay)
    assert result.returncode != 0
    assert all(word in result.stdout for word in words), result.stdout
    assert "Traceback" not in result.stdout
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("seed: 1\nstages: {pretrain: {epochs: 3}\n", ["mine.yaml, line 3", "not valid YAML"]),
        ("stages:\n\tpretrain: {}\n", ["mine.yaml, line 2", "a tab"]),
        ("seed: 1\nseed: 2\n", ["mine.yaml, line 2", "'seed' appears twice"]),
        ("", ["mine.yaml", "holds nothing"]),
        (None, ["mine.yaml", "No such file"]),
    ],
    ids=["unclosed", "tab", "twice", "empty", "missing"],
)
def test_bad_configuration_file_is_one_line(tmp_path: Path, text: str | None, words: list[str]) -> None:
    path = tmp_path / "mine.yaml"
    if text is not None:
        path.write_text(text)
    line = [SNAKEMAKE, "--snakefile", str(ROOT / "Snakefile"), "--directory", str(tmp_path), "--cores", "1"]
    result = warm([*line, "--configfile", str(path)], environment())
    (said,) = [line for line in result.stdout.splitlines() if not line.startswith("Using workflow")]
    assert result.returncode == 1
    assert all(word in said for word in words), said


def test_a_dry_run_prints_the_plan_and_then_what_is_missing(tmp_path: Path) -> None:
    """As a first look at configs/folder.yaml, which plans nothing of the toy kitchen."""
    line = [SNAKEMAKE, "--snakefile", str(ROOT / "Snakefile"), "--directory", str(tmp_path), "--cores", "1"]
    over = tmp_path / "over.yaml"
    rephrased = {"stages": {"folder_pretrain": {"narrations": ["rephrased"], "start_weights": "theirs.pt"}}}
    over.write_text(json.dumps({"runs": {"folder": rephrased}}))
    result = warm([*line, "--dry-run", "--configfile", str(FOLDER), str(over)], environment())
    plan, _, problems = result.stdout.partition("This would stop the run before any job:")
    assert re.search(r"^fetch_dataset +1$", plan, re.MULTILINE), plan
    assert re.search(r"^rephrase_narrations +2$", plan, re.MULTILINE), plan
    assert "videos: no such folder" in problems and "theirs.pt: no such file" in problems
    assert not (tmp_path / "data").exists()


GOOD = "video,start,end,text\na.mp4,0,1,opens the door\n"


@pytest.mark.parametrize(
    ("csv", "words"),
    [
        ("video,start,text\na.mp4,0,opens the door\n", ["narrations.csv", "'end'"]),
        (GOOD + "a.mp4,1:xx,2,closes it\n", ["narrations.csv", "3", "1:xx"]),
        (GOOD + "a.mp4,00:00:03,00:00:02,closes it\n", ["narrations.csv", "3", "end", "start"]),
        (GOOD + "b.mp4,1,2,closes it\n", ["narrations.csv", "3", "b.mp4"]),
    ],
    ids=["column missing", "bad time", "end before start", "video not there"],
)
def test_bad_csv_stops_before_any_job(tmp_path: Path, csv: str, words: list[str]) -> None:
    make_video(tmp_path / "videos/a.mp4")
    result = folder_run(tmp_path, csv)
    assert result.returncode != 0
    assert all(word in result.stdout for word in words), result.stdout
    assert "Traceback" not in result.stdout
    assert not (tmp_path / "data").exists()


def test_bad_videos_are_set_aside_with_their_reason_and_the_rest_goes_on(tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    make_video(videos / "good.mp4", seconds=8)
    make_video(videos / "other.mp4", seconds=8)
    whole = (videos / "good.mp4").read_bytes()
    (videos / "empty.mp4").write_bytes(b"")
    (videos / "words.mp4").write_text("this is no video " * 50)
    (videos / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    silent = ["-f", "lavfi", "-i", "sine=duration=2", str(videos / "sound.mp4")]
    subprocess.run([ffmpeg_binary(), "-loglevel", "error", *silent], check=True)
    bad = ["empty", "words", "cut", "sound"]
    rows = [f"good.mp4,{k / 2},{k / 2 + 0.5},opens the door {k},train" for k in range(16)]
    rows += [f"other.mp4,{k},{k + 1},closes the door {k},validation" for k in range(8)]
    rows += [f"{name}.mp4,0,1,opens the {name},train" for name in bad]
    result = folder_run(tmp_path, "\n".join(["video,start,end,text,split", *rows]), "annotate")
    assert result.returncode == 0, result.stdout[-4000:]
    quarantine = json.loads((tmp_path / "data/folder/quarantine.json").read_text())
    assert {Path(entry["path"]).stem for entry in quarantine} == set(bad)
    assert all(entry["reason"] for entry in quarantine)
    dropped = json.loads((tmp_path / "data/folder/clips/dropped.json").read_text())
    assert dropped["clips"] == len(bad)


def test_report_lists_a_quarantined_video(annotated: Path, tmp_path: Path) -> None:
    workspace = copy_workspace(annotated, tmp_path / "workspace")
    victim = sorted((workspace / "data/ego4d/raw/v2/full_scale").glob("*.mp4"))[0]
    victim.write_bytes(victim.read_bytes()[:2000])
    overlay = {"selected_runs": ["untrained"]}
    finished(workspace, overlay=overlay, options=("--forcerun", "transcode_videos"))
    page = (workspace / "results/report/index.html").read_text()
    quarantine = json.loads((workspace / "data/ego4d/quarantine.json").read_text())
    assert [entry["video_id"] for entry in quarantine] == [victim.stem]
    assert victim.stem in page
    assert quarantine[0]["reason"].split(":")[0] in page
