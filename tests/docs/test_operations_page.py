"""docs/operations.md says what the code does."""

import asyncio
import itertools
import json
import logging
import re
from typing import Any

import pytest
from prometheus_client import REGISTRY

from cachestore.change_log import ChangeLog, log_name
from cachestore.entry import StoredResponse
from cachestore.leases import Held, Lease, Leases, lease_key
from cachestore.redis_link import RedisLink
from cachestore.redis_store import RedisStore, alias_prefix, entry_prefix, record_prefix
from cachestore.vector_record import Meaning
from cachestore.vector_records import VectorRecords
from embeddings.observer import Measured
from embeddings.verdict import Verdict
from proxy import logs
from proxy.embedding.metrics import EmbeddingMetrics, exposition
from proxy.exchange import Exchange
from proxy.lookup.meaning import ExactOnly
from proxy.lookup.semantic_tier import Looked
from proxy.metrics import Metrics, Outcome
from proxy.operations import PATHS
from tests.docs.pages import codes, part, read, rows, snippets
from tests.support.redis_server import RedisServer

PAGE = "docs/operations.md"
_OF_A_BUDGET = "decisions_total|comparisons_total|serving|threshold|error"
PARTS = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}


def registered() -> dict[str, tuple[str, dict[str, set[str]]]]:
    """Return type, and values by label, of each metric, by the name it has in PromQL."""
    Metrics()
    embedding = EmbeddingMetrics()
    for verdict in Verdict:
        embedding.decided("default", verdict)
    for is_sure, is_right in itertools.product((True, False), repeat=2):
        embedding.compared("default", is_sure, is_right)
    embedding.budget("default", False, 1.0, Measured(0, 0, 0.0, 1.0))
    found = {}
    for family in REGISTRY.collect():
        if not family.name.startswith("recollect_"):
            continue
        labels: dict[str, set[str]] = {}
        for sample in family.samples:
            for label, value in sample.labels.items():
                if label != "le":
                    labels.setdefault(label, set()).add(value)
        name = family.name + ("_total" if family.type == "counter" else "")
        found[name] = (family.type, labels)
    return found


def documented() -> dict[str, tuple[str, list[str], str]]:
    """Return type, labels and meaning of each metric on the page."""
    table = rows(part(PAGE, "metrics"))
    return {codes(name)[0]: (kind, codes(labels), text) for name, kind, labels, text in table}


def test_every_metric_is_documented_and_no_other() -> None:
    """With its type and its labels."""
    assert {name: (kind, set(labels)) for name, (kind, labels, _) in documented().items()} == {
        name: (kind, set(labels)) for name, (kind, labels) in registered().items()
    }


def test_the_embedding_process_shows_its_own_metrics_and_no_others() -> None:
    """A worker's metric that stands at 0 there, such as `recollect_redis_up`, would be an alert."""
    EmbeddingMetrics()
    shown = set(re.findall(r"^# TYPE (\w+)", exposition().decode(), re.M))

    assert {name for name in shown if not name.endswith("_created")} == {
        name
        for name in documented()
        if re.match("recollect_(embedding|index)_", name)
        or re.fullmatch(f"recollect_semantic_({_OF_A_BUDGET})", name)
    }


@pytest.mark.parametrize("name", registered())
def test_every_label_value_is_documented(name: str) -> None:
    """In the metric's own row; outcomes, reasons and guards have tables of their own."""
    for label, values in registered()[name][1].items():
        if label not in ("outcome", "reason", "guard"):
            assert values <= set(codes(documented()[name][2]))


def test_every_outcome_is_documented_and_no_other() -> None:
    """In the code's order."""
    assert [codes(cell)[0] for cell, _ in rows(part(PAGE, "outcomes"))] == list(Outcome)


def test_every_end_of_a_look_up_by_meaning_is_documented_and_no_other() -> None:
    """In the code's order."""
    assert [codes(cell)[0] for cell, _ in rows(part(PAGE, "looked"))] == list(Looked)


@pytest.mark.parametrize("page", [PAGE, "docs/semantic.md"])
def test_every_reason_for_exact_only_is_documented_and_no_other(page: str) -> None:
    """In the code's order, where the metric is and where it is explained."""
    assert [codes(cell)[0] for cell, *_ in rows(part(page, "exact-only"))] == list(ExactOnly)


def test_promql_asks_for_metrics_and_label_values_that_exist() -> None:
    """A query for a name that does not exist gives no error, only nothing, for ever."""
    section = read(PAGE).partition("## What to watch")[2].partition("## When something fails")[0]
    other_page = read("docs/semantic.md")
    series = {
        name.removesuffix("_total") + suffix if kind == "counter" else name + suffix: labels
        for name, (kind, labels) in registered().items()
        for suffix in PARTS[kind]
    }
    queries = [*snippets(section, "promql"), *(codes(row[1])[0] for row in rows(section))]
    queries += snippets(other_page, "promql")
    asked = [found for query in queries for found in re.findall(r"(recollect_\w+)({.*?})?", query)]

    assert len(queries) > 5
    for name, selector in asked:
        for label, operator, value in re.findall(r'(\w+)(=~|!=|=)"(.*?)"', selector):
            known = series[name][label]
            assert any(
                re.fullmatch(value, one) if operator == "=~" else value == one for one in known
            )
        assert name in series


def test_the_paths_of_operations_are_documented_and_no_other() -> None:
    """Health, readiness, metrics."""
    section = read(PAGE).partition("## Health and readiness")[2].partition("## ")[0]

    assert {codes(cell)[0].encode() for cell, _ in rows(section)} == PATHS


def test_every_field_of_the_log_is_documented(caplog: pytest.LogCaptureFixture) -> None:
    """Those of every line, and those of a request's line, of which the page has an example."""

    async def nothing() -> dict[str, Any]:
        return {}

    async def nowhere(message: Any) -> None: ...

    scope = {"headers": [], "method": "POST", "raw_path": b"/", "query_string": b""}
    with caplog.at_level(logging.INFO, "recollect.request"):
        logs.request_line(Exchange(scope, nothing, nowhere, "chat"), 0.1)
    section = read(PAGE).partition("## Logs")[2].partition("## ")[0]
    written = json.loads(logs.JsonLines().format(caplog.records[-1]))
    [example] = [json.loads(text) for text in snippets(section, "json")]

    assert written.keys() <= set(codes(section))
    assert written.keys() == example.keys()


def test_every_name_in_redis_is_documented() -> None:
    """By its beginning, for the default namespace."""
    section = read(PAGE).partition("### Redis")[2].partition("### ")[0]
    table = {codes(cell)[0] for cell, _ in rows(section)}
    key = bytes(32)
    prefixes = [make("NAMESPACE") for make in (entry_prefix, alias_prefix, record_prefix)]
    lease = lease_key("NAMESPACE", key)
    names = {f"{prefix.decode()}HASH" for prefix in prefixes}
    names |= {lease.decode().replace(key.hex(), "HASH"), log_name("NAMESPACE").decode()}

    assert names <= table


async def test_the_redis_user_has_all_the_rights_that_are_needed(own_redis: RedisServer) -> None:
    """Every command that is ever sent, as that user, is allowed."""
    [command] = [text for text in snippets(read(PAGE), "") if text.startswith("ACL SETUSER")]
    with own_redis.client() as client:
        client.execute_command(*command.split())
    namespace, key = "recollect", bytes(32)
    link = RedisLink(
        own_redis.url.replace("//", "//recollect:PASSWORD@"),
        deadline_s=2.0,
        name=b"recollect",
        invalidation_prefixes=(entry_prefix(namespace),),
    )
    await link.start(5.0)
    try:
        assert link.is_up
        store = RedisStore(link, namespace, 2048, 1 << 20)
        leases = Leases(link, namespace, b"worker", 5.0)
        heard: asyncio.Queue[bytes] = asyncio.Queue()
        link.subscribe(b"recollect:w:worker", heard.put_nowait)
        await link.execute(b"PUBLISH", b"recollect:w:worker", b"hello")
        assert await heard.get() == b"hello"
        link.unsubscribe(b"recollect:w:worker")

        lease = await store.get_or_lease(leases.draft(key))
        assert isinstance(lease, Lease)
        assert isinstance(await store.get_or_lease(leases.draft(key)), Held)
        assert await leases.renew(lease)
        await leases.release(lease)
        lease = await leases.acquire(leases.draft(key))
        assert lease is not None
        assert await leases.held(key) is not None
        entry = StoredResponse(key, 0.0, 1e12, 0.0, b"head", b"body")
        assert await store.put(entry, lease)
        assert await store.put(entry)
        assert await store.get(key) == entry
        assert await store.get_many([key]) == [entry]
        assert await store.delete(key)
        await link.execute(b"SET", entry_prefix(namespace) + key.hex().encode(), b"garbage")
        assert await store.get(key) is None
        await _use_meanings(link, namespace, store, leases)
    finally:
        await link.close()


async def _use_meanings(link: RedisLink, namespace: str, store: RedisStore, leases: Leases) -> None:
    """Have Redis do all that only the semantic tier asks of it."""
    key, other, partition, encoder, vector = bytes(32), b"o" * 32, b"p" * 32, "5" * 32, bytes(8)
    log, records = ChangeLog(link, namespace), VectorRecords(link, namespace)
    entry = StoredResponse(key, 0.0, 1e12, 0.0, b"head", b"body")
    mark = await log.mark()
    lease = await store.get_or_lease(leases.draft(key), follows_aliases=True)
    assert isinstance(lease, Lease)
    assert await store.put(entry, lease, Meaning(partition, "What is it?"))
    lease = await store.get_or_lease(leases.draft(other), follows_aliases=True)
    assert isinstance(lease, Lease)
    assert await store.put_alias(other, key, lease)
    assert await store.get(other, follows_aliases=True) == entry
    changes = await log.read(mark, 10)
    assert changes is not None
    assert changes.keys == [key]
    assert await records.keep_vector(key, partition, encoder, vector)
    [record] = await records.read([key], encoder)
    assert record is not None
    assert record.vector == vector
    assert (await records.scan(0))[1] == [key]
    await link.execute(b"UNLINK", entry_prefix(namespace) + key.hex().encode())
    await records.forget_gone([key])
    assert await records.read([key], encoder) == [None]
    assert await store.put(entry, None, Meaning(partition, "What is it?"))
    await link.execute(b"HSET", record_prefix(namespace) + key.hex().encode(), b"m", b"garbage")
    assert await records.read([key], encoder) == [None]
    assert await store.put(entry, None, Meaning(partition, "What is it?"))
    assert await store.delete(key)
