"""Values are found in a JSON text without changing a byte of it."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from proxy.wire.json_spans import elements, members

_VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(max_size=3), values),
    max_leaves=12,
)
_INDENTS = st.sampled_from([None, 1])


@given(st.dictionaries(st.text(max_size=4), _VALUES, max_size=4), _INDENTS, st.booleans())
def test_members_are_the_objects_own_in_their_order(
    value: dict[str, Any], indent: int | None, ascii_only: bool
) -> None:
    """Whatever is nested in them, and however it is written."""
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only)

    found = [(name, json.loads(text[start:end])) for name, start, end in members(text)]
    assert found == list(value.items())


@given(st.lists(_VALUES, max_size=4), _INDENTS)
def test_elements_are_the_arrays_own_in_their_order(value: list[Any], indent: int | None) -> None:
    """Brackets in strings and nested arrays do not count."""
    text = json.dumps(value, indent=indent)

    assert [json.loads(text[start:end]) for start, end in elements(text)] == value


def test_repeated_names_are_all_found_and_the_search_begins_where_it_is_told() -> None:
    """Which of them counts is for the caller to say."""
    text = ' [0, {"a":1, "a" : [2] }]'

    assert [(name, text[a:b]) for name, a, b in members(text, 2)] == [("a", "1"), ("a", "[2]")]
    assert [text[a:b] for a, b in elements(text, 4)] == ["2"]
