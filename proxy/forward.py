"""What goes through unchanged: requests the cache has no part in, and failures to get an answer."""

import time
from collections.abc import AsyncIterator
from contextlib import aclosing

from proxy.errors import ErrorAnswer
from proxy.exchange import ClientGone, Exchange, Headers, watching
from proxy.metrics import Metrics, Outcome
from proxy.upstreams.upstream import (
    FailedElsewhere,
    UnsendableHeader,
    Upstream,
    UpstreamError,
    UpstreamTimeout,
)


def failure(cause: Exception) -> ErrorAnswer:
    """Return the answer for a request whose upstream gave none."""
    match cause:
        case UnsendableHeader():
            return ErrorAnswer(400, f"{cause}.", "invalid_header")
        case FailedElsewhere(status=status):
            return ErrorAnswer(status, "The upstream failed on this request.", "upstream_failed")
        case UpstreamTimeout():
            return ErrorAnswer(504, "The upstream did not answer in time.", "upstream_timeout")
        case UpstreamError():
            return ErrorAnswer(502, "The upstream could not be reached.", "upstream_unreachable")
        case _:
            return ErrorAnswer(502, "The upstream's answer was lost.", "upstream_lost")


def _is_clients_doing(error: BaseException | None) -> bool:
    """Whether the upload broke because the client left: the HTTP client wraps what it was told."""
    while error is not None:
        if isinstance(error, ClientGone):
            return True
        error = error.__cause__ or error.__context__
    return False


class Forwarder:
    """Passes requests to the upstream and its answers back, as they come."""

    def __init__(self, upstream: Upstream, metrics: Metrics) -> None:
        self._upstream = upstream
        self._metrics = metrics

    async def pass_through(self, exchange: Exchange) -> None:
        """Pass a request of any method whose content may be of any size.

        Raises:
            ClientGone: The client left first.
        """
        content: AsyncIterator[bytes] | None = exchange.body_pieces()
        named = exchange.named
        if b"content-length" not in named and b"transfer-encoding" not in named:
            content = None
            exchange.has_no_content()
        async with watching(exchange):
            await self.forward(exchange, content, Outcome.PASSED)

    async def forward(
        self,
        exchange: Exchange,
        content: bytes | AsyncIterator[bytes] | None,
        outcome: Outcome,
    ) -> None:
        """Send `content` upstream and the answer back.

        Raises:
            ClientGone: The client left first.
        """
        began = time.perf_counter()
        try:
            answer = await self._upstream.send(
                exchange.scope["method"],
                exchange.path.removeprefix("/v1"),
                exchange.query,
                exchange.headers,
                content,
            )
        except (UpstreamError, UnsendableHeader) as error:
            if _is_clients_doing(error):
                raise ClientGone from error
            if isinstance(error, UpstreamError):
                self._metrics.upstream_failed(error.kind)
            await exchange.refuse(failure(error), Outcome.UPSTREAM_ERROR)
            return
        first_byte_s = time.perf_counter() - began
        exchange.outcome = outcome
        try:
            headers = answer.headers
            if exchange.cache_status:
                headers = exchange.forwarded_headers(headers)
            await exchange.begin(answer.status, headers)
            async with aclosing(answer.pieces()) as pieces:
                async for piece in pieces:
                    await exchange.write(piece)
        except UpstreamError as error:
            self._metrics.upstream_failed(error.kind)
            exchange.outcome = Outcome.UPSTREAM_ERROR
            await self.cut(exchange, answer.headers, error)
            return
        finally:
            answer.close()
        self._metrics.upstream_answered(first_byte_s, time.perf_counter() - began)
        await exchange.end()

    async def cut(self, exchange: Exchange, headers: Headers, cause: Exception) -> None:
        """Let the client see that the answer broke off, without inventing an ending.

        A stream gets an error event; then, in any case, the connection is closed without the
        end of the content, as the upstream's was: the server does that to an answer left open.
        """
        fields = dict(headers)
        is_stream = fields.get(b"content-type", b"").startswith(b"text/event-stream")
        # Plain text in the midst of a compressed stream would be noise.
        if is_stream and b"content-encoding" not in fields:
            message = "The upstream's answer broke off."
            if isinstance(cause, UpstreamTimeout):
                message = "The upstream stopped sending."
            error = ErrorAnswer(502, message, "upstream_cut")
            await exchange.write(b"\n\ndata: " + error.content() + b"\n\n")
