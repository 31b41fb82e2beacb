"""A flight's own work: get the answer once, for all who watch, and store it.

    lease ─ held elsewhere ─► follow that worker's flight
      │ ours (or Redis is away)
      ├─► stored, as the answer to other words ─► alias
      └─► upstream ─► watchers, piece by piece ─► record ─► memory ─► Redis

The task belongs to the flight, not to a request: it is cancelled when the last watcher leaves.
"""

import asyncio
import random
import time
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Final

from cachestore.errors import StoreError
from cachestore.leases import Held, Lease, Leases
from cachestore.vector_record import Meaning
from proxy.embeddings_batch import briefly, inputs_of, split
from proxy.lookup.answers import StoredAnswer, answer_of
from proxy.lookup.ask import Ask
from proxy.lookup.heads import Judgement, judge
from proxy.lookup.keys import input_keys
from proxy.lookup.peers import Followed, PeerCut, Peers
from proxy.lookup.policy import DoNotStore, Reason
from proxy.lookup.semantic_tier import Near, SemanticTier
from proxy.lookup.single_flight import Flight, Head, Landed
from proxy.lookup.tiers import Tiers
from proxy.metrics import Metrics
from proxy.upstreams.upstream import (
    FailedElsewhere,
    Headers,
    UnsendableHeader,
    Upstream,
    UpstreamError,
)
from proxy.wire.endpoint import Endpoint
from proxy.wire.record import NotStorable, RecordPolicy, record

_RENEW_SHARE: Final = 1 / 3
_LOOKS: Final = 4
"""How often a flight looks who leads before it goes alone."""

MOST_FAILURES: Final = 2
"""How often an upstream may fail on a request before all who wait for it are told."""

_WORTH_ANOTHER_TRY: Final = frozenset({408, 425, 429})
"""Statuses below 500 that say nothing about the request itself."""

_FAULTS: Final = frozenset({Reason.ERROR, Reason.INCOMPLETE, Reason.JSON, Reason.CONTENT_TYPE})
"""Why a 200 is no answer at all, rather than one for its client alone."""


@dataclass(frozen=True, slots=True)
class Order:
    """What a flight is to fetch, as the request that started it asked.

    Attributes:
        ask: The request.
        path: What follows `/v1`.
        query: The raw query string.
        headers: The request's header fields.
        named: The same by name.
        may_be_meant: Whether the answer to the same question in other words will do.
    """

    ask: Ask
    path: str
    query: str
    headers: Headers
    named: dict[bytes, bytes]
    may_be_meant: bool = False


class Fetcher:
    """Fetches for flights."""

    def __init__(
        self,
        *,
        upstream: Upstream,
        tiers: Tiers,
        semantic: SemanticTier,
        leases: Leases,
        peers: Peers,
        metrics: Metrics,
        record_policy: RecordPolicy,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._upstream = upstream
        self._tiers = tiers
        self._semantic = semantic
        self._leases = leases
        self._peers = peers
        self._metrics = metrics
        self._record_policy = record_policy
        self._clock = clock

    async def fetch(
        self, flight: Flight, order: Order, is_shared: bool, found: Lease | Held | None = None
    ) -> None:
        """Run `flight` to its landing. Raises nothing but for being cancelled or a defect.

        Args:
            flight: Whose content, head and landing to tell.
            order: What to fetch.
            is_shared: Whether other workers take part: a lease is held, or theirs followed.
            found: What the request's own look-up left it with.
        """
        lease = found if isinstance(found, Lease) else None
        try:
            if is_shared and lease is None:
                aliases = order.ask.route.follows_aliases
                lease = await self._lead_or_follow(flight, found, aliases)
                if flight.is_settled:
                    return
            if lease is None:
                await self._meant_or_upstream(flight, order, None)
            else:
                await self._under_lease(flight, order, lease)
        except UpstreamError as error:
            self._metrics.upstream_failed(error.kind)
            if flight.head is not None:
                self._metrics.not_stored(Reason.CUT)
            flight.fail(error)
        except (UnsendableHeader, PeerCut) as error:
            flight.fail(error)

    async def _lead_or_follow(
        self, flight: Flight, found: StoredAnswer | Lease | Held | None, follows_aliases: bool
    ) -> Lease | None:
        """Return the lease if this worker is to fetch; else let the flight follow another's.

        Without Redis there is nobody to agree with: the worker fetches, without a lease.
        """
        for _ in range(_LOOKS):
            # Also when a lease has just been taken away: the flight before ours may have
            # stored the response meanwhile.
            found = found or await self._look_again(flight.key, follows_aliases)
            match found:
                case None | Lease():
                    return found
                case StoredAnswer():
                    flight.land(found)
                    return None
            if found.lease.owner == self._peers.owner:
                # Taken for a flight that nobody can join any more, or by a look-up whose reply
                # was lost. It is not worth waiting for.
                return None
            how = await self._peers.follow(flight, found.lease.owner)
            if how is Followed.UNSTORABLE:
                if flight.is_whole:
                    flight.land(Landed.UNSTORABLE)
                return None
            flight.is_collapsed = how is Followed.STORED
            if how is Followed.SILENT:
                # Its worker is dead or cut off; who takes the lease away may try next.
                await self._tiers.release(found.lease)
            if how is Followed.FAILED and flight.failures >= MOST_FAILURES:
                flight.fail(FailedElsewhere(flight.failed_status))
                return None
            if flight.is_whole:
                answer = await self._tiers.fetch(flight.key, follows_aliases=follows_aliases)
                flight.land(answer or Landed.UNSTORABLE)
                return None
            found = None
        answer = await self._tiers.fetch(flight.key, follows_aliases=follows_aliases)
        if answer is not None and self._is_fresh(answer):
            flight.land(answer)
        return None

    async def _look_again(
        self, key: bytes, follows_aliases: bool
    ) -> StoredAnswer | Lease | Held | None:
        """Return a fresh answer, or the right to fetch one, or who has that."""
        found = await self._tiers.fetch_or_lease(key, follows_aliases=follows_aliases)
        if not isinstance(found, StoredAnswer) or self._is_fresh(found):
            return found
        return await self._tiers.lease(key)

    def _is_fresh(self, answer: StoredAnswer) -> bool:
        return answer.age_s(self._clock()) < answer.lifetime_s

    async def _under_lease(self, flight: Flight, order: Order, lease: Lease) -> None:
        flight.is_leading = True
        renewing = asyncio.get_running_loop().create_task(self._renew(lease))
        try:
            await self._meant_or_upstream(flight, order, lease)
        finally:
            renewing.cancel()
            if not isinstance(flight.landed, StoredAnswer):
                self._tiers.release_soon(lease)

    async def _renew(self, lease: Lease) -> None:
        while True:
            await asyncio.sleep(lease.ttl_s * _RENEW_SHARE)
            try:
                await self._leases.renew(lease)
            except StoreError as error:
                self._metrics.store_failed("lease", error)

    async def _meant_or_upstream(self, flight: Flight, order: Order, lease: Lease | None) -> None:
        # Nothing of the request goes upstream before this is decided.
        if order.may_be_meant:
            found = await self._semantic.look_up(order.ask, flight.key)
        else:
            found = await self._semantic.meaning(order.ask)
        if isinstance(found, Near):
            flight.score, flight.is_check = found.score, found.is_check
            flight.land(found.answer)
            # Before the flight is over: who follows it from elsewhere finds the alias then.
            await self._tiers.alias(flight.key, found.answer, lease)
        else:
            await self._from_upstream(flight, order, lease, found)

    async def _from_upstream(
        self, flight: Flight, order: Order, lease: Lease | None, meaning: Meaning | None
    ) -> None:
        began = time.perf_counter()
        answer = await self._upstream.send(
            "POST", order.path, order.query, order.headers, order.ask.content
        )
        first_byte_s = time.perf_counter() - began
        try:
            judgement = judge(
                answer.status,
                answer.headers,
                order.ask,
                order.named,
                now=self._clock(),
                chance=random.random(),
            )
            flight.begin(Head(answer.status, answer.headers, judgement.shared, judgement.is_stream))
            async with aclosing(answer.pieces()) as pieces:
                async for piece in pieces:
                    await flight.append(piece)
        finally:
            answer.close()
        whole_s = time.perf_counter() - began
        self._metrics.upstream_answered(first_byte_s, whole_s)
        flight.end()
        if judgement.is_stream:
            # The stream's last bytes go out before any work on storing them begins.
            await asyncio.sleep(0)
        asked = meaning.text if meaning is not None else ""
        stored = self._storable(flight, order, judgement, whole_s, asked)
        if isinstance(stored, Reason):
            if lease is not None:
                # Before anyone who waits is told, so that who tries next finds it free.
                self._tiers.release_soon(lease)
            self._not_stored(flight, stored)
            return
        if meaning is not None:
            meaning = replace(meaning, answer=answer_of(stored, meaning.partition))
        parts = self._parts(stored, order)
        for part in parts:
            self._tiers.keep(part)
        flight.land(stored)
        await asyncio.sleep(0)
        for part in parts:
            # The last one ends the lease.
            if await self._tiers.store(part, lease if part is parts[-1] else None, meaning):
                self._metrics.stored()
                if meaning is not None:
                    self._semantic.stored(part.key)
            else:
                self._metrics.not_stored(Reason.FENCED)

    @staticmethod
    def _parts(stored: StoredAnswer, order: Order) -> list[StoredAnswer]:
        """Return what is to be stored: the answer, or the answer to each input of a batch."""
        ask = order.ask
        if ask.request.endpoint is not Endpoint.EMBEDDINGS:
            return [stored]
        inputs = inputs_of(ask.request)
        if len(inputs) == 1:
            return [stored]
        keys = input_keys(ask.request, ask.scope, inputs)
        try:
            return [*split(stored, inputs, keys), briefly(stored)]
        except ValueError:
            return [briefly(stored)]

    def _storable(
        self, flight: Flight, order: Order, judgement: Judgement, whole_s: float, asked: str
    ) -> StoredAnswer | Reason:
        verdict = judgement.verdict
        if flight.is_oversize:
            return Reason.SIZE
        if isinstance(verdict, DoNotStore):
            return verdict.reason
        recording = record(
            order.ask.request.endpoint,
            judgement.fields.get(b"content-type", b""),
            judgement.fields.get(b"content-encoding", b""),
            flight.content(),
            self._record_policy,
        )
        if isinstance(recording, NotStorable):
            return Reason(recording.reason)
        now = self._clock()
        # What the upstream said of its age and lifetime held when its head came.
        honours_upstream = order.ask.route.rules.honours_upstream
        grown_older_s = max(0.0, now - judgement.at) if honours_upstream else 0.0
        return StoredAnswer(
            key=flight.key,
            stored_at=now,
            lifetime_s=verdict.lifetime_s,
            keep_s=verdict.keep_s,
            initial_age_s=verdict.initial_age_s + grown_older_s,
            endpoint=order.ask.request.endpoint,
            recording=recording,
            headers=judgement.replayed,
            vary=judgement.vary,
            upstream_s=whole_s,
            asked=asked,
        )

    def _not_stored(self, flight: Flight, reason: Reason) -> None:
        self._metrics.not_stored(reason)
        flight.reason = reason
        status = flight.head.status if flight.head is not None else 0
        # A broken 200 is worth one more try. Another like it is how this upstream answers.
        is_fault = reason in _FAULTS and flight.failures == 0
        has_failed = status >= 500 or status in _WORTH_ANOTHER_TRY or is_fault
        if has_failed:
            flight.failures += 1
        flight.land(Landed.FAILED if has_failed else Landed.UNSTORABLE)
