"""Health, readiness and metrics: what operators and their machines ask of a worker."""

from collections.abc import Callable

import orjson

from proxy.errors import ErrorAnswer
from proxy.exchange import Exchange, http_date, shows_token
from proxy.metrics import CONTENT_TYPE, Metrics, Outcome, exposition

PATHS = frozenset({b"/healthz", b"/readyz", b"/metrics"})


class Operations:
    """Answers `/healthz`, `/readyz` and `/metrics`.

    Args:
        token: What `/metrics` must be asked with, as a bearer token; None for no such need.
        is_redis_up: Whether this worker reaches Redis.
        metrics: This worker's counts, to be written before all workers' are added up.
    """

    def __init__(
        self, token: str | None, is_redis_up: Callable[[], bool], metrics: Metrics
    ) -> None:
        self._metrics = metrics
        self._token = token
        self._is_redis_up = is_redis_up

    async def answer(self, exchange: Exchange, path: bytes) -> None:
        """Answer a request to one of `PATHS`."""
        if exchange.scope["method"] not in ("GET", "HEAD"):
            await exchange.refuse(
                ErrorAnswer(
                    405,
                    "Only GET and HEAD are answered here.",
                    "method_not_allowed",
                    headers=((b"allow", b"GET, HEAD"),),
                ),
                Outcome.REFUSED,
            )
            return
        match path:
            case b"/healthz":
                await self._send(exchange, b"application/json", b'{"status":"ok"}')
            case b"/readyz":
                await self._send(exchange, b"application/json", self._readiness())
            case _ if self._may_read(exchange):
                self._metrics.flush()
                await self._send(exchange, CONTENT_TYPE, exposition())
            case _:
                await exchange.refuse(
                    ErrorAnswer(
                        401,
                        "The admin token is needed here.",
                        "invalid_admin_token",
                        headers=((b"www-authenticate", b"Bearer"),),
                    ),
                    Outcome.REFUSED,
                )

    def _readiness(self) -> bytes:
        # Without Redis every request is still answered, so the worker stays in rotation.
        is_up = self._is_redis_up()
        return orjson.dumps(
            {"status": "ready" if is_up else "degraded", "redis": "up" if is_up else "down"}
        )

    def _may_read(self, exchange: Exchange) -> bool:
        return self._token is None or shows_token(exchange.named, self._token)

    @staticmethod
    async def _send(exchange: Exchange, content_type: bytes, content: bytes) -> None:
        exchange.outcome = Outcome.PASSED
        headers = [
            (b"content-type", content_type),
            (b"content-length", b"%d" % len(content)),
            (b"cache-control", b"no-store"),
            (b"date", http_date()),
        ]
        await exchange.begin(200, headers)
        await exchange.end(content)
