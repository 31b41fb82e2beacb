"""The link to a Redis Cluster, against a real one of three masters; and to a single Redis."""

import asyncio
import contextlib
import ssl
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from redis.asyncio import RedisCluster
from redis.exceptions import TimeoutError as RedisTimeoutError

from cachestore.errors import StoreError, StoreRefused, StoreUnavailable
from cachestore.redis_cluster import ClusterLink
from tests.cachestore.redis_rig import RealRedis, Relay, until
from tests.support.redis8_cluster import Redis8Cluster, Redis8Node

DEADLINE_S = 0.5


@contextlib.asynccontextmanager
async def linked(
    url: str, *, deadline_s: float = DEADLINE_S, ca_file: Path | None = None, wait_s: float = 5
) -> AsyncIterator[ClusterLink]:
    """A started link that ends with the test."""
    link = ClusterLink(url, deadline_s=deadline_s, ca_file=ca_file)
    await link.start(wait_s)
    try:
        yield link
    finally:
        await link.close()


@pytest_asyncio.fixture
async def link(redis8_cluster: Redis8Cluster) -> AsyncIterator[ClusterLink]:
    """A link that is up, to an empty cluster."""
    redis8_cluster.flush()
    async with linked(redis8_cluster.url) as link:
        assert link.is_up
        yield link


async def test_each_command_goes_to_the_node_of_its_key(
    link: ClusterLink, redis8_cluster: Redis8Cluster
) -> None:
    """Commands to all nodes may stand in one call; replies come in the commands' order."""
    await link.run([("SET", f"key{number}", number) for number in range(60)])

    replies = await link.run([("GET", f"key{number}") for number in range(60)])

    assert replies == [b"%d" % number for number in range(60)]
    sizes = []
    for node in redis8_cluster.nodes:
        with node.client() as client:
            sizes.append(client.dbsize())
    assert sum(sizes) == 60
    assert min(sizes) > 0


async def test_replies_are_what_redis_says(link: ClusterLink) -> None:
    """RESP3's own types, not what redis-py makes of them."""
    replies = await link.run(
        [
            ("SET", "a", b"\x00\xff"),
            ("GET", "a"),
            ("GET", "none"),
            ("HSET", "h", "field", 1.5),
            ("HGETALL", "h"),
            ("ZADD", "z", 2.5, "m"),
            ("ZSCORE", "z", "m"),
            ("HSCAN", "h", 0),
        ]
    )

    assert replies == [
        *(b"OK", b"\x00\xff", None, 1, {b"field": b"1.5"}, 1, 2.5),
        [b"0", [b"field", b"1.5"]],
    ]
    assert await link.execute("COMMAND", "INFO", "NOSUCHCOMMAND") == [None]


async def test_a_refused_command_does_not_spoil_the_others(link: ClusterLink) -> None:
    """Only the error's code is kept: what stands behind it may repeat the command."""
    await link.run([("SET", "text", "secret")])

    replies = await link.run([("HGET", "text", "f"), ("GET", "text"), ("SET", "text")])

    assert isinstance(replies[0], StoreRefused)
    assert (replies[0].code, replies[1]) == ("WRONGTYPE", b"secret")
    assert isinstance(replies[2], StoreRefused)
    with pytest.raises(StoreRefused, match=r"^refused: WRONGTYPE$"):
        await link.execute("HGET", "text", "f")
    assert link.is_up


async def test_no_commands_are_no_error(link: ClusterLink) -> None:
    """Nothing is sent."""
    assert await link.run([]) == []


async def test_slots_that_move_are_followed(own_redis8_cluster: Redis8Cluster) -> None:
    """While a slot moves its keys are asked for at both ends (ASK), afterwards at the new (MOVED).

    See the specification of Redis Cluster, "Redirection and resharding".
    """
    cluster = own_redis8_cluster
    async with linked(cluster.url) as link:
        await link.run([("SET", "{a}moved", "1"), ("SET", "{a}stays", "2")])
        source = cluster.node_of("{a}")
        target = next(node for node in cluster.nodes if node is not source)
        with source.client() as at_source, target.client() as at_target:
            slot = at_source.execute_command("CLUSTER KEYSLOT", "{a}")
            source_id = at_source.execute_command("CLUSTER MYID")
            target_id = at_target.execute_command("CLUSTER MYID")
            at_target.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", source_id)
            at_source.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", target_id)
            at_source.execute_command("MIGRATE", "127.0.0.1", target.port, "{a}moved", 0, 1000)

            assert await link.run([("GET", "{a}moved"), ("GET", "{a}stays")]) == [b"1", b"2"]

            at_source.execute_command("MIGRATE", "127.0.0.1", target.port, "{a}stays", 0, 1000)
            for client in (at_target, at_source):
                client.execute_command("CLUSTER SETSLOT", slot, "NODE", target_id)

        for _ in range(20):
            assert await link.run([("GET", "{a}moved"), ("GET", "{a}stays")]) == [b"1", b"2"]
        assert link.is_up


async def test_a_killed_node_fails_commands_at_once_until_it_is_back(
    own_redis8_cluster: Redis8Cluster,
) -> None:
    """Nobody waits for a connect; in the background it is tried again and again."""
    cluster = own_redis8_cluster
    async with linked(cluster.url) as link:
        gone = cluster.node_of("key")
        await link.execute("SET", "key", "1")
        running = [asyncio.create_task(link.execute("GET", "key")) for _ in range(50)]
        gone.kill()
        await asyncio.wait(running)
        assert all(
            task.exception() is None or isinstance(task.exception(), StoreError) for task in running
        )

        began_at = time.monotonic()
        with pytest.raises(StoreUnavailable):
            await link.execute("GET", "key")
        assert time.monotonic() - began_at < 2 * DEADLINE_S

        gone.start()
        cluster.wait_until_whole()
        await until(lambda: link.is_up)
        assert await link.execute("GET", "key") is None


async def test_connections_that_do_not_end_in_time_are_made_anew_all_the_same(
    redis8_cluster: Redis8Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """redis-py raises if closing takes too long; a loop that stands still is enough for that."""

    close = RedisCluster.aclose

    async def aclose(client: RedisCluster) -> None:
        closing.append(True)
        await close(client)
        raise RedisTimeoutError("Timed out closing connection")

    closing: list[bool] = []
    async with linked(redis8_cluster.url) as link:
        await link.execute("SET", "slow to close", "1")
        monkeypatch.setattr(RedisCluster, "aclose", aclose)
        with pytest.raises(StoreUnavailable):
            await link.execute("BLPOP", "never there", 0)
        await until(lambda: bool(closing))
        monkeypatch.undo()

        await until(lambda: link.is_up)
        assert await link.execute("GET", "slow to close") == b"1"


async def test_a_node_that_hangs_costs_no_more_than_the_deadline(
    own_redis8_cluster: Redis8Cluster,
) -> None:
    """SIGSTOP: the connection stays, and nothing comes."""
    cluster = own_redis8_cluster
    async with linked(cluster.url) as link:
        hung = cluster.node_of("key")
        hung.suspend()
        try:
            began_at = time.monotonic()
            with pytest.raises(StoreUnavailable, match=r"no answer within 0\.5 s"):
                await link.execute("GET", "key")
            assert time.monotonic() - began_at < 2 * DEADLINE_S
        finally:
            hung.resume()

        await until(lambda: link.is_up)
        assert await link.execute("SET", "key", "1") == b"OK"


async def test_a_link_comes_up_through_any_node_it_has_known(
    own_redis8_cluster: Redis8Cluster,
) -> None:
    """The URL's node may be gone for good; it serves no slot here."""
    cluster = own_redis8_cluster
    extra = Redis8Node(is_in_cluster=True)
    try:
        with extra.client() as client:
            first = cluster.nodes[0]
            client.execute_command("CLUSTER MEET", "127.0.0.1", first.port, first.bus_port)
        async with linked(extra.url) as link:
            await until(lambda: link.is_up)
            extra.kill()
            hung = cluster.node_of("key")
            hung.suspend()
            with pytest.raises(StoreUnavailable):
                await link.execute("SET", "key", "1")
            hung.resume()

            await until(lambda: link.is_up)
            assert await link.execute("SET", "key", "1") == b"OK"
    finally:
        extra.close()


async def test_a_cancelled_caller_leaves_no_reply_to_the_next(link: ClusterLink) -> None:
    """A connection on which a reply is still to come is not used again."""
    await link.run([("SET", f"key{number}", number) for number in range(20)])
    for _ in range(20):
        caller = asyncio.create_task(link.run([("GET", "key1")] * 20))
        # Far enough for the commands to have been sent.
        for _ in range(4):
            await asyncio.sleep(0)
        caller.cancel()
        await asyncio.wait([caller])

        replies = await link.run([("GET", f"key{number}") for number in range(20)])
        assert replies == [b"%d" % number for number in range(20)]


async def test_many_callers_share_few_connections(
    link: ClusterLink, redis8_cluster: Redis8Cluster
) -> None:
    """More than redis-py's connections to a node are no fault of Redis'."""
    replies = await asyncio.gather(*(link.execute("INCR", "count") for _ in range(400)))

    assert sorted(replies) == list(range(1, 401))
    with redis8_cluster.node_of("count").client() as client:
        assert len(client.client_list()) < 30


async def test_a_single_redis_will_do() -> None:
    """Over a UNIX socket too, with a password and a database."""
    server = RealRedis("--requirepass", "sesame")
    try:
        for url in (
            f"redis://:sesame@127.0.0.1:{server.port}/3",
            f"unix://:sesame@{server.socket_path}?db=3",
        ):
            async with linked(url) as link:
                assert await link.run([("SET", "a", 1), ("GET", "a")]) == [b"OK", b"1"]
        with server.client(password="sesame", db=3) as client:
            assert client.get("a") == b"1"
    finally:
        server.close()


async def test_a_wrong_password_is_no_secret_spilt(caplog: pytest.LogCaptureFixture) -> None:
    """The link stays down and says why, without what it tried."""
    server = RealRedis("--requirepass", "sesame")
    try:
        url = f"redis://:mistyped@127.0.0.1:{server.port}"
        async with linked(url, wait_s=0) as link:
            await until(lambda: "AuthenticationError" in caplog.text)
            with pytest.raises(StoreUnavailable, match="AuthenticationError"):
                await link.execute("GET", "a")
        assert "mistyped" not in caplog.text
    finally:
        server.close()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and a certificate for localhost that signs itself."""
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"),
            *("-keyout", "key.pem", "-out", "cert.pem"),
        ],
        cwd=folder,
        check=True,
        capture_output=True,
    )
    return folder


async def test_tls_is_verified_against_the_ca_file(
    real_redis: RealRedis, certificates: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """rediss://: with the right CA it works, without it stays down."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates / "cert.pem", certificates / "key.pem")
    relay = Relay(real_redis.socket_path)
    await relay.listen(context)
    url = f"rediss://localhost:{relay.port}"

    async with linked(url, ca_file=certificates / "cert.pem") as link:
        assert await link.execute("SET", "a", 1) == b"OK"
    async with linked(url, wait_s=0) as link:
        await until(lambda: "Redis is down" in caplog.text)
        assert not link.is_up
    await relay.close()


async def test_a_closed_link_fails_at_once(redis8_cluster: Redis8Cluster) -> None:
    """And one that was never started."""
    link = ClusterLink(redis8_cluster.url, deadline_s=DEADLINE_S)
    with pytest.raises(StoreUnavailable, match="not started"):
        await link.execute("GET", "a")
    await link.start(5)
    await link.close()
    with pytest.raises(StoreUnavailable, match="closed"):
        await link.execute("GET", "a")
    never_started = ClusterLink(redis8_cluster.url, deadline_s=DEADLINE_S)
    await never_started.close()
