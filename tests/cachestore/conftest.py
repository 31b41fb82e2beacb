"""Every asynchronous test of the stores runs on both event loops that we serve on."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping

import pytest
import pytest_asyncio
import uvloop

from cachestore.redis_link import RedisLink
from tests.cachestore.redis_rig import RealRedis, Relay, a_link


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Name the loops (a hook of pytest-asyncio)."""
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture(scope="session")
def shared_redis() -> Iterator[RealRedis]:
    """One Redis for all tests that do not hurt it."""
    server = RealRedis()
    yield server
    server.close()


@pytest.fixture
def real_redis(shared_redis: RealRedis) -> RealRedis:
    """The shared Redis, empty."""
    with shared_redis.client() as client:
        client.flushall()
        client.script_flush()
    return shared_redis


@pytest.fixture
def frail_redis() -> Iterator[RealRedis]:
    """A Redis of the test's own, to be stopped, killed and configured."""
    server = RealRedis()
    yield server
    server.close()


@pytest_asyncio.fixture
async def link(real_redis: RealRedis) -> AsyncIterator[RedisLink]:
    """A link that is up, patient enough for a machine that is busy."""
    link = a_link(real_redis.url, deadline_s=2.0)
    await link.start(5)
    assert link.is_up
    yield link
    await link.close()


@pytest_asyncio.fixture
async def relay(real_redis: RealRedis) -> AsyncIterator[Relay]:
    """A way to the shared Redis that can be spoilt."""
    relay = Relay(real_redis.socket_path)
    await relay.listen()
    yield relay
    await relay.close()
