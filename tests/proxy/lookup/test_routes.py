"""Which rules hold for which model."""

import tracemalloc
from dataclasses import replace
from typing import Any

import pytest

from config.settings import Settings
from embeddings.wire import MOST_ROUTE_CHARS
from proxy.lookup.routes import Routes


def routes(*given: dict[str, Any], **sections: dict[str, Any]) -> Routes:
    return Routes(Settings.model_validate({**sections, "routes": given}))


def test_default_route_follows_the_settings() -> None:
    """Every setting that a route has must reach it."""
    route = routes(
        cache={
            "ttl_s": 11,
            "max_ttl_s": 22,
            "jitter": 0.3,
            "max_stale_s": 44,
            "stale_if_error_s": 33,
            "stale_while_revalidate_s": 22,
            "upstream_cache_control": "honour",
            "fold_defaults": False,
            "side_effect_tools": ["send_*"],
            "ignore_fields": ["trace"],
        },
        upstream={"revision": "r1", "stores_responses": True},
    ).of("m")

    rules = route.rules
    assert rules.cache
    assert (rules.ttl_s, rules.max_ttl_s, rules.jitter) == (11, 22, 0.3)
    assert (rules.max_stale_s, rules.stale_if_error_s, rules.stale_while_revalidate_s) == (
        44,
        33,
        22,
    )
    assert rules.honours_upstream
    assert rules.stores_responses
    assert rules.side_effect_tools == ("send_*",)
    assert route.revision == ("r1", "")
    assert route.ignored == {"trace"}
    assert not route.fold_defaults
    assert not route.is_shared


def test_defaults_are_on_the_safe_side() -> None:
    """Nothing shared, nothing ignored, nothing stale, the upstream's word not needed."""
    route = routes().of("m")

    assert (route.is_shared, route.ignored, route.revision) == (False, frozenset(), ("", ""))
    assert route.fold_defaults
    assert not route.rules.honours_upstream
    assert not route.rules.stores_responses


def test_route_overrides_the_settings_it_names() -> None:
    """And no others; what is ignored adds up."""
    found = routes(
        {
            "models": ["a"],
            "cache": False,
            "ttl_s": 5,
            "shared": True,
            "revision": "r2",
            "ignore_fields": ["seed"],
            "fold_defaults": False,
            "max_error": 0.05,
        },
        {"models": ["b"]},
        cache={"ttl_s": 11, "ignore_fields": ["trace"], "fold_defaults": True},
        upstream={"revision": "r1"},
        semantic={"max_error": 0.01},
    )

    a, b = found.of("a"), found.of("b")

    assert (a.rules.cache, a.rules.ttl_s, a.is_shared, a.revision) == (False, 5, True, ("r1", "r2"))
    assert a.ignored == {"seed", "trace"}
    assert not a.fold_defaults
    assert (a.max_error, b.max_error) == (0.05, 0.01)
    assert (b.rules.cache, b.rules.ttl_s, b.is_shared, b.revision) == (True, 11, False, ("r1", ""))
    assert b.ignored == {"trace"}
    assert b.fold_defaults
    assert found.of("c") == replace(b, name="default")


def test_route_is_named_by_its_patterns() -> None:
    """In metrics and in the log of samples; never too long for a look-up."""
    found = routes({"models": ["a-*", "b"]}, {"models": ["x" * 200, "y" * 200]})

    assert found.of("b").name == found.of("a-1").name == "a-*,b"
    assert found.of("other").name == "default"
    assert len(found.of("y" * 200).name) <= MOST_ROUTE_CHARS


GLOBS: list[tuple[list[str], str, bool]] = [
    (["gpt-4o"], "gpt-4o", True),
    (["gpt-4o"], "gpt-4o-mini", False),
    (["gpt-4o"], "GPT-4o", False),
    (["gpt-*"], "gpt-4o-mini", True),
    (["*/llama-?b"], "meta/llama-8b", True),
    (["a", "b*"], "bc", True),
    (["*"], "", True),
    (["?*"], "", False),
    (["*b"], "a\nb", True),
    (["*b"], "x" * 100_000 + "b", True),
]


@pytest.mark.parametrize(("models", "model", "is_found"), GLOBS)
def test_models_are_named_by_globs(models: list[str], model: str, is_found: bool) -> None:
    """Whole names, case-sensitive; any bytes in a name are only that. Asked twice: the second
    answer is remembered."""
    found = routes({"models": models, "ttl_s": 5})

    for _ in range(2):
        assert (found.of(model).rules.ttl_s == 5) == is_found


def test_first_route_that_names_the_model_holds() -> None:
    """The order is the operator's."""
    found = routes({"models": ["a*"], "ttl_s": 1}, {"models": ["ab"], "ttl_s": 2})

    assert found.of("ab").rules.ttl_s == 1


@pytest.mark.parametrize(("size_bytes", "count"), [(100_000, 100), (4, 20_000)])
def test_what_clients_send_does_not_fill_memory(size_bytes: int, count: int) -> None:
    """A name may be as long as a body; and who was forgotten has still the same route."""
    found = routes({"models": ["7*"], "ttl_s": 1})
    first = found.of("7")

    tracemalloc.start()
    for number in range(count):
        found.of(str(number) * size_bytes)
    held_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert held_bytes < 1_000_000
    assert found.of("7") is first


MODES: list[tuple[str | None, str | None, str, bool]] = [
    (None, None, "off", False),
    (None, "on", "off", False),
    ("off", None, "off", False),
    ("off", "on", "off", False),
    ("off", "shadow", "off", False),
    ("shadow", None, "shadow", False),
    ("shadow", "on", "on", True),
    ("on", None, "on", True),
    ("on", "shadow", "shadow", False),
    ("on", "off", "off", False),
]


@pytest.mark.parametrize(("mode", "own", "effective", "follows"), MODES)
def test_semantic_mode_of_a_route_counts_unless_the_tier_is_off(
    mode: str | None, own: str | None, effective: str, follows: bool
) -> None:
    """`off` means that there is no embedding process to ask. Answers to other words, aliases among
    them, are given only where it is `on`."""
    section = {} if mode is None else {"mode": mode}
    given = {"models": ["m"]} if own is None else {"models": ["m"], "semantic": own}
    route = routes(given, semantic=section).of("m")

    assert route.semantic == effective
    assert route.follows_aliases == follows
    assert routes(semantic=section).of("m").semantic == (mode or "off")


@pytest.mark.parametrize(
    ("history", "own", "chains"),
    [
        (None, None, False),
        ("chain", None, True),
        ("chain", "exact", False),
        (None, "chain", True),
        ("exact", "chain", True),
    ],
)
def test_history_of_a_route_overrides_the_settings(
    history: str | None, own: str | None, chains: bool
) -> None:
    """Opt-in, per route or for all."""
    section = {} if history is None else {"history": history}
    given = {"models": ["m"]} if own is None else {"models": ["m"], "history": own}

    assert routes(given, semantic=section).of("m").chains_history == chains
