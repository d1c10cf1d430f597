"""Formatting of shares, counts, times and sizes on the whole page."""

from __future__ import annotations

from collections.abc import Sequence


def percent(value: float | None) -> str:
    """23.4 for 23.41; a dash for None."""
    return "–" if value is None else f"{value:.1f}"


def share(value: float) -> str:
    """The same with a per cent sign, joined by a no-break space."""
    return f"{percent(value)}\N{NO-BREAK SPACE}%"


def figure(value: float, top: float) -> str:
    """A figure whose highest value is `top`: a share if that is 100."""
    return share(value) if top == 100 else percent(value)


def interval(low: float, high: float) -> str:
    """`21.1–30.2`, without a line break."""
    return f"{low:.1f}\N{WORD JOINER}–\N{WORD JOINER}{high:.1f}".replace("-", "−")


def deviation(points: float) -> str:
    """`±1.2`."""
    return f"±{points:.1f}"


def count(number: int, noun: str, plural: str = "") -> str:
    """`1 video`, `1,204 videos`."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def listed(words: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def duration(seconds: float | None) -> str:
    """`48 s`, `3 min 12 s`, `2 h 5 min`."""
    if seconds is None:
        return "–"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def clock(seconds: float) -> str:
    """Time in a video, `1:04.2`."""
    tenths = round(seconds * 10)
    return f"{tenths // 600}:{tenths % 600 // 10:02}.{tenths % 10}"


def megabytes(size: float) -> str:
    """`12.3 MB`."""
    return f"{size / 1e6:,.1f} MB"


def times(value: float, base: float, name: str) -> str:
    """`2.9× chance (8.1)`, by the name of `base`, or `against 0.0 for chance` if no ratio makes sense."""
    shown = percent(base)
    return f"{value / base:.1f}× {name} ({shown})" if shown != "0.0" else f"against {shown} for {name}"
