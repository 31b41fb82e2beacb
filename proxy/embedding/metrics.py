"""What is counted in the embedding process.

In the same shared files as the workers' counts, so that any worker's `/metrics` shows both; or, in
an embedding process that runs alone, for its own `/metrics`.
"""

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from embeddings.observer import (
    IndexStats,
    LookUpOutcome,
    Measured,
    RebuildCause,
    SnapshotOutcome,
)
from embeddings.verdict import Verdict

OUTCOMES: Final = ("found", "nothing", "refused", "busy", "failed")
STATES: Final = ("flat", "graph", "spilled", "remote")
CAUSES: Final = ("start", "trimmed", "encoder", "store", "lost")
SNAPSHOTS: Final = ("saved", "loaded", "unusable", "failed")

_ENCODE_S: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
_SEARCH_S: Final = (0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.1)
_TEXTS: Final = (1, 2, 4, 8, 16, 32, 64, 128)
_YES_NO: Final = ("no", "yes")
_LONG_S: Final = (0.01, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)

_look_ups = Counter(
    "recollect_embedding_lookups", "Look-ups the embedding process answered.", ["outcome"]
)
_batch = Histogram("recollect_embedding_batch_texts", "Texts encoded together.", buckets=_TEXTS)
_encode_s = Histogram(
    "recollect_embedding_encode_seconds", "Time of encoding one batch.", buckets=_ENCODE_S
)
_search_s = Histogram(
    "recollect_embedding_search_seconds", "Time of one search for a batch.", buckets=_SEARCH_S
)
_queued = Gauge(
    "recollect_embedding_queued_texts",
    "Texts that wait for the encoder.",
    multiprocess_mode="livesum",
)
_vectors = Gauge(
    "recollect_index_vectors", "Vectors by where they lie.", ["state"], multiprocess_mode="livesum"
)
_partitions = Gauge(
    "recollect_index_partitions", "Partitions with a vector.", multiprocess_mode="livesum"
)
_bytes = Gauge(
    "recollect_index_bytes", "Memory of the embedding process' index.", multiprocess_mode="livesum"
)
_lag_s = Gauge(
    "recollect_index_lag_seconds",
    "How far the index is behind the change log.",
    multiprocess_mode="livemax",
)
_rebuild_s = Histogram(
    "recollect_index_rebuild_seconds",
    "Time of filling the index anew from Redis, by why.",
    ["cause"],
    buckets=_LONG_S,
)
_snapshot_s = Histogram(
    "recollect_index_snapshot_seconds",
    "Time of writing or reading a snapshot, by how it ended.",
    ["outcome"],
    buckets=_LONG_S,
)

_decisions = Counter(
    "recollect_semantic_decisions",
    "Look-ups decided within an error budget, by route and verdict.",
    ["route", "verdict"],
)
_comparisons = Counter(
    "recollect_semantic_comparisons",
    "Upstream answers compared with what the neighbours spoke for, by route.",
    ["route", "sure", "right"],
)
_serving = Gauge(
    "recollect_semantic_serving",
    "Whether a route with an error budget has earned its hits (1) or not (0).",
    ["route"],
    multiprocess_mode="livemin",
)
_threshold = Gauge(
    "recollect_semantic_threshold",
    "The least probability at which a route serves.",
    ["route"],
    multiprocess_mode="livemax",
)
_error = Gauge(
    "recollect_semantic_error",
    "Measured share of wrong answers among those sure enough to be served; and its 95 % interval.",
    ["route", "bound"],
    multiprocess_mode="livemax",
)


class EmbeddingMetrics:
    """The `Observer` of an embedding process."""

    def __init__(self) -> None:
        self._look_ups = {outcome: _look_ups.labels(outcome) for outcome in OUTCOMES}
        self._vectors = {state: _vectors.labels(state) for state in STATES}
        self._rebuild_s = {cause: _rebuild_s.labels(cause) for cause in CAUSES}
        self._snapshot_s = {outcome: _snapshot_s.labels(outcome) for outcome in SNAPSHOTS}

    def looked_up(self, outcome: LookUpOutcome) -> None:
        """Count a look-up."""
        self._look_ups[outcome].inc()

    def encoded(self, texts: int, seconds: float) -> None:
        """Time the encoding of a batch."""
        _batch.observe(texts)
        _encode_s.observe(seconds)

    def searched(self, queries: int, seconds: float) -> None:
        """Time a search."""
        _search_s.observe(seconds)

    def queued(self, texts: int) -> None:
        """Note what waits for the encoder."""
        _queued.set(texts)

    def indexed(self, stats: IndexStats) -> None:
        """Note what the index holds."""
        for state, gauge in self._vectors.items():
            gauge.set(stats.vectors.get(state, 0))
        _partitions.set(stats.partitions)
        _bytes.set(stats.bytes)

    def lag(self, seconds: float) -> None:
        """Note how far behind the index is."""
        _lag_s.set(seconds)

    def rebuilt(self, cause: RebuildCause, seconds: float) -> None:
        """Time a rebuild."""
        self._rebuild_s[cause].observe(seconds)

    def snapshot(self, outcome: SnapshotOutcome, seconds: float) -> None:
        """Time a snapshot."""
        self._snapshot_s[outcome].observe(seconds)

    def decided(self, route: str, verdict: Verdict) -> None:
        """Count a decision within an error budget."""
        _decisions.labels(route, verdict.value).inc()

    def compared(self, route: str, would_serve: bool, is_right: bool) -> None:
        """Count an upstream's answer that was compared."""
        _comparisons.labels(route, _YES_NO[would_serve], _YES_NO[is_right]).inc()

    def budget(self, route: str, is_serving: bool, threshold: float, measured: Measured) -> None:
        """Note how a route's budget stands."""
        _serving.labels(route).set(is_serving)
        _threshold.labels(route).set(threshold)
        share = measured.wrong / measured.seen if measured.seen else 0.0
        for bound, value in (("low", measured.low), ("mean", share), ("high", measured.high)):
            _error.labels(route, bound).set(value)


def exposition() -> bytes:
    """Return what this process counts, in Prometheus' text format.

    Not the workers' metrics: in a process that runs alone they would all be 0, and a Redis that
    seems to be down is an alert.
    """
    registry = CollectorRegistry()
    for metric in (
        *(_look_ups, _batch, _encode_s, _search_s, _queued, _vectors, _partitions, _bytes),
        *(_lag_s, _rebuild_s, _snapshot_s),
        *(_decisions, _comparisons, _serving, _threshold, _error),
    ):
        registry.register(metric)
    return generate_latest(registry)
