"""Where the members of an object and the elements of an array lie in a JSON text.

So that one value can be cut out or replaced while every other byte stays as it was sent: numbers
keep their digits, strings their escapes. The text must already be known to be JSON (RFC 8259);
nothing is checked here. A value may also be one of the marks of a template.
"""

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

import orjson

_STRING: Final = r'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_NEXT_NAME: Final = re.compile(rf"[{{,\s]*+({_STRING})\s*+:\s*+")
_NEXT_ELEMENT: Final = re.compile(r"[,\s]*+(?=[^\],\s])")
_SCALAR: Final = re.compile(rf"{_STRING}|[^\s,\]}}]++")
_STRING_OR_BRACKET: Final = re.compile(rf"{_STRING}|[{{}}\[\]]")


class Member(NamedTuple):
    """One member of an object: its name, and its value as `text[start:end]`."""

    name: str
    start: int
    end: int


def members(text: str, at: int = 0) -> Iterator[Member]:
    """Yield the members of the object that begins at or, past white space, after `at`.

    In the order of the text, repeated names included, and no further than asked: a name near
    the beginning is found without reading the rest.
    """
    at = text.index("{", at)
    while (found := _NEXT_NAME.match(text, at)) is not None:
        name = found[1]
        start = found.end()
        at = _value_end(text, start)
        yield Member(orjson.loads(name) if "\\" in name else name[1:-1], start, at)


def elements(text: str, at: int = 0) -> Iterator[tuple[int, int]]:
    """Yield start and end of each element of the array that begins at or after `at`."""
    at = text.index("[", at) + 1
    while (found := _NEXT_ELEMENT.match(text, at)) is not None:
        start = found.end()
        at = _value_end(text, start)
        yield start, at


def _value_end(text: str, start: int) -> int:
    if text[start] not in "{[":
        scalar = _SCALAR.match(text, start)
        assert scalar is not None  # a value is there, because the text is JSON
        return scalar.end()
    depth = 0
    at = start
    while True:
        token = _STRING_OR_BRACKET.search(text, at)
        assert token is not None  # brackets match, because the text is JSON
        at = token.end()
        character = token[0]
        if character in "{[":
            depth += 1
        elif character in "}]":
            depth -= 1
            if depth == 0:
                return at
