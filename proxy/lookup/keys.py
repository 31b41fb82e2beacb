"""The exact key: what two requests must have in common to share one stored response.

The key covers the whole request but a deny-list: fields nobody here has heard of count, because
every hand-kept list of fields that count has at some time forgotten one. Each entry of the
deny-list has its reason beside it.

Texts are compared after normalisation that keeps their meaning (Unicode NFC, line ends, outer
white space), and only where a person or a program talks to the model: system, developer and user
texts. Prompts to complete, assistant texts and everything else count to the letter: there, a
trailing space changes the tokens.

Pure: the same request gives the same key on every machine.
"""

import hashlib
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from proxy.wire.endpoint import Endpoint
from proxy.wire.request import CacheableRequest, JsonObject

FORMAT: Final = "recollect-key-1"
"""Part of every key: whoever changes the canonical form changes this, and all keys with it."""

_NOT_IN_KEY: Final[Mapping[str, str]] = {
    "stream": "how the answer is sent, not what it says: one stored response replays both ways",
    "stream_options": "likewise; options that change the events bypass the cache",
    "cache": "addressed to the cache (LiteLLM's field), never sent upstream",
    "user": "who asks, for the provider's abuse detection; tenants are told apart by credential",
    "safety_identifier": "the successor of user",
    "metadata": "labels for the provider's own records",
    "store": "whether the provider keeps a copy",
    "service_tier": "how fast it is answered and at what price",
    "prompt_cache_key": "a hint to the provider's own prompt cache",
    "prompt_cache_retention": "likewise",
    "priority": "vLLM: the place in its queue",
    "request_id": "vLLM: a name for its log",
}

# The Responses API sends these back inside the response object: an answer kept for another
# client would show that client's labels.
_ECHOED_BY_RESPONSES: Final = frozenset(
    {"user", "safety_identifier", "metadata", "store", "service_tier", "prompt_cache_key"}
    | {"prompt_cache_retention"}
)
_LEFT_OUT: Final[Mapping[Endpoint, frozenset[str]]] = {
    **dict.fromkeys(Endpoint, frozenset(_NOT_IN_KEY)),
    Endpoint.RESPONSES: frozenset(_NOT_IN_KEY) - _ECHOED_BY_RESPONSES,
}

_SAMPLING_DEFAULTS: Final[Mapping[str, object]] = {"temperature": 1, "top_p": 1}
_DEFAULTS: Final[Mapping[Endpoint, Mapping[str, object]]] = {
    Endpoint.CHAT: {
        **_SAMPLING_DEFAULTS,
        "n": 1,
        "presence_penalty": 0,
        "frequency_penalty": 0,
        "logprobs": False,
        "logit_bias": {},
        "response_format": {"type": "text"},
        "modalities": ["text"],
    },
    Endpoint.COMPLETIONS: {
        **_SAMPLING_DEFAULTS,
        "n": 1,
        "best_of": 1,
        "presence_penalty": 0,
        "frequency_penalty": 0,
        "echo": False,
        "logit_bias": {},
    },
    Endpoint.EMBEDDINGS: {"encoding_format": "float"},
    Endpoint.RESPONSES: {**_SAMPLING_DEFAULTS, "tools": [], "background": False},
}
# For these, null says the same as leaving the field out (OpenAI's API reference). Not so for
# tool_choice: vLLM puts "auto" in its place only where it is left out. Nor are empty tools the
# same as none: some chat templates announce them.
_NULLABLE: Final = frozenset(
    {"stop", "seed", "max_tokens", "max_completion_tokens", "max_output_tokens", "response_format"}
    | {"tools", "functions", "top_logprobs", "suffix"}
    | {"instructions", "previous_response_id", "conversation", "dimensions", "reasoning_effort"}
    | {"logit_bias", "modalities", "audio", "prediction", "web_search_options", "verbosity"}
)
_NORMALISED_ROLES: Final = ("system", "developer", "user")
_TEXT_PARTS: Final = ("text", "input_text")
_EXACT_DOUBLES: Final = 2**53
_INTEGER_LIMIT: Final = 2**63


class Unkeyable(Exception):
    """A number in the request is outside the range in which parsers agree (RFC 8259 §6)."""


@dataclass(frozen=True, slots=True)
class KeyScope:
    """What counts beside the body.

    Attributes:
        tenant: Whose request it is, from the credential.
        revision: What stands behind the upstream, and behind the route: model, adapter,
            template revision.
        headers: Values of the request headers that count, in a fixed order.
        query: The raw query string.
        namespace: What the client keeps apart within its tenant (LiteLLM's `cache.namespace`).
        ignored: Further top-level fields left out, by configuration.
        fold_defaults: Whether a parameter at its documented default equals an absent one.
    """

    tenant: str
    revision: tuple[str, str]
    headers: tuple[str | None, ...]
    query: str
    namespace: str | None = None
    ignored: frozenset[str] = frozenset()
    fold_defaults: bool = True


def exact_key(request: CacheableRequest, scope: KeyScope) -> bytes:
    """Return the request's key, 32 bytes.

    Raises:
        Unkeyable: Two different numbers could have been read as one.
    """
    return digest(FORMAT, request.endpoint, scope, canonical_body(request, scope))


def input_keys(request: CacheableRequest, scope: KeyScope, inputs: Sequence[object]) -> list[bytes]:
    """Return the key of each input of an embeddings request, as if each had been sent alone.

    Raises:
        Unkeyable: Two different numbers could have been read as one.
    """
    body = canonical_body(request, scope)
    keys = []
    for item in inputs:
        body["input"] = [_plain_numbers(item)]
        keys.append(digest(FORMAT, request.endpoint, scope, body))
    return keys


def canonical_body(request: CacheableRequest, scope: KeyScope) -> JsonObject:
    """Return the part of the body that counts, in the form in which it counts.

    Raises:
        Unkeyable: Two different numbers could have been read as one.
    """
    endpoint = request.endpoint
    left_out = _LEFT_OUT[endpoint]
    defaults = _DEFAULTS[endpoint] if scope.fold_defaults else {}
    kept: JsonObject = {}
    for name, value in request.body.items():
        if name in left_out or name in scope.ignored:
            continue
        if value is None and (name in _NULLABLE or name in defaults):
            continue
        plain = _plain_numbers(value)
        if name in defaults and _is_default(plain, defaults[name]):
            continue
        kept[name] = plain
    if endpoint is Endpoint.CHAT and "messages" in kept:
        kept["messages"] = [_normal_message(message) for message in kept["messages"]]
    elif endpoint is Endpoint.RESPONSES:
        _normalise_responses(kept)
    return kept


def digest(kind: str, endpoint: Endpoint, scope: KeyScope, body: JsonObject) -> bytes:
    """Return 32 bytes that stand for `body` within its scope.

    Args:
        kind: What they are for; no two kinds ever give the same.
        endpoint: Where it was sent to.
        scope: What counts beside it.
        body: From `canonical_body`, or made of that.
    """
    # A list, so that no part can run into the next one.
    parts = [
        kind,
        scope.tenant,
        scope.namespace,
        endpoint.value,
        scope.revision,
        scope.headers,
        scope.query,
        body,
    ]
    return hashlib.sha256(orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)).digest()


def _is_default(value: object, default: object) -> bool:
    # Python says True == 1 and False == 0; JSON does not.
    return type(value) is type(default) and value == default


def _plain_numbers(value: Any) -> Any:
    """Give equal numbers one form: `0`, `0.0` and `-0.0` are the same number (RFC 8259 §6)."""
    kind = type(value)
    if kind is float:
        if abs(value) >= _INTEGER_LIMIT:
            # The parser reads integers past 64 bits as doubles, and so makes neighbours equal.
            raise Unkeyable
        if abs(value) < _EXACT_DOUBLES and value == int(value):
            return int(value)
        return value
    if kind is dict:
        return {name: _plain_numbers(item) for name, item in value.items()}
    if kind is list:
        return [_plain_numbers(item) for item in value]
    return value


def _normal_text(text: str, *, is_first: bool = True, is_last: bool = True) -> str:
    """Return `text` in NFC, with line feeds as line ends and without outer white space.

    White space is an outer one only where the whole text begins or ends.
    """
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    if is_first:
        text = text.lstrip()
    return text.rstrip() if is_last else text


def _normal_message(message: JsonObject) -> JsonObject:
    if message.get("role") not in _NORMALISED_ROLES:
        return message
    content = message.get("content")
    if type(content) is str:
        return {**message, "content": _normal_text(content)}
    if type(content) is list:
        return {**message, "content": _normal_parts(content)}
    return message


def _normal_parts(parts: Sequence[Any]) -> list[Any]:
    # Upstreams join the texts of a message: between two parts a space may part two words.
    last = len(parts) - 1
    return [
        {
            **part,
            "text": _normal_text(part["text"], is_first=place == 0, is_last=place == last),
        }
        if type(part) is dict and part.get("type") in _TEXT_PARTS and type(part.get("text")) is str
        else part
        for place, part in enumerate(parts)
    ]


def _normalise_responses(body: JsonObject) -> None:
    given = body.get("input")
    if type(given) is str:
        body["input"] = _normal_text(given)
    elif type(given) is list:
        body["input"] = [_normal_message(item) if type(item) is dict else item for item in given]
    if type(body.get("instructions")) is str:
        body["instructions"] = _normal_text(body["instructions"])
