"""Commands to a Redis Cluster, or to a single Redis, each sent to the node that holds its key.

For what lies spread over a cluster and is not asked on every request; a worker's own way to Redis
is `redis_link`. Where slots lie, and what to do when they move, is redis-py's affair.

As with that link nobody waits for a connect: while there is no connection every command fails at
once. After a fault the connections are given up altogether and made anew in the background, from
whichever node answers, so that no late reply is ever taken for another command's.
"""

import asyncio
import logging
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AskError,
    ClusterDownError,
    RedisClusterException,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import TimeoutError as RedisTimeoutError

from cachestore.errors import StoreError, StoreRefused, StoreUnavailable
from cachestore.keeper import Keeper
from cachestore.redis_url import RedisAddress

logger = logging.getLogger("recollect.redis")

Argument = bytes | str | int | float
Node = tuple[str, int]

# TLS and learning what commands a server has take longer than a command does.
_HANDSHAKE_MIN_S = 1.0
# Each holds a connection to each node it asks.
_RUNS_AT_ONCE = 16
_ERROR_CODE = re.compile(r"[A-Z][A-Z0-9_]{0,31}\b")
# Told by a node whose slots are just then served by nobody, or by another.
_ELSEWHERE = (AskError, ClusterDownError, TryAgainError)
_FAULTS = (OSError, RedisError, RedisClusterException)


class ClusterLink:
    """Connections to all nodes, kept up in the background."""

    def __init__(self, url: str, *, deadline_s: float, ca_file: Path | None = None) -> None:
        """Prepare; `start` begins connecting.

        Args:
            url: Any node's, see `redis_url`; unix:// only for a single Redis.
            deadline_s: The longest that the commands of one `run` take together, above 0.
            ca_file: Whom to trust for rediss:// instead of the system's CAs.

        Raises:
            ValueError: The URL cannot be used.
        """
        self._address = RedisAddress.parse(url)
        self._deadline_s = deadline_s
        self._handshake_s = max(_HANDSHAKE_MIN_S, deadline_s)
        self._options: dict[str, Any] = {
            "username": self._address.user or None,
            "password": self._address.password or None,
            "protocol": 3,
            "socket_timeout": deadline_s,
            "socket_connect_timeout": self._handshake_s,
            # Whoever asks decides whether it is worth another try.
            "retry": Retry(NoBackoff(), 0),
        }
        if self._address.is_tls:
            self._options |= {"ssl": True, "ssl_ca_certs": ca_file and str(ca_file)}
        self._known_nodes: list[Node] = []
        self._turns = asyncio.Semaphore(_RUNS_AT_ONCE)
        self._client: Redis | RedisCluster | None = None
        self._was_given_up = asyncio.Event()
        self._keeper = Keeper("redis cluster link", self._hold)

    @property
    def is_up(self) -> bool:
        """Whether commands are sent now."""
        return self._client is not None

    async def start(self, wait_s: float) -> None:
        """Begin connecting in the background; wait for it, but not for long.

        Never fails because Redis is down: the link comes up when Redis does.
        """
        await self._keeper.start(wait_s)

    async def close(self) -> None:
        """End all connections; later commands fail."""
        await self._keeper.close()

    async def execute(self, *args: Argument) -> Any:
        """Send one command and return its reply as RESP3 has it.

        Raises:
            StoreUnavailable: Not reached within the deadline; it may have been done all the same.
            StoreRefused: Redis answered with an error.
        """
        [reply] = await self.run([args])
        if isinstance(reply, StoreError):
            raise reply
        return reply

    async def run(self, commands: Sequence[Sequence[Argument]]) -> list[Any]:
        """Send commands, those of one node together and to all nodes at once.

        Args:
            commands: Each with its name and, unless it has none, its keys, all in one slot.
                In no order between nodes.

        Returns:
            The replies in the order of the commands, a StoreUnavailable or StoreRefused in the
            place of each that failed; see `execute`.
        """
        client = None
        try:
            async with asyncio.timeout(self._deadline_s), self._turns:
                client = self._client
                if client is None:
                    return [StoreUnavailable(self._keeper.down_reason) for _ in commands]
                pipeline = (
                    client.pipeline()
                    if isinstance(client, RedisCluster)
                    else client.pipeline(transaction=False)
                )
                for command in commands:
                    pipeline.execute_command(*command)
                replies = await pipeline.execute(raise_on_error=False)
        except _FAULTS as error:
            fault = self._give_up(client, self._reason(error, self._deadline_s))
            return [fault for _ in commands]
        return [self._judged(client, reply) for reply in replies]

    def _judged(self, client: Redis | RedisCluster | None, reply: Any) -> Any:
        """Return a reply as it is, and an error as one of ours."""
        if not isinstance(reply, Exception):
            return reply
        if isinstance(reply, ResponseError) and not isinstance(reply, _ELSEWHERE):
            return StoreRefused(_code(reply))
        return self._give_up(client, self._reason(reply, self._deadline_s))

    def _give_up(self, client: Redis | RedisCluster | None, reason: str) -> StoreUnavailable:
        """Have the keeper connect anew, unless it does already; `client`: whose fault it was."""
        if client is not None and self._client is client:
            self._client = None
            self._keeper.went_down(reason)
            self._was_given_up.set()
        return StoreUnavailable(reason)

    async def _hold(self) -> None:
        """Connect, and wait for a fault."""
        self._was_given_up.clear()
        try:
            client = await self._connected()
        except (*_FAULTS, StoreError) as error:
            self._keeper.went_down(self._reason(error, self._handshake_s))
            return
        self._client = client
        self._keeper.came_up()
        try:
            await self._was_given_up.wait()
        finally:
            self._client = None
            # redis-py says so if a connection does not end in time; it is given up all the same.
            with suppress(*_FAULTS):
                await client.aclose()

    async def _connected(self) -> Redis | RedisCluster:
        """Return a client that has just answered, through the first node that lets it."""
        own = (self._address.host, self._address.port)
        nodes = [own, *(node for node in self._known_nodes if node != own)]
        for node in nodes[:-1]:
            try:
                return await self._connected_to(*node)
            except (*_FAULTS, StoreError) as error:
                logger.info("one node of Redis: %s", self._reason(error, self._handshake_s))
        return await self._connected_to(*nodes[-1])

    async def _connected_to(self, host: str, port: int) -> Redis | RedisCluster:
        async with asyncio.timeout(self._handshake_s):
            where: dict[str, Any] = (
                {"unix_socket_path": self._address.socket_path}
                if self._address.socket_path
                else {"host": host, "port": port}
            )
            single = Redis(**where, db=self._address.database, **self._options)
            try:
                if not (await single.info("cluster"))["cluster_enabled"]:
                    single.response_callbacks.clear()
                    return single
                info = await single.execute_command("CLUSTER INFO")  # type: ignore[no-untyped-call]
            except BaseException:
                await single.aclose()
                raise
            await single.aclose()
            if info["cluster_state"] != "ok":
                raise StoreUnavailable("the cluster does not serve all of its slots")
            cluster = RedisCluster(host=host, port=port, reinitialize_steps=0, **self._options)
            try:
                await cluster.initialize()
            except BaseException:
                await cluster.aclose()
                raise
            self._known_nodes = [(node.host, int(node.port)) for node in cluster.get_nodes()]
            # What redis-py makes of replies differs between its versions.
            cluster.response_callbacks.clear()
            return cluster

    @staticmethod
    def _reason(error: BaseException, deadline_s: float) -> str:
        """Say what went wrong; neither an address nor what was sent is repeated."""
        if isinstance(error, StoreError):
            return str(error)
        if isinstance(error, TimeoutError | RedisTimeoutError):
            return f"no answer within {deadline_s:g} s"
        return type(error).__name__


def _code(error: ResponseError) -> str:
    if error.status_code:
        return error.status_code
    found = _ERROR_CODE.match(str(error))
    return found[0] if found else "ERR"
