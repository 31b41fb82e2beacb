"""Which rules hold for which model."""

from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Final

from cachetools import LRUCache

from config.semantic import SemanticMode
from config.settings import RouteSettings, Settings
from embeddings.wire import MOST_ROUTE_CHARS
from proxy.lookup.policy import RouteRules

_REMEMBERED_MODELS: Final = 1000
_LONGEST_REMEMBERED: Final = 256
"""Longer names are looked for each time: what a client sends must not fill memory."""


@dataclass(frozen=True, slots=True)
class Route:
    """What an operator decided for some models.

    Attributes:
        rules: For the decisions.
        revision: Stands in the key: what is behind the upstream and behind the route now.
        is_shared: Whether all tenants share its stored responses.
        ignored: Top-level fields left out of the key.
        fold_defaults: Whether parameters at their default equal absent ones.
        name: Its patterns, for those who look at its numbers.
        semantic: What the semantic tier does for these requests.
        max_error: The largest share of hits by meaning that may be wrong; None for no budget.
        chains_history: Whether earlier turns also count as equal where the same stored responses
            answered them.
    """

    rules: RouteRules
    revision: tuple[str, str]
    is_shared: bool
    ignored: frozenset[str]
    fold_defaults: bool
    name: str = "default"
    semantic: SemanticMode = "off"
    max_error: float | None = None
    chains_history: bool = False

    @property
    def follows_aliases(self) -> bool:
        """Whether answers to other words may be given at all."""
        return self.semantic == "on"


class Routes:
    """Finds a model's route: the first that names it, else the default."""

    def __init__(self, settings: Settings) -> None:
        self._default = replace(_route(settings, RouteSettings(models=("*",))), name="default")
        self._named = [(route.models, _route(settings, route)) for route in settings.routes]
        self._remembered: LRUCache[str, Route] = LRUCache(_REMEMBERED_MODELS)

    def of(self, model: str) -> Route:
        """Return the route of `model`."""
        if not self._named:
            return self._default
        route = self._remembered.get(model)
        if route is None:
            route = self._find(model)
            if len(model) <= _LONGEST_REMEMBERED:
                self._remembered[model] = route
        return route

    def _find(self, model: str) -> Route:
        for patterns, route in self._named:
            if any(fnmatchcase(model, pattern) for pattern in patterns):
                return route
        return self._default


def _route(settings: Settings, route: RouteSettings) -> Route:
    cache, semantic = settings.cache, settings.semantic
    mode = semantic.mode or "off"
    return Route(
        rules=RouteRules(
            cache=route.cache,
            ttl_s=cache.ttl_s if route.ttl_s is None else route.ttl_s,
            max_ttl_s=cache.max_ttl_s,
            jitter=cache.jitter,
            max_stale_s=cache.max_stale_s,
            stale_if_error_s=cache.stale_if_error_s,
            stale_while_revalidate_s=cache.stale_while_revalidate_s,
            honours_upstream=cache.upstream_cache_control == "honour",
            stores_responses=settings.upstream.stores_responses,
            side_effect_tools=cache.side_effect_tools,
        ),
        revision=(settings.upstream.revision, route.revision),
        is_shared=route.shared,
        ignored=frozenset(cache.ignore_fields) | frozenset(route.ignore_fields),
        fold_defaults=cache.fold_defaults if route.fold_defaults is None else route.fold_defaults,
        name=",".join(route.models)[:MOST_ROUTE_CHARS],
        max_error=semantic.max_error if route.max_error is None else route.max_error,
        semantic=mode if mode == "off" or route.semantic is None else route.semantic,
        chains_history=(route.history or semantic.history) == "chain",
    )
