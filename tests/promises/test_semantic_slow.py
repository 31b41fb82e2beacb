"""An embedding process that answers, but after the deadline: requests go on without, and rightly.

Unlike one that stands still it keeps its connections busy, and its answers do come in the end.
Where Redis is slow as well, one deadline is for both.
"""

import asyncio
import contextlib
import statistics
from collections.abc import Iterator
from pathlib import Path

import pytest

from embeddings.wire import Found, Neighbour
from tests.support.fake_upstream import FakeUpstream
from tests.support.loop_thread import LoopThread
from tests.support.processes import wait_until
from tests.support.recollect_server import CHAT, StartRecollect, chat_body, unique
from tests.support.redis_fault import Fault, RedisFault
from tests.support.redis_server import RedisServer
from tests.support.semantic import PARAPHRASES, QUESTION, becomes_meant, settings_of

DEADLINE_S = 0.3
SLACK_S = 1.0
"""For a busy machine: a request of its own takes some milliseconds."""
LATE_S = 6.0
"""So far past the deadline that who waited for it is told from who is on a slow machine."""
BACK_S = 40.0
"""A breaker that was opened again and again tries after 10 s at most."""
LOOK_UPS = "recollect_semantic_lookups_total"


class LateService:
    """Speaks for an embedding process on a UNIX socket, and finds the same near every text.

    Attributes:
        near: What it finds; None: nothing.
        late_s: How long each look-up takes.
        late: How many answers were given late.
    """

    def __init__(self, path: Path) -> None:
        self.near: bytes | None = None
        self.late_s = 0.0
        self.late = 0
        self._thread = LoopThread("late-service")
        self._server = self._thread.call(asyncio.start_unix_server(self._serve, path))

    def close(self) -> None:
        """End it."""
        self._thread.loop.call_soon_threadsafe(self._server.close)
        self._thread.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with (
            contextlib.closing(writer),
            contextlib.suppress(asyncio.IncompleteReadError, ConnectionError),
        ):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = head.partition(b"content-length: ")[2].partition(b"\r\n")[0]
                await reader.readexactly(int(length or 0))
                if head.startswith(b"post /look-up "):
                    content = await self._look_up()
                    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(content))
                    writer.write(content)
                else:
                    writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
                await writer.drain()

    async def _look_up(self) -> bytes:
        near, late_s = self.near, self.late_s
        await asyncio.sleep(late_s)
        self.late += late_s > 0
        matches = () if near is None else (Neighbour(near, 0.99),)
        return Found(matches, "f" * 32, None, b"\0\0\x80?").to_bytes()


@pytest.fixture
def service(tmp_path: Path) -> Iterator[LateService]:
    service = LateService(tmp_path / "s")
    yield service
    service.close()


@pytest.mark.alone
def test_a_process_that_answers_late_is_not_waited_for_nor_believed(
    upstream: FakeUpstream,
    redis_server: RedisServer,
    start_recollect: StartRecollect,
    service: LateService,
    tmp_path: Path,
) -> None:
    """Its answers come when nobody waits any more: to no other question do they belong."""
    namespace = unique("late").replace(" ", "-")
    server = start_recollect(
        upstream.url,
        redis_server.url,
        settings_of(
            workers=1,
            semantic={"address": f"unix://{tmp_path / 's'}", "deadline_ms": int(DEADLINE_S * 1000)},
            redis={"namespace": namespace},
        ),
    )
    words = iter(PARAPHRASES)
    stored = server.chat(QUESTION)
    with redis_server.client() as client:
        assert wait_until(lambda: bool(client.keys(f"{namespace}:e:*")), BACK_S)
        (name,) = client.keys(f"{namespace}:e:*")
    service.near = bytes.fromhex(name.decode().rpartition(":")[2])
    assert becomes_meant(server, chat_body(next(words)), timeout_s=BACK_S)
    before = {each: server.metric(LOOK_UPS, outcome=each) for each in ("deadline", "open")}

    service.late_s = LATE_S
    misses = [server.chat(next(words)) for _ in range(8)]
    hit = server.chat(QUESTION)
    service.near, service.late_s = None, 0.0
    # When the late answers have come, none of them is taken for one to a later question.
    assert wait_until(lambda: service.late >= 3, BACK_S)
    unlike = [server.chat(next(words)) for _ in range(8)]

    for answer in misses + unlike:
        assert answer.status == 200
        assert not answer.cache.hit
        assert answer.cache.stored
    texts = {answer.text for answer in [stored, *misses, *unlike]}
    assert len(texts) == 17, "each has an answer of its own"
    at_once_s = statistics.median(answer.head_s for answer in unlike)
    took_s = sorted(answer.head_s for answer in misses)
    # Three open the breaker. Of the five that come then, one or two may try again.
    assert DEADLINE_S <= statistics.median(took_s[-3:]) < at_once_s + DEADLINE_S + SLACK_S
    assert took_s[2] < DEADLINE_S, "who does not ask does not wait"
    assert took_s[-1] < LATE_S
    assert (hit.cache.detail, hit.text) == ("exact", stored.text)

    def counted(outcome: str) -> float:
        return server.metric(LOOK_UPS, outcome=outcome) - before[outcome]

    assert wait_until(lambda: counted("deadline") >= 3 and counted("open") > 0, BACK_S)
    service.near = bytes.fromhex(name.decode().rpartition(":")[2])
    assert becomes_meant(server, chat_body(next(words)), timeout_s=BACK_S)


@pytest.mark.alone
def test_redis_and_the_process_both_slow_take_one_deadline_together(
    upstream: FakeUpstream,
    redis_fault: RedisFault,
    start_recollect: StartRecollect,
    service: LateService,
    tmp_path: Path,
) -> None:
    """`history = chain` asks Redis before the process; with `no-cache` it asks Redis alone."""
    deadline_s, redis_s = 2.0, 1.5
    server = start_recollect(
        upstream.url,
        redis_fault.url,
        settings_of(
            workers=1,
            semantic={
                "address": f"unix://{tmp_path / 's'}",
                "deadline_ms": int(deadline_s * 1000),
                "history": "chain",
            },
            redis={"deadline_ms": 10_000},
            cache={"l1_bytes": 0},
        ),
    )
    said = server.chat(QUESTION).text
    words = iter(PARAPHRASES)

    def took_s(**headers: str) -> float:
        turns = [("user", QUESTION), ("assistant", said), ("user", next(words))]
        messages = [{"role": role, "content": content} for role, content in turns]
        answer = server.post(CHAT, {"model": "m", "messages": messages}, headers=headers)
        assert answer.status == 200
        assert not answer.cache.hit
        return answer.head_s

    assert took_s() < SLACK_S
    service.late_s, redis_fault.late_s = LATE_S, redis_s
    redis_fault.set(Fault.LATE)

    # The quickest counts: what is added up is so each time, a busy machine is not. First of all the
    # exact tier asks Redis.
    assert redis_s + deadline_s <= min(took_s() for _ in range(2)) < redis_s + deadline_s + SLACK_S
    redis_fault.late_s = LATE_S
    anew_s = min(took_s(**{"Cache-Control": "no-cache"}) for _ in range(2))
    assert deadline_s <= anew_s < deadline_s + SLACK_S
    redis_fault.set(Fault.PASS)
    assert server.metric(LOOK_UPS, outcome="deadline") >= 4
