"""Who narrates clips: providers of the two sorts, misfits, and a narrator that is trained in the workflow."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from avion_core.config import NarratorSettings, Settings, SettingsError, load_settings
from avion_core.configfile import lay_over, read_config
from avion_core.workflow import Workflow
from avion_core.workflow.estimate_plan import estimate_files, estimate_plan

ROOT = Path(__file__).parents[2]
NARRATED = {"runs": {"llm": {"stages": {"pretrain": {"narrations": ["human", "rephrased", "narrated"]}}}}}
MODULE = """
from avion_core.config import PROVIDERS, ProviderSettings
from avion_core.narrate.clip_provider import ClipProvider


class OwnSettings(ProviderSettings):
    work = "own:Own"
    looks = True
    run: str
    stage: str

    def trained_stage(self):
        return self.run, self.stage


class Own(ClipProvider):
    pass


PROVIDERS.register("ours", OwnSettings)
"""
PROGRAM = """
import json, sys
from pathlib import Path
from avion_core.config import SettingsError, load_settings
from avion_core.configfile import lay_over, read_config
from avion_core.narrate.clip_provider import clip_provider_of
from avion_core.workflow import Workflow

settings = load_settings(lay_over(read_config(Path(sys.argv[1])), json.loads(sys.argv[2])))
print(Workflow(settings).narrator_model(), type(clip_provider_of(settings.narrator)).__name__)
"""


def load(**changes: Any) -> Settings:
    return load_settings(lay_over(read_config(ROOT / "config.yaml"), changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            NARRATED,
            "runs.llm.stages.pretrain: narrations: 'narrated' needs narrator.provider, which is null; set ",
        ),
        (
            {"narrate": {"provider": "vision"}},
            "narrate.provider: 'vision' narrates clips: name it as narrator.pro",
        ),
        (
            {"narrator": {"provider": "language_model"}},
            "narrator.provider: 'language_model' rephrases narrations: name it as narr",
        ),
        ({"narrator": {"provider": "visoin"}}, "unknown narration provider 'visoin'; did you mean 'vision'?"),
        (
            {"narrator": {"vision": {"frame": 3}}},
            "unknown setting 'narrator.vision.frame'; did you mean 'frames'?",
        ),
        ({"narrator": {"language_model": {}}}, "unknown setting 'narrator.language_model'"),
        (
            {"narrator": {"step_seconds": 3}},
            "step_seconds (3) is above window_seconds (2), which leaves gaps",
        ),
        (
            {"narrator": {"filters": {"least_words": 40}}},
            "least_words (40) is above most_words (30), which leaves out every text",
        ),
    ],
)
def test_misfits_are_refused_when_the_configuration_is_loaded(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError) as raised:
        load(**changes)
    assert message in str(raised.value)


def test_a_narrator_and_a_rephraser_may_be_chosen_at_once() -> None:
    settings = load(**NARRATED, narrator={"provider": "vision"}, selected_runs=["llm"])
    workflow = Workflow(settings)
    assert workflow.rephrased_datasets() == workflow.narrated_datasets() == ["ego4d"]
    assert list(workflow.training_tables(settings.stage("llm", "pretrain")).values()) == [
        "data/ego4d/clips/train.arrow",
        "data/ego4d/narrations/lexicon/train.arrow",
        "data/ego4d/narrations/vision/train.arrow",
    ]
    assert workflow.narrator_model() is None
    plan = estimate_plan(workflow)
    assert list(plan) == ["narrate", "narrator"] and plan["narrator"]["recipe"]["provider"] == "vision"
    assert {"data/ego4d/packets.npy", "data/ego4d/clips/egomcq.arrow"} < {*estimate_files(workflow)}
    assert len(estimate_files(workflow)) == 4


@pytest.mark.parametrize("name", ["frames", "image_size_px", "jpeg_quality"])
def test_what_affects_a_text_is_in_the_recipe_and_the_rest_is_not(name: str) -> None:
    plain = NarratorSettings.model_validate({"provider": "vision"})
    other = NarratorSettings.model_validate({"provider": "vision", "vision": {name: 50}})
    priced = NarratorSettings.model_validate({"provider": "vision", "vision": {"max_usd": 50}})
    assert plain.recipe() != other.recipe() and plain.recipe() == priced.recipe()
    for settings in (plain, other, priced):
        assert NarratorSettings.join(settings.recipe(), settings.job_settings()) == settings


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ({"run": "human", "stage": "pretrain"}, "results/human/pretrain/model.safetensors Own"),
        ({"run": "human", "stage": "lost"}, "narrator.ours needs the stage 'lost' of a run 'human'"),
        ({"run": "llm", "stage": "finetune_mir"}, "would be trained on its own texts"),
        ({"run": "llm"}, "setting 'narrator.ours.stage' is missing"),
    ],
)
def test_a_plug_in_s_narrator_needs_a_stage(tmp_path: Path, own: dict[str, str], said: str) -> None:
    (tmp_path / "own.py").write_text(MODULE)
    overlay = {**NARRATED, "plugins": ["own"], "narrator": {"provider": "ours", "ours": own}}
    command = [sys.executable, "-c", PROGRAM, str(ROOT / "config.yaml"), json.dumps(overlay)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1"}
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert said in result.stdout + result.stderr
