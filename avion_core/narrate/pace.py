"""When requests may be sent, by the settings' limits per minute and what a server's headers say. Pure.

Requests are spread evenly over the time, so that every minute has at most the limit. All shards of a data set
may run at once, so each has an equal part of the settings' limits.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

LONGEST_HOLD_SECONDS = 300.0
"""A longer reset, as of a limit per day, is left to the server's refusals and the waiting after them."""
_UNITS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")


class Pace:
    """When the next request may be sent. Moments are seconds of one clock that never goes back."""

    def __init__(
        self, *, requests_per_minute: float | None, tokens_per_minute: float | None, shards: int = 1
    ) -> None:
        self._seconds_per_request = _seconds_each(requests_per_minute, shards)
        self._seconds_per_token = _seconds_each(tokens_per_minute, shards)
        self._next_request = self._next_token = self._held_until = -math.inf

    def admit(self, now: float, tokens: int) -> float:
        """The moment from which a request of about this many tokens may be sent. It counts from then on."""
        start = max(now, self._next_request, self._next_token, self._held_until)
        self._next_request = start + self._seconds_per_request
        self._next_token = start + tokens * self._seconds_per_token
        return start

    def settle(self, *, expected: int, used: int) -> None:
        """Correct the count of an admitted request's tokens."""
        self._next_token += (used - expected) * self._seconds_per_token

    def hear(self, headers: Mapping[str, str], now: float, *, tokens: int) -> None:
        """Hold all requests until a limit's reset if the server has no room for one of `tokens` tokens."""
        for name, needed in (("requests", 1), ("tokens", tokens)):
            remaining = headers.get(f"x-ratelimit-remaining-{name}", "").strip()
            seconds = duration_seconds(headers.get(f"x-ratelimit-reset-{name}", ""))
            if remaining.isdecimal() and int(remaining) < needed and 0 < seconds <= LONGEST_HOLD_SECONDS:
                self._held_until = max(self._held_until, now + seconds)


def duration_seconds(text: str) -> float:
    """Seconds from a duration such as `6m0s`, `20ms` or `1.5`; 0 for anything else."""
    text = text.strip()
    parts = _DURATION.findall(text)
    if parts and "".join(number + unit for number, unit in parts) == text:
        return sum(float(number) * _UNITS[unit] for number, unit in parts)
    return float(text) if re.fullmatch(r"\d+(\.\d+)?", text) else 0.0


def _seconds_each(per_minute: float | None, shards: int) -> float:
    return 0.0 if per_minute is None else 60.0 * shards / per_minute
