"""Promise 6, the client's side: `Cache-Control` of the request (RFC 9111 §5.2.1)."""

from typing import Any

import pytest

from tests.support.fake_upstream import FakeUpstream, Play
from tests.support.processes import wait_until
from tests.support.recollect_server import (
    COMPLETIONS,
    EMBEDDINGS,
    RESPONSES,
    RecollectServer,
    StartRecollect,
    unique,
)


def ask(server: RecollectServer, prompt: str, directives: str, **fields: Any) -> str:
    """Ask with `directives` and return the text, after which the caller counts the calls."""
    return server.chat(prompt, headers={"Cache-Control": directives}, **fields).text


@pytest.mark.parametrize(
    "directive", ["no-store", "No-Store", "no-store, max-age=99", '"",no-store']
)
def test_no_store_neither_reads_nor_writes(
    directive: str, upstream: FakeUpstream, recollect: RecollectServer
) -> None:
    """The stored answer is left alone, and a new one is not kept."""
    prompt = unique("no-store")
    ask(recollect, prompt, directive)
    stored = recollect.chat(prompt).text
    other = ask(recollect, prompt, directive)
    kept = recollect.chat(prompt)

    assert upstream.calls(prompt) == 3
    assert other != stored
    assert kept.cache.hit
    assert kept.text == stored


@pytest.mark.parametrize("directive", ["no-cache", "max-age=0", "NO-CACHE", "max-age=0, x=y"])
@pytest.mark.parametrize("is_stream", [False, True])
def test_no_cache_asks_again_and_renews_the_entry(
    directive: str, is_stream: bool, upstream: FakeUpstream, recollect: RecollectServer
) -> None:
    """A refreshed answer takes the old one's place."""
    prompt = unique("no-cache")
    old = recollect.chat(prompt).text

    new = ask(recollect, prompt, directive, stream=is_stream)
    later = recollect.chat(prompt)

    assert upstream.calls(prompt) == 2
    assert new != old
    assert later.cache.hit
    assert later.text == new


def test_refused_entry_says_so(recollect: RecollectServer) -> None:
    """RFC 9211 §2.2: the request's own directives made us forward."""
    prompt = unique("fwd=request")
    recollect.chat(prompt)

    assert recollect.chat(prompt, headers={"Cache-Control": "no-cache"}).cache.fwd == "request"


def test_pragma_counts_only_without_cache_control(
    upstream: FakeUpstream, recollect: RecollectServer
) -> None:
    """RFC 9111 §5.4."""
    prompt = unique("pragma")
    recollect.chat(prompt)

    assert not recollect.chat(prompt, headers={"Pragma": "no-cache"}).cache.hit
    both = {"Pragma": "no-cache", "Cache-Control": "max-age=100"}
    assert recollect.chat(prompt, headers=both).cache.hit
    assert upstream.calls(prompt) == 2


@pytest.mark.parametrize("path", ["chat", COMPLETIONS, EMBEDDINGS, RESPONSES])
def test_only_if_cached_never_asks_the_upstream(
    path: str, upstream: FakeUpstream, recollect: RecollectServer
) -> None:
    """Without an entry: 504 in OpenAI's form (RFC 9111 §5.2.1.7)."""
    prompt = unique("only-if-cached")
    only = {"Cache-Control": "only-if-cached"}
    body = {"model": "m", "input": prompt, "prompt": prompt, "store": False}

    if path == "chat":
        refused = recollect.chat(prompt, headers=only)
    else:
        refused = recollect.post(path, body, headers=only)

    assert refused.status == 504
    assert set(refused.json["error"]) == {"message", "type", "param", "code"}
    assert upstream.calls(prompt) == 0
    if path == "chat":
        recollect.chat(prompt)
        assert recollect.chat(prompt, headers=only).cache.hit


def test_max_age_and_min_fresh_are_measured_against_the_entry(
    upstream: FakeUpstream, recollect: RecollectServer
) -> None:
    """Too old for the one, not long enough fresh for the other."""
    prompt = unique("max-age")
    recollect.chat(prompt)
    assert wait_until(lambda: int(recollect.chat(prompt).header("age")) >= 1, 5, 0.1)

    assert recollect.chat(prompt, headers={"Cache-Control": "max-age=60"}).cache.hit
    assert recollect.chat(prompt, headers={"Cache-Control": "min-fresh=60"}).cache.hit
    assert upstream.calls(prompt) == 1
    assert not recollect.chat(prompt, headers={"Cache-Control": "min-fresh=4000"}).cache.hit
    assert upstream.calls(prompt) == 2


@pytest.mark.parametrize("directives", ["max-age=x", "max-age", "max-age=-5", "max-age=1.5"])
def test_directive_that_cannot_be_read_is_taken_as_stale(
    directives: str, upstream: FakeUpstream, recollect: RecollectServer
) -> None:
    """In doubt a fresh answer (RFC 9111 §4.2.1 encourages it), never an error."""
    prompt = unique("unreadable")
    recollect.chat(prompt)

    answer = recollect.chat(prompt, headers={"Cache-Control": directives})

    assert answer.status == 200
    assert not answer.cache.hit
    assert upstream.calls(prompt) == 2


@pytest.mark.parametrize(
    ("field", "is_hit"),
    [
        ({"no-cache": True}, False),
        ({"no-store": True}, False),
        ({"s-maxage": 0}, False),
        ({}, True),
    ],
)
def test_litellms_body_field_is_understood(
    field: dict[str, object], is_hit: bool, upstream: FakeUpstream, recollect: RecollectServer
) -> None:
    """For those who come from there (design §6); it is not part of the key."""
    prompt = unique("cache field")
    recollect.chat(prompt)

    answer = recollect.chat(prompt, cache=field)

    assert answer.cache.hit is is_hit
    assert upstream.calls(prompt) == 2 - is_hit


def test_entry_expires_absolutely_and_its_age_grows(
    upstream: FakeUpstream, start_recollect: StartRecollect
) -> None:
    """Hits do not lengthen a life; jitter only shortens it."""
    server = start_recollect(upstream.url, settings={"cache": {"ttl_s": 2.0, "jitter": 0.0}})
    prompt = unique("expiry")
    server.chat(prompt)
    ages: list[int] = []

    def is_asked_again() -> bool:
        answer = server.chat(prompt)
        if answer.cache.hit:
            ages.append(int(answer.header("age")))
        return not answer.cache.hit

    assert wait_until(is_asked_again, 4, 0.1)
    assert ages == sorted(ages)
    assert set(ages) == {0, 1}
    assert upstream.calls(prompt) == 2


def test_stale_answers_are_served_as_the_operator_and_the_client_allow(
    upstream: FakeUpstream, start_recollect: StartRecollect
) -> None:
    """RFC 9111 §4.2.4 and RFC 5861 §4, bounded by `cache.max_stale_s`."""
    settings = {"ttl_s": 1.0, "jitter": 0.0, "max_stale_s": 60.0, "stale_if_error_s": 60.0}
    server = start_recollect(upstream.url, settings={"cache": settings})
    prompt = unique("stale")
    upstream.on(prompt, Play(), Play(status=500, body=b'{"error": {}}'), Play())
    first = server.chat(prompt).text
    only_if_fresh = {"Cache-Control": "only-if-cached"}
    gone = lambda: server.chat(prompt, headers=only_if_fresh).status == 504  # noqa: E731
    assert wait_until(gone, 5, 0.1)

    stale = server.chat(prompt, headers={"Cache-Control": "max-stale=60"})
    after_error = server.chat(prompt)
    renewed = server.chat(prompt)

    assert stale.text == after_error.text == first
    assert renewed.text != first
    assert upstream.calls(prompt) == 3


def test_route_may_have_a_life_of_its_own_or_none(
    upstream: FakeUpstream, start_recollect: StartRecollect
) -> None:
    """`[[routes]]` choose by the model's name."""
    routes = [{"models": ["never-*"], "cache": False}, {"models": ["short-*"], "ttl_s": 30.0}]
    server = start_recollect(upstream.url, settings={"routes": routes})
    prompt = unique("routes")

    bypassed = [server.chat(prompt, model="never-1") for _ in range(2)]
    server.chat(prompt, model="short-1")
    short = server.chat(prompt, model="short-1")

    assert [answer.cache.fwd for answer in bypassed] == ["bypass", "bypass"]
    assert short.cache.ttl_s is not None
    assert short.cache.ttl_s <= 30
    assert upstream.calls(prompt) == 3
