"""One upstream: an OpenAI-compatible server, reached over pooled HTTP connections.

What goes in and out are bytes as they stood on the wire: header fields in their order, targets
with their percent-encoding, content with its coding. Nothing is followed, remembered or retried
here: no redirects, no cookies, no proxies from the environment.
"""

import asyncio
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import aiohttp
from multidict import CIMultiDict
from yarl import URL

Headers = list[tuple[bytes, bytes]]

_HOP_BY_HOP: Final = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"upgrade"}
    | {b"transfer-encoding", b"proxy-authenticate", b"proxy-authorization"}
)
"""RFC 9110 §7.6.1, and the two that speak to a proxy (§11.7)."""

_NOT_SENT: Final = _HOP_BY_HOP | {b"host", b"cookie", b"expect"}
_CREDENTIALS: Final = frozenset({b"authorization", b"x-api-key", b"api-key"})
_MAX_HEADER_BYTES: Final = 65536

# uvicorn, which vLLM and SGLang run on, closes a connection idle for 5 s. A request sent into
# that moment is lost, and must not be sent twice; so never reuse one that has idled nearly as long.
_KEEPALIVE_S: Final = 4.0
_LOOK_EVERY_S: Final = 1.0


class UpstreamError(Exception):
    """The upstream gave no answer, or not all of one.

    Attributes:
        kind: One word for metrics.
    """

    kind = "unreachable"


class UpstreamUnreachable(UpstreamError):
    """No connection, or it broke before the answer began."""


class UpstreamTimeout(UpstreamError):
    """No connection, no first byte, or no next byte within its deadline."""

    kind = "timeout"


class UpstreamCut(UpstreamError):
    """The connection broke in the middle of the answer."""

    kind = "cut"


class FailedElsewhere(UpstreamError):
    """Another worker asked for all, and the upstream answered with an error.

    Attributes:
        status: The status code it gave, or 502 where there was none.
    """

    def __init__(self, status: int) -> None:
        super().__init__(f"the upstream failed for another worker, with status {status}")
        self.status = status


class UnsendableHeader(Exception):
    """A request header holds bytes that are not UTF-8."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Deadlines in seconds, and how many connections may be open at once."""

    connect_s: float
    first_byte_s: float
    idle_s: float
    connections: int


class Answer:
    """An answer whose head has come and whose content is coming.

    Attributes:
        status: The status code.
        headers: End-to-end header fields, names in lower case, in the order they came.
    """

    __slots__ = ("_idle_s", "_response", "headers", "status")

    def __init__(self, response: aiohttp.ClientResponse, idle_s: float) -> None:
        self._response = response
        self._idle_s = idle_s
        self.status = response.status
        self.headers = end_to_end(response.raw_headers, _HOP_BY_HOP)

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """Yield the content as it comes, undecoded.

        Raises:
            UpstreamCut: The connection broke before the content's end.
            UpstreamTimeout: No byte came for the idle deadline.
        """
        content = self._response.content
        watch = _IdleWatch(self._response, self._idle_s)
        try:
            while True:
                watch.begin()
                piece = await content.readany()
                watch.end()
                if not piece:
                    return
                yield piece
        except aiohttp.ClientError as error:
            if watch.has_fired:
                raise UpstreamTimeout(f"no byte for {self._idle_s:g} s") from error
            raise UpstreamCut(f"connection broke: {type(error).__name__}") from error
        finally:
            watch.stop()

    def close(self) -> None:
        """Give the connection back when the content was read to its end, else close it."""
        self._response.close()


class _IdleWatch:
    """Closes the connection when no byte has come for a while: one timer, not one per piece.

    Only the time in which we wait for bytes counts, not that in which our client takes them.
    It also sees what aiohttp does not tell who reads: a connection that it closed because the
    content's framing was broken.
    """

    __slots__ = ("_idle_s", "_loop", "_response", "_since", "_timer", "has_fired")

    def __init__(self, response: aiohttp.ClientResponse, idle_s: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._response = response
        self._idle_s = idle_s
        self._since: float | None = None
        self.has_fired = False
        self._timer = self._loop.call_later(min(idle_s, _LOOK_EVERY_S), self._check)

    def begin(self) -> None:
        self._since = self._loop.time()

    def end(self) -> None:
        self._since = None

    def stop(self) -> None:
        self._timer.cancel()

    def _check(self) -> None:
        waited_s = 0.0 if self._since is None else self._loop.time() - self._since
        left_s = self._idle_s - waited_s
        self.has_fired = left_s <= 0
        if not self.has_fired and (self._since is None or not self._is_connection_gone()):
            self._timer = self._loop.call_later(min(left_s, _LOOK_EVERY_S), self._check)
            return
        self._response.content.set_exception(aiohttp.ClientPayloadError("idle or broken"))
        self._response.close()

    def _is_connection_gone(self) -> bool:
        connection = self._response.connection
        if connection is None:
            return False
        transport = connection.transport
        return transport is None or transport.is_closing()


class Upstream:
    """One base URL and its connections.

    Args:
        base_url: Where it is. With a path, that path takes the place of `/v1`.
        api_key: Sent as a bearer token in place of the client's credential, if set.
        limits: Deadlines and pool size.
        ca_file: Certificates to trust instead of the system's.
    """

    def __init__(
        self, base_url: str, *, api_key: str | None, limits: Limits, ca_file: Path | None = None
    ) -> None:
        url = URL(base_url)
        self._prefix = url.raw_path.rstrip("/") or "/v1"
        self._origin = str(url.origin())
        self._api_key = api_key
        self._limits = limits
        self._ca_file = ca_file
        self._session: aiohttp.ClientSession | None = None

    def start(self) -> None:
        """Open the pool. Call with the event loop running."""
        tls = ssl.create_default_context(cafile=self._ca_file) if self._ca_file else True
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=self._limits.connections, keepalive_timeout=_KEEPALIVE_S, ssl=tls
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._limits.connect_s),
            max_line_size=_MAX_HEADER_BYTES,
            max_field_size=_MAX_HEADER_BYTES,
        )
        # aiohttp sends an idempotent request again when a reused connection breaks; whether to
        # try again is not for the client library to decide. There is no public switch.
        self._session._retry_connection = False

    async def stop(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()

    async def send(
        self,
        method: str,
        path: str,
        query: str,
        headers: Iterable[tuple[bytes, bytes]],
        content: bytes | AsyncIterator[bytes] | None,
    ) -> Answer:
        """Send one request and return its answer once the head is here.

        Args:
            method: The HTTP method.
            path: What follows `/v1`, percent-encoded as the client sent it.
            query: The raw query string, without its question mark.
            headers: The client's header fields.
            content: The content, whole or as it comes; None for none.

        Raises:
            UpstreamUnreachable: No connection, or it broke before the head.
            UpstreamTimeout: No connection or no head within its deadline.
            UnsendableHeader: See there.
        """
        if self._session is None:
            raise RuntimeError("send() before start()")
        target = self._origin + self._prefix + path + ("?" + query if query else "")
        if isinstance(content, bytes):
            # The client's own says as much, unless a field was taken off; then it would lie.
            headers = [field for field in headers if field[0].lower() != b"content-length"]
        try:
            async with asyncio.timeout(self._limits.first_byte_s):
                response = await self._session.request(
                    method,
                    URL(target, encoded=True),
                    headers=self._outgoing(headers),
                    data=content,
                    allow_redirects=False,
                )
        except TimeoutError as error:
            raise UpstreamTimeout("the upstream did not answer in time") from error
        except (aiohttp.ClientError, OSError) as error:
            raise UpstreamUnreachable(
                f"the upstream could not be reached: {type(error).__name__}"
            ) from error
        return Answer(response, self._limits.idle_s)

    def _outgoing(self, headers: Iterable[tuple[bytes, bytes]]) -> CIMultiDict[str]:
        kept = end_to_end(headers, _NOT_SENT)
        if self._api_key is not None:
            kept = [(name, value) for name, value in kept if name.lower() not in _CREDENTIALS]
        try:
            outgoing = CIMultiDict((name.decode(), value.decode()) for name, value in kept)
        except UnicodeDecodeError as error:
            raise UnsendableHeader("a request header is not valid UTF-8") from error
        if self._api_key is not None:
            outgoing["Authorization"] = f"Bearer {self._api_key}"
        return outgoing


def end_to_end(headers: Iterable[tuple[bytes, bytes]], dropped: frozenset[bytes]) -> Headers:
    """Return the fields that are meant for the other end, names in lower case.

    Left out are `dropped` and what a Connection field names (RFC 9110 §7.6.1).
    """
    lowered = [(name.lower(), value) for name, value in headers]
    nominated = {
        option.strip().lower()
        for name, value in lowered
        if name == b"connection"
        for option in value.split(b",")
    }
    return [
        (name, value) for name, value in lowered if name not in dropped and name not in nominated
    ]
