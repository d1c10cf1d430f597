"""A TimeSformer with DistilBERT is trained as a dual encoder and as a classifier of three labels."""

import pytest
import yaml

from avion_core.data import wordpiece
from avion_core.models import architecture
from avion_core.models.store import load_model
from tests.support.training import lines, train

ARCHITECTURE = {
    "kind": "dual_encoder",
    "vision": {"kind": "timesformer", "width": 32, "layers": 2, "heads": 2, "patch_px": 16},
    "text": {
        "kind": "distilbert",
        "width": 24,
        "layers": 2,
        "heads": 2,
        "hidden": 48,
        "places": 16,
        "context_length": 12,
        "vocabulary": 30,
    },
    "embed_dim": 8,
}
RECIPE = {
    "task": "contrastive",
    "dataset": "any",
    "model": "divided",
    "frames": 2,
    "image_size_px": 32,
    "epochs": 2,
    "batch_size": 4,
    "drop_path": 0.1,
    "layer_decay": 0.9,
    "gradient_checkpointing": True,
}
CLASSIFICATION = {
    **RECIPE,
    "task": "classification",
    "label": "action",
    "further_labels": ["verb", "noun"],
    "waive_missing": ["head.*", "further_heads.*"],
    "frames": 4,
}


@pytest.fixture(autouse=True)
def _architecture_and_vocabulary(tmp_path, monkeypatch):
    (tmp_path / "divided.yaml").write_text(yaml.safe_dump(ARCHITECTURE))
    monkeypatch.setattr(architecture, "FOLDERS", [*architecture.FOLDERS, tmp_path])
    letters = [prefix + letter for letter in "acehnoprstu" for prefix in ("", "##")]
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *letters]))
    monkeypatch.setattr(wordpiece, "VOCABULARY", tmp_path / "vocab.txt")


def test_both_models_are_trained_and_time_attention_stays_at_its_saddle(kitchen, tmp_path):
    pretrained = train(kitchen, tmp_path / "pretrain", RECIPE)
    model, _ = load_model(pretrained)
    for block in model.vision.blocks:
        queries, keys, values = block.timeattn.qkv.weight.chunk(3)
        assert not queries.any()
        assert not keys.any()
        assert values.any()
    trained = (
        model.vision.blocks[0].norm3,
        model.vision.ln_post,
        model.text.ln_embed,
        model.text.blocks[1].norm2,
    )
    assert all((norm.weight != 1).any() for norm in trained)  # as they are in a fresh model
    assert model.vision.temporal_embedding.any()
    classified = train(kitchen, tmp_path / "classify", CLASSIFICATION, start=pretrained)
    classifier, description = load_model(classified)
    assert (description.kind, description.frames) == ("video_classifier", 4)
    assert description.heads == {"action": 9, "verb": 3, "noun": 3}
    assert list(classifier.further_heads) == ["verb", "noun"]
    assert all(head.bias.all() for head in classifier.further_heads.values())  # fresh ones have zeros
    accuracies = {"accuracy", "verb_accuracy", "noun_accuracy"}
    assert accuracies < lines(classified)[-1].keys()
    assert classifier.vision.temporal_embedding.shape == (4, 32)
