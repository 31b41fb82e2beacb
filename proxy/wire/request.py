"""A request of a cacheable endpoint, read and checked as far as the cache must understand it.

The cache interprets a handful of fields (`model`, `stream`, …); all others are the upstream's
business and are neither checked nor changed. What the cache cannot read at all it does not
judge: the bytes go upstream, which says what is wrong.

Refused are only requests that two readers could understand differently, because a cache that
answers them may answer something else than the upstream would: repeated keys, NaN, lone
surrogates (RFC 8259 §4, §6, §8.2), nesting past the limit, and wrong types of the interpreted
fields. No refusal repeats what it refuses: a field's value may be part of a prompt.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import NoneType
from typing import Any, Final

import orjson

from proxy.wire.endpoint import Endpoint, Form

JsonObject = dict[str, Any]

_Check = tuple[str, tuple[type, ...], str]
"""A field, the Python types of the JSON values it may have, and the same in words."""

_EVERYWHERE: Final[tuple[_Check, ...]] = (
    ("model", (str,), "a string"),
    ("stream", (bool, NoneType), "a boolean"),
    ("stream_options", (dict, NoneType), "an object"),
    ("cache", (dict, NoneType), "an object"),
    ("store", (bool, NoneType), "a boolean"),
    ("background", (bool, NoneType), "a boolean"),
    ("tools", (list, NoneType), "an array"),
    ("functions", (list, NoneType), "an array"),
    ("modalities", (list, NoneType), "an array"),
)
_CHECKS: Final[Mapping[Endpoint, tuple[_Check, ...]]] = {
    Endpoint.CHAT: (*_EVERYWHERE, ("messages", (list,), "an array of messages")),
    # A completion may begin from nothing, and a response from a prompt kept upstream.
    Endpoint.COMPLETIONS: (*_EVERYWHERE, ("prompt", (str, list, NoneType), "a string or an array")),
    Endpoint.EMBEDDINGS: (*_EVERYWHERE, ("input", (str, list), "a string or an array")),
    Endpoint.RESPONSES: (*_EVERYWHERE, ("input", (str, list, NoneType), "a string or an array")),
}
_LONGEST_PARAM: Final = 64


class BadRequest(Exception):
    """The request is refused with status 400.

    Args:
        message: What is wrong and what would be right, for the client.
        param: The field it is about, if one can be named.
    """

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Not a JSON object: goes upstream as it is."""


@dataclass(frozen=True, slots=True)
class CacheableRequest:
    """One readable request.

    Attributes:
        endpoint: Which of the cacheable endpoints was asked.
        body: The parsed JSON object. Not to be changed: several readers share it.
        model: The model's name, "" where the client named none.
        is_stream: Whether the answer is wanted as server-sent events.
        include_usage: Whether a streamed answer is wanted with its usage chunk.
    """

    endpoint: Endpoint
    body: JsonObject
    model: str
    is_stream: bool
    include_usage: bool

    @property
    def form(self) -> Form:
        """The form in which the answer is wanted."""
        return Form.SSE if self.is_stream else Form.JSON


def read_request(endpoint: Endpoint, raw: bytes, max_depth: int) -> CacheableRequest | Unreadable:
    """Parse `raw` and check what the cache interprets.

    Args:
        endpoint: The endpoint it was sent to.
        raw: The request's content, decoded from any content coding.
        max_depth: The deepest nesting of arrays and objects let through; at most 250, so that
            the JSON can be written again.

    Raises:
        BadRequest: See the module's text for what is refused.
    """
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return _diagnose(raw, max_depth)
    if type(body) is not dict:
        return Unreadable()
    # No document nests deeper than it has opening brackets: almost every request passes here.
    if raw.count(b"{") + raw.count(b"[") > max_depth and _depth_exceeds(body, max_depth):
        raise _too_deep(max_depth)
    # Each member has one colon, and a colon in a text survives the round trip, unless it was
    # escaped. So a lost member shows as a lost colon; only then look closely.
    if orjson.dumps(body).count(b":") != raw.count(b":") or b"\\u003a" in raw or b"\\u003A" in raw:
        _refuse_repeated_keys(raw)
    _check_types(endpoint, body)
    options = body.get("stream_options") or {}
    is_stream = body.get("stream") is True
    return CacheableRequest(
        endpoint=endpoint,
        body=body,
        model=body.get("model", ""),
        is_stream=is_stream,
        include_usage=is_stream and options.get("include_usage") is True,
    )


def _check_types(endpoint: Endpoint, body: JsonObject) -> None:
    for name, kinds, wanted in _CHECKS[endpoint]:
        if name in body and type(body[name]) not in kinds:
            raise BadRequest(f"'{name}' must be {wanted}.", name)
    # `1` and "yes" are true to some upstreams; to a cache they must not be something else.
    options = body.get("stream_options") or {}
    if type(options.get("include_usage")) not in (bool, NoneType):
        name = "stream_options.include_usage"
        raise BadRequest(f"'{name}' must be a boolean.", name)
    if endpoint is Endpoint.CHAT:
        for index, message in enumerate(body.get("messages", ())):
            if type(message) is not dict:
                raise BadRequest(f"'messages[{index}]' must be an object.", f"messages[{index}]")


def _depth_exceeds(value: object, levels: int) -> bool:
    # Level by level rather than by recursion: the depth is the client's to choose.
    layer = [value]
    for _ in range(levels):
        following: list[object] = []
        for item in layer:
            if type(item) is dict:
                following.extend(item.values())
            elif type(item) is list:
                following.extend(item)
        if not following:
            return False
        layer = following
    return any(type(item) is dict or type(item) is list for item in layer)


def _too_deep(max_depth: int) -> BadRequest:
    return BadRequest(f"The request's JSON is nested deeper than {max_depth} levels.")


def _diagnose(raw: bytes, max_depth: int) -> Unreadable:
    """Tell JSON that only lenient readers accept from what is no JSON at all."""
    try:
        body = json.loads(raw, parse_constant=_refuse_constant, parse_float=_finite)
    except RecursionError:
        raise _too_deep(max_depth) from None
    except ValueError:
        return Unreadable()
    if _depth_exceeds(body, max_depth):
        raise _too_deep(max_depth)
    try:
        json.dumps(body, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise BadRequest(
            "The request has a lone surrogate (\\ud800 to \\udfff without its partner), "
            "which is no Unicode text."
        ) from None
    return Unreadable()


def _refuse_constant(name: str) -> None:
    raise BadRequest(f"{name} is not a JSON number.")


def _finite(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise BadRequest("A number in the request is too large for a double.")
    return number


def _refuse_repeated_keys(raw: bytes) -> None:
    def member(pairs: list[tuple[str, object]]) -> None:
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise BadRequest(
                    "A key stands twice in one object.",
                    name if len(name) <= _LONGEST_PARAM else None,
                )
            seen.add(name)

    json.loads(raw, object_pairs_hook=member)
