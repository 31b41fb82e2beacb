"""The messages of a look-up within an error budget, and of what operators ask and tell."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embeddings.guards.guard import Guard
from embeddings.verdict import Verdict
from embeddings.wire import (
    MOST_ROUTE_CHARS,
    Budgeted,
    Decided,
    Feedback,
    Found,
    LookUp,
    Neighbour,
    WireError,
)

_KEY = bytes(range(32))
_FINGERPRINT = "0123456789abcdef" * 2
_VECTOR = b"\0\0\x80?" * 4
_keys = st.binary(min_size=32, max_size=32)

_BUDGETED: dict[str, Any] = {
    "partition": _KEY.hex(),
    "text": "hello",
    "k": 3,
    "key": _KEY.hex(),
    "route": "gpt-*",
    "max_error": 0.01,
    "check_share": 0.03,
}


@given(
    st.builds(
        Budgeted,
        _keys,
        st.text(st.characters(codec="utf-8"), max_size=MOST_ROUTE_CHARS),
        st.floats(0, 1, exclude_min=True, exclude_max=True),
        st.floats(0, 1),
    )
)
def test_budget_arrives_as_it_was_sent(budgeted: Budgeted) -> None:
    """Beside all that a look-up says anyway."""
    look_up = LookUp(_KEY, "hello", 3, budgeted)

    assert LookUp.from_bytes(look_up.to_bytes()) == look_up


def test_look_up_within_a_budget_is_read() -> None:
    """So that the next tests refuse what they say they do."""
    assert LookUp.from_bytes(orjson.dumps(_BUDGETED)).budgeted == Budgeted(
        _KEY, "gpt-*", 0.01, 0.03
    )


@pytest.mark.parametrize(
    "change",
    [
        {"key": _KEY.hex()[:-2]},
        {"key": None},
        {"route": None},
        {"route": "x" * (MOST_ROUTE_CHARS + 1)},
        {"max_error": 0.0},
        {"max_error": 1.0},
        {"max_error": 1},
        {"max_error": "0.01"},
        {"max_error": None},
        {"check_share": -0.1},
        {"check_share": 1.1},
        {"check_share": None},
        {"more": 1},
    ],
    ids=lambda change: "-".join(f"{name}={str(value)[:20]}" for name, value in change.items()),
)
def test_budget_out_of_range_is_a_wire_error(change: dict[str, Any]) -> None:
    """Each field has its type and its bounds, and there are no others."""
    with pytest.raises(WireError):
        LookUp.from_bytes(orjson.dumps(_BUDGETED | change))


@pytest.mark.parametrize("name", ["key", "route", "max_error", "check_share"])
def test_budget_without_a_field_is_a_wire_error(name: str) -> None:
    """All four or none."""
    rest = {field: value for field, value in _BUDGETED.items() if field != name}

    with pytest.raises(WireError):
        LookUp.from_bytes(orjson.dumps(rest))


@given(
    st.builds(
        Decided,
        st.sampled_from(Verdict),
        st.floats(0, 1),
        st.booleans(),
        st.none() | st.sampled_from(Guard),
    ),
    st.lists(st.builds(Neighbour, _keys, st.floats(-1, 1)), max_size=4),
)
def test_decision_arrives_as_it_was_sent(decided: Decided, matches: list[Neighbour]) -> None:
    """With what may be served."""
    found = Found(tuple(matches), _FINGERPRINT, None, _VECTOR, decided)

    assert Found.from_bytes(found.to_bytes()) == found


@pytest.mark.parametrize(
    "decided",
    [
        None,
        [],
        ["serve", 0.9, False],
        ["serve", 0.9, False, None, None],
        ["perhaps", 0.9, False, None],
        ["serve", 1.1, False, None],
        ["serve", -0.1, False, None],
        ["serve", 1, False, None],
        ["serve", 0.9, 0, None],
        ["serve", 0.9, False, "mood"],
        {"verdict": "serve"},
    ],
)
def test_decision_that_is_none_is_a_wire_error(decided: object) -> None:
    """A worker serves nothing on what it does not understand."""
    said = {"matches": [], "fingerprint": _FINGERPRINT, "refused": None, "decided": decided}

    with pytest.raises(WireError):
        Found.from_bytes(orjson.dumps(said) + b"\n" + _VECTOR)


@given(st.builds(Feedback, _keys, st.none() | _keys, st.booleans()))
def test_feedback_arrives_as_it_was_sent(feedback: Feedback) -> None:
    """With and without what was served."""
    assert Feedback.from_bytes(feedback.to_bytes()) == feedback


_FEEDBACK: dict[str, Any] = {"key": _KEY.hex(), "served": None, "is_good": False}


@pytest.mark.parametrize(
    "said",
    [
        {},
        [],
        _FEEDBACK | {"key": "zz"},
        _FEEDBACK | {"key": None},
        _FEEDBACK | {"served": "zz"},
        _FEEDBACK | {"served": 5},
        _FEEDBACK | {"is_good": 1},
        _FEEDBACK | {"is_good": None},
        _FEEDBACK | {"more": 1},
        {"key": _KEY.hex(), "is_good": True},
    ],
)
def test_feedback_that_is_none_is_a_wire_error(said: object) -> None:
    """Each field has its type, and there are no others."""
    with pytest.raises(WireError):
        Feedback.from_bytes(orjson.dumps(said))


@given(st.binary(max_size=200))
def test_bytes_that_are_no_feedback_are_a_wire_error(body: bytes) -> None:
    """Any at all."""
    with pytest.raises(WireError):
        Feedback.from_bytes(body)
