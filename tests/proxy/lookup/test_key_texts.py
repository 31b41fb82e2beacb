"""Which texts of a conversation share a key: those that say the same in the same places."""

import unicodedata
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.wire.endpoint import Endpoint
from tests.proxy.lookup.keying import Json, key


def key_of_text(text: str, role: str = "user") -> bytes:
    return key({"model": "m", "messages": [{"role": role, "content": text}]})


HISTORIES: list[list[Json]] = [
    [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}],
    [{"role": "user", "content": "ab"}],
    [{"role": "user", "content": "a\nb"}],
    [{"role": "user", "content": ["a", "b"]}],
    [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}],
    [{"role": "developer", "content": "a"}, {"role": "user", "content": "b"}],
    [{"role": "user", "content": "a"}, {"role": "system", "content": "b"}],
    [{"role": "user", "content": "b"}, {"role": "user", "content": "a"}],
    [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
    [{"role": "user", "content": "a", "name": "b"}],
    [{"role": "user", "content": ""}, {"role": "user", "content": "ab"}],
    [{"role": "user", "content": "ab"}, {"role": "user", "content": ""}],
    [{"role": "user", "content": "ab"}, {"role": "user", "content": None}],
    [{"role": "user", "content": "ab"}, {"role": "user"}],
    [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}],
    [{"role": "user", "content": [{"type": "text", "text": "ab"}]}],
    [{"role": "user", "content": [{"type": "text", "text": "ab", "cache_control": {}}]}],
    [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "ab"}}]}],
    [{"role": "user", "content": "ab"}, {"role": "assistant", "content": "ab"}],
    [{"role": "user", "content": "ab"}, {"role": "tool", "content": "ab", "tool_call_id": "1"}],
    [{"role": "user", "content": "ab"}, {"role": "tool", "content": "ab", "tool_call_id": "2"}],
]


def test_no_two_histories_share_a_key() -> None:
    """Text moved between roles, messages, parts and fields is another conversation."""
    keys = {key({"model": "m", "messages": messages}) for messages in HISTORIES}

    assert len(keys) == len(HISTORIES)


@pytest.mark.parametrize("role", ["system", "developer", "user", "assistant", "tool"])
def test_long_texts_that_differ_only_at_their_end_separate(role: str) -> None:
    """100 kB before it are no reason to overlook it."""
    long = "All work and no play. " * 5000

    assert len({key_of_text(long + end, role) for end in ("a", "b", "", "aa")}) == 4


def test_long_inputs_that_differ_only_at_their_end_separate() -> None:
    """In the other endpoints too."""
    long = "All work and no play. " * 5000

    for endpoint, name in [
        (Endpoint.COMPLETIONS, "prompt"),
        (Endpoint.EMBEDDINGS, "input"),
        (Endpoint.RESPONSES, "input"),
    ]:
        assert key({name: long + "a"}, endpoint) != key({name: long + "b"}, endpoint)


SAME_TEXT: dict[str, tuple[str, str]] = {
    "composed and decomposed": ("caf\u00e9", "cafe\u0301"),
    "singletons": ("10 \u2126", "10 \u03a9"),
    "Hangul": ("\ud55c", "\u1112\u1161\u11ab"),
    "CRLF": ("a\r\nb", "a\nb"),
    "CR": ("a\rb", "a\nb"),
    "outer spaces": ("  a b  ", "a b"),
    "outer lines": ("\n\ta\r\n", "a"),
    "outer no-break and wide spaces": ("\u00a0\u3000a\u2003", "a"),
    "white space alone": (" \n", ""),
}
OTHER_TEXT: dict[str, tuple[str, str]] = {
    "case": ("Polish", "polish"),
    "inner spaces": ("a  b", "a b"),
    "inner line ends": ("a\n\nb", "a\nb"),
    "a line end and a space": ("a\nb", "a b"),
    "indentation": ("if x:\n  y", "if x:\n    y"),
    "compatibility characters": ("x\u00b2", "x2"),
    "ligatures": ("\ufb01", "fi"),
    "zero width": ("a\u200bb", "ab"),
    "punctuation": ("a.", "a"),
}


@pytest.mark.parametrize("role", ["system", "developer", "user"])
@pytest.mark.parametrize("name", SAME_TEXT)
def test_normalisation_keeps_the_meaning_of_what_is_said_to_a_model(name: str, role: str) -> None:
    """Unicode NFC (UAX #15), line ends and outer white space; plain or in parts."""
    keys = {key_of_text(text, role) for text in SAME_TEXT[name]}
    parts = {
        key({"messages": [{"role": role, "content": [{"type": "text", "text": text}]}]})
        for text in SAME_TEXT[name]
    }

    assert len(keys) == 1
    assert len(parts) == 1


@pytest.mark.parametrize("name", OTHER_TEXT)
def test_normalisation_changes_nothing_else(name: str) -> None:
    """Case and inner white space have meaning, in code above all."""
    one, other = OTHER_TEXT[name]

    assert key_of_text(one) != key_of_text(other)


@pytest.mark.parametrize("role", ["assistant", "tool", "function", "User", "", "x"])
@pytest.mark.parametrize("name", SAME_TEXT)
def test_other_texts_count_to_the_letter(name: str, role: str) -> None:
    """What a model said before, a trailing space included, decides how it goes on."""
    one, other = SAME_TEXT[name]

    assert key_of_text(one, role) != key_of_text(other, role)


@pytest.mark.parametrize("name", SAME_TEXT)
@pytest.mark.parametrize("endpoint", [Endpoint.COMPLETIONS, Endpoint.EMBEDDINGS])
def test_prompts_to_complete_or_embed_count_to_the_letter(endpoint: Endpoint, name: str) -> None:
    """The same, for endpoints that take no messages."""
    field = "prompt" if endpoint is Endpoint.COMPLETIONS else "input"
    one, other = SAME_TEXT[name]

    assert key({field: one}, endpoint) != key({field: other}, endpoint)


@pytest.mark.parametrize("name", SAME_TEXT)
def test_responses_normalise_input_and_instructions(name: str) -> None:
    """Plain input is a user's, instructions are the system's; items go by their role."""
    one, other = SAME_TEXT[name]

    def response(**fields: Any) -> bytes:
        return key({"model": "m", **fields}, Endpoint.RESPONSES)

    assert response(input=one) == response(input=other)
    assert response(instructions=one) == response(instructions=other)
    for role, is_same in [("user", True), ("developer", True), ("assistant", False)]:
        plain = [response(input=[{"role": role, "content": text}]) for text in (one, other)]
        parts = [
            response(input=[{"role": role, "content": [{"type": "input_text", "text": text}]}])
            for text in (one, other)
        ]
        assert (plain[0] == plain[1]) == is_same
        assert (parts[0] == parts[1]) == is_same
    outputs = [
        response(input=[{"type": "function_call_output", "call_id": "1", "output": text}])
        for text in (one, other)
    ]
    assert outputs[0] != outputs[1]


def parts_key(*texts: str | None) -> bytes:
    """The key of a message of several parts; None is an image."""
    image = {"type": "image_url", "image_url": {"url": "data:,"}}
    content = [{"type": "text", "text": text} if text is not None else image for text in texts]
    return key({"messages": [{"role": "user", "content": content}]})


def test_white_space_between_the_parts_of_a_message_counts() -> None:
    """Upstreams join them: "un " + "happy" is not "un" + "happy"."""
    assert parts_key("un ", "happy") != parts_key("un", "happy")
    assert parts_key("un", " happy") != parts_key("un", "happy")
    assert parts_key(None, " a") != parts_key(None, "a")
    assert parts_key("a ", None) != parts_key("a", None)
    assert parts_key(" a", "b", "c ") == parts_key("a", "b", "c")
    assert parts_key("a", "cafe\u0301\r\n", "b") == parts_key("a", "caf\u00e9\n", "b")


OTHER_SHAPES: list[Iterator[Json]] = [
    ({"role": "user", "content": [{"type": "text", "text": text}]} for text in (["a "], ["a"])),
    ({"role": "user", "content": [{"type": "refusal", "text": text}]} for text in ("a ", "a")),
    ({"role": "user", "content": [{"type": ["text"], "text": text}]} for text in ("a ", "a")),
    ({"role": "user", "content": [{"text": text}]} for text in ("a ", "a")),
    ({"role": "user", "content": [text]} for text in ("a ", "a")),
    ({"role": "user", "content": [text]} for text in (7, 8)),
    ({"role": "user", "content": [part]} for part in ({"type": "text"}, {})),
    ({"role": "user", "content": {"text": text}} for text in ("a ", "a")),
    ({"role": "user", "content": text} for text in (None, "")),
    ({"role": None, "content": text} for text in ("a ", "a")),
    ({"role": 7, "content": text} for text in ("a ", "a")),
    ({"role": ["user"], "content": text} for text in ("a ", "a")),
    ({"content": text} for text in ("a ", "a")),
]


@pytest.mark.parametrize(("one", "other"), [tuple(pair) for pair in OTHER_SHAPES])
def test_messages_of_other_shapes_count_to_the_letter(one: Json, other: Json) -> None:
    """Nothing is normalised that is not known to be a text; what is wrong, the upstream says."""
    assert key({"messages": [one]}) != key({"messages": [other]})


def test_responses_input_of_other_shapes_counts_to_the_letter() -> None:
    """Likewise: an item need not be an object."""
    assert key({"input": ["a "]}, Endpoint.RESPONSES) != key({"input": ["a"]}, Endpoint.RESPONSES)
    assert key({"input": None}, Endpoint.RESPONSES) != key({}, Endpoint.RESPONSES)


ROLES = st.sampled_from(["system", "developer", "user", "assistant", "tool"])
WORDS = st.one_of(
    # Few, so that equal ones meet.
    st.sampled_from(["", " ", "a", "a\n", "\u00e9", " e\u0301", "b\r\na", "b\na", "b a"]),
    st.text(st.sampled_from("ab \n\r\te\u0301\u00e9\u212b\u3000"), max_size=6),
)
MESSAGES = st.lists(st.tuples(ROLES, WORDS), max_size=2)


def said(messages: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """What the messages mean."""
    return [
        (role, spoken(text) if role in ("system", "developer", "user") else text)
        for role, text in messages
    ]


def spoken(text: str) -> str:
    return unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n").strip())


@given(MESSAGES, MESSAGES)
@settings(deadline=None)
def test_conversations_share_a_key_if_and_only_if_they_say_the_same(
    one: list[tuple[str, str]], other: list[tuple[str, str]]
) -> None:
    """Roles, order, borders between messages, and texts up to normalisation."""

    def of(messages: list[tuple[str, str]]) -> bytes:
        return key({"messages": [{"role": role, "content": text} for role, text in messages]})

    assert (of(one) == of(other)) == (said(one) == said(other))
