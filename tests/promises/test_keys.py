"""Promise 5: requests that mean something else never share; those that mean the same do."""

import json
from typing import Any

import pytest

from tests.support.fake_upstream import FakeUpstream
from tests.support.recollect_server import (
    CHAT,
    COMPLETIONS,
    EMBEDDINGS,
    RecollectServer,
    chat_body,
    unique,
)

# One change each to a request that has none of them.
SEPARATING: dict[str, Any] = {
    "model": "fake-2",
    "temperature": 0.3,
    "top_p": 0.9,
    "n": 2,
    "stop": ["x"],
    "max_tokens": 77,
    "max_completion_tokens": 77,
    "seed": 1,
    "presence_penalty": 0.1,
    "frequency_penalty": 0.1,
    "logit_bias": {"50256": -100},
    "logprobs": True,
    "top_logprobs": 2,
    "response_format": {"type": "json_object"},
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
    "tool_choice": "none",
    "functions": [{"name": "f", "parameters": {}}],
    "function_call": "none",
    "parallel_tool_calls": False,
    "reasoning_effort": "low",
    "verbosity": "low",
    "modalities": ["text", "audio"],
    "audio": {"voice": "alloy", "format": "wav"},
    "prediction": {"type": "content", "content": "x"},
    "web_search_options": {},
    "top_k": 5,
    "min_p": 0.05,
    "typical_p": 0.9,
    "repetition_penalty": 1.1,
    "length_penalty": 0.8,
    "min_tokens": 3,
    "ignore_eos": True,
    "bad_words": ["x"],
    "guided_json": {"type": "object"},
    "guided_regex": "a+",
    "guided_choice": ["a", "b"],
    "guided_grammar": "root ::= 'x'",
    "structured_outputs": {"regex": "a"},
    "chat_template_kwargs": {"enable_thinking": False},
    "chat_template": "{{ messages }}",
    "add_generation_prompt": False,
    "lora": "adapter-1",
    "thinking": {"type": "enabled", "budget_tokens": 1024},
    "safety_identifier_of_a_vendor": "x",
    "x_unknown_string": "",
    "x_unknown_zero": 0,
    "x_unknown_false": False,
    "x_unknown_list": [],
    "x_unknown_object": {},
}


@pytest.fixture(scope="module")
def base(recollect: RecollectServer) -> str:
    """A prompt whose plain request is stored."""
    prompt = unique("base")
    assert recollect.chat(prompt).cache.stored
    return prompt


@pytest.mark.parametrize("field", SEPARATING)
def test_every_parameter_separates(
    field: str, base: str, upstream: FakeUpstream, recollect: RecollectServer
) -> None:
    """Whatever may change the answer is in the key, known to us or not."""
    before = upstream.calls(base)

    answer = recollect.chat(base, **{field: SEPARATING[field]})

    assert answer.status == 200
    assert not answer.cache.hit
    assert upstream.calls(base) == before + 1


VALUES: dict[str, tuple[Any, Any]] = {
    "temperature": (0.0, 0.1),
    "seed": (1, 2),
    "seed-large": (9007199254740993, 9007199254740992),
    "top_p": (0.1, 0.10000000000000002),
    "stop": ("a", ["a", "b"]),
    "x_text": ("1", 1),
    "x_bool": (True, 1),
    "x_none": (False, 0),
    "x_order": ([1, 2], [2, 1]),
    "x_nested": ({"a": {"b": 1}}, {"a": {"b": 2}}),
    "x_parts": (["ab", "c"], ["a", "bc"]),
    "guided_json": ({"a": [1]}, {"a": 1}),
    "x_space": ("a b", "a  b"),
}


@pytest.mark.parametrize("field", VALUES)
def test_two_values_of_a_parameter_separate(
    field: str, upstream: FakeUpstream, recollect: RecollectServer
) -> None:
    """Numbers, texts, booleans, orders are what they are."""
    prompt = unique(field)
    name = field.partition("-")[0]

    for value in VALUES[field]:
        assert not recollect.chat(prompt, **{name: value}).cache.hit

    assert upstream.calls(prompt) == 2


def message(role: str, content: Any, **fields: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **fields}


def image(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


LONG = "lorem ipsum " * 17_000

HISTORIES: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]]]] = {
    "system prompt": (
        [message("system", "Be brief."), message("user", "Q")],
        [message("system", "Be long."), message("user", "Q")],
    ),
    "no system prompt": ([message("system", ""), message("user", "Q")], [message("user", "Q")]),
    "role": ([message("user", "Q")], [message("system", "Q")]),
    "developer is not system": (
        [message("system", "S"), message("user", "Q")],
        [message("developer", "S"), message("user", "Q")],
    ),
    "earlier turn": (
        [message("user", "A"), message("assistant", "1"), message("user", "Q")],
        [message("user", "B"), message("assistant", "1"), message("user", "Q")],
    ),
    "order of turns": (
        [message("user", "A"), message("user", "B")],
        [message("user", "B"), message("user", "A")],
    ),
    "where a turn ends": (
        [message("user", "AB"), message("user", "C")],
        [message("user", "A"), message("user", "BC")],
    ),
    "one turn or two": ([message("user", "AB")], [message("user", "A"), message("user", "B")]),
    "name": ([message("user", "Q", name="a")], [message("user", "Q", name="b")]),
    "case": ([message("user", "Polish")], [message("user", "polish")]),
    "inner white space": (
        [message("user", "if x:\n  y\n z")],
        [message("user", "if x:\n  y\n  z")],
    ),
    "last letter of a long prompt": (
        [message("user", LONG + "a")],
        [message("user", LONG + "b")],
    ),
    "last turn of a long history": (
        [*[message("user", "turn " * 50)] * 200, message("user", "a")],
        [*[message("user", "turn " * 50)] * 200, message("user", "b")],
    ),
    "length of a long prompt": ([message("user", LONG)], [message("user", LONG + "lorem")]),
    "image": (
        [message("user", [{"type": "text", "text": "Q"}, image("data:image/png;base64,AAAA")])],
        [message("user", [{"type": "text", "text": "Q"}, image("data:image/png;base64,AAAB")])],
    ),
    "detail of an image": (
        [message("user", [image("http://h/a.png")])],
        [message("user", [{**image("http://h/a.png"), "x_detail": "high"}])],
    ),
    "tool result": (
        [message("user", "Q"), message("tool", "1", tool_call_id="c")],
        [message("user", "Q"), message("tool", "2", tool_call_id="c")],
    ),
    "reasoning handed back": (
        [message("assistant", "A", reasoning_content="x"), message("user", "Q")],
        [message("assistant", "A", reasoning_content="y"), message("user", "Q")],
    ),
    "letters that only look alike": ([message("user", "a")], [message("user", "а")]),
    "letters in another form": ([message("user", "ﬁx ②")], [message("user", "fix 2")]),
}


@pytest.mark.parametrize("name", HISTORIES)
def test_histories_that_differ_never_share(
    name: str, upstream: FakeUpstream, recollect: RecollectServer
) -> None:
    """System prompts, turns, their order and bounds, images, long prompts: all of it counts."""
    mark = unique(name)

    for messages in HISTORIES[name]:
        body = {"model": mark, "messages": messages}
        assert not recollect.post(CHAT, body).cache.hit

    assert upstream.calls(mark) == 2


@pytest.mark.parametrize(
    "header",
    ["OpenAI-Organization", "OpenAI-Project"],
)
def test_organisation_and_project_count(
    header: str, base: str, upstream: FakeUpstream, recollect: RecollectServer
) -> None:
    """They choose another account, with its own models and limits."""
    before = upstream.calls(base)

    assert not recollect.chat(base, headers={header: "one"}).cache.hit
    assert not recollect.chat(base, headers={header: "two"}).cache.hit
    assert recollect.chat(base, headers={header: "two"}).cache.hit

    assert upstream.calls(base) == before + 2


def test_query_string_counts(upstream: FakeUpstream, recollect: RecollectServer) -> None:
    """An `api-version` may change the answer."""
    prompt = unique("query")

    for query in ("", "?api-version=1", "?api-version=2"):
        assert not recollect.post(CHAT + query, chat_body(prompt)).cache.hit

    assert upstream.calls(prompt) == 3


def test_endpoints_do_not_share(upstream: FakeUpstream, recollect: RecollectServer) -> None:
    """One body may fit two endpoints."""
    prompt = unique("endpoint")
    body = {**chat_body(prompt), "prompt": prompt, "input": prompt}

    for path in (CHAT, COMPLETIONS, EMBEDDINGS):
        assert not recollect.post(path, body).cache.hit

    assert upstream.calls(prompt) == 3


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"dimensions": 4}, {"dimensions": 8}),
        ({"model": "a"}, {"model": "b"}),
        ({}, {"x_unknown": 1}),
        ({}, {"input_type": "query"}),
    ],
)
def test_embedding_parameters_separate(
    one: dict[str, Any], other: dict[str, Any], upstream: FakeUpstream, recollect: RecollectServer
) -> None:
    """A vector depends on all of the request but the form it is sent in."""
    prompt = unique("embedding")

    for fields in (one, other):
        body = {"model": "e", "input": prompt, **fields}
        assert not recollect.post(EMBEDDINGS, body).cache.hit

    assert upstream.calls(prompt) == 2


@pytest.mark.parametrize(
    ("one", "other"),
    [([1, 2], ["1", "2"]), ([1, 2], [[1], [2]]), ("1 2", [1, 2]), (["1"], [[1]])],
)
def test_embedding_inputs_of_another_type_separate(
    one: Any, other: Any, upstream: FakeUpstream, recollect: RecollectServer
) -> None:
    """Tokens are not text, and one list of tokens is not two."""
    mark = unique("input")

    for value in (one, other):
        answer = recollect.post(EMBEDDINGS, {"model": mark, "input": value})
        assert not answer.cache.hit

    assert upstream.calls(mark) == 2


SAME: dict[str, tuple[str, str]] = {
    "key order": (
        '{"model":"m","messages":[{"role":"user","content":"P"}],"seed":1}',
        '{"seed":1,"messages":[{"content":"P","role":"user"}],"model":"m"}',
    ),
    "spacing": (
        '{"model":"m","messages":[{"role":"user","content":"P"}]}',
        ' {\n "model" : "m" ,\t"messages" : [ { "role" : "user" , "content" : "P" } ] }\r\n',
    ),
    "escapes": (
        '{"model":"m","messages":[{"role":"user","content":"P é 🦊 / A"}]}',
        '{"model":"m","messages":[{"role":"user",'
        '"content":"P \\u00e9 \\ud83e\\udd8a \\/ \\u0041"}]}',
    ),
    "escaped names": (
        '{"model":"m","messages":[{"role":"user","content":"P"}]}',
        '{"\\u006dodel":"m","messages":[{"r\\u006fle":"user","content":"P"}]}',
    ),
    "0 and 0.0": (
        '{"model":"m","messages":[{"role":"user","content":"P"}],"temperature":0}',
        '{"model":"m","messages":[{"role":"user","content":"P"}],"temperature":0.0}',
    ),
    "1e2 and 100": (
        '{"model":"m","messages":[{"role":"user","content":"P"}],"max_tokens":100,"x":1e-1}',
        '{"model":"m","messages":[{"role":"user","content":"P"}],"max_tokens":1e2,"x":0.1}',
    ),
    "default temperature": (
        '{"model":"m","messages":[{"role":"user","content":"P"}]}',
        '{"model":"m","messages":[{"role":"user","content":"P"}],"temperature":1,"top_p":1.0,"n":1}',
    ),
    "composed and decomposed letters": (
        '{"model":"m","messages":[{"role":"user","content":"P caf\\u00e9"}]}',
        '{"model":"m","messages":[{"role":"user","content":"P cafe\\u0301"}]}',
    ),
    "line ends": (
        '{"model":"m","messages":[{"role":"user","content":"P a\\nb"}]}',
        '{"model":"m","messages":[{"role":"user","content":"P a\\r\\nb"}]}',
    ),
    "outer white space": (
        '{"model":"m","messages":[{"role":"user","content":"P"}]}',
        '{"model":"m","messages":[{"role":"user","content":"P \\n"}]}',
    ),
}


@pytest.mark.parametrize("name", SAME)
def test_requests_written_differently_share(
    name: str, upstream: FakeUpstream, recollect: RecollectServer
) -> None:
    """JSON's freedoms, folded defaults and normalised text do not separate (design §4)."""
    prompt = unique(name)
    one, other = (body.replace("P", prompt).encode() for body in SAME[name])

    first = recollect.post(CHAT, one)
    second = recollect.post(CHAT, other)

    assert second.cache.hit
    assert second.text == first.text
    assert upstream.calls(prompt) == 1


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("user", "alice"),
        ("metadata", {"a": "b"}),
        ("store", False),
        ("service_tier", "flex"),
        ("stream", False),
    ],
)
def test_fields_that_do_not_change_the_answer_do_not_separate(
    field: str, value: Any, base: str, upstream: FakeUpstream, recollect: RecollectServer
) -> None:
    """The deny-list of design §4."""
    before = upstream.calls(base)

    assert recollect.chat(base, **{field: value}).cache.hit
    assert upstream.calls(base) == before


def test_key_is_made_of_parsed_json_not_of_its_first_bytes(
    upstream: FakeUpstream, recollect: RecollectServer
) -> None:
    """Twenty long bodies, each with another single letter at another place."""
    mark = unique("needle")
    for at in range(20):
        text = LONG[: at * 5000] + "#" + LONG[at * 5000 :]
        body = json.dumps({"model": mark, "messages": [message("user", text)]}).encode()
        assert not recollect.post(CHAT, body).cache.hit

    assert upstream.calls(mark) == 20
