"""What the embedding process answers, path by path; how requests come and answers go is not here.

Whatever goes wrong is a Refusal: an answer too, with a status and a word for the client.
"""

import hmac
import logging
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, Protocol

import orjson

from embeddings.encoding.batching import Busy
from embeddings.index.vector_index import IndexUnavailable
from embeddings.out_of_memory import end_process
from embeddings.service.source import SourceUnavailable
from embeddings.wire import Feedback, Found, LookUp, WireError, keys_from_bytes

logger = logging.getLogger("recollect.embeddings")

_OCTETS: Final = b"application/octet-stream"
_JSON: Final = b"application/json"
_METRICS: Final = b"text/plain; version=0.0.4; charset=utf-8"

_METHODS: Final = {
    b"/look-up": b"POST",
    b"/explain": b"POST",
    b"/feedback": b"POST",
    b"/add": b"POST",
    b"/remove": b"POST",
    b"/stats": b"GET",
    b"/healthz": b"GET",
    b"/metrics": b"GET",
}


class Service(Protocol):
    """What is served: an `Engine`."""

    async def look_up(self, look_up: LookUp) -> Found:
        """Return what is stored near a text."""
        ...

    async def explain(self, look_up: LookUp) -> dict[str, Any]:
        """Return, as JSON, what would be decided of a look-up, and why."""
        ...

    async def told(self, feedback: Feedback) -> bool:
        """Take up what somebody says of an answer."""
        ...

    async def refresh(self, keys: Sequence[bytes]) -> None:
        """Look at `keys` in the store now."""
        ...

    async def forget(self, keys: Sequence[bytes]) -> None:
        """Let go of those among `keys` whose entry is gone."""
        ...

    async def stats(self) -> dict[str, Any]:
        """Return how much is held, as JSON."""
        ...


class Answer(NamedTuple):
    """What goes back.

    Attributes:
        status: 204 has no content.
        kind: The content's type.
        content: At most some MB.
        field: One header field that the status asks for, with its line end; or nothing.
    """

    status: int
    kind: bytes
    content: bytes
    field: bytes = b""


class Refusal(Exception):
    """A request gets an error for an answer."""

    def __init__(self, status: int, code: str, message: str, field: bytes = b"") -> None:
        super().__init__(message)
        self._status = status
        self._code = code
        self._field = field

    def answer(self) -> Answer:
        """Return the error in our envelope."""
        kind = "invalid_request_error" if self._status < 500 else "api_error"
        envelope = {"error": {"message": str(self), "type": kind, "code": self._code}}
        return Answer(self._status, _JSON, orjson.dumps(envelope), self._field)


class Endpoints:
    """The paths, over whichever engine is the current one."""

    def __init__(
        self,
        current: Callable[[], Service],
        is_ready: Callable[[], bool],
        token: str | None,
        metrics: Callable[[], bytes],
    ) -> None:
        """See `http_server.serve`."""
        self._current = current
        self._is_ready = is_ready
        self._metrics = metrics
        self._authorization = None if token is None else b"Bearer " + token.encode()

    def admit(self, method: bytes, path: bytes, authorization: bytes) -> None:
        """Decide, by the header alone, whether a request will be answered.

        Args:
            method: As it came.
            path: The target, as it came.
            authorization: The header field; b"" if there is none.

        Raises:
            Refusal: It will not.
        """
        if (
            self._authorization is not None
            and path != b"/healthz"
            and not hmac.compare_digest(authorization, self._authorization)
        ):
            field = b"www-authenticate: Bearer\r\n"
            raise Refusal(401, "unauthorized", "The bearer token is missing or wrong.", field)
        wanted = _METHODS.get(path)
        if wanted is None:
            raise Refusal(404, "not_found", "There is no such path.")
        if method != wanted:
            field = b"allow: %b\r\n" % wanted
            raise Refusal(405, "method_not_allowed", "The path has another method.", field)

    async def answer(self, path: bytes, body: bytes) -> Answer:
        """Answer a request that was admitted.

        Raises:
            Refusal: The answer is an error.
        """
        service = self._current()
        try:
            match path:
                case b"/look-up":
                    found = await service.look_up(LookUp.from_bytes(body))
                    return Answer(200, _OCTETS, found.to_bytes())
                case b"/explain":
                    explained = await service.explain(LookUp.from_bytes(body))
                    return Answer(200, _JSON, orjson.dumps(explained))
                case b"/feedback":
                    is_of_use = await service.told(Feedback.from_bytes(body))
                    return Answer(200, _JSON, orjson.dumps({"is_of_use": is_of_use}))
                case b"/add":
                    await service.refresh(keys_from_bytes(body))
                    return Answer(204, b"", b"")
                case b"/remove":
                    await service.forget(keys_from_bytes(body))
                    return Answer(204, b"", b"")
                case b"/stats":
                    return Answer(200, _JSON, orjson.dumps(await service.stats()))
                case b"/healthz":
                    return Answer(200, _JSON, orjson.dumps({"is_ready": self._is_ready()}))
                case _:
                    return Answer(200, _METRICS, self._metrics())
        except WireError as error:
            raise Refusal(
                400, "invalid_request", f"The body is no such message: {error}."
            ) from None
        except Busy:
            raise Refusal(503, "busy", "Too much waits to be encoded.") from None
        except IndexUnavailable as error:
            raise Refusal(503, "index_unavailable", str(error)) from None
        except SourceUnavailable as error:
            raise Refusal(503, "store_unavailable", str(error)) from None
        except MemoryError:
            end_process()
        except Exception:
            # The last resort: one request's defect is not the end of its connection.
            logger.exception("a request failed by a defect")
            raise Refusal(500, "defect", "This failed by a defect; the log has it.") from None
