"""Toy kitchen in the files of data sets of classes: Kinetics, EGTEA and Charades-Ego.

Each function renders one data set's videos under `raw_dir` and writes annotation files exactly in the owners'
formats.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from avion_core.config import ToyKitchenSettings
from avion_core.data.source_videos import SourceVideo, video_id_of
from avion_core.sources.raw_folder import RawFolder
from avion_core.sources.toy_kitchen.render import render_all
from avion_core.sources.toy_kitchen.script import Script, frame_size, person_style, write_script

KINETICS_CLASSES: dict[str, str] = {
    "clearing table": "take",
    "setting table": "put",
    "opening container": "open",
    "washing dishes": "wash",
    "cutting food": "cut",
    "pouring drink": "pour",
    "stirring": "stir",
    "shaking": "shake",
}
"""Activities of the trimmed clips in order of their labels, each with its verb."""
EGTEA_CLASSES = list(KINETICS_CLASSES.items())[:6]
"""Activities of the trimmed clips of EGTEA, each with its verb; one clip of each in train and test."""
CHARADES_CLASSES: dict[str, str] = {
    "Taking something from somewhere": "take",
    "Putting something somewhere": "put",
    "Opening a box, a jar or a bottle": "open",
    "Washing something": "wash",
    "Cutting some food": "cut",
    "Pouring something into a bowl": "pour",
    "Stirring something": "stir",
    "Shaking something": "shake",
}
"""Classes of Charades-Ego in order of their numbers, each with its verb."""
CHARADES_VIDEOS = {"train": 8, "test": 4}
CHARADES_COLUMNS = (
    "id",
    "subject",
    "scene",
    "quality",
    "relevance",
    "verified",
    "script",
    "objects",
    "descriptions",
    "actions",
    "length",
    "egocentric",
    "charades_video",
)


def make_kinetics(settings: ToyKitchenSettings, raw_dir: Path) -> list[SourceVideo]:
    """Render the trimmed clips and write classes.txt and the two lists."""
    scripts: list[Script] = []
    labels: list[int] = []
    for split, per_class in zip(("train", "val"), settings.kinetics_clips_per_class, strict=True):
        for label, (title, verb) in enumerate(KINETICS_CLASSES.items()):
            for number in range(per_class):
                name = f"{split}/{title.replace(' ', '_')}_{number:03}"
                scripts.append(_trimmed_clip(name, verb, len(scripts), settings))
                labels.append(label)
    paths = render_all(scripts, raw_dir, suffix=".mp4", settings=settings, title="render kinetics")
    raw = RawFolder(raw_dir)
    for split in ("train", "val"):
        lines = [
            f"{path.relative_to(raw_dir)} {script.frames} {label}\n"
            for path, script, label in zip(paths, scripts, labels, strict=True)
            if path.parent.name == split
        ]
        raw.write(f"{split}.txt", "".join(lines))
    raw.write("classes.txt", "".join(f"{title}\n" for title in KINETICS_CLASSES))
    return [SourceVideo(video_id_of(str(path.relative_to(raw_dir))), path) for path in paths]


def _trimmed_clip(name: str, verb: str, index: int, settings: ToyKitchenSettings) -> Script:
    return write_script(
        name,
        seed=settings.seed,
        size=frame_size(settings.short_side_px, index),
        duration_s=settings.kinetics_clip_seconds,
        style=person_style(settings.seed, name),
        verbs=(verb,),
    )


def make_egtea(settings: ToyKitchenSettings, raw_dir: Path) -> list[SourceVideo]:
    """Render the trimmed clips of two sessions, and write action_idx.txt and the first split."""
    scripts: list[Script] = []
    lines = {"train": "", "test": ""}
    for split, session in (("train", "OP01-R01-Kitchen"), ("test", "OP02-R02-Kitchen")):
        for number, (_, verb) in enumerate(EGTEA_CLASSES, start=1):
            start_ms = 5000 * number
            times = (
                f"{start_ms}-{start_ms + 4000}-F{30 * start_ms // 1000:06}-F{30 * start_ms // 1000 + 120:06}"
            )
            name = f"cropped_clips/{session}/{session}-{times}"
            scripts.append(_trimmed_clip(name, verb, len(scripts), settings))
            lines[split] += f"{session}-{times} {number} {number} {number} \n"
    paths = render_all(scripts, raw_dir, suffix=".mp4", settings=settings, title="render egtea")
    raw = RawFolder(raw_dir)
    for split, text in lines.items():
        raw.write(f"{split}_split1.txt", text)
    names = (title.capitalize().replace(" ", "_") for title, _ in EGTEA_CLASSES)
    raw.write("action_idx.txt", "".join(f"{name} {number}\n" for number, name in enumerate(names, start=1)))
    return [SourceVideo(path.stem, path) for path in paths]


def make_charades_ego(settings: ToyKitchenSettings, raw_dir: Path) -> list[SourceVideo]:
    """Render the untrimmed videos, and write their classes and the two lists of first-person videos.

    The last test video has no action, as some of the original.
    """
    names = [f"TK{number:02}EGO" for number in range(sum(CHARADES_VIDEOS.values()))]
    scripts = [
        write_script(
            f"CharadesEgo_v1_480/{name}",
            seed=settings.seed,
            size=frame_size(settings.short_side_px, number),
            duration_s=settings.video_seconds[0],
            style=person_style(settings.seed, name),
            verbs=tuple(CHARADES_CLASSES.values()),
        )
        for number, name in enumerate(names)
    ]
    paths = render_all(scripts, raw_dir, suffix=".mp4", settings=settings, title="render charades_ego")
    raw, train = RawFolder(raw_dir), CHARADES_VIDEOS["train"]
    raw.write("CharadesEgo_v1_train_only1st.csv", _charades_csv(names[:train], scripts[:train]))
    raw.write(
        "CharadesEgo_v1_test_only1st.csv", _charades_csv(names[train:], scripts[train:], bare=names[-1])
    )
    classes = "".join(f"c{number:03} {title}\n" for number, title in enumerate(CHARADES_CLASSES))
    raw.write("Charades_v1_classes.txt", classes)
    return [SourceVideo(path.stem, path) for path in paths]


def _charades_csv(names: Sequence[str], scripts: Sequence[Script], *, bare: str = "") -> str:
    """A list of videos; the one called `bare` has no actions."""
    number = {verb: place for place, verb in enumerate(CHARADES_CLASSES.values())}
    stream = io.StringIO()
    writer = csv.DictWriter(stream, CHARADES_COLUMNS, lineterminator="\n")
    writer.writeheader()
    for name, script in zip(names, scripts, strict=True):
        actions = [
            f"c{number[action.verb]:03} {action.start_s:.2f} {action.end_s:.2f}"
            for action in (script.actions if name != bare else ())
        ]
        writer.writerow(
            dict.fromkeys(CHARADES_COLUMNS, "")
            | {
                "id": name,
                "subject": name[:4],
                "scene": "Kitchen",
                "verified": "Yes",
                "script": "A person works in the kitchen, alone.",
                "actions": ";".join(actions),
                "length": f"{script.duration_s:.2f}",
                "egocentric": "Yes",
                "charades_video": name.removesuffix("EGO"),
            }
        )
    return stream.getvalue()
