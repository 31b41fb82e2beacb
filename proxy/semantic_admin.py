"""What an operator asks of the semantic tier, and tells it: explain, feedback, how routes stand.

    POST /admin/explain    {"request": …, "headers": …}              why it was, or was not, a hit
    POST /admin/feedback   {"key" or "request": …, "verdict": …}     that an answer is good or bad
    GET  /admin/semantic                                             the error budgets

Prompts are shown here. So these paths ask for the admin token; without one they are answered only
where the listener can be reached from this machine alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from cachestore.errors import StoreError
from cachestore.redis_store import RedisStore
from embeddings.client import EmbeddingClient, EmbeddingsUnavailable
from embeddings.guards.conflict import conflict
from embeddings.guards.traits import traits
from embeddings.wire import KEY_BYTES, Feedback, LookUp
from proxy.errors import ErrorAnswer
from proxy.exchange import BodyTooLarge, Exchange, http_date, shows_token
from proxy.lookup.ask import Ask, Reader
from proxy.lookup.keys import Unkeyable, exact_key
from proxy.lookup.meaning import ExactOnly, Question
from proxy.lookup.semantic_tier import SemanticTier
from proxy.lookup.tiers import Tiers
from proxy.metrics import Outcome
from proxy.wire.endpoint import Endpoint
from proxy.wire.request import BadRequest, Unreadable, read_request

PATHS: Final = {
    b"/admin/explain": "POST",
    b"/admin/feedback": "POST",
    b"/admin/semantic": "GET",
}
"""Each with its method."""

_ENDPOINTS: Final = (
    ("messages", Endpoint.CHAT),
    ("input", Endpoint.RESPONSES),
    ("prompt", Endpoint.COMPLETIONS),
)
_FROM_ELSEWHERE: Final = frozenset({b"origin", b"forwarded", b"x-forwarded-for", b"via"})
_VERDICTS: Final = {"good": True, "bad": False}


@dataclass(frozen=True, slots=True)
class Access:
    """Who may ask.

    Attributes:
        token: The admin token; None for none.
        is_local: Whether the listener can be reached from this machine alone.
    """

    token: str | None
    is_local: bool

    def refusal(self, fields: Mapping[bytes, bytes]) -> ErrorAnswer | None:
        """Return why whoever sent these header fields may not ask; None if they may."""
        if self.token is None:
            # A page in a browser on this machine, or a proxy on it, is not its operator.
            if self.is_local and _FROM_ELSEWHERE.isdisjoint(fields):
                return None
            message = "Without admin.token this is answered to this machine only."
            return ErrorAnswer(403, message, "admin_token_unset")
        if shows_token(fields, self.token):
            return None
        field = ((b"www-authenticate", b"Bearer"),)
        message = "The admin token is needed here."
        return ErrorAnswer(401, message, "invalid_admin_token", headers=field)


class SemanticAdmin:
    """Answers `PATHS`.

    Args:
        access: Who may ask.
        reader: Makes of a request what the handler makes of it.
        semantic: The semantic tier.
        tiers: Where stored responses are looked up.
        redis: Where a bad one is deleted.
        embeddings: The embedding process; None where there is none.
        has_budgets: Whether an error budget decides on any route.
        body_bytes: The largest body that is read.
        json_depth: The deepest JSON that is read.
    """

    def __init__(
        self,
        *,
        access: Access,
        reader: Reader,
        semantic: SemanticTier,
        tiers: Tiers,
        redis: RedisStore,
        embeddings: EmbeddingClient | None,
        has_budgets: bool,
        body_bytes: int,
        json_depth: int,
    ) -> None:
        self._access = access
        self._reader = reader
        self._semantic = semantic
        self._tiers = tiers
        self._redis = redis
        self._embeddings = embeddings
        self._has_budgets = has_budgets
        self._body_bytes = body_bytes
        self._json_depth = json_depth

    async def answer(self, exchange: Exchange, path: bytes) -> None:
        """Answer a request to one of `PATHS`."""
        if (refusal := self._refusal(exchange, path)) is not None:
            await exchange.refuse(refusal, Outcome.REFUSED)
            return
        embeddings = self._embeddings
        if embeddings is None:
            message = "The semantic tier is off (semantic.mode)."
            await exchange.refuse(ErrorAnswer(409, message, "semantic_off"), Outcome.REFUSED)
            return
        try:
            if path == b"/admin/semantic":
                said: dict[str, Any] = {"routes": (await embeddings.stats()).get("routes", {})}
            else:
                wishes = self._object(await exchange.body(self._body_bytes), "the body")
                if path == b"/admin/explain":
                    said = await self._explain(embeddings, wishes)
                else:
                    said = await self._take_feedback(embeddings, wishes)
        except BodyTooLarge:
            message = f"The body is larger than {self._body_bytes} bytes."
            await exchange.refuse(ErrorAnswer(413, message, "body_too_large"), Outcome.REFUSED)
            return
        except BadRequest as error:
            refusal = ErrorAnswer(400, error.message, "invalid_request", error.param)
            await exchange.refuse(refusal, Outcome.REFUSED)
            return
        except EmbeddingsUnavailable as error:
            message = f"The embedding process cannot be asked now ({error.kind}). Try again."
            refusal = ErrorAnswer(503, message, "semantic_unavailable")
            await exchange.refuse(refusal, Outcome.REFUSED)
            return
        except StoreError:
            message = "Redis cannot be asked now. Nothing is half done: try again."
            await exchange.refuse(ErrorAnswer(503, message, "store_unavailable"), Outcome.REFUSED)
            return
        await _send(exchange, orjson.dumps(said))

    def _refusal(self, exchange: Exchange, path: bytes) -> ErrorAnswer | None:
        method = PATHS[path]
        if exchange.scope["method"] != method:
            message = f"Only {method} is answered here."
            field = ((b"allow", method.encode()),)
            return ErrorAnswer(405, message, "method_not_allowed", headers=field)
        return self._access.refusal(exchange.named)

    async def _explain(self, embeddings: EmbeddingClient, wishes: dict[str, Any]) -> dict[str, Any]:
        ask, key = self._asked(wishes)
        question = await self._semantic.question(ask)
        answer = self._tiers.peek(key) or await self._tiers.fetch(key, follows_aliases=True)
        said: dict[str, Any] = {
            "key": key.hex(),
            "route": ask.route.name,
            "mode": ask.route.semantic,
            "answered_by": None if answer is None else answer.key.hex(),
        }
        if not isinstance(question, Question):
            why = question.value if isinstance(question, ExactOnly) else "history"
            return {**said, "exact_only": why, "decision": None}
        said |= {
            "exact_only": None,
            "partition": question.partition.hex(),
            "text": question.text,
        }
        look_up = self._semantic.look_up_of(ask, key, question)
        if look_up.budgeted is not None:
            return {**said, "decision": await embeddings.explain(look_up)}
        return {**said, "decision": await self._by_threshold(embeddings, look_up)}

    async def _by_threshold(self, embeddings: EmbeddingClient, look_up: LookUp) -> dict[str, Any]:
        found = await embeddings.look_up(look_up)
        answers = await self._tiers.fetch_many([match.key for match in found.matches])
        asked, least = traits(look_up.text), self._semantic.min_score
        neighbours: list[dict[str, Any]] = []
        for match in found.matches:
            stored = answers.get(match.key)
            text = None if stored is None else stored.asked
            guard = None if not text else conflict(asked, traits(text))
            neighbours.append(
                {"key": match.key.hex(), "score": match.score, "text": text, "guard": guard}
            )
        served = next(
            (
                one
                for one in neighbours
                if one["text"] and one["guard"] is None and one["score"] >= least
            ),
            None,
        )
        return {
            "verdict": "refused" if found.refused else "unsure" if served is None else "serve",
            "refused": found.refused,
            "min_score": least,
            "neighbours": neighbours,
        }

    async def _take_feedback(
        self, embeddings: EmbeddingClient, wishes: dict[str, Any]
    ) -> dict[str, Any]:
        is_good = _VERDICTS.get(str(wishes.get("verdict")))
        if is_good is None:
            raise BadRequest('\'verdict\' must be "good" or "bad".', "verdict")
        key = self._key(wishes["key"]) if "key" in wishes else self._asked(wishes)[1]
        stored = await self._redis.get(key, follows_aliases=True)
        served = stored.key if stored is not None and stored.key != key else None
        # First what must last: should the eviction fail, the same feedback can be given again.
        is_of_use = await embeddings.feedback(Feedback(key, served, is_good))
        is_evicted = False
        if not is_good:
            is_evicted = await self._redis.delete(key)
            self._tiers.invalidate([key])
        return {
            "key": key.hex(),
            "answered_by": None if stored is None else stored.key.hex(),
            "evicted": is_evicted,
            # Pairs are looked at where a budget decides.
            "forbidden": is_of_use and not is_good and self._has_budgets,
        }

    @staticmethod
    def _key(given: object) -> bytes:
        try:
            key = bytes.fromhex(given) if isinstance(given, str) else b""
        except ValueError:
            key = b""
        if len(key) != KEY_BYTES:
            raise BadRequest(f"'key' must be {KEY_BYTES} bytes in hexadecimal.", "key")
        return key

    def _asked(self, wishes: dict[str, Any]) -> tuple[Ask, bytes]:
        """Return what a request asks, and its exact key."""
        body = wishes.get("request")
        if type(body) is not dict:
            raise BadRequest("'request' must be the body of a request.", "request")
        headers = wishes.get("headers", {})
        if type(headers) is not dict or not all(type(v) is str for v in headers.values()):
            raise BadRequest("'headers' must be an object of strings.", "headers")
        endpoint = next((e for field, e in _ENDPOINTS if field in body), None)
        if endpoint is None:
            names = ", ".join(repr(field) for field, _ in _ENDPOINTS)
            raise BadRequest(f"'request' must have one of {names}.", "request")
        try:
            raw = orjson.dumps(body)
        except orjson.JSONEncodeError as error:
            raise BadRequest("'request' is nested too deep.", "request") from error
        request = read_request(endpoint, raw, self._json_depth)
        assert not isinstance(request, Unreadable)  # it was read just now
        fields = [
            (name.lower().encode("latin-1", "replace"), value.encode("latin-1", "replace"))
            for name, value in headers.items()
        ]
        ask = self._reader.read(request, raw, fields, dict(fields), "")
        try:
            return ask, exact_key(request, ask.scope)
        except Unkeyable as error:
            raise BadRequest("'request' holds a number that no key can hold.", "request") from error

    def _object(self, raw: bytes, name: str) -> dict[str, Any]:
        try:
            read = orjson.loads(raw)
        except orjson.JSONDecodeError:
            read = None
        if type(read) is not dict:
            raise BadRequest(f"{name.capitalize()} must be a JSON object.")
        return read


async def _send(exchange: Exchange, content: bytes) -> None:
    exchange.outcome = Outcome.PASSED
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(content)),
        (b"cache-control", b"no-store"),
        (b"date", http_date()),
    ]
    await exchange.begin(200, headers)
    await exchange.end(content)
