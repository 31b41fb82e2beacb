"""One contract, memory and Redis: what an alias does, whichever of them is asked."""

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import pytest_asyncio

from cachestore.leases import Leases
from cachestore.memory_store import MemoryStore
from cachestore.redis_link import RedisLink
from cachestore.redis_store import RedisStore, entry_prefix
from proxy.lookup.answers import StoredAnswer
from proxy.lookup.tiers import Tiers
from proxy.metrics import Metrics
from proxy.wire.endpoint import Endpoint, Form
from proxy.wire.recording import Recording
from tests.support.redis_server import RedisServer

NAMESPACE = "alias-contract"
ASKED, TARGET = b"a" * 32, b"t" * 32
NOW = 1_000_000.0
PATIENCE_S = 30.0

ANSWER = StoredAnswer(
    key=TARGET,
    stored_at=NOW,
    lifetime_s=600.0,
    keep_s=0.0,
    initial_age_s=0.0,
    endpoint=Endpoint.CHAT,
    recording=Recording(Form.JSON, b'{"choices": []}', b"", 1, 2),
    headers=((b"content-type", b"application/json"),),
    vary=(),
    upstream_s=0.5,
)
OWN = replace(ANSWER, key=ASKED, recording=Recording(Form.JSON, b'{"choices": [1]}', b"", 1, 2))


class Worker:
    """The exact tier of one worker over a real Redis. It hears of no changes: each place by itself.

    Attributes:
        place: Which of its two is looked into.
    """

    def __init__(self, redis_server: RedisServer, place: str) -> None:
        self.place = place
        self._client = redis_server.client()
        self.link = RedisLink(redis_server.url, deadline_s=PATIENCE_S)
        self._memory = MemoryStore[StoredAnswer](1_000_000)
        self._store = RedisStore(self.link, NAMESPACE, 10_000, 100_000, clock=lambda: NOW)
        leases = Leases(self.link, NAMESPACE, b"me", 60.0)
        self._tiers = Tiers(self._memory, self._store, leases, Metrics())

    async def store(self, answer: StoredAnswer) -> None:
        """Store an answer in both, as a flight does."""
        self._tiers.keep(answer)
        assert await self._tiers.store(answer, None)

    async def alias(self, key: bytes, answer: StoredAnswer) -> None:
        """Let an answer be found under another key, in both."""
        await self._tiers.alias(key, answer, None)

    async def found(self, key: bytes) -> bytes | None:
        """Return the own key of what is found under `key` in the place in question."""
        if self.place == "memory":
            held = self._tiers.peek(key)
            return None if held is None else held.key
        stored = await self._store.get(key, follows_aliases=True)
        return None if stored is None else stored.key

    def lose(self, key: bytes) -> None:
        """Lose what is stored under `key`, as by eviction."""
        self._memory.drop(key)
        self._client.delete(entry_prefix(NAMESPACE) + key.hex().encode())

    async def close(self) -> None:
        """End."""
        for name in self._client.scan_iter(f"{NAMESPACE}:*"):
            self._client.delete(name)
        self._client.close()
        await self.link.close()


@pytest_asyncio.fixture(params=["memory", "redis"])
async def worker(
    request: pytest.FixtureRequest, redis_server: RedisServer
) -> AsyncIterator[Worker]:
    """A worker whose memory, or whose Redis, is looked into."""
    worker = Worker(redis_server, request.param)
    await worker.link.start(PATIENCE_S)
    yield worker
    await worker.close()


async def test_another_questions_answer_is_found_by_its_own_key(worker: Worker) -> None:
    """So that whoever asked can tell."""
    await worker.store(ANSWER)
    await worker.alias(ASKED, ANSWER)

    assert await worker.found(ASKED) == TARGET


async def test_alias_dies_with_its_entry(worker: Worker) -> None:
    """A removed answer is never served."""
    await worker.store(ANSWER)
    await worker.alias(ASKED, ANSWER)
    worker.lose(TARGET)

    assert await worker.found(ASKED) is None


async def test_answer_of_its_own_comes_before_an_alias(worker: Worker) -> None:
    """Whichever came first."""
    await worker.store(ANSWER)
    await worker.alias(ASKED, ANSWER)
    await worker.store(OWN)
    assert await worker.found(ASKED) == ASKED

    await worker.alias(ASKED, ANSWER)
    assert await worker.found(ASKED) == ASKED


async def test_answer_of_its_own_ends_the_alias(worker: Worker) -> None:
    """When it goes first, the question is open again, and not the other's once more."""
    await worker.store(ANSWER)
    await worker.alias(ASKED, ANSWER)
    await worker.store(OWN)
    worker.lose(ASKED)

    assert await worker.found(ASKED) is None
    assert await worker.found(TARGET) == TARGET
