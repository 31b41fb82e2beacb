"""Flights followed across workers: over messages that may be lost, late or garbled."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace

import orjson
import pytest
import pytest_asyncio

from cachestore.leases import lease_key
from proxy.upstreams.upstream import UpstreamCut, UpstreamUnreachable
from tests.proxy.fakes import (
    Clock,
    FakeRedis,
    FakeUpstream,
    Play,
    Worker,
    chat,
    event,
    json_play,
    settle,
    stream_of,
    stream_play,
    text_of,
)

pytestmark = pytest.mark.virtual_time


def content_of(body: bytes) -> str:
    """Return what an answer in JSON says."""
    text: str = orjson.loads(body)["choices"][0]["message"]["content"]
    return text


class Pair:
    """Two workers with one Redis; the first is made to lead."""

    def __init__(self, *plays: Play, cache: Mapping[str, object] = {}) -> None:
        self.redis, self.clock = FakeRedis(), Clock()
        self.upstream = FakeUpstream(*plays)
        self.leader, self.follower = (
            Worker(self.upstream, self.redis, clock=self.clock, cache=cache) for _ in range(2)
        )

    async def is_idle(self) -> bool:
        """Return whether nothing is left of any request."""
        await settle()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        return not tasks and not self.upstream.running and not self.redis.names("l")


@pytest_asyncio.fixture(autouse=True)
async def no_task_is_left() -> AsyncIterator[None]:
    """Whatever was lost on the way: when all clients are served, nothing goes on."""
    yield
    await settle()
    left = asyncio.all_tasks() - {asyncio.current_task()}
    assert not [task for task in left if "Fetcher" in repr(task) or "_serve" in repr(task)]


async def test_requests_over_two_workers_are_one_upstream_call() -> None:
    """Promise 7: 1,000 equal requests over 2 workers make exactly 1 upstream call."""
    gate = asyncio.Event()
    pair = Pair(json_play("once", gate=gate), json_play("again"))
    calls = [(pair.leader, pair.follower)[n % 2].ask(chat()) for n in range(1000)]
    await settle()
    gate.set()

    for call in calls:
        await call.done()

    assert pair.upstream.calls == 1
    assert {content_of(call.body) for call in calls} == {"once"}
    assert sum(call.cache_status == "recollect; fwd=miss; stored" for call in calls) == 1
    assert sum("collapsed" in call.cache_status for call in calls) == 999
    assert await pair.is_idle()


async def test_stream_is_followed_from_its_beginning_as_it_comes() -> None:
    """Design: followers of a streamed request get the stream, on other workers too."""
    more = asyncio.Event()
    pieces = stream_of("one ", "two ", "three")
    pair = Pair(stream_play([*pieces[:3], more, *pieces[3:]]))
    first = pair.leader.ask(chat(stream=True))
    await first.until(lambda c: b"two" in c.body)

    second = pair.follower.ask(chat(stream=True))
    await second.until(lambda c: b"two" in c.body)
    assert not second.is_ended
    more.set()
    await first.done()
    await second.done()

    assert second.body == first.body == b"".join(pieces)
    assert second.is_ended
    assert second.cache_status.startswith("recollect; fwd=miss; collapsed")
    assert pair.upstream.calls == 1
    assert await pair.is_idle()


@pytest.mark.parametrize("wants_stream", [False, True])
async def test_request_of_another_form_waits_for_the_stored_answer(wants_stream: bool) -> None:
    """JSON from a stream and the reverse."""
    gate = asyncio.Event()
    play = json_play("Hello", gate=gate)
    if not wants_stream:
        play = stream_play(stream_of("Hello"), gate=gate)
    pair = Pair(play)
    first = pair.leader.ask(chat(stream=not wants_stream))
    await settle()
    second = pair.follower.ask(chat(stream=wants_stream))
    await settle()

    gate.set()
    await first.done()
    await second.done()

    said = text_of(second.body) if wants_stream else content_of(second.body)
    assert said == "Hello"
    assert pair.upstream.calls == 1
    assert await pair.is_idle()


async def test_follower_waits_for_a_slow_model() -> None:
    """`alive` fills the silence: minutes without a byte are no sign of death."""
    gate = asyncio.Event()
    pair = Pair(json_play("at last", gate=gate))
    first, second = pair.leader.ask(chat()), pair.follower.ask(chat())
    await asyncio.sleep(120)
    assert pair.upstream.calls == 1
    assert not second.is_done

    gate.set()

    assert content_of((await second.done()).body) == "at last"
    await first.done()
    assert pair.upstream.calls == 1


async def test_follower_waits_for_a_stream_that_pauses() -> None:
    """The same in the middle of an answer."""
    more = asyncio.Event()
    pieces = stream_of("one ", "two")
    pair = Pair(stream_play([*pieces[:2], more, *pieces[2:]]))
    first = pair.leader.ask(chat(stream=True))
    await settle()
    second = pair.follower.ask(chat(stream=True))
    await second.until(lambda c: b"one" in c.body)

    await asyncio.sleep(120)
    more.set()
    await first.done()
    await second.done()

    assert second.is_ended
    assert pair.upstream.calls == 1


async def test_follower_takes_over_when_the_leader_fails() -> None:
    """Promise 8: at most one more upstream call, over all workers."""
    gate = asyncio.Event()
    failing = Play(error=UpstreamUnreachable("refused"), gate=gate)
    pair = Pair(failing, json_play("second try"))
    first = pair.leader.ask(chat())
    await settle()
    others = [worker.ask(chat()) for worker in (pair.leader, pair.follower) for _ in range(10)]
    await settle()

    gate.set()
    for call in others:
        await call.done()
    await first.done()

    assert first.status == 502
    assert [content_of(call.body) for call in others] == ["second try"] * 20
    assert pair.upstream.calls == 2
    assert await pair.is_idle()


async def test_answer_for_the_leaders_client_alone_makes_the_follower_ask() -> None:
    """A follower is never handed an answer that may not be stored."""
    gate = asyncio.Event()
    short = {"finish_reason": "length"}
    pair = Pair(json_play("hers", gate=gate, **short), json_play("his", **short))
    first = pair.leader.ask(chat())
    await settle()
    second = pair.follower.ask(chat())
    await settle()

    gate.set()

    assert content_of((await first.done()).body) == "hers"
    assert content_of((await second.done()).body) == "his"
    assert pair.upstream.calls == 2
    assert await pair.is_idle()


async def test_stream_that_breaks_off_breaks_off_for_the_follower() -> None:
    """Promises 2 and 15: no ending is invented, no second try after the first byte."""
    rest = asyncio.Event()
    pair = Pair(stream_play([event({"content": "He"}), rest, UpstreamCut("cut")]))
    calls = [worker.ask(chat(stream=True)) for worker in (pair.leader, pair.follower)]
    for call in calls:
        await call.until(lambda c: c.body != b"")

    rest.set()

    for call in calls:
        await call.done()
        assert not call.is_ended
        assert b"upstream_cut" in call.body
    assert pair.upstream.calls == 1
    assert await pair.is_idle()


async def test_leader_goes_on_for_a_follower_on_another_worker() -> None:
    """Its own client has left; the other worker's has not."""
    more = asyncio.Event()
    pieces = stream_of("one ", "two")
    pair = Pair(stream_play([*pieces[:2], more, *pieces[2:]]))
    first = pair.leader.ask(chat(stream=True))
    await settle()
    second = pair.follower.ask(chat(stream=True))
    await second.until(lambda c: b"one" in c.body)

    first.leave()
    await first.done()
    more.set()
    await second.done()

    assert text_of(second.body) == "one two"
    assert second.is_ended
    assert pair.upstream.calls == 1
    assert await pair.is_idle()


async def test_upstream_call_ends_when_the_last_follower_elsewhere_leaves() -> None:
    """Promise 9, over workers: `leave` is a message too."""
    pair = Pair(json_play(gate=asyncio.Event()))
    first = pair.leader.ask(chat())
    await settle()
    second = pair.follower.ask(chat())
    await settle()
    first.leave()
    await settle()
    assert pair.upstream.running == 1

    second.leave()

    assert await pair.is_idle()


async def test_follower_that_leaves_in_a_pause_leaves_no_reader_behind() -> None:
    """Promise 14: the leader goes on for its own client alone."""
    more = asyncio.Event()
    pieces = stream_of("one ", "two")
    pair = Pair(stream_play([*pieces[:2], more, *pieces[2:]]))
    first = pair.leader.ask(chat(stream=True))
    await settle()
    second = pair.follower.ask(chat(stream=True))
    await second.until(lambda c: b"one" in c.body)

    second.leave()
    await second.done()
    await settle()

    assert not [task for task in asyncio.all_tasks() if "Watcher.next" in repr(task)]
    more.set()
    assert text_of((await first.done()).body) == "one two"


async def test_upstream_call_ends_when_the_follower_is_killed() -> None:
    """It cannot say that it leaves: what is said to it is received by nobody."""
    pair = Pair(json_play(gate=asyncio.Event()))
    first = pair.leader.ask(chat())
    await settle()
    second = pair.follower.ask(chat())
    await settle()
    first.leave()
    await settle()

    pair.redis.losing = lambda channel, message: b'"leave"' in message
    pair.follower.link.die()
    second.leave()
    await asyncio.sleep(5)

    assert await pair.is_idle()


async def test_follower_takes_the_lease_away_from_a_dead_leader() -> None:
    """Issue §3: a lease with a time-out; but nobody waits that long for a worker that is gone."""
    pair = Pair(json_play(gate=asyncio.Event()), json_play("mine"))
    first = pair.leader.ask(chat())
    await settle()
    pair.leader.link.die()

    second = await pair.follower.get(chat())

    assert content_of(second.body) == "mine"
    assert pair.upstream.calls == 2
    first.leave()
    await settle()


async def test_answer_of_a_leader_that_lost_its_lease_is_not_stored() -> None:
    """The fencing token: the lease is another's now, and so is the entry."""
    gate = asyncio.Event()
    pair = Pair(json_play("late", gate=gate), json_play("mine"), json_play("third"))
    first = pair.leader.ask(chat())
    await settle()
    pair.leader.link.die()
    await pair.follower.get(chat())
    await settle()

    gate.set()
    assert content_of((await first.done()).body) == "late", "its own client gets it all the same"
    await settle()
    pair.leader.forget()

    assert content_of((await pair.leader.get(chat())).body) == "mine"
    assert pair.upstream.calls == 2


async def test_leader_that_dies_in_the_middle_of_a_stream_cuts_the_follower() -> None:
    """What was sent cannot be taken back, and another answer cannot go on where it ended."""
    pieces = stream_of("one ", "two")
    pair = Pair(stream_play([*pieces[:2], asyncio.Event()]))
    first = pair.leader.ask(chat(stream=True))
    await settle()
    second = pair.follower.ask(chat(stream=True))
    await second.until(lambda c: b"one" in c.body)

    pair.follower.link.die()
    await second.done()

    assert not second.is_ended
    assert b"upstream_cut" in second.body
    first.leave()
    await settle()


async def test_lost_piece_cuts_the_stream() -> None:
    """Promise 11: a gap in the numbering is seen; nothing is ever put together around it."""
    more = asyncio.Event()
    pieces = stream_of("one ", "two ", "three")
    pair = Pair(stream_play([*pieces[:2], more, pieces[2], _turn(), *pieces[3:]]))
    first = pair.leader.ask(chat(stream=True))
    await settle()
    second = pair.follower.ask(chat(stream=True))
    await second.until(lambda c: b"one" in c.body)

    lost: list[bytes] = []

    def is_second_piece(channel: bytes, message: bytes) -> bool:
        if b'"kind":"piece"' in message and not lost:
            lost.append(message)
            return True
        return False

    pair.redis.losing = is_second_piece
    more.set()
    await first.done()
    await second.done()

    assert lost
    assert first.is_ended
    assert not second.is_ended
    assert b"three" not in second.body


def _turn() -> asyncio.Event:
    passed = asyncio.Event()
    asyncio.get_running_loop().call_later(0.1, passed.set)
    return passed


async def test_lost_outcome_makes_the_follower_look_for_itself() -> None:
    """Nothing here must arrive; after the silence it finds the answer in the store."""
    gate = asyncio.Event()
    pair = Pair(json_play("once", gate=gate), json_play("again"))
    first = pair.leader.ask(chat())
    await settle()
    second = pair.follower.ask(chat())
    await settle()
    pair.redis.losing = lambda channel, message: b"landed" in message

    gate.set()
    await first.done()

    assert content_of((await second.done()).body) == "once"
    assert pair.upstream.calls == 1


async def test_stream_too_large_for_the_cache_is_followed_all_the_same() -> None:
    """The leader must not wait for a watcher that does not read."""
    more = asyncio.Event()
    pieces = [b": %03d" % n + b"x" * 500 + b"\n\n" for n in range(20)]
    pair = Pair(stream_play([pieces[0], more, *pieces[1:]]), cache={"max_entry_bytes": 2048})
    first = pair.leader.ask(chat(stream=True))
    await settle()
    second = pair.follower.ask(chat(stream=True))
    await second.until(lambda c: c.body != b"")

    more.set()
    await first.done()
    await second.done()

    assert first.body == second.body == b"".join(pieces)
    assert pair.upstream.calls == 1
    assert await pair.is_idle()


async def test_follower_whose_client_is_slow_does_not_fill_memory() -> None:
    """Nothing slows a leader elsewhere down: what cannot be taken is given up, and seen as cut."""
    more = asyncio.Event()
    pieces = [b": %03d" % n + b"x" * 500 + b"\n\n" for n in range(100)]
    pair = Pair(stream_play([pieces[0], more, *pieces[1:]]), cache={"max_entry_bytes": 2048})
    first = pair.leader.ask(chat(stream=True))
    await settle()
    second = pair.follower.ask(chat(stream=True))
    await second.until(lambda c: c.body != b"")
    second.reads.clear()

    more.set()
    await first.done()
    await settle()
    second.reads.set()
    await second.done()

    assert first.is_ended
    assert not second.is_ended
    assert len(second.body) < 10_000


async def test_answer_too_large_for_the_cache_makes_the_follower_ask() -> None:
    """It will never be in the store."""
    rest = asyncio.Event()
    pair = Pair(
        Play([b"x" * 1000, rest, b"x" * 2000]), json_play("his"), cache={"max_entry_bytes": 2048}
    )
    first = pair.leader.ask(chat())
    await settle()
    second = pair.follower.ask(chat())
    await settle()

    rest.set()

    assert content_of((await second.done()).body) == "his"
    assert (await first.done()).body == b"x" * 3000


async def test_worker_does_not_follow_itself() -> None:
    """A lease of its own that no flight of its own belongs to is not waited for."""
    pair = Pair(json_play("mine"))
    worker = pair.leader
    asked = worker.ask(chat())
    await asked.done()
    await settle()
    (name,) = pair.redis.names("e")
    key = bytes.fromhex(name.rpartition(b":")[2].decode())
    del pair.redis.values[name]
    worker.forget()
    # As after a look-up whose reply was lost.
    pair.redis.values[lease_key("test", key)] = worker.owner + b":99"

    assert (await worker.get(chat())).status == 200
    assert pair.upstream.calls == 2


async def test_two_workers_never_wait_for_each_other() -> None:
    """A flight that follows is not followed: its worker says so at once."""
    pair = Pair(json_play("once"))
    flight = pair.leader.flights.open(b"k" * 32, "form", b"k" * 32)
    how = await _ask_to_follow(pair, b"k" * 32)

    assert how == "gone"
    assert not flight.is_settled


async def test_flight_that_ended_meanwhile_is_told_at_once() -> None:
    """Then its answer is stored, or the lease is free: the follower looks again."""
    assert await _ask_to_follow(Pair(json_play()), b"k" * 32) == "gone"


async def _ask_to_follow(pair: Pair, key: bytes) -> str:
    heard: list[dict[str, object]] = []
    pair.redis.receivers[b"test:w:third"] = lambda raw: heard.append(
        orjson.loads(raw.partition(b"\n")[0])
    )
    join = {"kind": "join", "number": 1, "from": "third", "key": key.hex(), "form": "form"}
    _publish(pair, orjson.dumps(join) + b"\n")
    await settle()
    (message,) = heard
    return str(message["how"])


def _publish(pair: Pair, message: bytes) -> None:
    pair.redis.run([b"PUBLISH", b"test:w:" + pair.leader.owner, message])


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"no JSON\n",
        b"[]\n",
        b"null\n",
        b'{"number": 1}\n',
        b'{"kind": "join"}\n',
        b'{"kind": "join", "number": 1, "from": "x", "key": "no hex", "form": ""}\n',
        b'{"kind": "join", "number": 1, "from": 7, "key": "", "form": ""}\n',
        b'{"kind": "leave", "number": 1}\n',
        b'{"kind": "leave", "number": 1, "from": "unknown"}\n',
        b'{"kind": "piece", "number": 999, "seq": 0}\n',
        b'{"kind": "head", "number": 1}\n',
        b"\xff\xfe\n",
    ],
)
async def test_message_that_is_not_understood_harms_nobody(
    message: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Hosts of another version, and strangers, may share the Redis (promise 10)."""
    problems: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, what: problems.append(what))
    pair = Pair(json_play("well"))

    _publish(pair, message)
    await settle()

    assert not problems
    assert content_of((await pair.leader.get(chat())).body) == "well"
    assert "defect" not in caplog.text


@pytest.mark.parametrize(
    "message",
    [
        {"kind": "head", "seq": 0},
        {"kind": "head", "seq": 0, "headers": [["a"]]},
        {"kind": "head", "seq": 0, "headers": [[1, 2]]},
        {"kind": "landed", "seq": 0, "how": "unheard of"},
        {"kind": "landed", "seq": 0},
        {"kind": "news", "seq": 7},
        {"kind": "piece"},
    ],
)
async def test_follower_of_a_leader_it_does_not_understand_asks_for_itself(
    message: dict[str, object],
) -> None:
    """The same on the way back."""
    pair = Pair(json_play("first"), json_play("second"))
    await pair.leader.get(chat())
    await settle()
    (name,) = pair.redis.names("e")
    key = bytes.fromhex(name.rpartition(b":")[2].decode())
    del pair.redis.values[name]
    pair.redis.values[lease_key("test", key)] = b"stranger:1"

    def answer(raw: bytes) -> None:
        fields = orjson.loads(raw.partition(b"\n")[0])
        if fields["kind"] == "join":
            reply = orjson.dumps({"number": fields["number"], **message}) + b"\n"
            pair.redis.run([b"PUBLISH", b"test:w:" + fields["from"].encode(), reply])

    pair.redis.receivers[b"test:w:stranger"] = answer

    call = await pair.follower.get(chat())

    assert call.status == 200
    assert content_of(call.body) == "second"


async def test_stopping_ends_what_is_told_to_others() -> None:
    """Promise 12: SIGTERM leaves no task behind."""
    pair = Pair(json_play(gate=asyncio.Event()))
    first = pair.leader.ask(chat())
    await settle()
    second = pair.follower.ask(chat())
    await settle()

    await pair.leader.peers.stop()

    assert not [t for t in asyncio.all_tasks() if "_serve" in repr(t)]
    first.leave()
    second.leave()
    await settle()


async def test_redis_that_goes_down_costs_a_waiting_follower_no_failure() -> None:
    """Promise 10: no failed request; it stops waiting for messages that cannot come."""
    gate = asyncio.Event()
    pair = Pair(json_play("hers", gate=gate), json_play("his"))
    first = pair.leader.ask(chat())
    await settle()
    second = pair.follower.ask(chat())
    await settle()

    pair.redis.is_down = True

    assert content_of((await second.done()).body) == "his"
    gate.set()
    await first.done()


async def test_landed_flight_is_reported_as_found_not_as_followed() -> None:
    """A join that comes while the answer is being written: it had come before it was asked for."""
    pair = Pair(json_play("once"))
    pair.redis.hold()
    first = pair.leader.ask(chat())
    await settle()
    pair.redis.let_go()
    await first.until(lambda c: c.is_ended)
    second = await pair.follower.get(chat())

    assert content_of(second.body) == "once"
    assert pair.upstream.calls == 1


@pytest.mark.parametrize(
    ("failure", "status"),
    [
        (Play([b'{"error": {}}'], status=503), 503),
        (Play(error=UpstreamUnreachable("refused")), 502),
    ],
)
async def test_upstream_that_failed_twice_is_not_asked_again_by_another_worker(
    failure: Play, status: int
) -> None:
    """Promise 8, over workers: all who wait are told, with the status there was, if any."""
    gates = [asyncio.Event(), asyncio.Event()]
    pair = Pair(*[replace(failure, gate=gate) for gate in gates], json_play("a third call"))
    calls = [worker.ask(chat()) for worker in (pair.leader, pair.follower) for _ in range(5)]
    await settle()
    for gate in gates:
        gate.set()
        await settle()
        await asyncio.sleep(1)

    for call in calls:
        await call.done()

    assert pair.upstream.calls == 2
    assert [call.status for call in calls] == [status] * 10
    assert await pair.is_idle()


async def test_variant_found_when_the_lease_is_free_is_no_answer_to_another_variant() -> None:
    """RFC 9111 §4.1, also for what another worker stored while this one waited for it."""
    gate = asyncio.Event()
    vary = [(b"vary", b"x-style")]
    pair = Pair(json_play("short", gate=gate, headers=vary), json_play("long", headers=vary))
    first = pair.leader.ask(chat(), headers={"x-style": "short"})
    await settle()
    second = pair.follower.ask(chat(), headers={"x-style": "long"})
    await settle()
    pair.redis.losing = lambda channel, message: True

    gate.set()
    await first.done()

    assert content_of((await second.done()).body) == "long"
    assert pair.upstream.calls == 2


async def test_stopping_without_followers_is_no_error() -> None:
    """The usual end."""
    await Pair(json_play()).leader.peers.stop()
