"""Hits in this worker's memory, answered before ASGI: no task, no scope, one write.

A request that was answered from memory is remembered by its own bytes: target, content, and the
header fields that count. When the same bytes come again, what they mean is known, and only what
can have changed is looked at: whether the answer is still there and still fresh. Everything else
takes the long way, through the same code as ever; so nothing is decided here.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from cachetools import LRUCache

from proxy.exchange import request_id
from proxy.lookup.answers import StoredAnswer
from proxy.lookup.ask import KEYED_HEADERS
from proxy.lookup.tenants import CREDENTIAL_HEADERS
from proxy.metrics import Metrics, Outcome
from proxy.protocol import LimitedProtocol
from proxy.replies import hit_status, made_fresh, replay_headers
from proxy.wire.endpoint import Endpoint, Form

_MEMO_BYTES: Final = 16 * 1024**2
_LARGEST_BODY_BYTES: Final = 65536
_ENTRY_BYTES: Final = 600
"""What remembering a request costs beside its own bytes."""

_LONG_WAY: Final = frozenset(
    {b"cache-control", b"pragma", b"content-encoding", b"expect", b"upgrade"}
)
"""Header fields with which more must be looked at than is here."""

Identity = tuple[bytes | None, ...]


@dataclass(frozen=True, slots=True)
class Known:
    """What a request with certain bytes means.

    Attributes:
        key: Its exact key.
        endpoint: Where it was sent.
        form: The form it wants its answer in.
        include_usage: Whether it wants a stream with its usage.
        request_bytes: How long its content is.
    """

    key: bytes
    endpoint: Endpoint
    form: Form
    include_usage: bool
    request_bytes: int


class Memory(Protocol):
    """Where this worker's answers lie."""

    def peek(self, key: bytes) -> StoredAnswer | None:
        """Return the answer under `key`."""


class FastPath:
    """Knows requests by their bytes.

    Args:
        memory: This worker's answers.
        metrics: Counts hits as the long way does.
        key_headers: Further header fields that count in keys, by configuration.
    """

    def __init__(self, memory: Memory, metrics: Metrics, key_headers: tuple[str, ...]) -> None:
        self._memory = memory
        self._metrics = metrics
        configured = tuple(name.lower().encode() for name in key_headers)
        self._counted = (*CREDENTIAL_HEADERS, *KEYED_HEADERS, *configured)
        self._known: LRUCache[Identity, Known] = LRUCache(
            _MEMO_BYTES, getsizeof=lambda known: known.request_bytes + _ENTRY_BYTES
        )

    def learn(
        self, target: bytes, named: Mapping[bytes, bytes], content: bytes, known: Known
    ) -> None:
        """Remember a request that has just been answered from memory."""
        if known.request_bytes <= _LARGEST_BODY_BYTES and _LONG_WAY.isdisjoint(named):
            self._known[self._identity(target, named, content)] = known

    def hit(
        self, target: bytes, named: Mapping[bytes, bytes], content: bytes
    ) -> list[bytes] | None:
        """Return the answer's parts as they stand on the wire, or None for the long way.

        The first part is the head but for its last line end: a Connection field may follow.
        """
        began = time.perf_counter()
        known = self._known.get(self._identity(target, named, content))
        if known is None:
            return None
        answer = self._memory.peek(known.key)
        if answer is None or answer.vary:
            return None
        now = time.time()
        age_s = answer.age_s(now)
        ttl_s = answer.lifetime_s - age_s
        template = answer.templates.get((known.form, known.include_usage))
        if ttl_s <= 0 or template is None:
            return None
        looked_up = time.perf_counter()
        fresh_content = made_fresh(template, known.endpoint, now)
        head = [b"HTTP/1.1 200 OK\r\n"]
        for name, value in replay_headers(
            answer, known.form, hit_status(ttl_s), age_s, request_id(named)
        ):
            head += (name, b": ", value, b"\r\n")
        head.append(b"content-length: %d\r\n" % len(fresh_content))
        self._metrics.spared(answer)
        self._metrics.looked_up("memory", looked_up - began)
        self._metrics.answered(
            known.endpoint.value, Outcome.HIT_MEMORY, time.perf_counter() - began
        )
        return [b"".join(head), fresh_content]

    def _identity(self, target: bytes, named: Mapping[bytes, bytes], content: bytes) -> Identity:
        return (target, content, *map(named.get, self._counted))


class FastProtocol(LimitedProtocol):
    """One connection that tries the fast path first.

    A request to a cacheable endpoint is held back until its content is here; if it is no hit, it
    is handed on as if it had just come.

    Attributes:
        fast_path: What is known.
        slow_port: A port on which all take the long way: the admin listener's.
    """

    fast_path: FastPath
    slow_port: int | None
    _held: list[bytes] | None = None
    _held_bytes = 0

    def on_headers_complete(self) -> None:
        """Hold the request back, if it may be a hit."""
        if self._may_be_hit():
            self.end_header()
            self._held = []
            self._held_bytes = 0
        else:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take some of the content."""
        if self._held is None:
            super().on_body(body)
            return
        self._held.append(body)
        self._held_bytes += len(body)
        if self._held_bytes > _LARGEST_BODY_BYTES:
            self._hand_on(self._held)

    def on_message_complete(self) -> None:
        """Answer, or hand on."""
        held = self._held
        if held is None:
            super().on_message_complete()
            return
        answer = self.fast_path.hit(self.url, dict(self.headers), b"".join(held))
        if answer is None:
            self._hand_on(held)
            super().on_message_complete()
            return
        self._held = None
        self._received_bytes = 0
        head, content = answer
        keeps_alive = self.parser.should_keep_alive() and not self._is_draining
        end = b"\r\n" if keeps_alive else b"connection: close\r\n\r\n"
        self.transport.write(b"".join((head, end, content)))
        if keeps_alive:
            self.on_response_complete()
        else:
            self.transport.close()

    def _may_be_hit(self) -> bool:
        return (
            self.parser.get_method() == b"POST"
            and self.url.startswith(b"/v1/")
            and self._is_idle()
            and not self.flow.write_paused
            and self.parser.get_http_version() == "1.1"
            and (self.server is None or self.server[1] != self.slow_port)
            and not any(name in _LONG_WAY for name, _ in self.headers)
        )

    def _hand_on(self, held: list[bytes]) -> None:
        self._held = None
        super().on_headers_complete()
        for body in held:
            super().on_body(body)


def protocol_class(
    max_header_bytes: int, fast_path: FastPath, slow_port: int | None
) -> type[FastProtocol]:
    """Return the protocol class of one server: uvicorn hands no settings to its protocols."""
    settings: dict[str, Any] = {
        "max_header_bytes": max_header_bytes,
        "fast_path": fast_path,
        "slow_port": slow_port,
    }
    return type("Protocol", (FastProtocol,), settings)
