"""The messages between a worker and an embedding process."""

import math
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embeddings.address import Address
from embeddings.wire import (
    MOST_BODY_BYTES,
    MOST_KEYS,
    MOST_MATCHES,
    MOST_TEXT_BYTES,
    Found,
    LookUp,
    Neighbour,
    WireError,
    keys_from_bytes,
    keys_to_bytes,
)

_KEY = bytes(range(32))
_FINGERPRINT = "0123456789abcdef" * 2
_VECTOR = b"\0\0\x80?" * 4

_keys = st.binary(min_size=32, max_size=32)
_texts = st.text(st.characters(codec="utf-8"), max_size=200)
_neighbours = st.builds(Neighbour, _keys, st.floats(-1, 1))


@given(st.builds(LookUp, _keys, _texts, st.integers(1, MOST_MATCHES)))
def test_a_look_up_arrives_as_it_was_sent(look_up: LookUp) -> None:
    """Whatever the text: the process encodes what the worker was asked, and nothing else."""
    assert LookUp.from_bytes(look_up.to_bytes()) == look_up


@given(
    st.lists(_neighbours, max_size=MOST_MATCHES),
    st.binary(min_size=1, max_size=64),
)
def test_an_answer_arrives_as_it_was_sent(matches: list[Neighbour], quarter: bytes) -> None:
    """The vector is raw bytes and may hold line ends: only the first ends the JSON."""
    found = Found(tuple(matches), _FINGERPRINT, None, quarter * 4)

    assert Found.from_bytes(found.to_bytes()) == found


def test_a_refusal_arrives_as_it_was_sent() -> None:
    """A refused text has neither matches nor a vector."""
    found = Found((), _FINGERPRINT, "unknown-tokens", b"")

    assert Found.from_bytes(found.to_bytes()) == found


@given(st.lists(_keys, max_size=50))
def test_keys_arrive_as_they_were_sent(keys: list[bytes]) -> None:
    """Order and repetitions are kept: the receiver decides."""
    assert keys_from_bytes(keys_to_bytes(keys)) == keys


@given(st.binary(max_size=400))
def test_what_is_no_message_is_a_wire_error(body: bytes) -> None:
    """Any bytes at all, and no other exception."""
    for read in (LookUp.from_bytes, Found.from_bytes, keys_from_bytes):
        with pytest.raises(WireError):
            read(body)


_LOOK_UP: dict[str, Any] = {"partition": _KEY.hex(), "text": "hello", "k": 3}


@pytest.mark.parametrize(
    "change",
    [
        {"partition": _KEY.hex()[:-2]},
        {"partition": _KEY.hex() + "00"},
        {"partition": _KEY.hex()[:-1] + "g"},
        {"partition": _KEY.hex()[:-3] + "  0"},
        {"partition": "é" * 64},
        {"partition": 7},
        {"partition": None},
        {"text": None},
        {"text": ["hello"]},
        {"text": "x" * (MOST_TEXT_BYTES + 1)},
        {"text": "é" * (MOST_TEXT_BYTES // 2 + 1)},
        {"k": 0},
        {"k": -1},
        {"k": MOST_MATCHES + 1},
        {"k": True},
        {"k": 1.0},
        {"k": "1"},
        {"k": None},
        {"tenant": "someone"},
    ],
    ids=lambda change: "-".join(f"{name}={str(value)[:20]}" for name, value in change.items()),
)
def test_a_look_up_out_of_range_is_a_wire_error(change: dict[str, Any]) -> None:
    """Each field has its type and its bounds, and there are no others."""
    with pytest.raises(WireError):
        LookUp.from_bytes(orjson.dumps(_LOOK_UP | change))


@pytest.mark.parametrize("name", list(_LOOK_UP))
def test_a_look_up_without_a_field_is_a_wire_error(name: str) -> None:
    """Nothing has a default."""
    rest = {field: value for field, value in _LOOK_UP.items() if field != name}

    with pytest.raises(WireError):
        LookUp.from_bytes(orjson.dumps(rest))


@pytest.mark.parametrize(
    "look_up",
    [
        LookUp(_KEY[:-1], "hello", 1),
        LookUp(_KEY, "hello", 0),
        LookUp(_KEY, "hello", MOST_MATCHES + 1),
        LookUp(_KEY, "x" * (MOST_TEXT_BYTES + 1), 1),
        LookUp(_KEY, "\ud800", 1),
        LookUp(_KEY, "\ud800" * MOST_TEXT_BYTES, 1),
    ],
    ids=["partition", "k=0", "k=65", "long", "surrogate", "long-surrogates"],
)
def test_a_look_up_out_of_range_is_not_sent(look_up: LookUp) -> None:
    """The sender knows the bounds too, so that the breaker does not count its own mistake."""
    with pytest.raises(WireError):
        look_up.to_bytes()


def test_the_longest_text_is_not_too_long() -> None:
    """The bound is inclusive, and counts bytes."""
    for text in ("x" * MOST_TEXT_BYTES, "é" * (MOST_TEXT_BYTES // 2)):
        look_up = LookUp(_KEY, text, 1)
        assert LookUp.from_bytes(look_up.to_bytes()) == look_up


_MATCH: dict[str, Any] = {"key": _KEY.hex(), "score": 0.5}
_FOUND: dict[str, Any] = {"matches": [_MATCH], "fingerprint": _FINGERPRINT, "refused": None}


@pytest.mark.parametrize(
    ("change", "vector"),
    [
        ({}, b""),
        ({}, _VECTOR[:-1]),
        ({}, bytes(64 * 1024 + 4)),
        ({"fingerprint": _FINGERPRINT.upper()}, _VECTOR),
        ({"fingerprint": _FINGERPRINT + "\n"}, _VECTOR),
        ({"fingerprint": None}, _VECTOR),
        ({"matches": None}, _VECTOR),
        ({"matches": [_MATCH] * (MOST_MATCHES + 1)}, _VECTOR),
        ({"matches": [_KEY.hex()]}, _VECTOR),
        ({"matches": [_MATCH | {"score": 1.1}]}, _VECTOR),
        ({"matches": [_MATCH | {"score": -1.1}]}, _VECTOR),
        ({"matches": [_MATCH | {"score": None}]}, _VECTOR),
        ({"matches": [_MATCH | {"score": math.nan}]}, _VECTOR),
        ({"matches": [_MATCH | {"score": 1}]}, _VECTOR),
        ({"matches": [_MATCH | {"key": "00"}]}, _VECTOR),
        ({"matches": [_MATCH | {"key": 0}]}, _VECTOR),
        ({"matches": [_MATCH | {"text": "x"}]}, _VECTOR),
        ({"refused": "script"}, _VECTOR),
        ({"refused": "script"}, b""),
        ({"refused": "Script", "matches": []}, b""),
        ({"refused": "", "matches": []}, b""),
        ({"refused": True, "matches": []}, b""),
        ({"more": 1}, _VECTOR),
    ],
)
def test_an_answer_out_of_range_is_a_wire_error(change: dict[str, Any], vector: bytes) -> None:
    """A worker takes no key, score or vector that it could not have been given."""
    with pytest.raises(WireError):
        Found.from_bytes(orjson.dumps(_FOUND | change) + b"\n" + vector)


@pytest.mark.parametrize("body", [b"", b"\n", b"{}\n", b"null\n" + _VECTOR, orjson.dumps(_FOUND)])
def test_what_is_no_answer_is_a_wire_error(body: bytes) -> None:
    """A line of JSON, its end, and the vector: nothing less."""
    with pytest.raises(WireError):
        Found.from_bytes(body)


@pytest.mark.parametrize(
    "message",
    [
        {"keys": None},
        {"keys": [_KEY.hex()], "more": 1},
        {"keys": [_KEY.hex(), None]},
        {"keys": [_KEY.hex()[2:]]},
        {"keys": [_KEY.hex()] * (MOST_KEYS + 1)},
        [_KEY.hex()],
    ],
)
def test_what_is_no_list_of_keys_is_a_wire_error(message: Any) -> None:
    """Each a key of 32 bytes, and no more of them than the bound."""
    with pytest.raises(WireError):
        keys_from_bytes(orjson.dumps(message))


@pytest.mark.parametrize("body", [b" " * (MOST_BODY_BYTES + 1), b"[" * 100_000, b"\xff", b"{"])
def test_hostile_json_is_a_wire_error(body: bytes) -> None:
    """Too long, too deep, no UTF-8, cut off."""
    with pytest.raises(WireError):
        LookUp.from_bytes(body)


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("unix:///run/e.sock", Address(socket_path="/run/e.sock")),
        ("http://localhost:8200", Address(host="localhost", port=8200)),
        ("http://[::1]:8200", Address(host="::1", port=8200)),
    ],
)
def test_an_address_is_read_and_written(url: str, address: Address) -> None:
    """One form for the process that listens and the workers that connect."""
    assert Address.parse(url) == address
    assert str(address) == url


@pytest.mark.parametrize(
    "url",
    [
        "",
        "/run/e.sock",
        "unix://run/e.sock",
        "unix:///" + "x" * 107,
        "unix:///e.sock?x",
        "http://localhost",
        "http://:8200",
        "http://localhost:8200/path",
        "http://me:secret@localhost:8200",
        "http://localhost:99999",
        "https://localhost:8200",
    ],
)
def test_what_is_no_address_is_refused(url: str) -> None:
    """A mistake in the settings is told at the start, not at the first look-up."""
    with pytest.raises(ValueError, match=r".+"):
        Address.parse(url)
