"""The semantic tier's rows: each beside what it is made of, measured in the same minute.

Every row starts servers of its own in a folder of its own and leaves none behind. Sides run in
turns, and a figure is the median of its rounds.
"""

import itertools
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks import (
    load,
    paraphrases,
    processes,
    semantic_restart,
    semantic_servers,
    servers,
    traffic,
)
from benchmarks.compare import CONNECTIONS, Size
from benchmarks.semantic_restart import HIT
from benchmarks.semantic_rows import CONCURRENT, Rounds, Row, in_turns, ms, one_by_one
from benchmarks.semantic_servers import SemanticServer
from benchmarks.semantic_stage import MEANT, SETTLE_S, LeftOut, Stage, new_texts, stage

_MISSED: Final = load.Expectation(b"recollect; fwd=miss", b'"finish_reason":"stop"')

# Pairs whose words differ much are what is wanted here, however far a real setting would go; and
# with 32 at once on one encoder's thread each waits for the others.
_LENIENT: Final = "min_score = 0.8\ndeadline_ms = 2000\n"
# Every look-up searches and finds something, and nothing is near enough.
_STRICT: Final = "min_score = 1.0\ndeadline_ms = 2000\n"

_PAUSE_S: Final = 0.02
_TRACES: Final = itertools.count()


def _some(texts: Iterator[str], count: int) -> list[str]:
    return list(itertools.islice(texts, count))


def _hit(size: Size) -> list[Row]:
    with stage() as on:
        server = on.recollect(_LENIENT)
        pairs = on.learn(server, size)
        rounds = Rounds(
            *one_by_one(
                size,
                on.asks(server.port, map(traffic.question, new_texts(pairs)), MEANT),
                on.encodes(new_texts(pairs)),
            )
        )
    return [
        Row(
            "semantic hit, short prompt, idle, p50",
            "the encoder alone, the same prompts",
            ms(rounds.ours),
            ms(rounds.theirs),
            str(rounds),
            "≤ 1.25",
            rounds.ratio <= 1.25,
        )
    ]


def _throughput(size: Size) -> list[Row]:
    with stage() as on:
        server = on.recollect(_LENIENT)
        pairs = on.learn(server, size)
        texts, same_texts = new_texts(pairs), new_texts(pairs)
        redis_s: list[float] = []

        def hits_per_cpu_s(count: int) -> float:
            requests = [traffic.question(text) for text in _some(texts, count)]
            calls = servers.upstream_calls(on.upstream)
            before = processes.cpu_ns(server.pids), processes.cpu_ns([on.redis.pid])
            load.drive(server.port, requests, CONCURRENT, MEANT.check)
            time.sleep(SETTLE_S)
            after = processes.cpu_ns(server.pids), processes.cpu_ns([on.redis.pid])
            if servers.upstream_calls(on.upstream) != calls:
                raise load.UnexpectedAnswer("a hit went upstream")
            redis_s.append((after[1] - before[1]) / 1e9 / count)
            return count / ((after[0] - before[0]) / 1e9)

        rounds = in_turns(
            size,
            hits_per_cpu_s,
            lambda count: count / on.encoder.batched_cpu_s(_some(same_texts, count)),
        )
    return [
        Row(
            f"semantic hits per CPU second, {CONCURRENT} at once"
            f" (Redis besides: {statistics.median(redis_s) * 1e6:.0f} µs a hit)",
            "the encoder's texts per CPU second, in batches of 32",
            f"{rounds.ours:.0f}",
            f"{rounds.theirs:.0f}",
            str(rounds),
            "≥ 0.85",
            rounds.ratio >= 0.85,
        )
    ]


def _miss(size: Size) -> list[Row]:
    with stage() as on:
        server, exact_only = on.recollect(_STRICT), on.exact_only()
        questions = paraphrases.questions()
        if len(questions) < size.requests * (size.rounds + 1):
            raise ValueError("too few questions for so many rounds")
        requests = list(map(traffic.question, questions))
        # With a pause, so that the storing of the one before is not in the way.
        on_s, off_s, encoder_s = one_by_one(
            size,
            on.asks(server.port, iter(requests), _MISSED),
            on.asks(exact_only.port, iter(requests), _MISSED),
            on.encodes(iter(questions)),
            pause_s=_PAUSE_S,
        )
    rounds = Rounds(on_s, off_s)
    beyond_s = sorted(
        on - off - encoder for on, off, encoder in zip(on_s, off_s, encoder_s, strict=True)
    )
    extra_s, encoder_p50_s = rounds.ours - rounds.theirs, statistics.median(encoder_s)
    return [
        Row(
            "look-up that misses, extra time to first byte, p50",
            "the encoder alone, the same prompts",
            f"{ms(extra_s)} ({ms(rounds.ours)} against {ms(rounds.theirs)})",
            ms(encoder_p50_s),
            f"encoder + {ms(statistics.median(beyond_s))}"
            f" ({beyond_s[0] * 1e3:.2f}–{beyond_s[-1] * 1e3:.2f})",
            "≤ encoder + 1 ms",
            statistics.median(beyond_s) <= 0.001,
        )
    ]


def _gptcache(size: Size) -> list[Row]:
    if not semantic_servers.GPTCACHE.exists():
        raise LeftOut("GPTCache is not installed; benchmarks/README.md says how")
    with stage() as on:
        server, gptcache = on.recollect(_LENIENT), on.gptcache()
        pairs = on.learn(server, size)
        answer = traffic.json_answer(traffic.JSON_MODEL, traffic.JSON_BYTES).decode()
        for pair in pairs:
            request = traffic.gptcache("put", pair.stored, answer)
            load.Expectation(b"", b"successfully").check(load.ask(gptcache.port, request))
        requests = (traffic.gptcache("get", text) for text in new_texts(pairs))
        rounds = Rounds(
            *one_by_one(
                size,
                on.asks(server.port, map(traffic.question, new_texts(pairs)), MEANT),
                on.asks(gptcache.port, requests, load.Expectation(b"", b"finish_reason")),
            )
        )
    return [
        Row(
            "semantic hit, short prompt, idle, p50",
            "GPTCache's server: same encoder, FAISS, SQLite",
            ms(rounds.ours),
            ms(rounds.theirs),
            str(rounds),
            "≤ 0.5",
            rounds.ratio <= 0.5,
        )
    ]


def _saturated(size: Size) -> list[Row]:
    with stage() as on:
        server = on.recollect(_LENIENT)
        load.ask(server.port, traffic.request(traffic.JSON_MODEL, 0))
        time.sleep(SETTLE_S)
        by_cpu, by_rate = _beside_saturation(on, server, size)
        cores = sorted(os.sched_getaffinity(0))
        apart = None
        if len(cores) > 1:
            here = [os.getpid(), on.redis.pid, *_but_embeddings(server)]
            try:
                processes.pin(here, cores[:-1])
                processes.pin([server.embeddings_pid], cores[-1:])
                apart, _ = _beside_saturation(on, server, size, cores[-1:])
            finally:
                processes.pin([os.getpid()], cores)
    rows = [] if apart is None else [_saturated_row(apart, "on cores of its own", 0.9)]
    rows.append(_saturated_row(by_cpu, f"sharing {len(cores)} cores", None))
    rows.append(
        Row(
            "the same: hits per second, with both loads and Redis on these cores as well",
            "without",
            f"{by_rate.ours:.0f}",
            f"{by_rate.theirs:.0f}",
            str(by_rate),
            "none",
            None,
        )
    )
    return rows


def _saturated_row(by_cpu: Rounds, where: str, least: float | None) -> Row:
    inverse = Rounds(by_cpu.reference, by_cpu.measured)
    return Row(
        f"L1 hits beside a saturated encoder {where}: hits per CPU second of the worker",
        "without",
        f"{by_cpu.ours:.1f} µs a hit",
        f"{by_cpu.theirs:.1f} µs a hit",
        str(inverse),
        "none" if least is None else f"≥ {least}",
        None if least is None else inverse.ratio >= least,
    )


def _but_embeddings(server: SemanticServer) -> list[int]:
    return [pid for pid in server.pids if pid != server.embeddings_pid]


def _beside_saturation(
    on: Stage, server: SemanticServer, size: Size, cores: Sequence[int] | None = None
) -> tuple[Rounds, Rounds]:
    """Return the CPU µs of an L1 hit, and hits per second, with the encoder saturated and without.

    Args:
        on: The stage.
        server: On it.
        size: Of each round.
        cores: Where the process runs that saturates; None: anywhere.
    """
    pids = _but_embeddings(server)

    def cpu_and_rate(count: int) -> tuple[float, float]:
        requests = [
            traffic.request(traffic.JSON_MODEL, 0, fields=traffic.trace(next(_TRACES)))
            for _ in range(count)
        ]
        cpu, began = processes.cpu_ns(pids), time.perf_counter()
        load.drive(server.port, requests, CONNECTIONS, HIT.check)
        rate = count / (time.perf_counter() - began)
        return (processes.cpu_ns(pids) - cpu) / 1000 / count, rate

    rates: tuple[list[float], list[float]] = ([], [])

    def beside(count: int) -> float:
        with semantic_servers.saturation(on.folder, server.socket_path) as pid:
            if cores is not None:
                processes.pin([pid], cores)
            cpu_us, rate = cpu_and_rate(count)
        rates[0].append(rate)
        return cpu_us

    def alone(count: int) -> float:
        cpu_us, rate = cpu_and_rate(count)
        rates[1].append(rate)
        return cpu_us

    by_cpu = in_turns(size, beside, alone)
    return by_cpu, Rounds(rates[0][1:], rates[1][1:])


@dataclass(frozen=True, slots=True)
class _Measure:
    full: Size
    quick: Size
    run: Callable[[Size], list[Row]]


_MEASURES: Final = {
    "semantic-hit": _Measure(Size(7, 100), Size(3, 60), _hit),
    "semantic-throughput": _Measure(Size(5, 1000), Size(3, 300), _throughput),
    "semantic-miss": _Measure(Size(7, 80), Size(3, 60), _miss),
    "semantic-gptcache": _Measure(Size(5, 60), Size(3, 40), _gptcache),
    "semantic-saturated": _Measure(Size(5, 5_000), Size(3, 3_000), _saturated),
    "semantic-restart": _Measure(Size(1, 100_000), Size(1, 10_000), semantic_restart.restart),
    "semantic-index": _Measure(Size(1, 1_000_000), Size(1, 10_000), semantic_restart.search),
}
NAMES: Final = tuple(_MEASURES)
LONG: Final = "semantic-index"
"""Takes a quarter of an hour: measured in full only when it is named."""


def run(name: str, *, quick: bool, size: Size | None = None) -> list[Row]:
    """Measure one of `NAMES`; some are several rows.

    Raises:
        LeftOut: It cannot be measured here.
        UnexpectedAnswer: An answer is not what the row means.
        RuntimeError: A server does not do what it should.
    """
    measure = _MEASURES[name]
    return measure.run(size or (measure.quick if quick else measure.full))
