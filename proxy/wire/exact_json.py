"""JSON in and out of Python without touching a number.

orjson and the standard library turn numbers into doubles and print those anew: `1e-05` becomes
`0.00001`, integers past 64 bits lose digits. What an upstream sent must come out as it was sent,
so every number that Python would print differently is carried as its text.
"""

import json
from collections.abc import Callable
from typing import Any

import orjson


class TooDeep(ValueError):
    """The value is nested more deeply than it can be read or written here."""


def loads(text: str | bytes) -> Any:
    """Read a JSON text; fractions, exponents and long integers become opaque fragments.

    Raises:
        TooDeep: At some hundreds of levels.
    """
    try:
        return json.loads(text, parse_float=orjson.Fragment, parse_int=_integer)
    except RecursionError as error:
        raise TooDeep("cannot be read") from error


def dumps(value: object, default: Callable[[Any], Any] | None = None) -> bytes:
    """Write what `loads` read. `default` turns values of other types into JSON values.

    Raises:
        TooDeep: At some hundreds of levels.
    """
    try:
        return orjson.dumps(value, default=default)
    except orjson.JSONEncodeError as error:
        raise TooDeep(str(error)) from error


def _integer(digits: str) -> int | orjson.Fragment:
    # What surely fits into 64 bits is handy as a number.
    return int(digits) if len(digits) <= 18 else orjson.Fragment(digits)
