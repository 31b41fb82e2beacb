"""One encoder for all who ask: what comes while it is busy is encoded together.

The encoder runs in a thread of its own; all else here happens in one event loop. An idle encoder
starts with the loop's next turn: it does not wait for more to come. That was measured, and gains
nothing, as under load the batch before is wait enough.
"""

import asyncio
import contextlib
import itertools
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from embeddings.encoding.encoder import Encoder, Refused, Vector
from embeddings.observer import Observer

# About 500 tokens: more in a batch make no text cheaper, and all of them later.
_LOOK_UP_CHARACTERS: Final = 2000
# A background batch is what a look-up may have to wait for: about 30 ms on one thread.
_BACKGROUND_TEXTS: Final = 8
_BACKGROUND_CHARACTERS: Final = 600
# Beside look-ups that never cease, a rebuild still comes to its end.
_LOOK_UP_BATCHES_BEFORE_BACKGROUND: Final = 8

_Encoded = Vector | Refused
_Waiting = dict[str, list[asyncio.Future[_Encoded]]]


class Busy(Exception):
    """Too much waits already, the encoder is being closed, or there is no thread for it now."""


class Batcher:
    """Gathers texts from everywhere, look-ups first, and has them encoded in batches.

    Args:
        encoder: Used by one thread only, this batcher's.
        observer: Is told of each batch and of what waits.
        max_batch: The most look-ups in a batch.
        max_queued: The most texts of look-ups that wait. Background texts do not count: who asks
            for those waits for them before asking for more.
    """

    def __init__(
        self, encoder: Encoder, observer: Observer, *, max_batch: int, max_queued: int
    ) -> None:
        self._encoder = encoder
        self._observer = observer
        self._max_batch = max_batch
        self._max_queued = max_queued
        self._look_ups: _Waiting = {}
        self._background: _Waiting = {}
        self._look_up_batches = 0  # since the background's turn, while some of it waits
        self._is_busy = False
        self._is_closed = False
        self._thread = _thread()

    async def encode(self, text: str) -> Vector | Refused:
        """Return the vector of a look-up's text, or why it has none.

        A caller that is cancelled while the text waits takes it back.

        Raises:
            Busy: Too many texts wait already, raised at once; or it is being closed, or the system
                has no thread for it.
            Exception: Whatever the encoder raised for the batch that the text was in.
        """
        if text not in self._look_ups and len(self._look_ups) >= self._max_queued:
            raise Busy(f"{self._max_queued} texts wait already")
        # A look-up waits for its own future: gather() would be another turn of the loop.
        [future] = self._put(self._look_ups, [text])
        try:
            return await future
        except BaseException:
            self._take_back(self._look_ups, [text], [future])
            raise

    async def encode_in_background(self, texts: Sequence[str]) -> list[Vector | Refused]:
        """Return for each of `texts` its vector, or why it has none; look-ups go first.

        Raises:
            Busy: The encoder is being closed, or the system has no thread for it.
            Exception: Whatever the encoder raised for one of the batches.
        """
        futures = self._put(self._background, texts)
        try:
            return await asyncio.gather(*futures)
        except BaseException:
            self._take_back(self._background, texts, futures)
            raise

    async def close(self) -> None:
        """Refuse what waits and whatever else comes; return when the running batch is done."""
        self._is_closed = True
        self._refuse_all(Busy("the encoder is being closed"))
        await asyncio.to_thread(self._thread.shutdown)

    def _put(self, queue: _Waiting, texts: Sequence[str]) -> list[asyncio.Future[_Encoded]]:
        if self._is_closed:
            raise Busy("the encoder is being closed")
        loop = asyncio.get_running_loop()
        futures: list[asyncio.Future[_Encoded]] = [loop.create_future() for _ in texts]
        for text, future in zip(texts, futures, strict=True):
            queue.setdefault(text, []).append(future)
        self._tell_queued()
        if not self._is_busy:
            self._is_busy = True
            # In the loop's next turn, so that all who ask in this one are served together.
            loop.call_soon(self._start)
        return futures

    def _take_back(
        self, queue: _Waiting, texts: Sequence[str], futures: Sequence[asyncio.Future[_Encoded]]
    ) -> None:
        for text, future in zip(texts, futures, strict=True):
            future.cancel()
            # The text may run already, or wait again for somebody else.
            if future in queue.get(text, ()):
                queue[text].remove(future)
                if not queue[text]:
                    del queue[text]
        self._tell_queued()

    def _start(self) -> None:
        """Have the next batch encoded, if anything waits."""
        batch = self._next_batch()
        self._is_busy = bool(batch)
        if not batch:
            return
        self._tell_queued()
        try:
            self._thread.submit(self._run, asyncio.get_running_loop(), batch, list(batch))
        except (RuntimeError, MemoryError) as error:
            # Its one thread is started now, and the system may have none to give just then. What
            # was submitted would be run by the next one: another executor knows nothing of it.
            self._thread = _thread()
            self._is_busy = False
            refusal = error if isinstance(error, MemoryError) else Busy(str(error))
            _refuse(batch, refusal)
            self._refuse_all(refusal)

    def _refuse_all(self, error: Exception) -> None:
        for queue in (self._look_ups, self._background):
            _refuse(queue, error)
            queue.clear()
        self._tell_queued()

    def _next_batch(self) -> _Waiting:
        is_backgrounds_turn = self._look_up_batches >= _LOOK_UP_BATCHES_BEFORE_BACKGROUND
        if self._background and (is_backgrounds_turn or not self._look_ups):
            self._look_up_batches = 0
            return _take(self._background, _BACKGROUND_TEXTS, _BACKGROUND_CHARACTERS)
        self._look_up_batches += bool(self._background)
        return _take(self._look_ups, self._max_batch, _LOOK_UP_CHARACTERS)

    def _run(self, loop: asyncio.AbstractEventLoop, batch: _Waiting, texts: list[str]) -> None:
        """Encode `texts`, and have `_finish` called in the loop. In the encoder's thread.

        Not by run_in_executor(): its two futures take three turns of the loop to say the same.
        """
        began = time.perf_counter()
        encoded: list[_Encoded] = []
        error: BaseException | None = None
        try:
            encoded = self._encoder.encode(texts)
        except BaseException as raised:
            error = raised
        seconds = time.perf_counter() - began
        with contextlib.suppress(RuntimeError):  # the loop has been closed: nobody waits
            loop.call_soon_threadsafe(self._finish, batch, encoded, seconds, error)

    def _finish(
        self,
        batch: _Waiting,
        encoded: list[_Encoded],
        seconds: float,
        error: BaseException | None,
    ) -> None:
        if error is None:
            self._observer.encoded(len(batch), seconds)
            for futures, each in zip(batch.values(), encoded, strict=True):
                for future in futures:
                    if not future.done():  # cancelled meanwhile
                        future.set_result(each)
        else:
            _refuse(batch, error)
        self._start()

    def _tell_queued(self) -> None:
        self._observer.queued(len(self._look_ups) + len(self._background))


def _thread() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, thread_name_prefix="encoder")


def _refuse(texts: _Waiting, error: BaseException) -> None:
    """Have those who wait for `texts` fail, but who has left."""
    for future in itertools.chain.from_iterable(texts.values()):
        if not future.done():
            future.set_exception(error)


def _take(queue: _Waiting, most_texts: int, most_characters: int) -> _Waiting:
    """Remove the texts that have waited longest, as many as may be taken but at least one."""
    batch: _Waiting = {}
    characters = 0
    for text in itertools.islice(queue, most_texts):
        characters += len(text)
        if batch and characters > most_characters:
            break
        batch[text] = queue[text]
    for text in batch:
        del queue[text]
    return batch
