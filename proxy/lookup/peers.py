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
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, Protocol

import orjson

from cachestore.errors import StoreError
from proxy.lookup.single_flight import Flight, FlightFailed, Flights, Head, Landed

_ACK_S: Final = 2.0
"""How long a leader may take to answer a `join` before it counts as gone."""
_ALIVE_EVERY_S: Final = 0.5
_SILENCE_S: Final = 2.5
"""How long a leader may say nothing before it counts as gone."""


class Bus(Protocol):
    """The little of a Redis link that this needs."""

    def execute(self, *args: bytes | str | int) -> "asyncio.Future[Any]":
        """Send one command."""

    def subscribe(self, channel: bytes, on_message: Callable[[bytes], None]) -> None:
        """Call `on_message` with each message published on `channel`."""


class Followed(Enum):
    """How following another worker's flight ended."""

    STORED = "stored"
    """The answer is in the store."""
    UNSTORABLE = "unstorable"
    """It was for the leader's client alone."""
    FAILED = "failed"
    """The leader could not get an answer."""
    SILENT = "silent"
    """The leader, or the way to it, is gone."""


@dataclass(slots=True)
class _Message:
    kind: str
    fields: dict[str, Any]
    content: bytes


class PeerCut(Exception):
    """The leader went silent in the middle of a stream that was already being passed on."""


class Peers:
    """This worker's side of flights shared with others.

    Args:
        bus: The Redis link.
        namespace: Prefix of the channels' names.
        owner: This worker's unique name, which also stands in its leases.
        flights: This worker's own flights, for others to follow.
    """

    def __init__(self, bus: Bus, namespace: str, owner: bytes, flights: Flights) -> None:
        self._bus = bus
        self._prefix = f"{namespace}:w:".encode()
        self._owner = owner
        self._flights = flights
        self._numbers = itertools.count(1)
        self._following: dict[int, asyncio.Queue[_Message]] = {}
        self._serving: dict[tuple[str, int], asyncio.Task[None]] = {}

    def start(self) -> None:
        """Begin to listen."""
        self._bus.subscribe(self._prefix + self._owner, self._on_message)

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
        inbox: asyncio.Queue[_Message] = asyncio.Queue()
        self._following[number] = inbox
        try:
            self._post(
                leader,
                "join",
                number,
                {"from": self._owner.decode(), "key": flight.key.hex(), "form": str(flight.form)},
            )
            return await self._receive(flight, inbox)
        finally:
            del self._following[number]
            self._post(leader, "leave", number, {"from": self._owner.decode()})

    async def _receive(self, flight: Flight, inbox: asyncio.Queue[_Message]) -> Followed:
        patience_s = _ACK_S
        expected = 0
        while True:
            try:
                async with asyncio.timeout(patience_s):
                    message = await inbox.get()
            except TimeoutError:
                return self._lost(flight)
            patience_s = _SILENCE_S
            if message.fields["seq"] != expected:
                return self._lost(flight)
            expected += 1
            match message.kind:
                case "head":
                    flight.is_collapsed = True
                    headers = [
                        (name.encode("latin-1"), value.encode("latin-1"))
                        for name, value in message.fields["headers"]
                    ]
                    flight.begin(Head(message.fields["status"], headers, is_stream=True))
                case "piece":
                    await flight.append(message.content)
                case "end":
                    flight.end()
                case "cut":
                    raise PeerCut("the upstream's answer broke off")
                case "landed":
                    return Followed(message.fields["how"])

    def _lost(self, flight: Flight) -> Followed:
        if flight.head is not None and not flight.is_whole:
            raise PeerCut("the worker that was fetching the answer is gone")
        return Followed.SILENT

    # The leader's side.

    def _on_message(self, raw: bytes) -> None:
        line, _, content = raw.partition(b"\n")
        try:
            fields = orjson.loads(line)
            kind, number = fields["kind"], fields["number"]
        except (orjson.JSONDecodeError, KeyError, TypeError):
            return
        if kind == "join":
            task = asyncio.get_running_loop().create_task(self._serve(fields, number))
            place = (fields["from"], number)
            self._serving[place] = task
            task.add_done_callback(lambda _: self._serving.pop(place, None))
        elif kind == "leave":
            serving = self._serving.get((fields["from"], number))
            if serving is not None:
                serving.cancel()
        elif number in self._following:
            self._following[number].put_nowait(_Message(kind, fields, content))

    async def _serve(self, join: dict[str, Any], number: int) -> None:
        numbers = itertools.count()
        follower = join["from"].encode()

        def tell(kind: str, fields: dict[str, Any] | None = None, content: bytes = b"") -> None:
            self._post(follower, kind, number, {**(fields or {}), "seq": next(numbers)}, content)

        flight = self._flights.get(bytes.fromhex(join["key"]))
        if flight is None:
            # Landed between the follower's look at the lease and now: its answer is stored,
            # or the lease is free.
            tell("landed", {"how": Followed.FAILED.value})
            return
        tell("alive")
        watcher = flight.watch()
        try:
            if join["form"] == str(flight.form):
                await self._wait(tell, flight, lambda f: f.head is not None or f.is_settled)
                if flight.head is not None and may_share_live(flight.head):
                    await self._relay(tell, flight)
            await self._wait(tell, flight, lambda f: f.is_filed or f.is_oversize)
        finally:
            watcher.leave()
        match flight.landed:
            case Landed.FAILED:
                how = Followed.FAILED
            case Landed.UNSTORABLE | None:
                how = Followed.UNSTORABLE
            case _:
                how = Followed.STORED
        tell("landed", {"how": how.value})

    async def _relay(self, tell: Callable[..., None], flight: Flight) -> None:
        head = flight.head
        if head is None:
            return
        headers = [[n.decode("latin-1"), v.decode("latin-1")] for n, v in head.headers]
        tell("head", {"status": head.status, "headers": headers})
        watcher = flight.watch()
        try:
            while True:
                reading = asyncio.ensure_future(watcher.next())
                while not (await asyncio.wait([reading], timeout=_ALIVE_EVERY_S))[0]:
                    tell("alive")
                piece = reading.result()
                if piece is None:
                    tell("end")
                    return
                tell("piece", content=piece)
        except FlightFailed:
            tell("cut")
        finally:
            watcher.leave()

    @staticmethod
    async def _wait(
        tell: Callable[..., None], flight: Flight, is_so: Callable[[Flight], bool]
    ) -> None:
        while not is_so(flight):
            try:
                async with asyncio.timeout(_ALIVE_EVERY_S):
                    await flight.until(is_so)
            except TimeoutError:
                tell("alive")

    def _post(
        self, to: bytes, kind: str, number: int, fields: dict[str, Any], content: bytes = b""
    ) -> None:
        line = orjson.dumps({"kind": kind, "number": number, **fields})
        sent = self._bus.execute(b"PUBLISH", self._prefix + to, line + b"\n" + content)
        sent.add_done_callback(_forget_store_errors)


def may_share_live(head: Head) -> bool:
    """Return whether others may watch an answer with this head while it is still coming."""
    return head.is_stream and head.status == 200


def _forget_store_errors(sent: "asyncio.Future[Any]") -> None:
    """A message that was not sent shows as silence at the other end."""
    error = None if sent.cancelled() else sent.exception()
    if error is not None and not isinstance(error, StoreError):
        raise error
