"""Tables of what may be looked up, reused and stored."""

from dataclasses import dataclass, replace
from math import inf
from typing import Any

import pytest

from proxy.lookup.policy import (
    Bypass,
    DoNotStore,
    LookUp,
    Reason,
    Refuse,
    Reuse,
    RouteRules,
    Store,
    may_look_up,
    may_reuse,
    may_store,
)
from proxy.wire.cache_control import RequestDirectives, UpstreamFreshness
from proxy.wire.endpoint import Endpoint
from proxy.wire.recording import NotStorableReason
from proxy.wire.request import CacheableRequest

RULES = RouteRules(
    cache=True,
    ttl_s=100,
    max_ttl_s=1000,
    jitter=0.1,
    max_stale_s=60,
    stale_if_error_s=0,
    stale_while_revalidate_s=0,
    honours_upstream=False,
    stores_responses=False,
    side_effect_tools=("send_*", "delete_file"),
)
NO_WISHES = RequestDirectives()


def a_request(endpoint: Endpoint = Endpoint.CHAT, **body: Any) -> CacheableRequest:
    return CacheableRequest(endpoint, body, "m", body.get("stream") is True, False)


def function(name: object) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": {}}}


RESPONSES, CHAT = Endpoint.RESPONSES, Endpoint.CHAT
USAGE = {"include_usage": True}

# endpoint, body, reason to pass by (None: look up), where it says so
LOOK_UPS: list[tuple[Endpoint, dict[str, Any], Reason | None, str]] = [
    (CHAT, {}, None, "the plain request"),
    (CHAT, {"stream": True}, None, "one stored response replays in each form"),
    (CHAT, {"stream": True, "stream_options": None}, None, "OpenAI: nullable"),
    (CHAT, {"stream": True, "stream_options": USAGE}, None, "replayed with its usage"),
    (CHAT, {"stream": True, "stream_options": {"include_obfuscation": False}}, None, "padding"),
    (
        CHAT,
        {"stream": True, "stream_options": {**USAGE, "continuous_usage_stats": True}},
        Reason.STREAM_OPTIONS,
        "vLLM: usage in every chunk",
    ),
    (CHAT, {"stream_options": {"continuous_usage_stats": True}}, None, "no stream, no options"),
    (CHAT, {"modalities": ["text"]}, None, "the default"),
    (CHAT, {"modalities": None}, None, "OpenAI: nullable"),
    (CHAT, {"modalities": ["text", "audio"]}, Reason.AUDIO, "referred to by the upstream's id"),
    (CHAT, {"web_search_options": {}}, Reason.SIDE_EFFECTS, "searched anew each time"),
    (CHAT, {"web_search_options": None}, None, "the same as absent"),
    (CHAT, {"tools": None}, None, "the same as absent"),
    (CHAT, {"tools": [function("get_weather")]}, None, "run by the client, who sees the call"),
    (CHAT, {"tools": [function("get"), function("send_mail")]}, Reason.SIDE_EFFECTS, "named"),
    (CHAT, {"tools": [function("delete_file")]}, Reason.SIDE_EFFECTS, "named"),
    (CHAT, {"tools": [function("delete_file_list")]}, None, "globs match whole names"),
    (CHAT, {"tools": [function("Send_mail")]}, None, "names are case-sensitive"),
    (CHAT, {"tools": [function(7)]}, None, "no name: for the upstream to refuse"),
    (CHAT, {"tools": [{"type": "function", "function": "send_x"}]}, None, "likewise"),
    (
        CHAT,
        {"tools": [{"type": "custom", "custom": {"name": "send_it"}}]},
        Reason.SIDE_EFFECTS,
        "custom tools have names too",
    ),
    (CHAT, {"tools": [{"type": "custom", "custom": {"name": "sql"}}]}, None, "not named"),
    (CHAT, {"tools": [{"type": "web_search"}]}, Reason.SIDE_EFFECTS, "run by the upstream"),
    (CHAT, {"tools": [{"type": ["function"]}]}, Reason.SIDE_EFFECTS, "in doubt, so"),
    (CHAT, {"tools": [{}]}, Reason.SIDE_EFFECTS, "in doubt, so"),
    (CHAT, {"tools": ["send_mail"]}, Reason.SIDE_EFFECTS, "in doubt, so"),
    (CHAT, {"functions": [{"name": "send_mail"}]}, Reason.SIDE_EFFECTS, "the older form of tools"),
    (CHAT, {"functions": [{"name": "get_weather"}, "x"]}, None, "likewise"),
    (CHAT, {"functions": None}, None, "the same as absent"),
    (CHAT, {"store": True, "previous_response_id": "r"}, None, "nothing to this endpoint"),
    (RESPONSES, {}, None, "the upstream keeps none unless asked"),
    (RESPONSES, {"store": None}, None, "the same as absent"),
    (RESPONSES, {"store": False}, None, "nothing is kept"),
    (RESPONSES, {"store": True}, Reason.STATEFUL, "its id must be known to the upstream"),
    (RESPONSES, {"store": False, "previous_response_id": "r"}, Reason.STATEFUL, "goes on"),
    (RESPONSES, {"previous_response_id": None}, None, "the same as absent"),
    (RESPONSES, {"conversation": {"id": "c"}}, Reason.STATEFUL, "goes on, and is added to"),
    (RESPONSES, {"conversation": "c"}, Reason.STATEFUL, "likewise"),
    (RESPONSES, {"background": True}, Reason.STATEFUL, "fetched later by its id"),
    (RESPONSES, {"background": False}, None, "the default"),
    (
        RESPONSES,
        {"tools": [{"type": "function", "name": "send_mail"}]},
        Reason.SIDE_EFFECTS,
        "the Responses API has the name one level up",
    ),
    (RESPONSES, {"tools": [{"type": "function", "name": "get"}]}, None, "not named"),
    (RESPONSES, {"tools": [{"type": "mcp"}]}, Reason.SIDE_EFFECTS, "run by the upstream"),
]


@pytest.mark.parametrize(("endpoint", "body", "reason", "source"), LOOK_UPS)
def test_request_is_looked_up_unless_its_answer_is_for_it_alone(
    endpoint: Endpoint, body: dict[str, Any], reason: Reason | None, source: str
) -> None:
    """Stateful requests, tools with side effects, and what cannot be replayed pass by."""
    wanted = LookUp() if reason is None else Bypass(reason)

    assert may_look_up(a_request(endpoint, **body), NO_WISHES, RULES) == wanted, source


def test_route_without_cache_is_passed_by() -> None:
    """The operator's word is the first to count."""
    rules = replace(RULES, cache=False)

    verdict = may_look_up(a_request(), RequestDirectives(no_store=True), rules)

    assert verdict == Bypass(Reason.DISABLED)


def test_no_store_passes_by() -> None:
    """RFC 9111 §5.2.1.5: nothing of the request or its answer may be stored."""
    verdict = may_look_up(a_request(), RequestDirectives(no_store=True), RULES)

    assert verdict == Bypass(Reason.NO_STORE)


@pytest.mark.parametrize("store", [None, True, False])
def test_upstream_that_keeps_responses_is_only_spared_when_told_not_to(store: bool | None) -> None:
    """`upstream.stores_responses`: there, the default is to keep them."""
    rules = replace(RULES, stores_responses=True)
    body = {} if store is None else {"store": store}

    verdict = may_look_up(a_request(RESPONSES, **body), NO_WISHES, rules)

    assert verdict == (LookUp() if store is False else Bypass(Reason.STATEFUL))


@dataclass(frozen=True)
class Stored:
    """Stored at time 0, with a lifetime of 100 s, kept for another 60 s."""

    initial_age_s: float = 0.0
    lifetime_s: float = 100.0
    keep_s: float = 60.0

    def age_s(self, now: float) -> float:
        return now + self.initial_age_s


def wish(**directives: Any) -> RequestDirectives:
    return RequestDirectives(**directives)


# wishes, age in seconds, decision, where it says so
REUSES: list[tuple[RequestDirectives, float, Reuse | Refuse, str]] = [
    (NO_WISHES, 0, Reuse(0, 100), "fresh"),
    (NO_WISHES, 99.9, Reuse(99.9, 100 - 99.9), "fresh: younger than its lifetime (§4.2)"),
    (NO_WISHES, 100, Refuse(Reason.STALE), "as old as its lifetime is stale (§4.2)"),
    (NO_WISHES, 159, Refuse(Reason.STALE), "kept, but nobody allowed to use it"),
    (wish(no_cache=True), 0, Refuse(Reason.NO_CACHE), "§5.2.1.4"),
    (wish(no_cache=True, max_stale_s=inf), 0, Refuse(Reason.NO_CACHE), "§5.2.1.4"),
    (wish(max_age_s=0), 0, Refuse(Reason.MAX_AGE), "not even what was stored right now"),
    (wish(max_age_s=30), 29.9, Reuse(29.9, 100 - 29.9), "§5.2.1.1"),
    (wish(max_age_s=30), 30.1, Refuse(Reason.MAX_AGE), "§5.2.1.1"),
    (wish(max_age_s=1000), 100, Refuse(Reason.STALE), "§5.2.1.1: not a permission"),
    (wish(min_fresh_s=30), 70, Reuse(70, 30), "§5.2.1.3"),
    (wish(min_fresh_s=30), 70.1, Refuse(Reason.MIN_FRESH), "§5.2.1.3"),
    (wish(min_fresh_s=inf), 0, Refuse(Reason.MIN_FRESH), "what is not understood: the strictest"),
    (wish(max_stale_s=20), 119, Reuse(119, -19), "§5.2.1.2"),
    (wish(max_stale_s=20), 120, Refuse(Reason.STALE), "§5.2.1.2"),
    (wish(max_stale_s=inf), 159, Reuse(159, -59), "§5.2.1.2: any time, as far as it is kept"),
    (wish(max_stale_s=inf), 160, Refuse(Reason.STALE), "the operator's bound"),
    (wish(max_stale_s=inf, max_age_s=110), 111, Refuse(Reason.MAX_AGE), "both hold"),
    (wish(max_stale_s=inf, min_fresh_s=1), 100, Refuse(Reason.MIN_FRESH), "both hold"),
    (wish(stale_while_revalidate_s=20), 119, Reuse(119, -19, True), "RFC 5861 §3"),
    (wish(stale_while_revalidate_s=20), 120, Refuse(Reason.STALE), "RFC 5861 §3"),
    (wish(stale_while_revalidate_s=inf), 159, Reuse(159, -59, True), "as far as it is kept"),
    (wish(stale_while_revalidate_s=inf), 160, Refuse(Reason.STALE), "the operator's bound"),
    (wish(stale_while_revalidate_s=20), 50, Reuse(50, 50), "fresh: nothing to revalidate"),
    (wish(stale_if_error_s=20), 119, Refuse(Reason.STALE, on_error=True), "RFC 5861 §4"),
    (wish(stale_if_error_s=20), 120, Refuse(Reason.STALE), "RFC 5861 §4"),
    (wish(stale_if_error_s=inf), 160, Refuse(Reason.STALE), "the operator's bound"),
    (wish(stale_if_error_s=20, max_age_s=9), 50, Refuse(Reason.MAX_AGE, True), "fresh, even"),
    (wish(stale_if_error_s=20, min_fresh_s=60), 50, Refuse(Reason.MIN_FRESH, True), "likewise"),
    (wish(stale_if_error_s=20, no_cache=True), 50, Refuse(Reason.NO_CACHE), "a new one or none"),
]


@pytest.mark.parametrize(("wishes", "age_s", "decision", "source"), REUSES)
def test_stored_response_is_reused_as_its_age_and_the_wishes_allow(
    wishes: RequestDirectives, age_s: float, decision: Reuse | Refuse, source: str
) -> None:
    """RFC 9111 §4.2 and §5.2.1, unless said otherwise."""
    assert may_reuse(Stored(), wishes, age_s, RULES) == decision, source


def test_operator_may_serve_stale_where_the_request_says_nothing() -> None:
    """`cache.stale_while_revalidate_s` and `cache.stale_if_error_s`: a request may ask less."""
    rules = replace(RULES, stale_while_revalidate_s=10, stale_if_error_s=30)

    assert may_reuse(Stored(), NO_WISHES, 109, rules) == Reuse(109, -9, revalidate=True)
    assert may_reuse(Stored(), NO_WISHES, 110, rules) == Refuse(Reason.STALE, on_error=True)
    assert may_reuse(Stored(), NO_WISHES, 130, rules) == Refuse(Reason.STALE)
    strict = wish(stale_while_revalidate_s=0, stale_if_error_s=0)
    assert may_reuse(Stored(), strict, 105, rules) == Refuse(Reason.STALE)


def test_response_that_is_not_kept_is_never_served_stale() -> None:
    """must-revalidate of the upstream is stored as nothing kept (RFC 9111 §5.2.2.2)."""
    rules = replace(RULES, stale_while_revalidate_s=60, stale_if_error_s=60)
    greedy = wish(max_stale_s=inf, stale_while_revalidate_s=inf, stale_if_error_s=inf)

    assert may_reuse(Stored(keep_s=0), greedy, 100, rules) == Refuse(Reason.STALE)


def test_age_at_storing_counts() -> None:
    """RFC 9111 §4.2.3."""
    assert may_reuse(Stored(initial_age_s=40), NO_WISHES, 59, RULES) == Reuse(99, 1)
    assert may_reuse(Stored(initial_age_s=40), NO_WISHES, 60, RULES) == Refuse(Reason.STALE)


def says(
    lifetime_s: float | None = None,
    *,
    may: bool = True,
    age_s: float = 0.0,
    stale: bool = True,
) -> UpstreamFreshness:
    reason = "" if may else "no-store"
    return UpstreamFreshness(may, reason, lifetime_s, age_s, stale, ())


# upstream's word, asked lifetime, decision at the least jitter, source
STORES: list[tuple[UpstreamFreshness | None, float | None, Store | DoNotStore, str]] = [
    (None, None, Store(100, 60), "the route's"),
    (None, 30, Store(30, 60), "the request's own"),
    (None, 500, Store(500, 60), "the request's own, longer than the route's"),
    (None, 5000, Store(1000, 60), "cache.max_ttl_s"),
    (None, 0, Store(0, 60), "stale from the start, but kept"),
    (says(), None, Store(100, 60), "it said nothing: the route's"),
    (says(may=False), None, DoNotStore(Reason.UPSTREAM_NO_STORE), "RFC 9111 §5.2.2.5"),
    (says(may=False), 30, DoNotStore(Reason.UPSTREAM_NO_STORE), "no wish overrides it"),
    (says(200), None, Store(200, 60), "longer than the route's"),
    (says(5000), None, Store(1000, 60), "cache.max_ttl_s"),
    (says(200), 30, Store(30, 60), "the shorter of both"),
    (says(20), 30, Store(20, 60), "the shorter of both"),
    (says(5000), 4000, Store(1000, 60), "the shortest of three"),
    (says(0), None, Store(0, 60), "stale from the start, but kept"),
    (says(0, stale=False), None, DoNotStore(Reason.LIFETIME), "of no use to anybody"),
    (says(50, stale=False), None, Store(50, 0), "must-revalidate: not kept (§5.2.2.2)"),
    (says(50, age_s=20), None, Store(50, 60, 20), "§4.2.3"),
    (says(50, age_s=50, stale=False), None, DoNotStore(Reason.LIFETIME), "came stale"),
    (says(50, age_s=49, stale=False), None, Store(50, 0, 49), "just not"),
    (says(None, age_s=20), None, Store(100, 60, 20), "its age counts all the same"),
]


@pytest.mark.parametrize(("upstream", "asked_s", "decision", "source"), STORES)
def test_lifetime_is_as_long_as_everybody_allows(
    upstream: UpstreamFreshness | None,
    asked_s: float | None,
    decision: Store | DoNotStore,
    source: str,
) -> None:
    """Route, request, upstream, operator's limit (RFC 9111 §4.2.1)."""
    assert may_store(200, upstream, asked_s, RULES, 0.0) == decision, source


@pytest.mark.parametrize("status", [201, 204, 206, 301, 304, 307, 400, 404, 429, 500, 503, 0])
def test_only_a_200_is_stored(status: int) -> None:
    """Errors are for who got them; the rest is not an answer of these endpoints."""
    assert may_store(status, says(100), 100, RULES, 0.5) == DoNotStore(Reason.STATUS)


def test_jitter_shortens_what_the_upstream_did_not_state() -> None:
    """Entries stored together must not all end together; never longer than allowed."""
    for upstream in (None, says()):
        assert may_store(200, upstream, None, RULES, 1.0) == Store(90, 60)
        assert may_store(200, upstream, 5000, RULES, 0.5) == Store(950, 60)
    assert may_store(200, says(200), None, RULES, 1.0) == Store(200, 60)


def test_nothing_is_stored_that_could_never_be_used() -> None:
    """A lifetime of 0 and no stale use."""
    rules = replace(RULES, max_stale_s=0)

    assert may_store(200, None, 0, rules, 0.0) == DoNotStore(Reason.LIFETIME)


def test_every_reason_not_to_record_has_its_word() -> None:
    """One word serves header, metric and log."""
    for word in NotStorableReason.__args__:  # type: ignore[attr-defined]
        assert Reason(word) == word
