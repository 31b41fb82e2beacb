"""Promise 19: limits of our own, answered in OpenAI's form, and no 5xx for any bytes."""

import asyncio
import gzip
import json
from collections.abc import Iterator

import pytest

from tests.support.fake_upstream import FakeUpstream, Play
from tests.support.http_client import Answer, exchange, json_headers, wire
from tests.support.processes import resident_bytes
from tests.support.recollect_server import (
    CHAT,
    COMPLETIONS,
    EMBEDDINGS,
    RESPONSES,
    RecollectServer,
    chat_body,
    samples,
    unique,
)

MEBIBYTE = 1024**2


def is_envelope(answer: Answer) -> bool:
    """Whether the body is an error in OpenAI's form."""
    error = answer.json["error"]
    return set(error) == {"message", "type", "param", "code"} and bool(error["message"])


@pytest.fixture(scope="module")
def tight(upstream: FakeUpstream) -> Iterator[RecollectServer]:
    """A Recollect with small limits."""
    limits = {"body_bytes": 10_000, "header_bytes": 4096, "json_depth": 20}
    server = RecollectServer(upstream.url, settings={"limits": limits})
    yield server
    server.close()


@pytest.mark.parametrize("path", [CHAT, EMBEDDINGS])
def test_body_above_the_limit_is_refused(
    path: str, upstream: FakeUpstream, tight: RecollectServer
) -> None:
    """413, before the upstream is asked."""
    prompt = unique("body")

    refused = tight.post(path, {"input": prompt + "x" * 10_000})

    assert refused.status == 413
    assert is_envelope(refused)
    assert upstream.calls(prompt) == 0


def test_chunked_body_above_the_limit_is_refused(
    upstream: FakeUpstream, tight: RecollectServer
) -> None:
    """Also where no length announces it."""
    prompt = unique("chunked")
    body = json.dumps(chat_body(prompt + "x" * 20_000)).encode()
    framed = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    head = wire("POST", CHAT, "x", [*json_headers(), ("Transfer-Encoding", "chunked")])

    refused = asyncio.run(exchange(tight.origin, head + framed))

    assert refused.status == 413
    assert upstream.calls(prompt) == 0


def test_headers_above_the_limit_are_refused(tight: RecollectServer) -> None:
    """431 (RFC 6585 §5)."""
    refused = tight.chat(unique("headers"), headers={"X-Large": "x" * 5000})

    assert refused.status == 431
    assert is_envelope(refused)


@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_json_nested_too_deep_is_refused(
    opening: str, upstream: FakeUpstream, tight: RecollectServer
) -> None:
    """400; no recursion of ours depends on it."""
    prompt = unique("deep")
    closing = "]" if opening == "[" else "}"
    deep = opening * 400 + "1" + closing * 400
    body = f'{{"model":"m","messages":[{{"role":"user","content":"{prompt}"}}],"x":{deep}}}'

    refused = tight.post(CHAT, body.encode())

    assert refused.status == 400
    assert is_envelope(refused)
    assert upstream.calls(prompt) == 0


@pytest.mark.parametrize("depth", [2_000, 100_000, 1_000_000])
def test_absurd_nesting_kills_nothing(depth: int, recollect: RecollectServer) -> None:
    """Deeper than any parser's stack."""
    body = b'{"messages":' + b"[" * depth + b"]" * depth + b"}"

    assert 400 <= recollect.post(CHAT, body).status < 500
    assert recollect.chat(unique("alive")).status == 200


REFUSED: dict[str, tuple[str, str, str | None]] = {
    "NaN": (CHAT, '{"model":"P","messages":[],"temperature":NaN}', None),
    "Infinity": (CHAT, '{"model":"P","messages":[],"temperature":Infinity}', None),
    "-Infinity": (CHAT, '{"model":"P","messages":[],"temperature":-Infinity}', None),
    "lone surrogate": (CHAT, '{"model":"P","messages":[{"content":"\\ud800"}]}', None),
    "lone low surrogate": (CHAT, '{"model":"P","messages":[{"content":"\\udc00x"}]}', None),
    "surrogate in a name": (CHAT, '{"model":"P","messages":[],"\\ud83e":1}', None),
    "duplicate key": (CHAT, '{"model":"P","messages":[],"model":"Q"}', None),
    "duplicate key inside": (CHAT, '{"model":"P","messages":[{"role":"a","role":"b"}]}', None),
    "duplicate key by escape": (CHAT, '{"model":"P","messages":[],"m\\u006fdel":"Q"}', None),
    "model is a number": (CHAT, '{"model":1,"messages":[],"user":"P"}', "model"),
    "model is null": (CHAT, '{"model":null,"messages":[],"user":"P"}', "model"),
    "stream is text": (CHAT, '{"model":"P","messages":[],"stream":"true"}', "stream"),
    "stream is a number": (CHAT, '{"model":"P","messages":[],"stream":1}', "stream"),
    "stream_options is a list": (
        CHAT,
        '{"model":"P","messages":[],"stream":true,"stream_options":[]}',
        "stream_options",
    ),
    "messages is text": (CHAT, '{"model":"P","messages":"x"}', "messages"),
    "message is text": (CHAT, '{"model":"P","messages":["x"]}', "messages"),
    "input is an object": (EMBEDDINGS, '{"model":"P","input":{}}', "input"),
    "input is a number": (EMBEDDINGS, '{"model":"P","input":7}', "input"),
    "cache is text": (CHAT, '{"model":"P","messages":[],"cache":"no"}', "cache"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_body_that_two_parsers_may_read_differently_is_refused(
    name: str, upstream: FakeUpstream, recollect: RecollectServer
) -> None:
    """400 in OpenAI's form; the upstream is not asked, so that key and meaning cannot part."""
    path, body, param = REFUSED[name]
    prompt = unique("refused")

    refused = recollect.post(path, body.replace("P", prompt).encode())

    assert refused.status == 400
    assert is_envelope(refused)
    if param is not None:
        assert str(refused.json["error"]["param"]).startswith(param)
    assert upstream.calls(prompt) == 0


MALFORMED = {
    "empty": b"",
    "cut": b'{"model": "m", "messages": [',
    "not JSON": b"model=m",
    "two documents": b"{}{}",
    "list": b"[]",
    "text": b'"x"',
    "number": b"7",
    "null": b"null",
    "trailing comma": b'{"model":"m",}',
    "single quotes": b"{'model':'m'}",
    "control character": b'{"model":"m\x01"}',
    "not UTF-8": b'{"model":"\xff\xfe"}',
    "UTF-16": '{"model":"m"}'.encode("utf-16"),
    "overlong UTF-8": b'{"model":"\xc0\xaf"}',
    "surrogate in UTF-8": b'{"model":"\xed\xa0\x80"}',
    "zero bytes": b"\x00" * 100,
    "byte order mark": b'\xef\xbb\xbf{"model":"m"}',
}


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES])
@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_body_never_makes_a_5xx(
    name: str, path: str, upstream: FakeUpstream, recollect: RecollectServer
) -> None:
    """What is no JSON object goes to the upstream untouched, or is refused; nothing is stored."""
    mark = unique("malformed").replace(" ", "-")
    body = MALFORMED[name]

    answer = recollect.post(f"{path}?{mark}", body)

    assert answer.status < 500
    if answer.status == 200:
        assert answer.cache.fwd == "bypass"
        assert upstream.seen(mark)[0].body == body
    else:
        assert is_envelope(answer)


MODELS = [
    "a\x00b",
    "a\r\nX-Injected: 1",
    "a\\nrecollect_injected_total 1",
    'quote"}',
    "../../etc/passwd",
    "*?[a-z]*",
    "m" * 10_000,
    "模型 🦊 é",
    "\u202e\ufeff\u2028",
    "{namespace}:%s%n$(id)`id`",
    " ",
    "",
]


@pytest.mark.parametrize("model", MODELS, ids=range(len(MODELS)))
def test_any_model_name_is_safe(
    model: str, upstream: FakeUpstream, recollect: RecollectServer
) -> None:
    """In keys, headers, labels and logs."""
    prompt = unique("model")

    given = [recollect.chat(prompt, model=model) for _ in range(2)]

    assert [answer.status for answer in given] == [200, 200]
    assert given[1].cache.hit
    assert given[1].json["model"] == model
    assert not any(answer.all("x-injected") for answer in given)
    exposed = list(samples(recollect.get("/metrics").body.decode()))
    assert not any("injected" in name for name, _, _ in exposed)
    if model.strip():
        assert not any(model in label for _, labels, _ in exposed for label in labels.values())


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "x-unknown"])
def test_compressed_request_is_not_unpacked_by_us(
    coding: str, upstream: FakeUpstream, recollect: RecollectServer
) -> None:
    """What we cannot read we do not cache; the upstream gets it as it is."""
    mark = unique("coded").replace(" ", "-")
    body = gzip.compress(json.dumps(chat_body(mark)).encode())

    answer = recollect.post(f"{CHAT}?{mark}", body, headers={"Content-Encoding": coding})

    assert answer.status < 500
    if answer.status == 200:
        assert not answer.cache.hit
        assert upstream.seen(mark)[0].body == body


def test_answer_that_inflates_without_bound_is_not_stored(
    upstream: FakeUpstream, recollect: RecollectServer
) -> None:
    """500 kB of gzip that would be 500 MB pass as they are, with bounded memory."""
    prompt = unique("bomb")
    bomb = gzip.compress(b" " * 500 * MEBIBYTE, 9)
    headers = [("Content-Encoding", "gzip")]
    upstream.on(prompt, Play(headers=headers, mangle=lambda _: [bomb]))
    (pid,) = recollect.worker_pids()
    recollect.chat(unique("before"))
    before = resident_bytes(pid)

    given = [recollect.chat(prompt, headers={"Accept-Encoding": "gzip"}) for _ in range(2)]

    assert [answer.body == bomb for answer in given] == [True, True]
    assert not given[1].cache.hit
    assert resident_bytes(pid) < before + 40 * MEBIBYTE


@pytest.mark.parametrize("path", ["/", "/v2/x", "/chat/completions", "/v1", "/v10/models", "/v1x"])
def test_path_outside_the_base_url_is_a_404_of_our_own(
    path: str, upstream: FakeUpstream, recollect: RecollectServer
) -> None:
    """In OpenAI's form, and the upstream is not asked."""
    mark = unique("path").replace(" ", "-")

    answer = recollect.get(f"{path}?{mark}")

    assert answer.status == 404
    assert is_envelope(answer)
    assert upstream.calls(mark) == 0
