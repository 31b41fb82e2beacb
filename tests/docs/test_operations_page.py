"""docs/operations.md says what the code does."""

import asyncio
import json
import logging
import re
from typing import Any

import pytest
from prometheus_client import REGISTRY

from cachestore.entry import StoredResponse
from cachestore.leases import Held, Lease, Leases
from cachestore.redis_link import RedisLink
from cachestore.redis_store import RedisStore, entry_prefix
from proxy import logs
from proxy.exchange import Exchange
from proxy.metrics import Metrics, Outcome
from proxy.operations import PATHS
from tests.docs.pages import codes, part, read, rows, snippets
from tests.support.redis_server import RedisServer

PAGE = "docs/operations.md"
PARTS = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}


def registered() -> dict[str, tuple[str, dict[str, set[str]]]]:
    """Return type, and values by label, of each metric, by the name it has in PromQL."""
    Metrics()
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


@pytest.mark.parametrize("name", registered())
def test_every_label_value_is_documented(name: str) -> None:
    """In the metric's own row; outcomes and reasons have tables of their own."""
    for label, values in registered()[name][1].items():
        if label not in ("outcome", "reason"):
            assert values <= set(codes(documented()[name][2]))


def test_every_outcome_is_documented_and_no_other() -> None:
    """In the code's order."""
    assert [codes(cell)[0] for cell, _ in rows(part(PAGE, "outcomes"))] == list(Outcome)


def test_promql_asks_for_metrics_and_label_values_that_exist() -> None:
    """A query for a name that does not exist gives no error, only nothing, for ever."""
    section = read(PAGE).partition("## What to watch")[2].partition("## When something fails")[0]
    series = {
        name.removesuffix("_total") + suffix if kind == "counter" else name + suffix: labels
        for name, (kind, labels) in registered().items()
        for suffix in PARTS[kind]
    }
    queries = [*snippets(section, "promql"), *(codes(row[1])[0] for row in rows(section))]
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
    finally:
        await link.close()
