"""EgoVLP's `egoclip.csv` for the toy kitchen: each narration's clip and tags, classes of its vocabulary."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from typing import Any

import numpy as np

from avion_core.data.ego4d import PASSES, NarrationPass, egoclip_windows
from avion_core.sources.toy_kitchen.narrations import EGO4D_WORDS
from avion_core.sources.toy_kitchen.vocabulary import NOUNS, noun_class, verb_class

COLUMNS = (
    "clip_idx",
    "video_uid",
    "video_dur",
    "narration_source",
    "narration_ind",
    "narration_time",
    "clip_start",
    "clip_end",
    "clip_text",
    "tag_verb",
    "tag_noun",
)


def egoclip_csv(videos: Mapping[str, Mapping[str, Any]], durations_s: Mapping[str, float]) -> str:
    """The file for these videos of a `narration.json`, tab-separated."""
    passes = [_pass(uid, name, video[name]["narrations"]) for uid, video in videos.items() for name in PASSES]
    stream = io.StringIO()
    writer = csv.writer(stream, delimiter="\t", lineterminator="\n")
    writer.writerow(COLUMNS)
    index = 0
    for entry, (starts_s, ends_s) in zip(passes, egoclip_windows(passes), strict=True):
        clips = zip(entry.times_s.tolist(), starts_s.tolist(), ends_s.tolist(), entry.texts, strict=True)
        for place, (time_s, start_s, end_s, text) in enumerate(clips):
            row = [index, entry.video_uid, durations_s[entry.video_uid], entry.name, place]
            verbs, nouns = tags_of(text)
            writer.writerow([*row, time_s, start_s, end_s, text, verbs, nouns])
            index += 1
    return stream.getvalue()


def _pass(uid: str, name: str, narrations: list[dict[str, Any]]) -> NarrationPass:
    times_s = np.array([narration["timestamp_sec"] for narration in narrations], np.float64)
    texts = [narration["narration_text"] for narration in narrations]
    return NarrationPass(uid, name, times_s, texts, [narration["annotation_uid"] for narration in narrations])


def tags_of(text: str) -> tuple[list[int], list[int]]:
    """Verb and noun classes of the words of a narration."""
    said = f" {text} "
    verbs = [
        verb_class(verb)
        for verb, ways in EGO4D_WORDS.items()
        if any(f" {way} " in said for words in ways for way in words)
    ]
    nouns = [noun_class(noun) for noun, words in NOUNS.items() if any(f" {word} " in said for word in words)]
    return verbs, nouns
