"""The rows of the table: who is compared with whom, under which load.

Every scenario starts servers of its own in a folder of its own, so that the
order of the rows does not matter, and leaves none behind.
"""

import contextlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from benchmarks import load, processes, servers, traffic
from benchmarks.compare import CONNECTIONS, Comparison, Side, Size, compare
from benchmarks.servers import Server

_Result = TypeVar("_Result")

_HIT = b"recollect; hit"
_MISS = b"recollect; fwd=miss"
_STOP = b'"finish_reason":"stop"'
_DONE = b"data: [DONE]"

# So small that no answer is kept in the worker: an entry may take an eighth of it at most.
_NO_L1_BYTES = 1024
_DISTINCT_HITS = 256


@dataclass(frozen=True, slots=True)
class Scenario:
    """A row that compares CPU time."""

    name: str
    what: str
    reference: str
    target: float
    """Largest ratio that meets the target."""

    full: Size
    quick: Size
    run: Callable[[Path, Size], Comparison]


@dataclass(frozen=True, slots=True)
class Start:
    """What a worker takes to start and to live; medians."""

    worker_s: float
    """From the start of the worker's process to the last byte of its first answer."""

    serve_s: float
    """The same from the start of `recollect serve`."""

    rss_bytes: int
    """Resident set of the worker after its load."""


class _Stage:
    """The servers of one scenario."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        self._folder = folder
        self._stack = stack
        self.upstream = stack.enter_context(servers.fake_upstream(folder))
        self.redis = stack.enter_context(servers.redis(folder))

    def recollect(self, l1_bytes: int = servers.DEFAULT_L1_BYTES) -> Server:
        return self._stack.enter_context(
            servers.recollect(self._folder, self.upstream, self.redis, l1_bytes)
        )

    def raw_app(self) -> Server:
        return self._stack.enter_context(servers.raw_app(self._folder))

    def nginx(self) -> Server:
        return self._stack.enter_context(servers.nginx(self._folder, self.upstream))

    def pass_through(self) -> Server:
        return self._stack.enter_context(servers.pass_through(self._folder, self.upstream))

    def hit_side(
        self,
        server: Server,
        requests: Callable[[int], bytes],
        *,
        distinct: int = 1,
        body: bytes = _STOP,
        finds: int = 0,
    ) -> Side:
        """Let Recollect learn the first `distinct` answers; return a side on which all are hits."""
        lesson = [requests(number) for number in range(distinct)]
        load.drive(server.port, lesson, CONNECTIONS, _any)
        # An entry is written behind the client's last byte.
        time.sleep(0.3)
        # Whatever the worker has to fetch from Redis into its memory, it fetches now.
        load.drive(server.port, lesson, CONNECTIONS, load.Expectation(_HIT, body).check)
        return Side(
            server=server,
            requests=requests,
            expected=load.Expectation(_HIT, body),
            upstream=self.upstream,
            upstream_calls_per_request=0,
            redis=self.redis,
            redis_finds_per_request=finds,
        )

    def miss_side(self, server: Server, model: str, *, header: bytes) -> Side:
        """Return a side on which every request is new."""
        is_stream = model != traffic.JSON_MODEL
        return Side(
            server=server,
            requests=lambda number: traffic.request(model, number, stream=is_stream),
            expected=load.Expectation(header, _DONE if is_stream else _STOP),
            upstream=self.upstream,
            upstream_calls_per_request=1,
            redis=self.redis if header else None,
        )


@contextlib.contextmanager
def _stage(folder: Path) -> Iterator[_Stage]:
    with contextlib.ExitStack() as stack:
        yield _Stage(folder, stack)


def _any(_: bytes) -> None:
    """Whatever is answered is right."""


def _json_request(number: int = 0) -> bytes:
    return traffic.request(traffic.JSON_MODEL, number)


def _equal(_: int) -> bytes:
    """The same request each time, to the byte: what OpenAI's own clients send."""
    return _json_request()


def _traced(number: int) -> bytes:
    """The same body each time, in a request with a trace of its own."""
    return traffic.request(traffic.JSON_MODEL, 0, fields=traffic.trace(number))


def _many_by_the_long_way(number: int) -> bytes:
    """Requests whose Cache-Control keeps them off the fast path, in which Redis has no part."""
    return traffic.request(
        traffic.JSON_MODEL, number % _DISTINCT_HITS, fields=b"Cache-Control: max-age=86400\r\n"
    )


def _hit_and_raw(requests: Callable[[int], bytes]) -> Callable[[Path, Size], Comparison]:
    def run(folder: Path, size: Size) -> Comparison:
        with _stage(folder) as stage:
            raw = Side(
                server=stage.raw_app(),
                requests=requests,
                expected=load.Expectation(b"", _STOP),
                upstream=stage.upstream,
                upstream_calls_per_request=0,
            )
            return compare(stage.hit_side(stage.recollect(), requests), raw, size)

    return run


def _hit_and_nginx(requests: Callable[[int], bytes]) -> Callable[[Path, Size], Comparison]:
    def run(folder: Path, size: Size) -> Comparison:
        with _stage(folder) as stage:
            nginx = stage.nginx()
            load.ask(nginx.port, requests(0))
            cached = Side(
                server=nginx,
                requests=requests,
                expected=load.Expectation(b"Cache-Status: HIT", _STOP),
                upstream=stage.upstream,
                upstream_calls_per_request=0,
            )
            return compare(stage.hit_side(stage.recollect(), requests), cached, size)

    return run


def _l2_hit_and_l1_hit(folder: Path, size: Size) -> Comparison:
    # Both sides ask for the same answers in the same order, and take the same way.
    with _stage(folder) as stage:
        without_l1 = stage.recollect(l1_bytes=_NO_L1_BYTES)
        return compare(
            stage.hit_side(without_l1, _many_by_the_long_way, distinct=_DISTINCT_HITS, finds=1),
            stage.hit_side(stage.recollect(), _many_by_the_long_way, distinct=_DISTINCT_HITS),
            size,
        )


def _miss_and_pass_through(model: str) -> Callable[[Path, Size], Comparison]:
    def run(folder: Path, size: Size) -> Comparison:
        with _stage(folder) as stage:
            return compare(
                stage.miss_side(stage.recollect(), model, header=_MISS),
                stage.miss_side(stage.pass_through(), model, header=b""),
                size,
            )

    return run


def _stream_hit_and_plain_hit(folder: Path, size: Size) -> Comparison:
    streamed = traffic.request(traffic.BURST_MODEL, 0, stream=True)
    with _stage(folder) as stage:
        server = stage.recollect()
        stream_side = stage.hit_side(server, lambda _: streamed, body=_DONE)
        # As many bytes as the replayed stream has, less its chunk frames.
        body_bytes = sum(map(len, traffic.stream_events(traffic.BURST_MODEL)))
        plain = traffic.request(f"json-{body_bytes}", 0)
        return compare(stream_side, stage.hit_side(server, lambda _: plain), size)


SCENARIOS = (
    Scenario(
        name="l1-hit-raw",
        what="L1 hit",
        reference="raw ASGI app on uvicorn",
        target=1.7,
        full=Size(9, 20_000),
        quick=Size(3, 4_000),
        run=_hit_and_raw(_traced),
    ),
    Scenario(
        name="l1-hit-nginx",
        what="L1 hit",
        reference="nginx proxy_cache keyed on the body",
        target=3.5,
        full=Size(9, 20_000),
        quick=Size(3, 4_000),
        run=_hit_and_nginx(_traced),
    ),
    Scenario(
        name="equal-hit-nginx",
        what="L1 hit, requests equal to the byte",
        reference="nginx proxy_cache keyed on the body",
        target=1.5,
        full=Size(9, 20_000),
        quick=Size(3, 4_000),
        run=_hit_and_nginx(_equal),
    ),
    Scenario(
        name="l2-hit",
        what="L2 hit (Redis)",
        reference="L1 hit by the same way, through ASGI",
        target=1.3,
        full=Size(9, 15_000),
        quick=Size(3, 3_000),
        run=_l2_hit_and_l1_hit,
    ),
    Scenario(
        name="miss",
        what="miss, not streamed",
        reference="bare aiohttp pass-through",
        target=1.3,
        full=Size(9, 4_000),
        quick=Size(3, 1_000),
        run=_miss_and_pass_through(traffic.JSON_MODEL),
    ),
    Scenario(
        name="stream-miss-paced",
        what="miss, 200-chunk stream, one chunk each 2 ms, recorded",
        reference="bare aiohttp pass-through",
        target=1.25,
        full=Size(7, 96),
        quick=Size(3, 32),
        run=_miss_and_pass_through(traffic.PACED_MODEL),
    ),
    Scenario(
        name="stream-miss-burst",
        what="miss, 200-chunk stream, all at once, recorded",
        reference="bare aiohttp pass-through",
        target=1.25,
        full=Size(9, 1_000),
        quick=Size(3, 200),
        run=_miss_and_pass_through(traffic.BURST_MODEL),
    ),
    Scenario(
        name="stream-hit",
        what="stream hit, 200 chunks",
        reference="plain hit of the same bytes",
        target=3.0,
        full=Size(9, 4_000),
        quick=Size(3, 1_000),
        run=_stream_hit_and_plain_hit,
    ),
)

START_TARGET_S = 1.5
RSS_TARGET_BYTES = 100_000_000


START_FULL = Size(5, 2_000)
START_QUICK = Size(1, 500)


def start(size: Size) -> Start:
    """Start `recollect serve` once per round; measure its first answer, and its memory after load.

    The load is `size.requests` misses and as many hits.
    """
    rounds = [
        _in_temporary_folder(lambda folder: _start_once(folder, size)) for _ in range(size.rounds)
    ]
    return Start(
        worker_s=statistics.median(measured.worker_s for measured in rounds),
        serve_s=statistics.median(measured.serve_s for measured in rounds),
        rss_bytes=max(measured.rss_bytes for measured in rounds),
    )


def _start_once(folder: Path, size: Size) -> Start:
    with contextlib.ExitStack() as stack:
        stage = _Stage(folder, stack)
        began = time.clock_gettime(time.CLOCK_BOOTTIME)
        serving = stack.enter_context(
            servers.recollect_serve(folder, stage.upstream, stage.redis, servers.DEFAULT_L1_BYTES)
        )
        # The port is open before the worker runs: this waits in its backlog.
        load.Expectation(_MISS, _STOP).check(load.ask(serving.port, _json_request()))
        answered = time.clock_gettime(time.CLOCK_BOOTTIME)
        worker = serving.worker_pid()
        requests = [_json_request(number) for number in range(1, size.requests + 1)]
        for header in (_MISS, _HIT):
            expected = load.Expectation(header, _STOP)
            load.drive(serving.port, requests, CONNECTIONS, expected.check)
            time.sleep(0.3)
        return Start(
            worker_s=answered - processes.started_at_s(worker),
            serve_s=answered - began,
            rss_bytes=processes.rss_bytes(worker),
        )


def run(scenario: Scenario, size: Size) -> Comparison:
    """Run one scenario."""
    return _in_temporary_folder(lambda folder: scenario.run(folder, size))


def _in_temporary_folder(work: Callable[[Path], _Result]) -> _Result:
    with tempfile.TemporaryDirectory(prefix="recollect-bench-") as folder:
        return work(Path(folder))
