"""What one request asks of the cache."""

import json
from typing import Any

import pytest

from config.settings import Settings
from proxy.lookup.ask import Ask, Reader
from proxy.lookup.keys import exact_key
from proxy.lookup.routes import Routes
from proxy.lookup.tenants import Tenants
from proxy.wire.cache_control import RequestDirectives
from proxy.wire.endpoint import Endpoint
from proxy.wire.fields import by_name
from proxy.wire.request import BadRequest, CacheableRequest, read_request

Header = tuple[bytes, bytes]
PLAIN = '{"model":"m","messages":[]}'


def reader(*key_headers: str, **route: Any) -> Reader:
    settings = Settings.model_validate({"routes": [{"models": ["*"], **route}]})
    return Reader(Routes(settings), Tenants(b"s" * 32, {}), key_headers)


def ask(raw: str, *headers: Header, of: Reader | None = None, query: str = "") -> Ask:
    request = read_request(Endpoint.CHAT, raw.encode(), max_depth=64)
    assert isinstance(request, CacheableRequest)
    return (of or reader()).read(request, raw.encode(), list(headers), by_name(headers), query)


def key(raw: str, *headers: Header, of: Reader | None = None, query: str = "") -> bytes:
    found = ask(raw, *headers, of=of, query=query)
    return exact_key(found.request, found.scope)


def cache_field(**wishes: Any) -> str:
    return json.dumps({"model": "m", "messages": [], "cache": wishes})


def test_plain_request_asks_nothing_and_goes_upstream_as_it_is() -> None:
    """Byte for byte."""
    raw = ' {"messages": [], "model":"m", "x": 1e-05}\n'

    found = ask(raw)

    assert found.content == raw.encode()
    assert found.directives == RequestDirectives()
    assert found.ttl_s is None


@pytest.mark.parametrize(
    ("header", "wanted"),
    [
        ((b"cache-control", b"no-store"), RequestDirectives(no_store=True)),
        (
            (b"cache-control", b"max-age=5, only-if-cached"),
            RequestDirectives(False, False, True, 5),
        ),
        ((b"pragma", b"no-cache"), RequestDirectives(no_cache=True)),
        ((b"accept", b"no-cache"), RequestDirectives()),
    ],
)
def test_cache_control_is_read(header: Header, wanted: RequestDirectives) -> None:
    """RFC 9111 §5.2.1 and §5.4."""
    assert ask(PLAIN, header).directives == wanted


def test_cache_control_of_several_lines_counts_as_one() -> None:
    """RFC 9110 §5.3."""
    lines = [(b"cache-control", b"max-age=5"), (b"cache-control", b"no-cache")]

    assert ask(PLAIN, *lines).directives == RequestDirectives(no_cache=True, max_age_s=5)


SEPARATING: list[list[Header]] = [
    [],
    [(b"openai-organization", b"o")],
    [(b"openai-organization", b"")],
    [(b"openai-organization", b"\xff")],
    [(b"openai-project", b"o")],
    [(b"openai-beta", b"o")],
    [(b"x-variant", b"o")],
    [(b"authorization", b"Bearer o")],
    [(b"authorization", b"Bearer p")],
    [(b"x-api-key", b"o")],
    [(b"openai-project", b"p"), (b"openai-project", b"o")],
    [(b"openai-project", b"q"), (b"openai-project", b"o")],
    [(b"authorization", b"Bearer q"), (b"authorization", b"Bearer o")],
]


def test_headers_that_count_separate() -> None:
    """The account and the credential, those of `cache.key_headers`, and all lines of each: the
    upstream gets them all, and may go by any."""
    of = reader("X-Variant")

    assert len({key(PLAIN, *headers, of=of) for headers in SEPARATING}) == len(SEPARATING)


@pytest.mark.parametrize(
    "header",
    [(b"user-agent", b"x"), (b"x-request-id", b"x"), (b"x-variant", b"o"), (b"cookie", b"x")],
)
def test_other_headers_do_not(header: Header) -> None:
    """They do not change what a model says."""
    assert key(PLAIN, header) == key(PLAIN)


def test_query_counts() -> None:
    """Azure's api-version stands there."""
    assert key(PLAIN, query="api-version=1") != key(PLAIN)


def test_tenants_share_where_the_route_says_so() -> None:
    """And only there. The account still counts."""
    one, other = (b"authorization", b"Bearer o"), (b"authorization", b"Bearer p")
    shared = reader(shared=True)

    assert key(PLAIN, one, of=shared) == key(PLAIN, other, of=shared)
    assert key(PLAIN, one) != key(PLAIN, other)
    assert key(PLAIN, one, of=shared) != key(PLAIN, one)
    assert key(PLAIN, one, (b"openai-project", b"o"), of=shared) != key(PLAIN, one, of=shared)


def test_body_does_not_name_the_tenant() -> None:
    """Hints of the client narrow; they never lead into another's."""
    mine, its = (b"authorization", b"Bearer o"), (b"authorization", b"Bearer p")
    tenant = ask(PLAIN, its).scope.tenant

    for wishes in ({"namespace": tenant}, {"tenant": tenant}, {"namespace": "shared"}):
        assert key(cache_field(**wishes), mine) != key(PLAIN, its)
        assert ask(cache_field(**wishes), mine).scope.tenant == ask(PLAIN, mine).scope.tenant


def test_route_rules_reach_the_key() -> None:
    """Revision, ignored fields, folding."""
    more = '{"model":"m","messages":[],"seed":1,"n":1}'

    assert key(PLAIN, of=reader(revision="r")) != key(PLAIN)
    assert key(more, of=reader(ignore_fields=["seed"])) == key(PLAIN)
    assert key(more, of=reader(ignore_fields=["seed"], fold_defaults=False)) != key(PLAIN)


# header, cache field, what is asked
WISHES: list[tuple[bytes, dict[str, Any], RequestDirectives]] = [
    (b"", {}, RequestDirectives()),
    (b"", {"no-cache": True}, RequestDirectives(no_cache=True)),
    (b"", {"no-store": True}, RequestDirectives(no_store=True)),
    (b"", {"no-cache": False, "no-store": False}, RequestDirectives()),
    (b"", {"no-cache": None, "no-store": None, "s-maxage": None}, RequestDirectives()),
    (b"", {"s-maxage": 5}, RequestDirectives(max_age_s=5)),
    (b"", {"s-maxage": 0.5}, RequestDirectives(max_age_s=0.5)),
    (b"", {"unheard-of": [1], "use-cache": True}, RequestDirectives()),
    (b"max-age=9", {"s-maxage": 5}, RequestDirectives(max_age_s=5)),
    (b"max-age=3", {"s-maxage": 5}, RequestDirectives(max_age_s=3)),
    (b"max-age=3", {}, RequestDirectives(max_age_s=3)),
    (b"no-store", {"no-store": False}, RequestDirectives(no_store=True)),
    (b"no-cache", {"no-cache": False}, RequestDirectives(no_cache=True)),
    (b"min-fresh=3", {"no-cache": True}, RequestDirectives(no_cache=True, min_fresh_s=3)),
]


@pytest.mark.parametrize(("header", "wishes", "wanted"), WISHES)
def test_cache_field_is_understood(
    header: bytes, wishes: dict[str, Any], wanted: RequestDirectives
) -> None:
    """LiteLLM's documentation of caching; of two wishes the stricter holds."""
    headers = [(b"cache-control", header)] if header else []

    found = ask(cache_field(**wishes), *headers)

    assert found.directives == wanted
    assert json.loads(found.content) == json.loads(PLAIN)


@pytest.mark.parametrize(("ttl", "ttl_s"), [(60, 60.0), (0.5, 0.5), (0, 0.0), (None, None)])
def test_lifetime_can_be_asked_for(ttl: Any, ttl_s: float | None) -> None:
    """In seconds; the operator's limit is applied when storing."""
    assert ask(cache_field(ttl=ttl)).ttl_s == ttl_s


def test_cache_field_does_not_count_but_for_its_namespace() -> None:
    """So that `no-cache` there renews what plain requests get."""
    assert key(cache_field(**{"no-cache": True, "ttl": 5})) == key(PLAIN)
    assert key('{"model":"m","messages":[],"cache":null}') == key(PLAIN)
    names = ["", "a", "b", "[null]", "null"]
    assert len({key(PLAIN), *(key(cache_field(namespace=name)) for name in names)}) == 6
    assert key(cache_field(namespace="a", ttl=5)) == key(cache_field(namespace="a"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("no-cache", "true"),
        ("no-cache", 1),
        ("no-store", 0),
        ("ttl", "60"),
        ("ttl", -1),
        ("ttl", True),
        ("s-maxage", -0.5),
        ("s-maxage", [5]),
        ("namespace", 7),
        ("namespace", {}),
    ],
)
def test_cache_field_of_wrong_types_is_refused(name: str, value: Any) -> None:
    """A wish that is not understood must not be passed over in silence."""
    with pytest.raises(BadRequest) as caught:
        ask(cache_field(**{name: value}))

    assert caught.value.param == f"cache.{name}"


def test_cache_field_is_taken_off_and_nothing_else_changes() -> None:
    """Numbers go upstream digit by digit, names in their order, texts by their meaning."""
    raw = '{"b":1e-05,"cache":{"ttl":1},"a":[0.10,-0.0,123456789012345678901,1E2],"é":"\\u00e9\\n"}'

    content = ask(raw).content

    assert content.decode() == ('{"b":1e-05,"a":[0.10,-0.0,123456789012345678901,1E2],"é":"é\\n"}')


def test_nothing_is_taken_off_further_in() -> None:
    """A `cache` inside of another field is somebody else's."""
    raw = '{"model":"m","messages":[],"x":{"cache":{"ttl":"soon"}}}'

    assert ask(raw).content == raw.encode()
