"""How a run begins, without Snakemake."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from avion_core import begin
from avion_core.config import Settings
from avion_core.workflow import Workflow
from avion_core.workflow.remakes import Remakes

DEMO = Path(__file__).parents[2] / "config.yaml"


def settings(given=None, *, files=(), alone=False) -> Settings:
    return begin.settings_or_exit(given or {}, files=files, demo=DEMO, alone=alone)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AVION_PLUGINS", "")
    return tmp_path


def test_settings_are_laid_over_the_demo_unless_they_stand_alone(folder):
    assert settings({"seed": 3}).seed == 3
    assert settings().selected_runs
    with pytest.raises(SystemExit, match="selected_runs"):
        settings({"seed": 3}, alone=True)


def test_errors_name_the_setting_or_the_files_line(folder):
    with pytest.raises(SystemExit, match=r"sede.*seed"):
        settings({"sede": 3})
    broken = folder / "broken.yaml"
    broken.write_text("seed: [1\n")
    with pytest.raises(SystemExit, match=r"broken\.yaml"):
        settings(files=[broken])


def check(monkeypatch, text, *, dry, targets=()):
    """Check the demo where `text` lists problems; what is told at the end, and what was planned."""
    told, asked = [], {}

    def found(workflow, **options):
        asked.update(options, runs=workflow.runs)
        return text

    monkeypatch.setattr(begin.precheck, "check", found)
    monkeypatch.setattr(begin.atexit, "register", lambda _, line, **__: told.append(line))
    chosen = settings()
    remakes = Remakes(Workflow(chosen), looks=False, force=lambda _: None)
    begin.check_before_work(chosen, list(targets), remakes, dry=dry)
    return told, asked


def test_problems_stop_a_run_and_end_a_dry_run_with_their_list(folder, monkeypatch):
    with pytest.raises(SystemExit, match="This stops the run before any job"):
        check(monkeypatch, "before any job:\n- no videos", dry=False)
    told, _ = check(monkeypatch, "before any job:\n- no videos", dry=True)
    assert told == ["\nThis would stop the run before any job:\n- no videos"]
    assert check(monkeypatch, "", dry=False)[0] == []


def test_targets_decide_what_is_checked(folder, monkeypatch):
    _, asked = check(
        monkeypatch, "", dry=False, targets=["annotate", "results/scratch/kinetics/metrics.json"]
    )
    assert asked["trains"] and asked["narrates"] and "scratch" in asked["runs"]
    _, asked = check(monkeypatch, "", dry=False, targets=["annotate"])
    assert not asked["trains"] and not asked["narrates"]
    assert check(monkeypatch, "", dry=False, targets=["plan"])[1] == {}
    assert check(monkeypatch, "", dry=False, targets=["plan", "pretrain"])[1]["trains"]


def test_a_damaged_record_ends_with_its_name(folder, monkeypatch):
    remakes = SimpleNamespace(look=lambda: (_ for _ in ()).throw(ValueError("manifest.json: damaged")))
    with pytest.raises(SystemExit, match=r"manifest\.json: damaged"):
        begin.check_before_work(settings(), [], remakes, dry=False)


def test_a_machine_that_lacks_slurm_claims_nothing(folder, monkeypatch):
    monkeypatch.setenv("PATH", "")
    dag = SimpleNamespace(needrun_jobs=list)
    with pytest.raises(SystemExit, match="no Slurm"):
        begin.before_the_first_job(dag, executor="slurm")
    assert not (folder / ".snakemake/owner.json").exists()


def test_finished_results_are_set_aside_before_the_first_job(folder, monkeypatch):
    aside = []
    monkeypatch.setattr(begin, "set_planned_aside", aside.append)
    (folder / ".snakemake").mkdir()
    dag = SimpleNamespace(needrun_jobs=list)
    begin.before_the_first_job(dag, executor="local")
    assert aside == [dag] and (folder / ".snakemake/owner.json").exists()
    begin.before_the_first_job(dag, executor="touch")
    assert aside == [dag]
