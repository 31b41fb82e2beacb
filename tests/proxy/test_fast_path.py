"""Hits before ASGI: the same answers as the long way's, for the very same bytes only."""

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
from prometheus_client import REGISTRY
from redis import Redis

from config.settings import Settings
from proxy.fast_path import FastPath, FastProtocol, Known, protocol_class
from proxy.handler import Handler, Limits
from proxy.lookup.ask import Reader
from proxy.lookup.routes import Routes
from proxy.lookup.tenants import Tenants
from proxy.router import Router
from proxy.wire.endpoint import Endpoint, Form
from tests.proxy.connection_rig import KEEP_ALIVE_S, Answer, Connection, chunked, post
from tests.proxy.fakes import (
    Clock,
    FakeUpstream,
    Play,
    Worker,
    chat,
    json_play,
    settle,
    stream_of,
    stream_play,
)
from tests.support import processes
from tests.support.fake_upstream import FakeUpstream as RealUpstream
from tests.support.http_client import Answer as RealAnswer
from tests.support.http_client import Connection as RealConnection
from tests.support.http_client import comparable, ids_of, post_bytes
from tests.support.recollect_server import CHAT, StartRecollect, chat_body, unique
from tests.support.redis_server import RedisServer

virtual_time = pytest.mark.virtual_time

HEADER_LIMIT = 8192
ADMIN_PORT = 9090
FRESH = (b"date", b"x-request-id")
SAME_ID = ("x-request-id", "same")


class Server:
    """A worker with its fast path, and the connections to it.

    Attributes:
        long_way: How many requests came to the application.
    """

    def __init__(
        self,
        *plays: Play,
        key_headers: tuple[str, ...] = (),
        cache: Mapping[str, object] | None = None,
    ) -> None:
        cache = {"jitter": 0.0, **(cache or {})}
        settings = Settings.model_validate({"cache": cache})
        self.clock = Clock()
        self.upstream = FakeUpstream(*(plays or (json_play(),)))
        self.worker = worker = Worker(self.upstream, clock=self.clock, cache=cache)
        self.fast_path = FastPath(worker.tiers, worker.metrics, key_headers, self.clock)
        handler = Handler(
            reader=Reader(Routes(settings), Tenants(b"x" * 32, {}), key_headers),
            tiers=worker.tiers,
            semantic=worker.semantic,
            boarding=worker.boarding,
            forwarder=worker.forwarder,
            replies=worker.replies,
            fast_path=self.fast_path,
            metrics=worker.metrics,
            limits=Limits(2**20, 100, 2**20),
            clock=self.clock,
        )
        self._router = Router(
            handler=handler,
            forwarder=worker.forwarder,
            operations=worker.router._operations,
            semantic_admin=worker.semantic_admin,
            metrics=worker.metrics,
            admin_port=ADMIN_PORT,
            logs_requests=False,
        )
        self._protocol = protocol_class(HEADER_LIMIT, self.fast_path, ADMIN_PORT)
        self.long_way = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Count, and answer as ever."""
        self.long_way += 1
        await self._router.answer(scope, receive, send)

    def connect(self, port: int = 8080) -> Connection:
        """Return a new connection."""
        return Connection(self._protocol, self, port)

    async def taught(self, raw: bytes) -> Connection:
        """Return a connection on which `raw` has just taken the fast path."""
        connection = self.connect()
        first = await connection.ask(raw)
        assert first.status == 200, first.body
        second = await connection.ask(raw)
        assert b"; hit;" in second.one(b"cache-status")
        before = self.long_way
        third = await connection.ask(raw)
        assert b"; hit;" in third.one(b"cache-status")
        assert self.long_way == before, "not learnt"
        return connection

    async def went_long(self, raw: bytes, connection: Connection | None = None) -> bool:
        """Return whether a request takes the long way."""
        before = self.long_way
        answer = await (connection or self.connect()).ask(raw)
        assert answer.is_complete
        return self.long_way > before


def steady(answer: Answer) -> tuple[int, list[tuple[bytes, bytes]], Any]:
    """Return all of an answer that two hits in a row have in common."""
    headers = [(name, value) for name, value in answer.headers if name not in FRESH]
    lines = [line.removeprefix(b"data: ") for line in answer.body.split(b"\n") if line]
    said = [json.loads(line) for line in lines if line != b"[DONE]"]
    for item in said:
        assert item.pop("id")
        assert item.pop("created")
    return answer.status, headers, (len(answer.body), len(lines), said)


# The same answer.


@virtual_time
@pytest.mark.parametrize(
    ("play", "fields"),
    [
        (json_play(), {}),
        (stream_play(stream_of("one ", "two")), {"stream": True}),
        (json_play(), {"stream": True}),
        (json_play(), {"stream": True, "stream_options": {"include_usage": True}}),
        (stream_play(stream_of("one ", "two")), {}),
    ],
)
async def test_answer_is_the_long_ways(play: Play, fields: dict[str, Any]) -> None:
    """Header fields in name, value and order; content but for `id` and `created`."""
    play.headers = [(b"content-type", play.content_type), (b"openai-model", b"m")]
    server = Server(play)
    raw = post(chat(**fields))
    connection = server.connect()
    await connection.ask(post(chat()))
    server.clock.now += 90.5

    long, fast = await connection.ask(raw), await connection.ask(raw)

    assert server.long_way == 2
    assert steady(fast) == steady(long)
    assert fast.body != long.body
    assert [name for name, _ in fast.headers] == [name for name, _ in long.headers]
    assert fast.one(b"age") == b"90"
    assert fast.one(b"cache-status") == b"recollect; hit; ttl=3509; detail=exact"
    assert fast.one(b"content-length") == b"%d" % len(fast.body)
    assert fast.one(b"openai-model") == b"m"
    assert str(int(server.clock.now)).encode() in fast.body
    assert fast.one(b"x-request-id") != long.one(b"x-request-id")


@virtual_time
async def test_clients_request_id_is_kept() -> None:
    """It is no part of what is known: another one hits as well."""
    server = Server()
    connection = await server.taught(post(chat(), CHAT, SAME_ID))

    answer = await connection.ask(post(chat(), CHAT, ("X-Request-Id", "another")))

    assert server.long_way == 2
    assert answer.one(b"x-request-id") == b"another"


def _counts() -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in REGISTRY.collect()
        if family.name.startswith("recollect_")
        for sample in family.samples
        if not sample.name.endswith(("_sum", "_bucket", "_created"))
    }


@virtual_time
async def test_hit_is_counted_as_on_the_long_way() -> None:
    """Whoever reads the metrics cannot tell which way a hit took."""
    server = Server()
    connection = server.connect()
    raw = post(chat())
    await connection.ask(raw)
    grown = []
    for _ in range(2):
        server.worker.metrics.flush()
        before = _counts()
        await connection.ask(raw)
        server.worker.metrics.flush()
        after = _counts()
        grown.append({name: after[name] - before[name] for name in after})

    long, fast = grown
    assert server.long_way == 2
    assert fast == long
    hit = ("endpoint", "chat"), ("outcome", "hit-memory")
    assert fast["recollect_requests_total", hit] == 1
    assert fast["recollect_request_seconds_count", (("outcome", "hit-memory"),)] == 1
    assert fast["recollect_lookup_seconds_count", (("tier", "memory"),)] == 1
    assert fast["recollect_tokens_saved_total", (("kind", "prompt"),)] == 3
    assert connection.state.total_requests == 3


# Nothing but the very same request.


@virtual_time
@pytest.mark.parametrize(
    "fields",
    [
        [("Authorization", "Bearer other")],
        [("X-Api-Key", "other")],
        [("Api-Key", "other")],
        [("OpenAI-Organization", "other")],
        [("OpenAI-Project", "other")],
        [("OpenAI-Beta", "other")],
        [("X-Lora", "other")],
        [],
        [("Authorization", "Bearer one"), ("Authorization", "Bearer one")],
        [("Authorization", "Bearer other"), ("Authorization", "Bearer one")],
        [("Authorization", "Bearer one"), ("Authorization", "Bearer other")],
    ],
)
async def test_another_field_that_counts_is_another_request(fields: list[tuple[str, str]]) -> None:
    """Promises 5 and 16: credential, organisation, project, beta, configured fields; all lines."""
    server = Server(key_headers=("X-Lora",))
    own = ("Authorization", "Bearer one")
    await server.taught(post(chat(), CHAT, own))
    if fields and fields[0][0] != "Authorization":
        fields = [own, *fields]
    other = post(chat(), CHAT, *fields)

    assert await server.went_long(other)
    assert server.upstream.calls == 2
    await server.taught(other)
    assert server.upstream.calls == 2


@virtual_time
async def test_repeated_field_that_was_learnt_is_not_its_last_line() -> None:
    """Promise 16: what is learnt from two lines must not answer who sends one of them."""
    server = Server()
    lines = [("OpenAI-Project", "one"), ("OpenAI-Project", "two")]
    connection = server.connect()
    for _ in range(3):
        await connection.ask(post(chat(), CHAT, *lines))

    for name, value in lines:
        before = server.upstream.calls
        assert await server.went_long(post(chat(), CHAT, (name, value)))
        assert server.upstream.calls == before + 1


@virtual_time
@pytest.mark.parametrize(
    "raw",
    [
        post(chat(), "/v1/chat/completions?a=2"),
        post(chat(), "/v1/chat/completions"),
        post(chat(), "/v1/chat/completions?"),
        post(chat(), "/v1/completions?a=1"),
        post(chat() + b" ", "/v1/chat/completions?a=1"),
        post(chat("Hellp"), "/v1/chat/completions?a=1"),
    ],
)
async def test_another_byte_is_another_request(raw: bytes) -> None:
    """What other bytes mean, only the long way can tell."""
    server = Server()
    await server.taught(post(chat(), "/v1/chat/completions?a=1"))

    assert await server.went_long(raw)


@virtual_time
async def test_field_that_does_not_count_is_no_hindrance() -> None:
    """Clients send a new trace id, or a new version of theirs, with every request."""
    server = Server()
    connection = await server.taught(post(chat(), CHAT, ("User-Agent", "a/1")))

    assert not await server.went_long(
        post(chat(), CHAT, ("User-Agent", "a/2"), ("traceparent", "00-1-2-01")), connection
    )


@virtual_time
async def test_trailer_changes_neither_who_asks_nor_what_is_known() -> None:
    """RFC 9110 §6.5.1: it is no header."""
    server = Server()
    mine = post(chat(), CHAT, ("Authorization", "Bearer one"))
    await server.taught(mine)
    raw = chunked(chat(), trailer=b"Authorization: Bearer one\r\n")
    connection = server.connect()
    await connection.ask(raw)
    assert server.upstream.calls == 2
    assert all(name != b"authorization" for name, _ in server.upstream.sent[1].headers)

    await server.taught(raw)
    assert not await server.went_long(mine)


# The long way.


@virtual_time
@pytest.mark.parametrize(
    "field",
    [
        ("Cache-Control", "max-age=100"),
        ("Pragma", "no-cache"),
        ("Content-Encoding", "identity"),
        ("Expect", "100-continue"),
        ("Upgrade", "h2c"),
        ("Connection", "close"),
    ],
)
async def test_field_that_asks_for_more_takes_the_long_way(field: tuple[str, str]) -> None:
    """Before and after: a request that has it is not learnt either, where it means something."""
    server = Server()
    await server.taught(post(chat(), CHAT))

    assert await server.went_long(post(chat(), CHAT, field))
    assert await server.went_long(post(chat(), CHAT, field))


@virtual_time
async def test_request_with_directives_is_not_learnt() -> None:
    """`max-age=100` was fulfilled now; that says nothing of the same bytes without it."""
    server = Server()
    raw = post(chat(), CHAT, ("Cache-Control", "max-age=100"))
    connection = server.connect()
    for _ in range(3):
        await connection.ask(raw)

    assert server.fast_path.held_bytes == 0


@virtual_time
@pytest.mark.parametrize("target", ["/v1/models", "/metrics", "/v1/chat/completions/x"])
async def test_what_is_not_cacheable_takes_the_long_way(target: str) -> None:
    """Any other path, any other method."""
    server = Server(Play([b"{}"]))
    assert await server.went_long(post(b"", target))
    assert await server.went_long(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())


@virtual_time
async def test_another_method_takes_the_long_way() -> None:
    """The bytes that are known were a POST's."""
    server = Server()
    raw = post(chat())
    connection = await server.taught(raw)

    assert await server.went_long(raw.replace(b"POST", b"PUT", 1), connection)
    assert server.upstream.sent[-1].method == "PUT"


@virtual_time
async def test_old_clients_take_the_long_way() -> None:
    """HTTP/1.0, whether it asks for keep-alive or not."""
    server = Server()
    await server.taught(post(chat()))
    for fields in ([], [("Connection", "keep-alive")]):
        connection = server.connect()

        assert await server.went_long(post(chat(), CHAT, *fields, version="1.0"), connection)
        assert connection.is_closed


@virtual_time
async def test_admin_listener_takes_the_long_way() -> None:
    """Promise 21: no application is served there."""
    server = Server()
    await server.taught(post(chat()))

    answer = await server.connect(ADMIN_PORT).ask(post(chat()))

    assert answer.status == 404


@virtual_time
async def test_client_that_does_not_read_takes_the_long_way() -> None:
    """There answers wait until there is room; here they would pile up."""
    server = Server()
    connection = await server.taught(post(chat()))
    connection.protocol.pause_writing()
    await connection.send(post(chat()))
    assert server.long_way == 3
    assert len(connection.answers) == 3

    connection.protocol.resume_writing()
    await settle()

    assert len(connection.answers) == 4
    assert not await server.went_long(post(chat()), connection)


@virtual_time
async def test_expired_answer_takes_the_long_way() -> None:
    """Fresh means younger than the lifetime (RFC 9111 §4.2)."""
    server = Server(cache={"ttl_s": 60.0})
    connection = await server.taught(post(chat()))
    server.clock.now += 59.9
    assert not await server.went_long(post(chat()), connection)

    server.clock.now += 0.1
    answer = await connection.ask(post(chat()))

    assert b"fwd=stale" in answer.one(b"cache-status")
    assert server.upstream.calls == 2


@virtual_time
async def test_dropped_answer_takes_the_long_way() -> None:
    """Learning keeps what a request means, never its answer."""
    server = Server()
    connection = await server.taught(post(chat()))
    server.worker.redis.values.clear()
    (entry,) = list(server.worker.memory._values)
    server.worker.tiers.invalidate([entry])

    answer = await connection.ask(post(chat()))

    assert b"fwd=miss" in answer.one(b"cache-status")
    assert server.upstream.calls == 2


@virtual_time
async def test_answer_without_the_form_takes_the_long_way() -> None:
    """A new answer under the same key renders its forms there."""
    server = Server()
    connection = await server.taught(post(chat()))
    (key,) = list(server.worker.memory._values)
    answer = server.worker.memory.peek(key)
    assert answer is not None
    server.worker.memory.keep(key, replace(answer, templates={}))

    assert await server.went_long(post(chat()), connection)
    assert not await server.went_long(post(chat()), connection)
    assert server.upstream.calls == 1


@virtual_time
async def test_answer_that_varies_is_never_answered_here() -> None:
    """RFC 9111 §4.1: fields that are not among the counted ones decide."""
    server = Server(
        json_play(headers=[(b"vary", b"accept-language")]),
        cache={"upstream_cache_control": "honour", "ttl_s": 60.0},
    )
    connection = server.connect()
    raw = post(chat(), CHAT, ("Accept-Language", "de"))
    for _ in range(3):
        assert await server.went_long(raw, connection)
    assert server.upstream.calls == 1

    await connection.ask(post(chat(), CHAT, ("Accept-Language", "fr")))
    assert server.upstream.calls == 2


@virtual_time
async def test_litellms_cache_field_is_never_learnt() -> None:
    """Its namespace counts, but is taken off the bytes that go upstream and are known."""
    server = Server()
    connection = server.connect()
    for _ in range(3):
        await connection.ask(post(chat(cache={"namespace": "one"})))
    assert server.fast_path.held_bytes == 0

    bare = json.dumps(json.loads(chat()), separators=(",", ":")).encode()
    await connection.ask(post(bare))
    assert server.upstream.calls == 2


@virtual_time
@pytest.mark.parametrize(
    ("name", "value"),
    [
        (b"x-info", b"1\r\nset-cookie: a=b"),
        (b"x-info", b"1\nset-cookie: a=b"),
        (b"x-info", b"1\rset-cookie: a=b"),
        (b"x-info", b"\r\n\r\n<html>"),
        (b"x: 1\r\nset-cookie", b"a=b"),
    ],
)
async def test_stored_field_cannot_begin_another(name: bytes, value: bytes) -> None:
    """Whoever writes into Redis cannot split answers; the long way refuses such a field."""
    server = Server()
    connection = await server.taught(post(chat()))
    (key,) = list(server.worker.memory._values)
    answer = server.worker.memory.peek(key)
    assert answer is not None
    server.worker.memory.keep(key, replace(answer, headers=(*answer.headers, (name, value))))
    before = server.long_way

    await connection.send(post(chat()))

    assert server.long_way == before + 1
    assert b"set-cookie" not in connection.transport.written
    assert b"<html>" not in connection.transport.written
    assert len(connection.answers) == 3
    assert connection.is_closed


# How requests come.


@virtual_time
async def test_content_may_come_in_any_pieces() -> None:
    """Byte by byte, or in chunks."""
    server = Server()
    raw = post(chat())
    connection = await server.taught(raw)

    await connection.send(*(raw[i : i + 1] for i in range(len(raw))))
    assert server.long_way == 2
    assert connection.answers[-1].is_complete
    assert not await server.went_long(chunked(chat()), connection)


@virtual_time
async def test_miss_in_pieces_is_handed_on_whole() -> None:
    """As if it had just come."""
    server = Server()
    connection = server.connect()
    raw = post(chat("x" * 5000))

    answer = await connection.ask(*(raw[i : i + 700] for i in range(0, len(raw), 700)))

    assert answer.status == 200
    assert server.upstream.sent[0].content == chat("x" * 5000)


@virtual_time
@pytest.mark.parametrize("frame", [post, chunked])
async def test_large_content_is_handed_on_before_it_is_all_here(
    frame: Callable[[bytes], bytes],
) -> None:
    """Whole; and its memory is then the application's to bound."""
    server = Server()
    content = chat("x" * 200_000)
    raw = frame(content)
    connection = server.connect()
    await connection.send(raw[:100_000])
    assert server.long_way == 1

    await connection.send(raw[100_000:])
    await connection.ask(raw)

    assert server.upstream.calls == 1
    assert server.upstream.sent[0].content == content
    assert server.fast_path.held_bytes == 0
    assert await server.went_long(raw, connection)


@virtual_time
async def test_length_that_is_too_large_is_refused_at_once() -> None:
    """413 before the content comes, as on the long way."""
    server = Server()
    connection = server.connect()

    await connection.send(post(b"").replace(b"Length: 0", b"Length: 2000000"))

    assert connection.answers[0].status == 413


@virtual_time
async def test_pipelined_requests_are_answered_in_order() -> None:
    """Hits behind a miss wait for it (RFC 9112 §9.3.2)."""
    gate = asyncio.Event()
    server = Server(json_play("hit"), json_play("miss", gate=gate))
    connection = await server.taught(post(chat()))
    raw = post(chat(), CHAT, ("x-request-id", "1"))

    await connection.send(
        raw
        + post(chat("new"), CHAT, ("x-request-id", "2"))
        + post(chat(), CHAT, ("x-request-id", "3"))
        + post(chat(), CHAT, ("x-request-id", "4"))
    )
    assert [a.one(b"x-request-id") for a in connection.answers[3:]] == [b"1"]
    gate.set()
    await settle()

    given = connection.answers[3:]
    assert [a.one(b"x-request-id") for a in given] == [b"1", b"2", b"3", b"4"]
    assert [json.loads(a.body)["choices"][0]["message"]["content"] for a in given] == [
        "hit",
        "miss",
        "hit",
        "hit",
    ]


@virtual_time
async def test_pipelined_hits_are_answered_in_one_packet() -> None:
    """Without one of them becoming a task."""
    server = Server()
    connection = await server.taught(post(chat()))

    await connection.send(post(chat()) * 10)

    assert server.long_way == 2
    assert [answer.is_complete for answer in connection.answers] == [True] * 13


@virtual_time
async def test_header_behind_a_hit_is_limited_too() -> None:
    """Though both came in one packet."""
    server = Server()
    connection = await server.taught(post(chat()))

    await connection.send(post(chat()) + post(chat(), CHAT, ("X", "x" * HEADER_LIMIT)))

    assert [answer.status for answer in connection.answers] == [200] * 4 + [431]
    assert connection.is_closed
    assert server.long_way == 2


@virtual_time
async def test_bytes_of_hits_do_not_count_in_later_headers() -> None:
    """Each request has the limit for itself, whichever way those before it took."""
    server = Server()
    raw = post(chat("x" * 30_000))
    connection = await server.taught(raw)
    for _ in range(10):
        assert not await server.went_long(raw, connection)

    await connection.send(raw[:40], raw[40:])

    assert connection.answers[-1].status == 200
    assert server.long_way == 2


@virtual_time
async def test_endless_trailer_is_refused_while_it_comes() -> None:
    """Also of a request that is held back."""
    server = Server()
    connection = server.connect()
    await connection.send(chunked(chat())[:-2] + b"X: ")
    for _ in range(20):
        if not connection.is_closed:
            await connection.send(b"x" * 65536)

    assert [answer.status for answer in connection.answers] == [431]
    assert server.long_way == 0


@virtual_time
async def test_content_in_tiny_chunks_is_held_like_any_other() -> None:
    """However much their framing takes."""
    server = Server()
    connection = server.connect()
    head, _, _ = chunked(b"").partition(b"0\r\n")
    content = chat("x" * 40_000)
    small = b"".join(b"1\r\n%c\r\n" % byte for byte in content)

    await connection.send(head, *(small[i : i + 6000] for i in range(0, len(small), 6000)))
    answer = await connection.ask(b"0\r\n\r\n")

    assert answer.status == 200
    assert server.upstream.sent[0].content == content


@virtual_time
async def test_garbage_in_content_that_is_held_is_refused() -> None:
    """400; the application has never seen it."""
    server = Server()
    connection = await server.taught(post(chat()))
    await connection.send(chunked(chat())[:-5] + b"not a size\r\n")

    assert connection.answers[-1].status == 400
    assert connection.is_closed
    assert server.long_way == 2


# How connections end.


@virtual_time
async def test_slow_upload_is_not_idle() -> None:
    """Neither for the keep-alive timer nor for a server that ends."""
    server = Server()
    connection = await server.taught(post(chat()))
    raw = post(chat("slow"))
    await connection.send(raw[:-5])
    await asyncio.sleep(2 * KEEP_ALIVE_S)
    connection.protocol.shutdown()
    await asyncio.sleep(2)
    assert not connection.is_closed

    answer = await connection.ask(raw[-5:])

    assert answer.status == 200
    assert answer.one(b"connection") == b"close"
    assert connection.is_closed


@virtual_time
async def test_hits_keep_a_connection_in_use() -> None:
    """The timer counts from the last answer, whichever way it took."""
    server = Server()
    connection = await server.taught(post(chat()))
    await asyncio.sleep(KEEP_ALIVE_S - 5)
    await connection.ask(post(chat()))
    await asyncio.sleep(KEEP_ALIVE_S - 5)
    assert not connection.is_closed

    await asyncio.sleep(10)
    assert connection.is_closed


@virtual_time
async def test_hit_that_comes_as_the_server_ends_closes_its_connection() -> None:
    """As every answer then does."""
    server = Server()
    connection = await server.taught(post(chat()))
    connection.protocol.shutdown()

    answer = await connection.ask(post(chat()))

    assert b"; hit;" in answer.one(b"cache-status")
    assert answer.one(b"connection") == b"close"
    assert connection.is_closed


@virtual_time
async def test_client_may_leave_in_its_content() -> None:
    """Nothing of it is handed on, nothing of it is kept."""
    server = Server()
    connection = server.connect()
    await connection.send(post(chat())[:-5])

    connection.leave()
    await settle()

    assert server.long_way == 0
    assert isinstance(connection.protocol, FastProtocol)
    assert connection.protocol._held is None
    assert not connection.state.connections


# What is remembered.


def known(content: bytes) -> Known:
    """Return what a request with `content` means."""
    return Known(b"k" * 32, Endpoint.CHAT, Form.JSON, False, len(content))


@virtual_time
@pytest.mark.parametrize("where", ["target", "credential", "organisation", "content"])
async def test_memory_of_requests_is_bounded_in_bytes(where: str) -> None:
    """Promise 14: whichever part of a request is large; 16 MiB in all."""
    server = Server()
    for number in range(1000):
        large = b"%d" % number + b"x" * 30_000
        content = large if where == "content" else b"{}"
        target = large if where == "target" else b"/v1/chat/completions"
        named = {
            "credential": {b"authorization": large},
            "organisation": {b"openai-organization": large},
        }.get(where, {})
        server.fast_path.learn(target, named, content, known(content))

    held = server.fast_path._known
    real = sum(len(part) for identity in held for part in identity if part is not None)
    assert 14 * 1024**2 < real <= server.fast_path.held_bytes <= 16 * 1024**2


@virtual_time
async def test_many_small_requests_are_bounded_too() -> None:
    """Each costs more than its own bytes."""
    server = Server()
    for number in range(30_000):
        server.fast_path.learn(b"/v1/x", {}, b"%d" % number, known(b""))

    assert len(server.fast_path._known) * 600 <= 16 * 1024**2


@virtual_time
@pytest.mark.parametrize("part", ["target", "content"])
async def test_request_too_large_is_not_remembered(part: str) -> None:
    """One must not push out all others."""
    server = Server()
    large, small = b"x" * 65537, b"x" * 60_000
    for is_kept, value in ((False, large), (True, small)):
        target, content = (value, b"") if part == "target" else (b"", value)
        server.fast_path.learn(target, {}, content, known(content))
        assert (server.fast_path.held_bytes > 0) is is_kept


@virtual_time
async def test_request_that_is_not_known_is_no_hit() -> None:
    """And nothing is counted for it."""
    server = Server()

    assert server.fast_path.hit(b"/v1/chat/completions", {}, chat()) is None
    assert await server.went_long(post(chat()))


# From outside.


async def _repeat(origin: str, prompt: str, times: int) -> list[RealAnswer]:
    """Ask the same on one connection: one worker."""
    connection = await RealConnection.open(origin)
    given = []
    for _ in range(times):
        await connection.send(post_bytes(origin, CHAT, chat_body(prompt)))
        given.append(await connection.read_body(await connection.read_head()))
    connection.abort()
    return given


def test_hits_before_asgi_are_hits_like_others(
    upstream: RealUpstream, redis_server: RedisServer, start_recollect: StartRecollect
) -> None:
    """Promise 1, over a socket and with real parts: equal but for what is fresh, and counted."""
    server = start_recollect(upstream.url, redis_server.url)
    prompt = unique("fast")

    first, *others = asyncio.run(_repeat(server.origin, prompt, 20))

    assert upstream.calls(prompt) == 1
    assert all(other.cache.hit for other in others)
    assert all(comparable(other) == comparable(first) for other in others)
    assert len({next(ids_of(answer)) for answer in (first, *others)}) == 20
    assert [name for name, _ in others[0].headers] == [name for name, _ in others[-1].headers]

    # The first may have found it in Redis. What was gathered is written within a moment.
    def hits(outcome: str) -> float:
        return server.metric("recollect_requests_total", endpoint="chat", outcome=outcome)

    assert processes.wait_until(lambda: hits("hit-memory") + hits("hit-redis") == 19, 5)
    assert hits("hit-memory") >= 18


def test_answer_deleted_in_redis_is_soon_no_hit_on_any_worker(
    upstream: RealUpstream, own_redis: RedisServer, start_recollect: StartRecollect
) -> None:
    """Issue §3: invalidation reaches every worker's memory within 1 s, learnt or not."""
    server = start_recollect(upstream.url, own_redis.url, {"server": {"workers": 2}})
    prompt = unique("deleted")
    # On many connections, so that both workers learn.
    for _ in range(12):
        asyncio.run(_repeat(server.origin, prompt, 3))
    assert upstream.calls(prompt) == 1

    with own_redis.client() as client:
        _delete_entries(client)
    deleted_at = time.monotonic()
    assert processes.wait_until(
        lambda: not asyncio.run(_repeat(server.origin, prompt, 1))[0].cache.hit, 1
    ), "still a hit"
    assert time.monotonic() - deleted_at < 1

    # It was dropped on both: the new answer is the only one from now on.
    texts = {
        answer.text for _ in range(12) for answer in asyncio.run(_repeat(server.origin, prompt, 2))
    }
    assert upstream.calls(prompt) == 2
    assert len(texts) == 1


def _delete_entries(client: "Redis") -> None:
    names = client.keys("recollect:e:*")
    assert names
    assert client.delete(*names) == len(names)
