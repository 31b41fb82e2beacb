"""What the cache reads of a request, and what it refuses to read in one way only."""

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from proxy.wire.endpoint import Endpoint
from proxy.wire.request import BadRequest, CacheableRequest, Unreadable, read_request

MAX_DEPTH = 8


def read(raw: bytes | str, endpoint: Endpoint = Endpoint.CHAT) -> CacheableRequest | Unreadable:
    return read_request(endpoint, raw.encode() if isinstance(raw, str) else raw, MAX_DEPTH)


def refusal(raw: bytes | str, endpoint: Endpoint = Endpoint.CHAT) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        read(raw, endpoint)
    return caught.value


# what is sent, (model, is_stream, include_usage)
UNDERSTOOD: dict[str, tuple[str, tuple[str, bool, bool]]] = {
    "nothing at all": ("{}", ("", False, False)),
    "a model": ('{"model": "m"}', ("m", False, False)),
    "an empty model": ('{"model": ""}', ("", False, False)),
    "a model of any characters": (
        '{"model": "a\\u0000b\\n\\ud83e\\udd8a"}',
        ("a\0b\n🦊", False, False),
    ),
    "stream": ('{"stream": true}', ("", True, False)),
    "no stream": ('{"stream": false}', ("", False, False)),
    "stream is null": ('{"stream": null}', ("", False, False)),
    "usage asked for": (
        '{"stream": true, "stream_options": {"include_usage": true}}',
        ("", True, True),
    ),
    "usage not asked for": (
        '{"stream": true, "stream_options": {"include_usage": false}}',
        ("", True, False),
    ),
    "usage is null": (
        '{"stream": true, "stream_options": {"include_usage": null}}',
        ("", True, False),
    ),
    "options are null": ('{"stream": true, "stream_options": null}', ("", True, False)),
    "usage asked for, but no stream": (
        '{"stream_options": {"include_usage": true}}',
        ("", False, False),
    ),
}


@pytest.mark.parametrize("name", UNDERSTOOD)
def test_interpreted_fields_are_read(name: str) -> None:
    """Absent, null and false are the same where OpenAI's API reference says so."""
    raw, wanted = UNDERSTOOD[name]

    request = read(raw)

    assert isinstance(request, CacheableRequest)
    assert (request.model, request.is_stream, request.include_usage) == wanted
    assert request.body == json.loads(raw)


@pytest.mark.parametrize("endpoint", Endpoint)
def test_fields_nobody_interprets_pass_unchecked(endpoint: Endpoint) -> None:
    """They are the upstream's business."""
    body = {"model": "m", "temperature": "warm", "n": [], "x_unknown": {"a": None}}

    request = read(json.dumps(body), endpoint)

    assert isinstance(request, CacheableRequest)
    assert request.endpoint is endpoint
    assert request.body == body


UNREADABLE: dict[str, bytes] = {
    "empty": b"",
    "cut": b'{"model": "m", "messages": [',
    "cut after a fraction": b'{"temperature": 0.5, "messages"',
    "an array": b"[]",
    "a text": b'"x"',
    "null": b"null",
    "two documents": b"{}{}",
    "trailing comma": b'{"model":"m",}',
    "single quotes": b"{'model':'m'}",
    "raw control character": b'{"model":"m\x01"}',
    "not UTF-8": b'{"model":"\xff\xfe"}',
    "overlong UTF-8": b'{"model":"\xc0\xaf"}',
    "UTF-16 (RFC 8259 §8.1)": '{"model":"m"}'.encode("utf-16"),
    "byte order mark (RFC 8259 §8.1)": b'\xef\xbb\xbf{"model":"m"}',
    "integer past every double": b'{"seed":' + b"9" * 400 + b"}",
    "integer past Python's limit": b'{"seed":' + b"9" * 5000 + b"}",
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_is_no_json_object_is_left_to_the_upstream(name: str) -> None:
    """It goes there untouched, so that the upstream says what is wrong."""
    assert read(UNREADABLE[name]) == Unreadable()


REFUSED: dict[str, tuple[str, str | None]] = {
    "NaN": ('{"temperature": NaN}', None),
    "Infinity": ('{"temperature": Infinity}', None),
    "-Infinity": ('{"temperature": -Infinity}', None),
    "NaN further in": ('{"x": [{"y": NaN}]}', None),
    "double out of range": ('{"temperature": 1e999}', None),
    "double out of range, negative": ('{"temperature": -1e999}', None),
    "lone high surrogate": ('{"messages": [{"content": "\\ud800"}]}', None),
    "lone low surrogate": ('{"messages": [{"content": "\\udc00x"}]}', None),
    "surrogates in the wrong order": ('{"x": "\\udd8a\\ud83e"}', None),
    "lone surrogate in a name": ('{"\\ud83e": 1}', None),
    "repeated key": ('{"model": "a", "model": "b"}', "model"),
    "repeated key, equal values": ('{"model": "a", "model": "a"}', "model"),
    "repeated key in a message": ('{"messages": [{"role": "a", "role": "b"}]}', "role"),
    "repeated key deep inside": ('{"x": [{"y": [[{"z": 1, "z": 2}]]}]}', "z"),
    "repeated key under a repeated key": ('{"x": {"y": 1, "y": 2}, "x": {}}', "y"),
    "repeated key, one name escaped": ('{"model": "a", "m\\u006fdel": "b"}', "model"),
    "repeated key and an escaped colon": ('{"a": 1, "a": 2, "x": "\\u003a"}', "a"),
    "repeated key and an escaped colon, capital": ('{"a": 1, "a": 2, "x": "\\u003A"}', "a"),
    "repeated key with a colon in it": ('{"a:b": 1, "a:b": 2, "x": "\\u003a\\u003a"}', "a:b"),
    "repeated empty key": ('{"": 1, "": 2}', ""),
    "model is a number": ('{"model": 1}', "model"),
    "model is null": ('{"model": null}', "model"),
    "stream is a number": ('{"stream": 1}', "stream"),
    "stream is a text": ('{"stream": "true"}', "stream"),
    "stream_options is an array": ('{"stream_options": []}', "stream_options"),
    "stream_options is false": ('{"stream_options": false}', "stream_options"),
    "include_usage is a number": (
        '{"stream_options": {"include_usage": 1}}',
        "stream_options.include_usage",
    ),
    "cache is a text": ('{"cache": "no"}', "cache"),
    "store is a number": ('{"store": 0}', "store"),
    "background is a text": ('{"background": "yes"}', "background"),
    "tools is an object": ('{"tools": {}}', "tools"),
    "functions is an object": ('{"functions": {}}', "functions"),
    "modalities is a text": ('{"modalities": "audio"}', "modalities"),
    "messages is a text": ('{"messages": "x"}', "messages"),
    "messages is null": ('{"messages": null}', "messages"),
    "a message is a text": ('{"messages": [{}, "x"]}', "messages[1]"),
    "a message is null": ('{"messages": [null]}', "messages[0]"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_two_readers_may_understand_differently_is_refused(name: str) -> None:
    """Or else the cache keys on one reading and the upstream answers the other."""
    raw, param = REFUSED[name]

    assert refusal(raw).param == param


PROMPTS: dict[str, tuple[Endpoint, str, bool]] = {
    "completions, a text": (Endpoint.COMPLETIONS, '{"prompt": "x"}', True),
    "completions, tokens": (Endpoint.COMPLETIONS, '{"prompt": [1, 2]}', True),
    "completions, from nothing": (Endpoint.COMPLETIONS, '{"prompt": null}', True),
    "completions, an object": (Endpoint.COMPLETIONS, '{"prompt": {}}', False),
    "completions, messages count for nothing": (Endpoint.COMPLETIONS, '{"messages": 1}', True),
    "embeddings, a text": (Endpoint.EMBEDDINGS, '{"input": "x"}', True),
    "embeddings, a batch": (Endpoint.EMBEDDINGS, '{"input": ["x"]}', True),
    "embeddings, null": (Endpoint.EMBEDDINGS, '{"input": null}', False),
    "embeddings, a number": (Endpoint.EMBEDDINGS, '{"input": 7}', False),
    "responses, a text": (Endpoint.RESPONSES, '{"input": "x"}', True),
    "responses, items": (Endpoint.RESPONSES, '{"input": [{}]}', True),
    "responses, a stored prompt alone": (Endpoint.RESPONSES, '{"input": null}', True),
    "responses, an object": (Endpoint.RESPONSES, '{"input": {}}', False),
}


@pytest.mark.parametrize("name", PROMPTS)
def test_prompt_has_the_types_of_its_endpoint(name: str) -> None:
    """OpenAI's API reference."""
    endpoint, raw, is_right = PROMPTS[name]

    if is_right:
        assert isinstance(read(raw, endpoint), CacheableRequest)
    else:
        assert refusal(raw, endpoint).param in ("prompt", "input")


def test_refusal_does_not_repeat_a_long_key() -> None:
    """It could be a prompt; messages of ours hold none."""
    name = "secret " * 20

    error = refusal(json.dumps({name: 1})[:-1] + f', "{name}": 2}}')

    assert "secret" not in error.message
    assert error.param is None


@pytest.mark.parametrize(
    "text", ["a:b", "{::}", "\\u003a", "\\\\u003a", '\\"a\\":1', "\\u003c", ":\\u003A:"]
)
def test_colons_in_texts_are_no_members(text: str) -> None:
    """Plain or escaped, none is taken for a repeated key."""
    assert isinstance(read(f'{{"model": "m", "x": "{text}", "y": {{"z": 1}}}}'), CacheableRequest)


def nested(depth: int, opening: str = "[", closing: str = "]") -> str:
    """A JSON object of `depth` levels."""
    inside = depth - 1
    return '{"x":' + opening * inside + "1" + closing * inside + "}"


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"y":', "}")])
def test_depth_limit_is_exact(opening: str, closing: str) -> None:
    """The limit passes, one more is refused."""
    assert isinstance(read(nested(MAX_DEPTH, opening, closing)), CacheableRequest)
    assert "deeper than 8" in refusal(nested(MAX_DEPTH + 1, opening, closing)).message


def test_breadth_is_not_depth() -> None:
    """Many brackets side by side, and brackets in texts, are within the limit."""
    raw = json.dumps({"x": [[], {}, [[]]] * 100, "y": "[[[[[[[[[[[[{{{{{{{{{{{{"})

    assert isinstance(read(raw), CacheableRequest)


def test_depth_limit_holds_for_json_that_only_lenient_readers_accept() -> None:
    """Here a byte order mark, past which the standard library reads."""
    mark = b"\xef\xbb\xbf"

    assert read(mark + nested(MAX_DEPTH).encode()) == Unreadable()
    assert "deeper than 8" in refusal(mark + nested(MAX_DEPTH + 1).encode()).message


@pytest.mark.parametrize("depth", [300, 1023, 1025, 5000, 100_000])
@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_absurd_nesting_is_refused_without_harm(depth: int, opening: str) -> None:
    """Whatever the parsers' own limits are."""
    closing = "]" if opening == "[" else "}"

    assert "deeper than 8" in refusal(nested(depth, opening, closing)).message


def test_brackets_that_never_close_do_no_harm() -> None:
    """Not even JSON, and still too deep to be looked at."""
    assert "deeper than 8" in refusal("[" * 100_000).message


@given(st.binary(max_size=200))
@example(b'{"model":"\xed\xa0\x80"}')
@example(b'{"a":1' + b"0" * 400 + b"}")
@settings(deadline=None)
def test_any_bytes_give_a_request_or_a_refusal(raw: bytes) -> None:
    """No other exception: it would be a 500 of ours."""
    for endpoint in Endpoint:
        with suppress(BadRequest):
            read(raw, endpoint)


SCRAPS = st.one_of(
    st.sampled_from('{}[]:," 1\n'),
    st.sampled_from(["null", "true", "NaN", "-Infinity", "1e999", '"\\ud800"', '"\\u003a"']),
    st.sampled_from(['"model"', '"messages"', '"stream_options"', '"cache"', '"input"']),
)


@given(st.lists(SCRAPS, max_size=30).map("".join))
@settings(deadline=None)
def test_any_scraps_of_json_give_a_request_or_a_refusal(raw: str) -> None:
    """The same, nearer to what gets through the parser."""
    for endpoint in Endpoint:
        with suppress(BadRequest):
            read(raw, endpoint)


NAMES = st.sampled_from(["a", "b", "a:b", ":", "é", "\\", '"', "\u003a\u003a"])
TEXTS = st.text(st.sampled_from(':a"\\{}é'), max_size=4)


def spelled(text: str) -> st.SearchStrategy[str]:
    """All ways to write `text` as a JSON string: each character plain or escaped."""
    ways = [
        st.sampled_from(
            [json.dumps(c, ensure_ascii=False)[1:-1], f"\\u{ord(c):04x}", f"\\u{ord(c):04X}"]
        )
        for c in text
    ]
    return st.tuples(*ways).map(lambda parts: '"' + "".join(parts) + '"')


@st.composite
def objects(draw: st.DrawFn, depth: int = 2) -> tuple[str, bool]:
    """A JSON object, and whether a key stands twice in it or inside of it."""
    names = draw(st.lists(NAMES, max_size=4))
    repeats = len(set(names)) < len(names)
    members = []
    for name in names:
        if depth and draw(st.booleans()):
            value, inner = draw(objects(depth - 1))
            repeats = repeats or inner
            value = f"[{value}]" if draw(st.booleans()) else value
        else:
            value = draw(spelled(draw(TEXTS)))
        members.append(f"{draw(spelled(name))}:{value}")
    return "{" + ",".join(members) + "}", repeats


@given(objects())
@settings(deadline=None)
def test_repeated_keys_are_found_wherever_and_however_they_are_written(
    written: tuple[str, bool],
) -> None:
    """RFC 8259 §4: what a repeated name means differs from reader to reader."""
    raw, repeats = written

    found = False
    try:
        read(raw)
    except BadRequest:
        found = True

    assert found == repeats


def test_body_is_the_parsed_json() -> None:
    """Numbers keep their kind: what is an integer and what a double is for the key to weigh."""
    request = read('{"a": 1, "b": 1.0, "c": -0.0, "d": 18446744073709551615}')

    assert isinstance(request, CacheableRequest)
    kinds: list[tuple[type, Any]] = [(type(value), value) for value in request.body.values()]
    assert kinds == [(int, 1), (float, 1.0), (float, 0.0), (int, 2**64 - 1)]
