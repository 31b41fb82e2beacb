"""One contract, every store: what `Store` promises, whatever lies behind it."""

from collections.abc import Callable

import pytest

from cachestore.entry import StoredResponse
from cachestore.memory_store import MemoryStore
from cachestore.redis_link import RedisLink
from cachestore.redis_store import RedisStore
from cachestore.store import Store

KEY = bytes(range(32))
OTHER_KEY = bytes(32)
MAX_ENTRY_BYTES = 1 << 17


class Clock:
    """Unix seconds that pass when the test says so; Redis' own clock does not."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["memory", "redis"])
def store(request: pytest.FixtureRequest, clock: Clock, link: RedisLink) -> Store:
    makers: dict[str, Callable[[], Store]] = {
        "memory": lambda: MemoryStore[StoredResponse](8 * MAX_ENTRY_BYTES + 4000, clock=clock),
        "redis": lambda: RedisStore(link, "test", 2048, MAX_ENTRY_BYTES, clock=clock),
    }
    return makers[request.param]()


def an_entry(clock: Clock, key: bytes = KEY, body: bytes = b"body") -> StoredResponse:
    return StoredResponse(key, clock.now, 60.0, 30.0, b"head", body, 5.0)


async def test_what_was_put_is_got_back_whole(store: Store, clock: Clock) -> None:
    """Every field, short or long."""
    short, long = an_entry(clock), an_entry(clock, OTHER_KEY, b"long " * 9000)
    await store.put(short)
    await store.put(long)

    assert await store.get(KEY) == short
    assert await store.get(OTHER_KEY) == long


async def test_what_was_never_put_is_none(store: Store) -> None:
    """Not found is no error."""
    assert await store.get(KEY) is None


async def test_a_later_put_takes_the_place_of_an_earlier(store: Store, clock: Clock) -> None:
    """One key, one answer."""
    await store.put(an_entry(clock, body=b"first"))
    await store.put(an_entry(clock, body=b"second"))

    found = await store.get(KEY)
    assert found is not None
    assert found.body == b"second"


async def test_delete_forgets_one_key_and_says_whether_it_was_there(
    store: Store, clock: Clock
) -> None:
    """Others stay."""
    await store.put(an_entry(clock))
    await store.put(an_entry(clock, OTHER_KEY))

    assert await store.delete(KEY)
    assert not await store.delete(KEY)
    assert await store.get(KEY) is None
    assert await store.get(OTHER_KEY) is not None


async def test_an_entry_is_got_stale_until_its_keep_time_is_over(
    store: Store, clock: Clock
) -> None:
    """Whether it may be served stale is the caller's decision (RFC 9111 §4.2.4)."""
    await store.put(an_entry(clock))

    clock.now += 84.9  # of 60 s lifetime and 30 s to be kept, 5 s old when stored
    assert await store.get(KEY) is not None
    clock.now += 0.1
    assert await store.get(KEY) is None


async def test_an_entry_past_its_keep_time_is_not_stored(store: Store, clock: Clock) -> None:
    """An answer may be that old when it comes (Age)."""
    entry = an_entry(clock)
    clock.now += 85.0
    await store.put(entry)
    clock.now -= 85.0

    assert await store.get(KEY) is None


async def test_an_entry_that_is_too_large_is_not_stored(store: Store, clock: Clock) -> None:
    """And that is no error."""
    await store.put(an_entry(clock, body=bytes(2 * MAX_ENTRY_BYTES)))

    assert await store.get(KEY) is None
