"""What is counted, as a scrape sees it."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from cachestore.errors import StoreRefused, StoreUnavailable
from proxy.lookup.meaning import ExactOnly
from proxy.lookup.policy import Reason
from proxy.lookup.semantic_tier import Looked
from proxy.metrics import Metrics, Outcome, exposition
from proxy.upstreams.upstream import UpstreamCut, UpstreamTimeout, UpstreamUnreachable
from tests.proxy.fakes import (
    ASKED,
    IN_OTHER_WORDS,
    FakeEmbeddings,
    FakeUpstream,
    Play,
    Worker,
    chat,
    json_play,
    learn,
    settle,
)

pytestmark = pytest.mark.virtual_time

Labels = tuple[tuple[str, str], ...]


def counted(name: str) -> dict[Labels, float]:
    """Return the samples of one name, by labels."""
    return {
        tuple(sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(exposition().decode())
        for sample in family.samples
        if sample.name == name
    }


class Change:
    """What has been counted since it was made."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        metrics.flush()
        self._before: dict[str, dict[Labels, float]] = {}
        for family in text_string_to_metric_families(exposition().decode()):
            for sample in family.samples:
                labels = tuple(sorted(sample.labels.items()))
                self._before.setdefault(sample.name, {})[labels] = sample.value

    def of(self, name: str, **labels: str) -> float:
        """Return by how much one sample has grown."""
        self._metrics.flush()
        place = tuple(sorted(labels.items()))
        after = counted(name)
        assert place in after, f"{name} has no {labels}"
        return after[place] - self._before.get(name, {}).get(place, 0.0)


async def test_histogram_sorts_observations_into_the_buckets_that_hold_them() -> None:
    """A bucket's bound belongs to it (`le`); gathering must not change what is counted."""
    metrics = Metrics()
    change = Change(metrics)
    for seconds in (0.05, 0.1, 0.100001, 400.0):
        metrics.answered("chat", Outcome.MISS, seconds)

    def at(bound: str) -> float:
        return change.of("recollect_request_seconds_bucket", outcome="miss", le=bound)

    assert [at("0.025"), at("0.05"), at("0.1"), at("0.25"), at("300.0"), at("+Inf")] == [
        *(0, 1, 2, 3, 3),
        4,
    ]
    assert change.of("recollect_request_seconds_count", outcome="miss") == 4
    assert change.of("recollect_request_seconds_sum", outcome="miss") == pytest.approx(400.250001)
    assert change.of("recollect_requests_total", endpoint="chat", outcome="miss") == 4


async def test_counts_are_written_without_being_asked_for() -> None:
    """Other workers' scrapes read the shared files, not this worker's memory."""
    metrics = Metrics()
    change = Change(metrics)
    metrics.stored()
    before = counted("recollect_stored_total")[()]

    await asyncio.sleep(1)

    assert counted("recollect_stored_total")[()] == before + 1
    assert change.of("recollect_stored_total") == 1


async def test_hit_counts_what_it_spared() -> None:
    """Issue §6: tokens and upstream seconds saved."""
    worker = Worker(FakeUpstream(json_play()))
    await worker.get(chat())
    await settle()
    change = Change(worker.metrics)

    await worker.get(chat())

    assert change.of("recollect_tokens_saved_total", kind="prompt") == 3
    assert change.of("recollect_tokens_saved_total", kind="completion") == 2
    assert change.of("recollect_upstream_seconds_saved_total") >= 0
    assert change.of("recollect_lookup_seconds_count", tier="memory") == 1
    assert change.of("recollect_lookup_seconds_count", tier="redis") == 0


async def test_miss_counts_its_look_ups_its_upstream_call_and_its_storing() -> None:
    """Issue §6."""
    worker = Worker(FakeUpstream(json_play()))
    change = Change(worker.metrics)

    await worker.get(chat())
    await settle()

    assert change.of("recollect_lookup_seconds_count", tier="memory") == 1
    assert change.of("recollect_lookup_seconds_count", tier="redis") == 1
    assert change.of("recollect_upstream_first_byte_seconds_count") == 1
    assert change.of("recollect_upstream_seconds_count") == 1
    assert change.of("recollect_stored_total") == 1
    assert change.of("recollect_tokens_saved_total", kind="prompt") == 0
    worker.metrics.flush()
    assert counted("recollect_memory_entries")[()] == 1
    assert counted("recollect_memory_bytes")[()] == worker.memory.bytes


async def test_followers_spare_the_upstream_too() -> None:
    """What a collapsed request did not cost."""
    gate = asyncio.Event()
    worker = Worker(FakeUpstream(json_play(gate=gate)))
    change = Change(worker.metrics)
    calls = [worker.ask(chat()) for _ in range(3)]
    await settle()
    gate.set()
    for call in calls:
        await call.done()

    assert change.of("recollect_tokens_saved_total", kind="prompt") == 6


@pytest.mark.parametrize(
    ("play", "kind"),
    [
        (Play(error=UpstreamUnreachable("refused")), "unreachable"),
        (Play(error=UpstreamTimeout("late")), "timeout"),
        (Play([b"x", UpstreamCut("cut")]), "cut"),
        (Play([b"x", UpstreamTimeout("idle")]), "timeout"),
    ],
)
@pytest.mark.parametrize("way", ["fetches", "bypasses", "passes"])
async def test_upstream_call_without_a_whole_answer_is_counted_by_its_kind(
    way: str, play: Play, kind: str
) -> None:
    """On the cache's own calls and on those of what it lets pass."""
    worker = Worker(FakeUpstream(play))
    change = Change(worker.metrics)

    match way:
        case "fetches":
            await worker.get(chat())
        case "bypasses":
            await worker.get(b"{no json")
        case _:
            await worker.get(path="/v1/models", method="GET")

    assert change.of("recollect_upstream_errors_total", kind=kind) == 1
    assert change.of("recollect_upstream_seconds_count") == 0


async def test_reasons_are_counted_under_the_word_in_the_header() -> None:
    """Style: one reason word serves header, metric and log."""
    worker = Worker(FakeUpstream(json_play(finish_reason="length")))
    change = Change(worker.metrics)

    stored = await worker.get(chat())
    passed = await worker.get(chat(), headers={"cache-control": "no-store"})

    assert "detail=finish-reason" in stored.cache_status
    assert change.of("recollect_not_stored_total", reason="finish-reason") == 1
    assert "detail=no-store" in passed.cache_status
    assert change.of("recollect_bypasses_total", reason="no-store") == 1


async def test_faults_of_redis_are_counted_by_operation_and_kind() -> None:
    """An outage is told from a refusal, and both from a value that is not ours."""
    metrics = Metrics()
    change = Change(metrics)
    metrics.store_failed("get", StoreUnavailable("down"))
    metrics.store_failed("put", StoreRefused("OOM"))
    metrics.store_failed("lease", StoreUnavailable("down"))
    metrics.found_corrupt()

    def errors(operation: str, kind: str) -> float:
        return change.of("recollect_redis_errors_total", operation=operation, kind=kind)

    assert errors("get", "unavailable") == 1
    assert errors("put", "refused") == 1
    assert errors("lease", "unavailable") == 1
    assert errors("get", "corrupt") == 1
    assert errors("put", "unavailable") == 0


async def test_outage_is_counted_when_it_begins() -> None:
    """Not while it lasts, and not before there was a connection."""
    metrics = Metrics()
    change = Change(metrics)
    for is_up in (False, True, False, False, True):
        metrics.redis_state(is_up)

    assert change.of("recollect_redis_outages_total") == 1
    assert counted("recollect_redis_up")[()] == 1


async def test_look_ups_by_meaning_are_counted_by_how_they_ended() -> None:
    """And timed, and their scores noted, to choose a threshold by."""
    embeddings = FakeEmbeddings()
    worker = Worker(FakeUpstream(json_play()), embeddings=embeddings)
    change = Change(worker.metrics)

    await learn(worker, embeddings)
    await worker.get(chat(IN_OTHER_WORDS))

    assert change.of("recollect_semantic_lookups_total", outcome="nothing") == 1
    assert change.of("recollect_semantic_lookups_total", outcome="hit") == 1
    assert change.of("recollect_requests_total", endpoint="chat", outcome="hit-semantic") == 1
    assert change.of("recollect_lookup_seconds_count", tier="semantic") == 2
    assert change.of("recollect_semantic_score_count") == 1
    assert change.of("recollect_semantic_score_bucket", le="0.97") == 1
    assert change.of("recollect_semantic_score_bucket", le="0.96") == 0
    assert change.of("recollect_tokens_saved_total", kind="prompt") == 3


async def test_what_is_not_looked_up_by_meaning_is_counted_by_its_reason() -> None:
    """Only on a miss: whoever hits exactly is not looked at any closer."""
    worker = Worker(FakeUpstream(json_play()), embeddings=FakeEmbeddings())
    change = Change(worker.metrics)

    for _ in range(2):
        await worker.get(chat("Hello"))

    assert change.of("recollect_semantic_exact_only_total", reason="short") == 1


async def test_every_outcome_and_reason_has_its_series_from_the_start() -> None:
    """An alert on a rate needs the zero before the first count."""
    metrics = Metrics()
    metrics.flush()

    assert counted("recollect_semantic_lookups_total").keys() == {
        (("outcome", outcome.value),) for outcome in Looked
    }
    assert counted("recollect_semantic_exact_only_total").keys() == {
        (("reason", reason.value),) for reason in ExactOnly
    }
    assert ASKED not in exposition().decode()


async def test_breaker_to_the_embedding_process_is_seen_and_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """1 from the start: no look-up has failed yet."""
    metrics = Metrics()
    up = [counted("recollect_embeddings_up")[()]]
    caplog.set_level("INFO", "recollect")
    for is_up, reason in ((False, "down: cannot connect"), (True, "")):
        metrics.embeddings_state(is_up, reason)
        up.append(counted("recollect_embeddings_up")[()])

    assert up == [1, 0, 1]
    assert "down: cannot connect" in caplog.messages[0]
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


async def test_labels_come_from_enums_alone() -> None:
    """No client can make a series: models, tenants and paths are no labels."""
    worker = Worker(FakeUpstream(json_play()))
    before = len(exposition().splitlines())

    for number in range(20):
        await worker.get(chat(model=f"model-{number}"), headers={"authorization": f"B {number}"})
        await worker.get(path=f"/v1/{number}", method="GET")
    worker.metrics.flush()

    assert len(exposition().splitlines()) == before
    assert all(reason.value.isascii() for reason in Reason)


def test_workers_counts_are_added_up(tmp_path: Path) -> None:
    """Issue §5: correct over several workers. Each is a process of its own."""
    code = """
import asyncio
from proxy.metrics import Metrics, Outcome, exposition

async def count():
    metrics = Metrics()
    metrics.answered("chat", Outcome.MISS, 0.1)
    metrics.memory_holds(100, 1)
    metrics.redis_state({up})
    metrics.flush()

asyncio.run(count())
print(exposition().decode())
"""
    env = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    text = ""
    for up in ("True", "False"):
        ran = subprocess.run(
            [sys.executable, "-c", code.format(up=up)],
            env=env,
            check=True,
            capture_output=True,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        text = ran.stdout

    assert 'recollect_requests_total{endpoint="chat",outcome="miss"} 2.0' in text
    assert 'recollect_request_seconds_count{outcome="miss"} 2.0' in text
