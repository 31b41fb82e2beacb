"""A real Redis as an embedding process sees it."""

import time
import uuid
from collections.abc import AsyncIterator

import pytest

from cachestore.change_log import ChangeLog
from cachestore.entry import StoredResponse
from cachestore.redis_link import RedisLink
from cachestore.redis_store import RedisStore
from cachestore.vector_record import Meaning
from cachestore.vector_records import VectorRecords
from embeddings.service.source import Record, Source, SourceUnavailable
from proxy.embedding.redis_source import RedisSource
from tests.support.redis_server import RedisServer

ENCODER, OTHER_ENCODER = "5" * 32, "6" * 32
PARTITION = b"p" * 32
KEY, OTHER_KEY = b"k" * 32, b"o" * 32
VECTOR = b"\0\0\x80\x3f" * 4


class Rig:
    """A source, and the store whose changes it tells of."""

    def __init__(self, link: RedisLink, fingerprint: str = ENCODER) -> None:
        self.namespace = f"t{uuid.uuid4().hex[:12]}"
        self.store = RedisStore(link, self.namespace, 2048, 1 << 20)
        self.source: Source = RedisSource(
            ChangeLog(link, self.namespace), VectorRecords(link, self.namespace), fingerprint
        )

    async def put(self, key: bytes, vector: bytes = VECTOR) -> None:
        """Store an entry with what it answers."""
        entry = StoredResponse(key, time.time(), 60.0, 0.0, b"head", b"body")
        fingerprint = ENCODER if vector else ""
        assert await self.store.put(entry, None, Meaning(PARTITION, "How?", fingerprint, vector))


@pytest.fixture
async def link(redis_server: RedisServer) -> AsyncIterator[RedisLink]:
    """A link to a Redis that others use too."""
    link = RedisLink(redis_server.url, deadline_s=5)
    await link.start(5)
    yield link
    await link.close()


async def test_what_is_stored_is_told_and_can_be_read(link: RedisLink) -> None:
    """The log says which key, the record says what it is about."""
    rig = Rig(link)
    position = await rig.source.mark()
    await rig.put(KEY)

    changes = await rig.source.changes(position, 10)
    assert changes is not None
    [record] = await rig.source.read(changes.keys)

    assert changes.keys == [KEY]
    assert record is not None
    assert (record.key, record.partition, record.vector) == (KEY, PARTITION, VECTOR)
    assert record.expires_at == pytest.approx(time.time() + 60, abs=5)
    later = await rig.source.changes(changes.position, 10)
    assert later is not None
    assert later.keys == []


async def test_record_without_this_encoders_vector_comes_with_its_text(link: RedisLink) -> None:
    """Whoever indexes it encodes it, and lets the others have the vector."""
    rig = Rig(link)
    await rig.put(KEY, vector=b"")
    [record] = await rig.source.read([KEY])
    assert record is not None
    assert (record.vector, record.text) == (b"", "How?")

    await rig.source.keep_vector(record, VECTOR)

    [again] = await rig.source.read([KEY])
    assert again is not None
    assert again.vector == VECTOR


async def test_vectors_of_another_encoder_are_none(link: RedisLink) -> None:
    """They are never compared with one's own."""
    rig = Rig(link, OTHER_ENCODER)
    await rig.put(KEY)

    [record] = await rig.source.read([KEY])

    assert record is not None
    assert (record.vector, record.text) == (b"", "How?")


async def test_record_whose_entry_is_gone_is_forgotten(
    link: RedisLink, redis_server: RedisServer
) -> None:
    """And the log says so; one whose entry is there stays."""
    rig = Rig(link)
    await rig.put(KEY)
    await rig.put(OTHER_KEY)
    with redis_server.client() as client:
        client.delete(f"{rig.namespace}:e:{KEY.hex()}")
    position = await rig.source.mark()

    await rig.source.forget_gone([KEY, OTHER_KEY])

    first, second = await rig.source.read([KEY, OTHER_KEY])
    assert (first, second is not None) == (None, True)
    changes = await rig.source.changes(position, 10)
    assert changes is not None
    assert changes.keys == [KEY]


async def test_all_records_are_found_by_scanning(link: RedisLink) -> None:
    """For a rebuild; those of another namespace are not."""
    rig = Rig(link)
    await Rig(link).put(OTHER_KEY)
    keys = {number.to_bytes(32, "big") for number in range(50)}
    for key in keys:
        await rig.put(key)

    found: set[bytes] = set()
    cursor = 0
    while True:
        cursor, some = await rig.source.scan(cursor)
        found.update(some)
        if cursor == 0:
            break

    assert found == keys


async def test_place_that_is_gone_from_the_log_is_noticed(
    link: RedisLink, redis_server: RedisServer
) -> None:
    """Trimmed or emptied: what was missed is unknown."""
    rig = Rig(link)
    position = await rig.source.mark()
    with redis_server.client() as client:
        client.delete(f"{rig.namespace}:log")

    assert await rig.source.changes(position, 10) is None


async def test_redis_that_is_away_is_told_in_the_engines_own_words(own_redis: RedisServer) -> None:
    """Every operation, so that the engine knows nothing of Redis."""
    link = RedisLink(own_redis.url, deadline_s=5)
    await link.start(5)
    source = Rig(link).source
    own_redis.kill()
    record = Record(KEY, PARTITION, 0.0, b"", "How?")

    for operation in (
        source.mark,
        lambda: source.changes("0-1", 1),
        lambda: source.read([KEY]),
        lambda: source.keep_vector(record, VECTOR),
        lambda: source.forget_gone([KEY]),
        lambda: source.scan(0),
    ):
        with pytest.raises(SourceUnavailable, match=r"."):
            await operation()
    await link.close()


async def test_vector_that_redis_refuses_to_keep_is_let_go(
    own_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """A Redis that is full still is what the index is filled from; the refusal is logged."""
    link = RedisLink(own_redis.url, deadline_s=5)
    await link.start(5)
    rig = Rig(link)
    await rig.put(KEY, vector=b"")
    [record] = await rig.source.read([KEY])
    assert record is not None
    with own_redis.client() as client:
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", 1)

    await rig.source.keep_vector(record, VECTOR)

    assert "refused to keep a vector: OOM" in caplog.text
    assert await rig.source.read([KEY]) == [record]
    await link.close()
