"""Single flight as clients see it: who is answered from whose flight, and when."""

import asyncio
import json
from dataclasses import replace

import pytest

from proxy.upstreams.upstream import UpstreamCut, UpstreamTimeout, UpstreamUnreachable
from tests.proxy.fakes import (
    ASKED,
    DONE,
    IN_OTHER_WORDS,
    Call,
    Clock,
    FakeEmbeddings,
    FakeUpstream,
    Play,
    Worker,
    chat,
    completion,
    event,
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


# One call for all.


async def test_a_thousand_equal_requests_are_one_upstream_call() -> None:
    """Promise 7: one call, whatever the number of those who ask."""
    upstream = FakeUpstream(json_play("once"), json_play("again"))
    worker = Worker(upstream)

    calls = [worker.ask(chat()) for _ in range(1000)]
    for call in calls:
        await call.done()

    assert upstream.calls == 1
    assert {content_of(call) for call in calls} == {"once"}
    statuses = [call.cache_status for call in calls]
    assert statuses.count("recollect; fwd=miss; stored") == 1
    assert statuses.count("recollect; fwd=miss; collapsed") == 999


async def test_all_who_wait_for_what_another_worker_has_stored_meanwhile_hit() -> None:
    """Nothing was fetched for any of them: who leads and who follows is told the same."""
    upstream = FakeUpstream(json_play("old"), json_play("new"))
    sections = {"ttl_s": 60.0}
    one = Worker(upstream, cache=sections)
    other = Worker(upstream, one.redis, clock=one.clock, cache=sections)
    await one.get(chat())
    await settle()
    one.clock.now += 61
    await other.get(chat())
    await settle()

    # The old one is still in this worker's memory; the flight finds the new one.
    calls = [one.ask(chat()) for _ in range(3)]
    for call in calls:
        await call.done()

    assert upstream.calls == 2
    assert {content_of(call) for call in calls} == {"new"}
    assert {call.cache_status for call in calls} == {"recollect; hit; ttl=60; detail=exact"}


async def test_each_follower_gets_an_id_of_its_own() -> None:
    """Promise 1: `id` is fresh on every answer that did not come straight from upstream."""
    worker = Worker(FakeUpstream(json_play()))

    calls = [worker.ask(chat()) for _ in range(3)]
    ids = [(await call.done()).json["id"] for call in calls]

    assert len(set(ids)) == 3


async def test_late_follower_of_a_stream_gets_all_of_it_from_the_beginning() -> None:
    """Design §5: a follower of a streamed request sees it as if it had been there first."""
    more = asyncio.Event()
    pieces = stream_of("one ", "two ", "three")
    upstream = FakeUpstream(stream_play([*pieces[:3], more, *pieces[3:]]))
    worker = Worker(upstream)
    leader = worker.ask(chat(stream=True))
    await leader.until(lambda c: b"two" in c.body)

    late = worker.ask(chat(stream=True))
    await late.until(lambda c: b"two" in c.body)
    assert not late.is_ended
    more.set()
    await leader.done()
    await late.done()

    assert upstream.calls == 1
    assert late.body == leader.body == b"".join(pieces)
    assert late.cache_status == "recollect; fwd=miss; collapsed"
    assert leader.is_ended
    assert late.is_ended


async def test_json_follower_of_a_stream_gets_the_whole_answer() -> None:
    """The two forms of a request share one key (design §5)."""
    more = asyncio.Event()
    pieces = stream_of("Hello ", "you")
    upstream = FakeUpstream(stream_play([pieces[0], more, *pieces[1:]]))
    worker = Worker(upstream)
    leader = worker.ask(chat(stream=True))
    await leader.until(lambda c: c.body != b"")
    follower = worker.ask(chat())
    await settle()
    assert follower.status == 0

    more.set()

    assert content_of(await follower.done()) == "Hello you"
    assert upstream.calls == 1


async def test_streaming_follower_of_a_json_answer_gets_a_stream() -> None:
    """The reverse of the test above."""
    gate = asyncio.Event()
    upstream = FakeUpstream(json_play("Hello you", gate=gate))
    worker = Worker(upstream)
    leader = worker.ask(chat())
    await settle()
    follower = worker.ask(chat(stream=True))
    await settle()

    gate.set()
    await leader.done()
    await follower.done()

    assert text_of(follower.body) == "Hello you"
    assert follower.body.endswith(DONE)
    assert follower.one(b"content-type").startswith(b"text/event-stream")
    assert upstream.calls == 1


async def test_follower_that_wants_the_usage_asks_anew_where_nobody_knows_it() -> None:
    """Promise 4: the usage chunk is not invented. Its own call is the only way to it."""
    gate = asyncio.Event()
    pieces = stream_of("Hi")
    upstream = FakeUpstream(stream_play([*pieces[:1], gate, *pieces[1:]]), stream_play(pieces))
    worker = Worker(upstream)
    leader = worker.ask(chat(stream=True))
    await leader.until(lambda c: c.body != b"")
    follower = worker.ask(chat(stream=True, stream_options={"include_usage": True}))
    await settle()

    gate.set()
    await leader.done()
    await follower.done()

    assert upstream.calls == 2
    assert follower.status == 200
    assert text_of(follower.body) == "Hi"


async def test_stored_stream_without_usage_does_not_answer_one_who_wants_it() -> None:
    """The same with nobody in the air: the look-up finds it, and must go on all the same."""
    upstream = FakeUpstream(stream_play(stream_of("Hi")))
    worker = Worker(upstream)
    await worker.get(chat(stream=True))
    worker.forget()

    again = await worker.get(chat(stream=True, stream_options={"include_usage": True}))

    assert again.status == 200
    assert again.is_ended
    assert upstream.calls == 2


# Answers that are for one client alone.


async def test_answer_that_may_not_be_stored_is_not_given_to_followers() -> None:
    """Issue: a follower is never handed an answer that may not be stored."""
    gate = asyncio.Event()
    short = {"finish_reason": "length"}
    upstream = FakeUpstream(
        json_play("first", gate=gate, **short), *[json_play(f"own {i}", **short) for i in range(9)]
    )
    worker = Worker(upstream)
    calls = [worker.ask(chat()) for _ in range(10)]
    await settle()
    assert upstream.calls == 1

    gate.set()
    for call in calls:
        await call.done()

    assert len({content_of(call) for call in calls}) == 10
    assert all("detail=finish-reason" in call.cache_status for call in calls)


async def test_followers_of_an_unstorable_answer_ask_all_at_once() -> None:
    """Promise 8: never one after another [nginx: 15.6 s for one 0.5 s failure]."""
    first, others = asyncio.Event(), asyncio.Event()
    short = {"finish_reason": "length"}
    upstream = FakeUpstream(json_play(gate=first, **short), json_play(gate=others, **short))
    worker = Worker(upstream)
    calls = [worker.ask(chat()) for _ in range(50)]
    await settle()

    first.set()
    await settle()

    assert upstream.calls == 50
    others.set()
    for call in calls:
        await call.done()


@pytest.mark.parametrize(
    "headers",
    [
        [(b"vary", b"x-user")],
        [(b"vary", b"*")],
        [(b"cache-control", b"no-store")],
        [(b"cache-control", b"private")],
    ],
    ids=lambda fields: fields[0][1].decode(),
)
async def test_stream_whose_head_forbids_sharing_is_not_followed(
    headers: list[tuple[bytes, bytes]],
) -> None:
    """RFC 9111 §3, §4.1, §5.2.2: the head says so before the first event does."""
    more = asyncio.Event()
    pieces = stream_of("for one")
    upstream = FakeUpstream(
        stream_play([pieces[0], more, *pieces[1:]], headers=headers),
        stream_play(stream_of("for another"), headers=headers),
    )
    worker = Worker(upstream, cache={"upstream_cache_control": "honour"})
    leader = worker.ask(chat(stream=True), headers={"x-user": "one"})
    await leader.until(lambda c: c.body != b"")
    follower = worker.ask(chat(stream=True), headers={"x-user": "another"})
    await settle()

    more.set()
    await leader.done()
    await follower.done()

    assert text_of(follower.body) == "for another"


_OF_ONE_CLIENT = [
    (b"set-cookie", b"session=1"),
    (b"x-ratelimit-remaining-requests", b"7"),
    (b"openai-organization", b"org-leader"),
    (b"x-request-id", b"req-leader"),
]


async def test_fields_that_are_the_leaders_own_are_not_given_to_followers() -> None:
    """Promise 20: cookies, limits, organisation and request id are of one client."""
    more = asyncio.Event()
    pieces = stream_of("Hi")
    upstream = FakeUpstream(stream_play([pieces[0], more, *pieces[1:]], headers=_OF_ONE_CLIENT))
    worker = Worker(upstream)
    leader = worker.ask(chat(stream=True))
    await leader.until(lambda c: c.body != b"")
    follower = worker.ask(chat(stream=True))
    await follower.until(lambda c: c.body != b"")
    more.set()
    await leader.done()
    await follower.done()

    assert [leader.one(name) for name, _ in _OF_ONE_CLIENT] == [v for _, v in _OF_ONE_CLIENT]
    for name, value in _OF_ONE_CLIENT:
        assert value not in follower.all(name)


# Leaders that fail.


@pytest.mark.parametrize(
    "failure",
    [
        Play(error=UpstreamUnreachable("refused")),
        Play([b'{"error": {}}'], status=500),
        Play([b'{"error": {}}'], status=429),
    ],
    ids=["unreachable", "500", "429"],
)
@pytest.mark.parametrize("is_redis_down", [False, True], ids=["redis", "no redis"])
async def test_one_follower_tries_again_for_all_when_the_leader_fails(
    failure: Play, is_redis_down: bool
) -> None:
    """Promise 8: a leader that fails costs at most one more upstream call."""
    failure.gate = asyncio.Event()
    upstream = FakeUpstream(failure, json_play("second try"))
    worker = Worker(upstream)
    worker.redis.is_down = is_redis_down
    calls = [worker.ask(chat()) for _ in range(20)]
    await settle()

    failure.gate.set()
    for call in calls:
        await call.done()

    assert upstream.calls == 2
    assert sum(call.status == 200 for call in calls) == 19
    assert {content_of(call) for call in calls if call.status == 200} == {"second try"}


@pytest.mark.parametrize(
    ("failure", "status"),
    [
        (Play(error=UpstreamUnreachable("refused")), 502),
        (Play(error=UpstreamTimeout("late")), 504),
        (Play([b'{"error": "hers"}'], status=503, headers=[(b"retry-after", b"9")]), 503),
    ],
    ids=["unreachable", "timeout", "503"],
)
async def test_after_a_second_failure_all_who_wait_are_told_at_once(
    failure: Play, status: int
) -> None:
    """Promise 8: never one after another; and an upstream that is down is not stormed."""
    gates = [asyncio.Event(), asyncio.Event()]
    upstream = FakeUpstream(
        *[replace(failure, gate=gate) for gate in gates], json_play("a third call")
    )
    worker = Worker(upstream)
    calls = [worker.ask(chat()) for _ in range(20)]
    await settle()
    gates[0].set()
    await settle()
    assert upstream.calls == 2

    gates[1].set()
    for call in calls:
        await call.done()

    assert upstream.calls == 2
    assert [call.status for call in calls] == [status] * 20
    told = [call for call in calls if b"hers" not in call.body]
    if failure.status == 503:
        assert len(told) == 18, "an upstream's own words are for the client it answered"
        assert all(call.one(b"retry-after") == b"9" for call in told)
    assert all("collapsed" in call.cache_status for call in told[2:])
    assert (await worker.get(chat())).status == 200, "who comes later asks again"


@pytest.mark.parametrize(
    "play",
    [
        Play([b"hello"], content_type=b"text/plain"),
        Play([b'{"answer": "of a kind of its own"}']),
        Play([b'{"error": null, "choices": []}']),
        stream_play([b'data: {"token": 1}\n\n']),
    ],
    ids=["plain text", "other JSON", "no choices", "other events"],
)
async def test_odd_answer_of_a_working_upstream_is_never_turned_into_an_error(play: Play) -> None:
    """Design §9: the cache may fail to understand, the request must not fail by it."""
    gate = asyncio.Event()
    upstream = FakeUpstream(replace(play, gate=gate))
    worker = Worker(upstream)
    calls = [worker.ask(chat()) for _ in range(10)]
    await settle()

    gate.set()
    for call in calls:
        await call.done()

    assert [call.status for call in calls] == [200] * 10


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (UpstreamUnreachable("refused"), 502, "upstream_unreachable"),
        (UpstreamTimeout("late"), 504, "upstream_timeout"),
    ],
)
async def test_upstream_without_an_answer_is_told_in_the_common_form(
    error: Exception, status: int, code: str
) -> None:
    """Promise 13: 502 or 504 at once; the envelope is OpenAI's."""
    worker = Worker(FakeUpstream(Play(error=error)))

    call = await worker.get(chat())

    assert (call.status, call.error_code) == (status, code)
    assert call.cache_status == "recollect; fwd=miss"
    assert call.one(b"age") == b"0"
    assert await is_idle(worker)


async def test_upstreams_own_error_passes_unchanged() -> None:
    """Promise 15: 429 and Retry-After pass, and one try is all there is."""
    content = b'{"error": {"message": "slow down"}}\n'
    play = Play([content], status=429, headers=[(b"retry-after", b"7")])
    upstream = FakeUpstream(play)
    worker = Worker(upstream)

    call = await worker.get(chat())

    assert (call.status, call.body, call.one(b"retry-after")) == (429, content, b"7")
    assert call.cache_status == "recollect; fwd=miss; fwd-status=429"
    assert upstream.calls == 1
    assert not worker.redis.names("e")


# Clients that leave.


async def is_idle(worker: Worker) -> bool:
    """Return whether nothing is left of any request: no call, no task, no lease."""
    await settle()
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    return not worker.upstream.running and not tasks and not worker.redis.names("l")


_GATE_BEFORE_HEAD = "before the head"
_GATE_IN_BODY = "in the content"


@pytest.mark.parametrize("phase", [_GATE_BEFORE_HEAD, _GATE_IN_BODY])
@pytest.mark.parametrize("is_stream", [False, True], ids=["json", "stream"])
async def test_flight_goes_on_without_its_leader_while_someone_watches(
    phase: str, is_stream: bool
) -> None:
    """Promise 8: a leader that leaves costs the others nothing."""
    gate = asyncio.Event()
    pieces = stream_of("Hello ", "you") if is_stream else [completion("Hello you")]
    play = Play(pieces, content_type=b"text/event-stream" if is_stream else b"application/json")
    if phase == _GATE_BEFORE_HEAD:
        play.gate = gate
    else:
        play.pieces = [pieces[0][:10], gate, pieces[0][10:], *pieces[1:]]
    upstream = FakeUpstream(play, json_play("a second call"))
    worker = Worker(upstream)
    leader = worker.ask(chat(stream=is_stream))
    await settle()
    follower = worker.ask(chat(stream=is_stream))
    await settle()

    leader.leave()
    await leader.done()
    gate.set()
    await follower.done()

    assert upstream.calls == 1
    assert follower.status == 200
    assert follower.body.count(b"Hello ") == 1
    assert follower.is_ended


@pytest.mark.parametrize("phase", [_GATE_BEFORE_HEAD, _GATE_IN_BODY])
async def test_upstream_call_is_cancelled_when_all_have_left(phase: str) -> None:
    """Promise 9; the lease goes too, so that others need not wait for its end."""
    never = asyncio.Event()
    pieces = stream_of("Hello")
    play = (
        stream_play(pieces, gate=never)
        if phase == _GATE_BEFORE_HEAD
        else stream_play([pieces[0], never])
    )
    upstream = FakeUpstream(play)
    worker = Worker(upstream)
    calls = [worker.ask(chat(stream=True)) for _ in range(3)]
    await settle()
    for call in calls[:2]:
        call.leave()
    await settle()
    assert upstream.running == 1

    calls[2].leave()
    await settle()

    assert upstream.sent[0].end == "cancelled"
    assert await is_idle(worker)
    assert not worker.redis.names("e")


@pytest.mark.parametrize("is_whole", [True, False], ids=["after the terminator", "before it"])
async def test_client_that_leaves_with_its_last_event_leaves_a_stored_answer(
    is_whole: bool,
) -> None:
    """Many close the connection as soon as they read `[DONE]`; its end is still to come then."""
    end = asyncio.Event()
    pieces = stream_of("Hello")
    upstream = FakeUpstream(
        stream_play([*pieces, end] if is_whole else [*pieces[:-1], end, pieces[-1]])
    )
    worker = Worker(upstream)
    call = worker.ask(chat(stream=True))
    await settle()

    call.leave()
    await call.done()
    await settle()
    end.set()
    await settle()

    assert bool(worker.redis.names("e")) == is_whole
    assert upstream.sent[0].end == ("answered" if is_whole else "cancelled")


async def test_request_after_a_deserted_one_is_answered() -> None:
    """The flight that is being cancelled is not joined, and its lease is no obstacle."""
    upstream = FakeUpstream(json_play(gate=asyncio.Event()), json_play("for the next"))
    worker = Worker(upstream)
    deserter = worker.ask(chat())
    await settle()
    deserter.leave()
    await deserter.done()

    call = await worker.get(chat())

    assert content_of(call) == "for the next"
    assert await is_idle(worker)


@pytest.mark.parametrize("turns", range(40))
async def test_client_that_leaves_at_any_moment_leaves_nothing_behind(turns: int) -> None:
    """Promise 9: in every phase, the wait for Redis included; and the next one is answered."""
    upstream = FakeUpstream(stream_play(stream_of("Hello")))
    worker = Worker(upstream)
    deserter = worker.ask(chat(stream=True))
    for _ in range(turns):
        await asyncio.sleep(0)
    deserter.leave()
    await deserter.done()

    assert await is_idle(worker)
    call = await worker.get(chat(stream=True))
    assert text_of(call.body) == "Hello"


async def test_client_that_leaves_while_redis_is_asked_leaves_no_lease() -> None:
    """The lease may be granted after nobody wants it any more."""
    upstream = FakeUpstream(json_play())
    worker = Worker(upstream)
    worker.redis.hold()
    deserter = worker.ask(chat())
    await settle()
    deserter.leave()
    await settle()

    worker.redis.let_go()

    assert await is_idle(worker)
    assert (await worker.get(chat())).status == 200


async def test_retry_deserted_while_it_asks_redis_leaves_no_lease() -> None:
    """A retry asks for its lease from within the flight, which may be cancelled there."""
    gate = asyncio.Event()
    failing = Play(error=UpstreamUnreachable("refused"), gate=gate)
    worker = Worker(FakeUpstream(failing, json_play()))
    leader, follower = worker.ask(chat()), worker.ask(chat())
    await settle()
    gate.set()
    worker.redis.hold()
    await settle()
    follower.leave()
    await settle()

    worker.redis.let_go()
    await leader.done()

    assert await is_idle(worker)
    assert (await worker.get(chat())).status == 200


# Requests that want nothing begun before them.


async def test_request_with_no_cache_never_joins_a_flight() -> None:
    """RFC 9111 §5.2.1.4: what was begun before it asked is no answer to it."""
    gate = asyncio.Event()
    upstream = FakeUpstream(json_play("old", gate=gate), json_play("new"))
    worker = Worker(upstream)
    leader = worker.ask(chat())
    await settle()

    call = await worker.get(chat(), headers={"cache-control": "no-cache"})

    assert content_of(call) == "new"
    assert call.cache_status == "recollect; fwd=request; stored"
    gate.set()
    assert content_of(await leader.done()) == "old"


async def test_nobody_joins_the_flight_of_a_request_with_no_cache() -> None:
    """It holds no lease, and its client may leave at any time."""
    gate = asyncio.Event()
    upstream = FakeUpstream(json_play("hers", gate=gate), json_play("his"))
    worker = Worker(upstream)
    first = worker.ask(chat(), headers={"cache-control": "no-cache"})
    await settle()

    assert content_of(await worker.get(chat())) == "his"
    gate.set()
    await first.done()


async def test_answer_to_a_request_with_no_cache_is_stored_for_others() -> None:
    """RFC 9111 §5.2.1.4 forbids reuse, not storing."""
    upstream = FakeUpstream(json_play("old"), json_play("new"))
    worker = Worker(upstream)
    await worker.get(chat())
    await worker.get(chat(), headers={"cache-control": "no-cache"})
    worker.forget()

    again = await worker.get(chat())

    assert content_of(again) == "new"
    assert upstream.calls == 2


async def test_requests_for_a_younger_answer_wait_together() -> None:
    """A herd that refuses what is stored is a herd all the same, and apart from the others'."""
    gate = asyncio.Event()
    clock = Clock()
    upstream = FakeUpstream(json_play("old"), json_play("new", gate=gate), json_play("newest"))
    worker = Worker(upstream, clock=clock)
    await worker.get(chat())
    clock.now += 60

    herd = [worker.ask(chat(), headers={"cache-control": "max-age=10"}) for _ in range(5)]
    await settle()
    assert content_of(await worker.get(chat())) == "old"
    gate.set()

    assert {content_of(await call.done()) for call in herd} == {"new"}
    assert upstream.calls == 2


async def test_requests_for_the_usage_of_a_stream_stored_without_it_wait_together() -> None:
    """The stored response cannot answer them; one fetch answers all."""
    gate = asyncio.Event()
    whole = [b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"Hi"},']
    whole += [b'"finish_reason":"stop"}]}\n\n', b"data: [DONE]\n\n"]
    usage = b'data: {"id":"c","choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}\n\n'
    upstream = FakeUpstream(
        stream_play(whole), stream_play([*whole[:2], gate, usage, whole[2]]), json_play()
    )
    worker = Worker(upstream)
    await worker.get(chat(stream=True))

    wanted = chat(stream=True, stream_options={"include_usage": True})
    herd = [worker.ask(wanted) for _ in range(5)]
    await settle()
    gate.set()

    assert all([b"prompt_tokens" in (await call.done()).body for call in herd])
    assert upstream.calls == 2


# Stale answers.

_STALE = {"ttl_s": 60.0, "max_stale_s": 600.0}


async def test_stale_answer_is_served_while_a_fresh_one_is_fetched() -> None:
    """RFC 5861 §3."""
    gate, clock = asyncio.Event(), Clock()
    upstream = FakeUpstream(json_play("old"), json_play("new", gate=gate))
    worker = Worker(upstream, clock=clock, cache={**_STALE, "stale_while_revalidate_s": 100.0})
    await worker.get(chat())
    await settle()
    clock.now += 61

    stale = await worker.get(chat())
    assert content_of(stale) == "old"
    assert stale.cache_status == "recollect; hit; ttl=-1; detail=exact"
    assert content_of(await worker.get(chat())) == "old"
    await settle()
    assert upstream.calls == 2, "one revalidation for all"
    gate.set()
    await settle()

    assert content_of(await worker.get(chat())) == "new"
    assert upstream.calls == 2
    assert await is_idle(worker)


async def test_revalidation_whose_answer_is_oversize_ends() -> None:
    """Nobody reads it: it must neither fill memory nor wait for a reader that never comes."""
    clock = Clock()
    large = [b"x" * 600] * 10
    upstream = FakeUpstream(json_play("old"), Play(large), json_play("new"))
    worker = Worker(
        upstream,
        clock=clock,
        cache={**_STALE, "stale_while_revalidate_s": 100.0, "max_entry_bytes": 2048},
    )
    await worker.get(chat())
    await settle()
    clock.now += 61
    await worker.get(chat())

    await settle()

    assert upstream.calls == 2
    assert await is_idle(worker)


@pytest.mark.parametrize(
    "failure",
    [
        Play(error=UpstreamUnreachable("refused")),
        Play([b"{}"], status=503),
        Play([b'{"id"', UpstreamCut("cut")]),
    ],
    ids=["unreachable", "503", "cut before anything was sent"],
)
async def test_stale_answer_stands_in_for_an_error(failure: Play) -> None:
    """RFC 5861 §4: an error is any situation that would end in a 5xx."""
    clock = Clock()
    worker = Worker(
        FakeUpstream(json_play("old"), failure),
        clock=clock,
        cache={**_STALE, "stale_if_error_s": 100.0},
    )
    await worker.get(chat())
    await settle()
    clock.now += 61

    call = await worker.get(chat())

    assert (call.status, content_of(call)) == (200, "old")
    assert call.one(b"age") == b"61"


async def test_stale_answer_does_not_stand_in_where_the_upstream_answers() -> None:
    """It is for errors alone, a 4xx of the request's own among none of them (RFC 5861 §4)."""
    clock = Clock()
    upstream = FakeUpstream(json_play("old"), Play([b"{}"], status=404), json_play("new"))
    worker = Worker(upstream, clock=clock, cache={**_STALE, "stale_if_error_s": 100.0})
    await worker.get(chat())
    await settle()
    clock.now += 61

    assert (await worker.get(chat())).status == 404
    await settle()
    assert content_of(await worker.get(chat())) == "new"


async def test_stale_answer_past_its_time_does_not_stand_in() -> None:
    """`stale_if_error_s` counts from the end of the lifetime."""
    clock = Clock()
    failure = Play(error=UpstreamUnreachable("refused"))
    worker = Worker(
        FakeUpstream(json_play("old"), failure),
        clock=clock,
        cache={**_STALE, "stale_if_error_s": 100.0},
    )
    await worker.get(chat())
    await settle()
    clock.now += 161

    assert (await worker.get(chat())).status == 502


async def test_stale_answer_without_the_usage_asked_for_does_not_stand_in() -> None:
    """Then the upstream's failure is the answer; there is always one, and one call is enough."""
    clock = Clock()
    upstream = FakeUpstream(stream_play(stream_of("old")), Play([b"{}"], status=503))
    worker = Worker(upstream, clock=clock, cache={**_STALE, "stale_if_error_s": 100.0})
    await worker.get(chat(stream=True))
    await settle()
    clock.now += 61

    call = await worker.get(chat(stream=True, stream_options={"include_usage": True}))

    assert call.status == 503
    assert upstream.calls == 2


# Answers of any size.

_SMALL = {"max_entry_bytes": 2048}


async def test_oversize_answer_streams_through_and_is_not_stored() -> None:
    """Issue §5: above a size an answer streams through unstored."""
    pieces = [b'{"x": "', *[b"y" * 500] * 20, b'"}']
    upstream = FakeUpstream(Play(pieces))
    worker = Worker(upstream, cache=_SMALL)

    call = await worker.get(chat())

    assert call.body == b"".join(pieces)
    assert call.is_ended
    assert await is_idle(worker)
    assert not worker.redis.names("e")
    assert (await worker.get(chat())).status == 200
    assert upstream.calls == 2


async def test_end_of_an_oversize_stream_is_not_stored_as_if_it_were_the_whole() -> None:
    """Promise 2: what was dropped from memory is missing, and the rest looks complete."""
    pieces = stream_of(*["x" * 400] * 20)
    upstream = FakeUpstream(stream_play(pieces))
    worker = Worker(upstream, cache=_SMALL)

    for number in (1, 2):
        call = await worker.get(chat(stream=True))
        assert call.body == b"".join(pieces)
        assert await is_idle(worker)
        assert upstream.calls == number
    assert not worker.redis.values


@pytest.mark.parametrize("is_stream", [False, True], ids=["json", "stream"])
async def test_oversize_answer_waits_for_a_slow_reader(is_stream: bool) -> None:
    """Issue §5: with bounded memory. Read on while nobody takes it is what fills memory."""
    pieces = [b"%04d" % number * 128 for number in range(100)]
    content_type = b"text/event-stream" if is_stream else b"application/json"
    upstream = FakeUpstream(Play(pieces, content_type=content_type))
    worker = Worker(upstream, cache=_SMALL)
    call = worker.ask(chat(stream=is_stream))
    call.reads.clear()
    await settle()
    assert upstream.calls == 1
    assert upstream.running == 1, "all of it was read though nobody took it"

    call.reads.set()
    await call.done()

    assert call.body == b"".join(pieces)


async def test_request_beside_an_oversize_answer_of_its_key_is_answered() -> None:
    """The first flight still holds the lease, and can no longer be joined."""
    rest = asyncio.Event()
    pieces = [b"x" * 3000]
    upstream = FakeUpstream(Play([*pieces, rest]), json_play("beside"))
    worker = Worker(upstream, cache=_SMALL)
    first = worker.ask(chat())
    await first.until(lambda c: c.body != b"")

    call = await worker.get(chat())

    assert content_of(call) == "beside"
    rest.set()
    await first.done()
    assert await is_idle(worker)


async def test_followers_of_an_answer_that_grows_too_large_ask_for_themselves() -> None:
    """They wait for what is stored; what is too large never will be."""
    rest, others = asyncio.Event(), asyncio.Event()
    upstream = FakeUpstream(Play([b"x" * 1000, rest, b"x" * 2000]), json_play("own", gate=others))
    worker = Worker(upstream, cache=_SMALL)
    leader = worker.ask(chat())
    await settle()
    followers = [worker.ask(chat()) for _ in range(5)]
    await settle()

    rest.set()
    await settle()

    assert upstream.calls == 6
    others.set()
    assert [content_of(await call.done()) for call in followers] == ["own"] * 5
    assert (await leader.done()).body == b"x" * 3000


async def test_one_who_reads_nothing_does_not_hold_up_the_others() -> None:
    """Promise 13: slow readers. The laggard is cut off; who reads is served."""
    rest = asyncio.Event()
    upstream = FakeUpstream(
        stream_play([b"data: 1\n\n", rest, *[b": " + b"x" * 500 + b"\n\n"] * 20])
    )
    worker = Worker(upstream, cache=_SMALL)
    reader = worker.ask(chat(stream=True))
    await reader.until(lambda c: c.body != b"")
    laggard = worker.ask(chat(stream=True))
    await laggard.until(lambda c: c.body != b"")
    laggard.reads.clear()

    rest.set()
    await reader.done()

    assert reader.is_ended
    laggard.leave()
    await laggard.done()


async def test_two_slow_readers_are_both_served() -> None:
    """Only who stops reading is cut off, not who is a moment later than another."""
    pieces = [b": " + b"%03d" % number + b"x" * 500 + b"\n\n" for number in range(20)]
    rest = asyncio.Event()
    upstream = FakeUpstream(stream_play([b"data: 1\n\n", rest, *pieces]))
    worker = Worker(upstream, cache=_SMALL)
    calls = [worker.ask(chat(stream=True)) for _ in range(2)]
    for call in calls:
        await call.until(lambda c: c.body != b"")
        call.reads.clear()
    rest.set()

    while not all(call.is_done for call in calls):
        for call in calls:
            call.reads.set()
            await asyncio.sleep(0)
            call.reads.clear()
            for _ in range(20):
                await asyncio.sleep(0)

    assert [call.is_ended for call in calls] == [True, True]
    assert calls[0].body == calls[1].body


# Answers that break off.


async def test_stream_that_breaks_off_ends_with_an_error_event_and_an_open_end() -> None:
    """Design §9: an error event, and no ending is invented (promise 2)."""
    pieces = stream_of("Hello")[:2]
    upstream = FakeUpstream(stream_play([*pieces, UpstreamCut("cut")]))
    worker = Worker(upstream)

    call = await worker.get(chat(stream=True))

    assert call.body.startswith(b"".join(pieces))
    error = json.loads(call.body.rpartition(b"data: ")[2])["error"]
    assert error["code"] == "upstream_cut"
    assert not call.is_ended
    assert DONE not in call.body
    assert await is_idle(worker)
    assert not worker.redis.names("e")


async def test_followers_of_a_stream_that_breaks_off_see_it_too() -> None:
    """Promise 15: never a retry after the first streamed byte."""
    rest = asyncio.Event()
    upstream = FakeUpstream(stream_play([event({"content": "He"}), rest, UpstreamCut("cut")]))
    worker = Worker(upstream)
    calls = [worker.ask(chat(stream=True)) for _ in range(3)]
    for call in calls:
        await call.until(lambda c: c.body != b"")

    rest.set()

    for call in calls:
        await call.done()
        assert not call.is_ended
        assert b"upstream_cut" in call.body
    assert upstream.calls == 1


async def test_json_answer_that_breaks_off_is_seen_as_cut() -> None:
    """Promise 2: the first client sees the cut; nothing of ours is mixed in, nothing stored."""
    content = completion()
    upstream = FakeUpstream(
        Play(
            [content[:30], UpstreamCut("cut")],
            headers=[(b"content-length", b"%d" % len(content))],
        )
    )
    worker = Worker(upstream)

    call = await worker.get(chat())

    assert not call.is_ended
    assert call.body in (b"", content[:30])
    assert not worker.redis.names("e")


async def test_error_event_is_not_mixed_into_a_compressed_stream() -> None:
    """RFC 9110 §8.4: what follows must be in the content coding that the head names."""
    upstream = FakeUpstream(
        stream_play([b"\x1f\x8b\x08", UpstreamCut("cut")], headers=[(b"content-encoding", b"gzip")])
    )

    call = await Worker(upstream).get(chat(stream=True))

    assert call.body == b"\x1f\x8b\x08"
    assert not call.is_ended


# What answers say of themselves.


async def test_answer_in_json_is_sent_when_it_is_known_what_became_of_it() -> None:
    """RFC 9211 §2.5: only then can its head say whether it was stored."""
    content, rest = completion(), asyncio.Event()
    upstream = FakeUpstream(Play([content[:20], rest, content[20:]]))
    call = Worker(upstream).ask(chat())
    await settle()
    assert call.status == 0

    rest.set()
    await call.done()

    assert call.body == content
    assert call.cache_status == "recollect; fwd=miss; stored"


async def test_length_of_a_whole_answer_is_stated() -> None:
    """Also where the upstream sent it in chunks: clients may then keep the connection."""
    upstream = FakeUpstream(json_play())

    call = await Worker(upstream).get(chat())

    assert call.one(b"content-length") == b"%d" % len(call.body)


async def test_length_that_the_upstream_stated_is_not_stated_twice() -> None:
    """RFC 9110 §8.6."""
    content = completion()
    play = Play([content], headers=[(b"content-length", b"%d" % len(content))])

    call = await Worker(FakeUpstream(play)).get(chat())

    assert call.one(b"content-length") == b"%d" % len(content)


async def test_defect_of_ours_leaves_no_watcher_waiting() -> None:
    """The task of a flight that fails by a defect tells its watchers first."""
    upstream = FakeUpstream(Play(error=ZeroDivisionError("a defect")))
    worker = Worker(upstream)

    call = await worker.get(chat())

    assert (call.status, call.error_code) == (502, "upstream_lost")
    assert await is_idle(worker)


# Answers to the same question in other words.


async def knowing(embeddings: FakeEmbeddings, *plays: Play, max_stale_s: float = 0.0) -> Worker:
    """Return a worker that has stored the first play's answer to ASKED, ten seconds ago."""
    worker = Worker(
        FakeUpstream(json_play("as asked first"), *plays),
        embeddings=embeddings,
        cache={"max_stale_s": max_stale_s},
    )
    await learn(worker, embeddings)
    worker.clock.now += 10
    return worker


async def test_all_who_wait_get_the_answer_to_other_words() -> None:
    """One look-up for all of them, and no upstream call; each with the stored response's age."""
    embeddings = FakeEmbeddings()
    worker = await knowing(embeddings, json_play("again"))
    embeddings.gate = asyncio.Event()

    calls = [worker.ask(chat(IN_OTHER_WORDS)) for _ in range(20)]
    await settle()
    embeddings.gate.set()

    for call in calls:
        assert content_of(await call.done()) == "as asked first"
        assert call.cache_status == meant_status(worker, 3590)
        assert call.one(b"age") == b"10"
    assert worker.upstream.calls == 1
    assert len(embeddings.asked) == 2
    assert len({call.json["id"] for call in calls}) == 20


async def test_answer_to_other_words_comes_in_the_form_that_was_asked_for() -> None:
    """Whoever leads, and in whatever form it was stored."""
    embeddings = FakeEmbeddings()
    worker = await knowing(embeddings)
    embeddings.gate = asyncio.Event()
    leader = worker.ask(chat(IN_OTHER_WORDS, stream=True))
    follower = worker.ask(chat(IN_OTHER_WORDS))
    await settle()
    embeddings.gate.set()
    await leader.done()

    assert text_of(leader.body) == content_of(await follower.done()) == "as asked first"
    assert leader.body.endswith(DONE)
    assert leader.cache_status == follower.cache_status == meant_status(worker, 3590)


@pytest.mark.parametrize("wish", ["max-age=5", "min-fresh=3595"])
async def test_stricter_follower_asks_for_itself(wish: str) -> None:
    """What answers its leader is too old for it, and no other will be nearer."""
    embeddings = FakeEmbeddings()
    worker = await knowing(embeddings, json_play("anew"))
    embeddings.gate = asyncio.Event()
    leader = worker.ask(chat(IN_OTHER_WORDS))
    await settle()
    follower = worker.ask(chat(IN_OTHER_WORDS), headers={"cache-control": wish})
    await settle()
    embeddings.gate.set()

    assert content_of(await leader.done()) == "as asked first"
    assert content_of(await follower.done()) == "anew"
    assert worker.upstream.calls == 2
    assert len(embeddings.asked) == 2, "the strict one is not looked up again"
    assert await is_idle(worker)


async def test_stricter_leader_leaves_the_others_what_it_fetched() -> None:
    """Nothing near enough was young enough for it: the flight goes upstream, for all."""
    embeddings = FakeEmbeddings()
    worker = await knowing(embeddings, json_play("anew"))
    embeddings.gate = asyncio.Event()
    leader = worker.ask(chat(IN_OTHER_WORDS), headers={"cache-control": "max-age=5"})
    await settle()
    follower = worker.ask(chat(IN_OTHER_WORDS))
    await settle()
    embeddings.gate.set()

    assert content_of(await leader.done()) == "anew"
    assert content_of(await follower.done()) == "anew"
    assert follower.cache_status == "recollect; fwd=miss; collapsed"
    assert worker.upstream.calls == 2


async def test_other_workers_wait_for_the_look_up_and_find_its_alias() -> None:
    """The lease is on these words; where it ends, the alias is."""
    embeddings = FakeEmbeddings()
    one = await knowing(embeddings)
    other = Worker(one.upstream, one.redis, embeddings=FakeEmbeddings(), clock=one.clock)
    embeddings.gate = asyncio.Event()
    leader = one.ask(chat(IN_OTHER_WORDS))
    await settle()
    follower = other.ask(chat(IN_OTHER_WORDS))
    await settle()
    assert not follower.is_done
    embeddings.gate.set()

    assert content_of(await leader.done()) == "as asked first"
    assert content_of(await follower.done()) == "as asked first"
    assert one.upstream.calls == 1
    assert not one.redis.names("l")


async def test_leader_that_leaves_during_the_look_up_leaves_no_lease() -> None:
    """And its follower still gets the answer."""
    embeddings = FakeEmbeddings()
    worker = await knowing(embeddings)
    embeddings.gate = asyncio.Event()
    leader = worker.ask(chat(IN_OTHER_WORDS))
    await settle()
    follower = worker.ask(chat(IN_OTHER_WORDS))
    await settle()
    leader.leave()
    await leader.done()
    embeddings.gate.set()

    assert (await follower.done()).cache_status == meant_status(worker, 3590)
    alone = worker.ask(chat("What number of citizens does the town have?"))
    embeddings.gate = asyncio.Event()
    await settle()
    alone.leave()
    await alone.done()
    await settle()
    assert not worker.redis.names("l")
    assert await is_idle(worker)


async def test_what_was_found_and_refused_is_not_looked_up_by_meaning() -> None:
    """It is nearer than anything in other words could be: stale, too old, or not wanted at all."""
    embeddings = FakeEmbeddings()
    worker = await knowing(embeddings, json_play("anew"), max_stale_s=600.0)
    for wish in ("no-cache", "max-age=0"):
        call = await worker.get(chat(ASKED), headers={"cache-control": wish})
        assert content_of(call) == "anew", wish
    worker.clock.now += 3601

    call = await worker.get(chat(ASKED))

    assert call.cache_status == "recollect; fwd=stale; stored"
    assert len(embeddings.asked) == 1


async def test_another_try_after_a_failure_is_not_looked_up_again() -> None:
    """What was looked for a moment ago is not there now."""
    gate = asyncio.Event()
    embeddings = FakeEmbeddings()
    upstream = FakeUpstream(Play([b"{}"], status=503, gate=gate), json_play("at last"))
    worker = Worker(upstream, embeddings=embeddings)
    leader, follower = worker.ask(chat(ASKED)), worker.ask(chat(ASKED))
    await settle()
    gate.set()

    assert (await leader.done()).status == 503
    assert content_of(await follower.done()) == "at last"
    assert len(embeddings.asked) == 1


async def test_what_the_answer_to_other_words_lacks_is_asked_for_in_these_words() -> None:
    """A stream with its usage, of an answer that came without: its own call is the only way."""
    embeddings = FakeEmbeddings()
    with_usage = [*stream_of("anew")[:-1], b'data: {"choices": [], "usage": {}}\n\n', DONE]
    upstream = FakeUpstream(stream_play(stream_of("first")), stream_play(with_usage))
    worker = Worker(upstream, embeddings=embeddings)
    await learn(worker, embeddings, stream=True)

    body = chat(IN_OTHER_WORDS, stream=True, stream_options={"include_usage": True})
    call = await worker.get(body)

    assert text_of(call.body) == "anew"
    assert call.cache_status == "recollect; fwd=miss"
    assert upstream.calls == 2
    assert len(embeddings.asked) == 2
    assert await is_idle(worker)


async def test_those_for_whom_the_answer_to_other_words_is_too_old_fetch_one_together() -> None:
    """One call for all of them; the one whom it does for is served meanwhile."""
    embeddings = FakeEmbeddings()
    worker = await knowing(embeddings, json_play("anew"))
    calls_before = worker.upstream.calls
    worker.clock.now += 100
    embeddings.gate = asyncio.Event()
    leader = worker.ask(chat(IN_OTHER_WORDS))
    await settle()
    strict = [
        worker.ask(chat(IN_OTHER_WORDS), headers={"cache-control": "max-age=50"}) for _ in range(20)
    ]
    await settle()
    embeddings.gate.set()

    assert (await leader.done()).cache_status.startswith("recollect; hit")
    assert {content_of(await one.done()) for one in strict} == {"anew"}
    assert worker.upstream.calls == calls_before + 1
    assert await is_idle(worker)
