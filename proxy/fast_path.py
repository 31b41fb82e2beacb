"""Hits in this worker's memory, answered before ASGI: no task, no scope, one write.

A request that was answered from memory is remembered by its own bytes: target, content, and the
header fields that count. When the same bytes come again, what they mean is known, and only what
can have changed is looked at: whether the answer is still there and still fresh. Everything else
takes the long way, through the same code as ever; so nothing is decided here.
"""

import time
from collections.abc import Callable, Mapping
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
from proxy.wire.fields import by_name

_MEMO_BYTES: Final = 16 * 1024**2
_LARGEST_BYTES: Final = 65536
"""The largest request that is remembered; what is larger is handed on before it is all here."""
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
        clock: Unix time in seconds.
    """

    def __init__(
        self,
        memory: Memory,
        metrics: Metrics,
        key_headers: tuple[str, ...],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._memory = memory
        self._metrics = metrics
        self._clock = clock
        configured = tuple(name.lower().encode() for name in key_headers)
        self._counted = (*CREDENTIAL_HEADERS, *KEYED_HEADERS, *configured)
        self._known: LRUCache[Identity, tuple[Known, int]] = LRUCache(
            _MEMO_BYTES, getsizeof=lambda known: known[1] + _ENTRY_BYTES
        )

    @property
    def held_bytes(self) -> int:
        """What the requests that are remembered take."""
        return int(self._known.currsize)

    def learn(
        self, target: bytes, named: Mapping[bytes, bytes], content: bytes, known: Known
    ) -> None:
        """Remember a request that has just been answered from memory."""
        if not _LONG_WAY.isdisjoint(named):
            return
        identity = self._identity(target, named, content)
        # All of it: a target or a credential can be as long as a header may be.
        request_bytes = sum(len(part) for part in identity if part is not None)
        if request_bytes <= _LARGEST_BYTES:
            self._known[identity] = known, request_bytes

    def hit(self, target: bytes, named: Mapping[bytes, bytes], content: bytes) -> bytes | None:
        """Return the answer as it stands on the wire, or None for the long way."""
        began = time.perf_counter()
        found = self._known.get(self._identity(target, named, content))
        if found is None:
            return None
        known, _ = found
        answer = self._memory.peek(known.key)
        if answer is None or answer.vary:
            return None
        now = self._clock()
        age_s = answer.age_s(now)
        ttl_s = answer.lifetime_s - age_s
        template = answer.templates.get((known.form, known.include_usage))
        if ttl_s <= 0 or template is None:
            return None
        looked_up = time.perf_counter()
        fresh_content = made_fresh(template, known.endpoint, now)
        fields = replay_headers(answer, known.form, hit_status(ttl_s), age_s, request_id(named))
        head = [b"HTTP/1.1 200 OK\r\n"]
        for name, value in fields:
            head += (name, b": ", value, b"\r\n")
        head.append(b"content-length: %d\r\n\r\n" % len(fresh_content))
        lines = len(fields) + 3
        raw = b"".join(head)
        # Stored fields come from outside: none may end its line and begin another. The long way
        # refuses them.
        if raw.count(b"\n") != lines or raw.count(b"\r") != lines:
            return None
        self._metrics.spared(answer)
        self._metrics.looked_up("memory", looked_up - began)
        self._metrics.answered(
            known.endpoint.value, Outcome.HIT_MEMORY, time.perf_counter() - began
        )
        return raw + fresh_content

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
    _named: dict[bytes, bytes]
    _held: list[bytes] | None = None
    _held_bytes = 0

    def on_headers_complete(self) -> None:
        """Hold the request back, if it may be a hit."""
        if self._may_be_hit():
            named = by_name(self.headers)
            if _is_plain(named):
                self.end_header()
                self._named = named
                self._held = []
                self._held_bytes = 0
                return
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take some of the content."""
        if self._held is None:
            super().on_body(body)
            return
        self._held.append(body)
        self._held_bytes += len(body)
        if self._held_bytes > _LARGEST_BYTES:
            self._hand_on(self._held)

    def on_message_complete(self) -> None:
        """Answer, or hand on."""
        held = self._held
        if held is None:
            super().on_message_complete()
            return
        answer = None
        if not self._is_draining:
            answer = self.fast_path.hit(self.url, self._named, b"".join(held))
        if answer is None:
            self._hand_on(held)
            super().on_message_complete()
            return
        self._held = None
        self.end_message()
        self.transport.write(answer)
        self.on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of everything."""
        self._held = None
        super().connection_lost(exc)

    def _is_idle(self) -> bool:
        return self._held is None and super()._is_idle()

    def _may_be_hit(self) -> bool:
        # Nobody's answer is under way, and what follows is ours to say: this connection stays.
        return (
            self.parser.get_method() == b"POST"
            and self.url.startswith(b"/v1/")
            and self._is_idle()
            and not self.flow.write_paused
            and self.parser.get_http_version() == "1.1"
            and self.parser.should_keep_alive()
            and (self.server is None or self.server[1] != self.slow_port)
        )

    def _hand_on(self, held: list[bytes]) -> None:
        self._held = None
        self.begin_request()
        for body in held:
            super().on_body(body)


def _is_plain(named: Mapping[bytes, bytes]) -> bool:
    # A length that is no number was refused by the parser.
    return _LONG_WAY.isdisjoint(named) and int(named.get(b"content-length", 0)) <= _LARGEST_BYTES


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
