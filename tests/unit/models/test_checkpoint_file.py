"""Other trainers' files: weights are read, or the file is refused by what it is; nothing in it runs."""

import argparse
import os
import pickle
import subprocess
import sys
import types
import warnings
from collections import OrderedDict, defaultdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from avion_core.models.checkpoint_file import ADMITTED, Inert, read_checkpoint
from avion_core.models.weights import ModelError

WEIGHTS = {"a": torch.tensor([1.0, 2.0]), "b.c": torch.zeros(2, 3)}


def same(read: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor] = WEIGHTS) -> bool:
    return read.keys() == wanted.keys() and all(torch.equal(read[name], wanted[name]) for name in wanted)


def foreign_module(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """Classes that the reader's own Python does not have: take them off again before reading."""
    module = types.ModuleType("their_trainer")

    class Config:
        def __init__(self) -> None:
            self.values = {"name": "x"}

    class Node(dict):
        def __getattr__(self, name: str) -> object:
            raise AttributeError(name)

    class Listed(list):
        pass

    for kind in (Config, Node, Listed):
        kind.__module__, kind.__qualname__ = "their_trainer", kind.__name__
        setattr(module, kind.__name__, kind)
    monkeypatch.setitem(sys.modules, "their_trainer", module)
    return module


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("zipped", [True, False])
def test_objects_of_unknown_classes_beside_the_weights_are_passed_over(
    tmp_path, monkeypatch, protocol, zipped
):
    theirs = foreign_module(monkeypatch)
    counts = {"x": defaultdict(list, {"x": [1]}), "y": defaultdict(int), "types": [str, range, float]}
    content = {
        "state_dict": OrderedDict(WEIGHTS),
        "config": theirs.Config(),
        "cfg": theirs.Node(lr=1e-3, inner=theirs.Node(seed=2)),
        "list": theirs.Listed([1, theirs.Config()]),
        "counts": counts,
        "names": {"x", "y"},
        "raw": b"bytes",
        "optimizer": torch.optim.AdamW([torch.nn.Parameter(torch.zeros(2))]).state_dict(),
        "scaler": torch.amp.GradScaler("cpu").state_dict(),
        "args": argparse.Namespace(out=Path("a"), config=theirs.Config),
        "best": np.float64(3.0),
    }
    path = tmp_path / "their.pth"
    torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    monkeypatch.delitem(sys.modules, "their_trainer")
    assert same(read_checkpoint(path))
    assert "their_trainer" not in sys.modules


def test_a_dictionary_of_an_unknown_class_is_looked_into(tmp_path, monkeypatch):
    theirs = foreign_module(monkeypatch)
    torch.save(theirs.Node(state_dict=theirs.Node(WEIGHTS)), tmp_path / "c.pt")
    monkeypatch.delitem(sys.modules, "their_trainer")
    assert same(read_checkpoint(tmp_path / "c.pt"))


@pytest.mark.parametrize(
    "content",
    [
        WEIGHTS,
        {**WEIGHTS, "epoch": 3},
        {"model_state_dict": WEIGHTS, "epoch": 3},
        {"model": {"state_dict": WEIGHTS}, "criterion": {"scale": torch.zeros(1)}},
        {"model_ema": WEIGHTS, "optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}}},
        {"state_dict": {name: torch.nn.Parameter(tensor) for name, tensor in WEIGHTS.items()}},
    ],
)
def test_weights_are_found_where_trainers_put_them(tmp_path, content):
    torch.save(content, tmp_path / "c.pt")
    read = read_checkpoint(tmp_path / "c.pt")
    assert same(read)
    assert not any(tensor.requires_grad for tensor in read.values())


def test_of_several_sets_of_weights_the_recipe_names_one(tmp_path):
    average = {name: tensor + 1 for name, tensor in WEIGHTS.items()}
    torch.save({"ema": average, "model": WEIGHTS, "other": {"net": WEIGHTS}}, tmp_path / "c.pt")
    with pytest.raises(ModelError, match=r"several sets of weights: model, ema; name one with start_weights"):
        read_checkpoint(tmp_path / "c.pt")
    assert same(read_checkpoint(tmp_path / "c.pt", key="ema"), average)
    assert same(read_checkpoint(tmp_path / "c.pt", key="other"))
    with pytest.raises(ModelError, match="has no entry 'emma'; its entries: ema, model, other"):
        read_checkpoint(tmp_path / "c.pt", key="emma")


@pytest.mark.parametrize("name", ["c.pt", "c.safetensors", "c.bin", "old.pt"])
@pytest.mark.parametrize("form", ["safetensors", "pickle", "old"])
def test_the_content_tells_the_format_and_shapes_alone_have_no_contents(tmp_path, name, form):
    path = tmp_path / name
    if form == "safetensors":
        save_file(WEIGHTS, path)
    else:
        torch.save(WEIGHTS, path, _use_new_zipfile_serialization=form == "pickle")
    assert same(read_checkpoint(path))
    shapes = read_checkpoint(path, shapes_only=True)
    assert {n: (x.shape, x.device.type) for n, x in shapes.items()} == {
        n: (x.shape, "meta") for n, x in WEIGHTS.items()
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cut short: an empty file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
        (b"\n<!DOCTYPE html><html>Sign in</html>", "a web page, not a checkpoint"),
        (b'<?xml version="1.0"?><Error>AccessDenied</Error>', "a web page, not a checkpoint"),
        (b'{"error": "not found"}', "JSON, not weights"),
        (b"PK\x03\x04 and no more", "cut short"),
        (b"\x89HDF\r\n\x1a\n" + bytes(99), "not a checkpoint of weights"),
        (pickle.dumps(WEIGHTS["a"].numpy(), protocol=0), "not a checkpoint of weights"),
        (b"\xff" * 600, "not a checkpoint of weights"),
    ],
)
@pytest.mark.parametrize("name", ["c.pt", "c.safetensors"])
def test_what_is_no_checkpoint_is_called_what_it_is(tmp_path, content, message, name):
    path = tmp_path / name
    path.write_bytes(content)
    for shapes_only in (False, True):
        with pytest.raises(ModelError) as caught:
            read_checkpoint(path, shapes_only=shapes_only)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
        assert message in str(caught.value)


def test_a_folder_a_missing_file_and_another_archive_are_called_so(tmp_path):
    np.savez(tmp_path / "w.npz", a=np.zeros(3))
    with pytest.raises(ModelError, match=r"a folder; name the file with the weights in it, such as .*model"):
        read_checkpoint(tmp_path)
    with pytest.raises(ModelError, match="no such file"):
        read_checkpoint(tmp_path / "none.pt")
    with pytest.raises(ModelError, match="a zip archive, but not one of torch's"):
        read_checkpoint(tmp_path / "w.npz")


@pytest.mark.parametrize("form", ["safetensors", "pickle", "old"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.9, 0.999])
def test_a_file_cut_short_is_one_clear_error_also_for_its_shapes(tmp_path, form, share):
    path, weights = tmp_path / "cut.pt", {"a": torch.rand(4000)}
    if form == "safetensors":
        save_file(weights, path)
    else:
        torch.save(weights, path, _use_new_zipfile_serialization=form == "pickle")
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    for shapes_only in (False, True):
        with pytest.raises(ModelError, match=r"cut\.pt: cut short") as caught:
            read_checkpoint(path, shapes_only=shapes_only)
        assert "\n" not in str(caught.value)


def test_a_whole_module_is_refused_with_the_way_out(tmp_path):
    torch.save(torch.nn.Linear(2, 3), tmp_path / "module.pt")
    torch.save({"model": torch.nn.Linear(2, 3), "epoch": 3}, tmp_path / "inside.pt")
    with pytest.raises(ModelError, match=r"pickled torch\.nn\.modules\.linear\.Linear.*save its state_dict"):
        read_checkpoint(tmp_path / "module.pt")
    with pytest.raises(ModelError, match=r"its entries: model \(a pickled torch.*state_dict\(\).*\), epoch"):
        read_checkpoint(tmp_path / "inside.pt")


class Trap:
    """Pickles as a call of `function` with `arguments`, and a state for what comes of it."""

    def __init__(self, function, *arguments, state=None):
        self.call = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.call


def traps(folder: Path):
    ran = str(folder / "ran")
    yield Trap(os.mkdir, ran)
    yield Trap(os.system, f"mkdir {ran}")
    yield Trap(subprocess.check_output, ["mkdir", ran])
    yield Trap(eval, f"__import__('os').mkdir({ran!r})")
    yield Trap(exec, f"__import__('os').mkdir({ran!r})")
    yield Trap(getattr, [], "append")
    yield Trap(__import__, "this")
    yield Trap(torch.hub.load_state_dict_from_url, "http://127.0.0.1:9/x.pt")
    yield Trap(torch.load, ran)
    yield Trap(pd.eval, "1")
    yield Trap(np.fromfile, ran)
    yield Trap(Path.mkdir, Path(ran))
    yield Trap(types.SimpleNamespace, state={"x": Trap(os.mkdir, ran)})


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("number", range(13))
def test_nothing_in_a_file_runs(tmp_path, number, protocol, zipped):
    """It is refused by name, or its weights are read and the call is not made."""
    path = tmp_path / "trap.pt"
    trap = list(traps(tmp_path))[number]
    torch.save(
        {"state_dict": WEIGHTS, "x": trap},
        path,
        pickle_protocol=protocol,
        _use_new_zipfile_serialization=zipped,
    )
    try:
        assert same(read_checkpoint(path))
    except ModelError as error:
        assert "it calls " in str(error)
    assert not (tmp_path / "ran").exists()
    assert "this" not in sys.modules


@pytest.mark.parametrize("target", [torch._utils._rebuild_tensor_v2, OrderedDict, argparse.Namespace, Trap])
def test_a_file_changes_nothing_in_this_process(tmp_path, target):
    """A pickle may set attributes of whatever it names: none of ours may be within its reach."""
    before = {kind: dict(vars(kind)) for kind in (OrderedDict, Inert, argparse.Namespace, Trap)}
    path = tmp_path / "c.pt"
    name = f"{target.__module__}\n{target.__qualname__}\n".encode()
    state = pickle.dumps((None, {"mark": 1}), protocol=2)[2:-1]
    path.write_bytes(b"\x80\x02c" + name + state + b"b.")
    with pytest.raises(ModelError):
        read_checkpoint(path)
    assert before == {kind: dict(vars(kind)) for kind in before}
    assert not any(hasattr(function, "mark") for function in ADMITTED.values())


def test_a_training_checkpoint_with_a_namespace_is_read(tmp_path):
    weights = {"module.logit_scale": torch.tensor(2.0)}
    path = tmp_path / "checkpoint_best.pt"
    args = argparse.Namespace(lr=3e-5, betas=(0.9, 0.999), output_dir=Path("out"))
    torch.save({"epoch": 3, "state_dict": weights, "args": args, "optimizer": {}, "best_acc1": 1.5}, path)
    assert read_checkpoint(path)["module.logit_scale"].item() == 2.0


@pytest.mark.parametrize("module", ["pathlib", "pathlib._local"])  # Python 3.13 says the second
@pytest.mark.parametrize("kind", ["PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath"])
def test_paths_beside_the_weights_are_no_code(tmp_path, module, kind):
    path, weights = tmp_path / "checkpoint_best.pt", {"a": torch.tensor(2.0)}
    content = {"state_dict": weights, "args": argparse.Namespace(output_dir=Path("a/b"))}
    torch.save(content, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes().replace(b"pathlib\nPosixPath", f"{module}\n{kind}".encode()))
    assert read_checkpoint(path) == weights


@pytest.mark.parametrize("core", ["_core", "core"])  # numpy 2 and numpy 1
def test_numbers_of_numpy_beside_the_weights_are_no_code(tmp_path, core):
    """A best accuracy is a mean that numpy took."""
    path, weights = tmp_path / "checkpoint_best.pt", {"a": torch.tensor(2.0)}
    numbers = {"best_acc1": np.float64(33.2), "epoch": np.int64(4), "good": np.bool_(True)}
    content = {"state_dict": weights, **numbers, "args": argparse.Namespace(lr=np.float32(3e-5))}
    torch.save(content, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes().replace(b"numpy._core.", f"numpy.{core}.".encode()))
    assert read_checkpoint(path) == weights


@pytest.mark.parametrize("era", [1, 3])
def test_a_table_among_the_options_is_passed_over(tmp_path, era):
    """AVION's classifiers keep their actions so."""
    path, weights = tmp_path / "checkpoint_best.pt", {"a": torch.tensor(2.0)}
    names = pd.Index(["verb", "action"], dtype=object)
    actions = pd.DataFrame([[1, "1:3"], [2, "2:4"]], index=[5, 9], columns=names, dtype=object)
    args = argparse.Namespace(actions=actions, plain=actions.reset_index(drop=True))
    content = {"state_dict": weights, "args": args}
    torch.save(content, path, _use_new_zipfile_serialization=False)
    if era == 1:
        old = {b"cpandas\nDataFrame": b"cpandas.core.frame\nDataFrame", b"numpy._core.": b"numpy.core."}
        old |= {b"cpandas\nIndex": b"cpandas.core.indexes.base\nIndex"}
        old |= {b"cpandas\nRangeIndex": b"cpandas.core.indexes.range\nRangeIndex"}
        for new_name, old_name in old.items():
            assert new_name in path.read_bytes()
            path.write_bytes(path.read_bytes().replace(new_name, old_name))
    assert read_checkpoint(path) == weights


def test_code_in_a_pickle_is_refused_and_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    for name, write in {
        "new.pt": lambda path: torch.save({"state_dict": Trap()}, path),
        "old.pt": lambda path: path.write_bytes(pickle.dumps({"state_dict": Trap()}, protocol=2)),
    }.items():
        write(tmp_path / name)
        with pytest.raises(ModelError, match=r"not a checkpoint of weights alone \(it calls .*mkdir\)"):
            read_checkpoint(tmp_path / name)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("kept", [0, 10, 400])
def test_a_checkpoint_cut_short_is_one_clear_error(tmp_path, kept):
    path = tmp_path / "cut.pt"
    torch.save({"state_dict": {"a": torch.zeros(100)}}, path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ModelError, match=r"cut\.pt: cut short") as caught:
        read_checkpoint(path)
    assert "\n" not in str(caught.value)


def test_a_file_without_weights_is_refused(tmp_path):
    torch.save({"epoch": 3}, tmp_path / "a.pt")
    with pytest.raises(ModelError, match="holds no weights"):
        read_checkpoint(tmp_path / "a.pt")
    with pytest.raises(ModelError, match="no such file"):
        read_checkpoint(tmp_path / "b.pt")


def test_a_torchscript_archive_with_code_for_loading_is_refused(tmp_path):
    class Trap(torch.nn.Module):
        @torch.jit.export
        def __getstate__(self):
            return 1

        @torch.jit.export
        def __setstate__(self, state: int) -> None:
            self.training = False

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    with warnings.catch_warnings(action="ignore"):
        torch.jit.save(torch.jit.script(Trap()), tmp_path / "trap.pt")
    with pytest.raises(ModelError, match="runs code when it is loaded"):
        read_checkpoint(tmp_path / "trap.pt")
