"""What is counted. Labels come from enums only, so that no client can make a series.

Children are looked up once, when the process starts: `labels()` costs more than the count.
Workers count into files that they share (prometheus_client's multiprocess mode, switched on by
the supervisor through PROMETHEUS_MULTIPROC_DIR), and any worker's `/metrics` adds them up.
"""

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
from proxy.lookup.answers import StoredAnswer
from proxy.lookup.policy import Reason

CONTENT_TYPE: Final = b"text/plain; version=0.0.4; charset=utf-8"


class Outcome(StrEnum):
    """How a request was answered."""

    HIT_MEMORY = "hit-memory"
    HIT_REDIS = "hit-redis"
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


_ENDPOINTS: Final = ("chat", "completions", "embeddings", "responses", "other")
_REQUEST_S: Final = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0),
)
_LOOKUP_S: Final = (0.00001, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.1, 0.5)
_UPSTREAM_S: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)

_requests = Counter(
    "recollect_requests", "Requests by endpoint and outcome.", ["endpoint", "outcome"]
)
_request_s = Histogram(
    "recollect_request_seconds",
    "From the request's last byte to its answer's last byte.",
    ["outcome"],
    buckets=_REQUEST_S,
)
_lookup_s = Histogram(
    "recollect_lookup_seconds", "Time of one look-up in one tier.", ["tier"], buckets=_LOOKUP_S
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

_EVICTION_CAUSES: Final = ("capacity", "expired", "invalidated")
_ERROR_KINDS: Final = ("unavailable", "refused", "corrupt")


class Metrics:
    """The counters of this process."""

    def __init__(self) -> None:
        self._requests = {
            (endpoint, outcome): _requests.labels(endpoint, outcome)
            for endpoint in _ENDPOINTS
            for outcome in Outcome
        }
        self._request_s = {outcome: _request_s.labels(outcome) for outcome in Outcome}
        self._lookup_s = {tier: _lookup_s.labels(tier) for tier in ("memory", "redis")}
        self._reasons = {
            counter: {reason: counter.labels(reason) for reason in Reason}
            for counter in (_bypasses, _not_stored)
        }
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
        self._is_redis_up = False
        _redis_up.set(0)

    def answered(self, endpoint: str, outcome: Outcome, seconds: float) -> None:
        """Count one request."""
        self._requests[endpoint, outcome].inc()
        self._request_s[outcome].observe(seconds)

    def spared(self, answer: StoredAnswer) -> None:
        """Count what a hit spared the upstream."""
        recording = answer.recording
        if recording.prompt_tokens:
            self._prompt_saved.inc(recording.prompt_tokens)
        if recording.completion_tokens:
            self._completion_saved.inc(recording.completion_tokens)
        _upstream_s_saved.inc(answer.upstream_s)

    def looked_up(self, tier: str, seconds: float) -> None:
        """Count one look-up in `tier` ("memory" or "redis")."""
        self._lookup_s[tier].observe(seconds)

    def store_failed(self, operation: str, error: StoreError) -> None:
        """Count a failed Redis operation ("get", "put" or "lease")."""
        kind = "refused" if isinstance(error, StoreRefused) else "unavailable"
        self._redis_errors[operation, kind].inc()

    def found_corrupt(self) -> None:
        """Count an entry that was not what had been stored."""
        self._redis_errors["get", "corrupt"].inc()

    def upstream_answered(self, first_byte_s: float, whole_s: float) -> None:
        """Time one upstream call."""
        _first_byte_s.observe(first_byte_s)
        _upstream_s.observe(whole_s)

    def upstream_failed(self, kind: str) -> None:
        """Count one upstream call without a whole answer ("unreachable", "timeout" or "cut")."""
        self._upstream_errors[kind].inc()

    def bypassed(self, reason: Reason) -> None:
        """Count a request that the cache let pass."""
        self._reasons[_bypasses][reason].inc()

    def not_stored(self, reason: Reason) -> None:
        """Count an answer that was not stored."""
        self._reasons[_not_stored][reason].inc()

    def stored(self) -> None:
        """Count an answer that was stored."""
        _stored.inc()

    def evicted(self, cause: str) -> None:
        """Count an entry that left this worker's memory."""
        self._evictions[cause].inc()

    def memory_holds(self, held_bytes: int, entries: int) -> None:
        """Note what this worker's memory holds."""
        _memory_bytes.set(held_bytes)
        _memory_entries.set(entries)

    def redis_state(self, is_up: bool) -> None:
        """Note whether this worker's Redis connection stands."""
        _redis_up.set(1 if is_up else 0)
        if self._is_redis_up and not is_up:
            _redis_outages.inc()
        self._is_redis_up = is_up


def exposition() -> bytes:
    """Return the sum over all workers, in Prometheus' text format."""
    if values.ValueClass is values.MutexValue:
        return generate_latest(REGISTRY)
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry)
