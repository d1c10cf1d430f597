"""Work of earlier versions stays valid: what Snakemake recorded of it is declared again."""

import json
from pathlib import Path

import pytest

from avion_core.config import load_settings
from avion_core.configfile import read_config
from avion_core.workflow.code import SAME_RESULTS, annotation_code, provider_code
from avion_core.workflow.records import Records, annotation_record
from tests.support.earlier import EARLIER_CODE, EARLIER_SETTINGS, earlier_recipe

SETTINGS = load_settings(read_config(Path(__file__).parents[3] / "config.yaml"))


def declared(recorded, recipe):
    return Records({"model": recorded}.get).recipe("model", recipe)


@pytest.mark.parametrize(("run", "stage"), [("llm", "finetune_mir"), ("videomae", "pretrain_videomae")])
def test_a_recipe_keeps_the_form_in_which_it_was_recorded(run, stage):
    recipe = SETTINGS.stage(run, stage)
    earlier = earlier_recipe(recipe.recipe())
    assert earlier.keys() > recipe.recipe().keys()
    params = ["0", repr('{"kind":"videomae"}'), repr(json.dumps(earlier))]
    assert declared(params, recipe) == json.dumps(earlier)


def test_another_recipe_and_one_that_is_not_recorded_are_declared_as_they_are():
    recipe = SETTINGS.stage("llm", "pretrain")
    now = json.dumps(recipe.recipe())
    changed = earlier_recipe(recipe.recipe()) | {"epochs": recipe.epochs + 1}
    for params in ([repr(json.dumps(changed))], ["0", "not Python", repr("not JSON"), repr("[1]")], [], None):
        assert declared(params, recipe) == now


def test_a_setting_of_another_task_does_not_count():
    recipe = SETTINGS.stage("llm", "pretrain")
    assert "mask_ratio" in EARLIER_SETTINGS
    ignored = json.dumps(earlier_recipe(recipe.recipe()) | {"mask_ratio": 0.5})
    assert declared([repr(ignored)], recipe) == ignored


def test_clip_tables_are_recorded_as_ever():
    datasets = SETTINGS.datasets
    form = '{"layout":"ek100","folder":null,"allow_missing_ego4d_json":false}'
    assert annotation_record(datasets["ek100"]) == form
    own = {"layout": "folder", "source": "folder", "folder": {"videos": "v", "narrations": "n"}}
    folder = type(datasets["ek100"]).model_validate(own)
    form = '{"layout":"folder","folder":{"validation_fraction":0.2},"allow_missing_ego4d_json":false}'
    assert annotation_record(folder) == form


@pytest.mark.parametrize("name", EARLIER_CODE)
def test_code_that_was_rewritten_only_is_recorded_by_its_earlier_digest(name):
    now = provider_code(name) if name == "lexicon" else annotation_code(name)
    assert now == EARLIER_CODE[name], (
        f"{name}: the code is new. If it makes the very same files as before, let SAME_RESULTS in "
        f'avion_core/workflow/code.py say "{now}": "{EARLIER_CODE[name]}" in place of the former digest. If '
        f"not, remove that line and this case, and give the reason in CHANGELOG.md: its data are made anew "
        f"in every workspace"
    )


def test_no_digest_stays_behind():
    assert len(SAME_RESULTS) == len(set(SAME_RESULTS.values())) == len(EARLIER_CODE)
