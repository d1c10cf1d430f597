"""A faulty plug-in, or a record of one that cannot work, is one error that names it, before any work."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import avion_core
from avion_core.begin import settings_or_exit
from avion_core.config import (
    CONTRASTIVE_LOSSES,
    PROVIDERS,
    RELEVANCY_LOSSES,
    SOURCE_SETTINGS,
    STAGE_TASKS,
    DatasetSettings,
    SettingsError,
    load_settings,
)
from avion_core.config.stage_classes import _with_loss
from avion_core.configfile import lay_over, read_config
from avion_core.data.source_videos import SourceError
from avion_core.evaluations import EVALUATIONS
from avion_core.layouts import LAYOUTS
from avion_core.models.architecture import ARCHITECTURES, MODELS, parse_architecture
from avion_core.models.towers import TEXT_TOWERS, VISION_TOWERS
from avion_core.narrate.provider import provider_of
from avion_core.plugins import PLUGINS_VARIABLE
from avion_core.precheck import check_layouts
from avion_core.registry import load
from avion_core.sources.download import DataSet
from avion_core.workflow import Workflow

DEMO = read_config(Path(__file__).parents[2] / "config.yaml")
REGISTRIES = (
    ARCHITECTURES,
    CONTRASTIVE_LOSSES,
    EVALUATIONS,
    LAYOUTS,
    MODELS,
    PROVIDERS,
    RELEVANCY_LOSSES,
    SOURCE_SETTINGS,
    STAGE_TASKS,
    TEXT_TOWERS,
    VISION_TOWERS,
)
HEAD = """
from typing import ClassVar, Literal
from avion_core.config import *
from avion_core.config.tasks import ContrastiveStage
from avion_core.evaluations import EVALUATIONS, EvaluationKind
from avion_core.layouts import LAYOUTS, Layout
from avion_core.models.towers import VISION_TOWERS, Tower, VisionTowerConfig
from avion_core.registry import Registry

def some(): ...
"""
"""Of every plug-in below. Their own lines start at line 11."""
KIND = "evaluator='faulty:some', needs='embeddings', files=('clips',), headlines=('a',), titles={'': 'A'}"
"""Of a kind of evaluation, without figures and columns."""


@pytest.fixture
def plug_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Loads the demo, and what is laid over it, with a module `faulty` of this code."""
    for records in REGISTRIES:
        monkeypatch.setattr(records, "_records", dict(records._records))
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)

    def loaded(code: str, plugins: object = ("faulty",), **overlay: Any) -> Any:
        (tmp_path / "faulty.py").write_text(HEAD + code)
        return load_settings(lay_over(DEMO, {"plugins": plugins, **overlay}))

    yield loaded
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]
    _with_loss.cache_clear()


def settings_of(base: str, body: str = "...") -> str:
    return f"class Odd({base}):\n    {body}\n"


def register(records: str, record: str, name: str = "odd") -> str:
    return f"{records}.register({name!r}, {record})\n"


STAGE = "setup: ClassVar[str] = 'faulty:some'; trains: ClassVar[str] = 'embeddings'"
AT_IMPORT = {
    "raises": (
        "1 / 0",
        "cannot be imported ({file}, line 11: ZeroDivisionError: division by zero); correct it",
    ),
    "raises nothing said": ("raise RuntimeError", "line 11: RuntimeError); correct it"),
    "exits": ("import sys; sys.exit(3)", "line 11: it calls sys.exit(3)); correct it"),
    "no Python": ("def (", "SyntaxError: invalid syntax (faulty.py, line 11)); correct it"),
    "imports what is not there": (
        "import nowhere_to_find",
        "line 11: No module named 'nowhere_to_find'); install what it imports",
    ),
    "imports a name that is not there": (
        "from avion_core.config import Nothing",
        "line 11: cannot import name 'Nothing'",
    ),
}
RECORDS = {
    "name taken": (
        register("LAYOUTS", "LAYOUTS['ek100']", "ek100"),
        "line 11: a layout 'ek100' is registered already; choose another name",
    ),
    "name of no text": ("LAYOUTS.register(3, LAYOUTS['ek100'])", "3 cannot be the name of a layout"),
    "empty name": (register("LAYOUTS", "LAYOUTS['ek100']", ""), "'' cannot be the name of a layout"),
    "source of a setting's name": (
        settings_of("SourceSettings", "source = 'faulty:some'")
        + register("SOURCE_SETTINGS", "Odd", "layout"),
        "a source cannot be called 'layout'; choose another name",
    ),
    "source of a section's name": (
        settings_of("SourceSettings", "source = 'faulty:some'")
        + register("SOURCE_SETTINGS", "Odd", "narrate"),
        "a source cannot be called 'narrate'; choose another name",
    ),
    "role of another file": (
        register(
            "LAYOUTS",
            "Layout(reader='faulty:some', tables=('train',), evaluations={}, "
            "training={'weights': 'train.arrow'})",
        ),
        "'weights' is the role of another file; choose another name",
    ),
    "provider of a setting's name": (
        settings_of("ProviderSettings", "work = 'faulty:some'") + register("PROVIDERS", "Odd", "rephrase"),
        "a narration provider cannot be called 'rephrase'",
    ),
    "layout of a wrong type": (register("LAYOUTS", "{}"), "the layout 'odd' is {{}}; register Layout(…)"),
    "kind of a wrong type": (register("EVALUATIONS", "some"), "register EvaluationKind(…)"),
    "tower of a wrong type": (register("VISION_TOWERS", "VisionTowerConfig"), "register Tower(…)"),
    "source of a wrong type": (
        register("SOURCE_SETTINGS", "NarrateSettings"),
        "the source 'odd' is <class 'avion_core.config.narration.NarrateSettings'>; register a subclass of "
        "SourceSettings",
    ),
    "instance": (register("STAGE_TASKS", "3"), "the task 'odd' is 3; register a subclass of StageSettings"),
    "loss of a wrong type": (register("CONTRASTIVE_LOSSES", "some"), "register a subclass of LossSettings"),
    "provider of a wrong type": (register("PROVIDERS", "Section"), "register a subclass of ProviderSettings"),
    "no source": (
        settings_of("SourceSettings") + register("SOURCE_SETTINGS", "Odd"),
        "the source 'odd': Odd has no `source`; set it",
    ),
    "no work": (settings_of("ProviderSettings") + register("PROVIDERS", "Odd"), "Odd has no `work`; set it"),
    "no function": (
        settings_of("LossSettings") + register("CONTRASTIVE_LOSSES", "Odd"),
        "the loss 'odd': Odd has no `function`; set it",
    ),
    "no setup": (
        settings_of("StageSettings", "trains: ClassVar[str] = 'classes'") + register("STAGE_TASKS", "Odd"),
        "the task 'odd': Odd has no `setup`; set it",
    ),
    "no trains": (
        settings_of("StageSettings", "setup: ClassVar[str] = 'faulty:some'") + register("STAGE_TASKS", "Odd"),
        "the task 'odd': Odd has no `trains`; set it",
    ),
    "no reader": (
        register("LAYOUTS", "Layout(reader='', tables=('train',), evaluations={})"),
        "the layout 'odd': Layout has no `reader`; set it",
    ),
    "no evaluator": (
        register(
            "EVALUATIONS",
            f"EvaluationKind({KIND}, figures={{'': ('a',)}}, columns={{'a': 'A'}})".replace(
                "faulty:some", ""
            ),
        ),
        "EvaluationKind has no `evaluator`; set it",
    ),
    "no kind of a tower": (
        settings_of("VisionTowerConfig") + register("VISION_TOWERS", "Tower(Odd, 'faulty:some')"),
        "Odd has no class attribute `kind`",
    ),
    "no reference": (
        settings_of("LossSettings", "function = 'faulty.some'") + register("CONTRASTIVE_LOSSES", "Odd"),
        "the loss 'odd': `function` is 'faulty.some'; write 'package.module:Name'",
    ),
    "reference of a wrong type": (
        settings_of("LossSettings", "function: ClassVar = some") + register("CONTRASTIVE_LOSSES", "Odd"),
        "write 'package.module:Name'",
    ),
    "module that is not there": (
        settings_of("LossSettings", "function = 'nowhere:some'") + register("CONTRASTIVE_LOSSES", "Odd"),
        "the loss 'odd': `function` is 'nowhere:some', but there is no module 'nowhere'",
    ),
    "name that is not in the module": (
        settings_of("LossSettings", "function = 'avion_core.train.losses:no_loss'")
        + register("CONTRASTIVE_LOSSES", "Odd"),
        "`function` is 'avion_core.train.losses:no_loss', but ",
    ),
    "name that is not in the plug-in": (
        register("LAYOUTS", "Layout(reader='faulty:READER', tables=('train',), evaluations={})"),
        "`reader` is 'faulty:READER', but the module 'faulty' has no 'READER'",
    ),
    "unknown setting of the model": (
        settings_of("LossSettings", "function = 'faulty:some'; of_the_model = ('temprature',)"),
        "Odd: `of_the_model` names 'temprature', which is no setting of it",
    ),
    "code that is not there": (
        settings_of("ProviderSettings", "work = 'faulty:some'; code = ('narrate/nothing.py',)"),
        "`code` names narrate/nothing.py: no such file",
    ),
    "code of one text": (
        settings_of("ProviderSettings", "work = 'faulty:some'; code = 'narrate/words.py'"),
        "`code` is a tuple of files; write ('narrate/words.py',)",
    ),
    "code of a layout that is not there": (
        register(
            "LAYOUTS", "Layout(reader='faulty:some', tables=('train',), evaluations={}, code=('nothing.py',))"
        ),
        "`code` names nothing.py: no such file",
    ),
    "figures without columns": (
        register("EVALUATIONS", f"EvaluationKind({KIND}, figures={{'': ('a', 'b')}}, columns={{'a': 'A'}})"),
        "the figure 'b' has no heading in `columns`",
    ),
    "columns without figures": (
        register(
            "EVALUATIONS", f"EvaluationKind({KIND}, figures={{'': ('a',)}}, columns={{'a': 'A', 'b': 'B'}})"
        ),
        "'b' of `columns`, `headlines`, `optional` or `tops` is not in `figures`",
    ),
    "figures of one text": (
        register("EVALUATIONS", f"EvaluationKind({KIND}, figures={{'': 'a'}}, columns={{'a': 'A'}})"),
        "`figures`, `headlines` and `files` hold tuples of names",
    ),
    "layout without training clips": (
        register("LAYOUTS", "Layout(reader='faulty:some', tables=('asked',), evaluations={})"),
        "`tables` needs `train`, the training clips",
    ),
    "layout with one text of tables": (
        register("LAYOUTS", "Layout(reader='faulty:some', tables='train', evaluations={})"),
        "`tables` is a tuple of names, such as ('train',)",
    ),
    "layout with a tuple of labels": (
        register(
            "LAYOUTS", "Layout(reader='faulty:some', tables=('train',), evaluations={}, labels=('verb',))"
        ),
        "`labels` is ('verb',); a mapping from labels to columns is expected",
    ),
    "layout with a label in another column": (
        register(
            "LAYOUTS",
            "Layout(reader='faulty:some', tables=('train',), evaluations={}, labels={'tool': 'tool'})",
        ),
        "`labels`: the column 'tool' of 'tool' cannot hold a label; choose one of verb, noun, label",
    ),
    "evaluation of a table that is not made": (
        register(
            "LAYOUTS",
            "Layout(reader='faulty:some', tables=('train',), evaluations={'match': {'clips': 'x.arrow'}})",
        ),
        "the file 'x.arrow' is not made: there are train.arrow; add its table to `tables`",
    ),
}


@pytest.mark.parametrize(
    ("code", "words"), [*AT_IMPORT.values(), *RECORDS.values()], ids=[*AT_IMPORT, *RECORDS]
)
def test_a_faulty_plug_in_is_one_error(
    plug_in: Callable[..., Any], tmp_path: Path, code: str, words: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        plug_in(code)
    said = str(caught.value)
    assert said.startswith("config: plugins: the module 'faulty'") and "\n" not in said
    assert words.format(file=tmp_path / "faulty.py") in said


NO_NAME = "is not the name of a module; write my_plugin for my_plugin.py in the working directory"
NAMES = {
    "": f"'' {NO_NAME}",
    ".faulty": f"'.faulty' {NO_NAME}",
    "folder/faulty": f"'folder/faulty' {NO_NAME}",
    "faulty.py": f"'faulty.py' {NO_NAME}",
    "json": "the module 'json' is a part of Python; give your file another name",
    "__main__": "the module '__main__' is a part of Python",
    "avion_core.mine": "No module named 'avion_core.mine'); 'avion_core' is {library}; give your",
    "nowhere.faulty": "No module named 'nowhere'); install it, or put it in the working directory {here}",
    "yaml": "not {here}/yaml.py; give your file another name",
}


@pytest.mark.parametrize(("name", "words"), NAMES.items())
def test_a_name_of_no_plug_in_is_one_error(
    plug_in: Callable[..., Any], tmp_path: Path, name: str, words: str
) -> None:
    (tmp_path / "yaml.py").write_text("")
    (tmp_path / "avion_core").mkdir()
    (tmp_path / "avion_core/mine.py").write_text("")
    with pytest.raises(SettingsError) as caught:
        plug_in("", plugins=[name])
    assert words.format(here=tmp_path, library=avion_core.__file__) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_plug_in_that_jobs_do_not_find_is_an_error(
    plug_in: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shelf").mkdir()
    (tmp_path / "shelf/shelved.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path / "shelf")
    monkeypatch.setenv(PLUGINS_VARIABLE, "")
    (tmp_path / "faulty.py").write_text("")

    def started(*plugins: str) -> None:
        demo = Path(__file__).parents[2] / "config.yaml"
        settings_or_exit({"plugins": plugins}, files=[], demo=demo, alone=False)

    started("faulty")
    assert os.environ[PLUGINS_VARIABLE] == "faulty"
    with pytest.raises(
        SystemExit, match=r"config: plugins: the module 'shelved' \(.*\) is not found by jobs"
    ):
        started("faulty", "shelved")


LOSS = settings_of("LossSettings", "function = 'faulty:some'\n    negatives: str = 'none'") + register(
    "CONTRASTIVE_LOSSES", "Odd"
)
MINE = {"dataset": "ego4d", "model": "toy_dual_encoder", "task": "odd"}
USED = {
    "a loss's setting that its task has": (
        LOSS,
        {"pretrain": {"loss": "odd"}},
        "stages.pretrain: the loss 'odd' has a setting 'negatives', as its task has; give it another name",
    ),
    "a comparing task without losses": (
        settings_of("ComparingStage", f"{STAGE}\n    task: Literal['odd']") + register("STAGE_TASKS", "Odd"),
        {"mine": MINE},
        "stages.mine.task: the task 'odd' has no losses; register one in `losses` of Odd",
    ),
    "a task of another name": (
        settings_of("ContrastiveStage") + register("STAGE_TASKS", "Odd"),
        {"mine": MINE},
        "stages.mine.task: Odd lacks the field `task: Literal['odd']`; add it",
    ),
    "a task derived from another": (
        settings_of("ContrastiveStage", "task: Literal['odd']") + register("STAGE_TASKS", "Odd"),
        {"mine": {**MINE, "mixup": 1.0}},
        "stages.mine: mixup does not go with the task 'odd'; it is a setting of classification",
    ),
}


@pytest.mark.parametrize(("code", "stages", "words"), USED.values(), ids=USED)
def test_a_task_or_loss_that_cannot_be_used_is_one_error(
    plug_in: Callable[..., Any], code: str, stages: dict[str, Any], words: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        plug_in(code, stages=stages)
    assert str(caught.value) == f"config: {words}"


def test_a_tower_of_another_kind_is_an_error(plug_in: Callable[..., Any]) -> None:
    code = settings_of("VisionTowerConfig", "kind: ClassVar[str] = 'clip'")
    plug_in(code + register("VISION_TOWERS", "Tower(Odd, 'faulty:some')"))
    vision = {"kind": "odd", "width": 8, "layers": 1, "heads": 1, "patch_px": 8}
    with pytest.raises(ValueError, match="the tower 'odd' has the kind 'clip' in Odd; correct it"):
        parse_architecture({"kind": "dual_encoder", "vision": vision, "text": {}, "embed_dim": 8}, where="x")


def test_code_of_a_wrong_type_is_an_error(plug_in: Callable[..., Any], tmp_path: Path) -> None:
    settings = plug_in(
        "NUMBER = 3\n"
        + settings_of("SourceSettings", "source = 'faulty:some'")
        + register("SOURCE_SETTINGS", "Odd")
        + settings_of("ProviderSettings", "work = 'faulty:some'")
        + register("PROVIDERS", "Odd")
        + register("LAYOUTS", "Layout(reader='faulty:some', tables=('train',), evaluations={})"),
        narrate={"provider": "odd"},
        datasets={"mine": {"layout": "odd", "source": "odd"}},
        stages={"mine": {"task": "contrastive", "dataset": "mine", "model": "toy_dual_encoder"}},
        runs={"mine": {"title": "Mine", "stages": {"mine": {}}, "evaluations": []}},
        selected_runs=["mine"],
    )
    dataset = DataSet("mine", DatasetSettings(layout="odd", source="odd"), tmp_path)
    with pytest.raises(
        ValueError, match=r"data set 'mine': source: 'odd': faulty:some is .* of Source is exp"
    ):
        dataset.source()
    with pytest.raises(ValueError, match=r"faulty:some is .*; a subclass of Provider is expected"):
        provider_of(settings.narrate)
    [problem] = check_layouts(Workflow(settings))
    assert problem.startswith("data set 'mine': layout: faulty:some is <function")
    assert problem.endswith("LayoutReader(…) is expected")
    with pytest.raises(ValueError, match="faulty:NUMBER is 3; a function or class is expected"):
        load("faulty:NUMBER")
    with pytest.raises(ValueError, match="faulty:other: the module has no 'other'"):
        load("faulty:other")


def layout_of(module: str) -> str:
    """Lines that register a layout whose reader is in another module."""
    return register("LAYOUTS", f"Layout(reader='{module}:READER', tables=('train',), evaluations={{}})")


def test_a_reader_that_cannot_be_imported_is_one_problem(plug_in: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "torn.py").write_text("import nowhere_to_find\nREADER = 3\n")
    settings = plug_in(
        layout_of("torn"),
        datasets={"mine": {"layout": "odd", "source": "local", "local": {"path": "x"}}},
        stages={"mine": {"task": "contrastive", "dataset": "mine", "model": "toy_dual_encoder"}},
        runs={"mine": {"title": "Mine", "stages": {"mine": {}}, "evaluations": []}},
        selected_runs=["mine"],
    )
    assert list(check_layouts(Workflow(settings))) == [
        "data set 'mine': layout: torn:READER: the module cannot be imported (ModuleNotFoundError: No module "
        "named 'nowhere_to_find'); correct it, or install what it imports"
    ]


def test_a_module_of_a_package_that_cannot_be_imported_says_why(
    plug_in: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn/__init__.py").write_text("1 / 0\n")
    with pytest.raises(SettingsError) as caught:
        plug_in(layout_of("torn.reader"))
    assert "the module 'torn.reader' is not found (ZeroDivisionError: division by zero)" in str(caught.value)


@pytest.mark.parametrize(
    "code", ["globals().update({'READ' + 'ER': 3})", "def __getattr__(name): ...", "from os import *"]
)
def test_a_name_that_a_module_does_not_write_out_may_be_there(
    plug_in: Callable[..., Any], tmp_path: Path, code: str
) -> None:
    (tmp_path / "made.py").write_text(code)
    plug_in(layout_of("made"))


def test_local_files_of_a_layout_without_official_ones_name_data_set_and_setting(
    plug_in: Callable[..., Any], tmp_path: Path
) -> None:
    plug_in(
        "from avion_core.data.layout_files import LayoutReader\nREADER = LayoutReader(annotate=some)\n"
        + register("LAYOUTS", "Layout(reader='faulty:READER', tables=('train',), evaluations={})")
    )
    settings = DatasetSettings(layout="odd", source="local", local={"path": "x"})
    with pytest.raises(SourceError) as caught:
        DataSet("mine", settings, tmp_path).source()
    assert str(caught.value) == (
        "data set 'mine': source: 'local': the layout 'odd' has no official files (`official` of "
        "faulty:READER); choose another source"
    )


ODD: tuple[Any, ...] = (["local"], {"a": 1})
FIELDS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "datasets.ek100.source": lambda odd: {"datasets": {"ek100": {"source": odd, "layout": "ek100"}}},
    "datasets.ek100.layout": lambda odd: {"datasets": {"ek100": {"layout": odd, "source": "toy_kitchen"}}},
    "narrate.provider": lambda odd: {"narrate": {"provider": odd}},
    "stages.mine.task": lambda odd: {"stages": {"mine": {**MINE, "task": odd}}},
    "stages.pretrain.loss": lambda odd: {"stages": {"pretrain": {"loss": odd}}},
    "evaluations.mcq.kind": lambda odd: {
        "evaluations": {"mcq": {"kind": odd, "dataset": "ego4d", "stage": "pretrain"}}
    },
}


@pytest.mark.parametrize("odd", ODD, ids=str)
@pytest.mark.parametrize("field", FIELDS)
def test_what_is_no_name_is_one_error(field: str, odd: Any) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(lay_over(DEMO, FIELDS[field](odd)))
    assert str(caught.value).startswith(f"config: {field}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("tower", ["vision", "text", "kind"])
def test_an_architecture_of_an_odd_kind_is_one_error(tower: str) -> None:
    towers = {"vision": {"width": 8, "layers": 1, "heads": 1, "patch_px": 8}, "text": {"kind": ["clip"]}}
    raw: dict[str, Any] = {"kind": "dual_encoder", **towers, "embed_dim": 8}
    raw[tower] = ["clip"] if tower == "kind" else {"kind": ["clip"]}
    with pytest.raises(ValueError, match=r"x: not a known architecture: .*\['clip'\]"):
        parse_architecture(raw, where="x")


@pytest.mark.parametrize(
    ("dataset", "entry", "words"),
    [
        (
            "ek100",
            {"allow_missing_ego4d_json": True},
            "allow_missing_ego4d_json does not go with the layout 'ek100'; it is a setting of ego4d",
        ),
        (
            "kinetics",
            {"class_lists": "ek100"},
            "class_lists does not go with the layout 'kinetics'; it is a setting of ego4d, ek100, "
            "charades_ego, folder",
        ),
    ],
)
def test_a_setting_of_other_layouts_is_one_error(dataset: str, entry: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(lay_over(DEMO, {"datasets": {dataset: entry}}))
    assert str(caught.value) == f"config: datasets.{dataset}: {words}"
