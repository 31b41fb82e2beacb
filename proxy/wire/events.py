"""Server-sent events, read as the WHATWG HTML standard says (§9.2.5 and §9.2.6).

Only what an answer can mean is kept: each event's name and its text. `id:` and `retry:` serve
reconnecting, which no LLM client does, and comments keep connections alive.
"""

from collections.abc import Iterator
from typing import NamedTuple


class EventsError(ValueError):
    """The bytes are not UTF-8, and so no event stream."""


class Event(NamedTuple):
    """One dispatched event.

    Attributes:
        name: What the `event:` line said; "" without one.
        data: The `data:` lines, joined by line feeds. Never empty.
    """

    name: str
    data: str


def parse_events(raw: bytes) -> list[Event]:
    """Return the events of a whole stream, in order.

    An event whose closing blank line is missing is not among them: it was cut off (§9.2.6).

    Raises:
        EventsError: `raw` is not UTF-8.
    """
    return [Event(name, data) for name, data in iterate_events(raw)]


def iterate_events(raw: bytes) -> Iterator[tuple[str, str]]:
    """Yield name and data of each event: `parse_events` for those who are in a hurry.

    Raises:
        EventsError: `raw` is not UTF-8. Before the first event.
    """
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise EventsError(f"not UTF-8 at byte {error.start}") from error
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    # A blank line is an empty line after a line end. What follows the last one was never closed.
    closed, _, _ = text.rpartition("\n\n")
    # Nearly all events are one `data:` line. Cut before those, all at once; what lies between
    # two cuts and has further lines is read line by line.
    first, *others = f"\n\n{closed}".split("\n\ndata: ")
    yield from _read_lines(first)
    for piece in others:
        if piece and "\n" not in piece:
            yield "", piece
        else:
            yield from _read_lines("data: " + piece)


def _read_lines(text: str) -> Iterator[tuple[str, str]]:
    for block in text.split("\n\n"):
        name = ""
        data_lines = []
        for line in block.split("\n"):
            field, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if field == "data":
                data_lines.append(value)
            elif field == "event":
                name = value
        data = "\n".join(data_lines)
        if data:
            yield name, data
