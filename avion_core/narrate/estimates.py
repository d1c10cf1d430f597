"""The bill of everything that language models would still be asked. Nothing is sent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from avion_core.config import NarrateSettings, NarratorSettings
from avion_core.narrate.bill import Account, Bill, total_usd
from avion_core.narrate.budget import Estimate, money
from avion_core.narrate.clip_provider import clip_provider_of
from avion_core.narrate.ledger import journal_spend
from avion_core.narrate.narrated import estimate_clips
from avion_core.narrate.provider import provider_of
from avion_core.narrate.rephrase import estimate


def estimate_lines(plan: Mapping[str, Any]) -> Iterator[str]:
    """Lines for each data set of each section of `workflow.estimate_plan`, and one for all together.

    Raises ValueErrors that name a setting that cannot be used.
    """
    asked: list[Estimate] = []
    for section, entry in plan.items():
        before: list[Path] = []
        for name, files in entry["datasets"].items():
            paths = {role: Path(path) for role, path in files.items()}
            left = _left(section, entry, paths, before=before)
            before.append(paths["clips"])
            asked.append(left)
            spend = journal_spend(paths["journal"])
            billed, provider = money(total_usd(spend)), entry["provider"]
            yield f"{name}, {section}.{provider}: ${billed} billed so far; to ask: {left}"
            yield from _spend_lines(spend)
    requests, usd = (sum(getattr(left, name) for left in asked) for name in ("requests", "usd"))
    yield f"all together: {requests} requests, about ${money(usd)} to come"


def _spend_lines(spend: Mapping[Account, Bill]) -> Iterator[str]:
    """A line for each day, model and price."""
    for account, bill in sorted(spend.items(), key=lambda item: (item[0].day, item[0])):
        prices = f" ({account.prices})" if account.prices else ""
        day = account.day or "day unknown"
        yield f"  {day}, {account.model}: {bill.requests} requests, ${money(bill.usd)}{prices}"


def _left(
    section: str, entry: Mapping[str, Any], paths: Mapping[str, Path], *, before: list[Path]
) -> Estimate:
    if section == "narrate":
        narrate = NarrateSettings.join(entry["recipe"], entry["job"])
        provider_of(narrate).check()
        shared = before if narrate.own.shares_answers else []
        return estimate(paths["clips"], narrate, journal_dir=paths["journal"], before=shared)
    narrator = NarratorSettings.join(entry["recipe"], entry["job"])
    clip_provider_of(narrator).check()
    return estimate_clips(
        paths["clips"],
        paths["chunks"],
        narrator,
        journal_dir=paths["journal"],
        held_out=[path for role, path in paths.items() if role.startswith("held_out_")],
    )
