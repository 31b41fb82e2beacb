"""Promises 20 and 22: what must not be replayed, forwarded, logged or written down."""

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from email.utils import formatdate

import pytest

from tests.support.fake_upstream import FakeUpstream, Play
from tests.support.http_client import json_headers
from tests.support.processes import wait_until
from tests.support.recollect_server import CHAT, RecollectServer, chat_body, unique
from tests.support.redis_server import RedisServer

OF_ONE_ANSWER = [
    ("Set-Cookie", "session=alice"),
    ("x-ratelimit-remaining-tokens", "1"),
    ("x-ratelimit-limit-requests", "10"),
    ("openai-organization", "org-alice"),
    ("openai-processing-ms", "1234"),
    ("x-request-id", "req_of_the_first"),
    ("anthropic-ratelimit-tokens-remaining", "5"),
    ("request-id", "req_1"),
    ("cf-ray", "abc"),
    ("Date", formatdate(0, usegmt=True)),
]


@pytest.mark.parametrize("is_stream", [False, True])
def test_headers_of_one_answer_are_not_replayed(
    is_stream: bool, upstream: FakeUpstream, recollect: RecollectServer
) -> None:
    """Cookies, limits, organisation and request ids belong to the request that was forwarded."""
    prompt = unique("headers")
    upstream.on(prompt, Play(headers=OF_ONE_ANSWER))
    first = recollect.chat(prompt, stream=is_stream)

    hit = recollect.chat(prompt, stream=is_stream)

    assert first.header("openai-organization") == "org-alice"
    assert hit.cache.hit
    for name, value in OF_ONE_ANSWER:
        assert value not in hit.all(name), name


def test_headers_of_this_hop_do_not_go_upstream(
    upstream: FakeUpstream, recollect: RecollectServer
) -> None:
    """RFC 9110 §7.6.1; credentials for a proxy and cookies are not the upstream's either."""
    prompt = unique("hop")
    body = json.dumps(chat_body(prompt)).encode()
    sent = [
        *json_headers(),
        ("Connection", "keep-alive, X-Mine"),
        ("Keep-Alive", "timeout=5"),
        ("Proxy-Authorization", "Basic c2VjcmV0"),
        ("Proxy-Connection", "keep-alive"),
        ("TE", "trailers"),
        ("Upgrade", "h2c"),
        ("Cookie", "session=alice"),
        ("X-Mine", "1"),
        ("X-Theirs", "1"),
    ]

    assert recollect.send("POST", CHAT, sent, body).status == 200

    (seen,) = upstream.seen(prompt)
    for name in ("proxy-authorization", "proxy-connection", "keep-alive", "upgrade", "cookie"):
        assert seen.all(name) == [], name
    assert seen.all("x-mine") == []
    assert seen.all("te") == []
    assert seen.all("x-theirs") == ["1"]


SECRET_PROMPT = "my diagnosis is Xanthippe"
SECRET_ANSWER = "Réponse"
KEY = "sk-live-4eC39HqLyjWDarjtT1zdp7dc"


def traces_of(text: str) -> list[str]:
    """Return how `text` might be written down, plainly or as a plain hash."""
    raw = text.encode()
    found = [text, base64.b64encode(raw).decode().rstrip("=")]
    for algorithm in ("md5", "sha1", "sha256", "sha512", "blake2b", "blake2s"):
        found.append(hashlib.new(algorithm, raw).hexdigest())
    return found


@pytest.fixture(scope="module")
def talkative(upstream: FakeUpstream, redis_server: RedisServer) -> Iterator[RecollectServer]:
    """A Recollect that logs all it ever does, after all kinds of requests."""
    settings = {
        "log": {"level": "debug", "requests": True},
        "redis": {"namespace": "secrecy"},
        "upstream": {"idle_timeout_s": 1.0},
    }
    server = RecollectServer(upstream.url, redis_server.url, settings)
    prompts = {
        "plain": Play(),
        "error": Play(status=500, body=b'{"error": {"message": "no"}}'),
        "cut": Play(mangle=lambda made: [made[0][:60], 0.1], is_cut=True),
        "mute": Play(is_mute=True),
        "html": Play(body=b"<html>"),
    }
    for name, play in prompts.items():
        mark = unique(name)
        upstream.on(mark, play)
        for _ in range(2):
            server.chat(f"{SECRET_PROMPT} {mark}", key=KEY)
            server.chat(f"{SECRET_PROMPT} {mark}", key=KEY, stream=True)
    server.chat(SECRET_PROMPT, key=KEY, stream="no")
    server.post(CHAT, f'{{"broken": "{SECRET_PROMPT}'.encode(), key=KEY)
    server.post("/nowhere", {"x": SECRET_PROMPT}, key=KEY)
    server.post("/v1/other", {"x": SECRET_PROMPT}, key=KEY)
    yield server
    server.close()


@pytest.mark.parametrize("secret", [SECRET_PROMPT, SECRET_ANSWER, KEY, f"Bearer {KEY}"])
def test_logs_and_metrics_hold_no_secret(secret: str, talkative: RecollectServer) -> None:
    """Neither in clear nor as a plain hash, at the most talkative level."""
    metrics = talkative.get("/metrics").body.decode()
    written = "".join(talkative.stderr) + metrics

    assert "chat" in metrics
    assert len(talkative.stderr) > 10, "it was to log every request"
    for trace in traces_of(secret):
        assert trace not in written


def test_errors_of_our_own_hold_no_secret(
    upstream: FakeUpstream, talkative: RecollectServer
) -> None:
    """What is refused is named, not quoted."""
    mute = unique("mute")
    upstream.on(mute, Play(is_mute=True))
    refused = [
        talkative.chat(SECRET_PROMPT, key=KEY, stream="no"),
        talkative.chat(f"{SECRET_PROMPT} {mute}", key=KEY),
        talkative.post(CHAT, f'{{"a":"{SECRET_PROMPT}","a":1}}'.encode(), key=KEY),
        talkative.chat(SECRET_PROMPT, key=KEY, headers={"Cache-Control": "only-if-cached"}),
        talkative.post("/nowhere", {"x": SECRET_PROMPT}, key=KEY),
    ]

    for answer in refused:
        assert answer.status >= 400
        for secret in (SECRET_PROMPT, KEY):
            assert secret not in answer.body.decode()
            assert secret not in str(answer.headers)


def test_names_in_redis_are_hashes_and_all_of_them_expire(
    redis_server: RedisServer, talkative: RecollectServer
) -> None:
    """No key name says anything; every key has a finite life by default."""
    with redis_server.client() as client:
        assert wait_until(lambda: bool(client.keys("secrecy:e:*")), 5)
        names = [name.decode() for name in client.scan_iter("secrecy:*")]
        lives_ms = [client.pttl(name) for name in names]

    assert all(re.fullmatch(r"secrecy:[a-z]+:[0-9a-f]{32,64}", name) for name in names), names
    assert all(0 < life <= 3600 * 1000 for life in lives_ms), lives_ms
    for trace in [*traces_of(SECRET_PROMPT), *traces_of(KEY)]:
        assert not any(trace in name for name in names)


def test_values_in_redis_hold_no_credential(
    redis_server: RedisServer, talkative: RecollectServer
) -> None:
    """Neither the key nor its plain hash is written beside an answer."""
    with redis_server.client() as client:
        names = list(client.scan_iter("secrecy:e:*"))
        values = [client.get(name) or b"" for name in names]

    assert values
    for trace in [*traces_of(KEY), SECRET_PROMPT]:
        assert not any(trace.encode() in bytes(value) for value in values)
