"""A request's whole way through a cacheable endpoint, on one page.

    read ─ may it be looked up? ─ memory ─ Redis ─ may it be reused? ─► replay
                 │ no                        │ miss                        ▲
                 ▼                           ▼                             │
              straight upstream        single flight ─► in other words? ───┘
                                             └─► upstream ─► record ─► store

A fault of the cache is a miss; a fault of the upstream is the client's to see, unless a stale
answer may stand in for it.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from proxy.boarding import Boarding, Trip
from proxy.embeddings_batch import Batch, inputs_of
from proxy.errors import ErrorAnswer
from proxy.exchange import BodyTooLarge, Exchange, watching
from proxy.fast_path import FastPath, Known
from proxy.forward import Forwarder
from proxy.lookup.answers import StoredAnswer
from proxy.lookup.ask import Ask, Reader
from proxy.lookup.heads import may_answer
from proxy.lookup.keys import Unkeyable, exact_key, input_keys
from proxy.lookup.policy import Bypass, Reason, Refuse, Reuse, may_look_up
from proxy.lookup.semantic_tier import Near, SemanticTier
from proxy.lookup.tiers import Tiers
from proxy.metrics import Metrics, Outcome
from proxy.replies import Replies
from proxy.wire.endpoint import Endpoint
from proxy.wire.request import BadRequest, Unreadable, read_request

_MOST_INPUTS: Final = 2048
"""OpenAI's own limit on a batch of embeddings; what is longer is not worth a key each."""

_FORWARDED: Final = {Reason.STALE: b"stale", Reason.VARY: b"vary-miss"}
"""RFC 9211 §2.2; other refusals are the request's own wish: `request`."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The largest body in bytes and the deepest JSON that are read; the largest answer stored."""

    body_bytes: int
    json_depth: int
    entry_bytes: int


class Handler:
    """Answers requests to cacheable endpoints."""

    def __init__(
        self,
        *,
        reader: Reader,
        tiers: Tiers,
        semantic: SemanticTier,
        boarding: Boarding,
        forwarder: Forwarder,
        replies: Replies,
        fast_path: FastPath | None,
        metrics: Metrics,
        limits: Limits,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._reader = reader
        self._tiers = tiers
        self._semantic = semantic
        self._boarding = boarding
        self._forwarder = forwarder
        self._replies = replies
        self._fast_path = fast_path
        self._metrics = metrics
        self._limits = limits
        self._clock = clock

    async def answer(self, exchange: Exchange, endpoint: Endpoint) -> None:
        """Answer one request.

        Raises:
            ClientGone: The client left first.
        """
        try:
            raw = await exchange.body(self._limits.body_bytes)
            if b"content-encoding" in exchange.named:
                await self._bypass(exchange, raw, Reason.CONTENT_ENCODING)
                return
            request = read_request(endpoint, raw, self._limits.json_depth)
            if isinstance(request, Unreadable):
                await self._bypass(exchange, raw, Reason.MALFORMED)
                return
            ask = self._reader.read(request, raw, exchange.headers, exchange.named, exchange.query)
        except BodyTooLarge:
            most = self._limits.body_bytes
            await self._refuse(
                exchange, 413, f"The body is larger than {most} bytes.", "body_too_large"
            )
            return
        except BadRequest as error:
            await self._refuse(exchange, 400, error.message, "invalid_request", error.param)
            return

        verdict = may_look_up(request, ask.directives, ask.route.rules)
        if isinstance(verdict, Bypass) and ask.directives.only_if_cached:
            await self._not_cached(exchange)
            return
        if isinstance(verdict, Bypass):
            await self._bypass(exchange, ask.content, verdict.reason)
            return
        try:
            if endpoint is Endpoint.EMBEDDINGS:
                inputs = inputs_of(request)
                if len(inputs) > _MOST_INPUTS:
                    await self._bypass(exchange, ask.content, Reason.SIZE)
                    return
                if len(inputs) != 1:
                    keys = input_keys(request, ask.scope, inputs)
                    await self._look_up_batch(exchange, ask, inputs, keys)
                    return
                key = input_keys(request, ask.scope, inputs)[0]
            else:
                key = exact_key(request, ask.scope)
        except Unkeyable:
            await self._bypass(exchange, ask.content, Reason.NUMBER)
            return
        await self._look_up(exchange, ask, key)

    async def _look_up(self, exchange: Exchange, ask: Ask, key: bytes) -> None:
        if ask.directives.no_cache:
            await self._fetch_anew(exchange, ask, key)
            return
        began = time.perf_counter()
        answer = self._tiers.peek(key) or self._boarding.landed(key)
        self._metrics.looked_up("memory", time.perf_counter() - began)
        tier = Outcome.HIT_MEMORY
        trip = Trip(exchange, ask, key)
        # Who finds a flight under way need not ask Redis: its answer was not there.
        if answer is None and not self._boarding.is_under_way(key):
            tier = Outcome.HIT_REDIS
            aliases = ask.route.follows_aliases
            if ask.directives.only_if_cached:
                answer = await self._tiers.fetch(key, follows_aliases=aliases)
            else:
                match await self._tiers.fetch_or_lease(key, follows_aliases=aliases):
                    case StoredAnswer() as answer:
                        pass
                    case lease:
                        trip = replace(trip, found=lease)
        if answer is not None:
            match may_answer(answer, ask, exchange.named, self._clock()):
                case Reuse() as reuse:
                    if await self._replies.replay(exchange, ask, answer, reuse, tier):
                        if reuse.revalidate:
                            self._boarding.revalidate(trip)
                        elif tier is Outcome.HIT_MEMORY:
                            self._learn(exchange, ask, key)
                        return
                    trip = replace(trip, forwarded=b"request")
                case Refuse(reason, on_error):
                    trip = replace(
                        trip,
                        forwarded=_FORWARDED.get(reason, b"request"),
                        fallback=answer if on_error else None,
                    )
        if ask.directives.only_if_cached:
            if answer is not None or not await self._answer_as_meant(exchange, ask, key):
                await self._not_cached(exchange)
            return
        await self._boarding.answer(trip)

    async def _answer_as_meant(self, exchange: Exchange, ask: Ask, key: bytes) -> bool:
        """Answer with what answers the same question in other words, if there is such.

        No alias is left: `only-if-cached` asks what there is, and changes nothing of it.
        """
        async with watching(exchange):
            found = await self._semantic.look_up(ask, key)
        return isinstance(found, Near) and await self._replies.replay(
            exchange,
            ask,
            found.answer,
            found.reuse,
            Outcome.HIT_SEMANTIC,
            score=found.score,
            key=key,
        )

    def _learn(self, exchange: Exchange, ask: Ask, key: bytes) -> None:
        """Let the same bytes take the fast path from now on."""
        request = ask.request
        # The `cache` field counts, but is not among the bytes that were kept.
        if self._fast_path is None or "cache" in request.body:
            return
        known = Known(key, request.endpoint, request.form, request.include_usage, len(ask.content))
        self._fast_path.learn(exchange.target, exchange.named, ask.content, known)

    async def _fetch_anew(self, exchange: Exchange, ask: Ask, key: bytes) -> None:
        if ask.directives.only_if_cached:
            await self._not_cached(exchange)
            return
        await self._boarding.answer(Trip(exchange, ask, key, b"request", is_alone=True))

    async def _look_up_batch(
        self, exchange: Exchange, ask: Ask, inputs: Sequence[Any], keys: Sequence[bytes]
    ) -> None:
        """Answer a batch of embeddings from what is known of it and, for the rest, upstream."""
        if ask.directives.no_cache:
            await self._fetch_anew(exchange, ask, exact_key(ask.request, ask.scope))
            return
        known: dict[bytes, tuple[StoredAnswer, Reuse]] = {}
        for key, answer in (await self._tiers.fetch_many(keys)).items():
            if answer is None:
                continue
            reuse = may_answer(answer, ask, exchange.named, self._clock())
            if isinstance(reuse, Reuse):
                known[key] = answer, reuse
        batch = Batch(inputs, keys, {key: answer for key, (answer, _) in known.items()})
        if inputs and not batch.unknown():
            await self._replies.batch(exchange, ask, batch, known)
            return
        if ask.directives.only_if_cached:
            await self._not_cached(exchange)
            return
        # A remainder too large to be stored would have to be asked for again, whole.
        if known and batch.expected_bytes() <= self._limits.entry_bytes:
            remainder = batch.remainder(ask)
            key = exact_key(remainder.request, remainder.scope)
            rest = await self._boarding.obtain(Trip(exchange, remainder, key))
            if rest is not None and await self._replies.batch(exchange, ask, batch, known, rest):
                return
            if exchange.status != 0:
                return
        await self._boarding.answer(Trip(exchange, ask, exact_key(ask.request, ask.scope)))

    async def _bypass(self, exchange: Exchange, content: bytes, reason: Reason) -> None:
        self._metrics.bypassed(reason)
        exchange.cache_status = b"recollect; fwd=bypass; detail=" + reason.value.encode()
        async with watching(exchange):
            await self._forwarder.forward(exchange, content, Outcome.BYPASS)

    @staticmethod
    async def _not_cached(exchange: Exchange) -> None:
        exchange.cache_status = b"recollect; fwd=miss; detail=only-if-cached"
        message = "Not in the cache, and only-if-cached was asked for."
        await exchange.refuse(ErrorAnswer(504, message, "not_cached"), Outcome.NOT_CACHED)

    async def _refuse(
        self, exchange: Exchange, status: int, message: str, code: str, param: str | None = None
    ) -> None:
        exchange.cache_status = b"recollect; fwd=bypass; detail=refused"
        await exchange.refuse(ErrorAnswer(status, message, code, param), Outcome.REFUSED)
