"""Two servers under the same load in turns, and the ratio of what they cost."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks import load, processes
from benchmarks.servers import Redis, Server, upstream_calls

CONNECTIONS = 16

# What is written behind the client's last byte belongs to the request: wait for it.
_SETTLE_S = 0.15


@dataclass(frozen=True, slots=True)
class Side:
    """A server, the load for it, and what its answers must be."""

    server: Server
    requests: Callable[[int], bytes]
    """The nth request of this side, counted from 0 over all rounds."""

    expected: load.Expectation
    upstream: Server
    upstream_calls_per_request: int
    redis: Redis | None = None
    redis_finds_per_request: int | None = None
    """How many keys of each request Redis is asked for and has; None: not checked."""


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured."""

    rounds: int
    requests: int
    """Per round and side."""


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU time of one side in one round, in µs per request."""

    server_us: float
    redis_us: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """The rounds of both sides; the nth of one ran next to the nth of the other."""

    measured: Sequence[Cost]
    reference: Sequence[Cost]

    @property
    def server_us(self) -> float:
        """Median cost of the measured side."""
        return statistics.median(cost.server_us for cost in self.measured)

    @property
    def redis_us(self) -> float:
        """Median cost of the measured side's Redis."""
        return statistics.median(cost.redis_us for cost in self.measured)

    @property
    def reference_us(self) -> float:
        """Median cost of the reference."""
        return statistics.median(cost.server_us for cost in self.reference)

    @property
    def ratios(self) -> list[float]:
        """Measured to reference, round by round, smallest first."""
        pairs = zip(self.measured, self.reference, strict=True)
        return sorted(ours.server_us / theirs.server_us for ours, theirs in pairs)

    @property
    def ratio(self) -> float:
        """Median of the rounds' ratios: a disturbance of one round does not count."""
        return statistics.median(self.ratios)


def compare(measured: Side, reference: Side, size: Size) -> Comparison:
    """Measure both sides in turns.

    Raises:
        UnexpectedAnswer: An answer, or the count of upstream calls or of
            keys found in Redis, is not what this side should have.
    """
    runs = (_Run(measured), _Run(reference))
    for run in runs:
        run.warm_up(size.requests)
    costs: tuple[list[Cost], list[Cost]] = ([], [])
    for round_number in range(size.rounds):
        # Who goes first changes, so that a machine that slows down favours neither.
        for index in (0, 1) if round_number % 2 == 0 else (1, 0):
            costs[index].append(runs[index].cost(size.requests))
    return Comparison(*costs)


class _Run:
    def __init__(self, side: Side) -> None:
        self._side = side
        self._sent = 0

    def warm_up(self, requests: int) -> None:
        # Long enough for the interpreter to specialise the hot code.
        self._drive(max(requests // 4, CONNECTIONS))

    def cost(self, requests: int) -> Cost:
        side = self._side
        calls_before = upstream_calls(side.upstream)
        finds_before = side.redis.finds() if side.redis else 0
        redis_pids = [side.redis.pid] if side.redis else []
        server_before = processes.cpu_ns(side.server.pids)
        redis_before = processes.cpu_ns(redis_pids)
        self._drive(requests)
        server_ns = processes.cpu_ns(side.server.pids) - server_before
        redis_ns = processes.cpu_ns(redis_pids) - redis_before
        calls = upstream_calls(side.upstream) - calls_before
        if calls != requests * side.upstream_calls_per_request:
            raise load.UnexpectedAnswer(f"{calls} upstream calls for {requests} requests")
        if side.redis and side.redis_finds_per_request is not None:
            # A few more may come from what a worker does by itself, never one per request.
            finds = side.redis.finds() - finds_before
            if finds // requests != side.redis_finds_per_request:
                raise load.UnexpectedAnswer(f"{finds} keys found in Redis by {requests} requests")
        return Cost(server_ns / 1000 / requests, redis_ns / 1000 / requests)

    def _drive(self, requests: int) -> None:
        side = self._side
        batch = [side.requests(self._sent + number) for number in range(requests)]
        self._sent += requests
        load.drive(side.server.port, batch, CONNECTIONS, side.expected.check)
        time.sleep(_SETTLE_S)
