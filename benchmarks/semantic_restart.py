"""The semantic tier's index: how long a restart takes, and the index by itself."""

import asyncio
import contextlib
import statistics
import time
from collections.abc import Sequence
from typing import Final

import numpy as np

from benchmarks import index, load, processes, semantic_servers, traffic
from benchmarks.compare import Size
from benchmarks.semantic_rows import Row, ms
from benchmarks.semantic_servers import SemanticServer
from benchmarks.semantic_stage import stage
from cachestore.entry import KEY_BYTES, StoredResponse
from cachestore.redis_link import RedisLink
from cachestore.redis_store import RedisStore
from cachestore.vector_record import PARTITION_BYTES, Meaning

HIT: Final = load.Expectation(b"recollect; hit", b'"finish_reason":"stop"')
_REBUILT: Final = 'recollect_index_rebuild_seconds_count{cause="start"}'
_LOADED: Final = 'recollect_index_snapshot_seconds_count{outcome="loaded"}'
_LARGE_PARTITION: Final = 50_000
_SMALL_PARTITION: Final = 100


def restart(size: Size) -> list[Row]:
    """`size.requests` entries; a round is a start without a snapshot and one with."""
    entries = size.requests
    rebuilt_s: list[float] = []
    loaded_s: list[float] = []
    hit_s: list[float] = []
    with stage() as on:
        asyncio.run(_write_entries(on.redis.url, on.encoder.fingerprint(), entries))
        for number in range(size.rounds):
            home = on.folder / f"restarted{number}"
            for seconds, sample in ((rebuilt_s, _REBUILT), (loaded_s, _LOADED)):
                with semantic_servers.recollect(
                    on.folder, on.upstream, on.redis, "", home
                ) as server:
                    hit_s += _hits_until_ready(server)
                    now_s = time.clock_gettime(time.CLOCK_BOOTTIME)
                    seconds.append(now_s - processes.started_at_s(server.embeddings_pid))
                    # The hits' own entry may be one more.
                    if server.indexed() < entries:
                        raise RuntimeError(f"{server.indexed()} vectors, not {entries}")
                    if not server.counts(sample):
                        raise RuntimeError(f"{sample} is not 1")
    what = f"restart with {entries:,} entries, start of the embedding process to ready"
    hits = (
        f"{len(hit_s)} exact hits meanwhile, p50 {ms(statistics.median(hit_s))},"
        f" slowest {ms(max(hit_s))}"
    )
    return [
        _restart_row(f"{what}, from a snapshot", loaded_s, 5),
        _restart_row(f"{what}, by rebuild; {hits}", rebuilt_s, 60),
    ]


def _restart_row(what: str, seconds: Sequence[float], most_s: float) -> Row:
    median_s = statistics.median(seconds)
    target = f"≤ {most_s:g} s"
    return Row(what, "–", f"{median_s:.1f} s", "–", "–", target, median_s <= most_s)


def _hits_until_ready(server: SemanticServer) -> list[float]:
    """Ask for exact hits until the index is ready; return the seconds each took."""
    question = traffic.request(traffic.JSON_MODEL, 0)
    load.ask(server.port, question)
    time.sleep(0.05)
    seconds: list[float] = []
    with contextlib.closing(load.Client(server.port)) as client:
        while True:
            seconds.append(client.first_byte_s(question, HIT.check))
            if server.is_index_ready():
                return seconds
            time.sleep(0.005)


async def _write_entries(redis_url: str, fingerprint: str, count: int) -> None:
    """Write entries with the vectors of that encoder: one large partition, the rest small."""
    chance = np.random.default_rng(0)
    link = RedisLink(redis_url, deadline_s=10.0)
    await link.start(2.0)
    store = RedisStore(link, "recollect", 4096, 1024**2)
    large = min(_LARGE_PARTITION, count // 2)
    partition = b""
    for start in range(0, count, _SMALL_PARTITION):
        if start == 0 or start >= large:
            partition = chance.bytes(PARTITION_BYTES)
        vectors = chance.standard_normal((_SMALL_PARTITION, 384), np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        now = time.time()
        await asyncio.gather(
            *(
                store.put(
                    StoredResponse(chance.bytes(KEY_BYTES), now, 86_400, 0, b"", b"an answer"),
                    meaning=Meaning(partition, "A question.", fingerprint, vector.tobytes()),
                )
                for vector in vectors[: count - start]
            )
        )
    await link.close()


# The most milliseconds of a search, by the number of vectors in its partition.
_SEARCH_TARGETS_MS: Final = {10_000: 0.2, 100_000: 0.4, 1_000_000: 1.5}


def search(size: Size) -> list[Row]:
    """Each size up to `size.requests` vectors."""
    sizes = [vectors for vectors in index.SIZES if vectors <= size.requests]
    rows = []
    for measured in index.rows(sizes):
        target_ms = _SEARCH_TARGETS_MS[measured.vectors]
        is_met = measured.search_p50_ms <= target_ms and measured.recall_at_1 >= 0.98
        rows.append(
            Row(
                f"search among {measured.vectors:,} vectors in one partition, p50; recall@1",
                "–",
                f"{measured.search_p50_ms:.2f} ms; {measured.recall_at_1:.3f}",
                "–",
                "–",
                f"≤ {target_ms} ms; ≥ 0.98",
                is_met,
            )
        )
        if measured.vectors == max(_SEARCH_TARGETS_MS):
            is_met = measured.restarted_bytes <= 1e9 and measured.load_s <= 5
            rows.append(
                Row(
                    f"{measured.vectors:,} vectors: memory of the process; load of the snapshot",
                    "–",
                    f"{measured.restarted_bytes / 1e6:.0f} MB; {measured.load_s:.1f} s",
                    "–",
                    "–",
                    "≤ 1000 MB; ≤ 5 s",
                    is_met,
                )
            )
    return rows
