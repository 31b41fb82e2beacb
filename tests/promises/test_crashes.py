"""Promise 12 and dying processes: no acknowledged entry is lost, no stream is cut by us."""

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest

from tests.support import sse
from tests.support.fake_upstream import FakeUpstream, Play
from tests.support.http_client import Connection, exchange, post_bytes
from tests.support.loop_thread import Gate
from tests.support.processes import state, wait_until
from tests.support.recollect_server import (
    CHAT,
    RecollectServer,
    StartRecollect,
    chat_body,
    unique,
)
from tests.support.redis_server import RedisServer

ACKNOWLEDGED_S = 1.5
"""Answers older than this outlive any crash (the append-only file is synced every second)."""

TWO = {"server": {"workers": 2}}


def hits(server: RecollectServer, prompts: list[str]) -> int:
    """Return how many prompts are answered from the cache alone."""
    only = {"Cache-Control": "only-if-cached"}
    return sum(server.chat(prompt, headers=only).status == 200 for prompt in prompts)


async def test_worker_killed_under_load(
    upstream: FakeUpstream, redis_server: RedisServer, start_recollect: StartRecollect
) -> None:
    """It is replaced; only its own connections break; all answers given before stay hits."""
    server = await asyncio.to_thread(start_recollect, upstream.url, redis_server.url, TWO)
    prompts = [unique("worker") for _ in range(100)]
    for prompt in prompts:
        await asyncio.to_thread(server.chat, prompt)
    await asyncio.sleep(ACKNOWLEDGED_S)
    victim, survivor = server.worker_pids()
    limit = asyncio.Semaphore(8)
    broken = 0
    asked = 0

    async def ask(prompt: str) -> None:
        nonlocal asked, broken
        async with limit:
            asked += 1
            if asked == 100:
                os.kill(victim, signal.SIGKILL)
            try:
                answer = await exchange(
                    server.origin, post_bytes(server.origin, CHAT, chat_body(prompt)), 10
                )
                assert answer.status == 200
                broken += not answer.is_complete
            except (ConnectionError, asyncio.IncompleteReadError):
                broken += 1

    await asyncio.gather(*(ask(prompt) for prompt in prompts * 4))

    assert broken <= 40, "more than what the killed worker could hold"
    workers_back = lambda: len(server.worker_pids()) == 2  # noqa: E731
    assert await asyncio.to_thread(wait_until, workers_back, 10)
    assert survivor in server.worker_pids()
    assert await asyncio.to_thread(hits, server, prompts) == 100


def test_everything_killed_at_once_loses_no_acknowledged_answer(
    upstream: FakeUpstream, start_recollect: StartRecollect, tmp_path: Path
) -> None:
    """SIGKILL of supervisor, workers and private Redis: 100 of 100 are still hits."""
    folder = tmp_path / "d"
    server = start_recollect(upstream.url, settings=TWO, data_folder=folder)
    prompts = [unique("killed") for _ in range(100)]
    for prompt in prompts:
        server.chat(prompt)
    time.sleep(ACKNOWLEDGED_S)

    server.kill()
    again = start_recollect(upstream.url, settings=TWO, data_folder=folder)

    assert hits(again, prompts) == 100
    assert {upstream.calls(prompt) for prompt in prompts} == {1}


def test_supervisor_killed_leaves_no_process(
    upstream: FakeUpstream, start_recollect: StartRecollect, tmp_path: Path
) -> None:
    """Workers and private Redis end with it, and a new one starts on the same folder."""
    folder = tmp_path / "d"
    server = start_recollect(upstream.url, settings=TWO, data_folder=folder)
    prompt = unique("orphans")
    server.chat(prompt)

    os.kill(server.pid, signal.SIGKILL)
    server.wait()

    assert wait_until(lambda: not server.pids(), 10), server.pids()
    again = start_recollect(upstream.url, settings=TWO, data_folder=folder)
    assert again.chat(prompt).status == 200


def test_private_redis_killed_is_started_again(
    upstream: FakeUpstream, start_recollect: StartRecollect
) -> None:
    """No request fails meanwhile, and caching comes back."""
    server = start_recollect(upstream.url)
    prompt = unique("private")
    server.chat(prompt)
    (redis_pid,) = (
        pid for pid in server.pids() if b"redis-server" in Path(f"/proc/{pid}/cmdline").read_bytes()
    )

    os.kill(redis_pid, signal.SIGKILL)

    for _ in range(10):
        assert server.chat(unique("meanwhile")).status == 200
    assert wait_until(lambda: not state(redis_pid), 5)
    assert wait_until(lambda: b"degraded" not in server.get("/readyz").body, 30)
    assert server.chat(prompt).status == 200


@pytest.mark.parametrize("workers", [1, 2])
async def test_sigterm_lets_running_answers_finish(
    workers: int, upstream: FakeUpstream, start_recollect: StartRecollect
) -> None:
    """What has begun ends whole, streamed or not; the exit status is 0."""
    settings = {"server": {"workers": workers}}
    server = await asyncio.to_thread(start_recollect, upstream.url, settings=settings)
    prompt, plain = unique("drained stream"), unique("drained document")
    gate = Gate()
    upstream.on(prompt, Play(mangle=lambda made: [*made[:4], gate, *made[4:]]))
    upstream.on(plain, Play(gate=gate))
    stream = await Connection.open(server.origin)
    document = await Connection.open(server.origin)
    await stream.send(post_bytes(server.origin, CHAT, chat_body(prompt, stream=True)))
    await document.send(post_bytes(server.origin, CHAT, chat_body(plain)))
    head = await stream.read_head()
    earlier = await stream.read_until(b"R\xc3\xa9p")
    await asyncio.to_thread(upstream.wait_calls, plain)

    server.terminate()

    await asyncio.to_thread(server.wait_for_log, "told to end")
    async with asyncio.timeout(10):
        gate.open()
        rest = await stream.read_until(b"[DONE]")
        answer = await document.read_body(await document.read_head())
    assert head.status == 200
    assert earlier
    assert rest
    assert answer.status == 200
    assert answer.is_complete
    stream.abort()
    document.abort()
    assert await asyncio.to_thread(server.wait) == 0


async def test_new_connections_are_refused_while_answers_finish(
    upstream: FakeUpstream, start_recollect: StartRecollect
) -> None:
    """Whoever balances the load can then go elsewhere at once, instead of waiting for nothing."""
    server = await asyncio.to_thread(start_recollect, upstream.url)
    prompt = unique("draining")
    gate = Gate()
    upstream.on(prompt, Play(gate=gate))
    running = await Connection.open(server.origin)
    await running.send(post_bytes(server.origin, CHAT, chat_body(prompt)))
    await asyncio.to_thread(upstream.wait_calls, prompt)

    server.terminate()

    async def is_refused() -> None:
        while True:
            try:
                (await Connection.open(server.origin)).abort()
            except OSError:
                return
            await asyncio.sleep(0.05)

    async with asyncio.timeout(3):
        await is_refused()
    gate.open()
    answer = await running.read_body(await running.read_head())
    running.abort()
    assert answer.is_complete


async def test_sighup_replaces_workers_without_a_failed_request(
    upstream: FakeUpstream, start_recollect: StartRecollect
) -> None:
    """New settings hold afterwards; requests go on being answered, streams end whole."""
    server = await asyncio.to_thread(start_recollect, upstream.url, settings=TWO)
    before = server.worker_pids()
    prompt = unique("reload")
    gate = Gate()
    upstream.on(prompt, Play(mangle=lambda made: [*made[:4], gate, *made[4:]]))
    stream = await Connection.open(server.origin)
    await stream.send(post_bytes(server.origin, CHAT, chat_body(prompt, stream=True)))
    head = await stream.read_head()
    server.settings_file.write_text(
        server.settings_file.read_text() + "[limits]\nbody_bytes = 2000\n"
    )

    server.reload()

    large = post_bytes(server.origin, CHAT, chat_body(unique("large") + "x" * 3000))
    small = post_bytes(server.origin, CHAT, chat_body(unique("small")))
    async with asyncio.timeout(30):
        while (await exchange(server.origin, large)).status != 413 or (
            set(before) & set(server.worker_pids())
        ):
            assert (await exchange(server.origin, small)).status == 200
            gate.open()
    answer = await stream.read_body(head)
    stream.abort()
    assert answer.is_complete
    assert sse.is_terminated(answer.body)


def test_end_leaves_no_process_behind(
    upstream: FakeUpstream, start_recollect: StartRecollect
) -> None:
    """After SIGTERM neither worker nor private Redis lives on."""
    server = start_recollect(upstream.url, settings=TWO)
    assert len(server.worker_pids()) == 2
    assert len(server.pids()) >= 4

    server.terminate()

    assert server.wait() == 0
    assert wait_until(lambda: not server.pids(), 5)
