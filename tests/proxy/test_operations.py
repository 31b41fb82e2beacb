"""Health, readiness and metrics."""

import pytest

from tests.proxy.fakes import FakeUpstream, Worker, json_play

pytestmark = pytest.mark.virtual_time


async def test_worker_that_runs_is_healthy_with_or_without_redis() -> None:
    """A restart would mend nothing."""
    worker = Worker(FakeUpstream(json_play()))
    worker.redis.is_down = True

    call = await worker.get(path="/healthz", method="GET")

    assert (call.status, call.json) == (200, {"status": "ok"})


@pytest.mark.parametrize(
    ("is_down", "said"),
    [
        (False, {"status": "ready", "redis": "up"}),
        (True, {"status": "degraded", "redis": "down"}),
    ],
)
async def test_readiness_says_degraded_without_redis_but_stays_in_rotation(
    is_down: bool, said: dict[str, str]
) -> None:
    """Issue §5: everything is served; so the status stays 200."""
    worker = Worker(FakeUpstream(json_play()))
    worker.redis.is_down = is_down

    call = await worker.get(path="/readyz", method="GET")

    assert (call.status, call.json) == (200, said)
    assert call.one(b"cache-control") == b"no-store"
    assert call.one(b"content-length") == b"%d" % len(call.body)


async def test_metrics_hold_what_was_just_counted() -> None:
    """Counts are gathered; a scrape must not come before they are written."""
    worker = Worker(FakeUpstream(json_play()))
    worker.metrics.evicted("capacity")
    worker.metrics.memory_holds(123_456_789, 7)

    call = await worker.get(path="/metrics", method="GET")

    assert call.one(b"content-type").startswith(b"text/plain")
    assert b"recollect_memory_bytes 1.23456789e+08" in call.body


_TOKEN = {"token": "the-admin-token"}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"authorization": "Bearer wrong"}, 401),
        ({"authorization": "Bearer the-admin-toke"}, 401),
        ({"authorization": "Basic the-admin-token"}, 401),
        ({"authorization": "the-admin-token"}, 401),
        ({"authorization": "Bearer "}, 401),
        ({"authorization": "Bearer the-admin-token"}, 200),
        ({"authorization": "bearer  the-admin-token"}, 200),
    ],
)
async def test_metrics_need_the_token_where_one_is_set(
    headers: dict[str, str], status: int
) -> None:
    """Promise 21; the scheme's case does not count (RFC 9110 §11.1)."""
    worker = Worker(FakeUpstream(json_play()), admin=_TOKEN)

    call = await worker.get(path="/metrics", method="GET", headers=headers)

    assert call.status == status
    if status == 401:
        assert call.one(b"www-authenticate") == b"Bearer"
        assert b"recollect_" not in call.body


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
async def test_health_needs_no_token(path: str) -> None:
    """What probes it has no secrets."""
    worker = Worker(FakeUpstream(json_play()), admin=_TOKEN)

    assert (await worker.get(path=path, method="GET")).status == 200


async def test_metrics_token_that_is_no_ascii_is_compared_all_the_same() -> None:
    """compare_digest refuses such text, but not such bytes."""
    worker = Worker(FakeUpstream(json_play()), admin=_TOKEN)

    call = await worker.get(
        path="/metrics", method="GET", headers=[(b"authorization", b"Bearer \xff\xfe")]
    )

    assert call.status == 401


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
async def test_other_methods_are_refused(method: str) -> None:
    """RFC 9110 §15.5.6: `Allow` says what would be right."""
    call = await Worker(FakeUpstream(json_play())).get(path="/healthz", method=method)

    assert (call.status, call.error_code) == (405, "method_not_allowed")
    assert call.one(b"allow") == b"GET, HEAD"


async def test_head_is_answered_like_get() -> None:
    """The server leaves out the content."""
    call = await Worker(FakeUpstream(json_play())).get(path="/healthz", method="HEAD")

    assert call.status == 200
