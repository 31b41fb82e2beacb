"""A request's whole way through a cacheable endpoint, on one page.

    read ─ may it be looked up? ─ memory ─ Redis ─ may it be reused? ─► replay
                 │ no                        │ miss
                 ▼                           ▼
              straight upstream        single flight ─► upstream ─► record ─► store

A fault of the cache is a miss; a fault of the upstream is the client's to see, unless a stale
answer may stand in for it.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Final

from proxy.embeddings_batch import Batch, inputs_of
from proxy.errors import ErrorAnswer
from proxy.exchange import BodyTooLarge, Exchange, watching
from proxy.fetch import Fetcher, Order, matches_vary
from proxy.forward import Forwarder, failure
from proxy.lookup.answers import StoredAnswer
from proxy.lookup.ask import Ask, Reader
from proxy.lookup.keys import Unkeyable, exact_key, input_keys
from proxy.lookup.peers import may_share_live
from proxy.lookup.policy import Bypass, Reason, Refuse, Reuse, may_look_up, may_reuse
from proxy.lookup.single_flight import Flight, FlightFailed, Flights, Landed, Watcher
from proxy.lookup.tiers import Tiers
from proxy.metrics import Metrics, Outcome
from proxy.replies import Replies
from proxy.wire.endpoint import Endpoint
from proxy.wire.request import BadRequest, Unreadable, read_request

_FOLLOWED_FLIGHTS: Final = 2
"""After a second flight has failed, everyone asks for themselves, all at once."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The largest body in bytes, and the deepest JSON, that are read."""

    body_bytes: int
    json_depth: int


class Handler:
    """Answers requests to cacheable endpoints."""

    def __init__(
        self,
        *,
        reader: Reader,
        tiers: Tiers,
        flights: Flights,
        fetcher: Fetcher,
        forwarder: Forwarder,
        replies: Replies,
        metrics: Metrics,
        limits: Limits,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._reader = reader
        self._tiers = tiers
        self._flights = flights
        self._fetcher = fetcher
        self._forwarder = forwarder
        self._replies = replies
        self._metrics = metrics
        self._limits = limits
        self._clock = clock
        self._background: set[asyncio.Task[None]] = set()

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
        if isinstance(verdict, Bypass):
            await self._bypass(exchange, ask.content, verdict.reason)
            return
        try:
            if endpoint is Endpoint.EMBEDDINGS:
                inputs = inputs_of(request)
                keys = input_keys(request, ask.scope, inputs)
                if len(inputs) != 1:
                    await self._look_up_batch(exchange, ask, inputs, keys)
                    return
                key = keys[0]
            else:
                key = exact_key(request, ask.scope)
        except Unkeyable:
            await self._bypass(exchange, ask.content, Reason.NUMBER)
            return
        await self._look_up(exchange, ask, key)

    async def _look_up(self, exchange: Exchange, ask: Ask, key: bytes) -> None:
        fallback: StoredAnswer | None = None
        forwarded = b"miss"
        if ask.directives.no_cache:
            forwarded = b"request"
        answer = self._tiers.peek(key)
        tier = Outcome.HIT_MEMORY
        if answer is None:
            answer = await self._tiers.fetch(key)
            tier = Outcome.HIT_REDIS
        if answer is not None and matches_vary(answer, exchange.named):
            match may_reuse(answer, ask.directives, self._clock(), ask.route.rules):
                case Reuse() as reuse:
                    if await self._replies.replay(exchange, ask, answer, reuse, tier):
                        if reuse.revalidate:
                            self._revalidate(exchange, ask, key)
                        return
                case Refuse(reason, on_error):
                    forwarded = b"stale" if reason is Reason.STALE else b"request"
                    fallback = answer if on_error else None
        if ask.directives.only_if_cached:
            await self._not_cached(exchange)
            return
        await self._through_flight(exchange, ask, key, forwarded, fallback)

    async def _look_up_batch(
        self, exchange: Exchange, ask: Ask, inputs: Sequence[Any], keys: Sequence[bytes]
    ) -> None:
        """Answer a batch of embeddings from what is known of it and, for the rest, upstream."""
        now = self._clock()
        known: dict[bytes, tuple[StoredAnswer, Reuse]] = {}
        for key, answer in (await self._tiers.fetch_many(keys)).items():
            reuse = may_reuse(answer, ask.directives, now, ask.route.rules)
            if isinstance(reuse, Reuse) and matches_vary(answer, exchange.named):
                known[key] = answer, reuse
        batch = Batch(inputs, keys, {key: answer for key, (answer, _) in known.items()})
        if inputs and not batch.unknown():
            await self._replies.batch(exchange, ask, batch, known)
            return
        if ask.directives.only_if_cached:
            await self._not_cached(exchange)
            return
        if known and (rest := await self._remainder(exchange, ask, batch)) is not None:
            await self._replies.batch(exchange, ask, batch, known, rest)
            return
        forwarded = b"request" if ask.directives.no_cache else b"miss"
        await self._through_flight(exchange, ask, exact_key(ask.request, ask.scope), forwarded)

    async def _remainder(self, exchange: Exchange, ask: Ask, batch: Batch) -> StoredAnswer | None:
        """Return the answer to what is not known of a batch, if it came and may be stored."""
        remainder = batch.remainder(ask)
        key = exact_key(remainder.request, remainder.scope)
        async with watching(exchange):
            flight = self._flights.get(key) or self._take_off(exchange, remainder, key)
            watcher = flight.watch()
            try:
                await flight.until(lambda f: f.is_settled or f.is_oversize)
            finally:
                watcher.leave()
        return flight.landed if isinstance(flight.landed, StoredAnswer) else None

    async def _through_flight(
        self,
        exchange: Exchange,
        ask: Ask,
        key: bytes,
        forwarded: bytes,
        fallback: StoredAnswer | None = None,
    ) -> None:
        """Get the answer from upstream, together with whoever else wants it now."""
        # Who asked for a fresh answer must not get one that was begun before they asked.
        is_shared = forwarded != b"request"
        async with watching(exchange):
            for _ in range(_FOLLOWED_FLIGHTS):
                flight = self._flights.get(key) if is_shared else None
                if flight is None:
                    flight = self._take_off(exchange, ask, key, is_shared)
                    await self._lead(exchange, ask, flight, forwarded, fallback)
                    return
                if await self._follow(exchange, ask, flight, forwarded):
                    return
                if flight.landed is not Landed.FAILED:
                    break
            flight = self._take_off(exchange, ask, key, is_shared=False)
            await self._lead(exchange, ask, flight, forwarded, fallback)

    def _take_off(self, exchange: Exchange, ask: Ask, key: bytes, is_shared: bool = True) -> Flight:
        """Start a flight; other requests, here and elsewhere, may join it if it is shared."""
        order = Order(
            ask, exchange.path.removeprefix("/v1"), exchange.query, exchange.headers, exchange.named
        )
        flight = self._flights.open(key, _form(exchange, ask), is_shared=is_shared)
        flight.run(self._fetcher.fetch(flight, order, is_shared))
        return flight

    async def _lead(
        self,
        exchange: Exchange,
        ask: Ask,
        flight: Flight,
        forwarded: bytes,
        fallback: StoredAnswer | None,
    ) -> None:
        """Answer from a flight of this request's own: whatever comes is for its client."""
        watcher = flight.watch()
        try:
            await flight.until(lambda f: f.head is not None or f.is_settled)
            head = flight.head
            if head is not None and not (head.is_stream and may_share_live(head)):
                # All of it at once: only then can the answer say whether it was stored.
                await flight.until(lambda f: f.is_settled or f.is_oversize)
            landed = flight.landed
            if fallback is not None and _has_failed(flight):
                reuse = Reuse(
                    fallback.age_s(self._clock()),
                    fallback.lifetime_s - fallback.age_s(self._clock()),
                )
                if await self._replies.replay(exchange, ask, fallback, reuse, Outcome.STALE):
                    return
            if head is None and isinstance(landed, StoredAnswer):
                # Another worker's flight brought it.
                await self._replies.collapsed(exchange, ask, landed, forwarded)
                return
            if head is None:
                cause = flight.error or ConnectionError("no answer")
                exchange.cache_status = b"recollect; fwd=" + forwarded
                await exchange.refuse(failure(cause), Outcome.UPSTREAM_ERROR)
                return
            exchange.cache_status = self._replies.forwarded_status(flight, forwarded)
            exchange.outcome = Outcome.COLLAPSED if flight.is_collapsed else Outcome.MISS
            if head.status != 200:
                exchange.outcome = Outcome.UPSTREAM_ERROR
            await self._relay(exchange, watcher)
        finally:
            watcher.leave()

    async def _follow(self, exchange: Exchange, ask: Ask, flight: Flight, forwarded: bytes) -> bool:
        """Answer from a flight that another request started, if it may be shared."""
        watcher = flight.watch()
        try:
            if flight.form == _form(exchange, ask):
                await flight.until(lambda f: f.head is not None or f.is_settled)
                if flight.head is not None and may_share_live(flight.head):
                    exchange.cache_status = b"recollect; fwd=" + forwarded + b"; collapsed"
                    exchange.outcome = Outcome.COLLAPSED
                    await self._relay(exchange, watcher)
                    return True
            await flight.until(lambda f: f.is_settled or f.is_oversize)
            landed = flight.landed
            if isinstance(landed, StoredAnswer) and matches_vary(landed, exchange.named):
                return await self._replies.collapsed(exchange, ask, landed, forwarded)
            return False
        finally:
            watcher.leave()

    async def _relay(self, exchange: Exchange, watcher: Watcher) -> None:
        """Send a flight's answer as it comes, from its beginning."""
        flight = watcher.flight
        head = flight.head
        if head is None:
            raise RuntimeError("relayed before its head came")
        headers = exchange.forwarded_headers(head.headers)
        if flight.is_whole and not flight.is_oversize and watcher.index == 0:
            content = flight.content()
            if not any(name == b"content-length" for name, _ in headers):
                headers.append((b"content-length", b"%d" % len(content)))
            await exchange.begin(head.status, headers)
            await exchange.end(content)
            return
        await exchange.begin(head.status, headers)
        try:
            while (piece := await watcher.next()) is not None:
                await exchange.write(piece)
        except FlightFailed as failed:
            exchange.outcome = Outcome.UPSTREAM_ERROR
            await self._forwarder.cut(exchange, head.is_stream, failed.cause)
            return
        await exchange.end()

    def _revalidate(self, exchange: Exchange, ask: Ask, key: bytes) -> None:
        """Fetch a fresh answer while the stale one is served (RFC 5861 §3)."""
        if self._flights.get(key) is None:
            watcher = self._take_off(exchange, ask, key).watch()
            self._in_background(_see_to_its_end(watcher))

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

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


async def _see_to_its_end(watcher: Watcher) -> None:
    try:
        await watcher.flight.until(lambda f: f.is_filed)
    finally:
        watcher.leave()


def _form(exchange: Exchange, ask: Ask) -> str:
    """What must be equal for two requests to share the very bytes of one stream."""
    accepts = exchange.named.get(b"accept-encoding", b"").decode("latin-1")
    options = ask.request.body.get("stream_options")
    return f"{ask.request.is_stream}|{options!r}|{accepts}"


def _has_failed(flight: Flight) -> bool:
    head = flight.head
    if head is None:
        return flight.landed is Landed.FAILED
    return head.status >= 500
