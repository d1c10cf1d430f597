"""Sources give the same table whatever they are, and local files are checked by name."""

import shutil

import pytest

from avion_core.config import DatasetSettings
from avion_core.data.source_videos import SourceError, names_of
from avion_core.media.file_table import read_file_table
from avion_core.sources.download import DataSet, download, source_problems
from tests.support.kitchens import tiny_kitchen

TOY = tiny_kitchen(ego4d_videos=1, ek100_train_videos=1)


def data_set(settings, home):
    return DataSet("it", settings, home)


def get(settings, root):
    download(data_set(settings, root))
    return read_file_table(root / "videos.parquet").to_pylist()


@pytest.mark.parametrize("layout", ["ego4d", "ek100", "kinetics"])
def test_a_rendered_layout_is_found_again_as_local_files(tmp_path, layout):
    rendered = get(DatasetSettings(layout=layout, source="toy_kitchen", toy_kitchen=TOY), tmp_path / "toy")
    local = DatasetSettings(layout=layout, source="local", local={"path": str(tmp_path / "toy" / "raw")})
    found = get(local, tmp_path / "local")
    assert found == sorted(rendered, key=lambda row: row["video_id"]) or layout == "kinetics"
    assert {tuple(row.values()) for row in found} == {tuple(row.values()) for row in rendered}
    copied = [path for path in (tmp_path / "local" / "raw").rglob("[!.]*") if path.is_file()]
    assert copied
    assert all(
        path.read_bytes() == (tmp_path / "toy" / path.relative_to(tmp_path / "local")).read_bytes()
        for path in copied
    )


def test_local_files_that_are_missing_are_named(tmp_path, capsys):
    get(DatasetSettings(layout="ek100", source="toy_kitchen", toy_kitchen=TOY), tmp_path / "toy")
    raw = tmp_path / "toy" / "raw"
    local = DatasetSettings(layout="ek100", source="local", local={"path": str(raw)})
    (raw / "P01/videos/P01_01.MP4").unlink()
    assert len(get(local, tmp_path / "local")) == 1
    assert "P01_01" in capsys.readouterr().err
    shutil.rmtree(raw / "P02")
    (tmp_path / "local" / "source.json").unlink()
    with pytest.raises(
        SourceError, match=r"data set 'it': .*none of the annotated videos is there; missing: P01_01, P02_01"
    ):
        get(local, tmp_path / "local")
    (raw / "EPIC_100_train.csv").unlink()
    [problem] = source_problems(data_set(local, tmp_path / "new"))
    assert "missing EPIC_100_train.csv; set `local.path`" in problem
    nowhere = DatasetSettings(layout="ego4d", source="local", local={"path": str(tmp_path / "nowhere")})
    [problem] = source_problems(data_set(nowhere, tmp_path / "new"))
    assert "nowhere: no such folder; set `local.path`" in problem


def test_long_lists_of_names_are_shortened():
    assert names_of(["a", "b"]) == "a, b"
    assert names_of([str(n) for n in range(12)]).endswith("9 and 2 more")
