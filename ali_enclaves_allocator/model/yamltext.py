"""YAML text to plain values that remember where they stood.

Only what a settings file needs is taken: one mapping of words to words. PyYAML finds the words; what they mean
is decided here, because YAML 1.1 reads 012 as ten, 1:30 as ninety and `on` as true. Plain decimal digits are a
whole number, every other word is a string, and whatever is no word is `UNUSABLE`.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeGuard

import yaml

from ali_enclaves_allocator.model.source import ConfigProblem, Entry, Position, Source, shortened

MAX_BYTES = 64 * 1024
"""A larger file is refused: it is not a settings file."""

MAX_DEPTH = 8
"""Reading ends at a value nested deeper than this; PyYAML takes quadratic time for such text."""

UNUSABLE: Final = object()
"""The value of a key that was given no single word: nested, tagged, anchored, an alias, or control characters."""

_STRAY = re.compile(r"[^\t\n\r -~\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]|\r(?!\n)")
"""A character that no text file holds: control characters, line ends other than LF and CRLF, bad bytes."""

_DECIMAL = "-?(0|[1-9][0-9]{0,17})"

_LOOKS = {
    "|~|null": "nothing",
    "true|false": "the boolean {}",
    "yes|no|on|off|y|n": "{}, a boolean of YAML 1.1 alone",
    "-?[1-9][0-9]{18,}": "{}, a number of more than 18 digits",
    "[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+": "{}, a base-60 number in YAML",
    "[-+]?0x[0-9a-f_]+": "{}, a hexadecimal number",
    "[-+]?0b[01_]+": "{}, a binary number",
    "[-+]?0o?[0-9_]+": "{}, which a leading zero makes octal in YAML",
    "[-+]?[0-9]+_[0-9_]*": "{}, a number with underscores",
    r"\+[0-9]+": "{}, a number with a plus sign",
    r"[-+]?[0-9][0-9_]*(\.[0-9_]*)?(e[-+]?[0-9]+)?": "{}, a floating point number",
    r"[-+]?\.([0-9_]+|inf|nan)": "{}, a floating point number",
}
"""How a plain word that is no decimal number looks, and what a message calls it."""

_LINES = 'wanted lines of "key: value"'

_SYNTAX = (
    (r"found character '\t'", "a tab cannot stand here; use spaces"),
    ("mapping values are not allowed", f'a second ":", or none in the line before; {_LINES}, indented alike'),
    ("expected <block end>", f"unexpected text; {_LINES}, indented alike"),
    ("expected '<document start>'", f"unexpected text; {_LINES}, indented alike"),
)
"""What PyYAML says, and what we say instead at the same place."""

_UNFINISHED = (
    ("could not find expected ':'", 'there is no ": " after this; wanted "key: value"'),
    ("unexpected end of stream", "this quote is never closed"),
    ("<stream end>", "this bracket is never closed"),
)
"""The same, told where the unfinished thing began."""


@dataclass
class _Unreadable(Exception):
    """Reading ended here: what follows cannot be understood. Without a place it is about the whole file."""

    at: Position | None
    message: str


def read(data: bytes, path: str) -> tuple[Source, list[ConfigProblem]]:
    """Return the entries of the file, and what is wrong with it as YAML. No bytes make this raise."""
    text = data.decode("utf-8-sig", "surrogateescape")
    source = Source(path, [line.removesuffix("\r") for line in text.split("\n")])
    problems = []
    try:
        if len(data) > MAX_BYTES:
            raise _Unreadable(None, f"the file is too large; wanted at most {MAX_BYTES // 1024} KiB")
        for entry in _entries(text):
            first = source.entries.setdefault(entry.key, entry)
            if first is not entry:
                message = f"given again, first in line {first.key_at.line}; keep one"
                problems.append(source.problem_at(entry.key_at, entry.key, message))
        source.complete = True
    except _Unreadable as end:
        problems.append(source.problem_at(end.at, "", end.message))
    return source, problems


def _entries(text: str) -> Iterator[Entry]:
    """Yield each key with its value, in the order of the file, to its end or until `_Unreadable`."""
    if stray := _STRAY.search(text):
        raise _Unreadable(_position_of(text, stray.start()), _name_stray(stray[0]))
    loader = yaml.SafeLoader(text)
    try:
        yield from _document(_events(loader))
    except yaml.MarkedYAMLError as error:
        raise _in_our_voice(error) from error
    except (ValueError, OverflowError) as error:
        message = "not valid YAML: a number is out of range"
        raise _Unreadable(_position(loader.get_mark()), message) from error


def _events(loader: yaml.SafeLoader) -> Iterator[yaml.Event]:
    """Yield each event when the next one is known: a word that runs into a syntax error is no value."""
    while loader.check_event():
        event = loader.get_event()  # type: ignore[no-untyped-call]
        loader.check_event()
        yield event


def _document(events: Iterator[yaml.Event]) -> Iterator[Entry]:
    """Yield the entries of the one document, which is one mapping."""
    next(events)  # the start of the stream
    if isinstance(next(events), yaml.StreamEndEvent):
        raise _Unreadable(None, f"the file is empty; {_LINES}")
    top = next(events)
    if not isinstance(top, yaml.MappingStartEvent) or top.anchor or top.tag:
        raise _Unreadable(_start(top), f"{_LINES}, got {_got(top)}")
    nodes = _nodes(events)
    yield from map(_entry, nodes, nodes)  # keys and values take turns
    next(events)  # the end of the document
    if isinstance(second := next(events), yaml.DocumentStartEvent):
        raise _Unreadable(_start(second), "a second document starts here; wanted one")


def _nodes(events: Iterator[yaml.Event]) -> Iterator[yaml.Event]:
    """Yield the keys and values of the mapping in turn, without what is nested in them."""
    depth = 1
    for event in events:
        if depth == 1 and isinstance(event, yaml.NodeEvent):
            yield event
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise _Unreadable(_start(event), f"nested more than {MAX_DEPTH} deep")
        if depth == 0:
            return


def _entry(key: yaml.Event, value: yaml.Event) -> Entry:
    if not _is_word(key):
        raise _Unreadable(_start(key), f"a key must be one word, got {_got(key)}")
    return Entry(key.value, _start(key), _meaning(value), _start(value), _got(value))


def _is_word(event: yaml.Event) -> TypeGuard[yaml.ScalarEvent]:
    return isinstance(event, yaml.ScalarEvent) and not event.anchor and not event.tag and event.value.isprintable()


def _meaning(event: yaml.Event) -> object:
    """Return the value itself: an int for plain decimal digits, a str for any other word."""
    if not _is_word(event):
        return UNUSABLE
    return event.value if event.style or not re.fullmatch(_DECIMAL, event.value) else int(event.value)


def _got(event: yaml.Event) -> str:
    """Say in words what was written."""
    match event:
        case yaml.AliasEvent(anchor=str(name)):
            return f"the alias *{shortened(name)}"
        case yaml.NodeEvent(anchor=str(name)):
            return f"a value with the anchor &{shortened(name)}"
        case yaml.ScalarEvent(tag=str(tag)) | yaml.CollectionStartEvent(tag=str(tag)):
            return f"a value with the tag {shortened(tag.replace('tag:yaml.org,2002:', '!!'))}"
        case yaml.SequenceStartEvent():
            return "a list"
        case yaml.ScalarEvent():
            return _got_word(event)
    return "nested keys"


def _got_word(event: yaml.ScalarEvent) -> str:
    word = shortened(event.value)
    if event.style:
        return "a block of text" if event.style in "|>" else f'the quoted string "{word}"'
    if re.fullmatch(_DECIMAL, event.value):
        return word
    looks = (name for form, name in _LOOKS.items() if re.fullmatch(form, event.value, re.ASCII | re.IGNORECASE))
    return next(looks, 'the string "{}"').format(word)


def _name_stray(char: str) -> str:
    if "\udc80" <= char <= "\udcff":
        return f"byte 0x{ord(char) - 0xDC00:02x} is not UTF-8"
    return f"control character U+{ord(char):04X} is not allowed"


def _in_our_voice(error: yaml.MarkedYAMLError) -> _Unreadable:
    problem = str(error.problem)
    for needle, message in _UNFINISHED:
        if needle in problem and error.context_mark:
            return _Unreadable(_position(error.context_mark), message)
    known = (message for needle, message in _SYNTAX if needle in problem)
    return _Unreadable(_position(error.problem_mark), next(known, f"not valid YAML: {problem}"))


def _start(event: yaml.Event) -> Position:
    return _position(event.start_mark)


def _position(mark: Any) -> Position:
    """Return the place of a mark of PyYAML's, of whichever of its two types; they count from 0."""
    return Position(mark.line + 1, mark.column + 1)


def _position_of(text: str, index: int) -> Position:
    return Position(text.count("\n", 0, index) + 1, index - text.rfind("\n", 0, index))
