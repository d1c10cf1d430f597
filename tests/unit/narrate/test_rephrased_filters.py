"""Filters of rephrased texts: what a lexicon writes passes, what says something else does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from avion_core.config import FilterSettings, NarrateSettings
from avion_core.data.clips import ClipTable, write_clips
from avion_core.data.tables import write_table
from avion_core.files import read_json
from avion_core.narrate.class_lists import ClassLists
from avion_core.narrate.cosines import COSINES
from avion_core.narrate.filtered import EXAMPLES
from avion_core.narrate.lexicon import Lexicon
from avion_core.narrate.provider import NarrateError
from avion_core.narrate.quality import UNLIKE, UNLIKE_CLIP, Judge
from avion_core.narrate.rephrase import REPHRASED, gather_narrations
from avion_core.narrate.sentences import LANGUAGE
from avion_core.sources.toy_kitchen.vocabulary import NOUNS
from tests.support.toy_sentences import toy_sentences

GOOD = Path(__file__).with_name("rephrasings.txt")
SUBJECT, OPPOSITE, THINGS = UNLIKE["subject"], UNLIKE["opposite"], UNLIKE["things"]


def reason(narration: str, text: str, lists: ClassLists | None = None, **filters: Any) -> str | None:
    judge = Judge(FilterSettings.model_validate(filters), class_lists=lists)
    return judge.judge([text], human=[narration])[0]


@pytest.mark.parametrize("listed", [False, True])
def test_all_that_the_lexicon_writes_about_the_toy_kitchen_passes(listed: bool) -> None:
    nouns = {word: frozenset((n,)) for n, words in enumerate(NOUNS.values()) for word in words}
    lists = ClassLists(nouns=nouns) if listed else ClassLists()
    lexicon, judge = Lexicon(lists), Judge(FilterSettings(), class_lists=lists)
    narrations = toy_sentences()[:: 1 if listed else 5]
    left_out = [
        (narration, text, verdict)
        for narration in narrations
        for texts in [lexicon.rephrase(narration, 4)]
        for text, verdict in zip(texts, judge.judge(texts, human=[narration]), strict=True)
        if verdict
    ]
    assert len(narrations) > 100 and not left_out


def test_of_the_good_rephrasings_of_a_model_hardly_any_is_left_out() -> None:
    pairs = [
        (narration, text)
        for line in GOOD.read_text().splitlines()
        if line and not line.startswith("# ")
        for narration, *texts in [line.split(" | ")]
        for text in texts
    ]
    left_out = [(*pair, verdict) for pair in pairs if (verdict := reason(*pair))]
    assert len(pairs) > 300
    assert len(left_out) <= 0.01 * len(pairs), left_out


@pytest.mark.parametrize(
    ("narration", "text", "verdict"),
    [
        ("#C C picks the cup", "#C C grabs the mug", None),
        ("#C C picks the cup", "pick the cup", None),
        ("#C C picks the cup", "#O picks the cup", SUBJECT),
        ("#C C picks the cup", "X picks the cup", SUBJECT),
        ("#C C picks the cup", "I pick the cup", SUBJECT),
        ("#C C picks the cup", "You pick the cup", SUBJECT),
        ("#C C picks the cup", "the person picks the cup", SUBJECT),
        ("#C C picks the cup", "The person wearing the camera picks the cup", None),
        ("#C C picks the cup", "a man picks the cup", SUBJECT),
        ("#C C picks the cup", "the cup is picked up", None),
        ("#O picks the cup", "#C C picks the cup", SUBJECT),
        ("#O picks the cup", "the man picks the cup", None),
        ("#O a man X picks the cup", "X picks the cup", None),
        ("#O a man X picks the cup", "I pick the cup", SUBJECT),
        ("pick cup", "take the cup", None),
        ("pick cup", "I pick up a cup", SUBJECT),
        ("#C C opens the drawer", "#C C closes the drawer", OPPOSITE),
        ("#C C opens the drawer", "#C C does not open the drawer", OPPOSITE),
        ("#C C picks up the cup from the table", "#C C lifts the plate from the table", THINGS),
        ("#C C picks up the cup from the table", "#C C lifts the coffee mug from the table", None),
        ("#C C picks up the cup from the table", "#C C lifts it from the table", None),
        ("#C C picks up the cup from the table", "take mug", None),
        ("#C C picks up the cup and the plate", "#C C takes the plate and the cup", None),
        ("#C C cuts the onion with a knife", "#C C uses a knife to cut the onion", None),
        ("#C C cuts the onion", "#C C cuts the tomato", THINGS),
        ("#C C picks the cup", "#C C nimmt die Tasse vom Tisch", LANGUAGE),
        ("#C C nimmt die Tasse", "#C C nimmt die Tasse vom Tisch", None),
    ],
)
def test_hard_cases(narration: str, text: str, verdict: str | None) -> None:
    assert reason(narration, text) == verdict
    assert reason(narration, text, unlike_human=[], least_known=None) is None


def test_words_of_one_class_are_the_same_thing() -> None:
    narration, text = "#C C cuts the tomato", "#C C cuts the onion"
    one_class = ClassLists(nouns={"tomato": frozenset([3]), "onion": frozenset([3])})
    assert reason(narration, text) == THINGS
    assert reason(narration, text, one_class) is None


TOLD = {
    "#C C opens the jar": ["#C C closes the jar", "open the jar", "I open the jar"],
    "#C C takes the mug": ["#C C grabs the mug"],
}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Six clips with two distinct texts."""
    texts = ["#C C opens the jar", "#C C takes the mug"] * 3
    write_clips(
        tmp_path / "clips.arrow",
        [{"video_id": f"v{k}", "start_s": 0.0, "end_s": 1.0, "texts": [t]} for k, t in enumerate(texts)],
    )
    rows = [{"text": text, "rephrased": new, "reason": None} for text, new in TOLD.items()]
    write_table(tmp_path / "1-of-1.arrow", rows, REPHRASED)
    return tmp_path


def gather(home: Path, cosines: tuple[Path, ...] = (), **filters: Any) -> tuple[ClipTable, dict[str, Any]]:
    gather_narrations(
        home / "clips.arrow",
        [home / "1-of-1.arrow"],
        filters=FilterSettings.model_validate(filters),
        cosines=cosines,
        journal_dir=home / "journal",
        out=home / "train.arrow",
    )
    return ClipTable.load(home / "train.arrow"), read_json(home / "summary.json")


def test_what_is_left_out_is_counted_for_every_clip_with_few_examples(home: Path) -> None:
    table, summary = gather(home)
    assert table.texts(0) == table.texts(4) == ["#C C opens the jar", "open the jar"]
    assert table.texts(1) == ["#C C takes the mug", "#C C grabs the mug"]
    assert (summary["written"], summary["filtered"]) == (12, {OPPOSITE: 3, SUBJECT: 3})
    assert [example["video_id"] for example in summary["examples"][SUBJECT]] == ["v0", "v2", "v4"]
    assert (
        summary["examples"][SUBJECT][0] | {"text": "I open the jar", "human": "#C C opens the jar"}
        == (summary["examples"][SUBJECT][0])
    )
    table, summary = gather(home, least_words=4)
    assert table.texts(1) == ["#C C takes the mug"] and sum(summary["filtered"].values()) == 12
    assert all(len(examples) <= EXAMPLES for examples in summary["examples"].values())


def test_filters_change_no_text_that_is_asked_for() -> None:
    plain, strict = (
        NarrateSettings.model_validate({"filters": {"tagged": tagged}}) for tagged in (False, True)
    )
    assert plain != strict
    assert plain.recipe() == strict.recipe() and plain.job_settings() == strict.job_settings()


def cosine_table(home: Path, *, texts: dict[str, list[str]] = TOLD) -> tuple[Path, ...]:
    """Two shards: the clips v0, v1 … have the cosines 0.0, 0.1 …; v5 could not be read."""
    clips = ClipTable.load(home / "clips.arrow")
    rows = [
        {
            "video_id": clips.video_id(row),
            "start_s": 0.0,
            "end_s": 1.0,
            "texts": texts[clips.texts(row)[0]],
            "cosines": None if row == 5 else [row / 10] * len(texts[clips.texts(row)[0]]),
        }
        for row in range(len(clips))
    ]
    for name, part in {"1-of-2": rows[:2], "2-of-2": rows[2:]}.items():
        write_table(home / f"cosines/{name}.arrow", part, COSINES)
    return tuple(home / f"cosines/{name}-of-2.arrow" for name in (1, 2))


def test_texts_far_from_their_clip_are_left_out(home: Path) -> None:
    cosine = {"run": "human", "stage": "pretrain", "least": 0.25}
    table, summary = gather(home, cosine_table(home), cosine=cosine)
    kept = [table.texts(row)[1:] for row in range(len(table))]
    assert kept == [[], [], [], ["#C C grabs the mug"], ["open the jar"], ["#C C grabs the mug"]]
    assert summary["filtered"][UNLIKE_CLIP] == 3
    assert [example["cosine"] for example in summary["examples"][UNLIKE_CLIP]] == pytest.approx([0, 0.1, 0.2])
    assert summary["cosines"]["0.5"] == pytest.approx(0.2)


def test_cosines_of_other_texts_are_refused(home: Path) -> None:
    other = {text: [f"{new} again" for new in added] for text, added in TOLD.items()}
    cosine = {"run": "human", "stage": "pretrain"}
    with pytest.raises(NarrateError, match="cosines of other texts; delete the folder"):
        gather(home, cosine_table(home, texts=other), cosine=cosine)
