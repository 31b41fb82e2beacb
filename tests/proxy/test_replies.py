"""Answers from the cache: fresh where they must be, equal in all else, at the pace asked for."""

import asyncio

import pytest

from proxy.lookup.single_flight import Flight, Head, Landed
from proxy.replies import Replies, hit_status
from tests.proxy.fakes import (
    DONE,
    FakeUpstream,
    Worker,
    chat,
    json_play,
    settle,
    stream_of,
    stream_play,
    text_of,
)

pytestmark = pytest.mark.virtual_time


async def test_stream_is_replayed_at_the_configured_pace() -> None:
    """Design §5: pace configurable, default at once."""
    worker = Worker(
        FakeUpstream(stream_play(stream_of(*"abc"))), cache={"replay_interval_ms": 1000.0}
    )
    await worker.get(chat(stream=True))
    loop = asyncio.get_running_loop()
    began = loop.time()
    call = worker.ask(chat(stream=True))
    await call.until(lambda c: c.body != b"")
    assert not call.is_ended
    first = call.body.count(b"data: ")

    await call.done()

    assert first == 1
    assert text_of(call.body) == "abc"
    assert call.body.endswith(DONE)
    assert call.is_ended
    assert 4 <= loop.time() - began <= 8, "six events, a second apart"
    assert not call.all(b"content-length")


async def test_json_is_never_paced() -> None:
    """There is nothing to pace."""
    worker = Worker(FakeUpstream(json_play()), cache={"replay_interval_ms": 10_000.0})
    await worker.get(chat())
    began = asyncio.get_running_loop().time()

    await worker.get(chat())

    assert asyncio.get_running_loop().time() - began < 5


async def test_paced_replay_ends_when_its_client_leaves() -> None:
    """Promise 14: nobody is replayed to."""
    worker = Worker(
        FakeUpstream(stream_play(stream_of(*"abcdefgh"))), cache={"replay_interval_ms": 1000.0}
    )
    await worker.get(chat(stream=True))
    call = worker.ask(chat(stream=True))
    await call.until(lambda c: c.body != b"")

    call.leave()
    await settle()

    assert call.is_done


async def test_replay_in_the_other_form_has_that_forms_content_type() -> None:
    """What is left of the upstream's own fields stays."""
    worker = Worker(
        FakeUpstream(json_play(headers=[(b"content-type", b"application/json; charset=utf-8")]))
    )
    await worker.get(chat())

    same = await worker.get(chat())
    other = await worker.get(chat(stream=True))

    assert same.one(b"content-type") == b"application/json; charset=utf-8"
    assert other.one(b"content-type") == b"text/event-stream; charset=utf-8"


def _landed(status: int = 200, landed: Landed | None = None, reason: str | None = None) -> Flight:
    flight = Flight(b"k" * 32, "form", 100)
    flight.begin(Head(status, [], None, is_stream=False))
    flight.reason = reason
    if landed is not None:
        flight.land(landed)
    return flight


@pytest.mark.parametrize(
    ("flight", "status"),
    [
        (_landed(), b"recollect; fwd=miss"),
        (_landed(500, Landed.FAILED, "status"), b"recollect; fwd=miss; fwd-status=500"),
        (_landed(200, Landed.UNSTORABLE, "size"), b"recollect; fwd=miss; detail=size"),
    ],
)
async def test_cache_status_says_what_became_of_a_forwarded_request(
    flight: Flight, status: bytes
) -> None:
    """RFC 9211 §2."""
    assert Replies.forwarded_status(flight, b"miss") == status


def test_cache_status_of_a_flight_followed_elsewhere_says_collapsed() -> None:
    """RFC 9211 §2.6."""
    flight = _landed()
    flight.is_collapsed = True

    assert b"; collapsed" in Replies.forwarded_status(flight, b"miss")


@pytest.mark.parametrize(("ttl_s", "shown"), [(588.9, b"588"), (0.2, b"0"), (-5.0, b"-5")])
def test_time_to_live_is_in_whole_seconds_and_negative_when_stale(
    ttl_s: float, shown: bytes
) -> None:
    """RFC 9211 §2.4."""
    assert hit_status(ttl_s) == b"recollect; hit; ttl=" + shown + b"; detail=exact"


@pytest.mark.parametrize(
    ("score", "shown"), [(0.9531, b"0.953"), (0.95, b"0.950"), (1.0, b"1.000"), (-0.2, b"-0.200")]
)
def test_cache_status_of_an_answer_to_other_words_says_how_near_they_are(
    score: float, shown: bytes
) -> None:
    """A cosine with three decimals, as RFC 8941 §3.3.2 writes a decimal at the most."""
    assert hit_status(588.9, score) == (b"recollect; hit; ttl=588; detail=semantic; score=" + shown)


def test_cache_status_of_an_answer_to_other_words_names_what_was_asked() -> None:
    """By that key a wrong answer can be told of (RFC 9211 §2.7: a string)."""
    status = hit_status(588.9, 0.97, b"\x0f" * 32)

    assert status.endswith(b'; score=0.970; key="' + b"0f" * 32 + b'"')
