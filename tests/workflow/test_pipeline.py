"""The whole workflow at test size: what it leaves, and what a change makes it do again."""

from __future__ import annotations

import json
import re
import shutil
import stat
from pathlib import Path

import pytest
from harness import ROOT, copy_workspace, finished, planned_files, planned_jobs, snakemake

STAGES = ["download", "transcode", "annotate", "narrate", "pretrain", "finetune", "evaluate", "report"]


def test_report_holds_every_figure_of_the_output_contract(reported: Path) -> None:
    figures = json.loads((reported / "results/report/metrics.json").read_text())
    assert figures["provenance"]
    runs = figures["runs"]
    directions = {"video_to_text", "text_to_video", "mean"}
    for run, name in (("untrained", "zero_shot_mir"), ("llm", "zero_shot_mir"), ("llm", "mir")):
        for part in (runs[run][name], runs[run][name]["chance"]):
            assert directions <= part["mAP"].keys() & part["nDCG"].keys()
            assert all(0 < part[metric][side] < 1 for metric in ("mAP", "nDCG") for side in directions)
    for part in (runs["llm"]["cls"], runs["llm"]["cls"]["chance"]):
        assert all(0 <= part[name] <= 100 for name in ("verb_top1", "noun_top1", "action_top1"))
    assert {"inter_video", "intra_video", "chance"} <= runs["llm"]["egomcq"].keys()
    assert {"top1", "top5", "class_mean_top1", "chance"} <= runs["videomae"]["kinetics"].keys()
    retrieved, classified = runs["llm"]["mir"]["mAP"], runs["llm"]["cls"]
    for part, name in ((retrieved, "mean"), (classified, "verb_top1"), (classified, "verb_class_mean_top1")):
        low, high = part[f"{name}_interval"]
        assert low <= part[name] <= high and part[f"{name}_n"] > 0
    assert figures["provenance"]["differences"] == []
    assert (reported / "results/report/index.html").stat().st_size > 10_000


def test_every_file_and_folder_follows_the_umask(reported: Path) -> None:
    probe = reported.with_name("new")
    probe.touch()
    new = stat.S_IMODE(probe.stat().st_mode)
    made = [path for top in ("data", "results") for path in (reported / top).rglob("*")]
    private = [path for path in made if new & ~stat.S_IMODE(path.lstat().st_mode)]
    assert made and not private


@pytest.mark.parametrize("target", ["all", *STAGES])
def test_finished_stage_has_nothing_to_do(reported: Path, target: str) -> None:
    assert planned_jobs(reported, target) == {}


def test_stage_brings_what_it_needs_and_no_more(tmp_path: Path) -> None:
    jobs = {stage: set(planned_jobs(tmp_path, stage)) - {stage} for stage in STAGES}
    annotate = {"annotate_ego4d", "annotate_ek100", "annotate_kinetics"}
    assert jobs["download"] == {"fetch_dataset"}
    assert jobs["transcode"] == jobs["download"] | {"transcode_videos", "gather_chunks"}
    assert jobs["annotate"] == jobs["transcode"] | annotate
    assert jobs["narrate"] == jobs["transcode"] | {
        "annotate_ego4d",
        "rephrase_narrations",
        "gather_narrations",
    }
    assert jobs["pretrain"] == jobs["narrate"] | {"annotate_kinetics", "pretrain_stage"}
    assert jobs["finetune"] == jobs["pretrain"] | {"annotate_ek100", "finetune_stage"}
    assert jobs["evaluate"] == jobs["finetune"] | {"evaluate_stage"}
    assert jobs["report"] == jobs["evaluate"] | {"build_report"}


def test_data_that_validate_a_stage_are_its_inputs(tmp_path: Path) -> None:
    """Also those of another data set than it trains on, by its command: the line with the reason is cut."""
    overlay = {"stages": {"pretrain": {"validate_with": "zero_shot_mir"}}, "selected_runs": ["llm"]}
    options = ("--dry-run", "--printshellcmds")
    plan = snakemake(tmp_path, "pretrain", overlay=overlay, options=options).stdout
    command = plan.split("Train pretrain of the run llm\n")[1].partition("--files ")[2].split()
    names = ("chunks.parquet", "clips/validation.arrow", "clips/sentences_test.arrow")
    assert {f"data/ek100/{name}" for name in names} <= {word.partition("=")[2] for word in command}
    stages = {"pretrain": {"narrations": ["human"], "validate_with": "zero_shot_mir"}}
    overlay = {"runs": {"alone": {"title": "alone", "stages": stages, "evaluations": []}}}
    assert "ek100" in planned_files(tmp_path, "download", overlay={**overlay, "selected_runs": ["alone"]})


def test_preflight_looks_at_every_data_set_before_any_training(annotated: Path, tmp_path: Path) -> None:
    workspace = copy_workspace(annotated, tmp_path / "workspace")
    overlay = {"preflight_clips": 5}
    assert "pretrain_stage" not in planned_jobs(workspace, "preflight", overlay=overlay)
    said = finished(workspace, "preflight", overlay=overlay)
    assert "preflight: no problems" in said
    page = (workspace / "results/preflight.html").read_text()
    assert all(f"<td>{name}</td>" in page for name in ("ego4d", "ek100", "kinetics"))
    assert re.search(r"ek100, evaluation: \d+ clips; left out: ", said)
    next((workspace / "data/ek100/chunks").rglob("*.mp4")).unlink()
    result = snakemake(workspace, "preflight", overlay=overlay)
    assert result.returncode == 1
    assert "ek100, chunks: 1 chunk files are gone or changed" in result.stdout
    assert "chunk files are gone" in (workspace / "results/preflight.html").read_text()


def test_setting_of_mir_reruns_mir_and_what_follows_it(reported: Path) -> None:
    overlay = {"stages": {"finetune_mir": {"learning_rate": 1.0e-4}}}
    assert planned_jobs(reported, "all", overlay=overlay) == {
        "all": 1,
        "finetune_stage": 1,
        "evaluate_stage": 1,
        "build_report": 1,
    }
    plan = planned_files(reported, "all", overlay=overlay)
    assert "results/llm/finetune_mir/model.safetensors" in plan
    assert "results/llm/mir/metrics.json" in plan


def test_prompt_leaves_videomae_alone(reported: Path) -> None:
    overlay = {
        "narrate": {"provider": "language_model", "rephrase": {"instruction": "Say it in other words."}}
    }
    plan = planned_files(reported, "all", overlay=overlay, OPENAI_API_KEY="of a test")
    assert "results/llm/pretrain/model.safetensors" in plan
    assert "results/videomae" not in plan.replace("input: ", "").split("rule build_report")[0]


@pytest.mark.parametrize(
    "overlay",
    [
        {"stages": {"pretrain": {"log_every_steps": 3, "memory_mb": 4000, "threads": 2}}},
        {"language_model": {"max_usd": 3.0}},
        {"selected_runs": ["untrained", "llm"]},
    ],
    ids=["machine", "other provider", "fewer runs"],
)
def test_change_that_decides_no_result_retrains_nothing(reported: Path, overlay: dict[str, object]) -> None:
    assert not planned_jobs(reported, "finetune", overlay=overlay)


def test_a_copied_results_folder_is_made_anew_where_its_manifests_disagree(
    reported: Path, tmp_path: Path
) -> None:
    """Without Snakemake's records, by which it would notice."""
    workspace = copy_workspace(reported, tmp_path / "workspace")
    shutil.rmtree(workspace / ".snakemake")
    assert planned_jobs(workspace, "all") == {}
    overlay = {"stages": {"finetune_mir": {"learning_rate": 1.0e-4}}}
    planned = {"finetune_stage": 1, "evaluate_stage": 1, "build_report": 1}
    assert planned_jobs(workspace, "all", overlay=overlay) == {"all": 1, **planned}
    assert "learning_rate is 0.001 in manifest.json" in planned_files(workspace, "all", overlay=overlay)
    assert planned_jobs(workspace, "download", overlay=overlay) == {}
    fewer = {"selected_runs": ["untrained"]}
    assert planned_jobs(workspace, "all", overlay=fewer) == {"all": 1, "build_report": 1}


def test_mistyped_start_weights_over_finished_results_are_an_error(reported: Path, tmp_path: Path) -> None:
    workspace = copy_workspace(reported, tmp_path / "workspace")
    overlay = {"stages": {"pretrain": {"start_weights": "wieghts/vit.pt", "epochs": 99}}}
    for targets in (["all"], ["results/llm/cls/metrics.json"]):
        result = snakemake(workspace, *targets, overlay=overlay)
        assert result.returncode == 1
        assert "runs.llm.stages.pretrain: start_weights: wieghts/vit.pt: no such file" in result.stdout


def test_comment_in_the_code_reruns_nothing_and_another_architecture_its_trainings(
    reported: Path, tmp_path: Path
) -> None:
    """Over a copy of the code with a comment added to every module and rule file, the plan stays empty."""
    code = tmp_path / "code"
    for name in ("Snakefile", "config.yaml", "rules", "workflow_scripts", "avion_core", "envs", "profiles"):
        source = ROOT / name
        copy = shutil.copytree if source.is_dir() else shutil.copy2
        code.mkdir(exist_ok=True)
        copy(source, code / name)
    workspace = copy_workspace(reported, tmp_path / "workspace")
    for path in [*code.rglob("*.py"), *code.rglob("*.smk")]:
        path.write_text(path.read_text() + "\n# a comment\n")
    result = snakemake(workspace, "all", options=("--dry-run",), code=code)
    assert "Nothing to be done" in result.stdout, result.stdout[-3000:]
    architecture = code / "avion_core/models/architectures/toy_videomae.yaml"
    architecture.write_text(architecture.read_text() + "mlp_ratio: 3\n")
    planned = planned_files(workspace, "all", code=code)
    assert "Train pretrain_videomae of the run" in planned
    assert "Fine-tune finetune_mir of the run" not in planned


def test_retraining_with_another_setting_does_not_resume_the_old_run(reported: Path, tmp_path: Path) -> None:
    workspace = copy_workspace(reported, tmp_path / "workspace")
    before = (workspace / "results/llm/finetune_mir/model.safetensors").read_bytes()
    finished(workspace, "finetune", overlay={"stages": {"finetune_mir": {"learning_rate": 1.0e-4}}})
    assert (workspace / "results/llm/finetune_mir/model.safetensors").read_bytes() != before
    finished(workspace, "finetune")
    assert (workspace / "results/llm/finetune_mir/model.safetensors").read_bytes() == before


def test_a_changed_source_redoes_its_own_work_only(annotated: Path, tmp_path: Path) -> None:
    """The rows of docs/reruns.md, over the rendered EPIC-KITCHENS as files on disk and as rendered."""
    workspace = copy_workspace(annotated, tmp_path / "workspace")
    raw = workspace / "data/ek100/raw"
    annotation = raw / "EPIC_100_train.csv"
    video = next(raw.rglob("*.MP4"))
    content = annotation.read_bytes(), video.read_bytes()

    annotation.write_bytes(content[0] + b"\n")
    assert planned_jobs(workspace, "annotate") == {"fetch_dataset": 1, "annotate_ek100": 1, "annotate": 1}
    annotation.write_bytes(content[0])
    assert planned_jobs(workspace, "annotate") == {}

    video.unlink()
    assert planned_jobs(workspace, "annotate") == {}
    video.write_bytes(content[1][:3000])
    transcoding = {"fetch_dataset": 1, "transcode_videos": 2, "gather_chunks": 1, "annotate_ek100": 1}
    assert planned_jobs(workspace, "annotate") == {**transcoding, "annotate": 1}
    chunks = {path: path.stat().st_mtime_ns for path in (raw.parent / "chunks").rglob("*.mp4")}
    finished(workspace, "annotate")
    assert planned_jobs(workspace, "annotate") == {}
    quarantine = json.loads((workspace / "data/ek100/quarantine.json").read_text())
    assert [entry["video_id"] for entry in quarantine] == [video.stem]
    assert {path: path.stat().st_mtime_ns for path in chunks} == chunks

    video.write_bytes(content[1])
    finished(workspace, "annotate")
    assert json.loads((workspace / "data/ek100/quarantine.json").read_text()) == []
    assert planned_jobs(workspace, "annotate") == {}


def test_results_made_of_the_same_are_kept_below_an_index_made_anew(reported: Path, tmp_path: Path) -> None:
    """Another number of shards remakes index and tables, equal. A changed table and `--forcerun` retrain."""
    workspace = copy_workspace(reported, tmp_path / "workspace")
    overlay = {"shards": 3, "selected_runs": ["llm"]}
    results = {
        stage: [workspace / f"results/llm/{stage}/{name}" for name in ("model.safetensors", "train.jsonl")]
        for stage in ("pretrain", "finetune_mir", "finetune_cls")
    }
    results["mir"] = [workspace / "results/llm/mir/metrics.json"]

    def inodes() -> dict[str, list[int]]:
        return {name: [path.stat().st_ino for path in paths] for name, paths in results.items()}

    before = inodes()
    index = workspace / "data/ego4d/chunks.parquet"
    content = index.read_bytes()
    planned = planned_jobs(workspace, "evaluate", overlay=overlay)
    assert planned["gather_chunks"] and planned["finetune_stage"] == 2 and planned["evaluate_stage"]
    said = finished(workspace, "evaluate", overlay=overlay)
    assert index.read_bytes() == content
    kept = planned["pretrain_stage"] + planned["finetune_stage"] + planned["evaluate_stage"]
    assert said.count("nothing it depends on has changed; kept") == kept
    assert inodes() == before
    assert planned_jobs(workspace, "evaluate", overlay=overlay) == {}
    assert not list(workspace.rglob(".finished"))

    annotation = workspace / "data/ek100/raw/EPIC_100_train.csv"
    rows = annotation.read_text().splitlines(keepends=True)
    annotation.write_text("".join(rows[:-1]))
    finished(workspace, "finetune", overlay=overlay)
    after = inodes()
    retrained = {"finetune_mir", "finetune_cls"}
    assert {name for name in results if after[name] != before[name]} == retrained

    forced = ("--forcerun", "finetune_stage")
    said = finished(workspace, "finetune", overlay=overlay, options=forced)
    assert "nothing it depends on has changed" not in said
    assert all(inodes()[name] != after[name] for name in retrained)
