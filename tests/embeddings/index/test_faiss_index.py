"""The index of one host: growth, wear, memory, and all of it at once.

What it shares with every index is in `test_index_contract.py`; its files are in `test_snapshot.py`.
"""

import asyncio
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from embeddings.index.faiss_index import FaissIndex
from embeddings.index.partition import GRAPH_AT
from embeddings.index.vector_index import IndexedVector, Match
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
    files,
    found,
    key,
    near,
    number_of,
    some_vectors,
    unit,
)

ROOMY = 1 << 30
# Room for the names and keys of some thousand vectors, and for few vectors.
CRAMPED = 800_000
PARTITIONS = [bytes([number]) * 32 for number in range(20)]


def index_in(folder: Path, memory_bytes: int = ROOMY, dimension: int = DIMENSION) -> FaissIndex:
    """Return an empty index."""
    return FaissIndex(
        folder, dimension, "e" * 32, memory_bytes=memory_bytes, observer=CountingObserver()
    )


@asynccontextmanager
async def opened(folder: Path, memory_bytes: int = ROOMY) -> AsyncIterator[FaissIndex]:
    """An empty index that is closed again."""
    index = index_in(folder, memory_bytes)
    try:
        yield index
    finally:
        await index.close()


async def found_in_time(index: FaissIndex, *args: Any, **kwargs: Any) -> list[int]:
    """Return what is found once a large partition has come from disk."""
    async with asyncio.timeout(20):
        while not (numbers := await found(index, *args, **kwargs)):
            pass
    return numbers


async def until_graph_holds(index: FaissIndex, count: int) -> None:
    """Wait until the graphs hold so many."""
    async with asyncio.timeout(20):
        while (await index.stats()).vectors["graph"] != count:
            pass


async def test_a_partition_grows_into_a_graph_and_is_found_all_the_while(tmp_path: Path) -> None:
    """What was added is found by the very next search."""
    vectors = some_vectors(2 * GRAPH_AT, clusters=200)
    async with opened(tmp_path) as index:
        for at in range(0, len(vectors), 50):
            await index.add(entries(vectors[at : at + 50], first=at))
            for other in (at, at + 49, at // 2):
                assert await found(index, vectors[other]) == [other]
        await until_graph_holds(index, len(vectors))
        assert (await index.stats()).vectors == {
            "flat": 0,
            "graph": len(vectors),
            "spilled": 0,
        }
        queries = near(vectors)
        results = await index.search([(PARTITION, query) for query in queries], 1, NOW)
        nearest = (queries @ vectors.T).argmax(1)
        right = sum(number_of(one.key) == at for [one], at in zip(results, nearest, strict=True))
        assert right >= 0.98 * len(vectors)


async def test_who_adds_faster_than_graphs_grow_waits(tmp_path: Path) -> None:
    """Else the tail, with which all is compared, would grow to the size of what is added."""
    async with opened(tmp_path) as index:
        for at in range(10):
            await index.add(entries(some_vectors(GRAPH_AT, seed=at), first=GRAPH_AT * at))
            assert (await index.stats()).vectors["flat"] <= 2 * GRAPH_AT


async def test_a_worn_graph_is_made_anew_beside_searches(tmp_path: Path) -> None:
    """Changes meanwhile count; the dead give their memory back."""
    vectors = some_vectors(2 * GRAPH_AT, clusters=200)
    moved = some_vectors(100, seed=5)
    async with opened(tmp_path) as index:
        await index.add(entries(vectors))
        await until_graph_holds(index, len(vectors))
        before = (await index.stats()).bytes
        await index.remove([key(at) for at in range(GRAPH_AT)])
        for at in range(100):
            if at % 2:
                await index.add(entries(moved[at : at + 1], first=GRAPH_AT + at))
            else:
                await index.remove([key(GRAPH_AT + at)])
        async with asyncio.timeout(20):
            # Dead rows are in no count, but in the estimate.
            while (await index.stats()).bytes > 0.6 * before:
                pass
        await until_graph_holds(index, GRAPH_AT - 50)
        for at in range(100):
            number = GRAPH_AT + at
            if at % 2:
                assert await found(index, moved[at]) == [number]
            assert number not in await found(index, vectors[number], k=3)
        for at in range(GRAPH_AT + 100, 2 * GRAPH_AT, 25):
            assert await found(index, vectors[at]) == [at]
        assert await found(index, vectors[7], k=5) != []


async def test_a_graph_in_which_the_dead_hide_the_living_is_made_anew(tmp_path: Path) -> None:
    """Though less than a quarter is dead: a search that found too little tells."""
    chance = np.random.default_rng(4)
    centre = unit(chance.standard_normal(8))
    hidden = unit(-centre + 0.1 * chance.standard_normal(8))
    close = unit(centre + 0.1 * chance.standard_normal((5000, 8)))
    others = unit(-centre + 0.3 * chance.standard_normal((16_000, 8)))
    index = index_in(tmp_path, dimension=8)
    try:
        await index.add(entries([*close, *others, hidden]))
        await until_graph_holds(index, 21_001)
        await index.remove([key(number) for number in range(5000)])
        await index.add(entries([hidden]))
        await until_graph_holds(index, 16_002)
        before = (await index.stats()).bytes
        assert await found(index, centre, k=5) == []
        async with asyncio.timeout(30):
            # Dead rows are in no count, but in the estimate.
            while (await index.stats()).bytes > 0.9 * before:
                pass
        assert len(await found(index, centre, k=5)) == 5
    finally:
        await index.close()


async def test_a_graph_whose_last_vector_has_gone_is_gone(tmp_path: Path) -> None:
    """At once, or while it is made anew; the same partition can be filled again."""
    vectors = some_vectors(GRAPH_AT + 600)
    async with opened(tmp_path) as index:
        for _ in range(2):
            await index.add(entries(vectors))
            await until_graph_holds(index, len(vectors))
            for at in range(0, len(vectors), 100):
                await index.remove([key(number) for number in range(at, at + 100)])
            stats = await index.stats()
            assert (stats.partitions, stats.bytes) == (0, 0)
            assert await found(index, vectors[0]) == []


async def test_expiry_in_a_graph(tmp_path: Path) -> None:
    """Many at once, of which some are added again."""
    vectors = some_vectors(GRAPH_AT + 1500)
    async with opened(tmp_path) as index:
        await index.add(entries(vectors, expires_at=NOW + 1))
        await until_graph_holds(index, len(vectors))
        await index.add(entries(vectors[:100]))
        assert await index.expire(NOW + 1) == len(vectors) - 100
        assert sum((await index.stats()).vectors.values()) == 100
        assert await found(index, vectors[50], now=NOW + 2) == [50]


async def test_memory_is_bounded_and_what_is_on_disk_is_found(tmp_path: Path) -> None:
    """The coldest partitions go; a search brings them back."""
    vectors = {name: some_vectors(50, seed=at) for at, name in enumerate(PARTITIONS)}
    limit = 400_000
    async with opened(tmp_path, limit) as index:
        for at, name in enumerate(PARTITIONS):
            await index.add(entries(vectors[name], first=100 * at, partition=name))
        stats = await index.stats()
        assert stats.bytes <= limit
        assert stats.vectors["spilled"] > 300
        assert stats.partitions == len(PARTITIONS)
        assert sum(stats.vectors.values()) == 50 * len(PARTITIONS)

        for at, name in enumerate(PARTITIONS):
            for number in (0, 49):
                assert await found(index, vectors[name][number], partition=name) == [
                    100 * at + number
                ]
            assert (await index.stats()).bytes <= limit
        # Changes reach what is on disk.
        await index.remove([key(0), key(101)])
        await index.add(entries(vectors[PARTITIONS[2]][:1], first=200, partition=PARTITIONS[3]))
        assert 0 not in await found(index, vectors[PARTITIONS[0]][0], 50, PARTITIONS[0])
        assert 101 not in await found(index, vectors[PARTITIONS[1]][1], 50, PARTITIONS[1])
        assert 200 not in await found(index, vectors[PARTITIONS[2]][0], 50, PARTITIONS[2])
        assert await found(index, vectors[PARTITIONS[2]][0], 1, PARTITIONS[3]) == [200]
        assert sum((await index.stats()).vectors.values()) == 50 * len(PARTITIONS) - 2


async def test_a_graph_goes_to_disk_and_comes_back(tmp_path: Path) -> None:
    """Written and read beside searches; it takes little memory meanwhile."""
    vectors = some_vectors(GRAPH_AT + 300)
    async with opened(tmp_path, CRAMPED) as index:
        await index.add(entries(vectors))
        await until_graph_holds(index, len(vectors))
        await index.remove([key(3)])
        await index.add(entries(vectors[:5], first=90_000, partition=OTHER_PARTITION))
        async with asyncio.timeout(20):
            while (stats := await index.stats()).vectors["graph"]:
                pass
        assert stats.vectors == {"flat": 5, "graph": 0, "spilled": len(vectors) - 1}
        assert stats.bytes < CRAMPED
        assert await found(index, vectors[5]) == []
        assert await found_in_time(index, vectors[5]) == [5]
        assert 3 not in await found(index, vectors[3], k=3)
        assert (await index.stats()).vectors["graph"] == len(vectors) - 1


async def test_what_has_expired_on_disk_is_forgotten(tmp_path: Path) -> None:
    """Nobody may ever search there again."""
    vectors = some_vectors(10)
    async with opened(tmp_path, 40_000) as index:
        for at, name in enumerate(PARTITIONS[:10]):
            expires_at = NOW if at < 7 else LATER
            await index.add(entries(vectors, 100 * at, name, expires_at))
        assert await index.expire(NOW) == 70
        stats = await index.stats()
        assert stats.partitions == 3
        assert sum(stats.vectors.values()) == 30
        await index.remove([key(0)])
        await index.add(entries(vectors[:1], partition=PARTITIONS[0]))
        assert await found(index, vectors[0], partition=PARTITIONS[0]) == [0]


async def test_a_sweep_reaches_what_is_on_disk(tmp_path: Path) -> None:
    """Until its end that is found there; then what nobody added again is not."""
    vectors = some_vectors(10)
    async with opened(tmp_path, 80_000) as index:
        for at, name in enumerate(PARTITIONS):
            await index.add(entries(vectors, 100 * at, name))
        await index.begin_sweep()
        assert await found(index, vectors[3], partition=PARTITIONS[0]) == [3]
        for at, name in enumerate(PARTITIONS[:10]):
            await index.add(entries(vectors[:5], 100 * at, name))
        assert await index.end_sweep() == 5 * 10 + 10 * 10
        assert await index.end_sweep() == 0
        assert (await index.stats()).partitions == 10
        for at, name in enumerate(PARTITIONS[:10]):
            assert set(await found(index, vectors[3], 20, name)) == set(
                range(100 * at, 100 * at + 5)
            )


async def test_a_partition_lost_on_disk_is_a_miss(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """And can be filled again."""
    vectors = some_vectors(10)
    async with opened(tmp_path, 10_000) as index:
        for at, name in enumerate(PARTITIONS[:3]):
            await index.add(entries(vectors, 100 * at, name))
        for path in files(tmp_path, "*.pack"):
            path.write_bytes(b"rubbish")
        assert await found(index, vectors[0], partition=PARTITIONS[0]) == []
        await index.remove([key(105)])
        assert "lost" in caplog.text
        await index.add(entries(vectors, 0, PARTITIONS[0]))
        assert await found(index, vectors[4], partition=PARTITIONS[0]) == [4]
        assert sum((await index.stats()).vectors.values()) == 20


async def test_a_full_disk_keeps_all_in_memory(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """More memory than allowed is better than no answers."""
    vectors = some_vectors(10)
    in_the_way = tmp_path / "index"
    in_the_way.write_text("a file")
    async with opened(in_the_way, 1) as index:
        await index.add(entries(vectors, partition=PARTITIONS[0]))
        await index.add(entries(vectors, 100, PARTITIONS[1]))
        assert "cannot be put on disk" in caplog.text
        assert await found(index, vectors[0], partition=PARTITIONS[0]) == [0]
        assert await found(index, vectors[0], partition=PARTITIONS[1]) == [100]


async def test_closing_waits_for_nothing_long(tmp_path: Path) -> None:
    """Neither for a graph that is made anew nor for vectors on their way into one."""
    vectors = some_vectors(4 * GRAPH_AT, clusters=200)
    index = index_in(tmp_path)
    await index.add(entries(vectors))
    await until_graph_holds(index, len(vectors))
    await index.remove([key(at) for at in range(2100)])
    await index.add(entries(some_vectors(1000, seed=4), first=100_000))
    began = time.monotonic()
    await index.close()
    assert time.monotonic() - began < 1
    await index.close()


async def test_searches_go_on_while_all_else_happens(tmp_path: Path) -> None:
    """Each is right whatever is being written, made anew, put on disk or added."""
    steady = some_vectors(GRAPH_AT + 500, clusters=100)
    async with opened(tmp_path, 4_000_000) as index:
        await index.add(entries(steady))

        async def search() -> None:
            for at in range(0, len(steady), 10):
                assert await found_in_time(index, steady[at]) == [at]

        async def churn(number: int) -> None:
            for turn in range(10):
                some = some_vectors(300, seed=100 * number + turn)
                first = 100_000 * (number + 1)
                await index.add(entries(some, first))
                await index.add(entries(some[:50], first + 1000, PARTITIONS[turn]))
                await index.remove([key(first + at) for at in range(300)])

        async def save() -> None:
            for number in range(5):
                await index.save(f"{number}-0")
                await index.expire(NOW)

        await asyncio.gather(search(), churn(0), churn(1), save(), search())
        assert sum((await index.stats()).vectors.values()) == len(steady) + 2 * 50
        await search()


_MEMORY = """
    import asyncio, ctypes, os, sys
    from pathlib import Path
    from embeddings.index.faiss_index import FaissIndex
    from embeddings.index.vector_index import IndexedVector
    from tests.embeddings.fakes import CountingObserver
    import numpy as np

    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    async def main():
        index = FaissIndex(
            Path(sys.argv[1]),
            384,
            "e" * 32,
            memory_bytes=int(sys.argv[3]),
            observer=CountingObserver(),
        )
        chance = np.random.default_rng(0)
        some = np.asarray(chance.standard_normal((500, 384)) / 384**0.5, np.float32)
        await index.add([IndexedVector(b"w" * 32, b"w" * 32, some[0], 4e9)])
        await index.search([(b"w" * 32, some[0])], 1, 0)
        before = resident()
        spread = int(sys.argv[2])
        number = 0
        for _ in range(40):
            batch = []
            for vector in some:
                name = (number % spread).to_bytes(32, "big")
                batch.append(IndexedVector(number.to_bytes(32, "big"), name, vector, 4e9))
                number += 1
            await index.add(batch)
        batch.clear()
        # What the allocator keeps of what was freed is not held by the index.
        getattr(ctypes.CDLL(None), "malloc_trim", int)(0)
        print((await index.stats()).bytes, resident() - before)
        await index.close()

    asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("partitions", "memory_bytes"),
    [(20, ROOMY), (5_000, ROOMY), (20_000, ROOMY), (20_000, 14 << 20)],
)
def test_the_estimate_of_memory_is_honest(
    tmp_path: Path, partitions: int, memory_bytes: int
) -> None:
    """20,000 vectors take what the index says: few partitions, many, or most of them on disk."""
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            textwrap.dedent(_MEMORY),
            str(tmp_path),
            str(partitions),
            str(memory_bytes),
        ],
        cwd=Path(__file__).parents[3],
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    estimated, resident = map(int, done.stdout.split())
    assert 0.7 < resident / estimated < 1.15, (estimated, resident)


class Comparison(RuleBasedStateMachine):
    """An index and a brute force are told the same, and say the same.

    One partition has a graph from the start; memory is for one partition alone in half of all runs.
    """

    DIMENSION = 8
    KEYS = st.integers(0, 40)
    NAMES = st.sampled_from([PARTITION, OTHER_PARTITION, b"t" * 32])
    prefilled = unit(np.random.default_rng(1).standard_normal((GRAPH_AT + 50, 8)))

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.runner = asyncio.Runner()
        self.memory_bytes = ROOMY
        self.index = self.open()
        self.truth = BruteForce()
        self.now = NOW
        self.position = 0
        big = entries(self.prefilled, first=1000)
        self.add_all(big)

    def open(self) -> FaissIndex:
        """Return an empty index."""
        return index_in(Path(self.folder.name), self.memory_bytes, self.DIMENSION)

    def do(self, call: Any) -> Any:
        """Run one call."""
        return self.runner.run(call)

    def add_all(self, vectors: list[IndexedVector]) -> None:
        """Tell both."""
        self.do(self.index.add(vectors))
        self.truth.add(vectors)

    @rule(
        numbers=st.lists(KEYS, min_size=1, max_size=5),
        name=NAMES,
        seed=st.integers(0, 30),
        lifetime_s=st.sampled_from([1, 5, 1000]),
    )
    def add(self, numbers: list[int], name: bytes, seed: int, lifetime_s: int) -> None:
        """Add, replace, move."""
        vectors = unit(np.random.default_rng(seed).standard_normal((len(numbers), 8)))
        self.add_all(
            [
                IndexedVector(key(number), name, vector, self.now + lifetime_s)
                for number, vector in zip(numbers, vectors, strict=True)
            ]
        )

    @rule(numbers=st.lists(KEYS, min_size=1, max_size=5))
    def remove(self, numbers: list[int]) -> None:
        """Remove."""
        self.do(self.index.remove([key(number) for number in numbers]))
        for number in numbers:
            self.truth.held.pop(key(number), None)

    @rule(first=st.integers(1000, 1000 + GRAPH_AT), count=st.sampled_from([1, 50, 600]))
    def remove_many(self, first: int, count: int) -> None:
        """Wear the graph."""
        self.do(self.index.remove([key(number) for number in range(first, first + count)]))
        for number in range(first, first + count):
            self.truth.held.pop(key(number), None)

    @rule(seconds=st.sampled_from([1, 4]))
    def pass_time(self, seconds: int) -> None:
        """Let some expire."""
        self.now += seconds

    @rule()
    def expire(self) -> None:
        """Forget those."""
        self.do(self.index.expire(self.now))
        self.truth.held = {
            one.key: one for one in self.truth.held.values() if one.expires_at > self.now
        }

    @rule(kept=st.sets(KEYS))
    def sweep(self, kept: set[int]) -> None:
        """Rebuild: all of the small ones but some are gone."""
        self.do(self.index.begin_sweep())
        again = [
            one
            for one in self.truth.held.values()
            if number_of(one.key) >= 1000 or number_of(one.key) in kept
        ]
        self.truth.held = {}
        self.add_all(again)
        self.do(self.index.end_sweep())

    @rule(memory_bytes=st.sampled_from([CRAMPED, ROOMY]))
    def restart(self, memory_bytes: int) -> None:
        """Save, close, load."""
        self.position += 1
        self.do(self.index.save(f"{self.position}-0"))
        self.do(self.index.close())
        self.memory_bytes = memory_bytes
        self.index = self.open()
        assert self.do(self.index.load()) == f"{self.position}-0"

    @rule(name=NAMES, seed=st.integers(0, 40), k=st.integers(1, 8))
    def search(self, name: bytes, seed: int, k: int) -> None:
        """Ask both."""
        query = unit(np.random.default_rng(seed).standard_normal(8))
        expected = self.truth.nearest(name, query, k, self.now)
        matches: list[Match] = []
        ends_at = time.monotonic() + 20
        # A large partition may still have to come from disk.
        while len(matches) < len(expected) and time.monotonic() < ends_at:
            [matches] = self.do(self.index.search([(name, query)], k, self.now))
        assert len(matches) == len(expected)
        assert len({match.key for match in matches}) == len(matches)
        for match in matches:
            one = self.truth.held[match.key]
            assert one.partition == name
            assert one.expires_at > self.now
            assert match.score == pytest.approx(float(one.vector @ query), abs=2 * Q8_ERROR)
        if expected:
            assert matches[0].score >= expected[0].score - 4 * Q8_ERROR

    @invariant()
    def holds_as_many(self) -> None:
        """What has expired on disk is dropped no sooner than all of its partition."""
        held = sum(self.do(self.index.stats()).vectors.values())
        living = sum(one.expires_at > self.now for one in self.truth.held.values())
        assert held >= living

    def teardown(self) -> None:
        """End."""
        self.do(self.index.close())
        self.runner.close()
        self.folder.cleanup()


TestComparison = Comparison.TestCase
TestComparison.settings = settings(
    max_examples=8,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
