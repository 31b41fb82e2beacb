"""A worker process from its start to its end, run in a thread of the test's own."""

import asyncio
import logging
import os
import select
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import pytest

from config.settings import Settings
from proxy import worker
from proxy.listening import listen, url_of
from proxy.worker_start import WorkerStart
from tests.support.fake_upstream import FakeUpstream, Play
from tests.support.http_client import Answer, exchange, post_bytes, wire
from tests.support.processes import wait_until
from tests.support.recollect_server import CHAT, chat_body, unique
from tests.support.redis_server import RedisServer, free_port

START_S = 10.0


class RunningWorker:
    """`proxy.worker.main` with the sockets and pipes that a supervisor hands it.

    Args:
        settings: Sections of the settings.
        redis_url: The Redis to use.
        folder: An empty one.
        has_admin: Whether health and metrics have a listener of their own.
        hears_ready: Whether somebody waits to hear that it serves.
    """

    def __init__(
        self,
        settings: dict[str, object],
        redis_url: str,
        folder: Path,
        *,
        has_admin: bool = False,
        hears_ready: bool = True,
    ) -> None:
        listener = listen("127.0.0.1", 0)
        admin = listen("127.0.0.1", 0) if has_admin else None
        self.origin = url_of(listener)
        self.admin_origin = url_of(admin) if admin else ""
        lifeline_fd, self._lifeline = os.pipe()
        self._ready, ready_fd = os.pipe()
        if not hears_ready:
            os.close(self._ready)
        self._lifeline_fd = lifeline_fd
        self.start = WorkerStart(
            settings=Settings.model_validate(settings),
            redis_url=redis_url,
            tenancy_secret="00" * 32,
            worker=0,
            data_fd=listener.detach(),
            admin_fd=admin.detach() if admin else None,
            lifeline_fd=lifeline_fd,
            ready_fd=ready_fd,
            run_dir=str(folder),
        )
        self._hears_ready = hears_ready
        self._thread = threading.Thread(target=worker.main)

    def run(self) -> None:
        """Start it."""
        self._thread.start()

    def ready(self) -> bytes:
        """Return what it says of itself once it serves, up to the end of the pipe."""
        said = b""
        while select.select([self._ready], [], [], START_S)[0]:
            piece = os.read(self._ready, 16)
            if not piece:
                return said
            said += piece
        raise AssertionError("it does not get ready")

    def orphan(self) -> None:
        """End the supervisor, as far as the worker can see."""
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1

    def has_ended(self, timeout_s: float = 10.0) -> bool:
        """Whether it ends in time."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def close(self) -> None:
        """End it, and close what is left."""
        self.orphan()
        assert self.has_ended()
        os.close(self._lifeline_fd)
        if self._hears_ready:
            os.close(self._ready)

    def send(self, raw: bytes, origin: str = "") -> Answer:
        """Send one request on a connection of its own."""
        return asyncio.run(exchange(origin or self.origin, raw))

    def get(self, target: str, origin: str = "") -> Answer:
        """GET `target`."""
        return self.send(wire("GET", target, "x"), origin)


StartWorker = Callable[..., RunningWorker]


@pytest.fixture
def start_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StartWorker]:
    """Start one worker; what it changes in this process is put back."""
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", "")
    root, servers = logging.getLogger(), logging.getLogger("uvicorn.error")
    kept = root.handlers[:], root.level, servers.level
    started: list[RunningWorker] = []

    def start(settings: dict[str, object], redis_url: str, **more: bool) -> RunningWorker:
        running = RunningWorker(settings, redis_url, tmp_path, **more)
        stdin = SimpleNamespace(buffer=BytesIO(running.start.encode()))
        monkeypatch.setattr("sys.stdin", stdin)
        running.run()
        started.append(running)
        return running

    yield start
    for running in started:
        running.close()
    root.handlers[:], level, servers_level = kept
    root.setLevel(level)
    servers.setLevel(servers_level)


def section(upstream_url: str, **more: object) -> dict[str, object]:
    """Return settings with an upstream."""
    return {"upstream": {"base_url": upstream_url}, **more}


def nowhere() -> str:
    """Return an authority where nobody listens."""
    return f"127.0.0.1:{free_port()}"


def ask(running: RunningWorker, prompt: str) -> Answer:
    """Ask a chat completion."""
    return running.send(post_bytes(running.origin, CHAT, chat_body(prompt)))


def test_worker_serves_once_it_says_so(
    upstream: FakeUpstream, redis_server: RedisServer, start_worker: StartWorker
) -> None:
    """One byte, and nothing more ever."""
    running = start_worker(section(upstream.url), redis_server.url)

    assert running.ready() == b"1"

    prompt = unique("worker")
    assert [ask(running, prompt).cache.hit for _ in range(3)] == [False, True, True]
    assert upstream.calls(prompt) == 1
    assert running.get("/readyz").json == {"status": "ready", "redis": "up"}
    assert running.get("/metrics").status == 200


def test_worker_starts_though_redis_and_upstream_are_away(start_worker: StartWorker) -> None:
    """Design §9: it serves what it can, and says what it cannot."""
    running = start_worker(section(f"http://{nowhere()}"), f"redis://{nowhere()}/0")

    assert running.ready() == b"1"

    assert running.get("/healthz").status == 200
    assert running.get("/readyz").json == {"status": "degraded", "redis": "down"}
    answer = ask(running, "x")
    assert answer.status == 502
    assert set(answer.json["error"]) == {"message", "type", "param", "code"}


def test_worker_ends_with_its_supervisor(start_worker: StartWorker) -> None:
    """However that went: the pipe between them ends."""
    running = start_worker(section(f"http://{nowhere()}"), f"redis://{nowhere()}/0")
    running.ready()
    assert not running.has_ended(0.3)

    running.orphan()

    assert running.has_ended()


def test_worker_whose_supervisor_went_while_it_started_ends_too(start_worker: StartWorker) -> None:
    """It has nobody to tell that it serves; that is no crash."""
    running = start_worker(
        section(f"http://{nowhere()}"), f"redis://{nowhere()}/0", hears_ready=False
    )
    while running.get("/healthz").status != 200:
        pass
    assert not running.has_ended(0.3)

    running.orphan()

    assert running.has_ended()


def test_health_and_metrics_have_a_listener_of_their_own(
    upstream: FakeUpstream, redis_server: RedisServer, start_worker: StartWorker
) -> None:
    """Promise 21: then they are there only, and nothing else is; a hit neither."""
    running = start_worker(section(upstream.url), redis_server.url, has_admin=True)
    running.ready()
    prompt = unique("admin")
    for _ in range(3):
        assert ask(running, prompt).status == 200

    admin = running.admin_origin
    for target in ("/healthz", "/readyz", "/metrics"):
        assert running.get(target, admin).status == 200
        assert running.get(target).status == 404
    assert running.send(post_bytes(admin, CHAT, chat_body(prompt)), admin).status == 404
    assert running.get("/v1/models", admin).status == 404


def test_limits_of_the_settings_hold(upstream: FakeUpstream, start_worker: StartWorker) -> None:
    """The protocol class is made for these settings; and no server is named (promise 19)."""
    running = start_worker(
        section(upstream.url, limits={"header_bytes": 1024}), f"redis://{nowhere()}/0"
    )
    running.ready()

    assert running.send(wire("GET", "/healthz", "x", [("X", "x" * 1100)])).status == 431
    answer = running.get("/healthz")
    assert answer.status == 200
    assert answer.header("server") == ""
    assert len(answer.all("date")) == 1


@pytest.mark.parametrize("drain_s", [0.4, 5.0])
def test_answers_under_way_are_finished(
    drain_s: float, upstream: FakeUpstream, start_worker: StartWorker
) -> None:
    """Promise 12; for as long as `server.drain_s` allows, parts of a second included."""
    running = start_worker(
        section(upstream.url, server={"drain_s": drain_s}), f"redis://{nowhere()}/0"
    )
    running.ready()
    prompt = unique("drain")
    upstream.on(prompt, Play(delay_s=0.3))

    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(ask, running, prompt)
        assert wait_until(lambda: upstream.calls(prompt) == 1, 5)
        running.orphan()
        answer = asking.result(10)

    assert answer.status == 200
    assert answer.is_complete
    assert running.has_ended()


def test_answers_that_take_too_long_are_cut(
    upstream: FakeUpstream, start_worker: StartWorker
) -> None:
    """`server.drain_s` is the most; a worker that never ends keeps its old settings alive."""
    running = start_worker(section(upstream.url, server={"drain_s": 0.2}), f"redis://{nowhere()}/0")
    running.ready()
    prompt = unique("too-long")
    upstream.on(prompt, Play(delay_s=30))

    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(ask, running, prompt)
        assert wait_until(lambda: upstream.calls(prompt) == 1, 5)
        running.orphan()
        assert asking.result(5).status == 503

    assert running.has_ended(5)
