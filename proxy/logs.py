"""Logs: one JSON object per line on standard error.

Never a prompt, an answer, a credential or a query string.
"""

import json
import logging
import sys
import time

from proxy.exchange import Exchange

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonLines(logging.Formatter):
    """Formats a record as one line of JSON; what was given as `extra` becomes fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without its end."""
        line = {
            "time": round(record.created, 3),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **{name: value for name, value in vars(record).items() if name not in _STANDARD},
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        # Not orjson: it refuses text that is no Unicode, and file names may be such.
        return json.dumps(line, default=str)


def configure(level: str) -> None:
    """Log what is at least as severe as `level` ("debug" … "error")."""
    stderr = logging.StreamHandler(sys.stderr)
    stderr.setFormatter(JsonLines())
    logging.basicConfig(level=level.upper(), handlers=[stderr], force=True)
    # An answer that is cut on purpose is an error to uvicorn; what matters is logged by us.
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
    # faiss tells which builds of itself it does not have.
    logging.getLogger("faiss").setLevel(logging.WARNING)


_requests = logging.getLogger("recollect.request")


def request_line(exchange: Exchange, seconds: float) -> None:
    """Log one request. The path is shortened to the endpoint's name: an id in it is a secret."""
    _requests.info(
        "%s",
        exchange.outcome.value,
        extra={
            "endpoint": exchange.endpoint,
            "method": exchange.scope["method"],
            "status": exchange.status,
            "seconds": round(seconds, 6),
            "cache_status": exchange.cache_status.decode("latin-1"),
            "at": int(time.time()),
        },
    )
