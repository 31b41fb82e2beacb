"""A real Redis as an embedding process sees it."""

import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from cachestore.change_log import ChangeLog
from cachestore.entry import StoredResponse
from cachestore.redis_link import RedisLink
from cachestore.redis_store import RedisStore
from cachestore.sample_log import SampleLog
from cachestore.vector_record import Answer, Meaning
from cachestore.vector_records import VectorRecords
from embeddings.service.source import Record, Source, SourceUnavailable, Witness
from proxy.embedding.redis_source import RedisSource
from tests.support.redis_server import RedisServer

ENCODER, OTHER_ENCODER = "5" * 32, "6" * 32
PARTITION = b"p" * 32
KEY, OTHER_KEY = b"k" * 32, b"o" * 32
VECTOR = b"\0\0\x80\x3f" * 4


def source_of(link: RedisLink, namespace: str, fingerprint: str) -> Source:
    """Return what an encoder sees of a namespace."""
    records = VectorRecords(link, namespace)
    return RedisSource(ChangeLog(link, namespace), records, SampleLog(link, namespace), fingerprint)


class Rig:
    """A source, and the store whose changes it tells of."""

    def __init__(self, link: RedisLink, fingerprint: str = ENCODER) -> None:
        self.namespace = f"t{uuid.uuid4().hex[:12]}"
        self.store = RedisStore(link, self.namespace, 2048, 1 << 20)
        self.source = source_of(link, self.namespace, fingerprint)

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
        lambda: source.witnesses([KEY]),
        lambda: source.keep_group(WITNESS, OTHER_GROUP),
        lambda: source.learn("r", b"sample"),
        lambda: source.forbid(b"pair"),
        source.forbidden,
        lambda: source.learned("0-0", 1),
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


GROUP, OTHER_GROUP = b"g" * 16, b"o" * 16
WITNESS = Witness(KEY, PARTITION, 0.0, "How?", VECTOR, GROUP, GROUP, 5.0, "So.")


async def answered(rig: Rig, key: bytes) -> None:
    """Store an entry with its question and its answer."""
    entry = StoredResponse(key, time.time(), 60.0, 0.0, b"head", b"body")
    meaning = Meaning(PARTITION, "How?", ENCODER, VECTOR, Answer(GROUP, 5.0, "So."))
    assert await rig.store.put(entry, None, meaning)


async def test_witness_is_read_and_can_join_a_group(link: RedisLink) -> None:
    """The words' own group stays known; who follows the log is told."""
    rig = Rig(link)
    await answered(rig, KEY)
    [witness, gone] = await rig.source.witnesses([KEY, OTHER_KEY])
    assert witness is not None
    assert replace(witness, expires_at=0.0) == WITNESS
    assert gone is None
    position = await rig.source.mark()

    await rig.source.keep_group(witness, OTHER_GROUP)

    [again] = await rig.source.witnesses([KEY])
    assert again == replace(witness, group=OTHER_GROUP)
    changes = await rig.source.changes(position, 10)
    assert changes is not None
    assert changes.keys == [KEY]


async def test_witness_with_another_answer_by_now_joins_no_group(link: RedisLink) -> None:
    """What was compared is gone; nobody is told of anything."""
    rig = Rig(link)
    await answered(rig, KEY)
    [witness] = await rig.source.witnesses([KEY])
    assert witness is not None
    position = await rig.source.mark()

    await rig.source.keep_group(replace(witness, words=OTHER_GROUP), OTHER_GROUP)

    assert await rig.source.witnesses([KEY]) == [witness]
    changes = await rig.source.changes(position, 10)
    assert changes is not None
    assert changes.keys == []


async def test_samples_are_read_by_their_encoder_alone(link: RedisLink) -> None:
    """What another one's scores mean says nothing; its messages count all the same."""
    rig, other = Rig(link), Rig(link, OTHER_ENCODER)
    other.namespace = rig.namespace
    other.source = source_of(link, rig.namespace, OTHER_ENCODER)
    await rig.source.learn("r/1", b"one")
    await other.source.learn("r/1", b"of another")
    await rig.source.forbid(b"pair")
    await rig.source.learn("r/2", b"two")

    learned = await rig.source.learned("0-0", 10)

    assert learned.samples == [("r/1", b"one"), ("r/2", b"two")]
    assert learned.forbidden == [b"pair"]
    assert learned.messages == 4
    assert await other.source.forbidden() == {b"pair"}, "an answer is wrong for any encoder"
    rest = await rig.source.learned(learned.position, 10)
    assert (rest.samples, rest.messages, rest.position) == ([], 0, learned.position)
