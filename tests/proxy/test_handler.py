"""A request's way through a cacheable endpoint: looked up, passed by, refused, answered."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from proxy.upstreams.upstream import UnsendableHeader, UpstreamUnreachable
from tests.proxy.fakes import (
    ASKED,
    IN_OTHER_WORDS,
    Call,
    Clock,
    FakeEmbeddings,
    FakeUpstream,
    Play,
    Worker,
    chat,
    completion,
    json_play,
    learn,
    meant_status,
    settle,
    stream_of,
    stream_play,
    text_of,
)

pytestmark = pytest.mark.virtual_time


def content_of(call: Call) -> str:
    """Return what an answer in JSON says."""
    text: str = call.json["choices"][0]["message"]["content"]
    return text


# Hits.


async def test_repeated_request_is_answered_without_the_upstream() -> None:
    """Promise 1: every field but `id` and `created` is equal."""
    upstream = FakeUpstream(json_play())
    worker = Worker(upstream, clock=Clock(1_700_000_000.7))
    first = await worker.get(chat())

    again = await worker.get(chat())

    assert upstream.calls == 1
    assert again.status == 200
    assert again.json["id"] != first.json["id"]
    assert again.json["created"] == 1_700_000_000
    own = ("id", "created")
    assert {k: v for k, v in again.json.items() if k not in own} == {
        k: v for k, v in first.json.items() if k not in own
    }
    assert again.cache_status == "recollect; hit; ttl=3600; detail=exact"
    assert again.one(b"content-length") == b"%d" % len(again.body)


async def test_stream_hit_says_the_same_in_the_same_chunks() -> None:
    """Design §5: streams replay in the chunks they came in."""
    upstream = FakeUpstream(stream_play(stream_of("one ", "two")))
    worker = Worker(upstream)
    first = await worker.get(chat(stream=True))

    again = await worker.get(chat(stream=True))

    assert upstream.calls == 1
    assert text_of(again.body) == "one two"
    assert again.body.count(b"data: ") == first.body.count(b"data: ")
    assert again.one(b"content-type").startswith(b"text/event-stream")


async def test_what_memory_has_lost_is_found_in_redis() -> None:
    """And is then in memory again."""
    upstream = FakeUpstream(json_play())
    worker = Worker(upstream)
    await worker.get(chat())
    await settle()
    worker.forget()
    assert "hit" in (await worker.get(chat())).cache_status
    worker.redis.is_down = True

    assert "hit" in (await worker.get(chat())).cache_status
    assert upstream.calls == 1


async def test_age_grows_and_time_to_live_shrinks() -> None:
    """RFC 9111 §5.1, RFC 9211 §2.4."""
    clock = Clock()
    worker = Worker(FakeUpstream(json_play()), clock=clock)
    first = await worker.get(chat())
    assert first.one(b"age") == b"0"
    await settle()
    clock.now += 90.5

    again = await worker.get(chat())

    assert again.one(b"age") == b"90"
    assert "ttl=3509" in again.cache_status


async def test_hit_never_prolongs_a_lifetime() -> None:
    """Design §6: expiry is absolute, never sliding."""
    clock = Clock()
    upstream = FakeUpstream(json_play("old"), json_play("new"))
    worker = Worker(upstream, clock=clock, cache={"ttl_s": 60.0})
    await worker.get(chat())
    await settle()
    for _ in range(5):
        clock.now += 11
        assert content_of(await worker.get(chat())) == "old"
    clock.now += 5

    assert content_of(await worker.get(chat())) == "new"


async def test_fields_of_one_answer_are_not_replayed_with_others() -> None:
    """Promise 20."""
    fields = [
        (b"set-cookie", b"session=1"),
        (b"x-ratelimit-limit-requests", b"9"),
        (b"openai-organization", b"org"),
        (b"x-request-id", b"req-upstream"),
        (b"openai-version", b"2020-10-01"),
    ]
    for mode in ("ignore", "honour"):
        worker = Worker(
            FakeUpstream(json_play(headers=[*fields, (b"x-own", b"kept by honour")])),
            cache={"upstream_cache_control": mode},
        )
        await worker.get(chat())

        again = await worker.get(chat(), headers={"x-request-id": "mine"})

        names = {name for name, _ in again.headers}
        assert names.isdisjoint({b"set-cookie", b"x-ratelimit-limit-requests"})
        assert b"openai-organization" not in names
        assert again.one(b"x-request-id") == b"mine"
        assert again.one(b"openai-version") == b"2020-10-01"
        assert (b"x-own" in names) == (mode == "honour")


# What is the request's own wish.


async def test_only_if_cached_never_reaches_the_upstream() -> None:
    """RFC 9111 §5.2.1.7: a stored response, or 504."""
    upstream = FakeUpstream(json_play())
    worker = Worker(upstream)

    for wish in ("only-if-cached", "only-if-cached, no-cache", "only-if-cached, max-age=0"):
        call = await worker.get(chat(), headers={"cache-control": wish})
        assert (call.status, call.error_code) == (504, "not_cached"), wish
        assert call.cache_status == "recollect; fwd=miss; detail=only-if-cached", wish
    assert upstream.calls == 0
    assert not worker.redis.values, "not even a lease is taken"

    await worker.get(chat())
    assert (await worker.get(chat(), headers={"cache-control": "only-if-cached"})).status == 200
    assert upstream.calls == 1


async def test_only_if_cached_holds_for_what_the_cache_has_no_part_in() -> None:
    """What is never stored can only be answered with 504 (RFC 9111 §5.2.1.7)."""
    upstream = FakeUpstream(json_play())
    wish = {"cache-control": "only-if-cached, no-store"}

    call = await Worker(upstream).get(chat(), headers=wish)

    assert call.status == 504
    assert upstream.calls == 0


@pytest.mark.parametrize(
    ("wish", "status"),
    [
        ("max-age=0", "recollect; fwd=request; stored"),
        ("max-age=10", "recollect; fwd=request; stored"),
        ("min-fresh=4000", "recollect; fwd=request; stored"),
        ("no-cache", "recollect; fwd=request; stored"),
        ("max-age=100", "recollect; hit; ttl=3580; detail=exact"),
        ("max-stale", "recollect; hit; ttl=3580; detail=exact"),
    ],
)
async def test_request_directive_decides_what_may_be_reused(wish: str, status: str) -> None:
    """RFC 9111 §5.2.1; the answer says why it was forwarded (RFC 9211 §2.2)."""
    clock = Clock()
    worker = Worker(FakeUpstream(json_play()), clock=clock)
    await worker.get(chat())
    await settle()
    clock.now += 20

    call = await worker.get(chat(), headers={"cache-control": wish})

    assert call.cache_status == status


async def test_stale_answer_is_fetched_again_and_the_answer_says_so() -> None:
    """RFC 9211 §2.2: `fwd=stale`."""
    clock = Clock()
    upstream = FakeUpstream(json_play("old"), json_play("new"))
    worker = Worker(upstream, clock=clock, cache={"ttl_s": 60.0, "max_stale_s": 600.0})
    await worker.get(chat())
    await settle()
    clock.now += 60

    call = await worker.get(chat())

    assert content_of(call) == "new"
    assert call.cache_status == "recollect; fwd=stale; stored"


async def test_stale_answer_of_another_form_of_stale_use_is_served_where_asked_for() -> None:
    """`max-stale`, within what the operator keeps."""
    clock = Clock()
    upstream = FakeUpstream(json_play("old"))
    worker = Worker(upstream, clock=clock, cache={"ttl_s": 60.0, "max_stale_s": 600.0})
    await worker.get(chat())
    await settle()
    clock.now += 100

    call = await worker.get(chat(), headers={"cache-control": "max-stale=50"})

    assert content_of(call) == "old"
    assert upstream.calls == 1


# Vary.


async def test_variant_for_one_request_is_not_served_to_another() -> None:
    """RFC 9111 §4.1; in memory, in Redis, and to who waits for the flight."""
    gate = asyncio.Event()
    vary = [(b"vary", b"X-Style, Accept-Encoding")]
    upstream = FakeUpstream(
        json_play("short", headers=vary, gate=gate),
        json_play("long", headers=vary),
        json_play("third", headers=vary),
    )
    worker = Worker(upstream)
    leader = worker.ask(chat(), headers={"x-style": "short"})
    await settle()
    other = worker.ask(chat(), headers={"x-style": "long"})
    await settle()
    gate.set()
    assert content_of(await leader.done()) == "short"
    assert content_of(await other.done()) == "long"
    await settle()

    assert content_of(await worker.get(chat(), headers={"x-style": "long"})) == "long"
    worker.forget()
    assert content_of(await worker.get(chat(), headers={"x-style": "long"})) == "long"
    assert upstream.calls == 2
    another = await worker.get(chat())
    assert content_of(another) == "third"
    assert another.cache_status.startswith("recollect; fwd=vary-miss")


async def test_answer_that_varies_by_everything_is_not_stored() -> None:
    """RFC 9111 §4.1: `Vary: *` never matches."""
    upstream = FakeUpstream(json_play(headers=[(b"vary", b"*")]))
    worker = Worker(upstream)

    call = await worker.get(chat())
    await settle()

    assert call.cache_status == "recollect; fwd=miss; detail=vary"
    assert not worker.redis.values


# What the cache lets pass.

_TOOL = {"type": "function", "function": {"name": "send_mail", "parameters": {}}}


@pytest.mark.parametrize(
    ("body", "headers", "path", "reason"),
    [
        (chat(), {"cache-control": "no-store"}, "/v1/chat/completions", "no-store"),
        (chat(cache={"no-store": True}), {}, "/v1/chat/completions", "no-store"),
        (b"{not json", {}, "/v1/chat/completions", "malformed"),
        (b"[1]", {}, "/v1/chat/completions", "malformed"),
        (chat(), {"content-encoding": "gzip"}, "/v1/chat/completions", "content-encoding"),
        (chat(seed=10**40), {}, "/v1/chat/completions", "number"),
        (chat(tools=[_TOOL]), {}, "/v1/chat/completions", "side-effects"),
        (chat(modalities=["text", "audio"]), {}, "/v1/chat/completions", "audio"),
        (
            chat(stream=True, stream_options={"continuous_usage_stats": True}),
            {},
            "/v1/chat/completions",
            "stream-options",
        ),
        (
            json.dumps({"model": "m", "input": "x", "previous_response_id": "r"}).encode(),
            {},
            "/v1/responses",
            "stateful",
        ),
        (
            json.dumps({"model": "m", "input": ["x"] * 2049}).encode(),
            {},
            "/v1/embeddings",
            "size",
        ),
        (chat(model="uncached-7b"), {}, "/v1/chat/completions", "disabled"),
    ],
    ids=lambda value: value if isinstance(value, str) and "/" not in value else "",
)
async def test_request_the_cache_has_no_part_in_goes_straight_upstream(
    body: bytes, headers: Mapping[str, str], path: str, reason: str
) -> None:
    """Byte for byte, every time; one reason word says why."""
    upstream = FakeUpstream(json_play())
    worker = Worker(
        upstream,
        cache={"side_effect_tools": ["send_*"]},
        routes=[{"models": ["uncached-*"], "cache": False}],
    )

    for _ in range(2):
        call = await worker.get(body, path, headers=headers)

        assert call.status == 200
        assert call.body == completion()
        assert call.cache_status == f"recollect; fwd=bypass; detail={reason}"
        assert call.one(b"age") == b"0"
        assert call.one(b"x-request-id")
    assert upstream.calls == 2
    if b'"cache"' not in body:
        assert [sent.content for sent in upstream.sent] == [body] * 2
    assert not worker.redis.values


async def test_bypass_is_cancelled_when_its_client_leaves() -> None:
    """Promise 9."""
    upstream = FakeUpstream(json_play(gate=asyncio.Event()))
    worker = Worker(upstream)
    call = worker.ask(b"{not json")
    await settle()
    assert upstream.running == 1

    call.leave()
    await call.done()

    assert upstream.sent[0].end == "cancelled"


async def test_cache_field_is_understood_and_not_sent_upstream() -> None:
    """Design §6: LiteLLM's body field, for those who come from there."""
    clock = Clock()
    upstream = FakeUpstream(json_play("old"), json_play("new"))
    worker = Worker(upstream, clock=clock)
    await worker.get(chat(cache={"ttl": 30}))
    await settle()
    clock.now += 31

    assert content_of(await worker.get(chat(cache={"ttl": 30}))) == "new"
    assert b'"cache"' not in upstream.sent[0].content
    assert json.loads(upstream.sent[0].content) == json.loads(chat())


# What is refused.


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (chat(model=7), "model"),
        (chat(stream="yes"), "stream"),
        (chat(cache={"ttl": "long"}), "cache.ttl"),
        (b'{"model": "m", "messages": [], "model": "n"}', "model"),
        (b'{"model": "m", "messages": [], "x": NaN}', None),
        (chat(deep=json.loads("[" * 200 + "]" * 200)), None),
    ],
)
async def test_request_that_may_be_misunderstood_is_refused(body: bytes, param: str | None) -> None:
    """Promise 19: 4xx in OpenAI's form, never a 5xx of ours; the upstream is not asked."""
    upstream = FakeUpstream(json_play())

    call = await Worker(upstream).get(body)

    assert (call.status, call.error_code) == (400, "invalid_request")
    assert call.json["error"]["type"] == "invalid_request_error"
    assert call.json["error"]["param"] == param
    assert call.cache_status == "recollect; fwd=bypass; detail=refused"
    assert upstream.calls == 0


@pytest.mark.parametrize("is_stated", [False, True], ids=["seen", "stated"])
async def test_content_over_the_limit_is_refused(is_stated: bool) -> None:
    """Promise 19: 413, told before it is read where the length says so."""
    upstream = FakeUpstream(json_play())
    worker = Worker(upstream, limits={"body_bytes": 2048})
    body: Sequence[bytes | asyncio.Event] = [b"x" * 1500, b"x" * 1500, asyncio.Event()]
    headers = {}
    if is_stated:
        body, headers = [asyncio.Event()], {"content-length": "3000"}

    call = await worker.get(body, headers=headers)

    assert (call.status, call.error_code) == (413, "body_too_large")
    assert upstream.calls == 0


async def test_content_as_large_as_may_be_is_read() -> None:
    """The limit itself is allowed, in one piece or in many."""
    body = chat()
    body += b" " * (2048 - len(body))
    upstream = FakeUpstream(json_play())
    worker = Worker(upstream, limits={"body_bytes": 2048})

    assert (await worker.get(body, headers={"content-length": "2048"})).status == 200
    assert (await worker.get([body[:1000], body[1000:]])).cache_status.startswith("recollect; hit")


async def test_header_that_cannot_be_sent_is_refused_and_hurts_no_other() -> None:
    """400: the upstream was not asked; who waited for this one gets an answer."""
    gate = asyncio.Event()
    upstream = FakeUpstream(
        Play(error=UnsendableHeader("a request header is not valid UTF-8"), gate=gate), json_play()
    )
    worker = Worker(upstream)
    bad, good = worker.ask(chat()), worker.ask(chat())
    await settle()
    gate.set()

    assert ((await bad.done()).status, bad.error_code) == (400, "invalid_header")
    assert (await good.done()).status == 200


# Embeddings.


def embeddings(*inputs: object, **fields: object) -> bytes:
    """Return an embeddings request."""
    given = inputs[0] if len(inputs) == 1 and isinstance(inputs[0], str) else list(inputs)
    return json.dumps({"model": "m", "input": given, **fields}).encode()


def vectors(*values: float, tokens: int = 10) -> Play:
    """Play an embeddings answer: one vector for each value."""
    document = {
        "object": "list",
        "model": "m",
        "data": [
            {"object": "embedding", "index": index, "embedding": [value]}
            for index, value in enumerate(values)
        ],
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }
    return Play([json.dumps(document).encode()])


def values_of(call: Call) -> list[float]:
    """Return the first number of each vector, in order."""
    data: list[dict[str, Any]] = call.json["data"]
    assert [item["index"] for item in data] == list(range(len(data)))
    return [item["embedding"][0] for item in data]


_PATH = "/v1/embeddings"


async def test_batch_whose_rest_is_too_large_to_be_stored_is_asked_for_once() -> None:
    """Asked for in part and then as a whole, it would cost two calls (promise 15)."""
    upstream = FakeUpstream(vectors(1), vectors(*range(40)))
    worker = Worker(upstream, cache={"max_entry_bytes": 1024})
    inputs = [f"input {n}" for n in range(40)]
    await worker.get(embeddings(inputs[0]), _PATH)

    call = await worker.get(embeddings(*inputs), _PATH)

    assert values_of(call) == list(range(40))
    assert upstream.calls == 2


async def test_batch_partly_known_forwards_only_what_is_not() -> None:
    """Issue §2: put together in order, usage added up."""
    upstream = FakeUpstream(vectors(1.5, 2.5), vectors(3.5))
    worker = Worker(upstream)
    await worker.get(embeddings("a", "b"), _PATH)

    call = await worker.get(embeddings("b", "c", "a"), _PATH)

    assert json.loads(upstream.sent[1].content)["input"] == ["c"]
    assert values_of(call) == [2.5, 3.5, 1.5]
    assert call.json["usage"]["prompt_tokens"] == 20
    assert call.cache_status == "recollect; fwd=partial; stored"

    again = await worker.get(embeddings("c"), _PATH)
    assert values_of(again) == [3.5]
    known = await worker.get(embeddings("a", "b", "c"), _PATH)
    assert values_of(known) == [1.5, 2.5, 3.5]
    assert known.cache_status == "recollect; hit; ttl=3600; detail=exact"
    assert upstream.calls == 2


async def test_single_input_is_one_entry_however_it_is_written() -> None:
    """A text alone and a list of one text ask the same."""
    upstream = FakeUpstream(vectors(1.5))
    worker = Worker(upstream)

    await worker.get(embeddings("a"), _PATH)
    call = await worker.get(json.dumps({"model": "m", "input": ["a"]}).encode(), _PATH)

    assert upstream.calls == 1
    assert values_of(call) == [1.5]


@pytest.mark.parametrize(
    ("failure", "status"),
    [
        (Play([b'{"error": "slow down"}'], status=429), 429),
        (Play([b'{"error": "no"}'], status=400), 400),
        (Play(error=UpstreamUnreachable("refused")), 502),
    ],
)
async def test_failure_on_the_rest_of_a_batch_is_told_and_not_tried_again(
    failure: Play, status: int
) -> None:
    """Promise 15: one upstream try for one request."""
    upstream = FakeUpstream(vectors(1.5, 2.5), failure)
    worker = Worker(upstream)
    await worker.get(embeddings("a", "b"), _PATH)

    call = await worker.get(embeddings("a", "c"), _PATH)

    assert call.status == status
    assert upstream.calls == 2


async def test_rest_of_a_batch_with_too_few_vectors_falls_back_to_the_whole() -> None:
    """An upstream that answers otherwise than asked is asked as the client asked."""
    upstream = FakeUpstream(vectors(1.5, 2.5), vectors(9.5), vectors(1.5, 3.5, 4.5))
    worker = Worker(upstream)
    await worker.get(embeddings("a", "b"), _PATH)

    call = await worker.get(embeddings("a", "c", "d"), _PATH)

    assert call.status == 200
    assert values_of(call) == [1.5, 3.5, 4.5]


async def test_rest_of_a_batch_that_is_too_large_to_store_is_asked_for_as_a_whole() -> None:
    """It streams through, as the client asked for it."""
    large = Play([b'{"data": "', *[b"x" * 500] * 10, b'"}'])
    upstream = FakeUpstream(vectors(1.5, 2.5), large)
    worker = Worker(upstream, cache={"max_entry_bytes": 2048})
    await worker.get(embeddings("a", "b"), _PATH)

    call = await worker.get(embeddings("a", "c", "d"), _PATH)

    assert (call.status, len(call.body), call.is_ended) == (200, 5012, True)


async def test_batch_under_only_if_cached_is_answered_whole_or_not_at_all() -> None:
    """504 as soon as one input is unknown."""
    upstream = FakeUpstream(vectors(1.5, 2.5))
    worker = Worker(upstream)
    await worker.get(embeddings("a", "b"), _PATH)
    wish = {"cache-control": "only-if-cached"}

    assert (await worker.get(embeddings("b", "a"), _PATH, headers=wish)).status == 200
    assert (await worker.get(embeddings("b", "c"), _PATH, headers=wish)).status == 504
    both = {"cache-control": "only-if-cached, no-cache"}
    assert (await worker.get(embeddings("b", "a"), _PATH, headers=both)).status == 504
    assert upstream.calls == 1


async def test_batch_with_no_cache_is_fetched_whole() -> None:
    """RFC 9111 §5.2.1.4."""
    upstream = FakeUpstream(vectors(1.5, 2.5), vectors(3.5, 4.5))
    worker = Worker(upstream)
    await worker.get(embeddings("a", "b"), _PATH)

    call = await worker.get(embeddings("a", "b"), _PATH, headers={"cache-control": "no-cache"})

    assert values_of(call) == [3.5, 4.5]
    assert call.cache_status.startswith("recollect; fwd=request")


async def test_empty_batch_is_the_upstreams_to_judge() -> None:
    """It is no batch of which everything is known."""
    upstream = FakeUpstream(Play([b'{"error": {}}'], status=400))

    call = await Worker(upstream).get(json.dumps({"model": "m", "input": []}).encode(), _PATH)

    assert call.status == 400
    assert upstream.calls == 1


async def test_two_equal_batches_partly_known_share_one_call_for_the_rest() -> None:
    """Single flight holds for the remainder too."""
    gate = asyncio.Event()
    rest = vectors(3.5)
    rest.gate = gate
    upstream = FakeUpstream(vectors(1.5, 2.5), rest)
    worker = Worker(upstream)
    await worker.get(embeddings("a", "b"), _PATH)
    calls = [worker.ask(embeddings("a", "c"), _PATH) for _ in range(5)]
    await settle()
    gate.set()

    for call in calls:
        assert values_of(await call.done()) == [1.5, 3.5]
    assert upstream.calls == 2


async def test_client_that_leaves_a_batch_ends_its_call() -> None:
    """Promise 9."""
    rest = vectors(3.5)
    rest.gate = asyncio.Event()
    upstream = FakeUpstream(vectors(1.5, 2.5), rest)
    worker = Worker(upstream)
    await worker.get(embeddings("a", "b"), _PATH)
    call = worker.ask(embeddings("a", "c"), _PATH)
    await settle()
    assert upstream.running == 1

    call.leave()
    await call.done()
    await settle()

    assert upstream.running == 0
    assert not worker.redis.names("l")


# Tenants.


async def test_tenants_share_nothing_unless_the_route_says_so() -> None:
    """Promise 16: the credential is in the key."""
    upstream = FakeUpstream(*[json_play(f"answer {n}") for n in range(3)])
    worker = Worker(upstream, routes=[{"models": ["open-*"], "shared": True}])
    keys = [{"authorization": f"Bearer key-{n}"} for n in range(2)]

    own = [content_of(await worker.get(chat(), headers=key)) for key in keys]
    shared = [content_of(await worker.get(chat(model="open-1"), headers=key)) for key in keys]

    assert own == ["answer 0", "answer 1"]
    assert shared == ["answer 2", "answer 2"]


# Answers to the same question in other words.


async def test_only_if_cached_is_answered_by_the_answer_to_other_words() -> None:
    """It is in the cache (RFC 9111 §5.2.1.7)."""
    embeddings = FakeEmbeddings()
    worker = Worker(FakeUpstream(json_play("first")), embeddings=embeddings)
    wish = {"cache-control": "only-if-cached"}
    await learn(worker, embeddings)

    call = await worker.get(chat(IN_OTHER_WORDS), headers=wish)

    assert content_of(call) == "first"
    matches, embeddings.matches = embeddings.matches, ()
    missed = await worker.get(chat(IN_OTHER_WORDS), headers=wish)
    assert (missed.status, missed.error_code) == (504, "not_cached")
    embeddings.matches = matches
    await worker.get(chat(IN_OTHER_WORDS))
    assert call.cache_status == meant_status(worker)
    assert worker.upstream.calls == 1


async def test_only_if_cached_in_other_words_changes_nothing() -> None:
    """It asks what there is: neither an alias nor a lease is left, nothing is learnt."""
    embeddings = FakeEmbeddings()
    worker = Worker(FakeUpstream(json_play("first")), embeddings=embeddings)
    await learn(worker, embeddings)
    before = dict(worker.redis.values)

    for _ in range(2):
        call = await worker.get(chat(IN_OTHER_WORDS), headers={"cache-control": "only-if-cached"})
        await settle()
        assert "detail=semantic" in call.cache_status

    assert worker.redis.values == before


async def test_only_if_cached_whose_client_has_left_is_looked_up_no_further() -> None:
    """As in a flight: nobody is waiting for it."""
    embeddings = FakeEmbeddings()
    worker = Worker(FakeUpstream(json_play("first")), embeddings=embeddings)
    await learn(worker, embeddings)
    embeddings.gate = asyncio.Event()
    call = worker.ask(chat(IN_OTHER_WORDS), headers={"cache-control": "only-if-cached"})
    await settle()

    call.leave()
    await call.done()

    assert call.status == 0


async def test_only_if_cached_that_refuses_its_own_words_answer_gets_no_other() -> None:
    """What it refused is nearer than anything in other words."""
    embeddings = FakeEmbeddings()
    worker = Worker(FakeUpstream(json_play()), embeddings=embeddings)
    await learn(worker, embeddings)
    worker.clock.now += 10

    call = await worker.get(chat(ASKED), headers={"cache-control": "only-if-cached, max-age=5"})

    assert call.status == 504
    assert len(embeddings.asked) == 1


async def test_only_if_cached_that_asks_for_what_nobody_knows_is_not_answered_so() -> None:
    """A stream with its usage, of an answer that came without."""
    embeddings = FakeEmbeddings()
    worker = Worker(FakeUpstream(stream_play(stream_of("Hi"))), embeddings=embeddings)
    await learn(worker, embeddings, stream=True)
    body = chat(IN_OTHER_WORDS, stream=True, stream_options={"include_usage": True})

    assert (await worker.get(body, headers={"cache-control": "only-if-cached"})).status == 504


async def test_same_words_hit_exactly_next_time() -> None:
    """In memory first, then in Redis, with no look-up by meaning."""
    embeddings = FakeEmbeddings()
    worker = Worker(FakeUpstream(json_play("first")), embeddings=embeddings)
    await learn(worker, embeddings)
    await worker.get(chat(IN_OTHER_WORDS))
    await settle()

    for _ in range(2):
        call = await worker.get(chat(IN_OTHER_WORDS))
        assert content_of(call) == "first"
        assert call.cache_status == "recollect; hit; ttl=3600; detail=exact"
        worker.forget()
    assert len(embeddings.asked) == 2


async def test_alias_dies_with_its_entry() -> None:
    """A removed entry is never served."""
    embeddings = FakeEmbeddings()
    worker = Worker(FakeUpstream(json_play("first"), json_play("anew")), embeddings=embeddings)
    key = await learn(worker, embeddings)
    await worker.get(chat(IN_OTHER_WORDS))
    await settle()
    (name,) = worker.redis.names("e")
    del worker.redis.values[name]
    worker.tiers.invalidate([key])

    call = await worker.get(chat(IN_OTHER_WORDS))

    assert content_of(call) == "anew"
    assert embeddings.removed == [key]


@pytest.mark.parametrize("mode", ["off", "shadow"])
async def test_route_without_answers_to_other_words_follows_no_alias(mode: str) -> None:
    """One that was made before it was switched off, say."""
    embeddings = FakeEmbeddings()
    upstream = FakeUpstream(json_play("first"), json_play("own"))
    one = Worker(upstream, embeddings=embeddings)
    await learn(one, embeddings)
    await one.get(chat(IN_OTHER_WORDS))
    await settle()
    route = {"models": ["m"], "semantic": mode}
    other = Worker(upstream, one.redis, embeddings=embeddings, routes=[route])

    call = await other.get(chat(IN_OTHER_WORDS))

    assert content_of(call) == "own"
    assert call.cache_status == "recollect; fwd=miss; stored"


async def test_embeddings_are_never_looked_up_by_meaning() -> None:
    """Their answer is about the very letters."""
    embeddings = FakeEmbeddings()
    play = Play(
        [json.dumps({"object": "list", "data": [{"index": 0, "embedding": [1.0]}]}).encode()]
    )
    worker = Worker(FakeUpstream(play), embeddings=embeddings)

    for given in (ASKED, [ASKED], [ASKED, IN_OTHER_WORDS]):
        body = json.dumps({"model": "m", "input": given}).encode()
        assert (await worker.get(body, "/v1/embeddings")).status == 200

    assert not embeddings.asked


async def test_bypassed_requests_are_never_looked_up_by_meaning() -> None:
    """The cache has no part in them."""
    embeddings = FakeEmbeddings()
    worker = Worker(FakeUpstream(json_play()), embeddings=embeddings)
    stateful = json.dumps({"model": "m", "input": ASKED, "previous_response_id": "r"}).encode()

    await worker.get(chat(ASKED), headers={"cache-control": "no-store"})
    await worker.get(stateful, "/v1/responses")

    assert not embeddings.asked
