"""Event streams are read as the WHATWG HTML standard says."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.wire.events import Event, EventsError, parse_events


@pytest.mark.parametrize(
    ("raw", "wanted"),
    [
        (b"", []),
        (b"\n\n\n", []),
        (b"data: a\n\n", [("", "a")]),
        (b"data:a\n\n", [("", "a")]),
        (b"data:  a\n\n", [("", " a")]),
        (b"data: a\ndata: b\n\n", [("", "a\nb")]),
        (b"data:  a\ndata:   b\n\n", [("", " a\n  b")]),
        (b"data\ndata\n\n", [("", "\n")]),
        (b"data:\n\n", []),
        (b"data\n\n", []),
        (b"data: \n\ndata: b\n\n", [("", "b")]),
        (b"data: a\n\ndata: \n\ndata: b\n\n", [("", "a"), ("", "b")]),
        (b"event: x\ndata: a\n\n", [("x", "a")]),
        (b"data: a\nevent: x\n\ndata: b\n\n", [("x", "a"), ("", "b")]),
        (b"event: x\n\ndata: a\n\n", [("", "a")]),
        (b"event: x\nevent: y\ndata: a\n\n", [("y", "a")]),
        (b": comment\n\ndata: a\n\n", [("", "a")]),
        (b"data: a\n: comment\n\n", [("", "a")]),
        (b"data: a\n\n: comment\n\ndata: b\n\n", [("", "a"), ("", "b")]),
        (b"id: 1\nretry: 5\nunknown: x\nfield\ndata: a\n\n", [("", "a")]),
        (b" data: a\n\n", []),
        (b"Data: a\n\n", []),
        (b"\xef\xbb\xbfdata: a\n\n", [("", "a")]),
        (b"\xef\xbb\xbf\xef\xbb\xbfdata: a\n\n", []),
        (b"data: a\r\n\r\ndata: b\r\n\r\n", [("", "a"), ("", "b")]),
        (b"data: a\r\rdata: b\r\r", [("", "a"), ("", "b")]),
        (b"data: a\r\n\rdata: b\n\r\n", [("", "a"), ("", "b")]),
        (b"\n\ndata: a\n\n\n\ndata: b\n\n", [("", "a"), ("", "b")]),
        (b"data: a\n\n\ndata: b\n\n", [("", "a"), ("", "b")]),
        (b"data: a", []),
        (b"data: a\n", []),
        (b"data: a\n\ndata: b\n", [("", "a")]),
        ("data: a\u2028b\u0085c\n\n".encode(), [("", "a\u2028b\u0085c")]),
    ],
)
def test_events_are_those_of_the_standard(raw: bytes, wanted: list[tuple[str, str]]) -> None:
    """§9.2.6, interpreting an event stream; a last event without its blank line is dropped."""
    assert parse_events(raw) == [Event(name, data) for name, data in wanted]


@pytest.mark.parametrize(
    "raw", [b"data: \xff\n\n", b"data: \xf0\x9f\x91", b"data: \xed\xa0\x80\n\n"]
)
def test_what_is_not_utf_8_is_no_event_stream(raw: bytes) -> None:
    """§9.2.5; a decoder that puts U+FFFD there would change what was said."""
    with pytest.raises(EventsError):
        parse_events(raw)


def _by_the_book(raw: bytes) -> list[Event]:
    """The standard's own steps, line by line."""
    text = raw.decode().removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    events: list[Event] = []
    name, data = "", ""
    for line in text.split("\n")[:-1]:
        if not line:
            if data:
                events.append(Event(name, data[:-1]))
            name, data = "", ""
        elif not line.startswith(":"):
            field, _, value = line.partition(":")
            value = value[1:] if value.startswith(" ") else value
            if field == "data":
                data += value + "\n"
            elif field == "event":
                name = value
    return [event for event in events if event.data]


@given(
    st.lists(
        st.sampled_from(
            ["data: ", "data:", "data", "event: x", ":", " ", "a", "é", "\n", "\n\n", "\r\n", "\r"]
        ),
        max_size=20,
    )
)
def test_the_fast_way_finds_the_same_events_as_the_standards_steps(pieces: list[str]) -> None:
    """Cutting before `data: ` lines is a short cut and must not show."""
    raw = "".join(pieces).encode()

    assert parse_events(raw) == _by_the_book(raw)
