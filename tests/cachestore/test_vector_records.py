"""Vector records in a real Redis: read many at once, kept whole, forgotten with their entry."""

import random
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

import pytest
import pytest_asyncio

from cachestore.change_log import ChangeLog
from cachestore.entry import StoredResponse
from cachestore.errors import StoreRefused, StoreUnavailable
from cachestore.redis_link import RedisLink
from cachestore.redis_store import RedisStore
from cachestore.vector_record import Meaning, VectorRecord, encode_record
from cachestore.vector_records import VectorRecords
from tests.cachestore.redis_rig import RealRedis, Relay, a_link, until

NOW = 1_700_000_000.0
EXPIRES_AT = NOW + 90.0
PARTITION = b"p" * 32
ENCODER = "5" * 32
OTHER_ENCODER = "6" * 32
VECTOR = struct.pack("<4f", 0.5, -0.5, 0.5, 0.5)


def a_key(number: int) -> bytes:
    return number.to_bytes(32, "big")


def name_of(key: bytes, kind: str = "v", namespace: str = "test") -> str:
    return f"{namespace}:{kind}:{key.hex()}"


class Corrupt:
    """Counts what was not what was stored."""

    count = 0

    def __call__(self) -> None:
        self.count += 1


@pytest.fixture
def corrupt() -> Corrupt:
    return Corrupt()


@pytest.fixture
def records(link: RedisLink, corrupt: Corrupt) -> VectorRecords:
    return VectorRecords(link, "test", on_corrupt=corrupt)


@pytest_asyncio.fixture
async def relayed(relay: Relay) -> AsyncIterator[RedisLink]:
    link = a_link(relay.url, deadline_s=2.0)
    await link.start(5)
    yield link
    await link.close()


async def store(link: RedisLink, *keys: bytes, meaning: Meaning | None = None) -> None:
    """Store entries, each with its vector record."""
    redis = RedisStore(link, "test", 2048, 1 << 20, clock=lambda: NOW)
    for key in keys:
        entry = StoredResponse(key, NOW, 60.0, 30.0, b"head", b"body")
        assert await redis.put(entry, None, meaning or a_meaning(key))


def a_meaning(key: bytes, vector: bytes = VECTOR) -> Meaning:
    return Meaning(PARTITION, f"question {key.hex()}", ENCODER if vector else "", vector)


async def position(link: RedisLink) -> str:
    return await ChangeLog(link, "test").mark()


async def told(link: RedisLink, after: str) -> list[bytes]:
    """Return what the log says since."""
    changes = await ChangeLog(link, "test").read(after, 1000)
    assert changes is not None
    return changes.keys


async def test_records_are_read_in_the_order_of_their_keys(
    link: RedisLink, records: VectorRecords, corrupt: Corrupt
) -> None:
    """With the vector, or without one with the text; None where there is none; repeated too."""
    with_vector, without = a_key(1), a_key(2)
    await store(link, with_vector)
    await store(link, without, meaning=a_meaning(without, b""))

    found = await records.read([without, a_key(3), with_vector, without], ENCODER)

    text = VectorRecord(without, PARTITION, EXPIRES_AT, text=f"question {without.hex()}")
    vector = VectorRecord(with_vector, PARTITION, EXPIRES_AT, vector=VECTOR)
    assert found == [text, None, vector, text]
    assert await records.read([], ENCODER) == []
    assert corrupt.count == 0, "what is not there is not corrupt"


async def test_vector_of_another_encoder_is_not_given_out(
    link: RedisLink, records: VectorRecords
) -> None:
    """Vectors of two encoders are never compared; there is the text to make one of."""
    await store(link, a_key(1))

    [record] = await records.read([a_key(1)], OTHER_ENCODER)

    assert record is not None
    assert (record.vector, record.text) == (b"", f"question {a_key(1).hex()}")


async def test_a_thousand_records_are_read_in_a_few_packets(
    relay: Relay, relayed: RedisLink
) -> None:
    """Two trips, however many: one for the vectors, one for the texts that are wanted."""
    keys = [a_key(n) for n in range(1000)]
    await store(relayed, *keys[:500])
    for key in keys[500:]:
        await store(relayed, key, meaning=a_meaning(key, b""))
    pieces: list[int] = []

    def note(piece: bytes) -> bytes:
        pieces.append(len(piece))
        return piece

    relay.spoil = note
    found = await VectorRecords(relayed, "test").read(keys, ENCODER)

    assert [bool(record and record.vector) for record in found] == [True] * 500 + [False] * 500
    assert all(record and record.text for record in found[500:])
    assert len(pieces) < 50


async def test_vector_is_kept_in_its_record_and_ends_with_it(
    real_redis: RealRedis, link: RedisLink, records: VectorRecords
) -> None:
    """Beside that of another encoder, and for no longer; nobody is told, as nothing changed."""
    await store(link, a_key(1))
    before = await position(link)

    assert await records.keep_vector(a_key(1), PARTITION, OTHER_ENCODER, VECTOR[::-1])

    for encoder, vector in ((ENCODER, VECTOR), (OTHER_ENCODER, VECTOR[::-1])):
        [record] = await records.read([a_key(1)], encoder)
        assert record == VectorRecord(a_key(1), PARTITION, EXPIRES_AT, vector=vector)
    with real_redis.client() as other:
        assert 80_000 < other.pttl(name_of(a_key(1))) <= 90_000
    assert await told(link, before) == []


@pytest.mark.parametrize("other_type", [False, True])
async def test_vector_of_a_record_that_is_gone_is_not_kept(
    real_redis: RealRedis, records: VectorRecords, other_type: bool
) -> None:
    """Encoding took its time: it would be a record without end, text or entry."""
    with real_redis.client() as other:
        if other_type:
            other.set(name_of(a_key(1)), "garbage")

        assert not await records.keep_vector(a_key(1), PARTITION, ENCODER, VECTOR)
        assert bool(other.exists(name_of(a_key(1)))) is other_type


async def test_vector_made_for_another_partition_counts_as_none(
    link: RedisLink, records: VectorRecords
) -> None:
    """The record was replaced while its text was being encoded: then it is encoded again."""
    await store(link, a_key(1))
    await records.keep_vector(a_key(1), b"q" * 32, ENCODER, VECTOR)

    [record] = await records.read([a_key(1)], ENCODER)

    assert record is not None
    assert (record.vector, record.partition) == (b"", PARTITION)


async def test_record_whose_entry_is_gone_is_removed_and_told(
    real_redis: RealRedis, link: RedisLink, records: VectorRecords
) -> None:
    """Evicted, say. Others stay; a record that is gone already is told of all the same."""
    keys = [a_key(n) for n in range(4)]
    await store(link, *keys[:3])
    before = await position(link)
    with real_redis.client() as other:
        other.delete(name_of(keys[0], "e"), name_of(keys[2], "e"))

    await records.forget_gone(keys)

    found = await records.read(keys, ENCODER)
    assert [record is not None for record in found] == [False, True, False, False]
    assert await told(link, before) == [keys[0], keys[2], keys[3]]
    await records.forget_gone([])


async def test_record_of_an_entry_that_cannot_be_read_is_not_forgotten(
    real_redis: RealRedis, link: RedisLink, records: VectorRecords
) -> None:
    """What lies under its name is not gone yet; whoever fetches it removes it."""
    await store(link, a_key(1))
    before = await position(link)
    with real_redis.client() as other:
        other.delete(name_of(a_key(1), "e"))
        other.lpush(name_of(a_key(1), "e"), "x")

    await records.forget_gone([a_key(1)])

    assert await told(link, before) == []
    assert await records.read([a_key(1)], ENCODER) != [None]


def spoilt(kind: str) -> dict[bytes, bytes]:
    """Return the fields of a record that is none."""
    flat = encode_record(a_key(1), EXPIRES_AT, a_meaning(a_key(1), b""))
    fields = dict(zip(flat[::2], flat[1::2], strict=True))
    match kind:
        case "garbage":
            return {b"m": b"garbage", b"t": b"garbage"}
        case "cut":
            return fields | {b"m": fields[b"m"][:-1]}
        case "changed text":
            return fields | {b"t": fields[b"t"][:-1] + b"?"}
        case "no text":
            return {b"m": fields[b"m"]}
    flat = encode_record(a_key(2), EXPIRES_AT, a_meaning(a_key(2)))
    return dict(zip(flat[::2], flat[1::2], strict=True))


@pytest.mark.parametrize("kind", ["garbage", "cut", "changed text", "no text", "another's"])
async def test_what_is_no_record_is_counted_deleted_and_told(
    real_redis: RealRedis, link: RedisLink, records: VectorRecords, corrupt: Corrupt, kind: str
) -> None:
    """None, between others that are sound. Others' indexes let go of it as well."""
    await store(link, a_key(0), a_key(2))
    before = await position(link)
    with real_redis.client() as other:
        other.hset(name_of(a_key(1)), mapping=spoilt(kind))

        found = await records.read([a_key(0), a_key(1), a_key(2)], ENCODER)

        assert [record is not None for record in found] == [True, False, True]
        assert corrupt.count == 1
        assert not other.exists(name_of(a_key(1)))
    assert await told(link, before) == [a_key(1)]


async def test_value_of_another_type_is_counted_and_deleted(
    real_redis: RealRedis, link: RedisLink, records: VectorRecords, corrupt: Corrupt
) -> None:
    """A string or a list under a record's name, between others that are sound."""
    await store(link, a_key(0), a_key(3))
    with real_redis.client() as other:
        other.set(name_of(a_key(1)), "garbage")
        other.lpush(name_of(a_key(2)), "x")

        found = await records.read([a_key(n) for n in range(4)], ENCODER)

        assert [record is not None for record in found] == [True, False, False, True]
        assert corrupt.count == 2
        assert not other.exists(name_of(a_key(1)), name_of(a_key(2)))


async def test_hash_without_our_head_is_no_record(
    real_redis: RealRedis, records: VectorRecords, corrupt: Corrupt
) -> None:
    """As if it were not there; Redis tells the two not apart."""
    with real_redis.client() as other:
        other.hset(name_of(a_key(1)), mapping={"t": "x", ENCODER: "y"})

    assert await records.read([a_key(1)], ENCODER) == [None]
    assert corrupt.count == 0


async def test_without_anyone_to_tell_corrupt_records_are_deleted_all_the_same(
    real_redis: RealRedis, link: RedisLink
) -> None:
    """The callback is optional."""
    with real_redis.client() as other:
        other.hset(name_of(a_key(1)), "m", "garbage")

        assert await VectorRecords(link, "test").read([a_key(1)], ENCODER) == [None]
        assert not other.exists(name_of(a_key(1)))


@pytest.mark.parametrize("kind", ["garbage", "a string"])
async def test_sound_record_written_meanwhile_is_not_deleted_as_corrupt(
    real_redis: RealRedis, relay: Relay, relayed: RedisLink, kind: str
) -> None:
    """Between reading garbage and deleting it, its entry may have been stored again."""
    with real_redis.client() as other:
        if kind == "garbage":
            other.hset(name_of(a_key(1)), "m", "garbage")
        else:
            other.set(name_of(a_key(1)), "garbage")
        other.xadd("test:log", {"m": ""})

        def replace_it(piece: bytes) -> bytes:
            # Redis has answered with garbage; the answer has not arrived.
            relay.spoil = None
            other.delete(name_of(a_key(1)))
            flat = encode_record(a_key(1), EXPIRES_AT, a_meaning(a_key(1)))
            other.hset(name_of(a_key(1)), items=flat)
            return piece

        relay.spoil = replace_it
        records = VectorRecords(relayed, "test")

        assert await records.read([a_key(1)], ENCODER) == [None]
        assert relay.spoil is None
        [record] = await records.read([a_key(1)], ENCODER)
        assert record is not None
        assert other.xlen("test:log") == 1


async def test_record_of_another_command_is_neither_used_nor_deleted(
    relay: Relay, relayed: RedisLink, corrupt: Corrupt
) -> None:
    """When replies are out of step, nothing is wrong with what lies in Redis."""
    await store(relayed, a_key(1), a_key(2))
    records = VectorRecords(relayed, "test", on_corrupt=corrupt)
    relay.spoil = lambda piece: piece.replace(b"$1\r\na\r\n", b"")
    relayed.execute(b"ECHO", b"a")
    with pytest.raises(StoreUnavailable):
        await records.read([a_key(1), a_key(2), a_key(1)], ENCODER)
    relay.spoil = None

    await until(lambda: relayed.is_up)
    assert None not in await records.read([a_key(1), a_key(2)], ENCODER)
    assert corrupt.count == 0


async def scanned(records: VectorRecords, count: int) -> tuple[list[bytes], int]:
    """Return all keys that a scan gives, and in how many steps."""
    cursor, keys = await records.scan(0, count)
    steps = 1
    while cursor:
        cursor, more = await records.scan(cursor, count)
        keys += more
        steps += 1
    return keys, steps


def fill(redis: RealRedis, names: Iterable[str]) -> None:
    with redis.client() as other, other.pipeline() as many:
        for name in names:
            many.hset(name, "m", "x")
        many.execute()


async def test_scan_finds_every_record_and_nothing_else(
    real_redis: RealRedis, records: VectorRecords
) -> None:
    """Among entries, leases, other namespaces and names that are like a record's."""
    keys = [random.Random(n).randbytes(32) for n in range(3000)]
    fill(real_redis, (name_of(key) for key in keys))
    fill(real_redis, (name_of(key, kind) for key in keys[:500] for kind in "ela"))
    fill(real_redis, (name_of(key, "v", "testy") for key in keys[:100]))
    fill(
        real_redis,
        [
            *("test:v:", "test:v:garbage", name_of(keys[0]) + "00 ", name_of(keys[0]) + ":x"),
            *("x" + name_of(keys[0]), name_of(b"\xab" * 32).upper().replace("TEST:V", "test:v")),
        ],
    )

    found, steps = await scanned(records, 500)

    assert set(found) == set(keys)
    assert steps > 3
    assert set((await scanned(records, 7))[0]) == set(keys)
    assert (await records.scan(0, 100_000))[0] == 0


@pytest.mark.parametrize("namespace", ["t*", "t?st", "[a-z]est", "te\\st", "t]", "t^-x", "*"])
async def test_namespace_is_taken_literally(
    real_redis: RealRedis, link: RedisLink, namespace: str
) -> None:
    """Redis' patterns have signs of their own; a neighbour's records are not ours."""
    fill(real_redis, [name_of(a_key(1), "v", namespace), name_of(a_key(2), "v", "test")])
    fill(real_redis, [name_of(a_key(3), "v", "t")])

    assert (await scanned(VectorRecords(link, namespace), 100))[0] == [a_key(1)]


async def test_scan_of_an_empty_redis_is_over_at_once(
    real_redis: RealRedis, records: VectorRecords
) -> None:
    """And finds nothing."""
    assert await records.scan(0) == (0, [])


async def test_refusals_come_through(
    real_redis: RealRedis, link: RedisLink, records: VectorRecords
) -> None:
    """A full Redis, missing rights: it is the caller who makes something of them."""
    await store(link, a_key(1))
    with real_redis.client() as other:
        other.config_set("maxmemory", "1")
        try:
            with pytest.raises(StoreRefused) as caught:
                await records.keep_vector(a_key(1), PARTITION, OTHER_ENCODER, VECTOR)
            assert caught.value.code == "OOM"
            other.delete(name_of(a_key(1), "e"))
            await records.forget_gone([a_key(1)])
            assert not other.exists(name_of(a_key(1))), "what frees memory is never refused"
        finally:
            other.config_set("maxmemory", "0")
        other.execute_command("ACL", "SETUSER", "default", "-hmget", "-scan")
        try:
            with pytest.raises(StoreRefused, match="NOPERM"):
                await records.read([a_key(1)], ENCODER)
            with pytest.raises(StoreRefused, match="NOPERM"):
                await records.scan(0)
        finally:
            other.execute_command("ACL", "SETUSER", "default", "+hmget", "+scan")


Ask = Callable[[VectorRecords], Awaitable[object]]


@pytest.mark.parametrize(
    ("ask", "reply"),
    [
        (lambda records: records.read([a_key(1)], ENCODER), b"*1\r\n$1\r\na\r\n"),
        (lambda records: records.read([a_key(1)], ENCODER), b"*2\r\n:1\r\n_\r\n"),
        (lambda records: records.read([a_key(1)], ENCODER), b"*2\r\n$1\r\na\r\n:1\r\n"),
        (lambda records: records.read([a_key(1)], ENCODER), b"$1\r\na\r\n"),
        (lambda records: records.keep_vector(a_key(1), PARTITION, ENCODER, VECTOR), b"_\r\n"),
        (lambda records: records.forget_gone([a_key(1)]), b"_\r\n"),
        (lambda records: records.scan(0), b"*2\r\n$1\r\nx\r\n*0\r\n"),
        (lambda records: records.scan(0), b"*0\r\n"),
    ],
)
async def test_replies_of_the_wrong_kind_are_not_used_and_end_the_connection(
    relay: Relay, relayed: RedisLink, ask: Ask, reply: bytes
) -> None:
    """Garbage, or another command's reply."""
    relay.spoil = lambda piece: reply
    with pytest.raises(StoreUnavailable, match="wrong kind"):
        await ask(VectorRecords(relayed, "test"))
    assert not relayed.is_up
