"""Which request goes where: decided by the path and the listener, never by the Host field."""

import asyncio
import logging
import time
from typing import Final

from proxy import logs
from proxy.errors import ErrorAnswer
from proxy.exchange import ClientGone, Exchange, Receive, Scope, Send
from proxy.forward import Forwarder
from proxy.handler import Handler
from proxy.metrics import Metrics, Outcome
from proxy.operations import PATHS, Operations
from proxy.semantic_admin import PATHS as ADMIN_PATHS
from proxy.semantic_admin import SemanticAdmin
from proxy.wire.endpoint import Endpoint

_CACHEABLE: Final = {
    b"/v1/chat/completions": Endpoint.CHAT,
    b"/v1/completions": Endpoint.COMPLETIONS,
    b"/v1/embeddings": Endpoint.EMBEDDINGS,
    b"/v1/responses": Endpoint.RESPONSES,
}
_BASE: Final = b"/v1/"
_log = logging.getLogger("recollect.router")


class Router:
    """Sends each request to who answers it, and counts and logs how it went."""

    def __init__(
        self,
        *,
        handler: Handler,
        forwarder: Forwarder,
        operations: Operations,
        semantic_admin: SemanticAdmin,
        metrics: Metrics,
        admin_port: int | None,
        logs_requests: bool,
    ) -> None:
        self._handler = handler
        self._forwarder = forwarder
        self._operations = operations
        self._semantic_admin = semantic_admin
        self._metrics = metrics
        self._admin_port = admin_port
        self._logs_requests = logs_requests

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request."""
        path: bytes = scope["raw_path"]
        endpoint = _CACHEABLE.get(path) if scope["method"] == "POST" else None
        is_admin = self._admin_port is not None and scope["server"][1] == self._admin_port
        exchange = Exchange(scope, receive, send, endpoint.value if endpoint else "other")
        try:
            if endpoint is not None and not is_admin:
                await self._handler.answer(exchange, endpoint)
            elif path in PATHS and is_admin == (self._admin_port is not None):
                await self._operations.answer(exchange, path)
                return
            elif path in ADMIN_PATHS and is_admin == (self._admin_port is not None):
                await self._semantic_admin.answer(exchange, path)
                return
            elif path.startswith(_BASE) and not is_admin and not _climbs(path):
                await self._forwarder.pass_through(exchange)
            else:
                await exchange.refuse(
                    ErrorAnswer(404, "Nothing is served under this path.", "not_found"),
                    Outcome.REFUSED,
                )
        except ClientGone:
            exchange.outcome = Outcome.GONE
        except asyncio.CancelledError:
            # The time to finish, `server.drain_s`, is over.
            if exchange.status == 0:
                message = "Recollect was stopped before the answer came."
                await exchange.refuse(ErrorAnswer(503, message, "stopping"), Outcome.UPSTREAM_ERROR)
            raise
        except Exception:
            # The last resort for a defect of ours: whoever waits is told, in the form they read.
            _log.exception("a request failed by a defect")
            exchange.outcome = Outcome.DEFECT
            if exchange.status == 0:
                if endpoint is not None:
                    exchange.cache_status = b"recollect; fwd=bypass; detail=defect"
                error = ErrorAnswer(500, "Recollect itself failed on this request.", "defect")
                await exchange.refuse(error, Outcome.DEFECT)
        seconds = time.perf_counter() - exchange.began
        self._metrics.answered(exchange.endpoint, exchange.outcome, seconds)
        if self._logs_requests:
            logs.request_line(exchange, seconds)


def _climbs(path: bytes) -> bool:
    """Whether the path has dot segments, with which it would leave the upstream's base path."""
    segments = path.lower().replace(b"%2e", b".").replace(b"\\", b"/").replace(b"%2f", b"/")
    return any(segment in (b".", b"..") for segment in segments.split(b"/"))
