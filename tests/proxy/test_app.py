"""The parts of a worker put together: its life, and what the settings make of it."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from config.settings import Settings
from embeddings.client import EmbeddingsUnavailable
from embeddings.wire import LookUp
from proxy.app import Worker, build
from proxy.lookup.semantic_tier import NoSemanticTier
from tests.proxy.fakes import Call, chat, scope_of
from tests.support.fake_upstream import FakeUpstream
from tests.support.recollect_server import unique
from tests.support.redis_server import RedisServer, free_port

CHAT = "/v1/chat/completions"


def nowhere(scheme: str) -> str:
    """Return a URL where nobody listens."""
    return f"{scheme}://127.0.0.1:{free_port()}"


def built(upstream_url: str, redis_url: str, **sections: Mapping[str, object]) -> Worker:
    """Return a worker that is not started."""
    upstream = {"base_url": upstream_url, **sections.pop("upstream", {})}
    settings = Settings.model_validate({"upstream": upstream, **sections})
    return build(settings, redis_url, b"x" * 32, None)


class Lifespan:
    """The server's side of ASGI's lifespan protocol."""

    def __init__(self, app: Worker) -> None:
        self._to_app: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._from_app: asyncio.Queue[Any] = asyncio.Queue()
        self.task = asyncio.ensure_future(
            app({"type": "lifespan"}, self._to_app.get, self._from_app.put)
        )

    async def tell(self, kind: str) -> str:
        """Send a message and return the type of the answer to it."""
        await self._to_app.put({"type": kind})
        async with asyncio.timeout(10):
            answer: str = (await self._from_app.get())["type"]
        return answer


@asynccontextmanager
async def serving(app: Worker) -> AsyncIterator[Worker]:
    """Keep a worker started, as uvicorn does."""
    lifespan = Lifespan(app)
    assert await lifespan.tell("lifespan.startup") == "lifespan.startup.complete"
    try:
        yield app
    finally:
        assert await lifespan.tell("lifespan.shutdown") == "lifespan.shutdown.complete"
        await lifespan.task


async def ask(
    app: Worker, prompt: str, headers: Iterable[tuple[bytes, bytes]] = (), **fields: object
) -> Call:
    """Ask a chat completion."""
    call = Call()
    call.start(app, scope_of("POST", CHAT, headers=headers), [chat(prompt, **fields)])
    return await call.done()


async def teach(app: Worker, prompt: str, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
    """Ask until the fast path answers; the first repetition may still find it in Redis."""
    headers = list(headers)
    for _ in range(10):
        await ask(app, prompt, headers)
        if app.fast_path.hit(CHAT.encode(), dict(headers), chat(prompt)) is not None:
            return
    raise AssertionError("not learnt")


def learnt_bytes(app: Worker) -> int:
    """Return what the fast path has learnt."""
    return app.fast_path.held_bytes


async def test_worker_starts_though_redis_and_upstream_are_away() -> None:
    """Design §9: neither holds it up, and what comes is answered."""
    async with serving(built(nowhere("http"), nowhere("redis"))) as app:
        assert not app.link.is_up

        call = await ask(app, "x")

        assert call.status == 502
        assert call.error_code


async def test_worker_that_was_never_started_can_be_stopped() -> None:
    """A server that fails as it starts says only that it ends."""
    lifespan = Lifespan(built(nowhere("http"), nowhere("redis")))

    assert await lifespan.tell("lifespan.shutdown") == "lifespan.shutdown.complete"

    await lifespan.task


async def test_other_protocols_than_http_are_not_answered() -> None:
    """No WebSocket is served, nor is one half opened."""
    app = built(nowhere("http"), nowhere("redis"))

    async def nothing(*_: object) -> Any:
        raise AssertionError("used")

    await app({"type": "websocket", "path": CHAT}, nothing, nothing)


async def test_answers_are_stored_before_the_worker_ends(
    upstream: FakeUpstream, redis_server: RedisServer
) -> None:
    """Promise 12: what a client has got, the next worker has."""
    prompt = unique("stored")
    for _ in range(2):
        async with serving(built(upstream.url, redis_server.url)) as app:
            assert (await ask(app, prompt)).status == 200

    assert upstream.calls(prompt) == 1


async def test_hits_are_learnt(upstream: FakeUpstream, redis_server: RedisServer) -> None:
    """The handler and the protocol share one fast path."""
    prompt = unique("learnt")
    async with serving(built(upstream.url, redis_server.url)) as app:
        assert learnt_bytes(app) == 0

        await teach(app, prompt)

        assert learnt_bytes(app) > len(chat(prompt))


@pytest.mark.parametrize(
    "section", [{"log": {"requests": True}}, {"cache": {"replay_interval_ms": 1.0}}]
)
async def test_hits_are_not_learnt_where_the_long_way_does_more(
    section: dict[str, Mapping[str, object]], upstream: FakeUpstream, redis_server: RedisServer
) -> None:
    """A line for each request; a pause between the chunks."""
    prompt = unique("long")
    async with serving(built(upstream.url, redis_server.url, **section)) as app:
        given = [await ask(app, prompt) for _ in range(6)]

        assert "; hit;" in given[-1].cache_status
        assert learnt_bytes(app) == 0


async def test_configured_key_headers_count_on_both_ways(
    upstream: FakeUpstream, redis_server: RedisServer
) -> None:
    """`cache.key_headers`: in the exact key, and among the bytes that are known."""
    prompt = unique("key-header")
    cache: dict[str, object] = {"key_headers": ["X-Lora"]}
    async with serving(built(upstream.url, redis_server.url, cache=cache)) as app:
        await teach(app, prompt, [(b"x-lora", b"one")])
        assert app.fast_path.hit(CHAT.encode(), {b"x-lora": b"two"}, chat(prompt)) is None

        await ask(app, prompt, [(b"x-lora", b"two")])

    assert upstream.calls(prompt) == 2


async def test_change_by_another_reaches_memory(
    upstream: FakeUpstream, own_redis: RedisServer
) -> None:
    """Issue §3: within 1 s; also beside a name under our prefix that is none of ours."""
    prompt = unique("invalidated")
    async with serving(built(upstream.url, own_redis.url)) as app:
        await teach(app, prompt)
        with own_redis.client() as client:
            (name,) = client.keys("recollect:e:*")
            raw = client.get(name)
            pipeline = client.pipeline()
            pipeline.mset({"recollect:e:foreign": "x", "recollect:e:\xff": "x"})
            pipeline.set(name, raw)
            pipeline.delete(name)
            pipeline.execute()
        async with asyncio.timeout(1):
            while app.fast_path.hit(CHAT.encode(), {}, chat(prompt)) is not None:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

        await ask(app, prompt)

    assert upstream.calls(prompt) == 2


async def test_configured_credential_goes_upstream(
    upstream: FakeUpstream, redis_server: RedisServer
) -> None:
    """`upstream.api_key` replaces the client's own; who asks still counts."""
    section = {"upstream": {"api_key": "sk-upstream"}}
    prompt = unique("credential")
    async with serving(built(upstream.url, redis_server.url, **section)) as app:
        for key in (b"Bearer one", b"Bearer two"):
            await ask(app, prompt, [(b"authorization", key)])

    given = [request.all("authorization") for request in upstream.seen(prompt)]
    assert given == [["Bearer sk-upstream"]] * 2


async def test_without_an_embedding_process_everything_is_a_miss_or_an_exact_hit(
    upstream: FakeUpstream, redis_server: RedisServer, tmp_path: Path
) -> None:
    """The client's faults stay in the worker; it is closed with the rest."""
    semantic = {"mode": "on", "address": f"unix://{tmp_path}/nobody.sock"}
    worker = built(upstream.url, redis_server.url, semantic=semantic)
    prompt = unique("how many people live in town")
    async with serving(worker) as app:
        assert app.embeddings is not None
        assert "fwd=miss" in (await ask(app, prompt)).cache_status
        assert "detail=exact" in (await ask(app, prompt)).cache_status

    assert worker.embeddings is not None
    with pytest.raises(EmbeddingsUnavailable):
        await worker.embeddings.look_up(LookUp(b"p" * 32, prompt, 1))


async def test_settings_reach_the_semantic_tier(upstream: FakeUpstream) -> None:
    """Threshold, deadline and token; none of it where the tier is off."""
    semantic = {"address": "http://127.0.0.1:8200", "min_score": 0.9, "deadline_ms": 70}

    on = built(upstream.url, nowhere("redis"), semantic={**semantic, "mode": "on", "token": "t0k"})
    off = built(upstream.url, nowhere("redis"), semantic={**semantic, "mode": "off"})

    assert on.embeddings is not None
    assert on.embeddings._deadline_s == 0.07
    assert "authorization: Bearer t0k" in on.embeddings._look_up_head
    assert on.router._handler._semantic._min_score == 0.9
    assert off.embeddings is None
    assert type(off.router._handler._semantic) is NoSemanticTier
