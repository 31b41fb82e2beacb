"""Keys of requests, for the tests of `proxy.lookup`."""

import json
from typing import Any

from proxy.lookup.keys import KeyScope, exact_key
from proxy.wire.endpoint import Endpoint
from proxy.wire.request import CacheableRequest, read_request

Json = dict[str, Any]

SCOPE = KeyScope(tenant="hmac:1", revision=("", ""), headers=(None, None, None), query="")
CHAT: Json = {"model": "m", "messages": [{"role": "user", "content": "How many?"}]}
BASES: dict[Endpoint, Json] = {
    Endpoint.CHAT: CHAT,
    Endpoint.COMPLETIONS: {"model": "m", "prompt": "How many?"},
    Endpoint.EMBEDDINGS: {"model": "m", "input": "How many?"},
    Endpoint.RESPONSES: {"model": "m", "input": "How many?"},
}


def read(raw: str, endpoint: Endpoint = Endpoint.CHAT) -> CacheableRequest:
    request = read_request(endpoint, raw.encode(), max_depth=128)
    assert isinstance(request, CacheableRequest)
    return request


def key(body: Json | str, endpoint: Endpoint = Endpoint.CHAT, scope: KeyScope = SCOPE) -> bytes:
    return exact_key(read(body if isinstance(body, str) else json.dumps(body), endpoint), scope)
