"""A connection's end, and what may still come after it."""

import asyncio
from typing import Any

import pytest

from cachestore.errors import StoreRefused, StoreUnavailable
from cachestore.redis_connection import RedisConnection


class Wire(asyncio.Transport):
    """A transport that only notes; events come when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = b""
        self.aborts = 0

    def write(self, data: Any) -> None:
        self.sent += bytes(data)

    def abort(self) -> None:
        self.aborts += 1


def connected(wire: Wire, ends: list[str]) -> RedisConnection:
    connection = RedisConnection(1.0, lambda push: None, ends.append)
    connection.connection_made(wire)
    return connection


async def test_a_connection_ends_once_and_refuses_what_comes_after() -> None:
    """Replies that were under way belong to nobody any more."""
    wire, ends = Wire(), list[str]()
    connection = connected(wire, ends)
    waiting = connection.execute((b"PING",))
    connection.end("first")
    connection.end("second")
    connection.data_received(b"+PONG\r\n")
    connection.connection_lost(None)
    await asyncio.sleep(0)

    with pytest.raises(StoreUnavailable, match="first"):
        await waiting
    with pytest.raises(StoreUnavailable, match="first"):
        await connection.execute((b"PING",))
    with pytest.raises(StoreUnavailable, match="first"):
        await connection.probe()
    assert (ends, wire.aborts, wire.sent) == (["first"], 1, b"")


async def test_a_connection_made_after_its_end_is_closed() -> None:
    """The time-out of the handshake may come between the two."""
    connection = RedisConnection(1.0, lambda push: None, lambda reason: None)
    connection.end("too late")
    wire = Wire()
    connection.connection_made(wire)

    assert wire.aborts == 1


async def test_who_is_told_of_the_end_hears_it_before_those_who_wait() -> None:
    """So that none of them tries again on a link that looks up."""
    order: list[str] = []
    connection = RedisConnection(1.0, lambda push: None, order.append)
    connection.connection_made(Wire())
    waiting = connection.execute((b"PING",))
    waiting.add_done_callback(lambda done: order.append("waiting"))
    connection.connection_lost(ConnectionResetError("reset"))
    await asyncio.sleep(0)

    assert order == ["connection lost: reset", "waiting"]
    with pytest.raises(StoreUnavailable):
        await waiting


async def test_a_cancelled_probe_says_nothing() -> None:
    """Its reply is thrown away, right or wrong."""
    ends = list[str]()
    connection = connected(Wire(), ends)
    probing = asyncio.create_task(connection.probe())
    await asyncio.sleep(0)
    probing.cancel()
    await asyncio.wait([probing])
    connection.data_received(b"+something else\r\n")
    await asyncio.sleep(0)

    assert ends == []


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        (b"-OOM command not allowed", "OOM"),
        (b"-ERR Error running script (call to f_1): @user_script:2: WRONGTYPE Op", "WRONGTYPE"),
        (b"-ERR Error running script: @user_script:1: @user_script: 1: -OOM com", "OOM"),
        (b"-ERR unknown command 'x' with args 'secret'", "ERR"),
        (b"-oh no", "ERR"),
        (b"-" + b"X" * 99, "X" * 32),
    ],
)
async def test_an_errors_code_is_all_that_is_kept(reply: bytes, code: str) -> None:
    """Redis 6 wraps what goes wrong in a script in an ERR."""
    connection = connected(Wire(), [])
    asked = connection.execute((b"GET", b"k"))
    connection.data_received(reply + b"\r\n")

    with pytest.raises(StoreRefused) as caught:
        await asked
    assert caught.value.code == code
    connection.end("done")
