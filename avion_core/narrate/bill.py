"""What requests to language models have used, by model, day and price."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any, NamedTuple, TypeVar

Key = TypeVar("Key")


class Account(NamedTuple):
    """What a bill is for."""

    model: str
    day: str
    """In UTC; empty in journals of earlier versions."""
    prices: str = ""
    """What a token cost (`Prices`); empty without an answer, and in journals of earlier versions."""


@dataclass
class Bill:
    """What some requests have used."""

    answers: int = 0
    estimated: int = 0
    """Answers for which the server gave no token counts."""
    lost: int = 0
    """Tries without an answer that may have been billed; they count at their highest price."""
    input_tokens: int = 0
    cached_tokens: int = 0
    """Of the input."""
    output_tokens: int = 0
    usd: float = 0.0

    @property
    def requests(self) -> int:
        """Requests that were or may have been served."""
        return self.answers + self.lost

    def __add__(self, other: Bill) -> Bill:
        theirs = asdict(other)
        return Bill(**{name: amount + theirs[name] for name, amount in asdict(self).items()})


def total_usd(bills: Mapping[Any, Bill]) -> float:
    """Upper bound on the total cost."""
    return sum(bill.usd for bill in bills.values())


def total(bills: Iterable[Mapping[Key, Bill]]) -> dict[Key, Bill]:
    """The sum of several bills, by model or account."""
    found: dict[Key, Bill] = {}
    for key, bill in chain.from_iterable(by_key.items() for by_key in bills):
        found[key] = found.get(key, Bill()) + bill
    return found
