"""Two requests have one key if and only if they mean the same to every upstream."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from proxy.lookup.keys import KeyScope, Unkeyable, input_keys
from proxy.wire.endpoint import Endpoint
from tests.proxy.lookup.keying import BASES, CHAT, SCOPE, Json, key, read


def test_key_is_256_bits_and_the_same_everywhere() -> None:
    """Stored responses outlive the process: whoever changes keys changes FORMAT, and this."""
    digest = "343c593ffdbc66470a169b13cb5b7b797d1915292cd3fc672e2731cb0847ced6"

    assert key(CHAT).hex() == digest


SAME: dict[str, tuple[str, str]] = {
    "field order": ('{"model":"m","seed":1}', '{"seed":1,"model":"m"}'),
    "field order inside": (
        '{"x":{"a":1,"b":[{"c":1,"d":2}]}}',
        '{"x":{"b":[{"d":2,"c":1}],"a":1}}',
    ),
    "spacing": ('{"model":"m","x":[1,2]}', ' {\n"model" :\t"m" , "x" : [ 1 , 2 ]\r\n}'),
    "escapes": ('{"x":"é"}', '{"x":"\\u00e9"}'),
    "escapes of what needs none": ('{"x":"a/b"}', '{"x":"\\u0061\\/\\u0062"}'),
    "escapes past the first plane": ('{"x":"🦊"}', '{"x":"\\ud83e\\udd8a"}'),
    "escapes in names": ('{"x":1}', '{"\\u0078":1}'),
    "0 and 0.0": ('{"x":0}', '{"x":0.0}'),
    "0 and -0": ('{"x":0}', '{"x":-0}'),
    "0 and -0.0": ('{"x":0}', '{"x":-0.0}'),
    "1 and 1e0": ('{"x":1}', '{"x":1e0}'),
    "100 and 1E+2": ('{"x":100}', '{"x":1E+2}'),
    "0.5 and 5e-1": ('{"x":0.5}', '{"x":5e-1}'),
    "numbers inside": ('{"x":[{"y":2.0}]}', '{"x":[{"y":2}]}'),
    "largest exact double": ('{"x":9007199254740991}', '{"x":9007199254740991.0}'),
}


@pytest.mark.parametrize("name", SAME)
def test_spelling_does_not_separate(name: str) -> None:
    """The same JSON value, written otherwise (RFC 8259 §2, §4, §6, §7)."""
    one, other = SAME[name]

    assert key(one) == key(other)


FOLDED: list[tuple[Endpoint, str, Any]] = [
    *((Endpoint.CHAT, name, 1) for name in ("temperature", "top_p", "n")),
    *((Endpoint.CHAT, name, 0) for name in ("presence_penalty", "frequency_penalty")),
    (Endpoint.CHAT, "temperature", 1.0),
    (Endpoint.CHAT, "frequency_penalty", -0.0),
    (Endpoint.CHAT, "logprobs", False),
    (Endpoint.CHAT, "logit_bias", {}),
    (Endpoint.CHAT, "response_format", {"type": "text"}),
    (Endpoint.CHAT, "modalities", ["text"]),
    *((Endpoint.COMPLETIONS, name, 1) for name in ("temperature", "top_p", "n", "best_of")),
    *((Endpoint.COMPLETIONS, name, 0) for name in ("presence_penalty", "frequency_penalty")),
    (Endpoint.COMPLETIONS, "echo", False),
    (Endpoint.COMPLETIONS, "logit_bias", {}),
    (Endpoint.EMBEDDINGS, "encoding_format", "float"),
    (Endpoint.RESPONSES, "temperature", 1),
    (Endpoint.RESPONSES, "top_p", 1),
    (Endpoint.RESPONSES, "tools", []),
    (Endpoint.RESPONSES, "background", False),
]


@pytest.mark.parametrize(("endpoint", "name", "value"), FOLDED)
def test_documented_default_is_the_same_as_absent(
    endpoint: Endpoint, name: str, value: Any
) -> None:
    """OpenAI's API reference; an operator whose server has others turns it off."""
    base = BASES[endpoint]
    without = replace(SCOPE, fold_defaults=False)

    assert key({**base, name: value}, endpoint) == key(base, endpoint)
    assert key({**base, name: None}, endpoint) == key(base, endpoint)
    assert key({**base, name: value}, endpoint, without) != key(base, endpoint, without)


NULL_IS_ABSENT = ["stop", "seed", "max_tokens", "max_completion_tokens", "response_format", "tools"]


@pytest.mark.parametrize("name", NULL_IS_ABSENT)
@pytest.mark.parametrize("fold", [True, False])
def test_null_is_the_same_as_absent_where_it_is_documented(name: str, fold: bool) -> None:
    """OpenAI's API reference: "or null"."""
    scope = replace(SCOPE, fold_defaults=fold)

    assert key({**CHAT, name: None}, scope=scope) == key(CHAT, scope=scope)


DENIED = {
    "stream": True,
    "stream_options": {"include_usage": True},
    "cache": {"no-cache": True},
    "user": "u",
    "safety_identifier": "s",
    "metadata": {"a": "b"},
    "store": True,
    "service_tier": "flex",
    "prompt_cache_key": "k",
    "prompt_cache_retention": "24h",
    "priority": 3,
    "request_id": "r",
}
SENT_BACK_BY_RESPONSES = {
    *("user", "safety_identifier", "metadata", "store", "service_tier"),
    *("prompt_cache_key", "prompt_cache_retention"),
}


@pytest.mark.parametrize("endpoint", Endpoint)
@pytest.mark.parametrize("name", DENIED)
def test_what_does_not_change_the_answer_does_not_separate(name: str, endpoint: Endpoint) -> None:
    """Nor does a number in it that cannot be keyed. A response, though, shows some of them."""
    base = BASES[endpoint]
    is_shown = endpoint is Endpoint.RESPONSES and name in SENT_BACK_BY_RESPONSES

    separates = key({**base, name: DENIED[name]}, endpoint) != key(base, endpoint)

    assert separates == is_shown


def test_number_in_a_field_that_does_not_count_is_no_obstacle() -> None:
    """Only what counts must be told apart."""
    assert key({**CHAT, "metadata": {"n": 2**70}}) == key(CHAT)


@pytest.mark.parametrize("name", DENIED)
def test_deny_list_holds_at_the_top_only(name: str) -> None:
    """Further in, the same names are somebody's schema or arguments."""
    inner = {**CHAT, "chat_template_kwargs": {name: DENIED[name]}}

    assert key(inner) != key({**CHAT, "chat_template_kwargs": {}})


def test_fields_ignored_by_configuration_do_not_separate() -> None:
    """`cache.ignore_fields`, at the top only."""
    scope = replace(SCOPE, ignored=frozenset({"trace", "messages"}))

    assert key({**CHAT, "trace": 1}, scope=scope) == key({"model": "m"}, scope=scope)
    assert key({**CHAT, "x": {"trace": 1}}, scope=scope) != key({**CHAT, "x": {}}, scope=scope)
    assert key({**CHAT, "trace": 1}) != key(CHAT)


ADDED: Json = {
    "n": 2,
    "seed": 1,
    "stop": "x",
    "temperature": 0,
    "top_p": 0.9,
    "max_tokens": 7,
    "logprobs": True,
    "top_logprobs": 0,
    "logit_bias": {"1": -100},
    "tools": [],
    "tool_choice": None,
    "function_call": None,
    "parallel_tool_calls": True,
    "response_format": {"type": "json_object"},
    "reasoning_effort": "low",
    "guided_json": {"type": "object"},
    "guided_regex": "",
    "min_p": 0,
    "top_k": 1,
    "chat_template_kwargs": {},
    "repetition_penalty": 1,
    "suffix": "",
    "x_unknown_null": None,
    "x_unknown_false": False,
    "x_unknown_zero": 0,
    "x_unknown_text": "",
    "x_unknown_list": [],
    "x_unknown_object": {},
    "": 0,
}


@pytest.mark.parametrize(
    ("endpoint", "name"),
    [
        (endpoint, name)
        for endpoint in Endpoint
        for name in ADDED
        if (endpoint, name, ADDED[name]) not in FOLDED
    ],
)
def test_every_added_field_separates(endpoint: Endpoint, name: str) -> None:
    """Known to us or not: every hand-kept list of what counts has forgotten something."""
    base = BASES[endpoint]

    assert key({**base, name: ADDED[name]}, endpoint) != key(base, endpoint)


DIFFERENT: dict[str, tuple[Any, Any]] = {
    "true and 1": (True, 1),
    "false and 0": (False, 0),
    "false and null": (False, None),
    "null and 0": (None, 0),
    "1 and '1'": (1, "1"),
    "'' and null": ("", None),
    "[] and {}": ([], {}),
    "order of an array": ([1, 2], [2, 1]),
    "parts run together": (["ab", "c"], ["a", "bc"]),
    "parts run into one": (["a", "b"], ["ab"]),
    "an array and its element": (["a"], "a"),
    "nesting": ([[1], 2], [[1, 2]]),
    "moved inside": ({"a": {"b": 1}, "c": 2}, {"a": {"b": 1, "c": 2}}),
    "name and value": ({"a": "b"}, {"b": "a"}),
    "JSON in a text": ('{"a":1}', {"a": 1}),
    "white space in a text": ("a b", "a  b"),
    "white space around a text": ("a", " a"),
    "case": ("A", "a"),
    "not NFC": ("\u00e9", "e\u0301"),
    "line ends": ("a\nb", "a\r\nb"),
    "the next double": (0.1, 0.10000000000000002),
    "integers past 2^53": (2**53, 2**53 + 1),
    "integers up to 2^63": (2**63 - 1, 2**63 - 2),
    "integers up to 2^64": (2**64 - 1, 2**64 - 2),
    "negative integers": (-(2**63), -(2**63) + 1),
    "tiny and nothing": (5e-324, 0),
}


@pytest.mark.parametrize("name", DIFFERENT)
@pytest.mark.parametrize("depth", [0, 1])
def test_every_changed_value_separates(name: str, depth: int) -> None:
    """Outside of prompts, to the letter; nested ones too."""
    one, other = DIFFERENT[name]

    bodies = [{**CHAT, "x": {"y": [value]} if depth else value} for value in (one, other)]

    assert key(bodies[0]) != key(bodies[1])


@pytest.mark.parametrize(
    ("name", "value"),
    [("temperature", True), ("n", True), ("logprobs", 0), ("presence_penalty", False)],
)
def test_wrong_type_is_not_the_default(name: str, value: Any) -> None:
    """Python says True == 1, JSON does not: the upstream may refuse it."""
    assert key({**CHAT, name: value}) != key(CHAT)


SCOPES = {
    "tenant": replace(SCOPE, tenant="hmac:2"),
    "revision": replace(SCOPE, revision=("", "lora-2")),
    "query": replace(SCOPE, query="api-version=2"),
    "namespace": replace(SCOPE, namespace="a"),
    "an empty namespace": replace(SCOPE, namespace=""),
    "OpenAI-Organization": replace(SCOPE, headers=("o", None, None)),
    "OpenAI-Project": replace(SCOPE, headers=(None, "o", None)),
    "OpenAI-Beta": replace(SCOPE, headers=(None, None, "o")),
    "an empty header": replace(SCOPE, headers=("", None, None)),
    "a value moved on": replace(SCOPE, tenant="", revision=("hmac:1", "")),
    "two values run together": replace(SCOPE, headers=("oo", None, None)),
    "two values apart": replace(SCOPE, headers=("o", "o", None)),
}


def test_everything_beside_the_body_separates() -> None:
    """Tenant, revision, headers, query, namespace, endpoint: no two alike."""
    body = {"model": "m"}

    keys = [key(body, scope=scope) for scope in (SCOPE, *SCOPES.values())]
    keys += [key(body, endpoint) for endpoint in Endpoint if endpoint is not Endpoint.CHAT]

    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize(
    "number",
    [
        "18446744073709551616",
        "18446744073709551617",
        "-9223372036854775809",
        "9" * 30,
        "1e19",
        "-1e300",
    ],
)
@pytest.mark.parametrize("place", ['{"x":%s}', '{"x":[{"y":%s}]}', '{"messages":[{"a":%s}]}'])
def test_numbers_that_parsers_read_differently_have_no_key(number: str, place: str) -> None:
    """Past 64 bits neighbours become one double (RFC 8259 §6): such a request is passed by."""
    with pytest.raises(Unkeyable):
        key(place % number)


@pytest.mark.parametrize(
    "number", ["0.1", "1e-300", "1e18", "-1e18", "9007199254740993.0", "1e-400"]
)
def test_other_numbers_have_one(number: str) -> None:
    """Fractions are doubles to everybody."""
    assert key(f'{{"x":{number}}}') != key('{"x":7}')


def keys_of(inputs: list[Any], scope: KeyScope = SCOPE, **fields: Any) -> list[bytes]:
    request = read(json.dumps({"model": "m", "input": inputs, **fields}), Endpoint.EMBEDDINGS)
    return input_keys(request, scope, inputs)


def test_each_input_of_a_batch_has_the_key_it_would_have_alone() -> None:
    """So that a batch finds what was asked for one by one, and the other way round."""
    keys = keys_of(["a", "b", [1, 2], "a"])

    assert keys == [*keys_of(["a"]), *keys_of(["b"]), *keys_of([[1, 2]]), *keys_of(["a"])]
    assert len(set(keys)) == 3
    assert keys_of(["a"]) == [key({"model": "m", "input": ["a"]}, Endpoint.EMBEDDINGS)]


def test_inputs_separate_like_bodies() -> None:
    """Model, parameters, tenant and the input itself count, numbers by their value."""
    inputs: list[Any] = ["a", "a ", "ab", [1, 2], [12], ["1", "2"], {"text": "a"}]
    keys = keys_of(inputs)
    keys += keys_of(inputs, dimensions=8)
    keys += keys_of(inputs, replace(SCOPE, tenant="hmac:2"))

    assert len(set(keys)) == 3 * len(inputs)
    assert keys_of([[1.0, 2]]) == keys_of([[1, 2]])


def test_input_with_a_number_that_parsers_read_differently_has_no_key() -> None:
    """As for bodies."""
    with pytest.raises(Unkeyable):
        keys_of([[2**64]])


NUMBERS = st.one_of(
    st.integers(-(2**63), 2**64 - 1),
    st.floats(-1e18, 1e18, allow_nan=False),
    st.sampled_from([0, 0.0, -0.0, 1, 1.0, 2**53, 2.0**53]),
)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=3), inner, max_size=4)
    ),
    max_leaves=12,
)


def meaning(value: Any) -> Any:
    """A form in which two JSON values are equal in Python only if they are in JSON.

    Numbers of either kind are equal up to 2^53; beyond, where not every integer has a double,
    an integer and a double may be kept apart.
    """
    match value:
        case bool() | None | str():
            return type(value).__name__, value
        case int() | float():
            is_plain = abs(value) < 2**53
            return "number" if is_plain else type(value).__name__, value
        case list():
            return "list", tuple(meaning(item) for item in value)
        case _:
            return "object", frozenset((name, meaning(item)) for name, item in value.items())


def rewritten(value: Any, draw: Any) -> str:
    """`value` as JSON text, spelled in one of its many ways."""
    space = draw(st.sampled_from(["", " ", "\n\t"]))
    match value:
        case list():
            inner = f"{space},".join(rewritten(item, draw) for item in value)
            return f"[{space}{inner}]"
        case dict():
            members = draw(st.permutations(list(value.items())))
            inner = f",{space}".join(
                f"{rewritten(name, draw)}{space}:{rewritten(item, draw)}" for name, item in members
            )
            return f"{{{inner}{space}}}"
        case str():
            return json.dumps(value, ensure_ascii=draw(st.booleans()))
        case int() if not isinstance(value, bool) and abs(value) < 2**53 and draw(st.booleans()):
            return json.dumps(float(value))
        case _:
            return json.dumps(value)


@given(st.dictionaries(st.text(max_size=4), VALUES, max_size=5), st.data())
@settings(deadline=None)
def test_however_a_body_is_written_its_key_is_the_same(body: Json, data: st.DataObject) -> None:
    """Field order, spacing, escapes and the form of numbers are no part of the meaning."""
    body = {f"x{name}": value for name, value in body.items()}

    assert key(rewritten(body, data.draw)) == key(body)


@given(VALUES, VALUES)
@settings(deadline=None)
def test_keys_are_equal_if_and_only_if_values_are(one: Any, other: Any) -> None:
    """Of a field nobody here has heard of."""
    assert (key({"x": one}) == key({"x": other})) == (meaning(one) == meaning(other))


@given(VALUES, st.data())
@settings(deadline=None)
def test_changing_one_place_anywhere_changes_the_key(value: Any, data: st.DataObject) -> None:
    """Likewise, for values that are nearly equal."""

    def changed(value: Any) -> Any:
        if isinstance(value, list) and value:
            place = data.draw(st.integers(0, len(value) - 1))
            return [*value[:place], changed(value[place]), *value[place + 1 :]]
        if isinstance(value, dict) and value:
            name = data.draw(st.sampled_from(sorted(value)))
            return {**value, name: changed(value[name])}
        return data.draw(VALUES)

    other = changed(value)
    assume(meaning(other) != meaning(value))

    assert key({"x": other}) != key({"x": value})
