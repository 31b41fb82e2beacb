"""Promise 3: requests reach the upstream, and answers the client, as they were sent."""

import asyncio
import gzip
import json
from collections.abc import Iterator

import pytest

from tests.support.fake_upstream import FakeUpstream, Play
from tests.support.http_client import exchange, json_headers, wire
from tests.support.recollect_server import CHAT, RecollectServer, StartRecollect, chat_body, unique

# What a proxy must set for itself (RFC 9110 §7.2, §7.6.1; RFC 9112 §6).
OF_THE_CONNECTION = {"host", "connection", "content-length", "transfer-encoding"}


@pytest.mark.parametrize(
    "template",
    [
        '{"model":"m","messages":[{"role":"user","content":"%s"}]}',
        '{ "messages" :[ {"content": "%s", "role":"user"} ] ,\n\t"model" : "m" }',
        '{"model":"m","messages":[{"role":"user","content":"%s \\u00e9 \\ud83e\\udd8a \\/"}]}',
        '{"model":"m","messages":[{"role":"user","content":"%s é 🦊"}]}',
        '{"model":"m","seed":123456789012345678901234567890,"temperature":0.10000000000000001,'
        '"messages":[{"role":"user","content":"%s"}]}',
        '{"model":"m","x_vendor":{"deep":[1.0,1e2,-0.0,null,true]},"guided_json":{},'
        '"messages":[{"role":"user","content":"%s"}]}',
        '{"model":"m","stream":true,"messages":[{"role":"user","content":"%s"}]}',
        '{"model":"m","stream":true,"stream_options":{"include_usage":false},'
        '"messages":[{"role":"user","content":"%s"}]}',
    ],
)
def test_body_reaches_the_upstream_byte_for_byte(
    template: str, upstream: FakeUpstream, recollect: RecollectServer
) -> None:
    """Spacing, escapes, numbers, unknown fields stay; no `stream_options` are added."""
    prompt = unique("body")
    body = (template % prompt).encode()

    answer = recollect.post(CHAT, body)

    assert answer.status == 200
    (seen,) = upstream.seen(prompt)
    assert seen.body == body


@pytest.mark.parametrize("field", ["cache"])
def test_only_the_field_meant_for_the_cache_is_taken_out(
    field: str, upstream: FakeUpstream, recollect: RecollectServer
) -> None:
    """`cache` is LiteLLM's field for its cache, unknown to upstreams (design §6)."""
    prompt = unique("cache field")
    body = chat_body(prompt, temperature=0.5)

    recollect.post(CHAT, {**body, field: {"no-store": True}})

    assert upstream.seen(prompt)[0].json == body


@pytest.mark.parametrize(
    "query",
    [
        "?api-version=2024-10-21",
        "?a=1&a=2&b=&c",
        "?q=%20%2F%E9+x&amp;",
        "?x={}[]|'",
    ],
)
@pytest.mark.parametrize("path", [CHAT, "/v1/models"])
def test_query_string_is_not_touched(
    path: str, query: str, upstream: FakeUpstream, recollect: RecollectServer
) -> None:
    """Neither decoded and encoded again, nor sorted."""
    prompt = unique("query")
    target = f"{path}{query}&mark={prompt[6:]}"
    if path == CHAT:
        body = json.dumps(chat_body(prompt)).encode()
        answer = recollect.send("POST", target, json_headers(), body)
    else:
        answer = recollect.get(target)

    assert answer.status == 200
    assert upstream.seen(prompt[6:])[0].target == target


@pytest.mark.parametrize(
    "path",
    [
        "/v1/models/org%2Fname",
        "/v1/models/a%20b",
        "/v1/files/x%E2%82%AC",
        "/v1/threads/t//runs/",
        "/v1/models/a:b@c;d,e",
    ],
)
def test_path_is_not_touched(path: str, upstream: FakeUpstream, recollect: RecollectServer) -> None:
    """Percent encoding means what the upstream makes of it."""
    mark = unique("path")[5:]

    assert recollect.get(f"{path}?{mark}").status == 200
    assert upstream.seen(mark)[0].target == f"{path}?{mark}"


@pytest.mark.parametrize("is_cacheable", [True, False])
def test_headers_reach_the_upstream_and_nothing_is_added(
    is_cacheable: bool, upstream: FakeUpstream, recollect: RecollectServer
) -> None:
    """Every end-to-end header comes through, repeated ones in their order."""
    prompt = unique("headers")
    sent = [
        ("Authorization", "Bearer sk-1"),
        ("Content-Type", "application/json; charset=utf-8"),
        ("User-Agent", "OpenAI/Python 1.2.3"),
        ("Accept", "application/json"),
        ("Accept-Encoding", "gzip, deflate"),
        ("X-Stainless-Lang", "python"),
        ("X-Twice", "one"),
        ("X-Twice", "two"),
        ("X-Empty", ""),
        ("OpenAI-Organization", "org-1"),
        ("Idempotency-Key", "abc"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    ]
    body = json.dumps(chat_body(prompt)).encode()
    recollect.send("POST", CHAT if is_cacheable else "/v1/other", sent, body)

    (seen,) = upstream.seen(prompt)
    arrived = [(k.lower(), v) for k, v in seen.headers if k.lower() not in OF_THE_CONNECTION]
    for name in {name.lower() for name, _ in sent}:
        assert [v for k, v in arrived if k == name] == [v for k, v in sent if k.lower() == name]
    added = {name for name, _ in arrived} - {name.lower() for name, _ in sent}
    assert not added, f"added: {added}"
    assert seen.all("host") == [f"127.0.0.1:{upstream.port}"]


def test_header_text_beyond_ascii_reaches_the_upstream(
    upstream: FakeUpstream, recollect: RecollectServer
) -> None:
    """It is opaque to a proxy (RFC 9110 §5.5); the value is one character per byte."""
    prompt = unique("bytes")

    recollect.chat(prompt, headers={"X-Bytes": "caf\xc3\xa9"})

    assert upstream.seen(prompt)[0].all("x-bytes") == ["caf\xc3\xa9"]


def test_header_bytes_that_are_no_utf_8_are_refused_not_altered(
    upstream: FakeUpstream, recollect: RecollectServer
) -> None:
    """Our HTTP client can only send UTF-8 (a stated limit): better 400 than another value."""
    prompt = unique("bytes")

    answer = recollect.chat(prompt, headers={"X-Bytes": "caf\xe9"})

    assert (answer.status, answer.json["error"]["code"]) == (400, "invalid_header")
    assert upstream.calls(prompt) == 0


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"])
def test_other_endpoints_pass_with_any_method(
    method: str, upstream: FakeUpstream, recollect: RecollectServer
) -> None:
    """Everything else below /v1 is passed through (issue: surface)."""
    mark = unique("m")[2:]
    body = mark.encode() if method in ("POST", "PUT", "PATCH") else None

    answer = recollect.send(method, f"/v1/anything/{mark}", (), body)

    (seen,) = upstream.seen(f"/v1/anything/{mark}")
    assert (seen.method, seen.body) == (method, body or b"")
    assert answer.status == 200
    if method != "HEAD":
        assert answer.json["call"] == seen.number


def test_multipart_upload_passes_byte_for_byte(
    upstream: FakeUpstream, recollect: RecollectServer
) -> None:
    """Files are not looked into."""
    mark = unique("file")
    part = b'Content-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + mark.encode()
    body = b"--xyz\r\n" + part + b"\x00\xff\r\n--xyz--\r\n"
    headers = [("Content-Type", "multipart/form-data; boundary=xyz")]

    recollect.send("POST", "/v1/files", headers, body)

    (seen,) = upstream.seen(mark)
    assert seen.body == body
    assert seen.all("content-type") == ["multipart/form-data; boundary=xyz"]


def test_chunked_upload_passes(upstream: FakeUpstream, recollect: RecollectServer) -> None:
    """A body without a length arrives whole."""
    mark = unique("chunked")
    piece = mark.encode()
    raw = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for _ in range(3)) + b"0\r\n\r\n"
    headers = [("Transfer-Encoding", "chunked"), ("Content-Type", "application/octet-stream")]

    async def upload() -> int:
        head = wire("POST", "/v1/audio", "localhost", headers)
        return (await exchange(recollect.origin, head + raw)).status

    assert asyncio.run(upload()) == 200
    assert upstream.seen(mark)[0].body == piece * 3


@pytest.mark.parametrize("path", [CHAT, "/v1/other"])
def test_answer_headers_reach_the_client(
    path: str, upstream: FakeUpstream, recollect: RecollectServer
) -> None:
    """End-to-end headers come through on a forwarded answer, repeated ones too."""
    prompt = unique("answer headers")
    sent = [
        ("X-Ratelimit-Remaining-Tokens", "12"),
        ("OpenAI-Processing-Ms", "7"),
        ("X-Request-Id", "req_upstream"),
        ("X-Twice", "one"),
        ("X-Twice", "two"),
        ("Set-Cookie", "a=1; Path=/"),
        ("Set-Cookie", "b=2"),
        ("Content-Type", "application/json; charset=utf-8"),
        ("X-Latin", "caf\xe9"),
    ]
    upstream.on(prompt, Play(headers=sent))

    answer = recollect.post(path, chat_body(prompt))

    for name in {name for name, _ in sent}:
        assert answer.all(name) == [value for key, value in sent if key == name]


@pytest.mark.parametrize("name", ["Connection", "Keep-Alive", "Proxy-Authenticate", "X-Hop"])
def test_hop_by_hop_headers_of_the_answer_end_here(
    name: str, upstream: FakeUpstream, recollect: RecollectServer
) -> None:
    """RFC 9110 §7.6.1: those fields, and those `Connection` names, are for this hop."""
    prompt = unique("hop")
    sent = [("Connection", "keep-alive, X-Hop"), ("Keep-Alive", "timeout=7")]
    sent += [("Proxy-Authenticate", "Basic"), ("X-Hop", "1"), ("X-Stays", "1")]
    upstream.on(prompt, Play(headers=sent))

    answer = recollect.chat(prompt)

    assert answer.header("x-stays") == "1"
    assert not {value for value in answer.all(name) if "X-Hop" in value or name != "Connection"}


@pytest.mark.parametrize("path", [CHAT, "/v1/other"])
def test_compressed_answer_is_readable(
    path: str, upstream: FakeUpstream, recollect: RecollectServer
) -> None:
    """The coding is left alone or undone, and named accordingly; a replay is as readable."""
    prompt = unique("gzip")
    upstream.on(
        prompt,
        Play(headers=[("Content-Encoding", "gzip")], mangle=lambda made: [gzip.compress(made[0])]),
    )
    accepts = {"Accept-Encoding": "gzip"}

    read = []
    for _ in range(2):
        answer = recollect.post(path, chat_body(prompt), headers=accepts)
        is_coded = answer.header("content-encoding") == "gzip"
        read.append(json.loads(gzip.decompress(answer.body) if is_coded else answer.body))

    assert read[0]["object"] == ("chat.completion" if path == CHAT else "echo")
    if path == CHAT:
        assert upstream.calls(prompt) == 1
        assert read[0]["choices"] == read[1]["choices"]
        plain = recollect.chat(prompt)
        assert plain.header("content-encoding") == ""
        assert plain.json["choices"] == read[0]["choices"]


def test_binary_answer_passes_byte_for_byte(
    upstream: FakeUpstream, recollect: RecollectServer
) -> None:
    """Audio is not text."""
    mark = unique("audio")
    sound = bytes(range(256)) * 500
    upstream.on(mark, Play(body=sound, headers=[("Content-Type", "audio/mpeg")]))

    answer = recollect.post("/v1/audio/speech", {"input": mark})

    assert answer.body == sound
    assert answer.header("content-type") == "audio/mpeg"


def test_stream_of_another_endpoint_comes_as_it_is_sent(
    upstream: FakeUpstream, recollect: RecollectServer
) -> None:
    """Anthropic's messages stream passes untouched and unparsed."""
    mark = unique("messages")
    events = [b"event: ping\ndata: {}\n\n", b"event: x\ndata: \xc3\xa9\n\n"]
    event_stream = [("Content-Type", "text/event-stream")]
    upstream.on(mark, Play(headers=event_stream, mangle=lambda _: [*events, 0.05, b": end\n\n"]))

    answer = recollect.post("/v1/messages", {"stream": True, "input": mark})

    assert answer.body == b"".join(events) + b": end\n\n"
    assert answer.is_stream
    assert answer.is_complete


@pytest.fixture(scope="module")
def prefixed(upstream: FakeUpstream) -> Iterator[RecollectServer]:
    """A Recollect whose upstream lives below a path."""
    server = RecollectServer(upstream.url + "/openai/v1")
    yield server
    server.close()


def test_upstream_below_a_path(upstream: FakeUpstream, prefixed: RecollectServer) -> None:
    """`/v1/x` becomes the configured path and `/x`."""
    prompt = unique("prefix")

    assert prefixed.chat(prompt).status == 200
    assert prefixed.get(f"/v1/models?{prompt[7:]}").status == 200

    assert [seen.target for seen in upstream.seen(prompt[7:])] == [
        "/openai/v1/chat/completions",
        f"/openai/v1/models?{prompt[7:]}",
    ]


def test_configured_key_replaces_the_clients(
    upstream: FakeUpstream, start_recollect: StartRecollect
) -> None:
    """The upstream sees the configured credential, and never the client's."""
    prompt = unique("key")
    server = start_recollect(upstream.url, settings={"upstream": {"api_key": "sk-configured"}})

    server.chat(prompt, key="sk-client")

    assert upstream.seen(prompt)[0].all("authorization") == ["Bearer sk-configured"]
