"""What every index does, whether it lies in this process or in a cluster of Redis 8."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio

from cachestore.redis_cluster import ClusterLink
from embeddings.index.faiss_index import FaissIndex
from embeddings.index.vector_index import IndexedVector, VectorIndex
from embeddings.index.vector_set_index import VectorSetIndex
from tests.embeddings.fakes import CountingObserver
from tests.embeddings.index.index_rig import (
    DIMENSION,
    LATER,
    NOW,
    OTHER_PARTITION,
    PARTITION,
    Q8_ERROR,
    BruteForce,
    entries,
    found,
    key,
    near,
    some_vectors,
)
from tests.support.redis8_cluster import Redis8Cluster


@pytest_asyncio.fixture(params=["faiss", "vector-set"])
async def index(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[VectorIndex]:
    """An empty index of each kind."""
    if request.param == "faiss":
        index = FaissIndex(
            tmp_path, DIMENSION, "e" * 32, memory_bytes=1 << 30, observer=CountingObserver()
        )
        yield index
        await index.close()
        return
    cluster: Redis8Cluster = request.getfixturevalue("redis8_cluster")
    link = ClusterLink(cluster.url, deadline_s=5)
    await link.start(5)
    remote = VectorSetIndex(link, uuid.uuid4().hex, "e" * 32, DIMENSION)
    yield remote
    await remote.close()
    await link.close()


async def count(index: VectorIndex) -> int:
    """Return how many vectors are held."""
    return sum((await index.stats()).vectors.values())


async def test_the_nearest_are_found_best_first(index: VectorIndex) -> None:
    """As comparing with all finds them, up to what eight bits a number take from a score."""
    vectors = some_vectors(300)
    truth = BruteForce()
    truth.add(entries(vectors))
    await index.add(entries(vectors))

    queries = near(vectors[:50])
    results = await index.search([(PARTITION, query) for query in queries], 5, NOW)

    right = 0
    for query, matches in zip(queries, results, strict=True):
        expected = truth.nearest(PARTITION, query, 5, NOW)
        assert len(matches) == 5
        assert [match.score for match in matches] == sorted(
            (match.score for match in matches), reverse=True
        )
        for match, wanted in zip(matches, expected, strict=True):
            assert match.score == pytest.approx(wanted.score, abs=Q8_ERROR)
        right += matches[0].key == expected[0].key
    assert right >= 49


async def test_equal_scores_are_ordered_by_key(index: VectorIndex) -> None:
    """A look-up gives the same answer on every machine, whatever was added first."""
    [vector] = some_vectors(1)
    order = np.random.default_rng(3).permutation(12)
    await index.add([IndexedVector(key(int(at)), PARTITION, vector, LATER) for at in order])

    assert await found(index, vector, k=4) == [0, 1, 2, 3]
    await index.remove([key(0), key(2)])
    assert await found(index, vector, k=4) == [1, 3, 4, 5]


async def test_only_the_asked_partition_is_compared(index: VectorIndex) -> None:
    """However alike another one's vectors are."""
    vectors = some_vectors(2)
    await index.add(entries(vectors[:1]))
    await index.add(entries(vectors[1:], first=1, partition=OTHER_PARTITION))

    assert await found(index, vectors[1], k=5) == [0]
    assert await found(index, vectors[0], k=5, partition=OTHER_PARTITION) == [1]


async def test_an_unknown_partition_has_nothing_and_is_not_made(index: VectorIndex) -> None:
    """Whoever asks leaves no trace: partitions are as many as callers like to invent."""
    [vector] = some_vectors(1)
    assert await found(index, vector, partition=b"u" * 32) == []
    assert (await index.stats()).partitions == 0


async def test_a_partition_without_vectors_is_gone(index: VectorIndex) -> None:
    """It takes no memory."""
    vectors = some_vectors(3)
    await index.add(entries(vectors))
    await index.add(entries(vectors[:1], first=9, partition=OTHER_PARTITION))
    assert (await index.stats()).partitions == 2
    await index.remove([key(0), key(1), key(2)])

    assert (await index.stats()).partitions == 1
    assert await found(index, vectors[0], k=3) == []


async def test_an_addition_replaces_what_was_under_its_key(index: VectorIndex) -> None:
    """An entry has one vector."""
    old, new = some_vectors(2, clusters=2)
    await index.add(entries([old]))
    await index.add(entries([new]))

    [[match]] = await index.search([(PARTITION, new)], 5, NOW)
    assert match.score == pytest.approx(1, abs=Q8_ERROR)
    assert await count(index) == 1


async def test_a_key_moves_to_another_partition(index: VectorIndex) -> None:
    """It leaves the first."""
    vectors = some_vectors(2)
    await index.add(entries(vectors))
    await index.add(entries(vectors[:1], partition=OTHER_PARTITION))

    assert await found(index, vectors[0], k=5) == [1]
    assert await found(index, vectors[0], k=5, partition=OTHER_PARTITION) == [0]
    assert await count(index) == 2


async def test_a_key_added_twice_in_one_batch_is_held_once(index: VectorIndex) -> None:
    """The later counts."""
    old, new = some_vectors(2)
    await index.add([*entries([old]), *entries([new])])
    [[match]] = await index.search([(PARTITION, new)], 5, NOW)
    assert match.score == pytest.approx(1, abs=Q8_ERROR)
    assert await count(index) == 1


async def test_what_is_removed_is_not_found(index: VectorIndex) -> None:
    """What was not there is no error."""
    vectors = some_vectors(10)
    await index.add(entries(vectors))
    await index.remove([key(3), key(3), key(77)])
    assert await found(index, vectors[3], k=10) == [
        at for at in await found(index, vectors[3], k=10) if at != 3
    ]
    assert await count(index) == 9
    await index.add(entries(vectors[3:4], first=3))
    assert await found(index, vectors[3]) == [3]


async def test_what_has_expired_is_not_found_and_is_forgotten(index: VectorIndex) -> None:
    """From the second on that it expires at."""
    vectors = some_vectors(4)
    await index.add(entries(vectors[:2], expires_at=NOW + 5))
    await index.add(entries(vectors[2:], first=2, expires_at=LATER))

    assert set(await found(index, vectors[0], k=4, now=NOW + 4.5)) == {0, 1, 2, 3}
    assert set(await found(index, vectors[0], k=4, now=NOW + 5)) == {2, 3}
    assert await index.expire(NOW + 5) == 2
    assert await index.expire(NOW + 5) == 0
    assert await count(index) == 2


async def test_expired_ones_do_not_hide_others(index: VectorIndex) -> None:
    """They may all be nearer."""
    centre = some_vectors(1)[0]
    close = near(np.repeat(centre[None], 60, axis=0))
    far = some_vectors(3, seed=5)
    await index.add(entries(close, expires_at=NOW - 1))
    await index.add(entries(far, first=100))
    assert set(await found(index, centre, k=3)) == {100, 101, 102}


async def test_a_sweep_forgets_what_was_not_added_again(index: VectorIndex) -> None:
    """Until its end all are found; a second beginning begins anew."""
    vectors = some_vectors(6)
    await index.add(entries(vectors))
    await index.begin_sweep()
    await index.add(entries(vectors[:2]))
    await index.begin_sweep()
    await index.add(entries(vectors[1:3], first=1))
    await index.add(entries(some_vectors(1, seed=8), first=50))
    assert len(await found(index, vectors[0], k=20)) == 7

    assert await index.end_sweep() == 4
    assert set(await found(index, vectors[0], k=20)) == {1, 2, 50}


async def test_callers_do_not_disturb_one_another(index: VectorIndex) -> None:
    """Additions, removals and searches at once; in the end exactly what should be there is."""
    vectors = some_vectors(200)

    async def write(first: int) -> None:
        for at in range(first, 200, 4):
            await index.add(entries(vectors[at : at + 1], first=at))
            assert await found(index, vectors[at]) == [at]
            if at % 3 == 0:
                await index.remove([key(at)])

    await asyncio.gather(*(write(first) for first in range(4)))
    assert await count(index) == sum(at % 3 != 0 for at in range(200))


async def test_other_shapes_are_refused(index: VectorIndex) -> None:
    """A defect of the caller's, told before anything is changed."""
    [vector] = some_vectors(1)
    short = np.ones(DIMENSION - 1, np.float32)
    for bad in (
        IndexedVector(key(0), PARTITION, short, LATER),
        IndexedVector(b"short", PARTITION, vector, LATER),
        IndexedVector(key(0), b"short", vector, LATER),
    ):
        with pytest.raises(ValueError, match=r"numbers, not|32 bytes|not \(|a key has"):
            await index.add([bad])
    with pytest.raises(ValueError, match=r"numbers, not|not \("):
        await index.search([(PARTITION, short)], 1, NOW)
    assert await count(index) == 0


async def test_a_saved_index_knows_its_position(index: VectorIndex) -> None:
    """None before."""
    assert await index.load() is None
    await index.add(entries(some_vectors(3)))
    await index.save("1-0")
    await index.save("2-0")
    if isinstance(index, VectorSetIndex):
        assert await index.load() == "2-0"
