"""What an embedding process counts, as a scrape sees it."""

import os
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
from prometheus_client.parser import text_string_to_metric_families

from embeddings.observer import (
    IndexStats,
    LookUpOutcome,
    Measured,
    Observer,
    RebuildCause,
    SnapshotOutcome,
)
from embeddings.verdict import Verdict
from proxy.embedding import metrics
from proxy.embedding.metrics import EmbeddingMetrics, exposition

Labels = tuple[tuple[str, str], ...]


def samples() -> dict[tuple[str, Labels], float]:
    """Return every sample of a scrape by its name and labels."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(exposition().decode())
        for sample in family.samples
    }


class Change:
    """What has been counted since it was made."""

    def __init__(self) -> None:
        self._before = samples()

    def of(self, name: str, **labels: str) -> float:
        """Return by how much one sample has grown."""
        place = name, tuple(sorted(labels.items()))
        return samples()[place] - self._before.get(place, 0.0)


def test_each_event_is_counted() -> None:
    """One sample for each call of an observer."""
    observer: Observer = EmbeddingMetrics()
    change = Change()
    observer.looked_up("found")
    observer.encoded(3, 0.004)
    observer.searched(3, 0.0004)
    observer.rebuilt("trimmed", 2.0)
    observer.snapshot("saved", 0.2)

    assert change.of("recollect_embedding_lookups_total", outcome="found") == 1
    assert change.of("recollect_embedding_lookups_total", outcome="busy") == 0
    assert change.of("recollect_embedding_batch_texts_sum") == 3
    assert change.of("recollect_embedding_batch_texts_bucket", le="2.0") == 0
    assert change.of("recollect_embedding_batch_texts_bucket", le="4.0") == 1
    assert change.of("recollect_embedding_encode_seconds_bucket", le="0.005") == 1
    assert change.of("recollect_embedding_search_seconds_bucket", le="0.0005") == 1
    assert change.of("recollect_index_rebuild_seconds_count", cause="trimmed") == 1
    assert change.of("recollect_index_rebuild_seconds_sum", cause="trimmed") == 2
    assert change.of("recollect_index_snapshot_seconds_count", outcome="saved") == 1


def test_states_are_what_they_were_told_to_be_last() -> None:
    """A state that has no vectors any more is 0, not what it was."""
    observer = EmbeddingMetrics()
    observer.indexed(IndexStats({"flat": 5, "spilled": 2}, 3, 1000))
    observer.queued(4)
    observer.lag(0.25)
    observer.indexed(IndexStats({"graph": 7}, 1, 2000))

    found = samples()
    vectors = {
        state: found["recollect_index_vectors", (("state", state),)] for state in metrics.STATES
    }
    assert vectors == {"flat": 0, "graph": 7, "spilled": 0, "remote": 0}
    assert found["recollect_index_partitions", ()] == 1
    assert found["recollect_index_bytes", ()] == 2000
    assert found["recollect_embedding_queued_texts", ()] == 4
    assert found["recollect_index_lag_seconds", ()] == 0.25


def test_decisions_within_a_budget_are_counted_by_route() -> None:
    """And what came of them."""
    observer: Observer = EmbeddingMetrics()
    change = Change()
    for verdict in Verdict:
        observer.decided("r", verdict)
    observer.compared("r", True, True)
    observer.compared("r", True, False)
    observer.compared("s", False, False)

    name = "recollect_semantic_decisions_total"
    assert [change.of(name, route="r", verdict=verdict) for verdict in Verdict] == [1] * len(
        Verdict
    )
    name = "recollect_semantic_comparisons_total"
    assert change.of(name, route="r", sure="yes", right="yes") == 1
    assert change.of(name, route="r", sure="yes", right="no") == 1
    assert change.of(name, route="s", sure="no", right="no") == 1


@pytest.mark.parametrize(
    ("measured", "mean"), [(Measured(200, 3, 0.005, 0.04), 0.015), (Measured(0, 0, 0.0, 1.0), 0.0)]
)
def test_budget_is_shown_as_it_stands_now(measured: Measured, mean: float) -> None:
    """Whether it serves, from where on, and the measured share with its interval."""
    observer = EmbeddingMetrics()
    observer.budget("r", False, 1.0, Measured(1, 1, 0.2, 1.0))
    observer.budget("r", True, 0.97, measured)

    found = samples()
    assert found["recollect_semantic_serving", (("route", "r"),)] == 1
    assert found["recollect_semantic_threshold", (("route", "r"),)] == 0.97
    bounds = {
        bound: found["recollect_semantic_error", (("bound", bound), ("route", "r"))]
        for bound in ("low", "mean", "high")
    }
    assert bounds == {"low": measured.low, "mean": mean, "high": measured.high}


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        (metrics.OUTCOMES, LookUpOutcome),
        (metrics.CAUSES, RebuildCause),
        (metrics.SNAPSHOTS, SnapshotOutcome),
    ],
)
def test_every_word_of_an_observer_has_its_series(words: tuple[str, ...], kind: object) -> None:
    """One that was added there and not here would end a process."""
    assert set(words) == set(get_args(kind))


def test_process_that_runs_alone_shows_nothing_of_workers() -> None:
    """A Redis that seems to be down is an alert."""
    assert not any(name.startswith("recollect_re") for name, _ in samples())
    assert all(
        name.startswith(("recollect_embedding_", "recollect_index_", "recollect_semantic_"))
        for name, _ in samples()
    )


def test_counts_are_added_to_those_of_the_workers(tmp_path: Path) -> None:
    """In the same shared files: any worker's /metrics shows both."""
    code = """
import asyncio
from embeddings.observer import IndexStats
from proxy.embedding.metrics import EmbeddingMetrics
from proxy.metrics import exposition

metrics = EmbeddingMetrics()
metrics.looked_up("found")
metrics.indexed(IndexStats({"flat": 5}, 1, 1000))
print(exposition().decode())
"""
    text = ""
    for _ in range(2):
        ran = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)},
            check=True,
            capture_output=True,
            text=True,
        )
        text = ran.stdout

    assert 'recollect_embedding_lookups_total{outcome="found"} 2.0' in text
    assert 'recollect_index_vectors{state="flat"}' in text
