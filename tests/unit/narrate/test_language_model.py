"""A shard is asked for what its journal lacks, and for nothing else, whatever came back before."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from avion_core.config import NarrateSettings
from avion_core.narrate import rephrase_questions
from avion_core.narrate.bill import Bill, total
from avion_core.narrate.budget import BudgetError
from avion_core.narrate.exchange import Answer, Books, NoAnswer, ProviderError, Request, Usage
from avion_core.narrate.journal import today
from avion_core.narrate.language_model import ask_model, open_questions, surely_more
from avion_core.narrate.ledger import journal_spend, journal_summary, read_ledgers
from avion_core.narrate.provider import Rephrasing
from avion_core.narrate.rephrase_questions import RephraseQuestions

TEXTS = [f"#C C takes the cup number {number:02} from the shelf" for number in range(40)]


def sentences(text: str) -> list[str]:
    return [f"#C C now {text[5:]}", f"again {text[5:]}"]


def good(request: Request) -> str:
    if len(request.texts) == 1:
        return json.dumps(sentences(request.texts[0]))
    return json.dumps({str(place): sentences(text) for place, text in enumerate(request.texts, 1)})


def useless(request: Request) -> str:
    return "[]"


class Client:
    """Answers each request at once with what `reply` says; counts what was served."""

    def __init__(self, reply: Callable[[Request], str | NoAnswer | Answer] = good, **answer: Any) -> None:
        self.reply, self.answer = reply, {"finish": "stop", "usage": Usage(100, 50), **answer}
        self.asked: list[str] = []
        self.requests, self.limit = 0, 200

    def answers(self, waiting: deque[Request], books: Books) -> Iterator[tuple[Request, Answer | NoAnswer]]:
        while waiting:
            request = waiting.popleft()
            number = books.begin(request, self.limit)
            self.requests += 1
            self.asked += request.texts
            reply = self.reply(request)
            if isinstance(reply, str):
                yield request, Answer(try_number=number, content=reply, seconds=0.1, **self.answer)
            else:
                yield request, reply


def settings(**changes: Any) -> NarrateSettings:
    prices = {"usd_per_million_input_tokens": 0.15, "usd_per_million_output_tokens": 0.60}
    model = {"model": "m", **prices, **changes}
    share = model.pop("max_failed_share", 0.5)
    rephrase = {"texts_per_narration": 2}
    own = {"provider": "language_model", "language_model": model}
    return NarrateSettings.model_validate({"max_failed_share": share, "rephrase": rephrase, **own})


def run(
    home: Path, client: Client, *, texts: list[str] = TEXTS, shard: str = "1-of-1", **changes: Any
) -> list[Rephrasing]:
    number, shards = map(int, shard.split("-of-"))
    return list(
        ask_model(
            RephraseQuestions(pa.array(texts[number - 1 :: shards]), settings(**changes)),
            every=RephraseQuestions(pa.array(texts), settings(**changes)),
            shard=shard,
            journal_dir=home,
            client=client,
        )
    )


def bill(home: Path) -> Bill:
    return total(found.bills() for _, found in read_ledgers(home)).get("m", Bill())


def open_texts(home: Path, **changes: Any) -> list[str]:
    questions = open_questions(RephraseQuestions(pa.array(TEXTS), settings(**changes)), home)
    return [questions.name(place) for place in range(len(questions))]


@pytest.mark.parametrize("size", [1, 5])
def test_every_text_is_asked_once_and_never_again(tmp_path, size):
    client = Client()
    found = run(tmp_path, client, narrations_per_request=size, max_tokens_per_reply=1000)
    assert [entry.text for entry in found] == TEXTS == client.asked
    assert all(entry.sentences == sentences(entry.text) for entry in found)
    assert bill(tmp_path).requests == client.requests == 40 / size
    again = Client()
    assert run(tmp_path, again, base_url="http://elsewhere:1/v1") == found and not again.asked
    assert open_texts(tmp_path, max_tokens_per_reply=7, timeout_seconds=3) == []


def test_answers_of_other_numbers_of_shards_are_found(tmp_path):
    first = Client()
    whole = run(tmp_path, first, shard="1-of-4") + run(tmp_path, first, shard="3-of-4")
    assert len(first.asked) == 20
    second = Client()
    for shard in ("1-of-3", "2-of-3", "3-of-3"):
        whole += run(tmp_path, second, shard=shard)
    assert sorted(first.asked + second.asked) == TEXTS
    assert {entry.text for entry in whole if entry.sentences} == set(TEXTS)


def test_another_model_or_prompt_is_another_answer(tmp_path):
    run(tmp_path, Client(), texts=TEXTS[:2])
    other = Client()
    run(tmp_path, other, texts=TEXTS[:2], model="n")
    assert other.asked == TEXTS[:2]
    assert len(open_texts(tmp_path)) == 38 and len(open_texts(tmp_path, temperature=1.5)) == 40


def test_answers_of_the_former_default_temperature_stay_valid(tmp_path):
    run(tmp_path, Client(), temperature=0.7)
    assert open_texts(tmp_path) == []


def test_an_odd_narration_is_a_dead_letter_and_the_others_are_answered(tmp_path):
    odd = TEXTS[7]

    def reply(request: Request) -> str | NoAnswer:
        return NoAnswer("400: context too long") if odd in request.texts else good(request)

    client = Client(reply)
    found = run(tmp_path, client, narrations_per_request=5, max_tokens_per_reply=1000)
    dead = [entry for entry in found if not entry.sentences]
    assert dead == [Rephrasing(odd, [], "400: context too long", 1)]
    assert client.asked.count(odd) == 2, "once among others, once alone"
    again = Client()
    assert run(tmp_path, again) == found and not again.asked
    assert open_texts(tmp_path, max_attempts=6) == [odd], "raising max_attempts asks it again"
    assert run(tmp_path, Client(), max_attempts=6)[7].sentences == sentences(odd)


def test_a_dead_letter_counts_refused_tries_too(tmp_path):
    class Refusing(Client):
        def answers(self, waiting: deque[Request], books: Books) -> Iterator[Any]:
            for request in waiting:
                for _ in range(5):
                    books.cancel(books.begin(request, self.limit))
                yield request, NoAnswer("500: boom")

    found = run(tmp_path, Refusing(), texts=TEXTS[:1], max_failed_share=1.0)
    assert found == [Rephrasing(TEXTS[0], [], "500: boom", 5)] and bill(tmp_path).requests == 0


def test_an_unusable_reply_is_an_entry_and_asked_again_up_to_max_attempts(tmp_path):
    odd = TEXTS[3]
    client = Client(lambda request: useless(request) if odd in request.texts else good(request))
    found = run(tmp_path, client, max_attempts=3)
    assert client.asked.count(odd) == 3 and found[3].tries == 3 and found[3].reason
    assert client.asked[3:6] == [odd] * 3, "at once, so that a hopeless run ends early"
    again = Client()
    assert run(tmp_path, again, max_attempts=3) == found and not again.asked
    run(tmp_path, again, max_attempts=5)
    assert again.asked == [odd]


def test_a_higher_limit_asks_again_what_was_cut_off(tmp_path):
    client = Client(useless, finish="length")
    run(tmp_path, client, texts=TEXTS[:5], max_attempts=2, max_failed_share=1.0)
    assert len(client.asked) == 10
    same = Client()
    run(tmp_path, same, texts=TEXTS[:5], max_attempts=2, max_failed_share=1.0)
    assert not same.asked
    more = Client()
    found = run(tmp_path, more, texts=TEXTS[:5], max_attempts=2, max_tokens_per_reply=400)
    assert more.asked == TEXTS[:5] and all(entry.sentences for entry in found)


def test_room_for_reasoning_that_was_not_used_up_asks_nothing_again(tmp_path):
    client = Client(useless, finish="length")
    client.limit = 2200
    changes = {"max_attempts": 2, "max_failed_share": 1.0}
    run(tmp_path, client, texts=TEXTS[:5], **changes)
    same = Client()
    run(tmp_path, same, texts=TEXTS[:5], **changes)
    assert not same.asked
    run(tmp_path, same, texts=TEXTS[:5], max_reasoning_tokens=4000, **changes)
    assert same.asked == TEXTS[:5]


def test_what_cannot_be_sent_is_named_and_never_sent(tmp_path):
    client = Client()
    texts = sorted([*TEXTS[:3], "#unsure", "#C C takes the red cup and " * 4000])
    found = run(tmp_path, client, texts=texts)
    assert sorted(client.asked) == TEXTS[:3]
    assert sorted(entry.reason for entry in found if entry.reason) == [
        "longer than 1,000 characters",
        "no words",
    ]


def test_a_hopeless_run_ends_after_tens_of_requests_and_not_at_all_before(tmp_path):
    many = [f"#C C takes the cup number {number}" for number in range(400)]
    client = Client(useless)
    with pytest.raises(ProviderError, match=r"no usable sentence.*max_failed_share"):
        run(tmp_path / "a", client, texts=many)
    assert client.requests <= 60
    again = Client()
    with pytest.raises(ProviderError, match="no usable sentence"):
        run(tmp_path / "a", again, texts=many)
    assert not again.requests, "a rerun knows"
    refused = Client(lambda request: NoAnswer("refused"))
    with pytest.raises(ProviderError, match="mostly: refused"):
        run(tmp_path / "b", refused, texts=many)
    assert refused.requests <= 12


def test_a_run_with_fewer_failures_than_allowed_goes_through(tmp_path):
    odd = set(TEXTS[::3])
    client = Client(lambda request: useless(request) if odd & set(request.texts) else good(request))
    found = run(tmp_path, client, max_attempts=2)
    assert {entry.text for entry in found if not entry.sentences} == odd
    with pytest.raises(ProviderError, match="14 of 40"):
        run(tmp_path, Client(), max_attempts=2, max_failed_share=0.2)
    assert run(tmp_path, Client(), max_attempts=2, max_failed_share=0.35) == found


def test_a_share_is_judged_only_where_it_is_sure():
    assert not surely_more(9, 9, than=0.5) and surely_more(10, 10, than=0.5)
    assert not surely_more(1, 20, than=0.01) and not surely_more(10, 20, than=0.4)
    assert surely_more(300, 1000, than=0.2) and not surely_more(220, 1000, than=0.2)
    assert not surely_more(1000, 1000, than=1.0)


BRACKETS = ["[" * 100_000, '[{"a": ' * 20_000, "1" * 10_000, '{"²": ["take mug"]}', "[" + "1" * 5000 + "]"]


@pytest.mark.parametrize("reply", [*BRACKETS, "a\u2028\u0085b", "\0", "", "<think>", '{"1": {"1": NaN}}'])
@pytest.mark.parametrize("size", [1, 2])
def test_no_reply_makes_a_later_start_or_the_estimate_fail(tmp_path, reply, size):
    client = Client(lambda request: reply if TEXTS[0] in request.texts else good(request))
    changes = {"narrations_per_request": size, "max_attempts": 2, "max_tokens_per_reply": 900}
    found = run(tmp_path, client, texts=TEXTS[:6], **changes)
    assert found[0].sentences or found[0].reason
    assert [bool(entry.sentences) for entry in found[1:]] == [True] * 5
    assert run(tmp_path, Client(), texts=TEXTS[:6], **changes) == found
    assert open_texts(tmp_path, **changes) == TEXTS[6:]


def test_a_parser_that_fails_stops_nothing(tmp_path, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise RecursionError("too deep")

    monkeypatch.setattr(rephrase_questions, "parse_replies", fail)
    found = run(tmp_path, Client(), max_attempts=1, max_failed_share=1.0)
    assert {entry.reason for entry in found} == {"cannot be read"}


def test_a_better_parser_costs_nothing_and_a_stricter_one_asks_again(tmp_path, monkeypatch):
    odd = TEXTS[3]
    client = Client(lambda request: f"~{request.texts[0]}~" if odd in request.texts else good(request))
    real = rephrase_questions.parse_replies

    def strict(reply: str, texts: list[str], **options: Any) -> Any:
        return real("" if reply.startswith("~") else reply, texts, **options)

    def lenient(reply: str, texts: list[str], **options: Any) -> Any:
        return real('["#C C lifts the cup"]' if reply.startswith("~") else reply, texts, **options)

    monkeypatch.setattr(rephrase_questions, "parse_replies", strict)
    assert not run(tmp_path, client, max_attempts=2)[3].sentences
    monkeypatch.setattr(rephrase_questions, "parse_replies", lenient)
    monkeypatch.setattr(rephrase_questions, "PARSER", "0000000b")
    later = Client()
    assert run(tmp_path, later, max_attempts=2)[3].sentences == ["#C C lifts the cup"] and not later.asked
    monkeypatch.setattr(rephrase_questions, "parse_replies", strict)
    monkeypatch.setattr(rephrase_questions, "PARSER", "0000000c")
    assert run(tmp_path, later, max_attempts=3)[3].sentences == sentences(odd) and later.asked == [odd]


@pytest.mark.parametrize(("attempts", "more"), [(1, 0), (3, 60)])
def test_a_stricter_parser_that_leaves_too_many_without_a_sentence_ends_the_run(
    tmp_path, monkeypatch, attempts, more
):
    run(tmp_path, Client(), max_attempts=attempts)
    real = rephrase_questions.parse_replies
    monkeypatch.setattr(
        rephrase_questions, "parse_replies", lambda _, texts, **more: real("[]", texts, **more)
    )
    monkeypatch.setattr(rephrase_questions, "PARSER", "0000000b")
    client = Client()
    with pytest.raises(ProviderError, match="max_failed_share"):
        run(tmp_path, client, max_attempts=attempts)
    assert len(client.asked) <= more


def test_usage_that_is_not_counted_is_estimated_and_said(tmp_path, capsys):
    run(tmp_path, Client(usage=None), texts=TEXTS[:3])
    found = bill(tmp_path)
    assert found.estimated == 3 and found.usd > 0 and found.output_tokens > 20
    assert "3 answers came without usable token counts" in capsys.readouterr().err


PRICES = {"usd_per_million_input_tokens": 0, "usd_per_million_output_tokens": 1000.0}
"""200 tokens a reply at most: 0.20 dollars. 50 are used: 0.05 dollars."""


class Losing(Client):
    """Loses every second try, which the server may have billed."""

    def answers(self, waiting: deque[Request], books: Books) -> Iterator[tuple[Request, Answer | NoAnswer]]:
        while waiting:
            books.begin(waiting[0], self.limit)
            self.requests += 1
            yield from super().answers(deque([waiting.popleft()]), books)


def test_lost_tries_count_at_their_highest_price_for_ever(tmp_path):
    client = Losing()
    while len(client.asked) < 40:
        try:
            run(tmp_path, client, max_usd=4.0, **PRICES)
        except BudgetError:
            break
    assert bill(tmp_path).usd <= 4.0
    assert bill(tmp_path).requests == client.requests and 10 <= len(client.asked) < 40
    with pytest.raises(BudgetError):
        run(tmp_path, client, max_usd=4.0, **PRICES)
    assert bill(tmp_path).requests == client.requests, "a restart forgets no lost try"


def test_cached_input_is_cheaper_and_each_line_has_its_day_and_price(tmp_path):
    prices = {"usd_per_million_input_tokens": 1000, "usd_per_million_output_tokens": 0}
    client = Client(usage=Usage(100, 50, cached_tokens=60))
    run(tmp_path, client, texts=TEXTS[:3], **prices, usd_per_million_cached_input_tokens=100, max_usd=9)
    ((account, spent),) = journal_spend(tmp_path).items()
    assert spent.usd == pytest.approx(3 * (40 * 1000 + 60 * 100) / 1e6) and spent.cached_tokens == 180
    assert account == ("m", today(), "$1000/$0 per million tokens in/out, as set")
    (entry,) = journal_summary(tmp_path)["spend"]
    assert (entry["shard"], entry["day"], entry["requests"]) == ("1-of-1", today(), 3)


def test_a_cancelled_try_costs_nothing(tmp_path):
    class Cancelling(Client):
        def answers(self, waiting: deque[Request], books: Books) -> Iterator[Any]:
            while waiting:
                for _ in range(10):
                    books.cancel(books.begin(waiting[0], self.limit))
                yield from super().answers(deque([waiting.popleft()]), books)

    client = Cancelling()
    run(tmp_path, client, max_usd=4.0, **PRICES)
    assert bill(tmp_path) == Bill(40, input_tokens=4000, output_tokens=2000, usd=pytest.approx(2.0))


@pytest.mark.parametrize("shards", [("1-of-2", "2-of-2", "1-of-3", "2-of-3", "3-of-3"), ("2-of-2", "1-of-1")])
def test_the_limit_holds_over_shards_restarts_and_other_numbers_of_shards(tmp_path, shards):
    client = Losing()
    for shard in shards * 3:
        try:
            run(tmp_path, client, shard=shard, max_usd=3.0, **PRICES)
        except BudgetError as error:
            assert "max_usd" in str(error)
        assert bill(tmp_path).usd <= 3.0
    assert bill(tmp_path).usd > 1.5 and bill(tmp_path).requests == client.requests
    for shard in ("1-of-2", "2-of-2"):
        run(tmp_path, client, shard=shard, max_usd=30.0, **PRICES)
    assert sorted(set(client.asked)) == TEXTS and len(client.asked) == 40


def test_what_other_shards_were_paid_for_leaves_the_rest_its_part(tmp_path):
    """Two of four shards are done; with eight, four of those have nothing to do and the others all of it."""
    for shard in ("1-of-4", "2-of-4"):
        run(tmp_path, Client(), shard=shard, max_usd=3.0, **PRICES)
    client = Client()
    for number in range(1, 9):
        run(tmp_path, client, shard=f"{number}-of-8", max_usd=3.0, **PRICES)
    assert len(client.asked) == 20


@pytest.mark.parametrize(("former", "limit"), [("1-of-1", 3.5), ("1-of-2", 10.0)])
def test_the_limit_holds_and_is_shared_where_a_stricter_parser_asks_again(
    tmp_path, monkeypatch, former, limit
):
    """The answers that become unusable are those of another number of shards."""
    run(tmp_path, Client(), shard=former, max_usd=2.5, **PRICES)
    real = rephrase_questions.parse_replies

    def strict(reply: str, texts: list[str], **options: Any) -> Any:
        return real(reply if "new" in reply else "[]", texts, **options)

    monkeypatch.setattr(rephrase_questions, "parse_replies", strict)
    monkeypatch.setattr(rephrase_questions, "PARSER", "0000000b")
    better, ended = Client(lambda request: json.dumps([f"#C C takes a new {request.texts[0][11:]}"])), 0
    for number in range(1, 5):
        try:
            run(tmp_path, better, shard=f"{number}-of-4", max_usd=limit, max_attempts=9, **PRICES)
        except BudgetError:
            ended += 1
    assert bill(tmp_path).usd <= limit
    assert (ended, len(better.asked)) == ((4, 0) if limit == 3.5 else (0, 40))


def test_the_parsers_digest_is_that_of_all_its_files():
    program = (
        "import sys, avion_core.narrate.parse; print(*(m for m in sys.modules if m.startswith('avion')))"
    )
    root = Path(__file__).parents[3]
    said = subprocess.run(
        [sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True
    )
    modules = {f"{name.partition('.')[2].replace('.', '/')}.py" for name in said.stdout.split()}
    modules -= {".py", "narrate.py"}
    assert modules == {name for name in rephrase_questions.PARSER_FILES if name.endswith(".py")}
    sources = "".join((root / "avion_core" / name).read_text() for name in modules)
    named = {f"narrate/{name}" for name in re.findall(r"\w+\.yaml", sources)}
    assert named == {name for name in rephrase_questions.PARSER_FILES if name.endswith(".yaml")}
