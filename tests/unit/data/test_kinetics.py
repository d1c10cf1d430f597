"""Kinetics lists: spaces in paths are kept, and a wrong line is named."""

import pytest

from avion_core.data import kinetics
from avion_core.data.source_videos import SourceError


@pytest.fixture
def raw(tmp_path):
    (tmp_path / "classes.txt").write_text("wash\nstir\n")
    (tmp_path / "train.txt").write_text("train/a b.mp4 120 1\n\ntrain/c.mp4 90 0\n")
    (tmp_path / "val.txt").write_text("val/c.mp4 60 0\n")
    return tmp_path


def test_lists_are_read(raw):
    assert kinetics.read_classes(raw) == ["wash", "stir"]
    entries = kinetics.read_list(raw / "train.txt", classes=["wash", "stir"])
    assert [(entry.video_id, entry.label) for entry in entries] == [
        ("train__a b", 1),
        ("train__c", 0),
    ]


CLIPS = ["train/playing violin/abc_000010_000020.mp4", "train/abseiling/xyz_000010_000020.mp4"]
LISTS = {
    "ours": f"{CLIPS[0]} 300 1\n./{CLIPS[1]} 250 0\n",
    "VideoMAE": f"{CLIPS[0]} 1\n\n{CLIPS[1]} 0\n",
    "commas": f"{CLIPS[0]},1\n{CLIPS[1]},0\n",
    "byte-order mark": f"\ufeff{CLIPS[0]} 300 1\r\n{CLIPS[1]} 250 0\r\n",
    "owners": "\ufefflabel,youtube_id,time_start,time_end,split\nplaying violin,abc,10,20,train\n"
    '"abseiling",xyz,10,20,train\n',
}


@pytest.mark.parametrize("name", ["train.txt", "train.csv"])
@pytest.mark.parametrize("text", LISTS.values(), ids=LISTS)
def test_lists_of_all_forms_name_the_same_clips(tmp_path, text, name):
    (tmp_path / "classes.txt").write_text("\ufeffabseiling\r\nplaying violin\r\n\r\n")
    (tmp_path / name).write_text(text)
    (tmp_path / "val.csv").write_text("val/a.mp4 0\n")
    kinetics.check(tmp_path)
    assert list(kinetics.annotation_files(tmp_path)) == [name, "val.csv", "classes.txt"]
    classes = kinetics.read_classes(tmp_path)
    entries = kinetics.read_list(kinetics.list_path(tmp_path, "train"), classes=classes)
    assert [(entry.video_id, entry.label) for entry in entries] == [
        ("train__playing violin__abc_000010_000020", 1),
        ("train__abseiling__xyz_000010_000020", 0),
    ]
    for path in CLIPS:
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).touch()
    assert [video.path for video in kinetics.find_videos(tmp_path, tmp_path)[0]] == [
        tmp_path / path for path in CLIPS
    ]


@pytest.mark.parametrize(
    "text",
    [
        "0,wash\n1,stir a pot\n",
        "id,name\n0,wash\n1,stir a pot\n",
        "\ufeffclass_id;class_name\r\n0;wash\r\n1;stir a pot\r\n\r\n",
        '"id","name"\n0,"wash"\n1,"stir a pot"\n',
        "0 wash\n1 stir a pot\n",
        "0\twash\n1\tstir a pot\n",
        "wash 0\nstir a pot 1\n",
        "name,id\nwash,0\nstir a pot,1\n",
        "wash\nstir a pot\n",
    ],
)
def test_classes_may_have_their_labels(tmp_path, text):
    (tmp_path / "classes.txt").write_bytes(text.encode())
    assert kinetics.read_classes(tmp_path) == ["wash", "stir a pot"]


@pytest.mark.parametrize("names", [["0 degrees", "turning"], ["2 handed catch", "3 point shot x", "x"]])
def test_numbers_may_be_part_of_names(tmp_path, names):
    (tmp_path / "classes.txt").write_text("\n".join(names))
    assert kinetics.read_classes(tmp_path) == names


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 wash\n2 stir\n", "line 1: class 1 where 0 is expected"),
        ("id,name\n1,wash\n0,stir\n", "line 2: class 1 where 0 is expected"),
        ("0,wash\n0,stir\n", "line 2: class 0 where 1 is expected"),
        ("0,wash\n1,wash\n", "line 2: 'wash' is there already"),
        ("0,wash\n1,\n", "line 2: no class name"),
    ],
)
def test_labels_that_are_not_the_lines_are_refused(tmp_path, text, message):
    (tmp_path / "classes.txt").write_text(text)
    with pytest.raises(SourceError, match=rf"classes\.txt: {message}"):
        kinetics.read_classes(tmp_path)


@pytest.mark.parametrize("place", ["train", "train/playing_violin"])
def test_the_owners_clips_are_found_in_other_folders(tmp_path, place):
    (tmp_path / "classes.txt").write_text("abseiling\nplaying violin\n")
    for name in ("train.csv", "validate.csv"):
        (tmp_path / name).write_text(LISTS["owners"])
    (tmp_path / place).mkdir(parents=True)
    (tmp_path / place / "abc_000010_000020.mp4").touch()
    found, missing = kinetics.find_videos(tmp_path, tmp_path)
    assert {video.video_id for video in found} == {"train__playing violin__abc_000010_000020"}
    assert tmp_path / CLIPS[1] in [video.path for video in missing]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train/a.mp4 1\ntrain/c.mp4 90 0\n", "line 2: .* is not 'path label' like the first line"),
        ("train/a.mp4\n", "line 1: 'train/a.mp4' is not 'path num_frames label' or 'path label'"),
        ("train/a.mp4 -1\n", "line 1: label -1 has no name"),
        (
            "label,youtube_id,time_start,time_end,split\njumping,abc,10,20,train\n",
            "line 2: .*class 'jumping'",
        ),
        ("label,youtube_id,time_start,time_end,split\nwash,abc,ten,20,train\n", "line 2: .*whole seconds"),
        ("label,youtube_id,time_start,time_end\nwash,,1,2\n", "line 2: column 'youtube_id': it is empty"),
        ("label,youtube_id,time_start,split\nwash,abc,10,train\n", "line 1: column 'time_end' is missing"),
        ("", "it lists nothing"),
    ],
)
def test_a_list_of_no_known_form_is_named_before_any_work(raw, text, message):
    (raw / "train.txt").write_text(text)
    with pytest.raises(SourceError, match=rf"train\.txt: {message}"):
        kinetics.check(raw)


@pytest.mark.parametrize(
    ("text", "message"),
    [("wash\n\nstir\n", "line 2: no class name"), ("wash\nstir\nwash\n", "line 3: 'wash' is there")],
)
def test_wrong_class_names_are_named(raw, text, message):
    (raw / "classes.txt").write_text(text)
    with pytest.raises(SourceError, match=rf"classes\.txt: {message}"):
        kinetics.check(raw)


def test_clips_of_one_name_are_told_before_any_work(raw):
    (raw / "train.txt").write_text("train/c.mp4 90 0\ntrain/C.mkv 90 0\n")
    with pytest.raises(SourceError, match=r"same name: train/C\.mkv and train/c\.mp4"):
        kinetics.check(raw)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("train/a.mp4 120", r"line 2: 'train/a.mp4 120' is not 'path num_frames label' like the first line"),
        ("train/a.mp4 many 1", "line 2: .* is not 'path num_frames label'"),
        ("train/a.mp4 120 " + "9" * 5000, "line 2: .* is not 'path num_frames label'"),
        ("train/a.mp4 120 2", r"line 2: label 2 has no name; classes.txt has 2 lines"),
    ],
)
def test_a_wrong_line_is_named(raw, line, message):
    (raw / "train.txt").write_text(f"train/c.mp4 90 0\n{line}\n")
    with pytest.raises(SourceError, match=message):
        kinetics.check(raw)


def test_videos_that_are_not_there_are_named(raw):
    (raw / "train").mkdir()
    (raw / "train/a b.mp4").touch()
    found, missing = kinetics.find_videos(raw, raw)
    assert [video.video_id for video in found] == ["train__a b"]
    assert [video.video_id for video in missing] == ["train__c", "val__c"]


def put(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


@pytest.mark.parametrize(
    ("form", "size"),
    [("{path} {label}", 400), ("{path},{label}", 600), ("{path} 300 {label}", 700), ("owners", 400)],
)
def test_class_names_are_optional(tmp_path, form, size):
    names = [f"doing {number:03d}" for number in range(size)]
    for split in ("train", "val"):
        lines = [
            f"{name},id{label},10,20,{split}" if form == "owners" else
            form.format(path=f"{split}/{name.replace(' ', '_')}/id{label}_000010_000020.mp4", label=label)
            for label, name in enumerate(names)
        ]  # fmt: skip
        head = ["label,youtube_id,time_start,time_end,split"] if form == "owners" else []
        (tmp_path / f"kinetics_{size}_{split}.csv").write_text("\ufeff" + "\n".join(head + lines[::-1]))
    kinetics.check(tmp_path)
    files = kinetics.annotation_files(tmp_path)
    assert list(files) == ["train.csv", "val.csv"]
    classes, lists = kinetics.read_all(tmp_path)
    assert classes == names
    raw = tmp_path / "raw"
    raw.mkdir()
    for name, path in files.items():
        (raw / name).write_bytes(path.read_bytes())
    assert kinetics.read_all(raw) == (classes, lists)
    put(tmp_path, "val/doing_003/id3_000010_000020.mp4")
    [video] = kinetics.find_videos(tmp_path, tmp_path)[0]
    own = [entry for entry in lists["val"] if entry.video_id == video.video_id]
    assert [entry.label for entry in own] == [3]


@pytest.mark.parametrize(
    ("train", "names"),
    [
        ("a/1.mp4 0\na/2.mp4 1\n", ["class 0", "class 1", "class 2"]),
        ("a/1.mp4 0\nb_c/2.mp4 2\n", ["a", "class 1", "b c"]),
        ("a/1.mp4 0\nb/3.mp4 0\nc/2.mp4 2\n", ["class 0", "class 1", "class 2"]),
        ("1.mp4 0\n2.mp4 2\n", ["class 0", "class 1", "class 2"]),
    ],
)
def test_folders_name_classes_only_where_each_has_its_own(tmp_path, train, names):
    (tmp_path / "train.csv").write_text(train)
    (tmp_path / "val.csv").write_text(train.splitlines()[-1][:-1] + "2\n")
    assert kinetics.read_all(tmp_path)[0] == names


def test_an_implausible_label_is_refused_where_names_are_missing(tmp_path):
    (tmp_path / "train.csv").write_text("a.mp4 0\nb.mp4 123456\n")
    (tmp_path / "val.csv").write_text("c.mp4 0\n")
    with pytest.raises(SourceError, match=r"line 2: label 123456 has no name; classes\.txt is missing"):
        kinetics.check(tmp_path)


def test_lists_of_another_machine_find_their_clips(tmp_path):
    (tmp_path / "train.csv").write_text("/their/disk/k400/train/a.mp4 0\n/their/disk/k400/train/b.mp4 1\n")
    (tmp_path / "val.csv").write_text("/their/disk/k400/val/a.mp4 0\n")
    put(tmp_path, "ours/k400/train/a.mp4", "ours/k400/val/a.mp4", "ours/a.mp4")
    for place in ("ours", "ours/k400"):
        found, missing = kinetics.find_videos(tmp_path, tmp_path / place)
        paths = {video.video_id: str(video.path.relative_to(tmp_path)) for video in found}
        assert paths == {
            "__their__disk__k400__train__a": "ours/k400/train/a.mp4",
            "__their__disk__k400__val__a": "ours/k400/val/a.mp4",
        }
        assert {video.video_id for video in missing} == {"__their__disk__k400__train__b"}
    with pytest.raises(
        SourceError, match=r"none of the listed clips is there; .*looked for /their/disk/k400/tr"
    ):
        kinetics.check_videos(tmp_path, tmp_path / "nowhere")


def test_the_owners_validation_clips_are_found_under_either_name(tmp_path):
    (tmp_path / "train.csv").write_text(LISTS["owners"])
    (tmp_path / "validate.csv").write_text(LISTS["owners"].replace(",train", ",validate"))
    put(tmp_path, "val/playing violin/abc_000010_000020.mp4")
    [video] = kinetics.find_videos(tmp_path, tmp_path)[0]
    assert video.video_id == "validate__playing violin__abc_000010_000020"


def test_lists_of_two_releases_in_one_folder_are_refused(tmp_path):
    for name in ("kinetics-400_train.csv", "kinetics-600_train.csv", "val.csv"):
        (tmp_path / name).write_text("a.mp4 0\n")
    with pytest.raises(
        SourceError, match=r"several lists for 'train': kinetics-400_train\.csv, kinetics-600_"
    ):
        kinetics.check(tmp_path)
