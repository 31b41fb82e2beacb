"""A flight and those who watch it, without HTTP and without Redis."""

import asyncio

import pytest

from proxy.lookup.flights import Flights
from proxy.lookup.single_flight import Flight, FlightFailed, Head, Landed, Watcher
from tests.proxy.fakes import PATIENCE_S, settle

pytestmark = pytest.mark.virtual_time

KEY = b"k" * 32
HEAD = Head(200, [], None, is_stream=True)


async def read(watcher: Watcher) -> bytes:
    """Return all that a watcher gets until the content's end."""
    content = b""
    async with asyncio.timeout(PATIENCE_S):
        while (piece := await watcher.next()) is not None:
            content += piece
    return content


async def never() -> None:
    """Fetch something that never comes."""
    await asyncio.Event().wait()


async def test_each_watcher_gets_the_whole_content_from_its_beginning() -> None:
    """However late it joins, as long as the flight can be joined."""
    flight = Flight(KEY, "form", 1000)
    early = asyncio.ensure_future(read(flight.watch()))
    await flight.append(b"one ")
    await settle()
    late = asyncio.ensure_future(read(flight.watch()))
    await flight.append(b"two ")
    await flight.append(b"three")
    flight.end()
    last = flight.watch()

    assert await early == await late == await read(last) == b"one two three"
    assert flight.content() == b"one two three"


async def test_late_watcher_gets_what_has_come_in_one_piece() -> None:
    """Promise 7: all earlier text at once, not piece by piece."""
    flight = Flight(KEY, "form", 1000)
    for piece in (b"a", b"b", b"c"):
        await flight.append(piece)

    assert await flight.watch().next() == b"abc"


async def test_content_of_one_piece_is_not_copied() -> None:
    """Most answers in JSON are one piece."""
    flight = Flight(KEY, "form", 1000)
    piece = b"all of it"
    await flight.append(piece)
    flight.end()

    assert flight.content() is piece


async def test_watcher_learns_why_a_flight_broke_off_after_what_had_come() -> None:
    """What came is passed on first; a cut is no reason to lose it."""
    flight = Flight(KEY, "form", 1000)
    watcher = flight.watch()
    await flight.append(b"half")
    flight.fail(ConnectionError("cut"))

    assert await watcher.next() == b"half"
    with pytest.raises(FlightFailed, match="cut"):
        await watcher.next()
    assert flight.landed is Landed.FAILED


async def test_failure_after_the_end_does_not_spoil_the_content() -> None:
    """A defect while storing is not the watchers' business."""
    flight = Flight(KEY, "form", 1000)
    watcher = flight.watch()
    await flight.append(b"whole")
    flight.end()
    flight.fail(RuntimeError("while storing"))

    assert await read(watcher) == b"whole"
    assert flight.error is None


async def test_first_landing_is_the_last_word() -> None:
    """Watchers have acted on it already."""
    flight = Flight(KEY, "form", 1000)
    flight.land(Landed.UNSTORABLE)
    flight.land(Landed.FAILED)
    flight.fail(ConnectionError())

    assert flight.landed is Landed.UNSTORABLE


async def test_fetch_is_cancelled_when_the_last_watcher_leaves() -> None:
    """Style guide: a flight owns its task; no watcher's leaving but the last one's ends it."""
    flights = Flights(1000)
    flight = flights.open(KEY, "form", KEY)
    first, second = flight.watch(), flight.watch()
    flights.run(flight, never())
    await settle()

    first.leave()
    await settle()
    assert flights.get(KEY) is flight
    assert not flight.is_deserted
    second.leave()
    assert flight.is_deserted
    assert flights.get(KEY) is None, "it must not be joined any more"
    await settle()

    assert flight.landed is Landed.FAILED
    assert len(asyncio.all_tasks()) == 1


async def test_leaving_twice_counts_once() -> None:
    """Else one watcher could end the flight of two."""
    flights = Flights(1000)
    flight = flights.open(KEY, "form", KEY)
    first, second = flight.watch(), flight.watch()
    flights.run(flight, never())

    first.leave()
    first.leave()

    assert not flight.is_deserted
    second.leave()
    await settle()


async def test_storing_goes_on_when_all_have_left_after_the_end() -> None:
    """The answer is whole: writing it costs no upstream anything."""
    stored = asyncio.Event()
    flights = Flights(1000)
    flight = flights.open(KEY, "form", KEY)
    watcher = flight.watch()

    async def fetch() -> None:
        flight.end()
        await stored.wait()
        flight.land(Landed.UNSTORABLE)

    flights.run(flight, fetch())
    await settle()
    watcher.leave()
    await settle()

    assert not flight.is_deserted
    stored.set()
    await settle()
    assert flight.landed is Landed.UNSTORABLE


async def test_flight_deserted_before_its_task_began_leaves_nothing() -> None:
    """A task cancelled before its first step runs no `finally` of its own."""
    flights = Flights(1000)
    flight = flights.open(KEY, "form", KEY)
    watcher = flight.watch()
    flights.run(flight, never())
    watcher.leave()
    await settle()

    assert flight.landed is Landed.FAILED
    assert flight.is_filed
    assert flights.get(KEY) is None


async def test_flight_is_off_the_board_when_it_has_ended() -> None:
    """Later requests look into the store, and start their own."""
    flights = Flights(1000)
    flight = flights.open(KEY, "form", KEY)
    flight.watch()

    async def fetch() -> None:
        flight.end()

    flights.run(flight, fetch())
    assert flights.get(KEY) is flight
    await settle()

    assert flights.get(KEY) is None
    assert flight.is_filed


async def test_flight_that_ends_takes_no_other_off_the_board() -> None:
    """A second flight of the key may have begun beside one that had grown too large."""
    flights = Flights(10)
    first = flights.open(KEY, "form", KEY)
    done = asyncio.Event()

    async def wait() -> None:
        await done.wait()

    flights.run(first, wait())
    second = flights.open(KEY, "form", KEY)
    flights.run(second, never())
    watcher = second.watch()
    done.set()
    await settle()

    assert flights.get(KEY) is second
    watcher.leave()
    await settle()


@pytest.mark.parametrize("landed", list(Landed))
async def test_flight_that_brought_nothing_is_not_joined(landed: Landed) -> None:
    """It may still be giving back its lease; who joins it would fail without having asked."""
    flights = Flights(1000)
    flight = flights.open(KEY, "form", KEY)
    flight.land(landed)

    assert flights.get(KEY) is None


async def test_flight_that_is_not_shared_is_not_found() -> None:
    """It belongs to one request."""
    flights = Flights(1000)
    flights.open(KEY, "form", None)

    assert flights.get(KEY) is None


async def test_flight_that_has_grown_too_large_is_not_joined() -> None:
    """Its beginning may be gone already."""
    flights = Flights(10)
    flight = flights.open(KEY, "form", KEY)
    watcher = flight.watch()
    await flight.append(b"x" * 10)
    assert flights.get(KEY) is flight, "as large as may be"
    await watcher.next()

    await flight.append(b"x")

    assert flights.get(KEY) is None
    assert flight.is_oversize


async def test_content_past_the_limit_waits_for_its_reader() -> None:
    """Issue §5: bounded memory, whatever the size of the answer."""
    flight = Flight(KEY, "form", 10)
    watcher = flight.watch()
    appended = 0

    async def fetch() -> None:
        nonlocal appended
        for _ in range(100):
            await flight.append(b"12345")
            appended += 1
        flight.end()

    flight.run(fetch())
    await settle()
    assert appended == 2, "the limit, and one piece that waits"

    assert await read(watcher) == b"12345" * 100


async def test_content_past_the_limit_does_not_wait_for_one_who_left() -> None:
    """Nor for those who only waited for its landing."""
    flight = Flight(KEY, "form", 10)
    reader, other = flight.watch(), flight.watch()

    async def fetch() -> None:
        for _ in range(10):
            await flight.append(b"12345")
        flight.end()

    flight.run(fetch())
    reading = asyncio.ensure_future(read(reader))
    await settle()
    other.leave()

    assert await reading == b"12345" * 10


@pytest.mark.parametrize("is_shared", [True, False])
async def test_stopping_waits_for_what_only_has_to_be_stored(is_shared: bool) -> None:
    """Promise 12: an answer that has been given is stored before the worker ends."""
    flights = Flights(1000)
    storing = asyncio.Event()
    flight = flights.open(KEY, "form", KEY if is_shared else None)

    async def fetch() -> None:
        flight.end()
        await storing.wait()
        flight.land(Landed.UNSTORABLE)

    flights.run(flight, fetch())
    await settle()

    stopping = asyncio.ensure_future(flights.stop())
    await settle()
    assert not stopping.done()
    storing.set()
    await stopping

    assert flight.landed is Landed.UNSTORABLE


async def test_stopping_cancels_what_still_comes() -> None:
    """And its watchers learn of it."""
    flights = Flights(1000)
    flight = flights.open(KEY, "form", KEY)
    watcher = flight.watch()
    flights.run(flight, never())
    await settle()

    await flights.stop()

    with pytest.raises(FlightFailed):
        await watcher.next()


async def test_stopping_a_flight_that_never_began_is_no_error() -> None:
    """It has no task."""
    await Flight(KEY, "form", 1000).settled_or_cancelled()


async def test_wait_that_is_cancelled_leaves_nothing() -> None:
    """Promise 14: a follower that looks twice a second must not pile up waits."""
    flight = Flight(KEY, "form", 1000)
    for _ in range(5):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await flight.until(lambda f: f.is_filed)

    assert not flight._sleepers


async def test_announcement_wakes_those_whose_wait_is_over() -> None:
    """And only those go on."""
    flight = Flight(KEY, "form", 1000)
    for_head = asyncio.ensure_future(flight.until(lambda f: f.head is not None))
    for_filing = asyncio.ensure_future(flight.until(lambda f: f.is_filed))
    await settle()

    flight.begin(HEAD)
    await settle()
    assert for_head.done()
    assert not for_filing.done()
    flight.file()
    await for_filing
