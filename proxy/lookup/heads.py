"""What an upstream's head says of its answer: may it be stored, whom is it for, what is replayed.

And the other way round: whether a stored answer may be given to the request that found it. No
clock and no chance in here: the caller passes both.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from proxy.lookup.ask import Ask
from proxy.lookup.policy import (
    Dated,
    DoNotStore,
    Reason,
    Refuse,
    Reuse,
    Store,
    may_reuse,
    may_store,
)
from proxy.wire.cache_control import upstream_freshness

Headers = Sequence[tuple[bytes, bytes]]
Named = Mapping[bytes, bytes]
Vary = tuple[tuple[str, str | None], ...]
"""Header fields of a request, and their values: None where it had none."""

# Replayed beside the content type. CORS fields belong to what a browser must see on every answer.
REPLAYED: Final = frozenset(
    {b"content-type", b"content-language", b"vary", b"openai-version", b"openai-model"}
    | {b"access-control-allow-origin", b"access-control-allow-credentials"}
    | {b"access-control-expose-headers"}
)
# Where the upstream's caching fields are honoured, so are its other fields (RFC 9111 §3.1), but
# for those that were about one request or one client.
_NEVER_REPLAYED: Final = frozenset(
    {b"set-cookie", b"set-cookie2", b"date", b"age", b"content-length", b"content-encoding"}
    | {b"cache-status", b"retry-after", b"server-timing", b"www-authenticate", b"alt-svc"}
    | {b"x-request-id", b"request-id", b"openai-organization", b"openai-project"}
    | {b"openai-processing-ms", b"cf-ray", b"via", b"authentication-info", b"traceresponse"}
)
_NEVER_REPLAYED_PARTS: Final = (b"ratelimit", b"rate-limit", b"request-id", b"trace")


class Found(Dated, Protocol):
    """A stored response, as far as it is looked at here."""

    @property
    def vary(self) -> Vary:
        """The request's fields, and their values, that it was given for."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What an answer's head says of storing and sharing it.

    Attributes:
        at: When it came, in Unix seconds.
        verdict: Whether it may be stored, as far as the head tells.
        vary: The request's fields, and their values, that it depends on.
        replayed: The header fields that replays carry.
        fields: All header fields, by name.
        is_stream: Whether it is an event stream.
        shared: The header fields for others who may watch it while it comes; None: nobody may.
    """

    at: float
    verdict: Store | DoNotStore
    vary: Vary
    replayed: tuple[tuple[bytes, bytes], ...]
    fields: Named
    is_stream: bool
    shared: list[tuple[bytes, bytes]] | None


def judge(
    status: int, headers: Headers, ask: Ask, named: Named, *, now: float, chance: float
) -> Judgement:
    """Judge an upstream's answer by its head.

    Args:
        status: Its status code.
        headers: All its end-to-end fields.
        ask: What was asked.
        named: The request's header fields, by name.
        now: When it came, in Unix seconds.
        chance: Drawn evenly from 0 … 1 by the caller, as `policy.may_store` asks.
    """
    rules = ask.route.rules
    freshness = upstream_freshness(headers, now) if rules.honours_upstream else None
    verdict = may_store(status, freshness, ask.ttl_s, rules, chance)
    vary = vary_on(headers, named)
    if vary is None:
        verdict = DoNotStore(Reason.VARY)
    replayed = replayed_headers(headers, rules.honours_upstream)
    fields = dict(headers)
    is_stream = fields.get(b"content-type", b"").startswith(b"text/event-stream")
    shared = None
    if is_stream and isinstance(verdict, Store) and not vary:
        # Others watch the bytes as they come.
        shared = [*replayed, *(field for field in headers if field[0] == b"content-encoding")]
    return Judgement(now, verdict, vary or (), replayed, fields, is_stream, shared)


def replayed_headers(headers: Headers, honours_upstream: bool) -> tuple[tuple[bytes, bytes], ...]:
    """Return the fields of an answer that its replays carry.

    Args:
        headers: All its end-to-end fields.
        honours_upstream: Whether the upstream's own caching rules hold (RFC 9111 §3.1).
    """
    if not honours_upstream:
        return tuple(field for field in headers if field[0] in REPLAYED)
    return tuple(
        (name, value)
        for name, value in headers
        if name not in _NEVER_REPLAYED and not any(p in name for p in _NEVER_REPLAYED_PARTS)
    )


def vary_on(headers: Headers, request: Named) -> Vary | None:
    """Return the request's fields that `headers` says the answer depends on (RFC 9111 §4.1).

    None for `*`: it depends on what no request shows. Left out are content codings, which are
    undone before storing, and credentials, which are in the key.
    """
    names = {
        name.strip().lower()
        for field, value in headers
        if field == b"vary"
        for name in value.split(b",")
    }
    if b"*" in names:
        return None
    names -= {b"", b"accept-encoding", b"authorization", b"x-api-key", b"api-key"}
    return tuple(
        (name.decode("latin-1"), value.decode("latin-1") if value is not None else None)
        for name in sorted(names)
        for value in (request.get(name),)
    )


def matches_vary(answer: Found, request: Named) -> bool:
    """Return whether `request` has the fields that `answer` was given for."""
    for name, wanted in answer.vary:
        value = request.get(name.encode("latin-1"))
        if (value.decode("latin-1") if value is not None else None) != wanted:
            return False
    return True


def may_answer(answer: Found, ask: Ask, named: Named, now: float) -> Reuse | Refuse:
    """Decide whether a stored answer, found under the request's own key, answers it.

    Args:
        answer: What was found.
        ask: What is asked.
        named: The request's header fields, by name.
        now: Unix time in seconds.
    """
    if not matches_vary(answer, named):
        return Refuse(Reason.VARY)
    return may_reuse(answer, ask.directives, now, ask.route.rules)
