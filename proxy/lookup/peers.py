"""Flights watched across workers and hosts.

Who holds the lease on a key fetches its answer; the other workers follow that flight over Redis'
publish/subscribe. Each worker listens on one channel of its own. A follower sends `join`; the
leader answers with what has come so far, then with each piece as it comes, and in the end with
what became of it. `alive` fills the silence, so that a follower can tell a slow model from a dead
worker.

A message is one line of JSON, a line feed, and raw bytes. Nothing here must arrive: a lost message
shows as a gap in the numbering or as silence, and the follower then looks after itself.
"""

import asyncio
import itertools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, Protocol

import orjson

from cachestore.errors import StoreError
from proxy.lookup.answers import StoredAnswer
from proxy.lookup.flights import Flights
from proxy.lookup.single_flight import (
    Flight,
    FlightFailed,
    Head,
    Headers,
    Landed,
    Watcher,
)

_ACK_S: Final = 2.0
"""How long a leader may take to answer a `join` before it counts as gone."""
_ALIVE_EVERY_S: Final = 0.5
_SILENCE_S: Final = 2.5
"""How long a leader may say nothing before it counts as gone."""


_log = logging.getLogger("recollect.peers")


class Bus(Protocol):
    """The little of a Redis link that this needs."""

    def execute(self, *args: bytes | str | int) -> "asyncio.Future[Any]":
        """Send one command."""

    def subscribe(self, channel: bytes, on_message: Callable[[bytes], None]) -> None:
        """Call `on_message` with each message published on `channel`."""


class Followed(Enum):
    """How following another worker's flight ended."""

    STORED = "stored"
    """The answer came, and is in the store."""
    FOUND = "found"
    """It had come before it was asked for, and is in the store: a hit, just found late."""
    UNSTORABLE = "unstorable"
    """It was for the leader's client alone."""
    FAILED = "failed"
    """The leader could not get an answer."""
    GONE = "gone"
    """The leader's flight has landed already, or never was: worth another look."""
    SILENT = "silent"
    """The leader, or the way to it, is gone."""


@dataclass(frozen=True, slots=True)
class _Message:
    kind: str
    fields: dict[str, Any]
    content: bytes


class _Inbox:
    """What a leader has sent and the follower not yet taken; bounded, as nothing slows a leader."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._held_bytes = 0
        self._messages: asyncio.Queue[_Message] = asyncio.Queue()

    def put(self, message: _Message) -> None:
        # One that is left out shows as a gap in the numbering. A single one always has room.
        if self._held_bytes == 0 or self._held_bytes + len(message.content) <= self._max_bytes:
            self._held_bytes += len(message.content)
            self._messages.put_nowait(message)

    async def get(self) -> _Message:
        message = await self._messages.get()
        self._held_bytes -= len(message.content)
        return message


class PeerCut(Exception):
    """The leader went silent in the middle of a stream that was already being passed on."""


class Peers:
    """This worker's side of flights shared with others.

    Args:
        bus: The Redis link.
        namespace: Prefix of the channels' names.
        owner: This worker's unique name, which also stands in its leases.
        flights: This worker's own flights, for others to follow.
        max_bytes: The most content that is held for a flight that cannot take it yet.

    Attributes:
        owner: As given.
    """

    def __init__(
        self, bus: Bus, namespace: str, owner: bytes, flights: Flights, max_bytes: int
    ) -> None:
        self._bus = bus
        self._max_bytes = max_bytes
        self.owner = owner
        self._prefix = f"{namespace}:w:".encode()
        self._flights = flights
        self._numbers = itertools.count(1)
        self._following: dict[int, _Inbox] = {}
        self._serving: dict[tuple[str, int], asyncio.Task[None]] = {}

    def start(self) -> None:
        """Begin to listen."""
        self._bus.subscribe(self._prefix + self.owner, self._on_message)

    async def stop(self) -> None:
        """Stop serving followers; they notice by the silence, or by the word `landed`."""
        tasks = list(self._serving.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def follow(self, flight: Flight, leader: bytes) -> Followed:
        """Feed `flight` from `leader`'s flight with the same key.

        Content comes only where both have the same form; otherwise just the outcome.

        Raises:
            PeerCut: The leader went silent after content had been passed on.
        """
        number = next(self._numbers)
        inbox = _Inbox(self._max_bytes)
        self._following[number] = inbox
        try:
            self.post(
                leader,
                "join",
                number,
                {"from": self.owner.decode(), "key": flight.key.hex(), "form": str(flight.form)},
            )
            return await self._receive(flight, inbox)
        finally:
            del self._following[number]
            self.post(leader, "leave", number, {"from": self.owner.decode()})

    async def _receive(self, flight: Flight, inbox: _Inbox) -> Followed:
        patience_s = _ACK_S
        expected = 0
        while True:
            try:
                async with asyncio.timeout(patience_s):
                    message = await inbox.get()
            except TimeoutError:
                return self._lost(flight)
            patience_s = _SILENCE_S
            if message.fields.get("seq") != expected:
                return self._lost(flight)
            expected += 1
            try:
                how = await _pass_on(message, flight)
            except (KeyError, TypeError, ValueError, AttributeError):
                # A worker of another version, during a roll-out.
                return self._lost(flight)
            if how is not None:
                return how

    def _lost(self, flight: Flight) -> Followed:
        if flight.head is not None and not flight.is_whole:
            raise PeerCut("the worker that was fetching the answer is gone")
        return Followed.SILENT

    # The leader's side.

    def _on_message(self, raw: bytes) -> None:
        line, _, content = raw.partition(b"\n")
        try:
            fields = orjson.loads(line)
            self._take(_Message(fields["kind"], fields, content))
        except (KeyError, TypeError, ValueError, AttributeError):
            _log.warning("a message of another worker was not understood")

    def _take(self, message: _Message) -> None:
        fields, number = message.fields, message.fields["number"]
        if message.kind == "join":
            follower = _Follower(self, fields["from"].encode(), number)
            key, form = bytes.fromhex(fields["key"]), fields["form"]
            task = asyncio.get_running_loop().create_task(self._serve(follower, key, form))
            follower.task = task
            place = (fields["from"], number)
            self._serving[place] = task
            task.add_done_callback(lambda _: self._serving.pop(place, None))
        elif message.kind == "leave":
            serving = self._serving.get((fields["from"], number))
            if serving is not None:
                serving.cancel()
        elif number in self._following:
            self._following[number].put(message)

    async def _serve(self, follower: "_Follower", key: bytes, form: str) -> None:
        flight = self._flights.get(key)
        if flight is None or not flight.is_leading:
            # Landed between the follower's look at the lease and now: its answer is stored, or
            # the lease is free. And two that follow must never wait for one another.
            follower.tell("landed", {"how": Followed.GONE.value, "failures": 0, "status": 502})
            return
        follower.tell("alive")
        was_there = isinstance(flight.landed, StoredAnswer)
        watcher = flight.watch()
        try:
            if form == str(flight.form) and not was_there:
                await _wait(follower, flight, lambda f: f.head is not None or f.is_settled)
                if flight.head is not None and flight.head.shared is not None:
                    await _relay(follower, watcher, flight.head.shared)
            await _wait(follower, flight, lambda f: f.is_filed or f.is_oversize)
        finally:
            watcher.leave()
        match flight.landed:
            case Landed.FAILED:
                how = Followed.FAILED
            case Landed.UNSTORABLE | None:
                how = Followed.UNSTORABLE
            case _:
                is_found = was_there or flight.score is not None
                how = Followed.FOUND if is_found else Followed.STORED
        outcome = {"how": how.value, "failures": flight.failures, "status": flight.failed_status}
        follower.tell("landed", outcome)

    def post(
        self,
        to: bytes,
        kind: str,
        number: int,
        fields: dict[str, Any],
        content: bytes = b"",
    ) -> "asyncio.Future[Any]":
        """Send one message; the future tells how many received it."""
        line = orjson.dumps({"kind": kind, "number": number, **fields})
        sent = self._bus.execute(b"PUBLISH", self._prefix + to, line + b"\n" + content)
        sent.add_done_callback(_forget_store_errors)
        return sent


class _Follower:
    """Another worker that follows a flight of ours.

    Attributes:
        task: What serves it.
    """

    def __init__(self, peers: Peers, name: bytes, number: int) -> None:
        self._peers = peers
        self._name = name
        self._number = number
        self._numbers = itertools.count()
        self.task: asyncio.Task[None] | None = None

    def tell(self, kind: str, fields: dict[str, Any] | None = None, content: bytes = b"") -> None:
        """Send it the next message."""
        numbered = {**(fields or {}), "seq": next(self._numbers)}
        sent = self._peers.post(self._name, kind, self._number, numbered, content)
        sent.add_done_callback(self._look)

    def _look(self, sent: "asyncio.Future[Any]") -> None:
        # Received by nobody: that worker is dead, and will never say that it leaves.
        is_dead = not sent.cancelled() and sent.exception() is None and sent.result() == 0
        if is_dead and self.task is not None:
            self.task.cancel()


async def _pass_on(message: _Message, flight: Flight) -> Followed | None:
    """Tell `flight` what a leader said; return the outcome if that was it."""
    fields = message.fields
    match message.kind:
        case "head":
            flight.is_collapsed = True
            headers = [
                (name.encode("latin-1"), value.encode("latin-1"))
                for name, value in fields["headers"]
            ]
            flight.begin(Head(200, headers, headers, is_stream=True))
        case "piece":
            await flight.append(message.content)
        case "end":
            flight.end()
        case "cut":
            raise PeerCut("the upstream's answer broke off")
        case "landed":
            how, failures, status = Followed(fields["how"]), fields["failures"], fields["status"]
            flight.failures = max(flight.failures, int(failures))
            flight.failed_status = int(status)
            return how
    return None


async def _relay(follower: _Follower, watcher: Watcher, headers: Headers) -> None:
    """Tell a flight's answer as it comes, from its beginning."""
    follower.tell(
        "head", {"headers": [[n.decode("latin-1"), v.decode("latin-1")] for n, v in headers]}
    )
    reading: asyncio.Future[bytes | None] | None = None
    try:
        while True:
            reading = asyncio.ensure_future(watcher.next())
            while not (await asyncio.wait([reading], timeout=_ALIVE_EVERY_S))[0]:
                follower.tell("alive")
            piece = reading.result()
            if piece is None:
                follower.tell("end")
                return
            follower.tell("piece", content=piece)
    except FlightFailed:
        follower.tell("cut")
    finally:
        if reading is not None:
            reading.cancel()


async def _wait(follower: _Follower, flight: Flight, is_so: Callable[[Flight], bool]) -> None:
    while not is_so(flight):
        try:
            async with asyncio.timeout(_ALIVE_EVERY_S):
                await flight.until(is_so)
        except TimeoutError:
            follower.tell("alive")


def _forget_store_errors(sent: "asyncio.Future[Any]") -> None:
    """A message that was not sent shows as silence at the other end."""
    error = None if sent.cancelled() else sent.exception()
    if error is not None and not isinstance(error, StoreError):
        raise error
