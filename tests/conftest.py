"""Fixtures that start real things; each test that needs one of its own starts it itself."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.support.fake_upstream import FakeUpstream
from tests.support.recollect_server import RecollectServer, StartRecollect
from tests.support.redis8_cluster import NoRedis8, Redis8Cluster, redis8_command
from tests.support.redis_fault import RedisFault
from tests.support.redis_server import RedisServer


@pytest.fixture(scope="session")
def upstream() -> Iterator[FakeUpstream]:
    """One fake upstream for the whole run: tests keep apart by their prompts."""
    server = FakeUpstream()
    yield server
    server.close()


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """One real Redis for tests that leave it as it was."""
    server = RedisServer()
    yield server
    server.close()


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    """A real Redis to be hurt."""
    server = RedisServer()
    yield server
    server.close()


@pytest.fixture
def redis_fault(own_redis: RedisServer) -> Iterator[RedisFault]:
    """A way to a real Redis that can be spoilt."""
    proxy = RedisFault(own_redis.port)
    yield proxy
    proxy.close()


@pytest.fixture(scope="session")
def _redis8() -> None:
    """Skip where there is no Redis 8 and none can be fetched."""
    try:
        redis8_command()
    except NoRedis8 as error:
        pytest.skip(f"without Redis 8 vector sets are not tested: {error}")


@pytest.fixture(scope="session")
def redis8_cluster(_redis8: None) -> Iterator[Redis8Cluster]:
    """One real cluster with vector sets for tests that keep to a namespace of their own."""
    cluster = Redis8Cluster()
    yield cluster
    cluster.close()


@pytest.fixture
def own_redis8_cluster(_redis8: None) -> Iterator[Redis8Cluster]:
    """A real cluster to be hurt."""
    cluster = Redis8Cluster()
    yield cluster
    cluster.close()


@pytest.fixture(scope="module")
def recollect(upstream: FakeUpstream, redis_server: RedisServer) -> Iterator[RecollectServer]:
    """One Recollect per module, with default settings."""
    server = RecollectServer(upstream.url, redis_server.url)
    yield server
    server.close()


@pytest.fixture
def start_recollect() -> Iterator[StartRecollect]:
    """Start servers that end with the test; arguments as `RecollectServer` takes them."""
    with ExitStack() as started:

        def start(*args: object, **kwargs: object) -> RecollectServer:
            server = RecollectServer(*args, **kwargs)  # type: ignore[arg-type]
            started.callback(server.close)
            return server

        yield start
