"""Texts of many callers are encoded together, look-ups first."""

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence

import numpy as np
import pytest
import pytest_asyncio

from embeddings.encoding.batching import Batcher, Busy
from embeddings.encoding.encoder import Refused, Vector
from embeddings.observer import (
    IndexStats,
    LookUpOutcome,
    Measured,
    RebuildCause,
    SnapshotOutcome,
)
from embeddings.verdict import Verdict


class HeldEncoder:
    """An encoder whose batches end when the test says so; "refuse" and "fail" do."""

    fingerprint = "0" * 32
    dimension = 2
    window_tokens = 8

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.began = asyncio.Semaphore(0)
        self._loop = asyncio.get_running_loop()
        self._may_end = threading.Semaphore(0)

    def encode(self, texts: Sequence[str]) -> list[Vector | Refused]:
        self.batches.append(list(texts))
        self._loop.call_soon_threadsafe(self.began.release)
        self._may_end.acquire()
        if "large" in texts:
            raise MemoryError
        if "fail" in texts:
            raise RuntimeError("the encoder failed")
        return [
            Refused.SCRIPT if text == "refuse" else np.full(2, len(text), np.float32)
            for text in texts
        ]

    def end_batches(self, count: int = 1) -> None:
        self._may_end.release(count)


class Counts:
    """An observer that remembers what it was told of batches and of what waits."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.waiting = 0

    def encoded(self, texts: int, seconds: float) -> None:
        assert seconds >= 0
        self.batches.append(texts)

    def queued(self, texts: int) -> None:
        self.waiting = texts

    def looked_up(self, outcome: LookUpOutcome) -> None: ...
    def searched(self, queries: int, seconds: float) -> None: ...
    def indexed(self, stats: IndexStats) -> None: ...
    def lag(self, seconds: float) -> None: ...
    def rebuilt(self, cause: RebuildCause, seconds: float) -> None: ...
    def snapshot(self, outcome: SnapshotOutcome, seconds: float) -> None: ...
    def decided(self, route: str, verdict: Verdict) -> None: ...
    def compared(self, route: str, would_serve: bool, is_right: bool) -> None: ...
    def budget(
        self, route: str, is_serving: bool, threshold: float, measured: Measured
    ) -> None: ...


@pytest_asyncio.fixture
async def encoder() -> AsyncIterator[HeldEncoder]:
    encoder = HeldEncoder()
    yield encoder
    encoder.end_batches(1000)


@pytest.fixture
def counts() -> Counts:
    return Counts()


@pytest_asyncio.fixture
async def batcher(encoder: HeldEncoder, counts: Counts) -> AsyncIterator[Batcher]:
    batcher = Batcher(encoder, counts, max_batch=4, max_queued=6)
    yield batcher
    encoder.end_batches(1000)
    await batcher.close()


async def ask(batcher: Batcher, *texts: str) -> list[asyncio.Task[Vector | Refused]]:
    """Return a task for each text, all of them waiting."""
    tasks = [asyncio.create_task(batcher.encode(text)) for text in texts]
    await asyncio.sleep(0)
    return tasks


async def keep_busy(batcher: Batcher, encoder: HeldEncoder) -> asyncio.Task[Vector | Refused]:
    """Return the task of a text that is being encoded."""
    [task] = await ask(batcher, "first")
    await encoder.began.acquire()
    return task


async def test_idle_encoder_begins_at_once(batcher: Batcher, encoder: HeldEncoder) -> None:
    """One text does not wait for others."""
    task = await keep_busy(batcher, encoder)
    encoder.end_batches()

    assert list(await task) == [5, 5]


async def test_texts_asked_in_one_turn_of_the_loop_are_one_batch(
    batcher: Batcher, encoder: HeldEncoder
) -> None:
    """The first does not leave without those that came with it."""
    tasks = await ask(batcher, "a", "bb", "ccc")
    encoder.end_batches()
    vectors = await asyncio.gather(*tasks)

    assert encoder.batches == [["a", "bb", "ccc"]]
    assert [vector[0] for vector in vectors] == [1, 2, 3]


async def test_what_comes_meanwhile_is_the_next_batch(
    batcher: Batcher, encoder: HeldEncoder, counts: Counts
) -> None:
    """In the order of asking, at most `max_batch` at once."""
    first = await keep_busy(batcher, encoder)
    tasks = await ask(batcher, *"abcde")
    assert counts.waiting == 5

    encoder.end_batches(3)
    await asyncio.gather(first, *tasks)

    assert encoder.batches == [["first"], list("abcd"), ["e"]]
    assert counts.batches == [1, 4, 1]
    assert counts.waiting == 0


async def test_refusal_is_an_answer(batcher: Batcher, encoder: HeldEncoder) -> None:
    """It goes to the one whose text it is."""
    tasks = await ask(batcher, "a", "refuse")
    encoder.end_batches()
    vector, refused = await asyncio.gather(*tasks)

    assert not isinstance(vector, Refused)
    assert refused is Refused.SCRIPT


async def test_equal_texts_of_a_batch_are_encoded_once(
    batcher: Batcher, encoder: HeldEncoder, counts: Counts
) -> None:
    """Each caller gets the vector."""
    first = await keep_busy(batcher, encoder)
    tasks = await ask(batcher, "same", "same", "other", "same")
    assert counts.waiting == 2

    encoder.end_batches(2)
    vectors = await asyncio.gather(first, *tasks)

    assert encoder.batches[1] == ["same", "other"]
    assert [vector[0] for vector in vectors] == [5, 4, 4, 5, 4]


async def test_full_queue_refuses_at_once(batcher: Batcher, encoder: HeldEncoder) -> None:
    """Whoever would wait too long goes on without; a text that waits already adds nothing."""
    await keep_busy(batcher, encoder)
    tasks = await ask(batcher, *"abcdef")

    with pytest.raises(Busy):
        await batcher.encode("g")

    tasks += await ask(batcher, "a")
    encoder.end_batches(3)
    await asyncio.gather(*tasks)


async def test_caller_that_leaves_takes_its_text_back(
    batcher: Batcher, encoder: HeldEncoder, counts: Counts
) -> None:
    """Nobody wants it encoded any more; who asked for the same still does."""
    await keep_busy(batcher, encoder)
    leaves, also_leaves, stays = await ask(batcher, "left", "shared", "shared")

    leaves.cancel()
    also_leaves.cancel()
    await asyncio.wait([leaves, also_leaves])
    assert counts.waiting == 1

    encoder.end_batches(2)
    await stays
    assert encoder.batches == [["first"], ["shared"]]


async def test_caller_that_leaves_a_running_batch_spoils_nothing(
    batcher: Batcher, encoder: HeldEncoder
) -> None:
    """The others of the batch get theirs."""
    leaves, stays = await ask(batcher, "a", "bb")
    await encoder.began.acquire()
    leaves.cancel()
    await asyncio.wait([leaves])
    encoder.end_batches()

    assert list(await stays) == [2, 2]


async def test_failure_is_that_of_its_batch_alone(
    batcher: Batcher, encoder: HeldEncoder, counts: Counts
) -> None:
    """All callers of the batch get the encoder's exception; the next batch runs."""
    failing = await ask(batcher, "a", "fail")
    await encoder.began.acquire()
    [after] = await ask(batcher, "after")
    encoder.end_batches(2)

    for task in failing:
        with pytest.raises(RuntimeError, match="the encoder failed"):
            await task
    assert list(await after) == [5, 5]
    assert counts.batches == [1]


async def test_want_of_memory_is_passed_on_as_it_is(batcher: Batcher, encoder: HeldEncoder) -> None:
    """Who asked ends the process; were it another error, the text would be taken for the cause."""
    encoder.end_batches(2)
    with pytest.raises(MemoryError):
        await batcher.encode("large")
    with pytest.raises(MemoryError):
        await batcher.encode_in_background(["large"])


@pytest.mark.parametrize(
    ("fault", "told"),
    [(RuntimeError("can't start new thread"), Busy), (MemoryError(), MemoryError)],
)
async def test_thread_that_cannot_be_started_is_tried_again(
    batcher: Batcher,
    encoder: HeldEncoder,
    counts: Counts,
    monkeypatch: pytest.MonkeyPatch,
    *,
    fault: Exception,
    told: type[Exception],
) -> None:
    """All who wait are told; nothing of theirs is encoded later, and what comes then is."""

    def start(thread: threading.Thread) -> None:
        raise fault

    with monkeypatch.context() as without_threads:
        without_threads.setattr(threading.Thread, "start", start)
        tasks = await ask(batcher, *"abcdef")  # more than a batch
        rebuild = asyncio.create_task(batcher.encode_in_background(["g"]))
        answers = await asyncio.gather(*tasks, rebuild, return_exceptions=True)
    assert {type(answer) for answer in answers} == {told}
    assert counts.waiting == 0

    [after] = await ask(batcher, "after")
    encoder.end_batches()
    assert list(await after) == [5, 5]
    assert encoder.batches == [["after"]]


async def test_look_ups_go_before_background_texts(batcher: Batcher, encoder: HeldEncoder) -> None:
    """At most one background batch of eight texts is before a look-up."""
    texts = [f"{number:02d}" for number in range(20)]
    rebuild = asyncio.create_task(batcher.encode_in_background(texts))
    await encoder.began.acquire()
    tasks = await ask(batcher, *"abcde")
    encoder.end_batches(5)
    await asyncio.gather(*tasks)
    vectors = await rebuild

    assert encoder.batches == [texts[:8], list("abcd"), ["e"], texts[8:16], texts[16:]]
    assert len(vectors) == 20


async def test_long_background_texts_are_few_at_a_time(
    batcher: Batcher, encoder: HeldEncoder
) -> None:
    """A look-up would wait for them as long as for eight short ones."""
    texts = [letter * 300 for letter in "abc"] + ["d" * 5000]
    encoder.end_batches(3)
    await batcher.encode_in_background(texts)

    assert [len(batch) for batch in encoder.batches] == [2, 1, 1]


async def test_background_comes_to_its_end_beside_look_ups_without_end(
    batcher: Batcher, encoder: HeldEncoder
) -> None:
    """After eight batches of look-ups it has one."""
    await keep_busy(batcher, encoder)
    rebuild = asyncio.create_task(batcher.encode_in_background(["background"]))
    tasks = await ask(batcher, "0")
    for number in range(1, 12):
        encoder.end_batches()
        await encoder.began.acquire()
        tasks += await ask(batcher, str(number))
    encoder.end_batches(2)
    await asyncio.gather(rebuild, *tasks)

    assert encoder.batches.index(["background"]) == 9


async def test_rebuild_that_leaves_takes_its_texts_back(
    batcher: Batcher, encoder: HeldEncoder, counts: Counts
) -> None:
    """Nothing of it is encoded afterwards."""
    first = await keep_busy(batcher, encoder)
    rebuild = asyncio.create_task(batcher.encode_in_background(["a", "b", "b"]))
    await asyncio.sleep(0)
    assert counts.waiting == 2
    rebuild.cancel()
    await asyncio.wait([rebuild])

    assert counts.waiting == 0
    encoder.end_batches()
    await first
    assert encoder.batches == [["first"]]


async def test_failed_rebuild_takes_the_rest_of_its_texts_back(
    batcher: Batcher, encoder: HeldEncoder, counts: Counts
) -> None:
    """The first batch's failure ends it."""
    texts = ["fail", *(str(number) for number in range(20))]
    rebuild = asyncio.create_task(batcher.encode_in_background(texts))
    encoder.end_batches(2)

    with pytest.raises(RuntimeError, match="the encoder failed"):
        await rebuild
    assert counts.waiting == 0


async def test_no_texts_have_no_vectors(batcher: Batcher) -> None:
    """An empty page of a scan is no error."""
    assert await batcher.encode_in_background([]) == []


async def test_close_refuses_what_waits_and_ends_what_runs(
    batcher: Batcher, encoder: HeldEncoder
) -> None:
    """Nobody waits for ever."""
    runs = await keep_busy(batcher, encoder)
    [waits] = await ask(batcher, "waits")
    closing = asyncio.create_task(batcher.close())

    with pytest.raises(Busy):
        await waits
    encoder.end_batches()
    assert list(await runs) == [5, 5]
    await closing
    with pytest.raises(Busy):
        await batcher.encode("late")
    assert encoder.batches == [["first"]]
