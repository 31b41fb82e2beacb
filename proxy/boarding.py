"""Gets a request's answer from a flight: one of its own, or one that is under way already.

Who starts a flight is answered with whatever comes. Who joins one gets only what may be shared:
a stream as it comes, from its beginning, or the stored response it ends in. When a flight fails,
one of those who waited tries once more for all; when that fails too, all are told. When the
answer was for one client alone, everyone else asks for themselves, all at once.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from cachestore.leases import Held, Lease
from proxy.errors import ErrorAnswer
from proxy.exchange import Exchange, Headers, watching
from proxy.fetch import MOST_FAILURES, Fetcher, Order
from proxy.forward import Forwarder, failure
from proxy.lookup.answers import StoredAnswer
from proxy.lookup.ask import Ask
from proxy.lookup.flights import Flights
from proxy.lookup.heads import matches_vary, may_answer
from proxy.lookup.policy import Reuse
from proxy.lookup.single_flight import Flight, FlightFailed, Landed, Watcher
from proxy.lookup.token_budget import TokenBudget
from proxy.metrics import Outcome
from proxy.replies import Replies

_SHARED: Final = frozenset({b"miss", b"stale"})
"""What is fetched once for all workers: whatever lies in the store by then will do."""

_TOKEN_BYTES: Final = 4


@dataclass(frozen=True, slots=True)
class Trip:
    """A request that the cache has no answer for.

    Attributes:
        exchange: Where it came from and is answered.
        ask: What it asks.
        key: Its exact key.
        forwarded: Why it goes upstream, in the words of RFC 9211 §2.2.
        fallback: A stale answer that may serve should the upstream fail.
        found: What its look-up left it with: the lease, or who has that.
        failures: How often the upstream has failed on it while it waited for others.
        is_alone: It wants an answer begun after it asked (`no-cache`).
    """

    exchange: Exchange
    ask: Ask
    key: bytes
    forwarded: bytes = b"miss"
    fallback: StoredAnswer | None = None
    found: Lease | Held | None = None
    failures: int = 0
    is_alone: bool = False

    @property
    def board_key(self) -> bytes:
        """What requests that may share a flight have in common.

        Those for which the stored response will not do wait together too, but on their worker
        alone and not with the others: what these would find in the store is what they refused.
        """
        return self.key if self.forwarded in _SHARED else self.key + self.forwarded


class Boarding:
    """Answers trips from flights."""

    def __init__(
        self,
        *,
        flights: Flights,
        fetcher: Fetcher,
        forwarder: Forwarder,
        replies: Replies,
        checks: TokenBudget,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._checks = checks
        self._flights = flights
        self._fetcher = fetcher
        self._forwarder = forwarder
        self._replies = replies
        self._clock = clock
        self._aside: set[asyncio.Task[None]] = set()

    def is_under_way(self, key: bytes) -> bool:
        """Return whether a flight for `key` could be joined now."""
        return self._flights.get(key) is not None

    def landed(self, key: bytes) -> StoredAnswer | None:
        """Return what a flight for `key` has brought and is just being stored."""
        flight = self._flights.get(key)
        landed = flight.landed if flight is not None else None
        return landed if isinstance(landed, StoredAnswer) else None

    async def answer(self, trip: Trip) -> None:
        """Answer a request, together with whoever else wants the same now.

        Raises:
            ClientGone: The client left first.
        """
        async with watching(trip.exchange):
            if trip.is_alone or not await self._answer_shared(trip):
                await self._lead(trip, self._take_off(trip, is_alone=True))

    async def _answer_shared(self, trip: Trip) -> bool:
        """Answer from a flight that others may join; False: this request must ask alone."""
        while True:
            flight = self._flights.get(trip.board_key)
            # Who holds the lease leads, whatever else is in the air: nobody else could.
            is_leader = flight is None or isinstance(trip.found, Lease)
            if flight is None or is_leader:
                flight = self._take_off(trip)
            if await (self._lead(trip, flight) if is_leader else self._follow(trip, flight)):
                return True
            if flight.score is not None:
                # The answer to other words will not do for this one: fetched together by all
                # of whom that is true.
                trip = replace(trip, forwarded=b"request", found=None)
                continue
            if is_leader or flight.landed is not Landed.FAILED:
                return False
            if flight.failures >= MOST_FAILURES:
                # An upstream that is down is not to be asked once by each who waits.
                await self._tell_shared_failure(trip, flight)
                return True
            trip = replace(trip, found=None, failures=flight.failures)

    async def obtain(self, trip: Trip) -> StoredAnswer | None:
        """Return the answer to a request instead of sending it.

        None where it could not be put to use: then the client has been told, unless
        `trip.exchange.status` is still 0.

        Raises:
            ClientGone: The client left first.
        """
        exchange = trip.exchange
        async with watching(exchange):
            flight = self._flights.get(trip.key) or self._take_off(trip)
            watcher = flight.watch()
            try:
                await flight.until(lambda f: f.is_settled or f.is_oversize)
                if isinstance(flight.landed, StoredAnswer):
                    return flight.landed
                # An upstream that refused a part would refuse the whole; it is not asked twice.
                if flight.head is None or flight.head.status != 200:
                    await self._tell_failure(trip, watcher)
                return None
            finally:
                watcher.leave()

    def revalidate(self, trip: Trip) -> None:
        """Fetch a fresh answer while the stale one is served (RFC 5861 §3)."""
        if not self.is_under_way(trip.key):
            self._fetch_aside(trip)

    def _check(self, trip: Trip, served: StoredAnswer) -> None:
        """Ask the upstream what it would have answered in place of a hit by meaning.

        What it answers is stored under the request's own key; the embedding process compares.
        """
        recording = served.recording
        tokens = recording.prompt_tokens + recording.completion_tokens
        if not tokens:
            # A stream's usage may not be known: a token is about four bytes.
            tokens = (len(trip.ask.content) + len(recording.body)) // _TOKEN_BYTES + 1
        if self._checks.may_take(tokens):
            # Under a board key of its own: the flight that brought the hit is hardly over.
            self._fetch_aside(replace(trip, forwarded=b"request", found=None))

    def _fetch_aside(self, trip: Trip) -> None:
        """Fetch an answer that nobody waits for."""
        watcher = self._take_off(trip).watch()
        task = asyncio.get_running_loop().create_task(_see_to_its_end(watcher))
        self._aside.add(task)
        task.add_done_callback(self._aside.discard)

    def _take_off(self, trip: Trip, is_alone: bool = False) -> Flight:
        """Start a flight; other requests, here and elsewhere, may join it unless it is alone."""
        exchange = trip.exchange
        order = Order(
            ask=trip.ask,
            path=exchange.path.removeprefix("/v1"),
            query=exchange.query,
            headers=exchange.headers,
            named=exchange.named,
            # What was found and refused is nearer than anything in other words could be.
            may_be_meant=trip.forwarded == b"miss" and not is_alone and trip.failures == 0,
        )
        board_key = None if is_alone else trip.board_key
        flight = self._flights.open(trip.key, _form(trip), board_key, failures=trip.failures)
        is_shared = board_key == trip.key
        self._flights.run(flight, self._fetcher.fetch(flight, order, is_shared, trip.found))
        return flight

    async def _lead(self, trip: Trip, flight: Flight) -> bool:
        """Answer from a flight of this request's own.

        False, with nothing sent, where another worker's answer came that is no answer to this.
        """
        exchange = trip.exchange
        watcher = flight.watch()
        try:
            await flight.until(lambda f: f.head is not None or f.is_settled)
            head = flight.head
            if head is not None and not (head.is_stream and head.status == 200):
                # All of it at once: only then can the answer say whether it was stored.
                await flight.until(lambda f: f.is_settled or f.is_oversize)
            if _has_failed(flight) and await self._serve_stale(trip):
                return True
            if head is None and isinstance(flight.landed, StoredAnswer):
                is_served = await self._serve_landed(trip, flight, flight.landed)
                if is_served and flight.is_check:
                    self._check(trip, flight.landed)
                return is_served
            if head is None or head.status != 200:
                await self._tell_failure(trip, watcher)
                return True
            exchange.cache_status = self._replies.forwarded_status(flight, trip.forwarded)
            exchange.outcome = Outcome.COLLAPSED if flight.is_collapsed else Outcome.MISS
            await self._relay(exchange, watcher, head.headers)
            return True
        finally:
            watcher.leave()

    async def _follow(self, trip: Trip, flight: Flight) -> bool:
        """Answer from a flight that another request started, if it may be shared."""
        exchange = trip.exchange
        watcher = flight.watch()
        try:
            if flight.form == _form(trip):
                await flight.until(lambda f: f.head is not None or f.is_settled)
                if flight.head is not None and flight.head.shared is not None:
                    exchange.cache_status = b"recollect; fwd=" + trip.forwarded + b"; collapsed"
                    exchange.outcome = Outcome.COLLAPSED
                    await self._relay(exchange, watcher, flight.head.shared)
                    return True
            await flight.until(lambda f: f.is_settled or f.is_oversize)
            landed = flight.landed
            return isinstance(landed, StoredAnswer) and await self._serve_landed(
                trip, flight, landed
            )
        finally:
            watcher.leave()

    async def _tell_failure(self, trip: Trip, watcher: Watcher) -> None:
        """Pass on the upstream's error, or say that there was no answer."""
        exchange, flight = trip.exchange, watcher.flight
        exchange.cache_status = self._replies.forwarded_status(flight, trip.forwarded)
        exchange.outcome = Outcome.UPSTREAM_ERROR
        if flight.head is not None:
            await self._relay(exchange, watcher, flight.head.headers)
            return
        cause = flight.error or ConnectionError("no answer")
        await exchange.refuse(failure(cause), Outcome.UPSTREAM_ERROR)

    async def _tell_shared_failure(self, trip: Trip, flight: Flight) -> None:
        """Say that the upstream failed. Its own words were for another client."""
        exchange = trip.exchange
        exchange.cache_status = b"recollect; fwd=" + trip.forwarded + b"; collapsed"
        head = flight.head
        if head is None or head.status == 200:
            error = failure(flight.error or ConnectionError("no answer"))
        else:
            retry = tuple(field for field in head.headers if field[0] == b"retry-after")
            message = "The upstream failed on this request, twice."
            error = ErrorAnswer(head.status, message, "upstream_failed", headers=retry)
        await exchange.refuse(error, Outcome.UPSTREAM_ERROR)

    async def _serve_landed(self, trip: Trip, flight: Flight, landed: StoredAnswer) -> bool:
        """Answer with the stored response in which a flight has ended.

        It may have been fetched just now, for all who waited; or it was stored already, be it by
        another worker a moment ago, or as the answer to the same question in other words.
        """
        exchange, ask = trip.exchange, trip.ask
        is_new = flight.head is not None or flight.is_collapsed
        if is_new and flight.score is None:
            return matches_vary(landed, exchange.named) and await self._replies.collapsed(
                exchange, ask, landed, trip.forwarded
            )
        outcome = Outcome.HIT_REDIS if flight.score is None else Outcome.HIT_SEMANTIC
        reuse = may_answer(landed, ask, exchange.named, self._clock())
        return isinstance(reuse, Reuse) and await self._replies.replay(
            exchange, ask, landed, reuse, outcome, score=flight.score, key=flight.key
        )

    async def _serve_stale(self, trip: Trip) -> bool:
        stale = trip.fallback
        if stale is None:
            return False
        age_s = stale.age_s(self._clock())
        reuse = Reuse(age_s, stale.lifetime_s - age_s)
        return await self._replies.replay(trip.exchange, trip.ask, stale, reuse, Outcome.STALE)

    async def _relay(self, exchange: Exchange, watcher: Watcher, fields: Headers) -> None:
        """Send a flight's answer as it comes, from its beginning."""
        flight = watcher.flight
        head = flight.head
        if head is None:
            raise RuntimeError("relayed before its head came")
        headers = exchange.forwarded_headers(fields)
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
            await self._forwarder.cut(exchange, fields, failed.cause)
            return
        await exchange.end()


async def _see_to_its_end(watcher: Watcher) -> None:
    try:
        # One that has grown too large to be stored is of no use to anybody here.
        await watcher.flight.until(lambda f: f.is_filed or f.is_oversize)
    finally:
        watcher.leave()


def _form(trip: Trip) -> str:
    """What must be equal for two requests to share the very bytes of one stream."""
    request = trip.ask.request
    accepts = trip.exchange.named.get(b"accept-encoding", b"").decode("latin-1")
    return f"{request.is_stream}|{request.body.get('stream_options')!r}|{accepts}"


def _has_failed(flight: Flight) -> bool:
    """Whether a stale answer may stand in (RFC 5861 §4): nothing came, or an error, or half."""
    head = flight.head
    if head is None:
        return flight.landed is Landed.FAILED
    return head.status >= 500 or (flight.error is not None and not head.is_stream)
