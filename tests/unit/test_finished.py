"""Finished results made of the same again: what is kept, and what never passes as finished."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from avion_core.files import checksums, fingerprint, write_manifest
from avion_core.finished import ASIDE, forget, keep, set_aside
from avion_core.manifests import MANIFEST

NAMES = ("model.safetensors", "train.jsonl")


def identity(folder: Path, seed: int = 0) -> dict[str, object]:
    return {"seed": seed, "inputs": checksums({"clips": folder / "clips"})}


def make(folder: Path, *, model: str = "weights", table: str = "table", seed: int = 0) -> list[Path]:
    """A finished result of long ago, and the table beside it."""
    folder.mkdir(exist_ok=True)
    (folder / "clips").write_text(table)
    for name in NAMES:
        (folder / name).write_text(model)
    inputs = {"clips": folder / "clips"}
    write_manifest(folder / MANIFEST, settings={}, inputs=inputs, identity=identity(folder, seed))
    outputs = [folder / name for name in (MANIFEST, *NAMES)]
    for path in outputs:
        os.utime(path, (1, 1))
    return outputs


def is_kept(folder: Path, seed: int = 0) -> bool:
    return keep(folder, NAMES, identity=lambda _: fingerprint(identity(folder, seed)), title="run/stage")


def delete(outputs: list[Path]) -> None:
    """What Snakemake does before a job starts."""
    for path in outputs:
        path.unlink()


@pytest.mark.parametrize("deleted", [True, False])
def test_the_same_files_come_back_and_count_as_new(tmp_path, capsys, deleted):
    outputs = make(tmp_path / "stage")
    before = [path.stat().st_ino for path in outputs]
    if deleted:
        set_aside(outputs)
        delete(outputs)
    assert is_kept(tmp_path / "stage")
    assert [path.stat().st_ino for path in outputs] == before
    assert all(path.stat().st_mtime > (tmp_path / "stage/clips").stat().st_mtime - 1 for path in outputs)
    assert capsys.readouterr().err == "run/stage: nothing it depends on has changed; kept\n"
    assert not (tmp_path / "stage" / ASIDE).exists()


def test_a_moved_input_with_the_same_content_is_the_same(tmp_path):
    make(tmp_path / "one")
    (tmp_path / "one").rename(tmp_path / "other")
    assert is_kept(tmp_path / "other")


@pytest.mark.parametrize("change", ["seed", "table", "manifest", "old manifest", "forgotten"])
def test_what_was_made_of_other_things_does_not_come_back(tmp_path, capsys, change):
    folder = tmp_path / "stage"
    outputs = make(folder)
    set_aside(outputs)
    delete(outputs)
    if change == "table":
        (folder / "clips").write_text("another")
    elif change == "manifest":
        (folder / ASIDE / MANIFEST).write_text("{")
    elif change == "old manifest":
        (folder / ASIDE / MANIFEST).write_text("{}")
    elif change == "forgotten":
        forget(folder)
    assert not is_kept(folder, seed=1 if change == "seed" else 0)
    assert not any(path.exists() for path in outputs)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", [*NAMES, MANIFEST])
def test_an_incomplete_result_is_not_finished(tmp_path, name):
    folder = tmp_path / "stage"
    outputs = make(folder)
    (folder / name).unlink()
    set_aside(outputs)
    assert not (folder / ASIDE).exists()
    assert not is_kept(folder)


def test_a_kill_on_the_way_back_loses_nothing_and_passes_for_nothing(tmp_path, monkeypatch):
    """Also beside files of another result that were left there."""
    folder, link = tmp_path / "stage", os.link
    outputs = make(folder)
    set_aside(outputs)
    delete(outputs)
    for path in make(folder, model="of another seed", seed=1):
        assert path.exists()

    def dies(source, target):
        if Path(target).name == NAMES[1]:
            raise KeyboardInterrupt
        link(source, target)

    monkeypatch.setattr(os, "link", dies)
    with pytest.raises(KeyboardInterrupt):
        is_kept(folder)
    assert not (folder / MANIFEST).exists()
    monkeypatch.undo()
    assert is_kept(folder)
    assert [(folder / name).read_text() for name in NAMES] == ["weights", "weights"]


def test_what_is_set_aside_last_is_what_comes_back(tmp_path):
    folder = tmp_path / "stage"
    set_aside(make(folder, model="first", seed=1))
    delete([folder / name for name in (MANIFEST, *NAMES)])
    outputs = make(folder, model="second")
    set_aside(outputs)
    delete(outputs)
    assert not is_kept(folder, seed=1)
    assert is_kept(folder)
    assert (folder / NAMES[0]).read_text() == "second"


def test_a_file_system_without_hard_links_keeps_nothing_and_fails_nothing(tmp_path, monkeypatch):
    def refuses(source, target):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuses)
    outputs = make(tmp_path / "stage")
    set_aside(outputs)
    assert all(path.exists() for path in outputs) and not (tmp_path / "stage" / ASIDE).exists()
