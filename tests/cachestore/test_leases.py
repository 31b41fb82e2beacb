"""Who may fetch an answer now: one, and for a while."""

import asyncio

import pytest

from cachestore.errors import StoreRefused
from cachestore.leases import Held, Leases
from cachestore.redis_link import RedisLink
from tests.cachestore.redis_rig import RealRedis, acquire

KEY = bytes(range(32))


async def test_of_many_who_ask_at_once_one_leads(link: RedisLink) -> None:
    """Across workers and hosts: 1,000 equal requests make one upstream call."""
    workers = [Leases(link, "test", b"w%d" % n, 10.0) for n in range(50)]

    got = await asyncio.gather(*(acquire(leases, KEY) for leases in workers))

    assert sum(lease is not None for lease in got) == 1


async def test_leases_of_different_keys_are_independent(link: RedisLink) -> None:
    """Each answer has its own."""
    leases = Leases(link, "test", b"me", 10.0)

    assert await acquire(leases, KEY) is not None
    assert await acquire(leases, bytes(32)) is not None


async def test_the_holder_is_named_while_the_lease_lasts(link: RedisLink) -> None:
    """Followers on another worker learn whom they wait for; owners may hold colons."""
    leases = Leases(link, "test", b"host:1234:abc", 10.0)
    assert await leases.held(KEY) is None
    lease = await acquire(leases, KEY)
    assert lease is not None

    assert await leases.held(KEY) == Held(lease)
    assert lease.owner == b"host:1234:abc"
    await leases.release(lease)
    assert await leases.held(KEY) is None


async def test_a_lease_ends_by_itself_and_lasts_when_renewed(link: RedisLink) -> None:
    """A leader that died holds nobody up for longer than the lease's time."""
    leases = Leases(link, "test", b"me", 0.3)
    lease = await acquire(leases, KEY)
    assert lease is not None
    for _ in range(4):
        await asyncio.sleep(0.1)
        assert await leases.renew(lease)
    assert await acquire(Leases(link, "test", b"other", 0.3), KEY) is None

    await asyncio.sleep(0.4)
    assert await acquire(Leases(link, "test", b"other", 0.3), KEY) is not None


async def test_a_lost_lease_can_be_neither_renewed_nor_released(link: RedisLink) -> None:
    """What another holds now is not ours to give back."""
    mine, others = Leases(link, "test", b"me", 0.05), Leases(link, "test", b"other", 10.0)
    lost = await acquire(mine, KEY)
    assert lost is not None
    await asyncio.sleep(0.1)
    assert not await mine.renew(lost)
    held = await acquire(others, KEY)
    assert held is not None

    assert not await mine.renew(lost)
    await mine.release(lost)
    assert await others.held(KEY) == Held(held)


async def test_no_token_is_given_out_twice(link: RedisLink) -> None:
    """The fencing token is what a late put is told apart by."""
    leases = Leases(link, "test", b"me", 10.0)
    tokens = set()
    for _ in range(10):
        lease = await acquire(leases, KEY)
        assert lease is not None
        tokens.add(lease.token)
        await leases.release(lease)

    assert len(tokens) == 10


async def test_a_value_of_another_type_in_a_leases_place_is_told(
    real_redis: RealRedis, link: RedisLink
) -> None:
    """Redis' refusals come through; the script's own text does not."""
    with real_redis.client() as other:
        other.lpush(f"test:l:{KEY.hex()}", "x")
    leases = Leases(link, "test", b"me", 10.0)

    assert await acquire(leases, KEY) is None
    with pytest.raises(StoreRefused, match="WRONGTYPE"):
        await leases.held(KEY)
