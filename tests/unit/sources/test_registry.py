"""Each source takes its own settings and no other's; one of a plug-in is a source like any."""

import json
from pathlib import Path

import pytest

from avion_core.config import SOURCE_SETTINGS, DatasetSettings, SettingsError, SourceSettings, load_settings
from avion_core.configfile import lay_over, read_config
from avion_core.data.source_videos import SourceError, SourceVideo
from avion_core.media.file_table import read_file_table
from avion_core.registry import load
from avion_core.sources.download import DataSet, download, source_problems, source_state
from avion_core.sources.raw_folder import RawFolder
from avion_core.sources.source import Source
from avion_core.workflow import Workflow

DEMO = read_config(Path(__file__).parents[3] / "config.yaml")


def test_every_source_has_settings_and_does_something():
    assert {"toy_kitchen", "ego4d", "local", "folder"} <= set(SOURCE_SETTINGS)
    assert all(issubclass(load(settings.source), Source) for settings in SOURCE_SETTINGS.values())
    assert {name for name, settings in SOURCE_SETTINGS.items() if settings.official} == {"ego4d", "local"}
    assert {name for name, settings in SOURCE_SETTINGS.items() if settings.generated} == {"toy_kitchen"}


@pytest.mark.parametrize(
    ("settings", "recipe"),
    [
        ({"layout": "ek100", "source": "toy_kitchen", "toy_kitchen": {"seed": 3}}, "0871612f4d5e8d02"),
        (
            {"layout": "ego4d", "source": "ego4d", "ego4d": {"aws_profile": "x", "benchmarks": ["FHO"]}},
            "13dc1c569ad49f16",
        ),
        ({"layout": "ek100", "source": "local", "local": {"path": "p"}}, "00d95f6b9fa9e692"),
        (
            {"layout": "folder", "source": "folder", "folder": {"videos": "v", "narrations": "n"}},
            "977e23f0a10c2816",
        ),
    ],
)
def test_data_sets_on_disk_were_fetched_by_these_recipes(settings, recipe):
    assert DataSet("it", DatasetSettings(**settings), Path("nowhere")).recipe == recipe


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"source": "toy_kithen"}, "datasets.mine: unknown source 'toy_kithen'; did you mean 'toy_kitchen'?"),
        ({"source": "local"}, "datasets.mine: source 'local' needs a section 'local'"),
        ({"source": "local", "local": {}}, "setting 'datasets.mine.local.path' is missing"),
        (
            {"source": "local", "local": {"path": "x"}, "ego4d": {"version": "v2"}},
            "datasets.mine: ego4d does not go with the source 'local'; remove this section",
        ),
        (
            {"source": "toy_kitchen", "toy_kithen": {}},
            "unknown setting 'datasets.mine.toy_kithen'; did you mean",
        ),
        (
            {"source": "toy_kitchen", "toy_kitchen": {"sed": 1}},
            "'datasets.mine.toy_kitchen.sed'; did you mean",
        ),
        ({"source": "ego4d"}, "datasets.mine: the source 'ego4d' has the layout ego4d (layout: 'ek100')"),
        (
            {"layout": "folder", "source": "toy_kitchen"},
            "datasets.mine: the layout 'folder' needs the source 'folder' (source: 'toy_kitchen')",
        ),
    ],
)
def test_a_misfit_is_one_error_that_names_it(entry, message):
    datasets = {"mine": {"layout": "ek100", **entry}}
    with pytest.raises(SettingsError) as caught:
        load_settings(lay_over(DEMO, {"datasets": datasets}))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_toy_kitchen_begins_with_the_common_settings():
    datasets = {"mine": {"layout": "ek100", "source": "toy_kitchen", "toy_kitchen": {"seed": 5}}}
    settings = load_settings(lay_over(DEMO, {"datasets": datasets, "toy_kitchen": {"ego4d_videos": 3}}))
    common = settings.toy_kitchen
    assert common.ego4d_videos == 3
    assert settings.datasets["ek100"].source_settings == common
    assert settings.datasets["mine"].source_settings == common.model_copy(update={"seed": 5})
    with pytest.raises(SettingsError) as caught:
        load_settings(lay_over(DEMO, {"toy_kitchen": {"short_side_px": 3}}))
    assert str(caught.value).count("short_side_px") == 1


class ListedSettings(SourceSettings):
    """A plug-in's settings."""

    source = f"{__name__}:Listed"

    clips: dict[str, str]
    """Class of each video file."""


class Listed(Source[ListedSettings]):
    """A plug-in: Kinetics lists of the files that the settings name."""

    external = True

    def checks(self, record):
        return [self._check]

    def _check(self):
        gone = [name for name in self.own.clips if not Path(name).is_file()]
        if gone:
            raise SourceError(f"{gone[0]}: no such file")

    def fetch(self, record):
        raw, classes = RawFolder(self.target.raw_dir), sorted(set(self.own.clips.values()))
        raw.write("classes.txt", "\n".join(classes))
        for split in ("train", "val"):
            lines = [f"{name} {classes.index(label)}" for name, label in self.own.clips.items()]
            raw.write(f"{split}.txt", "\n".join(lines))
        return self.list_videos()

    def annotations(self):
        return RawFolder(self.target.raw_dir).files()

    def list_videos(self):
        return [SourceVideo(Path(name).stem, Path(name)) for name in self.own.clips]


def test_a_source_of_a_plug_in_is_a_source_like_any(tmp_path, monkeypatch):
    monkeypatch.setitem(SOURCE_SETTINGS._records, "listed", ListedSettings)
    video = tmp_path / "a.mp4"
    listed = {"clips": {str(video): "wash"}}
    entry = {"layout": "kinetics", "source": "listed", "listed": listed}
    settings = load_settings(lay_over(DEMO, {"data_dir": str(tmp_path), "datasets": {"mine": entry}}))
    dataset = Workflow(settings).data_set("mine")
    sent = DatasetSettings.model_validate_json(dataset.settings.source_json())
    assert json.loads(dataset.settings.source_json())["listed"] == listed
    assert sent.source_settings == dataset.settings.source_settings
    assert list(source_problems(dataset)) == [f"data set 'mine': {video}: no such file"]
    video.write_bytes(b"a")
    download(dataset)
    assert read_file_table(dataset.home / "videos.parquet").column("video_id").to_pylist() == ["a"]
    assert (dataset.raw_dir / "train.txt").read_text() == f"{video} 0"
    before = source_state(dataset)
    assert not list(source_problems(dataset))
    video.write_bytes(b"bb")
    assert source_state(dataset).videos_digest != before.videos_digest
