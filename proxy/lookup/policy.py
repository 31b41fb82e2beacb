"""May it be looked up, may it be reused, may it be stored?

The decisions of RFC 9111 §3 and §4, cut to what a cache of model answers needs. Each answers with
a small frozen type; a reason is one word that serves the `Cache-Status` header, the metric's label
and the log alike.

Nothing here reads a clock or touches the network: the caller passes `now` and randomness.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Any, Final, Protocol

from proxy.wire.cache_control import RequestDirectives, UpstreamFreshness
from proxy.wire.endpoint import Endpoint
from proxy.wire.request import CacheableRequest

_KNOWN_STREAM_OPTIONS: Final = frozenset({"include_usage", "include_obfuscation"})
_RUN_BY_CLIENTS: Final = ("function", "custom")
"""Tools that are run after the answer, by who asked; all others, by the upstream."""


class Reason(StrEnum):
    """Why the cache was passed by, why a stored response was not used, why one was not stored."""

    # passed by
    DISABLED = "disabled"
    NO_STORE = "no-store"
    MALFORMED = "malformed"
    CONTENT_ENCODING = "content-encoding"
    NUMBER = "number"
    STATEFUL = "stateful"
    SIDE_EFFECTS = "side-effects"
    STREAM_OPTIONS = "stream-options"
    AUDIO = "audio"
    # not used
    NO_CACHE = "no-cache"
    MAX_AGE = "max-age"
    MIN_FRESH = "min-fresh"
    STALE = "stale"
    VARY = "vary"
    # not stored
    STATUS = "status"
    UPSTREAM_NO_STORE = "upstream-no-store"
    LIFETIME = "lifetime"
    CUT = "cut"
    SIZE = "size"
    JSON = "json"
    ERROR = "error"
    INCOMPLETE = "incomplete"
    FINISH_REASON = "finish-reason"
    REFUSAL = "refusal"
    ENCODING = "encoding"
    CONTENT_TYPE = "content-type"
    FENCED = "fenced"


@dataclass(frozen=True, slots=True)
class LookUp:
    """The request may be answered from the cache."""


@dataclass(frozen=True, slots=True)
class Bypass:
    """The request goes straight upstream, and its answer is not stored."""

    reason: Reason


@dataclass(frozen=True, slots=True)
class Reuse:
    """The stored response answers the request.

    Attributes:
        age_s: Its age now, in seconds.
        ttl_s: How much longer it is fresh; negative when it is served stale.
        revalidate: Served stale while a fresh answer is fetched (RFC 5861 §3).
    """

    age_s: float
    ttl_s: float
    revalidate: bool = False


@dataclass(frozen=True, slots=True)
class Refuse:
    """The stored response may not answer this request.

    Attributes:
        reason: Why not.
        on_error: It may after all, should every upstream fail (RFC 5861 §4).
    """

    reason: Reason
    on_error: bool = False


@dataclass(frozen=True, slots=True)
class Store:
    """The answer may be stored, fresh for `lifetime_s` and kept `keep_s` beyond that."""

    lifetime_s: float
    keep_s: float
    initial_age_s: float = 0.0


@dataclass(frozen=True, slots=True)
class DoNotStore:
    """The answer may not be stored."""

    reason: Reason


class Dated(Protocol):
    """What the reuse decision must know of a stored response."""

    @property
    def lifetime_s(self) -> float:
        """Freshness lifetime in seconds."""

    @property
    def keep_s(self) -> float:
        """Seconds past its lifetime for which it may be served stale at all."""

    def age_s(self, now: float) -> float:
        """Return its age at `now`, in seconds."""


@dataclass(frozen=True, slots=True)
class RouteRules:
    """What an operator decided for the requests of one route.

    Attributes:
        cache: False sends all of them upstream.
        ttl_s: Freshness lifetime of what is stored.
        max_ttl_s: The longest lifetime a request or an upstream may ask for.
        jitter: Share of the lifetime by which it may be shortened, 0 ≤ x < 1.
        max_stale_s: How long a stored response is kept past its lifetime.
        stale_if_error_s: How long past its lifetime it may serve when the upstream fails.
        stale_while_revalidate_s: … and while a fresh one is fetched.
        honours_upstream: Whether the upstream's Cache-Control counts.
        stores_responses: Whether the upstream keeps Responses unless told not to.
        side_effect_tools: Glob patterns of function names.
    """

    cache: bool
    ttl_s: float
    max_ttl_s: float
    jitter: float
    max_stale_s: float
    stale_if_error_s: float
    stale_while_revalidate_s: float
    honours_upstream: bool
    stores_responses: bool
    side_effect_tools: tuple[str, ...]


def may_look_up(
    request: CacheableRequest, directives: RequestDirectives, rules: RouteRules
) -> LookUp | Bypass:
    """Decide whether the cache takes part in answering `request` at all."""
    if not rules.cache:
        return Bypass(Reason.DISABLED)
    if directives.no_store:
        return Bypass(Reason.NO_STORE)
    body = request.body
    if request.endpoint is Endpoint.RESPONSES and _is_stateful(body, rules):
        return Bypass(Reason.STATEFUL)
    # Other options change the events themselves (vLLM's continuous usage, say).
    if request.is_stream and not _KNOWN_STREAM_OPTIONS.issuperset(body.get("stream_options") or ()):
        return Bypass(Reason.STREAM_OPTIONS)
    # A spoken answer is referred to by an id that only the upstream knows.
    if "audio" in (body.get("modalities") or ()):
        return Bypass(Reason.AUDIO)
    if _may_have_side_effects(body, rules.side_effect_tools):
        return Bypass(Reason.SIDE_EFFECTS)
    return LookUp()


def _is_stateful(body: dict[str, Any], rules: RouteRules) -> bool:
    if any(body.get(name) for name in ("previous_response_id", "conversation", "background")):
        return True
    store = body.get("store")
    return bool(rules.stores_responses if store is None else store)


def _may_have_side_effects(body: dict[str, Any], patterns: Sequence[str]) -> bool:
    """Whether the upstream runs a tool of its own, or the client one that `patterns` name."""
    if body.get("web_search_options") is not None:
        return True
    functions: list[Any] = [*(body.get("functions") or ())]
    for tool in body.get("tools") or ():
        if type(tool) is not dict or tool.get("type") not in _RUN_BY_CLIENTS:
            return True
        # Chat puts the function into a member of its own, the Responses API does not.
        functions.append(tool.get(tool["type"]) or tool)
    names = [function.get("name") for function in functions if type(function) is dict]
    return any(
        type(name) is str and any(fnmatchcase(name, pattern) for pattern in patterns)
        for name in names
    )


def may_reuse(
    stored: Dated,
    directives: RequestDirectives,
    now: float,
    rules: RouteRules,
) -> Reuse | Refuse:
    """Decide whether `stored` answers a request made at `now` (RFC 9111 §4.2.4, §5.2.1).

    Args:
        stored: A response stored under the request's own key.
        directives: What the request asked of caches.
        now: Unix time in seconds.
        rules: The route's rules. A request's own wishes never reach beyond `stored.keep_s`.
    """
    age_s = stored.age_s(now)
    ttl_s = stored.lifetime_s - age_s
    stale_s = max(0.0, -ttl_s)
    on_error = stale_s < _at_most(
        directives.stale_if_error_s, rules.stale_if_error_s, stored.keep_s
    )
    if directives.no_cache:
        # Not even on an error: it is a new answer or none (RFC 9111 §5.2.1.4).
        return Refuse(Reason.NO_CACHE)
    # Not `>`: with max-age=0 not even what was stored this very moment will do.
    if directives.max_age_s is not None and age_s >= directives.max_age_s:
        return Refuse(Reason.MAX_AGE, on_error)
    if directives.min_fresh_s is not None and ttl_s < directives.min_fresh_s:
        return Refuse(Reason.MIN_FRESH, on_error)
    if ttl_s > 0:
        return Reuse(age_s, ttl_s)
    if directives.max_stale_s is not None and stale_s < min(directives.max_stale_s, stored.keep_s):
        return Reuse(age_s, ttl_s)
    revalidate_s = _at_most(
        directives.stale_while_revalidate_s, rules.stale_while_revalidate_s, stored.keep_s
    )
    if stale_s < revalidate_s:
        return Reuse(age_s, ttl_s, revalidate=True)
    return Refuse(Reason.STALE, on_error)


def _at_most(asked_s: float | None, ruled_s: float, most_s: float) -> float:
    return min(ruled_s if asked_s is None else asked_s, most_s)


def may_store(
    status: int,
    upstream: UpstreamFreshness | None,
    asked_ttl_s: float | None,
    rules: RouteRules,
    jitter: float,
) -> Store | DoNotStore:
    """Decide whether, and for how long, an answer with this head may be stored.

    Whether its content is complete is for `proxy.wire.record` to say.

    Args:
        status: The upstream's status code.
        upstream: What its headers say of freshness, where the route honours that, else None.
        asked_ttl_s: The lifetime the request asked for, if it did.
        rules: The route's rules.
        jitter: Drawn evenly from 0 … 1 by the caller: entries stored together must not all
            end together.
    """
    if status != 200:
        return DoNotStore(Reason.STATUS)
    keep_s, initial_age_s = rules.max_stale_s, 0.0
    stated_s: float | None = None
    if upstream is not None:
        if not upstream.may_store:
            return DoNotStore(Reason.UPSTREAM_NO_STORE)
        if not upstream.may_serve_stale:
            keep_s = 0.0
        initial_age_s, stated_s = upstream.initial_age_s, upstream.lifetime_s
    lifetime_s = min(rules.ttl_s if asked_ttl_s is None else asked_ttl_s, rules.max_ttl_s)
    if stated_s is None:
        lifetime_s *= 1 - rules.jitter * jitter
    else:
        # What the upstream stated is exact: no jitter, and no more than it allowed.
        lifetime_s = min(stated_s, rules.max_ttl_s if asked_ttl_s is None else lifetime_s)
    if lifetime_s - initial_age_s + keep_s <= 0:
        return DoNotStore(Reason.LIFETIME)
    return Store(lifetime_s, keep_s, initial_age_s)
