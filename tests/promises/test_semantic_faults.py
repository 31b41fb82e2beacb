"""Faults of the semantic tier are misses: no request fails, none waits longer than the deadline.

What heals takes part again by itself; what is found on disk or in Redis is believed only if whole.
"""

import asyncio
import contextlib
import os
import resource
import signal
import statistics
import time
from collections.abc import Iterator
from functools import partial
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from redis import Redis
from sentence_transformers.sentence_transformer.modules import Pooling

from cachestore.entry import StoredResponse
from cachestore.redis_link import RedisLink
from cachestore.redis_store import RedisStore
from cachestore.vector_record import ANSWER_FIELD, META_FIELD, TEXT_FIELD, Meaning
from tests.embeddings.encoding import tiny_models
from tests.support.fake_upstream import FakeUpstream
from tests.support.http_client import exchange, post_bytes
from tests.support.processes import wait_until
from tests.support.recollect_server import (
    CHAT,
    RecollectServer,
    StartRecollect,
    chat_body,
    unique,
)
from tests.support.redis_fault import Fault, RedisFault
from tests.support.redis_server import RedisServer
from tests.support.semantic import (
    MODELS,
    PARAPHRASE,
    PARAPHRASES,
    QUESTION,
    becomes_meant,
    embedding_pids,
    is_meant,
    peek,
    settings_of,
    wait_listening,
)

BACK_S = 30.0
"""A process is started again within a second or two; a breaker tries again after 10 s at most."""
DEADLINE_S = 0.2
SLACK_S = 0.5
"""For a busy machine: a request of its own takes some milliseconds."""
LOOK_UPS = "recollect_semantic_lookups_total"
SNAPSHOTS = "recollect_index_snapshot_seconds_count"
NAMESPACE = "recollect"
INDEXED = "recollect_index_vectors"
WHERE = ("flat", "graph", "spilled")
MEBIBYTE = 1024**2
ACKNOWLEDGED_S = 1.5
"""Answers older than this outlive any crash (the append-only file is synced every second)."""


@pytest.fixture(scope="module")
def hosts(upstream: FakeUpstream) -> Iterator[tuple[RedisServer, RecollectServer, RecollectServer]]:
    """A Redis to be hurt, and two Recollects on it."""
    redis = RedisServer()
    servers: list[RecollectServer] = []
    try:
        servers += [RecollectServer(upstream.url, redis.url, settings_of()) for _ in range(2)]
        here, there = map(wait_listening, servers)
        yield redis, here, there
    finally:
        for server in servers:
            server.close()
        redis.close()


def is_learnt(server: RecollectServer, also: RecollectServer | None = None) -> bool:
    """Return whether a new answer becomes findable in other words, on `also` as well."""
    model = unique("learnt")
    assert server.chat(QUESTION, model=model).status == 200
    body = chat_body(PARAPHRASE, model=model)
    return all(becomes_meant(each, body) for each in (server, also) if each is not None)


def is_well(server: RecollectServer) -> bool:
    """Return whether Redis is reached again before long."""
    return wait_until(lambda: b"degraded" not in server.get("/readyz").body, BACK_S)


def is_gone(server: RecollectServer, body: dict[str, object]) -> bool:
    """Return whether no worker answers, many asked."""
    return all(peek(server, body).status == 504 for _ in range(10))


def becomes_able(server: RecollectServer) -> bool:
    """Wait until new answers are found in other words again."""
    model = unique("able")
    words = iter(PARAPHRASES)

    def is_able() -> bool:
        # Not peeked: while the process is away, what is stored has to come by its vector too.
        answer = server.chat(next(words, PARAPHRASE), model=model)
        assert answer.status == 200
        return is_meant(answer)

    return wait_until(is_able, BACK_S, 0.6)


def test_a_killed_embedding_process_comes_back(
    upstream: FakeUpstream,
    hosts: tuple[RedisServer, RecollectServer, RecollectServer],
) -> None:
    """SIGKILL: requests go on, what was stored before and meanwhile is found afterwards."""
    _, server, other = hosts
    before, meanwhile = unique("before"), unique("meanwhile")
    server.chat(QUESTION, model=before)
    assert becomes_meant(server, chat_body(PARAPHRASE, model=before))
    (victim,) = embedding_pids(server)

    os.kill(victim, signal.SIGKILL)

    for _ in range(10):
        assert server.chat(unique("any"), model=meanwhile).status == 200
    assert server.chat(QUESTION, model=meanwhile).cache.stored
    for model in before, meanwhile:
        assert becomes_meant(server, chat_body(PARAPHRASE, model=model), timeout_s=BACK_S)
    assert becomes_able(server)
    assert embedding_pids(server) not in ([], [victim])
    # Stored without a vector while there was no process: the other host has found it, too.
    assert becomes_meant(other, chat_body(PARAPHRASES[0], model=meanwhile))


def test_a_log_that_is_gone_holds_nothing_up(
    hosts: tuple[RedisServer, RecollectServer, RecollectServer],
) -> None:
    """Trimmed to nothing, or deleted: what came before and what comes after is found everywhere."""
    redis, here, there = hosts
    with redis.client() as client:
        assert client.delete("recollect:log")
        assert is_learnt(here, there)
        assert client.xtrim("recollect:log", maxlen=0, approximate=False)
        assert is_learnt(there, here)


def test_a_message_that_was_trimmed_before_it_was_read_is_made_good(
    hosts: tuple[RedisServer, RecollectServer, RecollectServer],
) -> None:
    """The process stood still while the log was cut: it fills its index anew."""
    redis, here, there = hosts
    (slow,) = embedding_pids(there)
    model = unique("missed")
    rebuilds = there.metric("recollect_index_rebuild_seconds_count", cause="trimmed")
    os.kill(slow, signal.SIGSTOP)
    try:
        here.chat(QUESTION, model=model)
        assert becomes_meant(here, chat_body(PARAPHRASE, model=model))
        with redis.client() as client:
            assert client.xtrim("recollect:log", maxlen=0, approximate=False)
    finally:
        os.kill(slow, signal.SIGCONT)

    assert becomes_meant(there, chat_body(PARAPHRASE, model=model), timeout_s=BACK_S)
    assert there.metric("recollect_index_rebuild_seconds_count", cause="trimmed") > rebuilds


def test_redis_that_restarts_empty_leaves_nothing_to_be_found(
    upstream: FakeUpstream,
    hosts: tuple[RedisServer, RecollectServer, RecollectServer],
) -> None:
    """Vectors may still be in the index; the responses are gone. New ones are found again."""
    redis, here, there = hosts
    model = unique("emptied")
    stored = here.chat(QUESTION, model=model)
    assert becomes_meant(there, chat_body(PARAPHRASE, model=model))

    redis.kill()
    for _ in range(5):
        assert there.chat(unique("meanwhile"), model=model).status == 200
    redis.start()

    body = chat_body(PARAPHRASE, model=model)
    for server in here, there:
        assert is_well(server)
        # A worker that has not noticed yet still answers from memory, as it may without Redis.
        assert wait_until(partial(is_gone, server, body), BACK_S)
    fresh = there.chat(PARAPHRASE, model=model)
    assert not fresh.cache.hit
    assert fresh.text != stored.text
    assert becomes_able(here)
    assert is_learnt(here, there)
    assert is_learnt(there, here)


@pytest.mark.alone
def test_a_process_that_stands_still_costs_a_deadline_and_soon_nothing(
    upstream: FakeUpstream, redis_server: RedisServer, start_recollect: StartRecollect
) -> None:
    """SIGSTOP: each waits the deadline at most, after a few nobody does; exact hits never."""
    settings = settings_of(
        semantic={"deadline_ms": int(DEADLINE_S * 1000)}, redis={"namespace": "still"}
    )
    server = wait_listening(start_recollect(upstream.url, redis_server.url, settings))
    model = unique("still")
    assert becomes_able(server)
    server.chat(QUESTION, model=model)
    (pid,) = embedding_pids(server)
    os.kill(pid, signal.SIGSTOP)
    try:
        misses = [
            server.chat(f"{words} {unique('again')}", model=model) for words in PARAPHRASES[:40]
        ]
        hits = [server.chat(QUESTION, model=model) for _ in range(40)]
    finally:
        os.kill(pid, signal.SIGCONT)

    assert {answer.status for answer in [*misses, *hits]} == {200}
    assert max(answer.head_s for answer in misses) < DEADLINE_S + SLACK_S
    # Three per worker open its breaker; then one in half a second, a second, … tries.
    assert 6 <= sum(answer.head_s >= DEADLINE_S for answer in misses) <= 16
    assert statistics.median(answer.head_s for answer in misses[20:]) < DEADLINE_S / 4
    assert {answer.cache.detail for answer in hits} == {"exact"}
    assert statistics.median(answer.head_s for answer in hits) < DEADLINE_S / 4
    assert wait_until(lambda: server.metric(LOOK_UPS, outcome="open") > 0, 5)
    assert server.metric(LOOK_UPS, outcome="deadline") >= 6
    assert becomes_able(server)


def test_an_encoder_that_cannot_be_had_leaves_the_exact_tier(
    upstream: FakeUpstream, redis_server: RedisServer, start_recollect: StartRecollect
) -> None:
    """The log says why; requests go on and hit exactly."""
    settings = settings_of(semantic={"model": "/nowhere/model"}, redis={"namespace": "never"})
    server = start_recollect(upstream.url, redis_server.url, settings)

    server.wait_for_log("/nowhere/model", BACK_S)
    server.wait_for_log("the embedding process ended with exit code 1")
    model = unique("never")
    for words in QUESTION, PARAPHRASE:
        answer = server.chat(words, model=model)
        assert answer.status == 200
        assert not answer.cache.hit
        assert server.chat(words, model=model).cache.detail == "exact"


def test_redis_that_is_away_while_questions_are_looked_up(
    upstream: FakeUpstream, redis_fault: RedisFault, start_recollect: StartRecollect
) -> None:
    """Refused, mute or late: a match whose response cannot be fetched is a miss."""
    redis_fault.late_s = 1.0
    server = start_recollect(upstream.url, redis_fault.url, settings_of(cache={"l1_bytes": 0}))
    wait_listening(server)
    model = unique("away")
    server.chat(QUESTION, model=model)
    assert becomes_meant(server, chat_body(PARAPHRASE, model=model))
    words = iter(PARAPHRASES)

    for fault in Fault.REFUSE, Fault.BLACK_HOLE, Fault.LATE:
        redis_fault.set(fault)
        for _ in range(4):
            answer = server.chat(next(words), model=model)
            assert answer.status == 200
            assert not answer.cache.hit
        redis_fault.set(Fault.PASS)
        assert is_well(server)

    assert becomes_able(server)


def flip_a_byte(path: Path) -> None:
    """Change one byte in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


@pytest.mark.parametrize("hurt", ["nothing", "every file", "vectors", "another's"])
def test_an_index_on_disk_is_used_only_if_it_is_whole(
    hurt: str,
    upstream: FakeUpstream,
    redis_server: RedisServer,
    start_recollect: StartRecollect,
    tmp_path: Path,
) -> None:
    """Else it is filled anew from Redis: either way the same questions are found."""
    model = unique("snapshot")
    settings = settings_of(redis={"namespace": unique("disk").replace(" ", "-")}, workers=1)
    folder = tmp_path / "d"
    server = start_recollect(upstream.url, redis_server.url, settings, data_folder=folder)
    wait_listening(server)
    stored = server.chat(QUESTION, model=model)
    body = chat_body(PARAPHRASE, model=model)
    assert becomes_meant(server, body)
    server.close()
    (index,) = (folder / "index").iterdir()
    files = {path.suffix: path for path in index.iterdir()}
    assert files.keys() == {".json", ".flat"}
    match hurt:
        case "every file":
            for path in index.iterdir():
                flip_a_byte(path)
        case "vectors":
            flip_a_byte(files[".flat"])
        case "another's":
            index.rename(index.with_name("0" * 32))

    again = start_recollect(upstream.url, redis_server.url, settings, data_folder=folder)

    assert becomes_meant(wait_listening(again), body)
    assert peek(again, body).text == stored.text
    outcome = {"nothing": "loaded", "another's": ""}.get(hurt, "unusable")
    for each in "loaded", "unusable":
        expected = 1 if each == outcome else 0
        assert again.metric(SNAPSHOTS, outcome=each) == expected
    assert [path.name for path in (folder / "index").iterdir()] == [index.name]
    assert is_learnt(again)


def test_another_encoder_takes_over_what_is_stored(
    upstream: FakeUpstream,
    redis_server: RedisServer,
    start_recollect: StartRecollect,
    tmp_path: Path,
) -> None:
    """Its index is filled anew; the former one's vectors are never compared, and in the end go."""
    former = tmp_path / "former"
    word = tiny_models.transformer(tmp_path / "word")
    tiny_models.save(former, word, Pooling(word.get_embedding_dimension()))
    models = tmp_path / "models"
    models.mkdir()
    for export in MODELS.iterdir():
        (models / export.name).symlink_to(export)
    namespace = {"namespace": unique("encoder").replace(" ", "-")}
    folder = tmp_path / "d"
    # Few letters: each is a token to the former.
    asked, other = (chat_body(f"how {word} i reset my card?") for word in ("do", "can"))

    def start(**semantic: object) -> RecollectServer:
        settings = settings_of(
            semantic={"models_dir": str(models), **semantic}, redis=namespace, workers=1
        )
        return wait_listening(
            start_recollect(upstream.url, redis_server.url, settings, data_folder=folder)
        )

    server = start(model=str(former))
    stored = server.post(CHAT, asked)
    assert becomes_meant(server, other)
    server.close()
    (old,) = (folder / "index").iterdir()

    again = start()

    again.wait_for_log("the former answers until")
    again.wait_for_log("answers from now on", BACK_S)
    assert becomes_meant(again, other)
    assert peek(again, other).text == stored.text
    assert wait_until(lambda: not old.exists(), BACK_S)


async def test_a_host_that_dies_while_it_learns_loses_nothing_it_has_stored(
    upstream: FakeUpstream, own_redis: RedisServer, start_recollect: StartRecollect
) -> None:
    """An answer, its vector record and the log's message are written in one step or not at all."""
    here, there = [
        await asyncio.to_thread(start_recollect, upstream.url, own_redis.url, settings_of())
        for _ in range(2)
    ]
    for server in here, there:
        await asyncio.to_thread(wait_listening, server)
    models = [unique("flood") for _ in range(120)]
    limit = asyncio.Semaphore(32)
    answered = 0

    async def ask(model: str) -> None:
        nonlocal answered
        async with limit:
            raw = post_bytes(here.origin, CHAT, chat_body(QUESTION, model=model))
            try:
                await exchange(here.origin, raw)
            except (OSError, asyncio.IncompleteReadError):
                return
            answered += 1
            if answered == 60:
                for pid in here.pids():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)

    await asyncio.gather(*map(ask, models))

    def stored() -> list[str]:
        return [m for m in models if peek(there, chat_body(QUESTION, model=m)).status == 200]

    found = await asyncio.to_thread(stored)
    assert 40 < len(found) < 120
    for model in found:
        body = chat_body(PARAPHRASE, model=model)
        assert await asyncio.to_thread(becomes_meant, there, body)


def test_ten_thousand_additions_under_way_on_a_host_that_dies_are_found_by_all(
    upstream: FakeUpstream, own_redis: RedisServer, start_recollect: StartRecollect, tmp_path: Path
) -> None:
    """The log tells the other host, and the one that comes back on what its index had saved."""
    folders = [tmp_path / "here", tmp_path / "there"]
    here, there = [
        wait_listening(
            start_recollect(upstream.url, own_redis.url, settings_of(), data_folder=folder)
        )
        for folder in folders
    ]
    assert is_learnt(here, there)

    asyncio.run(store_vectors(own_redis, batches=10))
    here.kill()
    asyncio.run(store_vectors(own_redis, batches=10, first=10))
    again = start_recollect(upstream.url, own_redis.url, settings_of(), data_folder=folders[0])

    wait_listening(again)
    for server in there, again:
        assert wait_until(lambda server=server: held(server) == 10_001, 90.0, 0.5)  # type: ignore[misc]
    assert is_learnt(again, there)


async def store_vectors(redis: RedisServer, batches: int, first: int = 0) -> None:
    """Store answers and their vectors as a worker does, 500 a batch, all in one partition."""
    link = RedisLink(redis.url, deadline_s=10)
    await link.start(5)
    store = RedisStore(link, NAMESPACE, 1 << 20, 1 << 20)
    fingerprint, size = encoder_of(redis, NAMESPACE)
    chance = np.random.default_rng(first)
    for batch in range(first, first + batches):
        vectors = chance.standard_normal((500, size)).astype("<f4")
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        now = time.time()
        await asyncio.gather(
            *(
                store.put(
                    StoredResponse(
                        sha256(b"%d %d" % (batch, at)).digest(), now, 600.0, 0, b"", b""
                    ),
                    None,
                    Meaning(b"p" * 32, f"{batch} {at}", fingerprint, vector.tobytes()),
                )
                for at, vector in enumerate(vectors)
            )
        )
    await link.close()


def held(server: RecollectServer) -> float:
    """Return how many vectors its index holds."""
    return sum(server.metric(INDEXED, state=state) for state in WHERE)


def encoder_of(redis: RedisServer, namespace: str) -> tuple[str, int]:
    """Return the fingerprint and the dimension that a stored vector record speaks of."""
    with Redis.from_url(redis.url) as client:
        [record, *_] = client.scan_iter(f"{namespace}:v:*")
        fields = client.hgetall(record)
    known = (META_FIELD, TEXT_FIELD, ANSWER_FIELD)
    [(name, vector)] = [(n, v) for n, v in fields.items() if n not in known]
    return name.decode(), (len(vector) - 16) // 4


def test_an_embedding_process_out_of_memory_ends_and_comes_back(
    upstream: FakeUpstream, own_redis: RedisServer, start_recollect: StartRecollect
) -> None:
    """No request fails; an index that was being changed is not searched any more."""
    server = wait_listening(start_recollect(upstream.url, own_redis.url, settings_of()))
    assert is_learnt(server)
    model = unique("remembered")
    stored = server.chat(QUESTION, model=model)
    [pid] = embedding_pids(server)
    held_bytes = int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()
    resource.prlimit(pid, resource.RLIMIT_AS, (held_bytes + 4 * MEBIBYTE,) * 2)

    for batch in range(60):
        asyncio.run(store_vectors(own_redis, batches=1, first=batch))
        assert server.chat(QUESTION, model=model).text == stored.text
        assert server.chat(unique("new"), model=model).status == 200
        if embedding_pids(server) != [pid]:
            break
    server.wait_for_log("the embedding process ended with exit code 70", BACK_S)

    assert becomes_able(server)
    body = chat_body(PARAPHRASE, model=model)
    assert wait_until(lambda: peek(server, body).status == 200, BACK_S)
    assert peek(server, body).text == stored.text
    assert wait_until(lambda: held(server) >= 500 * batch, BACK_S)


def test_everything_killed_at_once_is_found_again_in_other_words(
    upstream: FakeUpstream, start_recollect: StartRecollect, tmp_path: Path
) -> None:
    """SIGKILL of supervisor, workers, embedding process and private Redis."""
    folder = tmp_path / "d"
    server = wait_listening(start_recollect(upstream.url, "", settings_of(), data_folder=folder))
    models = [unique("killed") for _ in range(20)]
    for model in models:
        server.chat(QUESTION, model=model)
    time.sleep(ACKNOWLEDGED_S)

    server.kill()
    again = start_recollect(upstream.url, "", settings_of(), data_folder=folder)

    wait_listening(again)
    for model in models:
        assert becomes_meant(again, chat_body(PARAPHRASE, model=model))
        assert upstream.calls(model) == 1


def test_supervisor_killed_leaves_no_embedding_process(
    upstream: FakeUpstream, redis_server: RedisServer, start_recollect: StartRecollect
) -> None:
    """It ends with the lifeline, as workers do."""
    server = wait_listening(start_recollect(upstream.url, redis_server.url, settings_of()))
    assert embedding_pids(server)

    os.kill(server.pid, signal.SIGKILL)
    server.wait()

    assert wait_until(lambda: not server.pids(), 10), server.pids()


@pytest.mark.parametrize("state", ["starting", "stopped"])
def test_end_leaves_no_embedding_process(
    state: str, upstream: FakeUpstream, redis_server: RedisServer, start_recollect: StartRecollect
) -> None:
    """SIGTERM ends it whatever it does: also one that has just begun, or stands still."""
    server = start_recollect(upstream.url, redis_server.url, settings_of(workers=1))
    if state == "stopped":
        wait_listening(server)
        (pid,) = embedding_pids(server)
        os.kill(pid, signal.SIGSTOP)

    server.terminate()

    assert server.wait() == 0
    assert wait_until(lambda: not server.pids(), 5)
