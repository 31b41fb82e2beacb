"""What one request asks of the cache: its key, its wishes, and the rules that hold for it."""

from dataclasses import dataclass, replace

from proxy.lookup.keys import KeyScope
from proxy.lookup.routes import Route, Routes
from proxy.lookup.tenants import Tenants
from proxy.wire import exact_json
from proxy.wire.cache_control import RequestDirectives, request_directives
from proxy.wire.request import BadRequest, CacheableRequest, JsonObject

KEYED_HEADERS = (b"openai-organization", b"openai-project", b"openai-beta")
"""Request headers that change what an upstream answers, or on whose account."""

_NO_DIRECTIVES = RequestDirectives()


@dataclass(frozen=True, slots=True)
class Ask:
    """One readable request and all that decides about it, but for the clock.

    Attributes:
        request: What was sent.
        directives: What it asked of caches.
        ttl_s: The lifetime it asked for.
        route: The operator's rules for its model.
        scope: What counts in its key beside the body.
        content: What goes upstream.
    """

    request: CacheableRequest
    directives: RequestDirectives
    ttl_s: float | None
    route: Route
    scope: KeyScope
    content: bytes


class Reader:
    """Makes an `Ask` of a request."""

    def __init__(self, routes: Routes, tenants: Tenants, key_headers: tuple[str, ...]) -> None:
        self._routes = routes
        self._tenants = tenants
        self._keyed = KEYED_HEADERS + tuple(name.lower().encode() for name in key_headers)

    def read(
        self,
        request: CacheableRequest,
        raw: bytes,
        headers: list[tuple[bytes, bytes]],
        named: dict[bytes, bytes],
        query: str,
    ) -> Ask:
        """Return what `request` asks.

        Args:
            request: What `raw` says.
            raw: Its content as it came.
            headers: All its header fields, names in lower case.
            named: The same by name; see `by_name`.
            query: Its raw query string.

        Raises:
            BadRequest: Its `cache` field is not understood.
        """
        route = self._routes.of(request.model)
        directives = _NO_DIRECTIVES
        if b"cache-control" in named or b"pragma" in named:
            directives = request_directives(headers)
        scope = KeyScope(
            tenant="shared" if route.is_shared else self._tenants.of(named),
            revision=route.revision,
            headers=tuple(
                value.decode("latin-1") if (value := named.get(name)) is not None else None
                for name in self._keyed
            ),
            query=query,
            ignored=route.ignored,
            fold_defaults=route.fold_defaults,
        )
        ask = Ask(request, directives, None, route, scope, raw)
        if "cache" in request.body:
            return _with_cache_field(ask)
        return ask


def _with_cache_field(ask: Ask) -> Ask:
    """Understand LiteLLM's `cache` field, and take it off what goes upstream."""
    wishes: JsonObject = ask.request.body["cache"] or {}
    given = ask.directives
    content = exact_json.loads(ask.content)
    del content["cache"]
    return replace(
        ask,
        directives=replace(
            given,
            no_store=_flag(wishes, "no-store") or given.no_store,
            no_cache=_flag(wishes, "no-cache") or given.no_cache,
            max_age_s=_smaller(given.max_age_s, _seconds(wishes, "s-maxage")),
        ),
        ttl_s=_seconds(wishes, "ttl"),
        scope=replace(ask.scope, namespace=_text(wishes, "namespace")),
        content=exact_json.dumps(content),
    )


def _flag(wishes: JsonObject, name: str) -> bool:
    value = wishes.get(name)
    if value is not None and type(value) is not bool:
        raise BadRequest(f"'cache.{name}' must be a boolean.", f"cache.{name}")
    return value is True


def _text(wishes: JsonObject, name: str) -> str | None:
    value = wishes.get(name)
    if value is not None and type(value) is not str:
        raise BadRequest(f"'cache.{name}' must be a string.", f"cache.{name}")
    return value


def _seconds(wishes: JsonObject, name: str) -> float | None:
    value = wishes.get(name)
    if value is None:
        return None
    if type(value) not in (int, float) or value < 0:
        raise BadRequest(
            f"'cache.{name}' must be a number of seconds, at least 0.", f"cache.{name}"
        )
    return float(value)


def _smaller(one: float | None, other: float | None) -> float | None:
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)
