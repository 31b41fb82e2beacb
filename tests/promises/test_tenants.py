"""Promise 16: tenants are partitions by construction, and cannot even be told by the clock."""

import asyncio
import hashlib
import json
import math
from collections.abc import Iterator

import pytest

from tests.support.fake_upstream import FakeUpstream, Play
from tests.support.http_client import Connection, json_headers, post_bytes, wire
from tests.support.recollect_server import (
    CHAT,
    EMBEDDINGS,
    RecollectServer,
    StartRecollect,
    chat_body,
    unique,
)

ALICE, BOB = "sk-alice-0000000001", "sk-bob-000000000002"


@pytest.mark.parametrize("is_stream", [False, True])
def test_another_key_is_another_tenant(
    is_stream: bool, upstream: FakeUpstream, recollect: RecollectServer
) -> None:
    """Each has its own answer, and only its own."""
    prompt = unique("tenants")
    alice = recollect.chat(prompt, key=ALICE, stream=is_stream)
    bob = recollect.chat(prompt, key=BOB, stream=is_stream)

    assert not bob.cache.hit
    assert alice.text != bob.text
    assert recollect.chat(prompt, key=ALICE).text == alice.text
    assert recollect.chat(prompt, key=BOB).text == bob.text
    assert upstream.calls(prompt) == 2


def test_tenants_do_not_share_parts_of_a_batch(
    upstream: FakeUpstream, recollect: RecollectServer
) -> None:
    """An embedding's entries are partitioned like all others."""
    prompt = unique("batch")
    recollect.post(EMBEDDINGS, {"model": "e", "input": [prompt]}, key=ALICE)

    answer = recollect.post(EMBEDDINGS, {"model": "e", "input": [prompt]}, key=BOB)

    assert not answer.cache.hit
    assert upstream.calls(prompt) == 2


def test_tenants_do_not_share_a_flight(upstream: FakeUpstream, recollect: RecollectServer) -> None:
    """Nor do they wait for each other's calls."""
    prompt = unique("flight")
    upstream.on(prompt, Play(delay_s=0.5))

    async def both() -> None:
        connections = [await Connection.open(recollect.origin) for _ in range(2)]
        for connection, key in zip(connections, (ALICE, BOB), strict=True):
            await connection.send(post_bytes(recollect.origin, CHAT, chat_body(prompt), key=key))
        for connection in connections:
            answer = await connection.read_body(await connection.read_head())
            assert not answer.cache.collapsed
            connection.abort()

    asyncio.run(both())

    assert upstream.calls(prompt) == 2


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"Authorization": "Bearer a"}, {"Authorization": "Bearer b"}),
        ({"Authorization": "Bearer a"}, {}),
        ({"Authorization": "Bearer a"}, {"Authorization": "Basic a"}),
        ({"api-key": "a"}, {"api-key": "b"}),
        ({"x-api-key": "a"}, {"x-api-key": "b"}),
        ({"Authorization": "x", "api-key": "a"}, {"Authorization": "x", "api-key": "b"}),
    ],
)
def test_every_form_of_credential_separates(
    one: dict[str, str],
    other: dict[str, str],
    upstream: FakeUpstream,
    recollect: RecollectServer,
) -> None:
    """OpenAI's, Azure's and Anthropic's headers; none at all is a tenant too."""
    prompt = unique("credential")
    body = json.dumps(chat_body(prompt)).encode()

    for headers in (one, other):
        answer = recollect.send("POST", CHAT, list(headers.items()), body)
        assert not answer.cache.hit

    assert upstream.calls(prompt) == 2


@pytest.mark.parametrize(
    "hint",
    [
        {"user": "alice"},
        {"metadata": {"tenant": "alice"}},
        {"cache": {"namespace": "alice"}},
        {"cache": {"tenant": "alice", "use-cache": True}},
        {"prompt_cache_key": "alice"},
    ],
)
def test_no_hint_of_a_client_crosses_tenants(
    hint: dict[str, object], upstream: FakeUpstream, recollect: RecollectServer
) -> None:
    """What a body says can only narrow."""
    prompt = unique("hint")
    body = {**chat_body(prompt), **hint}
    recollect.post(CHAT, body, key=ALICE)

    assert not recollect.post(CHAT, body, key=BOB).cache.hit
    assert upstream.calls(prompt) == 2


@pytest.mark.parametrize("name", ["X-Tenant", "X-Forwarded-User", "OpenAI-Organization", "Host"])
def test_no_header_of_a_client_crosses_tenants(
    name: str, upstream: FakeUpstream, recollect: RecollectServer
) -> None:
    """The tenant comes from the credential alone."""
    prompt = unique("header")
    body = json.dumps(chat_body(prompt)).encode()
    for key in (ALICE, BOB):
        headers = [*json_headers(key), (name, "alice")]
        assert not recollect.send("POST", CHAT, headers, body, host="x").cache.hit

    assert upstream.calls(prompt) == 2


@pytest.fixture(scope="module")
def named(upstream: FakeUpstream) -> Iterator[RecollectServer]:
    """A Recollect that knows two keys of one tenant, and a route that is shared by all."""
    digests = [hashlib.sha256(key.encode()).hexdigest() for key in (ALICE, BOB)]
    settings = {
        "tenancy": {"names": {"both": digests}},
        "routes": [{"models": ["public-*"], "shared": True}],
    }
    server = RecollectServer(upstream.url, settings=settings)
    yield server
    server.close()


def test_keys_of_one_named_tenant_share(upstream: FakeUpstream, named: RecollectServer) -> None:
    """`tenancy.names` maps keys to a tenant; others stay apart."""
    prompt = unique("named")

    given = [named.chat(prompt, key=key).cache.hit for key in (ALICE, BOB, "sk-someone-else")]

    assert given == [False, True, False]


def test_shared_route_is_shared(upstream: FakeUpstream, named: RecollectServer) -> None:
    """Only where the operator says so."""
    prompt = unique("shared")

    given = [named.chat(prompt, key=key, model="public-1").cache.hit for key in ("sk-x", "sk-y")]

    assert given == [False, True]


def test_tenancy_secret_makes_the_partition(
    upstream: FakeUpstream, start_recollect: StartRecollect
) -> None:
    """With another secret the same credential is another tenant, even in the same Redis."""
    prompt = unique("secret")
    first = start_recollect(upstream.url, settings={"tenancy": {"secret": "0123456789abcdef-1"}})
    first.chat(prompt)
    # The private Redis of the first, reached through its data folder's UNIX socket.
    (socket,) = first.settings_file.parent.rglob("*.sock")
    other = {"tenancy": {"secret": "0123456789abcdef-2"}}
    second = start_recollect(upstream.url, f"unix://{socket}", other)

    assert not second.chat(prompt).cache.hit
    assert upstream.calls(prompt) == 2


def ks_statistic(one: list[float], other: list[float]) -> float:
    """Return the largest distance of two empirical distribution functions."""
    steps = sorted([(x, 1 / len(one)) for x in one] + [(x, -1 / len(other)) for x in other])
    height = largest = 0.0
    for _, step in steps:
        height += step
        largest = max(largest, abs(height))
    return largest


def is_told_apart(one: list[float], other: list[float], alpha: float = 0.01) -> bool:
    """Whether the two-sample Kolmogorov-Smirnov test tells the samples apart."""
    critical = math.sqrt(-math.log(alpha / 2) / 2)
    scale = math.sqrt((len(one) + len(other)) / (len(one) * len(other)))
    return ks_statistic(one, other) > critical * scale


async def miss_times(server: RecollectServer, count: int) -> tuple[list[float], list[float]]:
    """Time Bob's first requests for prompts Alice has, and for prompts nobody has, in turn."""
    connection = await Connection.open(server.origin)

    async def timed(prompt: str, key: str) -> float:
        body = json.dumps(chat_body(prompt)).encode()
        await connection.send(wire("POST", CHAT, "x", json_headers(key), body))
        return (await connection.read_body(await connection.read_head())).total_s

    known, unknown = [], []
    for _ in range(count):
        theirs, nobodys = unique("theirs"), unique("nobody")
        await timed(theirs, ALICE)
        await timed(unique("between"), ALICE)
        known.append(await timed(theirs, BOB))
        await timed(unique("between"), ALICE)
        unknown.append(await timed(nobodys, BOB))
    connection.abort()
    return known, unknown


@pytest.mark.alone
async def test_clock_does_not_tell_what_another_tenant_asked(
    upstream: FakeUpstream, recollect: RecollectServer
) -> None:
    """Two-sample KS, α = 0.01; one of a hundred honest runs fails it, three in a row do not."""
    await miss_times(recollect, 20)

    for _ in range(3):
        if not is_told_apart(*await miss_times(recollect, 150)):
            return
    pytest.fail("three times in a row the two could be told apart")


def test_ks_test_sees_a_difference() -> None:
    """The test above could fail: a fifth of a millisecond in one is seen."""
    flat = [0.001 + n * 1e-6 for n in range(150)]

    assert not is_told_apart(flat, flat)
    assert is_told_apart(flat, [x + 0.0002 for x in flat])
