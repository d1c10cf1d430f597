"""Reads pickled lists of plain values without running anything that a pickle may hold.

Only tuples, lists, text and numbers are admitted. Any other opcode is refused by name before the first row is
returned: those that import, call or build (GLOBAL, REDUCE, BUILD), and those for other types. The file is
mapped and read twice: the first pass checks every opcode and finds which values are referred to again; the
second returns the rows and remembers only those values, so that memory does not grow with the file.

Opcodes: Python's `pickletools`; protocols 2 to 5.
"""

from __future__ import annotations

import mmap
import pickle
import pickletools
import struct
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from avion_core.data.source_videos import SourceError

PROTOCOLS = range(2, 6)
RELEASE_BYTES = 2**26
"""Pages that were read are released after this many bytes."""
BATCH_ROWS = 1000
"""Rows that pickle adds to a list at once."""

MARK, STOP, FRAME = ord("("), ord("."), 0x95
LIST, APPEND, APPENDS = ord("]"), ord("a"), ord("e")
TUPLE, TUPLE_0, TUPLES = ord("t"), ord(")"), (0x85, 0x86, 0x87)
MEMOIZE, PUT, LONG_PUT, GET, LONG_GET = 0x94, ord("q"), ord("r"), ord("h"), ord("j")
TEXT_1, TEXT_4, TEXT_8 = 0x8C, ord("X"), 0x8D
FLOAT, INT_4, INT_1, INT_2, LONG_1 = ord("G"), ord("J"), ord("K"), ord("M"), 0x8A
PUTS, GETS, ADDS = (
    frozenset({MEMOIZE, PUT, LONG_PUT}),
    frozenset({GET, LONG_GET}),
    frozenset({APPEND, APPENDS}),
)

SIZES = [0] * 256
"""Bytes of an opcode with its argument, where that is fixed."""
for _code in (MARK, LIST, APPEND, APPENDS, TUPLE, TUPLE_0, *TUPLES, MEMOIZE):
    SIZES[_code] = 1
SIZES[FRAME] = SIZES[FLOAT] = 9
SIZES[PUT] = SIZES[INT_1] = 2
SIZES[LONG_PUT] = SIZES[INT_4] = 5
SIZES[INT_2] = 3

_FLOAT = struct.Struct(">d")


def read_list(path: Path) -> Iterator[list[Any]]:
    """The items of a pickled list, in batches.

    Raises SourceError, before the first batch, for a file that is no pickle of these protocols, that is cut
    short, or that holds anything but tuples, lists, text and numbers.
    """
    try:
        with path.open("rb") as file:
            pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError:
        raise SourceError(f"{path}: no such file; correct the path") from None
    except (OSError, ValueError) as error:
        raise SourceError(f"{path}: cannot be read ({error})") from None
    with pages:
        if len(pages) < 2 or pages[0] != 0x80 or pages[1] not in PROTOCOLS:
            raise SourceError(
                f"{path}: not a pickle of protocol {PROTOCOLS[0]} to {PROTOCOLS[-1]}; fetch the file again"
            )
        try:
            yield from _batches(pages, _referred(path, pages), path)
        except (IndexError, KeyError, AttributeError, struct.error, UnicodeDecodeError) as error:
            raise SourceError(f"{path}: a damaged pickle ({error}); fetch the file again") from None


def _referred(path: Path, data: mmap.mmap) -> set[int]:
    """Numbers of the remembered values that are referred to again. Checks every opcode."""
    referred: set[int] = set()
    sizes, end, position, released = SIZES, len(data), 2, 0
    try:
        while (code := data[position]) != STOP:
            if size := sizes[code]:
                position += size
                continue
            if code == TEXT_1:
                position += 2 + data[position + 1]
            elif code == GET:
                referred.add(data[position + 1])
                position += 2
            elif code == LONG_GET:
                referred.add(int.from_bytes(data[position + 1 : position + 5], "little"))
                position += 5
            elif code in (TEXT_4, TEXT_8):
                width = 4 if code == TEXT_4 else 8
                position += 1 + width + int.from_bytes(data[position + 1 : position + 1 + width], "little")
            elif code == LONG_1:
                position += 2 + data[position + 1]
            else:
                raise SourceError(_refusal(path, code, position))
            if position - released > RELEASE_BYTES:
                released = position
                data.madvise(mmap.MADV_DONTNEED)
    except (IndexError, OverflowError):
        raise SourceError(f"{path}: cut short after {end:,} bytes; fetch the file again") from None
    return referred


def _refusal(path: Path, code: int, position: int) -> str:
    names = {ord(known.code): known.name for known in pickletools.opcodes}
    name = f"the opcode {names[code]}" if code in names else f"the byte {code:#04x}"
    return (
        f"{path}: byte {position}: {name} is refused: only lists, tuples, text and numbers are read, and "
        "nothing in a pickle is run; use the published file, or pickle plain values"
    )


def _batches(data: mmap.mmap, referred: set[int], path: Path) -> Iterator[list[Any]]:
    """Items of the outermost list as they are added to it."""
    outermost: list[Any] = []
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}
    count, position, released, push = 0, 2, 0, stack.append
    while (code := data[position]) != STOP:
        at, position = position + 1, position + SIZES[code]
        if code in PUTS:
            number = count if code == MEMOIZE else int.from_bytes(data[at:position], "little")
            if number in referred:
                memo[number] = stack[-1]
            count += 1
        elif code == TEXT_1:
            position = at + 1 + data[at]
            push(data[at + 1 : position].decode())
        elif code == FLOAT:
            push(_FLOAT.unpack_from(data, at)[0])
        elif code == MARK:
            marks.append(len(stack))
        elif code in GETS:
            position = at + (1 if code == GET else 4)
            push(_inner(memo[int.from_bytes(data[at:position], "little")], outermost))
        elif code == TUPLE:
            start = marks.pop()
            stack[start:] = [tuple(stack[start:])]
        elif code == LIST:
            push([] if stack else outermost)
        elif code in ADDS:
            start = marks.pop() if code == APPENDS else len(stack) - 1
            items = stack[start:]
            del stack[start:]
            if stack[-1] is outermost:
                yield items
            else:
                stack[-1].extend(items)
            if position - released > RELEASE_BYTES:
                released = position
                data.madvise(mmap.MADV_DONTNEED)
        elif code != FRAME:
            position = _push_rare(data, code, at, stack)
    if len(stack) != 1 or stack[0] is not outermost:
        raise SourceError(f"{path}: not a list of rows; use the published file")


def _inner(value: Any, outermost: list[Any]) -> Any:
    if value is outermost:
        raise KeyError("a list in itself")
    return value


def _push_rare(data: mmap.mmap, code: int, at: int, stack: list[Any]) -> int:
    """Handle the less frequent opcodes; the position after this one."""
    if code == TUPLE_0:
        stack.append(())
        return at
    if code in TUPLES:
        start = len(stack) - (TUPLES.index(code) + 1)
        stack[start:] = [tuple(stack[start:])]
        return at
    if code in (TEXT_4, TEXT_8):
        start = at + (4 if code == TEXT_4 else 8)
        end = start + int.from_bytes(data[at:start], "little")
        stack.append(data[start:end].decode())
    elif code == LONG_1:
        start, end = at + 1, at + 1 + data[at]
        stack.append(int.from_bytes(data[start:end], "little", signed=True))
    else:
        end = at + {INT_1: 1, INT_2: 2, INT_4: 4}[code]
        stack.append(int.from_bytes(data[at:end], "little", signed=code == INT_4))
    return end


def write_list(stream: BinaryIO, batches: Iterable[Sequence[Any]]) -> None:
    """Write a pickled list, batch by batch, that `pickle.load` and `read_list` read."""
    stream.write(b"\x80\x02]")
    for batch in batches:
        for first in range(0, len(batch), BATCH_ROWS):
            stream.write(_items(list(batch[first : first + BATCH_ROWS])))
    stream.write(b".")


def _items(rows: list[Any]) -> bytes:
    """The opcodes that add the rows to a list: a pickle of theirs, without its head and its end."""
    buffer = _Buffer()
    pickler = pickle.Pickler(buffer, protocol=2)
    pickler.fast = True  # no numbered values, so that pickles can be joined
    pickler.dump(rows)
    return bytes(buffer[3:-1])


class _Buffer(bytearray):
    """Bytes that a pickler can write to."""

    def write(self, data: bytes) -> int:
        self += data
        return len(data)
