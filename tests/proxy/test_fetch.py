"""What a flight does: fetch once, tell as it comes, store what may be stored."""

import asyncio
from collections.abc import Sequence

import pytest
from prometheus_client import REGISTRY

from cachestore.errors import StoreRefused
from cachestore.leases import lease_key
from embeddings.client import EmbeddingsUnavailable
from proxy.upstreams.upstream import UpstreamCut
from tests.proxy.fakes import (
    ASKED,
    DONE,
    FINGERPRINT,
    IN_OTHER_WORDS,
    VECTOR,
    Call,
    FakeEmbeddings,
    FakeRedis,
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
)

pytestmark = pytest.mark.virtual_time


_WHOLE = stream_of("Hello")


@pytest.mark.parametrize(
    ("play", "reason"),
    [
        (Play([completion()], status=201), None),
        (Play([completion()], status=404), None),
        (Play([b'{"error": {"message": "no"}}']), "error"),
        (Play([b""]), "json"),
        (Play([completion()[:-5]]), "json"),
        (Play([completion()], content_type=b"text/html"), "content-type"),
        (json_play(finish_reason="length"), "finish-reason"),
        (json_play(finish_reason="content_filter"), "finish-reason"),
        (Play([completion()], headers=[(b"content-encoding", b"br")]), "encoding"),
        (stream_play(_WHOLE[:-1]), None),
        (stream_play(_WHOLE[:-2]), None),
        (stream_play([*_WHOLE[:2], b'data: {"error": {}}\n\n', DONE]), None),
        (stream_play([*_WHOLE[:2], b"data: {bro\n\n", *_WHOLE[2:]]), None),
        (stream_play([*_WHOLE[:2], UpstreamCut("cut")]), None),
        (stream_play([event({"content": "x"}, "length"), DONE]), None),
    ],
)
async def test_answer_that_is_not_complete_and_sound_is_never_stored(
    play: Play, reason: str | None
) -> None:
    """Promises 1 and 2; the first client sees what came, and asks upstream again the next time."""
    upstream = FakeUpstream(play)
    worker = Worker(upstream)
    is_stream = play.content_type.startswith(b"text/event")

    calls: list[Call] = []
    for _ in range(2):
        calls.append(await worker.get(chat(stream=is_stream)))
        await settle()

    assert upstream.calls == 2
    assert not worker.redis.values, "neither an entry nor a lease"
    whole = b"".join(piece for piece in play.pieces if isinstance(piece, bytes))
    for call in calls:
        assert call.status == play.status
        assert call.body.startswith(whole)
        if reason is not None:
            assert call.cache_status == f"recollect; fwd=miss; detail={reason}"


class WatchedRedis(FakeRedis):
    """Notes whether the client had its whole answer when an entry was written."""

    def __init__(self) -> None:
        super().__init__()
        self.call: Call | None = None
        self.had_all: list[bool] = []

    def run(self, words: Sequence[bytes]) -> object:
        """Run one command."""
        before = self.names("e")
        reply = super().run(words)
        if self.names("e") != before:
            assert self.call is not None
            self.had_all.append(self.call.is_ended)
        return reply


@pytest.mark.parametrize("is_stream", [False, True], ids=["json", "stream"])
async def test_answer_is_written_after_the_client_has_its_last_byte(is_stream: bool) -> None:
    """Issue §3: writing never delays the client."""
    redis = WatchedRedis()
    play = stream_play(stream_of("Hi")) if is_stream else json_play()
    worker = Worker(FakeUpstream(play), redis)

    redis.call = worker.ask(chat(stream=is_stream))
    await redis.call.done()
    await settle()

    assert redis.had_all == [True]


async def test_hung_redis_does_not_hold_up_an_answer() -> None:
    """Promise 10: the write waits, not the client."""
    upstream = FakeUpstream(json_play())
    worker = Worker(upstream)
    call = worker.ask(chat())
    await settle()
    assert call.is_done
    worker.redis.hold()
    other = worker.ask(chat("other"))
    await settle()
    worker.redis.let_go()
    worker.redis.hold()

    await other.done()

    assert other.is_ended
    worker.redis.let_go()
    await settle()


@pytest.mark.parametrize("code", ["OOM", "READONLY", "NOPERM"])
async def test_redis_that_refuses_to_store_leaves_the_answer_in_memory(code: str) -> None:
    """Promise 10: no failed request, and this worker still has it."""
    upstream = FakeUpstream(json_play())
    worker = Worker(upstream)
    worker.redis.refusals["SET"] = code

    assert (await worker.get(chat())).status == 200
    await settle()
    again = await worker.get(chat())

    assert "hit" in again.cache_status
    assert upstream.calls == 1
    assert not worker.redis.names("l"), "nobody waits for an answer that will not come"


async def test_without_redis_everything_is_served_and_kept_in_memory() -> None:
    """Issue §5: Redis down at start or later."""
    upstream = FakeUpstream(json_play())
    worker = Worker(upstream)
    worker.redis.is_down = True

    first = await worker.get(chat())
    again = await worker.get(chat())

    assert first.cache_status == "recollect; fwd=miss; stored"
    assert "hit" in again.cache_status
    assert upstream.calls == 1


async def test_answer_stored_by_the_flight_before_is_not_fetched_again() -> None:
    """Between a look-up and the lease, another flight may have stored the answer."""
    upstream = FakeUpstream(json_play("first"), json_play("second"))
    one = Worker(upstream)
    other = Worker(upstream, one.redis)
    gate = asyncio.Event()
    upstream.plays.insert(0, Play([b"{}"], status=503, gate=gate))
    leader, follower = other.ask(chat()), other.ask(chat())
    await settle()
    # Its lease is lost, and another worker stores an answer meanwhile.
    (name,) = one.redis.names("l")
    del one.redis.values[name]
    await one.get(chat())
    await settle()

    gate.set()
    await leader.done()
    await follower.done()

    assert leader.status == 503
    assert follower.json["choices"][0]["message"]["content"] == "first"
    assert upstream.calls == 2


async def test_lease_is_renewed_while_a_slow_model_thinks() -> None:
    """Its time is seconds, a model's may be minutes; who holds it must not lose it."""
    gate = asyncio.Event()
    worker = Worker(FakeUpstream(json_play(gate=gate)))
    call = worker.ask(chat())
    await settle()
    before = len(worker.redis.commands)

    await asyncio.sleep(60)

    renewals = len(worker.redis.commands) - before
    assert renewals >= 20, "three times within its six seconds, so that one may be lost"
    gate.set()
    await call.done()
    await settle()
    done = len(worker.redis.commands)
    await asyncio.sleep(60)
    assert len(worker.redis.commands) == done, "no renewal after the end"


async def test_lease_that_cannot_be_renewed_does_not_end_the_flight() -> None:
    """A fault of Redis is counted, nothing more."""
    gate = asyncio.Event()
    worker = Worker(FakeUpstream(json_play(gate=gate)))
    call = worker.ask(chat())
    await settle()
    worker.redis.is_down = True
    await asyncio.sleep(60)

    gate.set()

    assert (await call.done()).status == 200


async def test_answer_under_a_lost_lease_is_served_but_not_kept() -> None:
    """The fencing token: another has fetched and stored since."""
    gate = asyncio.Event()
    upstream = FakeUpstream(json_play("late", gate=gate), json_play("next"))
    worker = Worker(upstream)
    call = worker.ask(chat())
    await settle()
    (name,) = worker.redis.names("l")
    worker.redis.values[name] = b"another:1"
    gate.set()

    assert (await call.done()).json["choices"][0]["message"]["content"] == "late"
    await settle()

    assert not worker.redis.names("e")
    assert worker.redis.values[name] == b"another:1", "another's lease is not ours to end"


async def test_stale_answer_in_redis_is_fetched_under_a_lease() -> None:
    """Two workers that find it stale at once make one call."""
    gate = asyncio.Event()
    upstream = FakeUpstream(json_play("old"), json_play("new", gate=gate))
    sections = {"ttl_s": 60.0, "max_stale_s": 600.0}
    one = Worker(upstream, cache=sections)
    other = Worker(upstream, one.redis, clock=one.clock, cache=sections)
    await one.get(chat())
    await settle()
    one.clock.now += 61

    calls = [worker.ask(chat()) for worker in (one, other)]
    await settle()
    gate.set()

    for call in calls:
        assert (await call.done()).json["choices"][0]["message"]["content"] == "new"
    assert upstream.calls == 2


async def test_desertion_while_a_stale_answer_is_looked_at_leaves_no_lease() -> None:
    """The lease is asked for in a second step there; that may be cancelled too."""
    upstream = FakeUpstream(json_play("old"), json_play("new"))
    worker = Worker(upstream, cache={"ttl_s": 60.0, "max_stale_s": 600.0})
    await worker.get(chat())
    await settle()
    worker.clock.now += 61
    for turns in range(30):
        call = worker.ask(chat())
        for _ in range(turns):
            await asyncio.sleep(0)
        if call.is_done:
            break
        call.leave()
        await call.done()
        await settle()
        assert not worker.redis.names("l"), turns


async def test_refused_lease_means_nobody_to_agree_with() -> None:
    """NOPERM for SET: the request is served all the same."""
    upstream = FakeUpstream(json_play("old"), json_play("new"))
    worker = Worker(upstream, cache={"ttl_s": 60.0, "max_stale_s": 600.0})
    await worker.get(chat())
    await settle()
    worker.clock.now += 61
    worker.redis.refusals["SET"] = "NOPERM"

    assert (await worker.get(chat())).json["choices"][0]["message"]["content"] == "new"


async def test_own_lease_without_a_flight_is_not_waited_for() -> None:
    """Left by a look-up whose reply was lost; it ends by itself."""
    upstream = FakeUpstream(json_play("old"), json_play("new"))
    worker = Worker(upstream, cache={"ttl_s": 60.0, "max_stale_s": 600.0})
    await worker.get(chat())
    await settle()
    (name,) = worker.redis.names("e")
    key = bytes.fromhex(name.rpartition(b":")[2].decode())
    worker.redis.values[lease_key("test", key)] = worker.owner + b":9"
    worker.clock.now += 61

    assert (await worker.get(chat())).json["choices"][0]["message"]["content"] == "new"


# The same question in other words.


async def test_answer_is_stored_with_what_it_answers() -> None:
    """For the same question in other words to find it, on this host at once."""
    embeddings = FakeEmbeddings()
    worker = Worker(FakeUpstream(json_play()), embeddings=embeddings)

    await worker.get(chat(ASKED))
    await settle()

    (record,) = worker.redis.names("v")
    assert worker.redis.keys("v") == worker.redis.keys() == embeddings.added
    assert ASKED.encode() in worker.redis.values[record]
    assert VECTOR in worker.redis.values[record], "made once, by the look-up"


async def test_answer_is_stored_with_its_text_alone_where_there_is_no_vector_yet() -> None:
    """Whoever indexes it encodes."""
    embeddings = FakeEmbeddings()
    embeddings.error = EmbeddingsUnavailable("deadline", "late")
    worker = Worker(FakeUpstream(json_play()), embeddings=embeddings)

    assert (await worker.get(chat(ASKED))).cache_status == "recollect; fwd=miss; stored"
    await settle()

    (record,) = worker.redis.names("v")
    assert ASKED.encode() in worker.redis.values[record]
    assert FINGERPRINT.encode() not in worker.redis.values[record]
    assert embeddings.added == worker.redis.keys()


@pytest.mark.parametrize("prompt", ["Hello", "And how about Berlin?"])
async def test_answer_that_is_for_the_exact_tier_only_is_stored_without_a_meaning(
    prompt: str,
) -> None:
    """Nothing is told of it."""
    embeddings = FakeEmbeddings()
    worker = Worker(FakeUpstream(json_play()), embeddings=embeddings)

    await worker.get(chat(prompt))
    await settle()

    assert worker.redis.names("e")
    assert not worker.redis.names("v")
    assert not embeddings.asked
    assert not embeddings.added


async def test_answer_under_a_lost_lease_is_not_told_of() -> None:
    """It is not in the store: another's is."""
    gate = asyncio.Event()
    embeddings = FakeEmbeddings()
    worker = Worker(FakeUpstream(json_play(gate=gate)), embeddings=embeddings)
    call = worker.ask(chat(ASKED))
    await settle()
    (name,) = worker.redis.names("l")
    worker.redis.values[name] = b"another:1"
    gate.set()

    await call.done()
    await settle()

    assert not worker.redis.names("v")
    assert not embeddings.added


async def test_nothing_goes_upstream_before_it_is_known_whether_other_words_will_do() -> None:
    """The prompt is not sent while the look-up lasts."""
    embeddings = FakeEmbeddings()
    upstream = FakeUpstream(json_play())
    worker = Worker(upstream, embeddings=embeddings)
    embeddings.gate = asyncio.Event()
    call = worker.ask(chat(ASKED))
    await settle()
    assert (len(embeddings.asked), upstream.calls) == (1, 0)

    embeddings.gate.set()
    await call.done()

    assert upstream.calls == 1


async def test_answer_to_other_words_leaves_an_alias_and_no_lease() -> None:
    """The same words hit exactly next time, on every worker."""
    embeddings = FakeEmbeddings()
    upstream = FakeUpstream(json_play("as asked first"))
    one = Worker(upstream, embeddings=embeddings)
    other = Worker(upstream, one.redis, embeddings=FakeEmbeddings())
    await learn(one, embeddings)

    found = await one.get(chat(IN_OTHER_WORDS))
    await settle()
    again = await other.get(chat(IN_OTHER_WORDS))

    assert found.cache_status == meant_status(one)
    assert again.cache_status == "recollect; hit; ttl=3600; detail=exact"
    assert again.json["choices"] == found.json["choices"]
    assert upstream.calls == 1
    assert len(one.redis.names("a")) == 1
    assert not one.redis.names("l")
    assert len(one.redis.names("v")) == 1, "the words of an alias are not indexed"


@pytest.mark.parametrize("fault", ["refused", "down"])
async def test_alias_that_cannot_be_stored_does_not_spoil_the_answer(fault: str) -> None:
    """A fault of Redis is counted, nothing more; this worker knows the alias."""
    embeddings = FakeEmbeddings()
    upstream = FakeUpstream(json_play())
    worker = Worker(upstream, embeddings=embeddings)
    await learn(worker, embeddings)
    if fault == "down":
        worker.redis.is_down = True
    else:
        worker.redis.refusals["SET"] = "OOM"

    found = await worker.get(chat(IN_OTHER_WORDS))
    await settle()
    again = await worker.get(chat(IN_OTHER_WORDS))

    assert "detail=semantic" in found.cache_status
    assert "detail=exact" in again.cache_status
    assert upstream.calls == 1
    assert not worker.redis.names("a")


class ForgetfulRedis(FakeRedis):
    """Forgets its scripts, and is gone when one is sent again.

    Attributes:
        is_forgetful: Whether it does so with the next alias.
    """

    def __init__(self) -> None:
        super().__init__()
        self.is_forgetful = False

    def run(self, words: Sequence[bytes]) -> object:
        """Run one command."""
        if self.is_forgetful and words[0] == b"EVALSHA" and b":a:" in words[3]:
            self.is_down = True
            return StoreRefused("NOSCRIPT")
        return super().run(words)


async def test_alias_that_redis_never_saw_costs_no_answer_now_or_next_time() -> None:
    """The script was forgotten, and the connection lost with the second try."""
    embeddings, redis = FakeEmbeddings(), ForgetfulRedis()
    worker = Worker(FakeUpstream(json_play("as asked first")), redis, embeddings=embeddings)
    await learn(worker, embeddings)
    await worker.get(chat(IN_OTHER_WORDS))  # from now on the script is named by its hash alone
    await settle()
    aliases = redis.names("a")
    redis.is_forgetful = True
    third = chat("Tell me how many inhabitants the town has.")
    worker.metrics.flush()
    before = faults()

    found = await worker.get(third)
    await settle()
    in_memory = await worker.get(third)
    worker.metrics.flush()
    counted = faults() - before
    redis.is_forgetful = redis.is_down = False
    worker.forget()  # as after each reconnect
    again = await worker.get(third)
    await settle()
    from_now_on = await worker.get(third)

    assert redis.names("a")[: len(aliases)] == aliases
    details = ["semantic", "exact", "semantic", "exact"]
    for call, detail in zip([found, in_memory, again, from_now_on], details, strict=True):
        assert call.status == 200
        assert f"detail={detail}" in call.cache_status
        assert call.json["choices"] == found.json["choices"]
    assert worker.upstream.calls == 1
    assert counted == 1


def faults() -> float:
    """Return how many writes to Redis have failed so far, in this process."""
    labels = {"operation": "put", "kind": "unavailable"}
    return REGISTRY.get_sample_value("recollect_redis_errors_total", labels) or 0.0


async def test_alias_of_what_has_just_gone_is_not_made() -> None:
    """This worker's memory held it still; the lease is free again at once."""
    embeddings = FakeEmbeddings()
    worker = Worker(FakeUpstream(json_play()), embeddings=embeddings)
    await learn(worker, embeddings)
    (name,) = worker.redis.names("e")
    del worker.redis.values[name]

    await worker.get(chat(IN_OTHER_WORDS))
    await settle()

    assert not worker.redis.names("a")
    assert not worker.redis.names("l")


@pytest.mark.parametrize("wish", ["no-cache", "max-age=0"])
async def test_answer_fetched_anew_is_stored_with_its_text(wish: str) -> None:
    """Else it would be lost to other words when the record it replaces ends."""
    embeddings = FakeEmbeddings()
    worker = Worker(FakeUpstream(json_play("first"), json_play("anew")), embeddings=embeddings)
    key = await learn(worker, embeddings)
    (record,) = worker.redis.names("v")
    before = worker.redis.values[record]

    call = await worker.get(chat(ASKED), headers={"cache-control": wish})
    await settle()

    assert call.json["choices"][0]["message"]["content"] == "anew"
    assert worker.redis.keys("v") == [key]
    assert worker.redis.values[record] != before
    assert ASKED.encode() in worker.redis.values[record]
    assert embeddings.added == [key, key]
    assert len(embeddings.asked) == 1
