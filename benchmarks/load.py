"""A load generator that sends an exact number of requests and looks at every answer.

A closed loop over epoll: each connection has one request in flight. It must
keep the server busy, as a server that waits for its clients pays for one epoll
call per request instead of one for several; else its speed does not matter,
since the servers' CPU time is what counts here, not requests per second.
"""

import select
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

_READ_BYTES = 262_144
_STALLED_S = 30


class UnexpectedAnswer(Exception):
    """An answer is not what the benchmark means to measure, so its figure would be worthless."""


@dataclass(frozen=True, slots=True)
class Expectation:
    """What every answer must be: a 200 that holds certain bytes."""

    header: bytes
    """Occurs in the answer, in its head by its nature."""

    body: bytes
    """Occurs in the answer, in its body by its nature."""

    def check(self, answer: bytes) -> None:
        """Raise `UnexpectedAnswer` unless the answer, as it came, is what it should be."""
        if (
            not answer.startswith(b"HTTP/1.1 200")
            or self.header not in answer
            or self.body not in answer
        ):
            raise UnexpectedAnswer(
                f"expected 200 with {self.header!r} and {self.body!r}, got:\n"
                f"{answer[:1000].decode('latin-1')}"
            )


class _Connection:
    """One connection; at most one request is in flight on it."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=_STALLED_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._earlier = bytearray()

    def read_and_check(self, check: Callable[[bytes], None]) -> bool:
        """Take what has come; check the answer when it is whole, and return whether it is."""
        piece = self.socket.recv(_READ_BYTES)
        if not piece:
            raise UnexpectedAnswer(f"connection closed after {bytes(self._earlier[-300:])!r}")
        if not self._earlier and _is_whole(piece):
            check(piece)
            return True
        self._earlier += piece
        if not _is_whole(self._earlier):
            return False
        check(bytes(self._earlier))
        self._earlier.clear()
        return True


def _is_whole(received: bytes | bytearray) -> bool:
    # As only one request is in flight, a last chunk ends what was received. It is looked for
    # first, so that a long stream is not searched for its head at every piece.
    if received.endswith(b"\r\n0\r\n\r\n"):
        return True
    head_end = received.find(b"\r\n\r\n")
    length_at = received.find(b"ontent-length: ", 0, head_end)
    if length_at < 0:
        length_at = received.find(b"ontent-Length: ", 0, head_end)
    if head_end < 0 or length_at < 0:
        return False
    length = received[length_at + 15 : received.find(b"\r", length_at)]
    return len(received) >= head_end + 4 + int(length)


def drive(
    port: int, requests: Sequence[bytes], connections: int, check: Callable[[bytes], None]
) -> None:
    """Send each request once, over that many connections, and check each answer.

    Raises:
        UnexpectedAnswer: `check` said so, or no answer came for 30 s.
    """
    following = iter(requests)
    epoll = select.epoll()
    by_descriptor: dict[int, _Connection] = {}
    try:
        for _, request in zip(range(min(connections, len(requests))), following, strict=False):
            connection = _Connection(port)
            by_descriptor[connection.socket.fileno()] = connection
            epoll.register(connection.socket, select.EPOLLIN)
            connection.socket.sendall(request)
        in_flight = len(by_descriptor)
        while in_flight:
            events = epoll.poll(_STALLED_S)
            if not events:
                raise UnexpectedAnswer(f"no answer for {_STALLED_S} s")
            answered = [
                connection
                for connection in (by_descriptor[descriptor] for descriptor, _ in events)
                if connection.read_and_check(check)
            ]
            # Sent together, so that a server faster than we are still finds several at once.
            for connection in answered:
                request = next(following, b"")
                if request:
                    connection.socket.sendall(request)
                else:
                    in_flight -= 1
    finally:
        epoll.close()
        for connection in by_descriptor.values():
            connection.socket.close()


def ask(port: int, request: bytes) -> bytes:
    """Send one request and return its answer, whatever it is, head and all."""
    answers: list[bytes] = []
    drive(port, [request], 1, answers.append)
    return answers[0]


class Client:
    """One connection on which one request is sent after the other, each timed."""

    def __init__(self, port: int) -> None:
        """Connect."""
        self._connection = _Connection(port)

    def first_byte_s(self, request: bytes, check: Callable[[bytes], None]) -> float:
        """Send a request; return the seconds to its answer's first byte, once that is whole.

        Raises:
            UnexpectedAnswer: `check` said so, or no answer came for 30 s.
        """
        link = self._connection.socket
        began = time.perf_counter()
        link.sendall(request)
        is_there, _, _ = select.select([link], [], [], _STALLED_S)
        seconds = time.perf_counter() - began
        if not is_there:
            raise UnexpectedAnswer(f"no answer for {_STALLED_S} s")
        while not self._connection.read_and_check(check):
            pass
        return seconds

    def close(self) -> None:
        """Close the connection."""
        self._connection.socket.close()
