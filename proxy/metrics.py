"""What is counted. Labels come from enums only, so that no client can make a series.

Children are looked up once, when the process starts: `labels()` costs more than the count.
Workers count into files that they share (prometheus_client's multiprocess mode, switched on by
the supervisor through PROMETHEUS_MULTIPROC_DIR), and any worker's `/metrics` adds them up.
"""

import asyncio
import logging
from bisect import bisect_left
from collections.abc import Sequence
from enum import StrEnum
from typing import Final

from prometheus_client import (
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    values,
)
from prometheus_client.multiprocess import MultiProcessCollector

from cachestore.errors import StoreError, StoreRefused
from embeddings.guards.guard import Guard
from proxy.lookup.answers import StoredAnswer
from proxy.lookup.meaning import ExactOnly
from proxy.lookup.policy import Reason
from proxy.lookup.semantic_tier import Looked

CONTENT_TYPE: Final = b"text/plain; version=0.0.4; charset=utf-8"


class Outcome(StrEnum):
    """How a request was answered."""

    HIT_MEMORY = "hit-memory"
    HIT_REDIS = "hit-redis"
    HIT_SEMANTIC = "hit-semantic"
    STALE = "stale"
    PARTIAL = "partial"
    MISS = "miss"
    COLLAPSED = "collapsed"
    BYPASS = "bypass"
    PASSED = "passed"
    NOT_CACHED = "not-cached"
    REFUSED = "refused"
    UPSTREAM_ERROR = "upstream-error"
    GONE = "gone"
    DEFECT = "defect"


_log = logging.getLogger("recollect.semantic")

_ENDPOINTS: Final = ("chat", "completions", "embeddings", "responses", "other")
_REQUEST_S: Final = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0),
)
_LOOKUP_S: Final = (0.00001, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.1, 0.5)
_SCORE: Final = (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.92, 0.94, 0.95, 0.96, 0.97, 0.98, 0.99, 1.0)
_TIERS: Final = ("memory", "redis", "semantic")
_UPSTREAM_S: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)

_requests = Counter(
    "recollect_requests", "Requests by endpoint and outcome.", ["endpoint", "outcome"]
)
_request_s = Histogram(
    "recollect_request_seconds",
    "From the request's header to its answer's last byte.",
    ["outcome"],
    buckets=_REQUEST_S,
)
_lookup_s = Histogram(
    "recollect_lookup_seconds", "Time of one look-up in one tier.", ["tier"], buckets=_LOOKUP_S
)
_semantic_lookups = Counter(
    "recollect_semantic_lookups", "Look-ups by meaning, by how they ended.", ["outcome"]
)
_exact_only = Counter(
    "recollect_semantic_exact_only", "Misses not looked up by meaning, by reason.", ["reason"]
)
_vetoes = Counter(
    "recollect_semantic_vetoes",
    "Stored questions that were near enough and ask something else, by guard.",
    ["guard"],
)
_score = Histogram(
    "recollect_semantic_score",
    "Cosine between a question and the nearest one stored in its partition.",
    buckets=_SCORE,
)
_embeddings_up = Gauge(
    "recollect_embeddings_up",
    "Whether every worker asks the embedding process (1), or has stopped as it failed (0).",
    multiprocess_mode="livemin",
)
_first_byte_s = Histogram(
    "recollect_upstream_first_byte_seconds",
    "From sending a request upstream to the head of its answer.",
    buckets=_UPSTREAM_S,
)
_upstream_s = Histogram(
    "recollect_upstream_seconds",
    "From sending a request upstream to the last byte of its answer.",
    buckets=_UPSTREAM_S,
)
_upstream_errors = Counter(
    "recollect_upstream_errors", "Upstream calls without a whole answer.", ["kind"]
)
_bypasses = Counter(
    "recollect_bypasses", "Requests that the cache let pass, by reason.", ["reason"]
)
_not_stored = Counter("recollect_not_stored", "Answers not stored, by reason.", ["reason"])
_stored = Counter("recollect_stored", "Answers stored.")
_evictions = Counter(
    "recollect_memory_evictions", "Entries that left a worker's memory, by cause.", ["cause"]
)
_memory_bytes = Gauge(
    "recollect_memory_bytes", "Bytes held in the workers' memory.", multiprocess_mode="livesum"
)
_memory_entries = Gauge(
    "recollect_memory_entries", "Entries held in the workers' memory.", multiprocess_mode="livesum"
)
_redis_up = Gauge(
    "recollect_redis_up",
    "Whether every worker has its connection to Redis (1) or not (0).",
    multiprocess_mode="livemin",
)
_redis_errors = Counter(
    "recollect_redis_errors", "Redis operations that failed.", ["operation", "kind"]
)
_redis_outages = Counter("recollect_redis_outages", "Times a worker lost its Redis connection.")
_tokens_saved = Counter(
    "recollect_tokens_saved", "Tokens that hits spared the upstreams.", ["kind"]
)
_upstream_s_saved = Counter(
    "recollect_upstream_seconds_saved", "Upstream time that hits spared, as once measured."
)

_FLUSH_S: Final = 0.02
_EVICTION_CAUSES: Final = ("capacity", "expired", "invalidated")
_ERROR_KINDS: Final = ("unavailable", "refused", "corrupt")


class _Times:
    """Observations of one histogram's child, gathered by bucket."""

    __slots__ = ("_bounds", "_child", "_counts", "_sum")

    def __init__(self, child: Histogram, bounds: Sequence[float]) -> None:
        self._child = child
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def add(self, seconds: float) -> None:
        self._counts[bisect_left(self._bounds, seconds)] += 1
        self._sum += seconds

    def flush(self) -> None:
        # prometheus_client observes one by one only, at two writes each; its child's parts are
        # what `observe` itself writes to.
        for bucket, count in enumerate(self._counts):
            if count:
                self._child._buckets[bucket].inc(count)
                self._counts[bucket] = 0
        self._child._sum.inc(self._sum)
        self._sum = 0.0


class Metrics:
    """The counters of this process.

    A count in the shared files costs a microsecond and a system call, and a request makes a
    dozen. So counts are gathered here and written together, `_FLUSH_S` later at the latest.
    """

    def __init__(self) -> None:
        self._requests = {
            (endpoint, outcome): _requests.labels(endpoint, outcome)
            for endpoint in _ENDPOINTS
            for outcome in Outcome
        }
        self._request_s = {o: _Times(_request_s.labels(o), _REQUEST_S) for o in Outcome}
        self._lookup_s = {t: _Times(_lookup_s.labels(t), _LOOKUP_S) for t in _TIERS}
        self._semantic_lookups = {outcome: _semantic_lookups.labels(outcome) for outcome in Looked}
        self._exact_only = {reason: _exact_only.labels(reason) for reason in ExactOnly}
        self._vetoes = {guard: _vetoes.labels(guard) for guard in Guard}
        self._score = _Times(_score, _SCORE)
        self._first_byte_s = _Times(_first_byte_s, _UPSTREAM_S)
        self._upstream_s = _Times(_upstream_s, _UPSTREAM_S)
        self._bypasses = {reason: _bypasses.labels(reason) for reason in Reason}
        self._not_stored = {reason: _not_stored.labels(reason) for reason in Reason}
        self._evictions = {cause: _evictions.labels(cause) for cause in _EVICTION_CAUSES}
        self._redis_errors = {
            (operation, kind): _redis_errors.labels(operation, kind)
            for operation in ("get", "put", "lease")
            for kind in _ERROR_KINDS
        }
        self._upstream_errors = {
            kind: _upstream_errors.labels(kind) for kind in ("unreachable", "timeout", "cut")
        }
        self._prompt_saved = _tokens_saved.labels("prompt")
        self._completion_saved = _tokens_saved.labels("completion")
        self._memory: tuple[int, int] = (0, 0)
        self._is_redis_up = False
        _redis_up.set(0)
        _embeddings_up.set(1)
        self._counted: dict[Counter, float] = {}
        self._timed: set[_Times] = set()
        self._flushing: asyncio.TimerHandle | None = None

    def answered(self, endpoint: str, outcome: Outcome, seconds: float) -> None:
        """Count one request."""
        self._count(self._requests[endpoint, outcome])
        self._time(self._request_s[outcome], seconds)

    def spared(self, answer: StoredAnswer) -> None:
        """Count what a hit spared the upstream."""
        recording = answer.recording
        self._count(self._prompt_saved, recording.prompt_tokens)
        self._count(self._completion_saved, recording.completion_tokens)
        self._count(_upstream_s_saved, answer.upstream_s)

    def looked_up(self, tier: str, seconds: float) -> None:
        """Count one look-up in `tier` ("memory", "redis" or "semantic")."""
        self._time(self._lookup_s[tier], seconds)

    def meant(self, outcome: Looked) -> None:
        """Count how a look-up by meaning ended."""
        self._count(self._semantic_lookups[outcome])

    def exact_only(self, reason: ExactOnly) -> None:
        """Count a miss that is not looked up by meaning."""
        self._count(self._exact_only[reason])

    def vetoed(self, guard: Guard) -> None:
        """Count a stored question that was near enough and asks something else."""
        self._count(self._vetoes[guard])

    def nearest(self, score: float) -> None:
        """Note how near the nearest stored question was."""
        self._time(self._score, score)

    def store_failed(self, operation: str, error: StoreError) -> None:
        """Count a failed Redis operation ("get", "put" or "lease")."""
        kind = "refused" if isinstance(error, StoreRefused) else "unavailable"
        self._count(self._redis_errors[operation, kind])

    def found_corrupt(self) -> None:
        """Count an entry that was not what had been stored."""
        self._count(self._redis_errors["get", "corrupt"])

    def upstream_answered(self, first_byte_s: float, whole_s: float) -> None:
        """Time one upstream call."""
        self._time(self._first_byte_s, first_byte_s)
        self._time(self._upstream_s, whole_s)

    def upstream_failed(self, kind: str) -> None:
        """Count one upstream call without a whole answer ("unreachable", "timeout" or "cut")."""
        self._count(self._upstream_errors[kind])

    def bypassed(self, reason: Reason) -> None:
        """Count a request that the cache let pass."""
        self._count(self._bypasses[reason])

    def not_stored(self, reason: Reason) -> None:
        """Count an answer that was not stored."""
        self._count(self._not_stored[reason])

    def stored(self) -> None:
        """Count an answer that was stored."""
        self._count(_stored)

    def evicted(self, cause: str) -> None:
        """Count an entry that left this worker's memory."""
        self._count(self._evictions[cause])

    def memory_holds(self, held_bytes: int, entries: int) -> None:
        """Note what this worker's memory holds."""
        self._memory = held_bytes, entries
        self._flush_soon()

    def redis_state(self, is_up: bool) -> None:
        """Note whether this worker's Redis connection stands."""
        _redis_up.set(1 if is_up else 0)
        if self._is_redis_up and not is_up:
            _redis_outages.inc()
        self._is_redis_up = is_up

    def embeddings_state(self, is_up: bool, reason: str) -> None:
        """Note whether this worker asks the embedding process."""
        _embeddings_up.set(1 if is_up else 0)
        if is_up:
            _log.info("the embedding process answers again")
        else:
            _log.warning("the embedding process is not asked for now: %s", reason)

    def flush(self) -> None:
        """Write what was gathered."""
        self._flushing = None
        counted, self._counted = self._counted, {}
        for counter, amount in counted.items():
            counter.inc(amount)
        for times in self._timed:
            times.flush()
        self._timed.clear()
        held_bytes, entries = self._memory
        _memory_bytes.set(held_bytes)
        _memory_entries.set(entries)

    def _count(self, counter: Counter, amount: float = 1) -> None:
        self._counted[counter] = self._counted.get(counter, 0) + amount
        self._flush_soon()

    def _time(self, times: _Times, seconds: float) -> None:
        times.add(seconds)
        self._timed.add(times)
        self._flush_soon()

    def _flush_soon(self) -> None:
        if self._flushing is None:
            self._flushing = asyncio.get_running_loop().call_later(_FLUSH_S, self.flush)


def exposition() -> bytes:
    """Return the sum over all workers, in Prometheus' text format."""
    if values.ValueClass is values.MutexValue:
        return generate_latest(REGISTRY)
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry)
