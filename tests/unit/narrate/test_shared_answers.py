"""Data sets share answers and limit: no sentence is paid twice, and all together stay within `max_usd`."""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from avion_core.config import FilterSettings, NarrateSettings, load_settings
from avion_core.configfile import lay_over, read_config
from avion_core.data.clips import ClipTable, write_clips
from avion_core.data.tables import map_table
from avion_core.narrate import language_model
from avion_core.narrate.estimates import estimate_lines
from avion_core.narrate.exchange import Answer, Request, Usage
from avion_core.narrate.ledger import journal_folders
from avion_core.narrate.rephrase import REPHRASED, estimate, gather_narrations, rephrase_shard
from avion_core.workflow import Workflow

DEMO = read_config(Path(__file__).parents[3] / "config.yaml")
TEXTS = {
    name: [f"#C C takes the cup number {number:02} from the shelf" for number in numbers]
    for name, numbers in (("a", range(8)), ("b", range(4, 12)), ("c", range(10, 14)))
}
"""Narrations of three data sets; 4 to 7 are in the first two, 10 and 11 in the last two."""
SETTINGS = NarrateSettings.model_validate(
    {
        "provider": "language_model",
        "language_model": {"max_usd": 6.0, "usd_per_million_input_tokens": 0}
        | {"usd_per_million_output_tokens": 1000.0},
        "rephrase": {"texts_per_narration": 2},
    }
)


class StoppedError(Exception):
    """Ends a shard before its first request."""


class Client:
    """Answers at once; notes what it is asked, and the limits that it is given."""

    asked: list[str]
    limits: list[float]
    shards: list[int]
    stops = False

    def __init__(self, settings: Any, *, shards: int = 1) -> None:
        Client.shards.append(shards)

    def answers(self, waiting: deque[Request], books: Any) -> Iterator[tuple[Request, Answer]]:
        Client.limits.append(books.limit_usd)
        if Client.stops:
            raise StoppedError
        while waiting:
            request = waiting.popleft()
            number = books.begin(request, 200)
            Client.asked += request.texts
            (text,) = request.texts
            reply = json.dumps([f"#C C now {text[5:]}", f"again {text[5:]}"])
            yield request, Answer(number, reply, "stop", Usage(100, 50), 0.1)


@pytest.fixture(autouse=True)
def client(monkeypatch: pytest.MonkeyPatch) -> None:
    Client.asked, Client.limits, Client.shards, Client.stops = [], [], [], False
    monkeypatch.setattr(language_model, "ChatClient", Client)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for name, texts in TEXTS.items():
        rows = [{"video_id": name, "start_s": 0.0, "end_s": 1.0, "texts": [text]} for text in texts]
        write_clips(clips_of(tmp_path, name), rows)
    return tmp_path


def clips_of(data: Path, name: str) -> Path:
    return data / name / "clips/train.arrow"


def journal_of(data: Path, name: str) -> Path:
    return data / name / "narrations/openai/journal"


def rephrase(data: Path, name: str, shard: str, *, among: str = "abc") -> Path:
    """One shard of a data set, as the rule would run it where all of `among` are rephrased."""
    out = data / name / f"narrations/openai/{shard}.arrow"
    rephrase_shard(
        clips_of(data, name),
        settings=SETTINGS,
        shard=shard,
        class_lists=[],
        journal_dir=journal_of(data, name),
        out=out,
        before=[clips_of(data, other) for other in among if other < name],
        after=[clips_of(data, other) for other in among if other > name],
    )
    return out


@pytest.mark.parametrize("order", ["abc", "cba", "bca"])
def test_a_sentence_of_several_data_sets_is_asked_once_in_any_order(data: Path, order: str) -> None:
    tables = {name: [rephrase(data, name, shard) for shard in ("1-of-2", "2-of-2")] for name in order}
    distinct = {text for texts in TEXTS.values() for text in texts}
    rows = [len(map_table(table, REPHRASED)) for own in tables.values() for table in own]
    assert sum(rows) == len(distinct), "each is in one shard, so that no two ask for it at the same time"
    assert Counter(Client.asked) == Counter(distinct)
    for name, texts in TEXTS.items():
        out = data / name / "narrations/openai/train.arrow"
        shared = [table for other in TEXTS if other < name for table in tables[other]]
        gather_narrations(
            clips_of(data, name),
            tables[name],
            shared=shared,
            filters=FilterSettings(),
            journal_dir=journal_of(data, name),
            out=out,
        )
        table = ClipTable.load(out)
        assert [len(table.texts(row)) for row in range(len(texts))] == [3] * len(texts)


def test_answers_of_a_data_set_that_is_not_rephrased_any_more_are_found(data: Path) -> None:
    rephrase(data, "a", "1-of-1", among="a")
    rephrase(data, "b", "1-of-1", among="b")
    assert Counter(Client.asked) == Counter(TEXTS["a"] + TEXTS["b"][4:])
    left = estimate(clips_of(data, "c"), SETTINGS, journal_dir=journal_of(data, "c"))
    assert left.count == 2, "two of its four are in the journal of another data set"
    assert len(journal_folders(journal_of(data, "c"))) == 3


def test_all_shards_of_all_data_sets_together_have_the_limit(data: Path) -> None:
    Client.stops = True
    for name in "abc":
        for shard in ("1-of-2", "2-of-2"):
            with pytest.raises(StoppedError):
                rephrase(data, name, shard)
    assert len(Client.limits) == 6 and sum(Client.limits) == pytest.approx(6.0)
    assert max(Client.limits) == pytest.approx(6.0 * 4 / 14), "in proportion to what each has to ask"
    assert Client.shards == [6] * 6, "and limits per minute are divided among all"


def test_what_other_data_sets_have_spent_counts(data: Path) -> None:
    rephrase(data, "a", "1-of-1", among="a")  # 8 answers of 5 cents
    Client.stops = True
    with pytest.raises(StoppedError):
        rephrase(data, "b", "1-of-1", among="b")
    assert Client.limits == [6.0, pytest.approx(6.0 - 8 * 0.05)]


def test_the_estimate_counts_a_sentence_once(data: Path) -> None:
    plan = {
        "narrate": {
            "provider": "language_model",
            "recipe": SETTINGS.recipe(),
            "job": SETTINGS.job_settings(),
            "datasets": {
                name: {"clips": str(clips_of(data, name)), "journal": str(journal_of(data, name))}
                for name in TEXTS
            },
        }
    }
    lines = list(estimate_lines(plan))
    assert [int(line.split(" distinct")[0].split()[-1]) for line in lines[:-1]] == [8, 4, 2]
    assert lines[-1].startswith("all together: 14 requests")


def test_which_data_sets_share() -> None:
    stage = {"pretrain": {"narrations": ["rephrased"], "dataset": "ek100"}}
    runs = {"other": {"title": "Other", "stages": stage, "evaluations": []}}

    def sharing(dataset: str, **narrate: Any) -> Any:
        overlay = {"runs": runs, "narrate": narrate, "selected_runs": ["llm", "other"]}
        workflow = Workflow(load_settings(lay_over(DEMO, overlay)))
        return workflow.sharing(dataset, looks=False), workflow.shared_shards(dataset)

    paid = {"provider": "language_model"}
    shards = [f"data/ego4d/narrations/openai/{number}-of-2.arrow" for number in (1, 2)]
    assert sharing("ek100") == sharing("ego4d") == (([], []), []), "the lexicon's are each data set's own"
    assert sharing("ego4d", **paid) == (([], ["ek100"]), [])
    assert sharing("ek100", **paid) == ((["ego4d"], []), shards)
