"""EGTEA and Charades-Ego: official files become clip tables; faulty ones are refused by name."""

import json

import numpy as np
import pytest

from avion_core.config import DatasetSettings
from avion_core.data import annotate as module
from avion_core.data import charades_ego, egtea
from avion_core.data.annotate import annotate
from avion_core.data.clips import ClipTable
from avion_core.data.layout_files import official_files
from avion_core.data.source_videos import SourceError, SourceVideo, write_videos
from avion_core.media.source_file import FileMark
from avion_core.sources.download import DataSet, download
from tests.support.kitchens import tiny_kitchen
from tests.unit.data.test_annotate import Index

EGTEA = {
    "action_idx.txt": "Cut_Bell_Pepper 2\nOpen_Fridge/Drawer 1\nTake_eating_utensil,spoon 3\n",
    "train_split1.txt": "OP01-R01-Pasta-1-2-F1-F2 2 1 5 \nOP01-R01-Pasta-3-4-F3-F4 3 1 6\n\n",
    "test_split1.txt": "OP02-R02-Soup-1-2-F1-F2 1 1 5\n",
}
HEADER = "id,subject,script,objects,actions,length,egocentric\n"
CHARADES = {
    "Charades_v1_classes.txt": "c000 Holding some clothes\nc001 Putting a dish, or food, away\n",
    "CharadesEgo_v1_train_only1st.csv": f'{HEADER}AEGO,x,"a, b",,c001 0.50 2.10;c000 9.00 12.00; ,10.5,Yes\n'
    "BEGO,x,,,,4,Yes\n",
    "CharadesEgo_v1_test_only1st.csv": f"{HEADER}CEGO,x,,,c001 0.0 2.1;c000 1.0 2.0;c001 5.0 6.0,31.23,Yes\n"
    "DEGO,x,,,,4,Yes\n",
}


def write(folder, files):
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


def annotated(tmp_path, monkeypatch, layout, lengths):
    monkeypatch.setattr(module.ChunkIndex, "load", lambda _: Index(lengths))
    write_videos(tmp_path / "videos.parquet", {SourceVideo("any", tmp_path): FileMark(0, 0)})
    settings = DatasetSettings(layout=layout, source="local", local={"path": "x"})
    annotate(
        "it",
        recipe=settings.annotation_recipe(),
        raw_dir=tmp_path / "raw",
        videos=tmp_path / "videos.parquet",
        chunks=tmp_path / "chunks.parquet",
        clips_dir=tmp_path / "clips",
    )
    names = json.loads((tmp_path / "clips/classes.json").read_text())["label"]
    return names, *(ClipTable.load(tmp_path / f"clips/{split}.arrow") for split in ("train", "test"))


def test_egtea_clips_are_whole_files_with_classes_in_the_order_of_their_numbers(tmp_path, monkeypatch):
    folder = write(tmp_path / "raw", EGTEA)
    found, missing = egtea.find_videos(folder, folder)
    assert not found and [str(one.path.relative_to(folder)) for one in missing] == [
        "cropped_clips/OP01-R01-Pasta/OP01-R01-Pasta-1-2-F1-F2.mp4",
        "cropped_clips/OP01-R01-Pasta/OP01-R01-Pasta-3-4-F3-F4.mp4",
        "cropped_clips/OP02-R02-Soup/OP02-R02-Soup-1-2-F1-F2.mp4",
    ]
    lengths = {one.video_id: 1.5 for one in missing}
    names, train, test = annotated(tmp_path, monkeypatch, "egtea", lengths)
    assert names == ["open fridge/drawer", "cut bell pepper", "take eating utensil,spoon"]
    assert train.column("label").tolist() == [1, 2] and test.column("label").tolist() == [0]
    assert [(train.start_s(row), train.end_s(row), train.texts(row)) for row in (0, 1)] == [(0, 1.5, [])] * 2


def test_charades_ego_has_actions_with_class_names_and_whole_test_videos_with_all_classes(
    tmp_path, monkeypatch
):
    folder = write(tmp_path / "raw", CHARADES)
    (folder / "AEGO.mp4").touch()
    found, missing = charades_ego.find_videos(folder, folder)
    assert [one.video_id for one in found] == ["AEGO"]
    assert [str(one.path.relative_to(folder)) for one in missing[2:4]] == [
        "CharadesEgo_v1_480/CEGO.mp4",
        "CEGO.mp4",
    ]
    lengths = {"AEGO": 10.0, "BEGO": 4.0, "CEGO": 31.5, "DEGO": 3.5}
    names, train, test = annotated(tmp_path, monkeypatch, "charades_ego", lengths)
    assert names == ["Holding some clothes", "Putting a dish, or food, away"]
    assert [(train.texts(row), train.start_s(row), train.end_s(row)) for row in (0, 1)] == [
        ([names[1]], 0.5, 2.1),
        ([names[0]], 9.0, 10.0),
    ]
    assert train.column("label").tolist() == [1, 0] and len(train) == 2
    assert [(test.video_id(row), test.end_s(row), test.labels(row)) for row in (0, 1)] == [
        ("CEGO", 31.23, [0, 1]),
        ("DEGO", 3.5, []),
    ]
    assert test.has("labels") and not test.has("label")
    counted, there = charades_ego.clips(folder, folder)
    assert (counted["train"], counted["test"], there) == (
        [("AEGO",)] * 2,
        [("CEGO",), ("DEGO",)],
        ["AEGO"],
    )


@pytest.mark.parametrize(
    ("layout", "file", "text", "message"),
    [
        (
            "egtea",
            "action_idx.txt",
            "Cut 1\nOpen 3\n",
            "action_idx.txt: the numbers of the 2 actions have gaps",
        ),
        ("egtea", "action_idx.txt", "Cut 2\nOpen 3\n", "the numbers of the 2 actions have gaps"),
        ("egtea", "action_idx.txt", "Cut 1\nOpen 1\n", "line 2: 'Open 1' is not 'Action_name number'"),
        ("egtea", "action_idx.txt", "Cut\n", "action_idx.txt: line 1: 'Cut' is not 'Action_name number'"),
        ("egtea", "train_split1.txt", "OP01-R01-x 9\n", "line 1: action 9 is not in action_idx.txt"),
        ("egtea", "test_split1.txt", "\nOP01 1\n", "test_split1.txt: line 2: 'OP01 1' is not 'clip_id"),
        ("egtea", "train_split1.txt", "", "train_split1.txt: it lists no clip"),
        ("egtea", "action_idx.txt", "Cut 1\n_\u200b 2\n", "action_idx.txt: line 2: '_"),
        ("egtea", "test_split1.txt", EGTEA["train_split1.txt"], "-F1-F2' is there already, in "),
        (
            "egtea",
            "train_split1.txt",
            "A-B-C 1\na-B-C 2\n",
            "train_split1.txt: line 2: 'a-B-C' is there already",
        ),
        (
            "charades_ego",
            "Charades_v1_classes.txt",
            "\nc000 A\nc002 B\n",
            "line 3: 'c002 B' is not 'c001 name",
        ),
        (
            "charades_ego",
            "CharadesEgo_v1_test_only1st.csv",
            f"{HEADER}AEGO,x,,,c001 0.0 2.1,3,Yes\n",
            "test_only1st.csv: video 1: 'AEGO' is there already, in ",
        ),
        (
            "charades_ego",
            "CharadesEgo_v1_test_only1st.csv",
            "id,actions,length\nA,,3\n",
            "test_only1st.csv: it lists no action",
        ),
        (
            "charades_ego",
            "CharadesEgo_v1_test_only1st.csv",
            "id,actions,length\nA,c001 0.0,3\n",
            "test_only1st.csv: line 2: column 'actions': 'c001 0.0' is not a class and two times",
        ),
        (
            "charades_ego",
            "CharadesEgo_v1_test_only1st.csv",
            "id,actions,length\nA,c002 0.0 1.0,3\n",
            "the class of 'c002 0.0 1.0' is not among the 2",
        ),
        (
            "charades_ego",
            "CharadesEgo_v1_train_only1st.csv",
            "id,actions,length\n,c001 0.0 1.0,3\n",
            "line 2: column 'id': it is empty",
        ),
        (
            "charades_ego",
            "CharadesEgo_v1_train_only1st.csv",
            "id,actions,length\nA,c001 0.0 1.0,nan\n",
            "column 'length': 'nan' is not a number of seconds above 0",
        ),
        (
            "charades_ego",
            "CharadesEgo_v1_train_only1st.csv",
            "id,actions,length\nA,,3\n",
            "train_only1st.csv: it lists no action",
        ),
        (
            "charades_ego",
            "CharadesEgo_v1_train_only1st.csv",
            "id,actions\nA,c001 0.0 1.0\n",
            "line 1: column 'length' is missing",
        ),
    ],
)
def test_a_faulty_file_is_refused_with_its_line(tmp_path, layout, file, text, message):
    folder = write(tmp_path / "raw", {"egtea": EGTEA, "charades_ego": CHARADES}[layout])
    official_files(layout).check(folder, False)
    (folder / file).write_text(text)
    with pytest.raises(SourceError) as caught:
        official_files(layout).check(folder, False)
    assert message in str(caught.value) and str(folder / file) in str(caught.value)


@pytest.mark.parametrize("layout", ["egtea", "charades_ego"])
def test_files_that_are_not_there_are_named(tmp_path, layout):
    files = list({"egtea": EGTEA, "charades_ego": CHARADES}[layout])
    with pytest.raises(SourceError, match="no such folder"):
        official_files(layout).check(tmp_path / "raw", False)
    write(tmp_path / "raw", {files[0]: "x"})
    with pytest.raises(SourceError) as caught:
        official_files(layout).check(tmp_path / "raw", False)
    assert all(name in str(caught.value) for name in files[1:])


@pytest.mark.parametrize(("layout", "videos", "train"), [("egtea", 12, 6), ("charades_ego", 12, 8)])
def test_the_toy_kitchens_files_are_read_and_its_videos_found(tmp_path, layout, videos, train):
    entry = {"layout": layout, "source": "toy_kitchen", "toy_kitchen": tiny_kitchen().model_dump()}
    settings = DatasetSettings.model_validate(entry)
    download(DataSet("it", settings, tmp_path))
    raw = tmp_path / "raw"
    official_files(layout).check(raw, False)
    found, missing = official_files(layout).find_videos(raw, raw)
    assert (len(found), missing) == (videos, [])
    rows, _ = official_files(layout).clips(raw, raw)
    assert len({video for (video,) in rows["train"]}) == train
    if layout == "charades_ego":
        lists = charades_ego._read_lists(raw)
        assert lists["test"][-1].actions == () and all(video.actions for video in lists["train"])
        assert np.isclose(lists["train"][0].length_s, 5.0)
