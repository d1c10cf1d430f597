"""Modules outside the package that register tasks and losses of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from avion_core.config import SettingsError, load_settings
from avion_core.configfile import read_config

ROOT = Path(__file__).parents[2]
DEMO = read_config(ROOT / "config.yaml")
MODULE = '''
from typing import ClassVar, Literal

from avion_core.config import CONTRASTIVE_LOSSES, STAGE_TASKS, EvaluationSettings, LossSettings, StageSettings
from avion_core.evaluations import EVALUATIONS, EvaluationKind


class CaptionStage(StageSettings):
    """Captions."""

    setup: ClassVar[str] = "captions:CaptionStage"
    trains: ClassVar[str] = "embeddings"
    task: Literal["subtitling"]
    beams: int = 4


class Debiased(LossSettings):
    """InfoNCE, debiased."""

    function: ClassVar[str] = "captions:Debiased"
    prior: float = 0.1


class GradingSettings(EvaluationSettings):
    """Grades."""

    judges: int = 3


def grading(settings):
    return EvaluationKind(
        evaluator="captions:GradingSettings",
        settings=settings,
        needs="embeddings",
        files=("clips",),
        figures={"": ("grade",)},
        headlines=("grade",),
        columns={"grade": "grade"},
        titles={"": "Grades"},
    )


EVALUATIONS.register("grading", grading("captions:GradingSettings"))
STAGE_TASKS.register("subtitling", CaptionStage)
CONTRASTIVE_LOSSES.register("debiased", Debiased)
'''
PROGRAM = """
import sys
from avion_core.config import SettingsError, load_settings
from avion_core.configfile import lay_over, read_config

def load(**stages):
    overlay = {"plugins": ["captions"], "stages": stages}
    return load_settings(lay_over(read_config(sys.argv[1]), overlay))

from pathlib import Path
sys.argv[1] = Path(sys.argv[1])
common = {"dataset": "ego4d", "model": "toy_dual_encoder"}
settings = load(mine={"task": "subtitling", **common}, pretrain={"loss": "debiased", "prior": 0.2})
print(settings.stages["mine"].recipe()["beams"], settings.stages["pretrain"].loss_values)
print(settings.stage("human", "pretrain").recipe()["prior"])
for stages in ({"pretrain": {"beams": 2}}, {"finetune_mir": {"prior": 0.2}}):
    try:
        load(**stages)
    except SettingsError as error:
        print(error)

def evaluate(kind, **settings):
    entry = {"kind": kind, "dataset": "ek100", "stage": "pretrain", **settings}
    overlay = {"plugins": ["captions"], "evaluations": {"mine": entry}}
    return load_settings(lay_over(read_config(sys.argv[1]), overlay)).evaluations["mine"]

print(evaluate("grading", judges=5).recipe()["judges"])
try:
    evaluate("recognition", judges=5)
except SettingsError as error:
    print(error)
from captions import EVALUATIONS, grading
EVALUATIONS.register("ungraded", grading("captions:Debiased"))
try:
    evaluate("ungraded")
except SettingsError as error:
    print(error)
"""


def test_a_plug_in_brings_a_task_a_loss_and_a_kind_of_evaluation(tmp_path: Path) -> None:
    (tmp_path / "captions.py").write_text(MODULE)
    command = [sys.executable, "-c", PROGRAM, str(ROOT / "config.yaml")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1"}
    said = subprocess.check_output(command, cwd=tmp_path, env=environment, text=True).splitlines()
    assert said == [
        "4 {'prior': 0.2}",
        "0.2",
        "config: stages.pretrain: beams does not go with the task 'contrastive'; it is a setting of "
        "subtitling",
        "config: stages.finetune_mir: prior does not go with the task 'relevancy' and the loss 'max_margin', "
        "which takes margin; it is a setting of contrastive with the loss debiased",
        "5",
        "config: evaluations.mine: judges does not go with recognition; it is a setting of grading",
        "config: evaluations.mine: captions:Debiased is <class 'captions.Debiased'>; a subclass of "
        "EvaluationSettings is expected",
    ]


def test_programs_load_the_plug_ins_of_the_workflow(tmp_path: Path) -> None:
    (tmp_path / "captions.py").write_text(MODULE)
    program = (
        "from avion_core.command import run; from avion_core.config import STAGE_TASKS; "
        "run(lambda: print(list(STAGE_TASKS)))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "AVION_PLUGINS": "captions"}
    said = subprocess.check_output([sys.executable, "-c", program], cwd=tmp_path, env=environment, text=True)
    assert "'subtitling'" in said
    environment["AVION_PLUGINS"] = "no_such_module"
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, text=True, capture_output=True
    )
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: the module 'no_such_module' cannot be imported")


@pytest.mark.parametrize(
    ("plugins", "words"),
    [
        (["no_such_module"], "config: plugins: the module 'no_such_module' cannot be imported"),
        ("no_such_module", "config: plugins: a list is expected; write [no_such_module]"),
        ([3], "config: plugins.0: Input should be a valid string"),
    ],
)
def test_what_is_no_plug_in_is_one_error(plugins: object, words: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings({**DEMO, "plugins": plugins})
    assert str(caught.value).startswith(words)
