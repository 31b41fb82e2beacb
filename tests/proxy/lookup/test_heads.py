"""What an upstream's head says of its answer, and whom a stored answer is for."""

from dataclasses import dataclass

import pytest

from config.settings import Settings
from proxy.lookup.ask import Ask, Reader
from proxy.lookup.heads import Vary, judge, matches_vary, may_answer, replayed_headers, vary_on
from proxy.lookup.policy import Reason, Refuse, Reuse, Store
from proxy.lookup.routes import Routes
from proxy.lookup.tenants import Tenants
from tests.proxy.lookup.keying import read

Headers = list[tuple[bytes, bytes]]
STREAM = (b"content-type", b"text/event-stream; charset=utf-8")
GZIP = (b"content-encoding", b"gzip")


def an_ask(honours_upstream: bool = False) -> Ask:
    """Return a plain request's, upstream fields honoured or not."""
    cache = {"upstream_cache_control": "honour" if honours_upstream else "ignore"}
    routes = Routes(Settings.model_validate({"cache": cache}))
    raw = '{"model": "m", "messages": []}'
    return Reader(routes, Tenants(b"s" * 32, {}), ()).read(read(raw), raw.encode(), [], {}, "")


@pytest.mark.parametrize(
    ("vary", "expected"),
    [
        ([], ()),
        ([b"Accept-Encoding"], ()),
        ([b"Authorization, X-API-Key, Api-Key"], ()),
        ([b"X-B, x-a"], (("x-a", "1"), ("x-b", None))),
        ([b"x-a", b" X-A ,, "], (("x-a", "1"),)),
        ([b"x-a, *"], None),
    ],
)
def test_answer_depends_on_the_fields_that_vary_names(
    vary: list[bytes], expected: tuple[tuple[str, str | None], ...] | None
) -> None:
    """RFC 9111 §4.1, but for codings, which are undone, and credentials, which are in the key."""
    headers = [(b"vary", value) for value in vary]

    assert vary_on(headers, {b"x-a": b"1", b"authorization": b"Bearer x"}) == expected


@pytest.mark.parametrize(
    ("headers", "replayed"),
    [
        (
            [(b"content-type", b"a"), (b"x-own", b"b")],
            [[b"content-type"], [b"content-type", b"x-own"]],
        ),
        ([(b"set-cookie", b"a"), (b"retry-after", b"1")], [[], []]),
        ([(b"x-ratelimit-reset", b"a"), (b"anthropic-ratelimit-x", b"1")], [[], []]),
        ([(b"x-amzn-request-id", b"a"), (b"x-trace-id", b"1")], [[], []]),
        ([(b"date", b"a"), (b"age", b"1"), (b"content-encoding", b"gzip")], [[], []]),
        ([(b"access-control-allow-origin", b"*")], [[b"access-control-allow-origin"]] * 2),
    ],
)
def test_replays_carry_only_fields_that_are_about_the_answer(
    headers: list[tuple[bytes, bytes]], replayed: list[list[bytes]]
) -> None:
    """Promise 20, in both modes."""
    for honours_upstream, names in zip((False, True), replayed, strict=True):
        assert [name for name, _ in replayed_headers(headers, honours_upstream)] == names


@dataclass(frozen=True)
class Stored:
    """A stored response, as far as it is looked at."""

    vary: Vary = ()
    lifetime_s: float = 60.0
    keep_s: float = 0.0

    def age_s(self, now: float) -> float:
        """Return its age: it was stored at 100."""
        return now - 100


@pytest.mark.parametrize(
    ("request_fields", "is_match"),
    [
        ({b"x-a": b"1", b"x-c": b"3"}, True),
        ({b"x-a": b"2"}, False),
        ({}, False),
        ({b"x-a": b"1", b"x-b": b""}, False),
    ],
)
def test_answer_matches_the_request_it_was_given_for(
    request_fields: dict[bytes, bytes], is_match: bool
) -> None:
    """A field that was absent must be absent (RFC 9111 §4.1)."""
    stored = Stored(vary=(("x-a", "1"), ("x-b", None)))

    assert matches_vary(stored, request_fields) is is_match


def test_answer_to_other_fields_or_past_its_time_is_refused() -> None:
    """Either reason is told: they differ in what `Cache-Status` says (RFC 9211 §2.2)."""
    stored, ask = Stored(vary=(("x-a", "1"),)), an_ask()

    assert may_answer(stored, ask, {b"x-a": b"1"}, 110) == Reuse(10, 50)
    assert may_answer(stored, ask, {}, 110) == Refuse(Reason.VARY)
    assert may_answer(stored, ask, {b"x-a": b"1"}, 160) == Refuse(Reason.STALE)


@pytest.mark.parametrize(
    ("headers", "honours", "is_stored", "shared"),
    [
        ([STREAM], False, True, [STREAM]),
        ([STREAM, (b"content-encoding", b"gzip")], False, True, [STREAM, GZIP]),
        ([STREAM, (b"set-cookie", b"a")], False, True, [STREAM]),
        ([(b"content-type", b"application/json")], False, True, None),
        ([STREAM, (b"vary", b"x-a")], False, True, None),
        ([STREAM, (b"vary", b"*")], False, False, None),
        ([STREAM, (b"cache-control", b"no-store")], False, True, [STREAM]),
        ([STREAM, (b"cache-control", b"no-store")], True, False, None),
    ],
)
def test_stream_is_shared_as_it_comes_if_it_may_be_stored_for_all(
    headers: Headers, honours: bool, is_stored: bool, shared: Headers | None
) -> None:
    """Who joins gets no more than a hit would (promise 20)."""
    judged = judge(200, headers, an_ask(honours), {b"x-a": b"1"}, now=100, chance=0)

    assert isinstance(judged.verdict, Store) is is_stored
    assert judged.shared == shared
