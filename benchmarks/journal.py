"""A language model's journal of 1.5 million answers: opening it for a shard, the estimate, the bill.

The answers are of Ego4D's form, 500 to 600 bytes per line, each after its try, in 16 files. One file lacks
its last answers, so that its shard has requests left. Each measurement runs in its own process: seconds and
peak memory, with and without the indexes, and for a journal of an earlier version, which has neither tries
nor verdicts. `nothing` measures the imports alone.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from avion_core.config import NarrateSettings
from avion_core.data.clips import write_clips
from avion_core.narrate.answered import Answered
from avion_core.narrate.bill import total
from avion_core.narrate.language_model import open_places
from avion_core.narrate.ledger import read_ledger, read_ledgers
from avion_core.narrate.rephrase import distinct_texts, estimate
from avion_core.narrate.rephrase_questions import PARSER, RephraseQuestions, key_texts
from benchmarks import write_result

SETTINGS = NarrateSettings.model_validate(
    {"provider": "language_model", "language_model": {"model": "gpt-4o-mini"}}
)
WORDS = (
    "picks up the red cup",
    "puts down a knife",
    "opens the top drawer",
    "wipes the table",
    "turns the tap",
)
PLACES = ("with her left hand", "from the kitchen counter", "near the wooden shelf", "on the second floor")


def narration(number: int) -> str:
    """One of as many distinct narrations as there are numbers, 55 to 65 bytes long."""
    return f"#C C {WORDS[number % 5]} number {number:07} {PLACES[number % 4]}"


def write_journal(folder: Path, texts: Sequence[str], *, shards: int, old: bool) -> None:
    """Write the answers of all shards; the first one lacks its last hundred."""
    folder.mkdir(parents=True)
    for shard in range(shards):
        own = texts[shard::shards]
        answered = own[:-100] if shard == 0 else own
        with (folder / f"{shard + 1}-of-{shards}.jsonl").open("w", encoding="utf-8") as stream:
            for number, (text, key) in enumerate(zip(answered, key_texts(answered, SETTINGS), strict=True)):
                stream.write(answer(number, text, key, old=old))


def answer(number: int, text: str, key: str, *, old: bool) -> str:
    """The lines of one answered request."""
    body = text[5:]
    reply = json.dumps(
        [f"#C C now {body}", f"#C C then {body}", f"The camera wearer {body}", f"again {body}"]
    )
    entry: dict[str, Any] = {
        "keys": [key],
        "texts": [text],
        "reply": reply,
        "provider": "openai",
        "model": "gpt-4o-mini",
        "input_tokens": 212,
        "output_tokens": 61,
        "measured": True,
        "usd": 6.84e-05,
        "seconds": 0.912,
        "finish": "stop",
    }
    if old:
        return json.dumps(entry) + "\n"
    begun = {"try": number, "usd": 0.00024, "model": "gpt-4o-mini"}
    entry = {"answers": number, **entry, "usable": [True], "parser": PARSER, "limit": 200, "reasons": False}
    return f"{json.dumps(begun)}\n{json.dumps(entry)}\n"


def nothing(folder: Path) -> Any:
    """Only import."""
    return folder.name


def open_shard(folder: Path) -> Any:
    """Find the first shard's remaining requests."""
    own = next((folder / "journal").glob("1-of-*.jsonl"))
    with Answered(RephraseQuestions(distinct_texts(folder / "shard.arrow"), SETTINGS)) as answered:
        answered.take([(own, read_ledger(own))])
        if len(open_places(answered)):
            answered.take(pair for pair in read_ledgers(own.parent) if pair[0] != own)
        return len(open_places(answered))


def estimate_all(folder: Path) -> Any:
    """Find the remaining requests of all shards."""
    return str(estimate(folder / "clips.arrow", SETTINGS, journal_dir=folder / "journal"))


def bill(folder: Path) -> Any:
    """Sum the bill of all answers."""
    found = total(ledger.bills() for _, ledger in read_ledgers(folder / "journal"))
    return {model: entry.requests for model, entry in found.items()}


WORK: dict[str, Callable[[Path], Any]] = {
    "nothing": nothing,
    "open": open_shard,
    "estimate": estimate_all,
    "bill": bill,
}


def measure(name: str, folder: Path) -> dict[str, Any]:
    """Seconds, peak memory and result of one piece of work in its own process."""
    command = [sys.executable, "-m", "benchmarks.journal", "--work", name, "--folder", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    print(name, found, flush=True)
    return found


def drop_indexes(folder: Path) -> None:
    for path in (folder / "journal").glob("*.index"):
        path.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--answers", type=int, default=1_500_000)
    parser.add_argument("--shards", type=int, default=16)
    parser.add_argument("--work", choices=WORK, help="for the processes that are measured")
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    if arguments.work:
        start, cpu = time.perf_counter(), time.process_time()
        result = WORK[arguments.work](arguments.folder)
        status = Path("/proc/self/status").read_text()
        peak_mb = int(status.split("VmHWM:")[1].split()[0]) / 1024
        seconds = time.perf_counter() - start
        cpu_seconds = time.process_time() - cpu
        entry = {"seconds": seconds, "cpu_seconds": cpu_seconds, "peak_mb": peak_mb, "result": result}
        print(json.dumps(entry))
        return
    figures: dict[str, Any] = {"answers": arguments.answers, "shards": arguments.shards}
    with tempfile.TemporaryDirectory() as home:
        texts = sorted(map(narration, range(arguments.answers)))
        for old in (False, True):
            folder = Path(home, "earlier version" if old else "now")
            write_journal(folder / "journal", texts, shards=arguments.shards, old=old)
            row = {"video_id": "v", "start_s": 0.0, "end_s": 1.0, "source": "human"}
            for name, held in (("clips", texts), ("shard", texts[:: arguments.shards])):
                write_clips(folder / f"{name}.arrow", ({**row, "texts": [text]} for text in held))
            megabytes = sum(path.stat().st_size for path in (folder / "journal").iterdir()) / 1e6
            measured: dict[str, Any] = {"megabytes": megabytes, "nothing": measure("nothing", folder)}
            for name in ("open", "estimate", "bill"):
                drop_indexes(folder)
                measured[f"{name}, no index"] = measure(name, folder)
                measured[name] = measure(name, folder)
            figures[folder.name] = measured
    now = figures["now"]
    ratios = {
        "index_speedup_of_open": now["open, no index"]["seconds"] / now["open"]["seconds"],
        "open_seconds_by_bill_seconds": now["open"]["seconds"] / now["bill, no index"]["seconds"],
    }
    write_result("journal", figures=figures, ratios=ratios)


if __name__ == "__main__":
    main()
