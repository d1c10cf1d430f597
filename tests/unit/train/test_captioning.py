"""A narrator's stage: its tower is the dual encoder's, the rest learns, and a kill changes no bit."""

import pytest
import torch
import yaml

from avion_core.config import EvaluationSettings
from avion_core.files import read_json
from avion_core.models import architecture
from avion_core.models.store import load_model
from avion_core.train.engine import Training
from avion_core.train.validation import ValidationData
from tests.support.recipes import CAPTIONING, CONTRASTIVE
from tests.support.training import equal, lines, train, weights

VISION = {"width": 48, "layers": 2, "heads": 2, "patch_px": 16}
TEXT = {"width": 32, "layers": 2, "heads": 2, "context_length": 12}
ARCHITECTURES = {
    "small_dual": {"kind": "dual_encoder", "vision": VISION, "text": TEXT, "embed_dim": 16},
    "small_narrator": {
        "kind": "narrator",
        "vision": VISION,
        "language_model": {**TEXT, "positions": 12},
        "queries": 4,
        "pool_heads": 2,
        "pool_head_width": 8,
    },
}
RECIPE = {
    **CAPTIONING,
    "model": "small_narrator",
    "epochs": 15,
    "checkpoint_every_steps": 4,
    "waive_missing": ["pool.*", "language_model.*"],
}


@pytest.fixture(scope="module", autouse=True)
def _architectures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("architectures")
    for name, fields in ARCHITECTURES.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(fields))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(architecture, "FOLDERS", [*architecture.FOLDERS, folder])
        yield


@pytest.fixture(scope="module")
def pretrained(kitchen, tmp_path_factory):
    recipe = {**CONTRASTIVE, "model": "small_dual", "epochs": 1}
    return train(kitchen, tmp_path_factory.mktemp("run") / "pretrain", recipe)


@pytest.fixture(scope="module")
def narrator(kitchen, pretrained, tmp_path_factory):
    return train(kitchen, tmp_path_factory.mktemp("run") / "narrator", RECIPE, start=pretrained)


def test_the_tower_stays_that_of_the_dual_encoder_and_the_loss_falls(pretrained, narrator):
    model, description = load_model(narrator)
    assert (description.kind, description.task, description.frames) == ("narrator", "captioning", 2)
    tower = {name: x for name, x in weights(pretrained).items() if name.startswith("vision.")}
    del tower["vision.projection"]
    ours = {name: x for name, x in model.state_dict().items() if name.startswith("vision.")}
    assert ours.keys() == tower.keys()
    assert all(torch.equal(x, tower[name]) for name, x in ours.items())
    logged = lines(narrator)
    assert logged[-1]["loss"] < 0.5 * logged[0]["loss"]
    assert logged[-1]["perplexity"] < 0.1 * logged[0]["perplexity"]
    assert all(block.cross.attention_gate != 0 for block in model.language_model.blocks)


def test_the_weights_of_the_tower_have_no_place_in_the_optimiser(kitchen, narrator, tmp_path, monkeypatch):
    named = []
    monkeypatch.setattr(
        Training, "run", lambda self, title: named.extend(self.optimizer.param_groups) or 1 / 0
    )
    frozen = {**RECIPE, "freeze_language_model": True}
    for folder, recipe in (("open", RECIPE), ("frozen", frozen)):
        named.clear()
        with pytest.raises(ZeroDivisionError):
            train(kitchen, tmp_path / folder, recipe, start=narrator)
        names = {name for group in named for name in group["names"]}
        assert not any(name.startswith("vision.") for name in names)
        plain = {name for name in names if name.startswith("language_model.") and ".cross." not in name}
        assert bool(plain) == (folder == "open")


def test_after_a_kill_the_rest_gives_the_same_bits(kitchen, pretrained, narrator, tmp_path, monkeypatch):
    update, computed = Training.update, []

    def until_ten(self, *arguments):
        if self.step == 10 and 10 not in computed:
            computed.append(10)
            raise SystemExit
        computed.append(self.step)
        return update(self, *arguments)

    monkeypatch.setattr(Training, "update", until_ten)
    with pytest.raises(SystemExit):
        train(kitchen, tmp_path, RECIPE, start=pretrained)
    assert not (tmp_path / "model.safetensors").exists()
    computed[:] = [10]
    train(kitchen, tmp_path, RECIPE, start=pretrained)
    assert computed == [10, *range(8, 30)]
    assert equal(tmp_path, narrator)


def test_captions_of_clips_validate_a_narrator_and_its_best_is_published(kitchen, pretrained, tmp_path):
    settings = EvaluationSettings.of_kind("captions", dataset="any", stage="any", batch_size=4)
    measured = ValidationData(
        settings, {"chunks": kitchen / "chunks.parquet", "clips": kitchen / "clips.arrow"}
    )
    recipe = {**RECIPE, "validate_with": "captions", "validate_every_epochs": 5, "best_metric": "likelihood"}
    folder = train(kitchen, tmp_path, recipe, start=pretrained, validation=measured)
    found = [line["validation"] for line in lines(folder) if "validation" in line]
    assert len(found) == 3
    assert found[-1]["perplexity"] < 0.2 * found[0]["perplexity"]
    recorded = read_json(folder / "manifest.json")["settings"]["validation"]
    assert recorded["best"]["figures"]["likelihood"] == max(figures["likelihood"] for figures in found)


def test_a_fresh_pooling_and_language_model_are_waived_by_name(kitchen, pretrained, tmp_path):
    recipe = {name: value for name, value in RECIPE.items() if name != "waive_missing"}
    with pytest.raises(ValueError, match=r"missing: pool\.queries.*name them in waive_missing"):
        train(kitchen, tmp_path, recipe, start=pretrained)


def test_a_frozen_language_model_is_not_random(kitchen, pretrained, tmp_path):
    frozen = {**RECIPE, "freeze_language_model": True}
    for start in ({"start": pretrained}, {}):
        with pytest.raises(
            ValueError, match=r"freeze_language_model: language_model\.\S+ is not among the start"
        ):
            train(kitchen, tmp_path, frozen, **start)


def test_a_language_model_alone_never_looks(kitchen, pretrained, tmp_path):
    train(kitchen, tmp_path, {**RECIPE, "epochs": 2, "text_only": True}, start=pretrained)
    model, _ = load_model(tmp_path)
    frames, tokens = torch.rand(1, 3, 2, 32, 32), torch.tensor([[1, 2, 3]])
    assert torch.equal(model(frames, tokens), model.language_model(tokens))
    logged = lines(tmp_path)
    assert logged[-1]["loss"] < logged[0]["loss"]


@pytest.mark.parametrize("epochs", [0, 1])
def test_a_language_model_alone_forgets_how_to_look(kitchen, narrator, tmp_path, epochs):
    """It may start from a narrator whose gates are open; captions of it are measured with a clip."""
    recipe = {**RECIPE, "epochs": epochs, "text_only": True, "waive_missing": []}
    train(kitchen, tmp_path, recipe, start=narrator)
    model, _ = load_model(tmp_path)
    frames, tokens = torch.rand(1, 3, 2, 32, 32), torch.tensor([[1, 2, 3]])
    looking, alone = model(frames, tokens), model.language_model(tokens)
    torch.testing.assert_close(looking, alone)


def test_misfits_are_refused(kitchen, tmp_path):
    with pytest.raises(ValueError, match="leave nothing to train"):
        train(kitchen, tmp_path, {**RECIPE, "text_only": True, "freeze_language_model": True})
    with pytest.raises(ValueError, match="drop_path does not go with captioning"):
        train(kitchen, tmp_path, {**RECIPE, "drop_path": 0.1})
