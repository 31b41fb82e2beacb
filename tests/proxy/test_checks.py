"""Hits within an error budget, as clients see them: some are checked, behind their backs."""

import asyncio

import pytest

from embeddings.verdict import Verdict
from embeddings.wire import Decided, Neighbour
from tests.proxy.fakes import (
    ASKED,
    IN_OTHER_WORDS,
    FakeEmbeddings,
    FakeUpstream,
    Play,
    Worker,
    chat,
    json_play,
    learn,
    settle,
    stream_of,
    stream_play,
    text_of,
)
from tests.proxy.test_boarding import content_of, is_idle

pytestmark = pytest.mark.virtual_time

CHECK = Decided(Verdict.SERVE, 0.99, is_check=True)
SERVE = Decided(Verdict.SERVE, 0.99)


async def knowing(
    embeddings: FakeEmbeddings, *plays: Play, decided: Decided = CHECK, **semantic: object
) -> Worker:
    """Return a worker that has stored the answer to ASKED, and for which that is decided."""
    worker = Worker(
        FakeUpstream(json_play("as asked first"), *plays),
        embeddings=embeddings,
        semantic={"max_error": 0.02, **semantic},
    )
    embeddings.decided = Decided(Verdict.NOTHING, 0.0)
    await learn(worker, embeddings)
    embeddings.decided = decided
    return worker


async def test_checked_hit_is_answered_at_once_and_the_upstream_asked_behind_it() -> None:
    """Its answer is stored under what was asked, for the embedding process to compare."""
    embeddings = FakeEmbeddings()
    gate = asyncio.Event()
    worker = await knowing(embeddings, json_play("as asked now", gate=gate))

    call = await worker.get(chat(IN_OTHER_WORDS))
    assert content_of(call) == "as asked first"
    await settle()
    assert worker.upstream.calls == 2
    gate.set()
    await settle()

    (asked,) = [one.budgeted.key for one in embeddings.asked[1:] if one.budgeted is not None]
    assert asked in worker.redis.keys("v")
    assert embeddings.added[-1] == asked
    again = await worker.get(chat(IN_OTHER_WORDS))
    assert (content_of(again), "detail=exact" in again.cache_status) == ("as asked now", True)
    assert await is_idle(worker)


async def test_check_is_not_looked_up_by_meaning() -> None:
    """Or it would be answered by what it is to check."""
    embeddings = FakeEmbeddings()
    worker = await knowing(embeddings, json_play("as asked now"))

    await worker.get(chat(IN_OTHER_WORDS))
    await settle()

    assert len(embeddings.asked) == 2, "the first question, and the hit"
    assert worker.upstream.calls == 2


async def test_hit_that_is_no_check_costs_no_upstream_call() -> None:
    """Most of them."""
    worker = await knowing(FakeEmbeddings(), decided=SERVE)

    assert content_of(await worker.get(chat(IN_OTHER_WORDS))) == "as asked first"
    await settle()

    assert worker.upstream.calls == 1


async def test_no_check_is_made_without_tokens_for_it() -> None:
    """The hit is served all the same. An hour later there are some again."""
    worker = await knowing(FakeEmbeddings(), json_play("now"), check_tokens_per_hour=5)
    for name in ("Anna", "Berta", "Carla", "Dora"):
        call = await worker.get(chat(f"{name} asks: {IN_OTHER_WORDS}"))
        assert content_of(call) == "as asked first"
        await settle()
    assert worker.upstream.calls == 2, "five tokens are what one answer took"

    worker.clock.now += 3590
    await worker.get(chat(f"Emma asks: {IN_OTHER_WORDS}"))
    await settle()

    assert worker.upstream.calls == 3


async def test_checks_can_be_switched_off() -> None:
    """With no tokens at all."""
    worker = await knowing(FakeEmbeddings(), check_tokens_per_hour=0)

    assert content_of(await worker.get(chat(IN_OTHER_WORDS))) == "as asked first"
    await settle()

    assert worker.upstream.calls == 1


async def test_many_who_get_one_hit_are_one_check() -> None:
    """They shared its flight."""
    embeddings = FakeEmbeddings()
    worker = await knowing(embeddings, json_play("now"), json_play("once more"))
    embeddings.gate = asyncio.Event()
    calls = [worker.ask(chat(IN_OTHER_WORDS)) for _ in range(10)]
    await settle()
    embeddings.gate.set()
    for call in calls:
        assert content_of(await call.done()) == "as asked first"
    await settle()

    assert worker.upstream.calls == 2


async def test_check_that_fails_is_nobodys_concern() -> None:
    """The hit was served; the next is, too."""
    worker = await knowing(FakeEmbeddings(), Play([b"{}"], status=500))

    call = await worker.get(chat(IN_OTHER_WORDS))
    await settle()

    assert (call.status, content_of(call)) == (200, "as asked first")
    assert content_of(await worker.get(chat(IN_OTHER_WORDS))) == "as asked first"
    assert await is_idle(worker)


async def test_stream_is_checked_like_any_other() -> None:
    """And the check's answer serves both forms."""
    worker = await knowing(FakeEmbeddings(), stream_play(stream_of("now")))

    call = await worker.get(chat(IN_OTHER_WORDS, stream=True))
    await settle()

    assert text_of(call.body) == "as asked first"
    assert worker.upstream.calls == 2
    assert content_of(await worker.get(chat(IN_OTHER_WORDS))) == "now"


@pytest.mark.parametrize("verdict", [Verdict.EARNING, Verdict.UNSURE, Verdict.FORBIDDEN])
async def test_what_may_not_be_served_goes_upstream_and_is_stored(verdict: Verdict) -> None:
    """With all that is needed to learn from it."""
    embeddings = FakeEmbeddings()
    worker = await knowing(
        embeddings, json_play("as asked now"), decided=Decided(verdict, 0.9, is_check=False)
    )

    call = await worker.get(chat(IN_OTHER_WORDS))
    await settle()

    assert content_of(call) == "as asked now"
    assert embeddings.added[-1] in worker.redis.keys("v")
    assert len(worker.redis.keys()) == 2


async def test_record_says_what_was_answered() -> None:
    """By its words and a group of its own: answers are compared by that."""
    embeddings = FakeEmbeddings(Neighbour(b"k" * 32, 0.1))
    worker = Worker(FakeUpstream(json_play("Two million.")), embeddings=embeddings)

    await worker.get(chat(ASKED))
    await settle()

    (record,) = worker.redis.names("v")
    assert b"Two million." in worker.redis.values[record]
