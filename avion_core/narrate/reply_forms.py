"""Finds the strings that may be sentences in a language model's reply, whatever form it chose.

Asked for JSON, models also send unclosed arrays, single or typographic quotes, lists, tables, tags, code
fences, talk around the list, and their reasoning. Nothing here judges a sentence (`sentences` does) or
raises, and the time is proportional to the reply's length, since a server may send anything.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

DEEPEST = 8
"""Brackets within brackets; a reply with more is no list of sentences."""

Way = tuple[str | int, ...]
"""Keys and places that lead to a value of a reply: first the number of its bracket within the text."""

_THOUGHT = r"(?:think(?:ing)?|thoughts?|reason(?:ing)?|reflection|scratchpad|analysis)"
_THOUGHT_END = re.compile(
    rf"[<\[◁]/(?:\w{{1,20}}:)?{_THOUGHT}[>\]▷]|<\|END_THINKING\|>|assistantfinal", re.IGNORECASE
)
_THOUGHT_START = re.compile(
    rf"[<\[◁](?:\w{{1,20}}:)?{_THOUGHT}[>\]▷]|<\|START_THINKING\|>|<\|channel\|>(?:analysis|commentary)",
    re.IGNORECASE,
)
_FINAL = re.compile(r"<\|channel\|>\s*final[^<]{0,40}(?:<\|constrain\|>[^<]{0,40})?<\|message\|>")
"""Where the answer of gpt-oss begins; `assistantfinal` is what is left without the special tokens."""
_TURN = re.compile(r"<\|[^|>\n]{0,60}\|>|</?(?:s|bos|eos|pad)>|<(?:start|end)_of_turn>|\[/?INST\]", re.I)
"""Marks of a chat's turns, which base models write out, and then both sides' turns."""
_ROLE = re.compile(r"\s*(?:assistant|model|ai)\s*(?:\n|:|\Z)", re.IGNORECASE)
_FENCE = re.compile(r"^[ \t]*```.*$", re.MULTILINE)
_TYPE = re.compile(r"</?(?:b|i|u|em|strong|code|mark|span)>", re.IGNORECASE)
_TAG = re.compile(r"</?[A-Za-z][\w-]{0,30}>|<br ?/>", re.IGNORECASE)
_ITEM = re.compile(
    r"(?:\*\*)?(?:\(?\d{1,3}\\?[.):]|\(?[A-Za-z]\)|[ivx]{1,4}[.)]|\d\ufe0f?\u20e3|[-*•–—+>▪●①-⑳])(?:\*\*)?\s+"
)
_SECOND_TURN = re.compile(
    r"\W{0,4}(?:user|human|system|assistant|question|q|input|original|narration|description|sentence|"
    r"explanations?|notes?|reasoning|changes|comments?|analysis)\s*\d{0,3}\W{0,3}:|"
    r"#{2,6}\s*(?:instruction|response|task)",
    re.IGNORECASE,
)
"""A line that begins somebody else's turn, or what is no answer any more."""
_EMOJI = re.compile("[\U0001f000-\U0001faff\u2600-\u27bf\ufe0f\u20e3]+")
_QUOTED = re.compile(
    r"(?:\*\*|__|[\"“‘'`])(.{2,400}?)(?:\*\*|__|[\"”’'`])(?=\s*(?:$|[-–—:(→.,]))(.*)$", re.DOTALL
)
_LABEL = re.compile(r"\W{0,3}((?:[\w#'-]+ ){0,3}[\w#'-]+)\W{0,3}:\W{0,3}\s(?=\S)")
_NUMBERED = re.compile(r"^[A-Za-z]* ?#?\d{1,3} ?[-–—.)] ")
_REMARK = re.compile(r"(?<=[^\s(])\s*\([^()]{0,200}\)|\s+(?:--?|[–—#]|//)\s.*$")
"""What stands behind a sentence: in brackets, or after a dash or a comment's mark."""
_ASIDE = re.compile(
    r"original|input|source|expla|reason|note|comment|think|thought|analys|change|narration|description|score|style"
    r"|confidence|language|type|tone|^form$|^id$|user|question|synonym|error|warning|steps?$|plan",
    re.IGNORECASE,
)
"""Keys and labels of what is no new sentence, unless they are among `_ASKED`: `rephrased_narration`."""
_ASKED = re.compile(r"re-?writ|rephras|paraphras|reword|\bnew|alternative|version|variant", re.IGNORECASE)
_OPEN = re.compile(r"[\[{]")
_STRING = {
    '"': re.compile(r'"((?:[^"\\]|\\.|"(?!\s*(?:[,:\]}"]|\Z)))*)("?)', re.DOTALL),
    "'": re.compile(r"'((?:[^'\\]|\\.|'(?!\s*(?:[,:\]}]|\Z)|\s+'))*)('?)", re.DOTALL),
    "“": re.compile(r"“([^”]*)(”?)"),
}
"""A quote ends a string only where the list goes on behind it: models forget to escape those inside.
Repeats are not possessive, as Python before 3.11.5 gets those wrong."""
_BARE = re.compile(r"""[^\[\]{},:"“'\s][^\[\]{},:"“\n]{0,100}""")


def answer_of(reply: str) -> str | None:
    """The reply without the model's reasoning, other turns and code fences; None if it only reasoned."""
    finals = list(_FINAL.finditer(reply))
    ends = list(_THOUGHT_END.finditer(reply))
    if finals or ends:
        reply = reply[max(match.end() for match in (*finals[-1:], *ends[-1:])) :]
    start = _THOUGHT_START.search(reply)
    if start is not None or re.match(r"analysis(?=[A-Z])", reply):
        reply = reply[: start.start()] if start else ""
        if not _TURN.sub("", reply).strip():
            return None
    for turn in _TURN.split(reply):
        role = _ROLE.match(turn)
        text = turn[role.end() :] if role else turn
        if text.strip():
            return _unfenced(text).strip()
    return ""


def _unfenced(text: str) -> str:
    """The text inside code fences if there are any; the whole text if a fence is not closed."""
    parts = _FENCE.split(text)
    inside = "\n".join(parts[1::2])
    return inside if inside.strip() and len(parts) % 2 else "\n".join(parts)


@dataclass
class JsonStrings:
    """The strings in a text's brackets."""

    found: list[tuple[Way, str]] = field(default_factory=list)
    """Each with the way to it."""
    sizes: dict[Way, int] = field(default_factory=dict)
    """Values in each bracket that is closed; the empty path has the number of brackets in the text."""
    runs: list[int] = field(default_factory=list)
    """For each bracket in the text, the run it is part of: words between two brackets begin another run."""


@dataclass
class _Bracket:
    place: int = 0
    key: str | None = None
    keys: set[str] = field(default_factory=set)
    is_object: bool = False

    def step(self) -> str | int:
        if not self.is_object:
            return self.place
        return "" if self.key is None else self.key


def json_strings(text: str) -> JsonStrings:
    """Read JSON, even if it is cut off, has missing commas or unescaped quotes, or text around it.

    A string without its end is left out. If an object has a key twice, the second value has the key "".
    """
    read = JsonStrings()
    stack = [_Bracket()]
    at = 0
    while at < len(text):
        if len(stack) == 1:
            opening = _OPEN.search(text, at)
            if opening is None:
                break
            words = text[at : opening.start()].strip(" \t\r\n,;")
            read.runs.append(read.runs[-1] + bool(words) if read.runs else 0)
            at = opening.start()
        character = text[at]
        if character in "[{":
            if len(stack) > DEEPEST:
                return JsonStrings()
            stack.append(_Bracket(is_object=character == "{"))
            at += 1
        elif character in "]}":
            closed = stack.pop()
            read.sizes[tuple(bracket.step() for bracket in stack)] = closed.place
            stack[-1].place += 1
            stack[-1].key = None
            at += 1
        elif character in _STRING or not (character.isspace() or character in ",:"):
            at = _value(text, at, stack, read)
        else:
            at += 1
    read.sizes[()] = stack[0].place + (len(stack) > 1)
    return read


def _value(text: str, at: int, stack: list[_Bracket], read: JsonStrings) -> int:
    """Read a string, number or bare word as key or value of the innermost bracket; returns where it ends."""
    quoted = _STRING.get(text[at])
    match = (quoted or _BARE).match(text, at)
    assert match is not None
    bracket, end = stack[-1], match.end()
    if bracket.is_object and _is_key(text, end):
        key = _unescaped(match[1]) if quoted else match[0].strip()
        bracket.key = "" if key in bracket.keys else key
        bracket.keys.add(key)
        return end
    if quoted and match[2]:
        read.found.append((tuple(step.step() for step in stack), _unescaped(match[1])))
    elif quoted:
        return len(text)
    bracket.place += 1
    return end


def _is_key(text: str, end: int) -> bool:
    while end < len(text) and text[end].isspace():
        end += 1
    return text[end : end + 1] == ":"


def _unescaped(quoted: str) -> str:
    if "\\" not in quoted:
        return quoted
    try:
        return str(json.loads(f'"{quoted}"', strict=False))
    except ValueError:
        return re.sub(r"\\(.)", r"\1", quoted)


def listed_lines(text: str, *, cut: bool) -> list[str]:
    """Candidates of a reply in lines: the items of a list, the cells of a table, or else every line.

    Lines that announce something are left out. With
    `cut`, the last line is left out. What follows a line that begins another turn or an explanation is
    left out too.
    """
    lines = [line.strip() for line in re.split(r"[\r\n]", _TAG.sub("\n", _TYPE.sub("", text)))]
    if cut and lines and not lines[-1].endswith((".", "!")):
        lines.pop()
    lines = list(_first_turn(lines))
    items = [_ITEM.sub("", line, count=1) for line in lines if _ITEM.match(line)]
    cells = [cell for line in lines if line.count("|") > 1 for cell in line.split("|") if cell.strip()]
    if items or cells:
        return items or cells
    return [line for line in lines if line and not line.endswith(":")]


def _first_turn(lines: list[str]) -> Iterator[str]:
    begun = False
    for line in lines:
        if _SECOND_TURN.match(line):
            if begun:
                return
            if not _ROLE.match(line):
                continue
        begun = begun or (bool(line) and not line.endswith(":"))
        yield line


def is_aside(key: str) -> bool:
    """Whether a key or label announces something other than a sentence: the original, an explanation."""
    return _ASIDE.search(key) is not None and _ASKED.search(key) is None


def unwrapped(text: str) -> str:
    """A candidate without its number, bullet, label, bold type, quotes, and trailing remarks.

    Empty if the label announces something other than a sentence.
    """
    text = _EMOJI.sub(" ", _TAG.sub(" ", _TYPE.sub("", text))).strip()
    for _ in range(3):
        text = _NUMBERED.sub("", _ITEM.sub("", text, count=1) if _ITEM.match(text) else text, count=1)
        quoted, label = _QUOTED.match(text), _LABEL.match(text)
        if quoted and not quoted[1].rstrip().endswith(":"):
            text = quoted[1].strip()
        elif label:
            if is_aside(label[1]):
                return ""
            text = text[label.end() :]
    return _REMARK.sub("", text)
