"""Memory, then Redis; a fault of either is a miss."""

import asyncio

import orjson
import pytest

from cachestore.entry import StoredResponse
from cachestore.errors import StoreError, StoreRefused, StoreUnavailable
from cachestore.leases import Held, Lease, Leases, lease_key
from cachestore.memory_store import MemoryStore
from cachestore.redis_store import RedisStore
from cachestore.vector_record import Meaning
from proxy.lookup.answers import StoredAnswer
from proxy.lookup.tiers import Tiers
from proxy.wire.endpoint import Endpoint, Form
from proxy.wire.recording import Recording
from tests.proxy.fakes import Clock, FakeLink, FakeRedis, settle

pytestmark = pytest.mark.virtual_time

KEY = b"k" * 32
OTHER_KEY = b"o" * 32


class Observer:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.lookups: list[str] = []
        self.failures: list[tuple[str, type[StoreError]]] = []
        self.held = (0, 0)
        self.evictions: list[str] = []

    def looked_up(self, tier: str, seconds: float) -> None:
        """Note a look-up."""
        assert 0 <= seconds < 60
        self.lookups.append(tier)

    def store_failed(self, operation: str, error: StoreError) -> None:
        """Note a fault."""
        self.failures.append((operation, type(error)))

    def memory_holds(self, held_bytes: int, entries: int) -> None:
        """Note what memory holds."""
        self.held = held_bytes, entries

    def evicted(self, cause: str) -> None:
        """Note that an entry had to go."""
        self.evictions.append(cause)


class Rig:
    """Tiers over a fake Redis."""

    def __init__(self, redis: FakeRedis | None = None, l1_bytes: int = 1_000_000) -> None:
        self.clock = Clock()
        self.redis = redis or FakeRedis()
        self.memory = MemoryStore[StoredAnswer](l1_bytes)
        self.observer = Observer()
        link = FakeLink(self.redis)
        self.leases = Leases(link, "test", b"me", 6.0)
        store = RedisStore(link, "test", 10_000, 100_000, clock=self.clock)
        self.store = store
        self.tiers = Tiers(self.memory, store, self.leases, self.observer)

    def answer(self, key: bytes = KEY) -> StoredAnswer:
        """Return an answer to be stored."""
        return StoredAnswer(
            key=key,
            stored_at=self.clock.now,
            lifetime_s=60.0,
            keep_s=0.0,
            initial_age_s=0.0,
            endpoint=Endpoint.CHAT,
            recording=Recording(Form.JSON, b'{"choices": []}', b"", 1, 2),
            headers=((b"content-type", b"application/json"),),
            vary=(),
            upstream_s=0.5,
        )


async def test_answer_stored_by_one_worker_is_found_by_another() -> None:
    """Redis is the truth; what it gives is kept in memory."""
    one = Rig()
    other = Rig(one.redis)

    assert await one.tiers.store(one.answer(), None)
    found = await other.tiers.fetch(KEY)

    assert found == one.answer()
    assert other.tiers.peek(KEY) is found
    assert other.observer.lookups == ["redis"]
    assert other.observer.held[1] == 1
    assert one.tiers.peek(KEY) is None, "only keep() fills one's own memory"


async def test_unknown_key_is_a_miss() -> None:
    """And a look-up that is counted."""
    rig = Rig()

    assert rig.tiers.peek(KEY) is None
    assert await rig.tiers.fetch(KEY) is None
    assert await rig.tiers.fetch_many([KEY, OTHER_KEY]) == {KEY: None, OTHER_KEY: None}
    assert rig.observer.lookups == ["redis", "redis"]


@pytest.mark.parametrize(("fault", "kind"), [("down", StoreUnavailable), ("refused", StoreRefused)])
async def test_fault_of_redis_is_a_miss_and_is_counted(fault: str, kind: type[StoreError]) -> None:
    """Promise 10: no request fails because of Redis."""
    rig = Rig()
    if fault == "down":
        rig.redis.is_down = True
    else:
        rig.redis.refusals = dict.fromkeys(("GET", "MGET", "SET", "EVALSHA", "EVAL"), "NOPERM")
    lease = rig.leases.draft(KEY)

    assert await rig.tiers.fetch(KEY) is None
    assert await rig.tiers.fetch_many([KEY]) == {}, "not that there is none: nobody knows"
    assert await rig.tiers.fetch_or_lease(KEY) is None
    assert await rig.tiers.store(rig.answer(), None), "it is in memory, and that counts"
    await rig.tiers.release(lease)

    operations = ["get", "get", "get", "put", "lease"]
    assert rig.observer.failures == [(operation, kind) for operation in operations]
    assert rig.observer.lookups == []


async def test_entry_with_a_sound_checksum_but_no_sense_is_a_miss() -> None:
    """Who may write to the store can make a right checksum (promise 18)."""
    for head in (b"", b"[]", b"{}", b"null", b'{"usage_bytes": "many"}', _head(headers=[[1, 2]])):
        rig = Rig()
        entry = StoredResponse(KEY, rig.clock.now, 60.0, 0.0, head, b"body")
        await rig.store.put(entry)

        assert await rig.tiers.fetch(KEY) is None, head
        assert await rig.tiers.fetch_many([KEY]) == {KEY: None}, head
        assert await rig.tiers.fetch_or_lease(KEY) is None, head
        assert rig.tiers.peek(KEY) is None, head


def _head(**changed: object) -> bytes:
    return orjson.dumps(
        {
            "endpoint": "chat",
            "form": "json",
            "usage_bytes": 0,
            "prompt_tokens": 0,
            "completion_tokens": 0,
            "headers": [],
            "vary": [],
            "upstream_s": 0.0,
            **changed,
        }
    )


async def test_batch_asks_redis_only_for_what_memory_lacks_and_once() -> None:
    """One MGET for all that is missing, repeated keys left out."""
    rig = Rig()
    rig.tiers.keep(rig.answer())
    await rig.tiers.store(rig.answer(OTHER_KEY), None)
    rig.redis.commands.clear()

    found = await rig.tiers.fetch_many([KEY, OTHER_KEY, OTHER_KEY])

    assert found == {KEY: rig.answer(), OTHER_KEY: rig.answer(OTHER_KEY)}
    assert rig.redis.commands == ["MGET"]
    assert rig.tiers.peek(OTHER_KEY) is not None
    assert await rig.tiers.fetch_many([KEY, OTHER_KEY]) == found
    assert rig.redis.commands == ["MGET"], "all of it is in memory now"


async def test_look_up_takes_the_lease_where_nothing_is_stored() -> None:
    """One trip instead of two on every miss; the second who asks is told who has it."""
    one = Rig()
    other = Rig(one.redis)

    mine = await one.tiers.fetch_or_lease(KEY)
    held = await other.tiers.fetch_or_lease(KEY)

    assert isinstance(mine, Lease)
    assert isinstance(held, Held)
    assert held.lease.token == mine.token
    assert await one.tiers.store(one.answer(), mine)
    assert await other.tiers.fetch_or_lease(KEY) == one.answer()
    assert not one.redis.names("l"), "storing gives the lease back"


async def test_look_up_that_is_cancelled_gives_its_lease_back() -> None:
    """The command is on its way, and may be granted to nobody."""
    rig = Rig()
    rig.redis.hold()
    asking = asyncio.ensure_future(rig.tiers.fetch_or_lease(KEY))
    await settle()
    assert rig.redis.names("l")

    asking.cancel()
    await settle()
    rig.redis.let_go()
    await settle()

    assert not rig.redis.names("l")
    assert len(asyncio.all_tasks()) == 1


async def test_lease_that_passed_to_another_keeps_an_answer_out() -> None:
    """The fencing token: neither Redis nor this worker's memory holds it."""
    rig = Rig()
    lease = await rig.tiers.fetch_or_lease(KEY)
    assert isinstance(lease, Lease)
    rig.redis.values[lease_key("test", KEY)] = b"another:1"
    rig.tiers.keep(rig.answer())

    assert not await rig.tiers.store(rig.answer(), lease)

    assert rig.tiers.peek(KEY) is None
    assert not rig.redis.names("e")


async def test_released_lease_is_free_for_the_next() -> None:
    """But nobody else's lease is released by that."""
    rig = Rig()
    lease = await rig.tiers.fetch_or_lease(KEY)
    assert isinstance(lease, Lease)
    await rig.tiers.release(rig.leases.draft(KEY))
    assert rig.redis.names("l")

    rig.tiers.release_soon(lease)
    await settle()

    assert not rig.redis.names("l")


async def test_invalidation_drops_what_another_changed() -> None:
    """Issue §3: invalidation reaches the other workers' memory."""
    rig = Rig()
    rig.tiers.keep(rig.answer())
    rig.tiers.keep(rig.answer(OTHER_KEY))

    rig.tiers.invalidate([KEY, b"u" * 32])

    assert rig.tiers.peek(KEY) is None
    assert rig.tiers.peek(OTHER_KEY) is not None
    assert rig.observer.evictions == ["invalidated"], "an unknown key is none of ours"
    assert rig.observer.held[1] == 1


async def test_all_goes_when_it_is_unknown_what_was_missed() -> None:
    """After a reconnect."""
    rig = Rig()
    rig.tiers.keep(rig.answer())

    rig.tiers.invalidate(None)

    assert rig.tiers.peek(KEY) is None
    assert rig.observer.held == (0, 0)


async def test_invalidation_that_follows_the_reply_finds_the_answer_in_memory() -> None:
    """Between the reply and keep() there is no await; else a changed entry would stay for good."""
    rig = Rig()
    await rig.tiers.store(rig.answer(), None)
    rig.redis.hold()
    fetching = asyncio.ensure_future(rig.tiers.fetch(KEY))
    await settle()

    rig.redis.let_go()
    # What the link does with a push that came in the same packet.
    asyncio.get_running_loop().call_soon(rig.tiers.invalidate, [KEY])
    await fetching
    await settle()

    assert rig.tiers.peek(KEY) is None


async def test_rendered_form_counts_towards_the_memory_it_takes() -> None:
    """L1 is bounded in bytes, those of forms rendered later included."""
    rig = Rig()
    answer = rig.answer()
    rig.tiers.keep(answer)
    before = rig.memory.bytes
    bare_bytes = answer.size_bytes

    first = rig.tiers.template(answer, Form.JSON, False)
    rig.tiers.template(answer, Form.SSE, False)

    assert first is not None
    assert answer.size_bytes > bare_bytes
    assert rig.memory.bytes - before == answer.size_bytes - bare_bytes
    assert rig.tiers.template(answer, Form.JSON, False) is first


async def test_rendering_does_not_bring_back_what_was_dropped() -> None:
    """An answer that is just being replayed may have been invalidated meanwhile."""
    rig = Rig()
    answer = rig.answer()
    rig.tiers.keep(answer)
    rig.tiers.invalidate([KEY])

    rig.tiers.template(answer, Form.SSE, False)

    assert rig.tiers.peek(KEY) is None


# Aliases: another question's key, behind which the same answer lies.

ALIAS_KEY = b"a" * 32


async def aliased(rig: Rig) -> StoredAnswer:
    """Store an answer that is found under a second key as well."""
    answer = rig.answer()
    assert await rig.tiers.store(answer, None)
    await rig.tiers.alias(ALIAS_KEY, answer, None)
    return answer


async def test_answer_is_found_under_its_alias_on_every_worker() -> None:
    """The same words hit exactly next time; its own key is what the answer still has."""
    one = Rig()
    other = Rig(one.redis)
    answer = await aliased(one)

    found = await other.tiers.fetch(ALIAS_KEY, follows_aliases=True)

    assert found == answer
    assert other.tiers.peek(ALIAS_KEY) is found
    assert other.tiers.peek(KEY) is found, "it is held once"
    assert other.observer.held[1] == 1


async def test_look_up_for_a_lease_finds_an_alias_too() -> None:
    """And takes no lease then."""
    one = Rig()
    other = Rig(one.redis)
    answer = await aliased(one)

    assert await other.tiers.fetch_or_lease(ALIAS_KEY, follows_aliases=True) == answer

    assert other.tiers.peek(ALIAS_KEY) == answer
    assert not one.redis.names("l")


async def test_alias_is_not_followed_by_who_must_not() -> None:
    """A route in `shadow` or `off` is answered by its own words' answer alone."""
    rig = Rig()
    await aliased(rig)

    assert await rig.tiers.fetch(ALIAS_KEY) is None
    assert isinstance(await rig.tiers.fetch_or_lease(ALIAS_KEY), Lease)


async def test_worker_that_made_an_alias_knows_it_at_once() -> None:
    """Before any look-up in Redis."""
    rig = Rig()
    answer = await aliased(rig)
    assert rig.tiers.peek(ALIAS_KEY) is None, "what it leads to is not in memory yet"

    rig.tiers.keep(answer)

    assert rig.tiers.peek(ALIAS_KEY) is answer


async def test_an_answer_of_its_own_comes_before_an_alias() -> None:
    """Fetched anew at someone's wish: it is the answer to these very words."""
    rig = Rig()
    rig.tiers.keep(await aliased(rig))
    own = rig.answer(ALIAS_KEY)

    rig.tiers.keep(own)

    assert rig.tiers.peek(ALIAS_KEY) is own


@pytest.mark.parametrize("told", [KEY, ALIAS_KEY])
async def test_invalidation_of_an_alias_or_of_what_it_leads_to_ends_the_alias(told: bytes) -> None:
    """An alias dies with its entry, in memory too."""
    rig = Rig()
    rig.tiers.keep(await aliased(rig))

    rig.tiers.invalidate([told])

    assert rig.tiers.peek(ALIAS_KEY) is None
    assert (rig.tiers.peek(KEY) is None) == (told == KEY)
    assert rig.observer.evictions == ["invalidated"] * (told == KEY)


async def test_aliases_go_too_when_it_is_unknown_what_was_missed() -> None:
    """After a reconnect: which answer a question has may have changed meanwhile."""
    rig = Rig()
    answer = await aliased(rig)

    rig.tiers.invalidate(None)
    rig.tiers.keep(answer)

    assert rig.tiers.peek(ALIAS_KEY) is None


async def test_alias_of_what_is_gone_leads_nowhere() -> None:
    """And the next who asks is free to fetch."""
    rig = Rig()
    await aliased(rig)
    (entry,) = rig.redis.names("e")
    del rig.redis.values[entry]

    assert await rig.tiers.fetch(ALIAS_KEY, follows_aliases=True) is None

    assert not rig.redis.names("a")


async def test_alias_gives_its_lease_back_in_the_same_step() -> None:
    """Who waits for it elsewhere finds the alias, or the lease free."""
    rig = Rig()
    answer = rig.answer()
    await rig.tiers.store(answer, None)
    lease = await rig.tiers.fetch_or_lease(ALIAS_KEY)
    assert isinstance(lease, Lease)

    await rig.tiers.alias(ALIAS_KEY, answer, lease)

    assert not rig.redis.names("l")
    assert rig.redis.keys("a") == [ALIAS_KEY]


@pytest.mark.parametrize(("fault", "kind"), [("down", StoreUnavailable), ("refused", StoreRefused)])
async def test_alias_that_redis_does_not_take_is_counted(
    fault: str, kind: type[StoreError]
) -> None:
    """No request fails of it; this worker still knows it."""
    rig = Rig()
    answer = rig.answer()
    rig.tiers.keep(answer)
    await rig.tiers.store(answer, None)
    if fault == "down":
        rig.redis.is_down = True
    else:
        rig.redis.refusals["SET"] = "OOM"

    await rig.tiers.alias(ALIAS_KEY, answer, None)

    assert rig.observer.failures == [("put", kind)]
    assert rig.tiers.peek(ALIAS_KEY) is answer
    assert not rig.redis.names("a")


async def test_meaning_is_stored_with_its_answer() -> None:
    """In one step; without one nothing is written beside the answer."""
    rig = Rig()

    await rig.tiers.store(rig.answer(OTHER_KEY), None)
    assert not rig.redis.names("v")
    await rig.tiers.store(rig.answer(), None, Meaning(b"p" * 32, "How many?"))

    assert rig.redis.keys("v") == [KEY]
    assert b"How many?" in rig.redis.values[rig.redis.names("v")[0]]


async def test_key_that_gets_an_answer_of_its_own_is_no_alias_any_more() -> None:
    """Should memory lose that answer, the one to other words must not come back."""
    rig = Rig()
    other = rig.answer(OTHER_KEY)
    rig.tiers.keep(other)
    await rig.tiers.store(other, None)
    await rig.tiers.alias(KEY, other, None)
    assert rig.tiers.peek(KEY) is other

    rig.tiers.keep(rig.answer())
    rig.memory.drop(KEY)

    assert rig.tiers.peek(KEY) is None
