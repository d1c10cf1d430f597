"""The GPU benchmark: every row at tiny size on the CPU, what is skipped, and batches that do not fit."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from avion_core.models.layers import ATTENTION_BACKENDS
from avion_core.train.memory import DeviceMemoryError
from avion_core.train.preemption import PreemptedError
from benchmarks import RESULTS, gpu
from benchmarks.gpu_rows import ROWS, VIT_B
from tests.support.compiling import trace_only

NOT_ON_A_CPU = {"vit_b_sdpa_cudnn", "vit_b_sdpa_efficient"} | {
    f"vit_b_{name}" for name in ATTENTION_BACKENDS if name != "sdpa"
}
NOT_NEEDED = ("open_clip", "tensorboard", "hypothesis", "matplotlib", "ffmpeg", "imageio_ffmpeg", "snakemake")


@pytest.fixture
def bench(tmp_path):
    return gpu.Bench(torch.device("cpu"), tiny=True, folder=tmp_path)


@pytest.mark.slow
def test_every_row_runs_at_tiny_size(bench, monkeypatch):
    trace_only(monkeypatch)
    compiled, compile_block = [], nn.Module.compile

    def compile_first(block, **options):
        """One block stands for all: tracing takes most of the time."""
        if not compiled:
            compile_block(block, **options)
        compiled.append(block)

    monkeypatch.setattr(nn.Module, "compile", compile_first)
    found = gpu.run(bench, ROWS)
    assert not {name: entry for name, entry in found.items() if "failed" in entry}
    assert {name for name, entry in found.items() if "skipped" in entry} == NOT_ON_A_CPU
    assert all(entry["clips_per_s"] > 0 for entry in found.values() if "skipped" not in entry)
    assert len(compiled) >= sum(row.compile for row in ROWS.values())


@pytest.mark.slow
def test_it_needs_few_packages_and_writes_no_result_on_the_cpu():
    before = {path: path.stat().st_mtime_ns for path in RESULTS.iterdir()}
    rows = ["vit_b_loader", "plain_open_clip", "videomae"]
    program = (
        f"import sys\nsys.modules |= dict.fromkeys({NOT_NEEDED})\n"
        f"from benchmarks import gpu\ngpu.main(['--device', 'cpu', '--tiny', '--rows', *{rows}])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = {line.split()[0]: line for line in done.stdout.splitlines()[1:]}
    assert list(lines) == rows
    assert "skipped: import of open_clip" in lines["plain_open_clip"]
    assert "skipped" not in lines["vit_b_loader"] + lines["videomae"]
    assert {path: path.stat().st_mtime_ns for path in RESULTS.iterdir()} == before


def test_a_batch_is_halved_until_it_fits_and_the_row_says_so(bench, monkeypatch):
    tried = []

    def trained(self, row, clips):
        tried.append(clips)
        if clips > 64:
            raise DeviceMemoryError("a training step does not fit the device")
        return {"clips_per_s": 1.0}

    monkeypatch.setattr(gpu.Bench, "_trained", trained)
    entry = replace(bench, tiny=False).measure(VIT_B)
    assert tried == [256, 128, 64]
    assert entry["clips"] == 64
    assert entry["row"]["architecture"] == "clip_vit_b_16", "by which predicted hours find it"
    assert gpu.line("vit_b", entry).endswith("256 clips do not fit")


def test_a_failing_row_loses_no_other(bench, monkeypatch, capsys):
    def measure(self, row):
        if row.compile:
            raise RuntimeError("CUDA error: an illegal memory access\nand more")
        return {"clips": 1, "wanted_clips": 1, "clips_per_s": 1.0}

    monkeypatch.setattr(gpu.Bench, "measure", measure)
    found = gpu.run(bench, {"bad": replace(VIT_B, compile=True), "good": VIT_B})
    assert found["bad"] == {"failed": "RuntimeError: CUDA error: an illegal memory access"}
    assert found["good"]["clips_per_s"] == 1.0
    assert "illegal memory access" in capsys.readouterr().out


def test_a_request_to_stop_ends_it(bench, monkeypatch):
    def measure(self, row):
        raise PreemptedError("asked to stop")

    monkeypatch.setattr(gpu.Bench, "measure", measure)
    with pytest.raises(PreemptedError):
        gpu.run(bench, {"vit_b": VIT_B})


def test_the_time_is_bounded(bench, monkeypatch):
    monkeypatch.setattr(gpu, "START_UNTIL_S", -1.0)
    assert gpu.run(bench, {"vit_b": VIT_B}) == {"vit_b": {"skipped": "-1 seconds are over"}}


def test_on_the_cpu_it_runs_only_at_tiny_size(capsys):
    with pytest.raises(SystemExit, match="2"):
        gpu.main(["--device", "cpu"])
    assert "only with --tiny" in capsys.readouterr().err
