"""Answers from the cache: a stored answer, made fresh, in the form that was asked for."""

import asyncio
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from proxy.embeddings_batch import Batch
from proxy.exchange import Exchange, Headers, http_date, watching
from proxy.lookup.answers import StoredAnswer
from proxy.lookup.ask import Ask
from proxy.lookup.policy import Reuse
from proxy.lookup.single_flight import Flight
from proxy.lookup.tiers import Tiers
from proxy.metrics import Metrics, Outcome
from proxy.wire.endpoint import Endpoint, Form
from proxy.wire.replay import fresh, new_id, split_events

_CONTENT_TYPES: Final = {
    Form.JSON: (b"content-type", b"application/json"),
    Form.SSE: (b"content-type", b"text/event-stream; charset=utf-8"),
}
_ID_BYTES: Final = 16


class Replies:
    """Replays stored answers.

    Args:
        tiers: Renders forms and remembers them.
        metrics: Counts what hits spared.
        interval_s: Pause between the chunks of a replayed stream.
        clock: Unix time in seconds.
    """

    def __init__(
        self,
        tiers: Tiers,
        metrics: Metrics,
        interval_s: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._tiers = tiers
        self._metrics = metrics
        self._interval_s = interval_s
        self._clock = clock

    async def replay(
        self,
        exchange: Exchange,
        ask: Ask,
        answer: StoredAnswer,
        reuse: Reuse,
        outcome: Outcome,
        *,
        score: float | None = None,
        key: bytes = b"",
    ) -> bool:
        """Answer with a hit; False, with nothing sent, where `answer` lacks what was asked for.

        Args:
            exchange: Where it was asked.
            ask: What was asked.
            answer: The stored response.
            reuse: Its age and remaining freshness.
            outcome: For metrics and logs.
            score: For an answer to other words: how near those are (cosine).
            key: And the exact key of what was asked.
        """
        status = hit_status(reuse.ttl_s, score, key)
        is_sent = await self._send(
            exchange, ask, answer, cache_status=status, age_s=reuse.age_s, outcome=outcome
        )
        if is_sent:
            self._metrics.spared(answer)
        return is_sent

    async def collapsed(
        self, exchange: Exchange, ask: Ask, answer: StoredAnswer, forwarded: bytes
    ) -> bool:
        """Answer with what another request's flight has just brought."""
        status = b"recollect; fwd=" + forwarded + b"; collapsed"
        age_s = answer.initial_age_s
        is_sent = await self._send(
            exchange, ask, answer, cache_status=status, age_s=age_s, outcome=Outcome.COLLAPSED
        )
        if is_sent:
            self._metrics.spared(answer)
        return is_sent

    async def batch(
        self,
        exchange: Exchange,
        ask: Ask,
        batch: Batch,
        known: Mapping[bytes, tuple[StoredAnswer, Reuse]],
        rest: StoredAnswer | None = None,
    ) -> bool:
        """Answer a batch of embeddings from its known inputs and, if some were not, the rest.

        False, with nothing sent, where `rest` has not an embedding for each of the others.
        """
        model = rest or next(iter(batch.known.values()))
        try:
            whole = replace(model, recording=batch.put_together(rest), templates={})
        except ValueError:
            return False
        age_s = max(reuse.age_s for _, reuse in known.values())
        if rest is not None:
            status, outcome = b"recollect; fwd=partial; stored", Outcome.PARTIAL
        else:
            status = hit_status(min(reuse.ttl_s for _, reuse in known.values()))
            outcome = Outcome.HIT_REDIS
        await self._send(exchange, ask, whole, cache_status=status, age_s=age_s, outcome=outcome)
        for answer, _ in known.values():
            self._metrics.spared(answer)
        return True

    async def _send(
        self,
        exchange: Exchange,
        ask: Ask,
        answer: StoredAnswer,
        *,
        cache_status: bytes,
        age_s: float,
        outcome: Outcome,
    ) -> bool:
        request = ask.request
        form = request.form
        template = self._tiers.template(answer, form, request.include_usage)
        if template is None:
            return False
        content = made_fresh(template, request.endpoint, self._clock())
        exchange.outcome = outcome
        exchange.cache_status = cache_status
        headers = replay_headers(answer, form, cache_status, age_s, exchange.request_id)
        if form is Form.SSE and self._interval_s > 0:
            await self._paced(exchange, headers, content)
        else:
            headers.append((b"content-length", b"%d" % len(content)))
            await exchange.begin(200, headers)
            await exchange.end(content)
        return True

    async def _paced(self, exchange: Exchange, headers: Headers, content: bytes) -> None:
        async with watching(exchange):
            await exchange.begin(200, headers)
            for event in split_events(content):
                await exchange.write(event)
                await asyncio.sleep(self._interval_s)
            await exchange.end()

    @staticmethod
    def forwarded_status(flight: Flight, forwarded: bytes) -> bytes:
        """Return `Cache-Status` for an answer that came from upstream (RFC 9211 §2)."""
        status = b"recollect; fwd=" + forwarded
        head = flight.head
        if head is not None and head.status != 200:
            status += b"; fwd-status=%d" % head.status
        if flight.is_collapsed:
            return status + b"; collapsed"
        if isinstance(flight.landed, StoredAnswer):
            return status + b"; stored"
        if flight.reason is not None and (head is None or head.status == 200):
            return status + b"; detail=" + flight.reason.encode()
        return status


def hit_status(ttl_s: float, score: float | None = None, key: bytes = b"") -> bytes:
    """Return `Cache-Status` for a hit that is fresh for `ttl_s` more (RFC 9211 §2.1, §2.4, §2.7).

    A hit by meaning names the key of what was asked: by it, a wrong answer can be told of.
    """
    if score is None:
        return b"recollect; hit; ttl=%d; detail=exact" % int(ttl_s)
    status = b"recollect; hit; ttl=%d; detail=semantic; score=%.3f" % (int(ttl_s), score)
    return b'%b; key="%b"' % (status, key.hex().encode()) if key else status


def made_fresh(template: bytes, endpoint: Endpoint, now: float) -> bytes:
    """Return a template's content with an id of its own, created at `now`."""
    return fresh(template, new_id(endpoint, os.urandom(_ID_BYTES)), b"%d" % int(now))


def replay_headers(
    answer: StoredAnswer, form: Form, cache_status: bytes, age_s: float, request_id: bytes
) -> Headers:
    """Return the header fields of a replay, but for those about its length."""
    headers = list(answer.headers)
    if form is not answer.recording.form:
        headers = [field for field in headers if field[0] != b"content-type"]
        headers.append(_CONTENT_TYPES[form])
    headers += (
        (b"cache-status", cache_status),
        (b"age", b"%d" % int(age_s)),
        (b"date", http_date()),
        (b"x-request-id", request_id),
    )
    return headers
