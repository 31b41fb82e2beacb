"""Promise 21: health and metrics keep to their own paths, credential and listener."""

import asyncio
from collections.abc import Iterator

import pytest

from tests.support.fake_upstream import FakeUpstream
from tests.support.http_client import Answer, exchange, wire
from tests.support.processes import wait_until
from tests.support.recollect_server import RecollectServer, samples, unique
from tests.support.redis_server import RedisServer, free_port

OURS = ["/healthz", "/readyz", "/metrics"]


@pytest.mark.parametrize("path", OURS)
def test_health_and_metrics_are_there(path: str, recollect: RecollectServer) -> None:
    """On the data listener as long as no other is configured."""
    assert recollect.get(path).status == 200


@pytest.mark.parametrize(
    "path", ["/docs", "/redoc", "/openapi.json", "/admin", "/debug", "/metrics/", "/_stats"]
)
def test_there_are_no_other_pages(path: str, recollect: RecollectServer) -> None:
    """No documentation pages on the data listener."""
    answer = recollect.get(path)

    assert answer.status == 404
    assert answer.json["error"]["type"]


@pytest.mark.parametrize("path", OURS)
def test_ours_below_the_base_url_are_the_upstreams(
    path: str, upstream: FakeUpstream, recollect: RecollectServer
) -> None:
    """`/v1/metrics` is passed through like anything below /v1."""
    mark = unique("metrics").replace(" ", "-")

    assert recollect.get(f"/v1{path}?{mark}").json["target"] == f"/v1{path}?{mark}"
    assert upstream.calls(mark) == 1


@pytest.mark.parametrize("host", ["evil.example", "metrics", "127.0.0.1:1", "x/metrics", ""])
def test_routing_does_not_look_at_the_host(
    host: str, upstream: FakeUpstream, recollect: RecollectServer
) -> None:
    """It decides on the path alone."""
    mark = unique("host").replace(" ", "-")

    passed = recollect.send("GET", f"/v1/models?{mark}", host=host)

    assert passed.status in (200, 400)
    assert recollect.send("GET", "/nowhere", host=host).status in (400, 404)
    assert all(seen.target == f"/v1/models?{mark}" for seen in upstream.seen(mark))


@pytest.fixture(scope="module")
def guarded(
    upstream: FakeUpstream, redis_server: RedisServer
) -> Iterator[tuple[RecollectServer, str]]:
    """A Recollect with a listener and a credential for what is not data; and its address."""
    port = free_port()
    admin = {"port": port, "token": "metrics-token-1"}
    server = RecollectServer(upstream.url, redis_server.url, {"admin": admin})
    yield server, f"http://127.0.0.1:{port}"
    server.close()


def ask(origin: str, path: str, *headers: tuple[str, str]) -> Answer:
    return asyncio.run(exchange(origin, wire("GET", path, "x", headers)))


@pytest.mark.parametrize("path", OURS)
def test_data_listener_has_nothing_of_it_when_another_is_configured(
    path: str, guarded: tuple[RecollectServer, str]
) -> None:
    """Applications then cannot reach it."""
    server, admin = guarded

    assert server.get(path).status == 404
    assert ask(admin, path, ("Authorization", "Bearer metrics-token-1")).status == 200


def test_admin_listener_serves_no_data(
    upstream: FakeUpstream, guarded: tuple[RecollectServer, str]
) -> None:
    """Nor does it forward anything."""
    mark = unique("data").replace(" ", "-")

    assert ask(guarded[1], f"/v1/models?{mark}").status == 404
    assert upstream.calls(mark) == 0


@pytest.mark.parametrize(
    "credential", ["", "Bearer ", "Bearer wrong", "metrics-token-1", "Basic metrics-token-1"]
)
def test_metrics_ask_for_their_own_credential(
    credential: str, guarded: tuple[RecollectServer, str]
) -> None:
    """401 without it; health checks need none."""
    headers = [("Authorization", credential)] if credential else []

    refused = ask(guarded[1], "/metrics", *headers)

    assert refused.status == 401
    assert "recollect_" not in refused.body.decode()
    assert ask(guarded[1], "/healthz").status == 200


def test_metrics_are_right_over_several_workers(
    upstream: FakeUpstream, redis_server: RedisServer
) -> None:
    """Whichever worker is asked: counters add up, and labels are few."""
    server = RecollectServer(upstream.url, redis_server.url, {"server": {"workers": 2}})
    try:
        prompts = [unique("metrics") for _ in range(10)]
        for prompt in prompts * 3:
            server.chat(prompt)

        asked = lambda: server.metric("recollect_requests_total") == 30  # noqa: E731
        assert wait_until(asked, 5)
        for _ in range(6):
            exposed = list(samples(server.get("/metrics").body.decode()))
            counted = [v for name, _, v in exposed if name == "recollect_requests_total"]
            assert sum(counted) == 30
            missed = server.metric("recollect_requests_total", endpoint="chat", outcome="miss")
            assert missed == 10
            assert not any("pid" in labels for _, labels, _ in exposed)
    finally:
        server.close()
