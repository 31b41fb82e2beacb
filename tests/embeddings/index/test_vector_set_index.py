"""The index in Redis' vector sets, against a real cluster of three masters.

What it shares with every index is in `test_index_contract.py`.
"""

import asyncio
import uuid
from collections.abc import AsyncIterator, Coroutine, Sequence
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
from numpy.typing import NDArray

from cachestore.redis_cluster import ClusterLink
from embeddings.encoding.encoder import Vector
from embeddings.index.vector_index import IndexedVector, IndexUnavailable
from embeddings.index.vector_set_index import VectorSetIndex, supports_vector_sets
from tests.support.redis8_cluster import Redis8Cluster, Redis8Node
from tests.support.redis_server import RedisServer

DIMENSION = 48
ENCODER = "e" * 32
LONG_S = 30.0
"""A deadline, or a wait, whose end nobody is to see: a test takes no longer than 60 s."""
DEADLINE_S = 1.0
"""One that is to be reached by a node that never answers, and by nothing that does."""
NOW = 1_000.0
LATER = 2_000.0
PARTITION = b"p" * 32
OTHER_PARTITION = b"q" * 32
# What eight bits a number cost a cosine.
Q8_ERROR = 0.01


@pytest_asyncio.fixture
async def link(redis8_cluster: Redis8Cluster) -> AsyncIterator[ClusterLink]:
    """A way to the shared cluster."""
    link = ClusterLink(redis8_cluster.url, deadline_s=LONG_S)
    await link.start(LONG_S)
    yield link
    await link.close()


@pytest.fixture
def namespace() -> str:
    """A name of the test's own."""
    return uuid.uuid4().hex


@pytest.fixture
def index(link: ClusterLink, namespace: str) -> VectorSetIndex:
    """An empty index."""
    return VectorSetIndex(link, namespace, ENCODER, DIMENSION)


def key(number: int) -> bytes:
    """Return a key like a hash's."""
    return number.to_bytes(2, "little") + b"k" * 30


def some_vectors(count: int, seed: int = 0, clusters: int = 20) -> NDArray[np.float32]:
    """Return vectors that lie in clusters, as those of texts do."""
    chance = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((clusters, DIMENSION))
    noise = chance.standard_normal((count, DIMENSION))
    vectors = centres[chance.integers(0, clusters, count)] + 0.7 * noise
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(unit, np.float32)


def entries(
    vectors: Sequence[Vector] | NDArray[np.float32],
    first: int = 0,
    partition: bytes = PARTITION,
    expires_at: float = LATER,
) -> list[IndexedVector]:
    """Return vectors under keys that count from `first`."""
    return [
        IndexedVector(key(first + at), partition, vector, expires_at)
        for at, vector in enumerate(vectors)
    ]


async def found(
    index: VectorSetIndex, vector: Vector, k: int = 1, partition: bytes = PARTITION
) -> list[bytes]:
    """Return the keys nearest to `vector` now."""
    [matches] = await index.search([(partition, vector)], k, NOW)
    return [match.key for match in matches]


def left_in(cluster: Redis8Cluster, namespace: str) -> list[bytes]:
    """Return the names of all that Redis holds for this index' vectors."""
    names: list[bytes] = []
    for node in cluster.nodes:
        with node.client() as client:
            names += client.scan_iter(f"{namespace}:*", count=1000)
    kept = (b":layout", b":sweep", f"{namespace}:i".encode())
    return sorted(name for name in names if not name.endswith(kept) and b":position:" not in name)


class Mortal:
    """A way to Redis on which a writer dies: at a given call, with half of it sent."""

    def __init__(self, link: ClusterLink, calls: int) -> None:
        self._link = link
        self._calls = calls

    async def run(self, commands: Sequence[Sequence[bytes | str | int | float]]) -> list[Any]:
        """Send them, or every other one and no more."""
        self._calls -= 1
        if self._calls > 0:
            return await self._link.run(commands)
        if self._calls == 0:
            await self._link.run(commands[::2])
        return [ConnectionError("died") for _ in commands]


async def test_scores_are_cosines(index: VectorSetIndex) -> None:
    """Redis says (1 + cosine) / 2; what is left of the difference is its eight bits a number."""
    base, across = np.linalg.qr(some_vectors(2, seed=5).T)[0].T.astype(np.float32)
    cosines = np.linspace(-1, 1, 41)
    await index.add(
        entries([np.float32(c) * base + np.float32(np.sqrt(1 - c * c)) * across for c in cosines])
    )

    [matches] = await index.search([(PARTITION, base)], 41, NOW)

    assert [match.key for match in matches[:1]] == [key(40)]
    scores = {match.key: match.score for match in matches}
    assert len(scores) == 41
    for at, cosine in enumerate(cosines):
        assert scores[key(at)] == pytest.approx(cosine, abs=Q8_ERROR)
        assert -1 <= scores[key(at)] <= 1
    assert scores[key(40)] == pytest.approx(1, abs=1e-6)
    assert scores[key(0)] == pytest.approx(-1, abs=1e-6)


async def test_a_vector_that_moves_to_another_partition_leaves_the_first(
    index: VectorSetIndex, redis8_cluster: Redis8Cluster, namespace: str
) -> None:
    """An entry has one vector, and partitions are never mixed."""
    [vector] = some_vectors(1)
    await index.add(entries([vector]))

    await index.add(entries([vector], partition=OTHER_PARTITION))

    assert await found(index, vector) == []
    assert await found(index, vector, partition=OTHER_PARTITION) == [key(0)]
    assert (await index.stats()).partitions == 1
    await index.remove([key(0)])
    assert left_in(redis8_cluster, namespace) == []


async def test_hosts_see_what_others_add_and_remove(
    link: ClusterLink, namespace: str, index: VectorSetIndex
) -> None:
    """The index is Redis'; what is done twice is done once."""
    other = VectorSetIndex(link, namespace, ENCODER, DIMENSION)
    vectors = some_vectors(3)
    await index.add(entries(vectors))
    await other.add(entries(vectors))

    assert await found(other, vectors[1]) == [key(1)]
    await other.remove([key(1)])
    await index.remove([key(1)])
    assert key(1) not in await found(index, vectors[1], k=3)
    assert (await index.stats()).vectors == {"remote": 2}


async def test_what_has_expired_hides_nothing_that_has_not(index: VectorSetIndex) -> None:
    """As many as one likes may be nearer and gone."""
    near, far = some_vectors(2, clusters=1)
    await index.add(entries([near] * 300, expires_at=NOW))
    await index.add(entries([far], first=500))

    assert await found(index, near) == [key(500)]


async def test_expiry_leaves_nothing_behind(
    index: VectorSetIndex, redis8_cluster: Redis8Cluster, namespace: str
) -> None:
    """Not even the names of empty partitions."""
    vectors = some_vectors(150)
    await index.add(entries(vectors[:100]))
    await index.add(entries(vectors[100:], first=100, partition=OTHER_PARTITION, expires_at=NOW))

    assert await index.expire(NOW) == 50
    assert await index.expire(NOW) == 0
    assert (await index.stats()).partitions == 1
    assert await index.expire(LATER) == 100
    assert left_in(redis8_cluster, namespace) == []


async def test_who_is_added_again_lives_on(index: VectorSetIndex) -> None:
    """Its former expiry is not held against it."""
    [vector] = some_vectors(1)
    await index.add(entries([vector], expires_at=NOW))
    await index.add(entries([vector], expires_at=LATER))

    assert await index.expire(NOW) == 0
    assert await found(index, vector) == [key(0)]


async def test_vectors_of_a_former_encoder_leave_when_they_expire(
    link: ClusterLink, redis8_cluster: Redis8Cluster, namespace: str, index: VectorSetIndex
) -> None:
    """Nobody finds them any more, and no process of that encoder may be left to forget them."""
    former = VectorSetIndex(link, namespace, "f" * 32, 16)
    await former.add([IndexedVector(key(1), PARTITION, np.eye(16, dtype=np.float32)[0], LATER)])
    await former.expire(NOW)
    await index.add(entries(some_vectors(1)))

    assert await found(index, some_vectors(1)[0], k=5) == [key(0)]
    assert await index.expire(LATER) == 2
    assert left_in(redis8_cluster, namespace) == []


async def test_a_large_partition_is_divided_over_nodes(
    link: ClusterLink, redis8_cluster: Redis8Cluster, namespace: str
) -> None:
    """Everything is found all the while, and afterwards too (recall at least .98)."""
    index = VectorSetIndex(link, namespace, ENCODER, DIMENSION, divide_at=600)
    vectors = some_vectors(2000)
    for start in range(0, len(vectors), 100):
        await index.add(entries(vectors[start : start + 100], first=start))
        seen = range(0, start + 100, 37)
        results = await index.search([(PARTITION, vectors[at]) for at in seen], 1, NOW)
        hits = [
            [match.key for match in matches] == [key(at)]
            for at, matches in zip(seen, results, strict=True)
        ]
        assert np.mean(hits) >= 0.98

    assert (await index.stats()).vectors == {"remote": 2000}
    assert (await index.stats()).partitions == 1
    cards = [cards_of(node, namespace) for node in redis8_cluster.nodes]
    assert all(cards)
    assert sum(sum(node.values()) for node in cards) == 2000
    assert max(max(node.values()) for node in cards) < 600
    queries = some_vectors(300, seed=1)
    results = await index.search([(PARTITION, query) for query in queries], 1, NOW)
    best = [float((vectors @ query).max()) for query in queries]
    recalled = [
        bool(matches) and matches[0].score >= score - Q8_ERROR
        for matches, score in zip(results, best, strict=True)
    ]
    assert np.mean(recalled) >= 0.98

    await index.add(entries(some_vectors(100, seed=2)))
    assert (await index.stats()).vectors == {"remote": 2000}
    assert sum(sum(cards_of(node, namespace).values()) for node in redis8_cluster.nodes) == 2000
    assert await found(index, some_vectors(100, seed=2)[7]) == [key(7)]
    await index.remove([key(at) for at in range(1000)])
    assert await index.expire(LATER) == 1000
    assert left_in(redis8_cluster, namespace) == []


async def test_vectors_that_are_all_alike_stay_together(
    link: ClusterLink, redis8_cluster: Redis8Cluster, namespace: str
) -> None:
    """No division would make their set smaller."""
    index = VectorSetIndex(link, namespace, ENCODER, DIMENSION, divide_at=100)
    for start in range(0, 300, 50):
        await index.add(entries([some_vectors(1)[0]] * 50, first=start))

    sets = [cards_of(node, namespace) for node in redis8_cluster.nodes]
    assert [list(node.values()) for node in sets if node] == [[300]]
    assert len(await found(index, some_vectors(1)[0], k=10)) == 10


def cards_of(node: Redis8Node, namespace: str) -> dict[bytes, int]:
    """Return how many vectors each set on a node holds."""
    with node.client() as client:
        names = [
            name
            for name in client.scan_iter(f"{namespace}:*", count=1000)
            if client.type(name) == b"vectorset"
        ]
        return {name: int(client.execute_command("VCARD", name)) for name in names}


async def test_a_division_that_was_broken_off_is_taken_up_by_another_host(
    link: ClusterLink, namespace: str
) -> None:
    """All of its state lies in Redis; hosts that know nothing of it find everything meanwhile."""
    vectors = some_vectors(400)
    begun = VectorSetIndex(link, namespace, ENCODER, DIMENSION, divide_at=300)
    await begun.add(entries(vectors[:300]))

    other = VectorSetIndex(link, namespace, ENCODER, DIMENSION, divide_at=300)
    for at in range(0, 300, 7):
        assert await found(other, vectors[at]) == [key(at)]
    assert (await other.stats()).bytes > 0
    for _ in range(5):
        await other.expire(NOW)
    await begun.add(entries(vectors[300:], first=300))

    for host in (begun, other):
        results = await host.search([(PARTITION, vector) for vector in vectors], 1, NOW)
        assert [[match.key for match in matches] for matches in results] == [
            [key(at)] for at in range(400)
        ]


@pytest.mark.parametrize("calls", range(1, 64, 3))
async def test_wherever_a_writer_dies_nothing_wrong_is_found_and_nothing_is_left(
    link: ClusterLink, redis8_cluster: Redis8Cluster, namespace: str, calls: int
) -> None:
    """Adding, moving, dividing, removing: each broken off with half of its commands sent."""
    vectors, moved = some_vectors(250), some_vectors(100, seed=3)
    mortal = VectorSetIndex(Mortal(link, calls), namespace, ENCODER, DIMENSION, divide_at=120)

    async def write() -> None:
        await mortal.add(entries(vectors))
        await mortal.add(entries(moved[:50], partition=OTHER_PARTITION))
        await mortal.remove([key(at) for at in range(200, 250)])
        await mortal.add(entries(moved))
        await mortal.expire(NOW)
        for _ in range(100):
            await mortal.stats()

    with pytest.raises(IndexUnavailable, match="died"):
        await write()

    index = VectorSetIndex(link, namespace, ENCODER, DIMENSION, divide_at=120)
    await index.add(entries(moved))
    await index.remove([key(at) for at in range(200, 250)])
    for partition in (PARTITION, OTHER_PARTITION):
        [matches] = await index.search([(partition, moved[3])], 500, NOW)
        keys = [match.key for match in matches]
        assert len(set(keys)) == len(keys)
        assert not set(keys) & {key(at) for at in range(200, 250)}
        assert partition == PARTITION or not keys
    for at in range(100):
        [[match]] = await index.search([(PARTITION, moved[at])], 1, NOW)
        assert match.key == key(at)
        assert match.score == pytest.approx(1, abs=Q8_ERROR)
    await index.expire(LATER)
    assert left_in(redis8_cluster, namespace) == []


async def test_a_sweep_forgets_what_nobody_added_again(
    link: ClusterLink, namespace: str, index: VectorSetIndex
) -> None:
    """Other hosts' additions count; until the end everything is found."""
    vectors = some_vectors(200)
    await index.add(entries(vectors))
    other = VectorSetIndex(link, namespace, ENCODER, DIMENSION)

    await index.begin_sweep()
    await index.add(entries(vectors[:50]))
    await other.add(entries(vectors[50:80], first=50))
    assert await found(index, vectors[150]) == [key(150)]

    assert await index.end_sweep() == 120
    assert await index.end_sweep() == 0
    assert (await other.stats()).vectors == {"remote": 80}
    assert key(150) not in await found(other, vectors[150], k=200)


async def test_of_two_hosts_sweeps_the_later_one_counts(
    link: ClusterLink, namespace: str, index: VectorSetIndex
) -> None:
    """The former must not forget what the later has yet to add."""
    vectors = some_vectors(20)
    other = VectorSetIndex(link, namespace, ENCODER, DIMENSION)
    await index.add(entries(vectors))

    await index.begin_sweep()
    await other.begin_sweep()
    assert await index.end_sweep() == 0
    await other.add(entries(vectors[:5]))
    assert await other.end_sweep() == 15


async def test_a_position_holds_as_long_as_every_node_remembers_it(
    own_redis8_cluster: Redis8Cluster,
) -> None:
    """A node that came back empty has lost vectors: then all are to be added again."""
    cluster = own_redis8_cluster
    link = ClusterLink(cluster.url, deadline_s=LONG_S)
    await link.start(LONG_S)
    index = VectorSetIndex(link, "n", ENCODER, DIMENSION)
    assert await index.load() is None
    await index.save("1-0")
    await index.save("2-0")
    assert await index.load() == "2-0"
    assert await VectorSetIndex(link, "n", "f" * 32, DIMENSION).load() is None
    for lost in cluster.nodes:
        await index.save("3-0")
        with lost.client() as client:
            client.flushall()
        assert await index.load() is None
    await link.close()


async def test_a_dead_node_makes_the_index_unavailable_at_once_until_it_is_back(
    own_redis8_cluster: Redis8Cluster,
) -> None:
    """A miss, not a hang; what the node lost can be added again."""
    cluster = own_redis8_cluster
    link = ClusterLink(cluster.url, deadline_s=DEADLINE_S)
    await link.start(LONG_S)
    index = VectorSetIndex(link, "n", ENCODER, DIMENSION)
    [vector] = some_vectors(1)
    await index.add(entries([vector]))
    node = cluster.node_of(f"n:i:{ENCODER}:{PARTITION.hex()}")
    node.suspend()
    await is_unavailable_in_time(found(index, vector))

    node.kill()
    for attempt in (index.add(entries([vector])), index.remove([key(0)]), index.expire(NOW)):
        await is_unavailable_in_time(attempt)

    # Off the loop: the link goes on meanwhile, as it does in a worker.
    await asyncio.to_thread(node.start)
    await asyncio.to_thread(cluster.wait_until_whole)
    await link_is_up(link)
    await index.add(entries([vector]))
    assert await found(index, vector) == [key(0)]
    await link.close()


async def is_unavailable_in_time(attempt: Coroutine[Any, Any, object]) -> None:
    """Wait for the attempt to fail, which it must before twice the deadline is over.

    A timer of the same loop says so: were the loop held up, it would be so as well.
    """
    trying = asyncio.create_task(attempt)
    timer = asyncio.create_task(asyncio.sleep(2 * DEADLINE_S))
    await asyncio.wait({trying, timer}, return_when=asyncio.FIRST_COMPLETED)
    assert not timer.done()
    timer.cancel()
    with pytest.raises(IndexUnavailable):
        await trying


async def link_is_up(link: ClusterLink) -> None:
    """Wait until commands are sent again."""
    async with asyncio.timeout(LONG_S):
        while not link.is_up:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_a_redis_without_vector_sets_is_told_apart(
    link: ClusterLink, redis_server: RedisServer
) -> None:
    """They come with Redis 8; where they are missing FAISS is used."""
    assert await supports_vector_sets(link)

    with redis_server.client() as client:
        version = int(client.info("server")["redis_version"].split(".")[0])
    older = ClusterLink(redis_server.url, deadline_s=LONG_S)
    with pytest.raises(IndexUnavailable, match="not started"):
        await supports_vector_sets(older)
    await older.start(LONG_S)
    assert await supports_vector_sets(older) == (version >= 8)
    await older.close()


async def test_vectors_of_another_shape_are_refused(index: VectorSetIndex) -> None:
    """Before anything is sent."""
    short = np.ones(DIMENSION - 1, np.float32)
    [vector] = some_vectors(1)
    for bad in (
        IndexedVector(key(0), PARTITION, short, LATER),
        IndexedVector(b"short", PARTITION, vector, LATER),
        IndexedVector(key(0), b"short", vector, LATER),
    ):
        with pytest.raises(ValueError, match=r"not \(|a key has"):
            await index.add([bad])
    with pytest.raises(ValueError, match=r"not \("):
        await index.search([(PARTITION, short)], 1, NOW)
    assert (await index.stats()).vectors == {"remote": 0}
