"""Promise 1: a repeated request gets an equal answer with no upstream call.

Errors, in whatever guise, are never stored.
"""

import json
import time
from typing import Any

import pytest

from tests.support.fake_upstream import FakeUpstream, Play
from tests.support.http_client import Answer, comparable, ids_of
from tests.support.openai_answers import Said
from tests.support.recollect_server import (
    CHAT,
    COMPLETIONS,
    EMBEDDINGS,
    RESPONSES,
    RecollectServer,
    unique,
)
from tests.support.sse import assembled

TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
USAGE = {"stream_options": {"include_usage": True}}

REQUESTS: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": (CHAT, {}),
    "chat-with-tools": (CHAT, {"tools": [TOOL]}),
    "chat-with-three-choices": (CHAT, {"n": 3}),
    "completions": (COMPLETIONS, {}),
    "responses": (RESPONSES, {}),
    "embeddings": (EMBEDDINGS, {}),
    "embeddings-batch": (EMBEDDINGS, {"encoding_format": "base64"}),
}
STREAMED = [name for name in REQUESTS if not name.startswith("embeddings")]


def body_of(name: str, prompt: str, **fields: Any) -> tuple[str, dict[str, Any]]:
    """Return the path and the body of one of `REQUESTS`."""
    path, own = REQUESTS[name]
    match path:
        case "/v1/chat/completions":
            given: dict[str, Any] = {"messages": [{"role": "user", "content": prompt}]}
        case "/v1/completions":
            given = {"prompt": prompt}
        case "/v1/responses":
            given = {"input": prompt, "store": False}
        case _:
            given = {"input": [prompt, prompt + " too"] if "batch" in name else prompt}
    return path, {"model": "fake-1", **given, **own, **fields}


@pytest.mark.parametrize("name", REQUESTS)
def test_repeated_request_gets_an_equal_answer(
    name: str, upstream: FakeUpstream, recollect: RecollectServer
) -> None:
    """Every field but `id` and `created` is equal, and the upstream is not asked again."""
    prompt = unique(name)
    path, body = body_of(name, prompt)

    first = recollect.post(path, body)
    second = recollect.post(path, body)

    assert (first.status, second.status) == (200, 200)
    assert not first.cache.hit
    assert second.cache.hit
    assert comparable(first) == comparable(second)
    assert first.header("content-type") == second.header("content-type")
    assert upstream.calls(prompt) == 1


@pytest.mark.parametrize("name", STREAMED)
def test_repeated_stream_comes_in_equal_chunks(
    name: str, upstream: FakeUpstream, recollect: RecollectServer
) -> None:
    """A stream replays in the chunks it came in."""
    prompt = unique(name)
    path, body = body_of(name, prompt, stream=True)

    first = recollect.post(path, body)
    second = recollect.post(path, body)

    assert first.is_stream
    assert second.is_stream
    assert second.is_complete
    assert second.cache.hit
    assert comparable(first) == comparable(second)
    assert upstream.calls(prompt) == 1


@pytest.mark.parametrize("name", [x for x in STREAMED if x != "responses"])
def test_stored_stream_answers_a_plain_request(
    name: str, upstream: FakeUpstream, recollect: RecollectServer
) -> None:
    """What the model said is stored, not how it was sent: JSON from a stream equals JSON."""
    prompt = unique(name)
    path, plain = body_of(name, prompt)
    path, streamed = body_of(name, prompt, stream=True, **USAGE)
    recollect.post(path, streamed)

    answer = recollect.post(path, plain)

    assert answer.cache.hit
    assert not answer.is_stream
    assert upstream.calls(prompt) == 1
    assert said_in(answer) == said_in(recollect.post(path, streamed))
    assert answer.json["usage"]["total_tokens"] > 0


@pytest.mark.parametrize("name", [x for x in STREAMED if x != "responses"])
def test_stored_document_answers_a_streamed_request(
    name: str, upstream: FakeUpstream, recollect: RecollectServer
) -> None:
    """The other way round, with the terminator and with the usage that was asked for."""
    prompt = unique(name)
    path, plain = body_of(name, prompt)
    path, streamed = body_of(name, prompt, stream=True, **USAGE)
    first = recollect.post(path, plain)

    answer = recollect.post(path, streamed)

    assert answer.cache.hit
    assert answer.is_stream
    assert answer.body.rstrip().endswith(b"[DONE]")
    assert upstream.calls(prompt) == 1
    assert said_in(answer) == said_in(first)
    assert comparable(answer)[-1]["usage"] == first.json["usage"]


@pytest.mark.parametrize("is_streamed_first", [False, True])
def test_responses_replay_in_either_form(
    is_streamed_first: bool, upstream: FakeUpstream, recollect: RecollectServer
) -> None:
    """The final response of a stream is the response of the plain form."""
    prompt = unique("responses")
    path, first = body_of("responses", prompt, stream=is_streamed_first)
    path, second = body_of("responses", prompt, stream=not is_streamed_first)

    given = [recollect.post(path, first), recollect.post(path, second)]

    assert given[1].cache.hit
    assert upstream.calls(prompt) == 1
    plain, streamed = given if not is_streamed_first else given[::-1]
    completed = comparable(streamed)[-1]
    assert completed["type"] == "response.completed"
    assert completed["response"] == comparable(plain)


@pytest.mark.parametrize("is_stream", [False, True])
def test_hit_has_a_fresh_id_and_is_created_now(
    is_stream: bool, upstream: FakeUpstream, recollect: RecollectServer
) -> None:
    """Two answers never share an id, and all chunks of one answer do (design §5)."""
    prompt = unique("fresh")
    first = recollect.chat(prompt, stream=is_stream)
    begun = int(time.time())
    hits = [recollect.chat(prompt, stream=is_stream) for _ in range(2)]

    ids = [set(ids_of(answer)) for answer in (first, *hits)]
    assert all(len(found) == 1 for found in ids)
    assert len(set.union(*ids)) == 3
    for hit in hits:
        made = json.loads(hit.body.split(b"\n")[0].removeprefix(b"data: "))["created"]
        assert begun <= made <= time.time() + 1


def test_age_is_zero_when_forwarded_and_grows_on_hits(
    upstream: FakeUpstream, recollect: RecollectServer
) -> None:
    """Every answer of a cacheable endpoint says its age and what the cache did (design §6)."""
    prompt = unique("age")
    first = recollect.chat(prompt)
    second = recollect.chat(prompt)

    assert first.header("age") == "0"
    assert first.cache.fwd == "miss"
    assert 0 <= int(second.header("age")) <= 2
    assert second.cache.detail == "exact"
    assert second.cache.ttl_s is not None
    assert 3000 < second.cache.ttl_s <= 3600
    assert first.header("x-request-id") != second.header("x-request-id") != ""


STATUSES = [400, 401, 403, 404, 408, 409, 413, 422, 429, 500, 502, 503, 504, 529]


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize("status", STATUSES)
def test_error_status_is_passed_on_and_never_stored(
    status: int, is_stream: bool, upstream: FakeUpstream, recollect: RecollectServer
) -> None:
    """An upstream's error reaches the client byte for byte; the next request asks again."""
    prompt = unique(f"status {status}")
    error = b'{ "error" : {"message":"no \\u00e9", "type": "x", "param":null, "code":"c"} }'
    upstream.on(prompt, Play(status=status, body=error), Play())

    failed = recollect.chat(prompt, stream=is_stream)
    after = recollect.chat(prompt, stream=is_stream)

    assert (failed.status, failed.body) == (status, error)
    assert failed.cache.fwd_status == status
    assert not failed.cache.stored
    assert after.status == 200
    assert not after.cache.hit
    assert upstream.calls(prompt) == 2


def document(**fields: Any) -> bytes:
    """Return a chat completion with `fields` over the good ones."""
    choice = {"index": 0, "message": {"role": "assistant", "content": "x"}, "finish_reason": "stop"}
    whole = {"id": "a", "object": "chat.completion", "created": 1, "choices": [choice], **fields}
    return json.dumps(whole).encode()


NOT_ANSWERS = {
    "error-in-a-200": b'{"error": {"message": "overloaded", "type": "server_error"}}',
    "error-beside-choices": document(error={"message": "x"}),
    "html": b"<html><body>gateway</body></html>",
    "empty": b"",
    "broken-json": document()[:-10],
    "not-an-object": b"[1, 2]",
    "text": b'"hello"',
    "null": b"null",
    "no-choices": document(choices=[]),
    "choices-missing": b'{"id": "a", "object": "chat.completion"}',
    "no-finish-reason": document(choices=[{"index": 0, "message": {"content": "x"}}]),
}


@pytest.mark.parametrize("name", NOT_ANSWERS)
def test_body_that_is_no_answer_is_passed_on_and_never_stored(
    name: str, upstream: FakeUpstream, recollect: RecollectServer
) -> None:
    """A 200 alone does not make an answer."""
    prompt = unique(name)
    upstream.on(prompt, Play(body=NOT_ANSWERS[name]))

    given = [recollect.chat(prompt) for _ in range(2)]

    assert [answer.body for answer in given] == [NOT_ANSWERS[name]] * 2
    assert not any(answer.cache.hit or answer.cache.stored for answer in given)
    assert upstream.calls(prompt) == 2


def test_html_with_its_own_content_type_is_not_stored(
    upstream: FakeUpstream, recollect: RecollectServer
) -> None:
    """A captive portal's page is not an answer even where its text is one."""
    prompt = unique("portal")
    upstream.on(prompt, Play(headers=[("Content-Type", "text/html")]))

    given = [recollect.chat(prompt) for _ in range(2)]

    assert given[0].header("content-type") == "text/html"
    assert upstream.calls(prompt) == 2


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize(
    ("said", "detail"),
    [
        (Said("cut off by the limit", finish_reason="length"), "finish-reason"),
        (Said("", finish_reason="content_filter"), "finish-reason"),
        (Said("", refusal="I cannot say."), "refusal"),
    ],
)
def test_answer_that_may_not_be_repeated_is_not_stored(
    said: Said, detail: str, is_stream: bool, upstream: FakeUpstream, recollect: RecollectServer
) -> None:
    """By default: no cut-off, filtered or refused answers (design §5); the reason is said."""
    prompt = unique("not stored")
    upstream.on(prompt, Play(said=said))

    given = [recollect.chat(prompt, stream=is_stream) for _ in range(2)]

    assert not any(answer.cache.hit for answer in given)
    if not is_stream:
        assert given[0].cache.detail == detail
    assert upstream.calls(prompt) == 2


@pytest.mark.parametrize("status", [201, 202, 204, 206])
def test_only_status_200_is_stored(
    status: int, upstream: FakeUpstream, recollect: RecollectServer
) -> None:
    """Another success has a meaning that a replay would lose."""
    prompt = unique(f"status {status}")
    upstream.on(prompt, Play(status=status))

    given = [recollect.chat(prompt) for _ in range(2)]

    assert [answer.status for answer in given] == [status] * 2
    assert upstream.calls(prompt) == 2


def test_partly_known_batch_forwards_only_the_unknown(
    upstream: FakeUpstream, recollect: RecollectServer
) -> None:
    """Each embedding input is an entry of its own; the batch comes back in order."""
    known, new = unique("known"), unique("new")
    alone = recollect.post(EMBEDDINGS, {"model": "e", "input": known})

    batch = recollect.post(EMBEDDINGS, {"model": "e", "input": [new, known, new + "!"]})

    assert batch.cache.fwd == "partial"
    assert upstream.calls(known) == 1
    (asked,) = upstream.seen(new)
    assert asked.json["input"] == [new, new + "!"]
    vectors = batch.json["data"]
    assert [vector["index"] for vector in vectors] == [0, 1, 2]
    assert vectors[1]["embedding"] == alone.json["data"][0]["embedding"]
    assert vectors[0]["embedding"] != vectors[2]["embedding"]
    again = recollect.post(EMBEDDINGS, {"model": "e", "input": [new + "!", new]})
    assert again.cache.hit
    assert again.json["data"][1]["embedding"] == vectors[0]["embedding"]


def said_in(answer: Answer) -> list[tuple[Any, ...]]:
    """Return what each choice says, whichever form it has."""
    if answer.is_stream:
        return [
            (
                choice["text"],
                [(c["id"], c["name"], c["arguments"]) for c in choice["tool_calls"].values()],
                choice["finish_reason"],
            )
            for choice in assembled(answer.body)
        ]
    found = []
    for choice in answer.json["choices"]:
        message = choice.get("message", {"content": choice.get("text")})
        calls = [
            (call["id"], call["function"]["name"], call["function"]["arguments"])
            for call in message.get("tool_calls") or ()
        ]
        found.append((message["content"] or "", calls, choice["finish_reason"]))
    return found
