"""Promises 15, 17 and 18: one try, to the configured address, and nothing kept or executed."""

import ast
import json
from pathlib import Path

import pytest

from tests.support.fake_upstream import FakeUpstream, Play
from tests.support.http_client import json_headers
from tests.support.recollect_server import (
    CHAT,
    EMBEDDINGS,
    RecollectServer,
    StartRecollect,
    chat_body,
    unique,
)

ROOT = Path(__file__).parents[2]


def test_retry_after_passes(upstream: FakeUpstream, recollect: RecollectServer) -> None:
    """A client can only wait as long as it should if it is told."""
    prompt = unique("429")
    headers = [("Retry-After", "17"), ("x-ratelimit-reset-requests", "1s")]
    upstream.on(prompt, Play(status=429, headers=headers, body=b'{"error": {"code": "x"}}'))

    answer = recollect.chat(prompt)

    assert answer.status == 429
    assert answer.header("retry-after") == "17"
    assert answer.header("x-ratelimit-reset-requests") == "1s"
    assert answer.body == b'{"error": {"code": "x"}}'


FAILURES = {
    "429": Play(status=429),
    "500": Play(status=500),
    "503 with Retry-After": Play(status=503, headers=[("Retry-After", "0")]),
    "closed without an answer": Play(is_mute=True),
    "cut in the middle": Play(mangle=lambda made: [made[0][:40], 0.1], is_cut=True),
}


@pytest.mark.parametrize("path", [CHAT, EMBEDDINGS, "/v1/other"])
@pytest.mark.parametrize("failure", FAILURES)
def test_upstream_is_tried_once(
    failure: str, path: str, upstream: FakeUpstream, recollect: RecollectServer
) -> None:
    """Retries are the client's to decide; doubled ones pile up."""
    prompt = unique(failure)
    recollect.chat(unique("keeps a connection open"))
    upstream.on(prompt, FAILURES[failure])

    answer = recollect.post(path, {**chat_body(prompt), "input": prompt})

    assert upstream.calls(prompt) == 1
    assert answer.status != 200 or not answer.is_complete
    if failure == "closed without an answer":
        assert answer.status == 502
        assert answer.json["error"]["type"]


def test_stream_that_has_begun_is_never_tried_again(
    upstream: FakeUpstream, recollect: RecollectServer
) -> None:
    """The client would get the beginning twice."""
    prompt = unique("begun")
    upstream.on(prompt, Play(mangle=lambda made: [*made[:4], 0.1], is_cut=True))

    assert not recollect.chat(prompt, stream=True).is_complete

    assert upstream.calls(prompt) == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("path", [CHAT, "/v1/files"])
def test_redirects_are_passed_on_not_followed(
    status: int, path: str, upstream: FakeUpstream, recollect: RecollectServer
) -> None:
    """Else an upstream could have a prompt sent anywhere."""
    prompt = unique("redirect")
    target = f"{upstream.url}/stolen/{prompt[9:]}"
    upstream.on(prompt, Play(status=status, headers=[("Location", target)], body=b""))

    answer = recollect.post(path, chat_body(prompt))

    assert answer.status == status
    assert answer.header("location") == target
    assert upstream.calls(f"/stolen/{prompt[9:]}") == 0
    assert upstream.calls(prompt) == 1


def test_environment_proxies_are_not_used(
    upstream: FakeUpstream, start_recollect: StartRecollect
) -> None:
    """A stray HTTP_PROXY must not see prompts and keys."""
    spy = FakeUpstream()
    names = ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "HTTPS_PROXY")
    server = start_recollect(upstream.url, environment=dict.fromkeys(names, spy.url))

    assert server.chat(unique("proxy")).status == 200
    assert server.get("/v1/models").status == 200

    assert spy.calls() == 0
    spy.close()


def test_netrc_is_not_used(
    upstream: FakeUpstream, start_recollect: StartRecollect, tmp_path: Path
) -> None:
    """A credential that nobody configured is not sent."""
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login a password b\n")
    netrc = {"NETRC": str(tmp_path / "netrc")}
    server = start_recollect(upstream.url, environment=netrc)
    prompt = unique("netrc")
    body = json.dumps(chat_body(prompt)).encode()

    server.send("POST", CHAT, [("Content-Type", "application/json")], body)

    assert upstream.seen(prompt)[0].all("authorization") == []


def test_upstreams_cookies_are_not_kept(upstream: FakeUpstream, recollect: RecollectServer) -> None:
    """One caller's session must not travel with another's request."""
    first, second = unique("cookie"), unique("cookie")
    upstream.on(first, Play(headers=[("Set-Cookie", "session=alice; Path=/")]))
    recollect.chat(first)

    recollect.chat(second)
    recollect.get(f"/v1/models?{second[7:]}")

    for seen in upstream.seen(second[7:]):
        assert seen.all("cookie") == []


@pytest.mark.parametrize(
    "headers",
    [
        [("X-Forwarded-Host", "evil.example")],
        [("Forwarded", "host=evil.example")],
        [("X-Original-Url", "http://evil.example/")],
        [("X-Upstream", "http://evil.example/")],
    ],
)
def test_no_header_chooses_the_upstream(
    headers: list[tuple[str, str]], upstream: FakeUpstream, recollect: RecollectServer
) -> None:
    """Addresses come from the configuration only."""
    prompt = unique("header")
    body = json.dumps(chat_body(prompt)).encode()

    answer = recollect.send("POST", CHAT, [*json_headers(), *headers], body, host="evil.example")

    assert answer.status == 200
    assert upstream.seen(prompt)[0].all("host") == [f"127.0.0.1:{upstream.port}"]


@pytest.mark.parametrize(
    "field",
    ["base_url", "api_base", "api_key", "custom_llm_provider", "fallbacks", "url"],
)
def test_no_field_chooses_the_upstream(
    field: str, upstream: FakeUpstream, recollect: RecollectServer
) -> None:
    """They are fields like any other: forwarded, and part of the key."""
    prompt = unique("field")
    spy = FakeUpstream()

    answer = recollect.post(CHAT, {**chat_body(prompt), field: spy.url})

    assert answer.status == 200
    assert upstream.seen(prompt)[0].json[field] == spy.url
    assert spy.calls() == 0
    spy.close()


@pytest.mark.parametrize(
    "target",
    ["http://evil.example/v1/models", "//evil.example/v1/models", "/v1/../../etc/passwd"],
)
def test_request_target_does_not_choose_the_upstream(
    target: str, upstream: FakeUpstream, recollect: RecollectServer
) -> None:
    """Absolute-form targets and dots lead nowhere else (RFC 9112 §3.2.2)."""
    answer = recollect.get(target)

    assert answer.status in (200, 400, 404)
    for seen in upstream.seen("evil.example") + upstream.seen("passwd"):
        assert seen.target.startswith("/v1/")
        assert seen.all("host") == [f"127.0.0.1:{upstream.port}"]


UNSAFE = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "jsonpickle", "yaml", "joblib"}


def test_nothing_stored_can_be_executed() -> None:
    """No pickle, no YAML, no `eval` in what is delivered."""
    for package in ("admin", "cachestore", "config", "proxy"):
        for file in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Import):
                    assert not UNSAFE & {name.name.partition(".")[0] for name in node.names}, file
                if isinstance(node, ast.ImportFrom):
                    assert (node.module or "").partition(".")[0] not in UNSAFE, file
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                    assert node.func.id not in ("eval", "exec", "compile", "__import__"), file
