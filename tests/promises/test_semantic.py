"""A question asked in other words is answered from the cache, by the rules that hold there.

Real model, real Redis, two workers. That only such questions are is in test_semantic_isolation.py.
"""

import asyncio
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from tests.support.fake_upstream import FakeUpstream
from tests.support.http_client import Answer, comparable, exchange, post_bytes
from tests.support.processes import wait_until
from tests.support.recollect_server import (
    CHAT,
    COMPLETIONS,
    RESPONSES,
    RecollectServer,
    StartRecollect,
    chat_body,
    unique,
)
from tests.support.redis_server import RedisServer
from tests.support.semantic import (
    FINDABLE_S,
    ONLY_IF_CACHED,
    PARAPHRASE,
    PARAPHRASES,
    QUESTION,
    SECOND,
    SECOND_PARAPHRASE,
    THIRD,
    THIRD_PARAPHRASE,
    becomes_meant,
    is_meant,
    peek,
    settings_of,
    wait_listening,
)

NAMESPACE = "meant"
BRIEF_S = 3.0
LEARNT_ELSEWHERE_S = 1.0
ROUTES = [
    {"models": ["chain-*"], "history": "chain"},
    {"models": ["brief-*"], "ttl_s": BRIEF_S},
    {"models": ["shadow-*"], "semantic": "shadow"},
    {"models": ["off-*"], "semantic": "off"},
]
SETTINGS = settings_of(redis={"namespace": NAMESPACE}, cache={"jitter": 0.0}, routes=ROUTES)


@pytest.fixture(scope="module")
def server(upstream: FakeUpstream, redis_server: RedisServer) -> Iterator[RecollectServer]:
    """One Recollect whose semantic tier is on."""
    server = RecollectServer(upstream.url, redis_server.url, SETTINGS)
    try:
        yield wait_listening(server)
    finally:
        server.close()


@pytest.fixture(scope="module")
def other_host(upstream: FakeUpstream, redis_server: RedisServer) -> Iterator[RecollectServer]:
    """Another one on the same Redis, with an embedding process of its own."""
    server = RecollectServer(upstream.url, redis_server.url, SETTINGS)
    try:
        yield wait_listening(server)
    finally:
        server.close()


def learn(server: RecollectServer, model: str, prompt: str = QUESTION, **fields: Any) -> Answer:
    """Have the answer to `prompt` stored, and return when it can be found in other words."""
    answer = server.chat(prompt, model=model, **fields)
    assert answer.cache.stored
    other = {QUESTION: PARAPHRASE, SECOND: SECOND_PARAPHRASE, THIRD: THIRD_PARAPHRASE}[prompt]
    assert becomes_meant(server, chat_body(other, model=model, **fields))
    return answer


def conversation(*turns: str) -> list[dict[str, str]]:
    """Return messages, the user's and the assistant's in turn."""
    return [
        {"role": ("user", "assistant")[number % 2], "content": turn}
        for number, turn in enumerate(turns)
    ]


def test_other_words_get_the_stored_response(
    upstream: FakeUpstream, server: RecollectServer
) -> None:
    """Replayed as any hit, with how near the question was and the response's own age."""
    model = unique("near")
    stored = learn(server, model)
    time.sleep(1.1)  # ages are told in whole seconds

    meant = server.chat(PARAPHRASE, model=model)

    assert meant.status == 200
    assert meant.cache.hit
    assert meant.cache.detail == "semantic"
    assert meant.cache.score is not None
    assert 0.95 <= meant.cache.score < 1
    assert int(meant.header("age")) >= 1
    assert meant.cache.ttl_s is not None
    assert meant.cache.ttl_s < 3600
    assert comparable(meant) == comparable(stored)
    assert upstream.calls(model) == 1


def test_the_same_other_words_hit_exactly_next_time(
    upstream: FakeUpstream, server: RecollectServer
) -> None:
    """Through an alias, on every worker, streamed or not; nothing is looked up by meaning again."""
    model = unique("alias")
    stored = learn(server, model)
    assert is_meant(server.chat(PARAPHRASE, model=model))

    again = [server.chat(PARAPHRASE, model=model, stream=n % 2 == 0) for n in range(12)]

    assert {answer.cache.detail for answer in again} == {"exact"}
    assert {answer.is_stream for answer in again} == {True, False}
    assert {answer.text for answer in again} == {stored.text}
    assert upstream.calls(model) == 1


def test_a_stream_is_answered_in_other_words_and_answers_other_words(
    upstream: FakeUpstream, server: RecollectServer
) -> None:
    """What was stored of a stream or of a document serves both."""
    model = unique("streams")
    stored = server.chat(QUESTION, model=model, stream=True)
    assert becomes_meant(server, chat_body(PARAPHRASE, model=model))

    streamed = server.chat(PARAPHRASE, model=model, stream=True)
    plain = server.chat(PARAPHRASES[0], model=model)

    for answer in streamed, plain:
        assert is_meant(answer)
        assert answer.text == stored.text
    assert streamed.is_stream
    assert not plain.is_stream
    assert upstream.calls(model) == 1


def test_an_alias_dies_with_its_entry(
    upstream: FakeUpstream, redis_server: RedisServer, server: RecollectServer
) -> None:
    """Removed from Redis by anybody, it is a miss in all its words; its vector record goes too."""
    model = unique("removed")
    with redis_server.client() as client:
        before = set(client.scan_iter(f"{NAMESPACE}:e:*"))
        stored = learn(server, model)
        (entry,) = set(client.scan_iter(f"{NAMESPACE}:e:*")) - before
        assert is_meant(server.chat(PARAPHRASE, model=model))
        assert {server.chat(PARAPHRASE, model=model).cache.detail for _ in range(8)} == {"exact"}

        assert client.delete(entry) == 1

        bodies = [chat_body(words, model=model) for words in (PARAPHRASE, PARAPHRASES[0], QUESTION)]
        is_gone = lambda: all(peek(server, b).status == 504 for b in bodies for _ in range(4))  # noqa: E731
        assert wait_until(is_gone, 2)
        record = entry.replace(b":e:", b":v:")
        assert wait_until(lambda: not client.exists(record), FINDABLE_S)
    fresh = server.chat(PARAPHRASE, model=model)
    assert not fresh.cache.hit
    assert fresh.text != stored.text
    assert upstream.calls(model) == 2


def test_an_expired_answer_is_never_served(upstream: FakeUpstream, server: RecollectServer) -> None:
    """Neither in other words nor through an alias."""
    model = unique("brief-")
    stored = learn(server, model)
    assert is_meant(server.chat(PARAPHRASE, model=model))

    time.sleep(BRIEF_S)

    for words in PARAPHRASE, PARAPHRASES[0]:
        assert peek(server, chat_body(words, model=model)).status == 504
    fresh = server.chat(PARAPHRASES[1], model=model)
    assert not fresh.cache.hit
    assert fresh.text != stored.text


@pytest.mark.parametrize("directive", ["no-store", "no-cache", "max-age=0"])
def test_a_directive_that_refuses_a_hit_refuses_other_words_too(
    directive: str, upstream: FakeUpstream, server: RecollectServer
) -> None:
    """RFC 9111 §5.2.1, for answers to other words as for the same ones."""
    model = unique("refuses")
    learn(server, model)

    answer = server.chat(PARAPHRASE, model=model, headers={"Cache-Control": directive})

    assert answer.status == 200
    assert not answer.cache.hit
    assert upstream.calls(model) == 2


def test_an_answer_that_was_not_to_be_stored_is_not_found_in_other_words(
    upstream: FakeUpstream, server: RecollectServer
) -> None:
    """`no-store` leaves no trace, so neither a vector."""
    model = unique("unstored")
    server.chat(QUESTION, model=model, headers={"Cache-Control": "no-store"})
    learn(server, model, SECOND)  # whatever was told before has arrived by now

    assert peek(server, chat_body(PARAPHRASE, model=model)).status == 504


def test_only_if_cached_is_content_with_other_words(
    upstream: FakeUpstream, server: RecollectServer
) -> None:
    """A hit where there is one, else 504 (RFC 9111 §5.2.1.7); never a call upstream."""
    model = unique("only")
    learn(server, model)

    assert is_meant(server.chat(PARAPHRASE, model=model, headers=ONLY_IF_CACHED))
    assert server.chat(SECOND, model=model, headers=ONLY_IF_CACHED).status == 504
    assert upstream.calls(model) == 1


def test_an_age_that_is_too_great_is_no_hit(
    upstream: FakeUpstream, server: RecollectServer
) -> None:
    """`max-age` is about the stored response, whatever the words."""
    model = unique("aged")
    learn(server, model)
    time.sleep(1.1)

    only_young = {"Cache-Control": "only-if-cached, max-age=1"}
    assert server.chat(PARAPHRASE, model=model, headers=only_young).status == 504
    young = server.chat(PARAPHRASE, model=model, headers={"Cache-Control": "max-age=1"})
    old = server.chat(PARAPHRASES[0], model=model, headers={"Cache-Control": "max-age=600"})

    assert not young.cache.hit
    assert old.cache.hit


@pytest.mark.parametrize("stream", [False, True])
def test_prompts_of_completions_are_compared_too(
    stream: bool, upstream: FakeUpstream, server: RecollectServer
) -> None:
    """/v1/completions."""
    model = unique("completions")
    stored = server.post(COMPLETIONS, {"model": model, "prompt": QUESTION})
    other = {"model": model, "prompt": PARAPHRASE, "stream": stream}
    assert becomes_meant(server, other, path=COMPLETIONS)

    meant = server.post(COMPLETIONS, other)

    assert is_meant(meant)
    assert meant.text == stored.text
    assert server.post(COMPLETIONS, other).cache.detail == "exact"
    assert upstream.calls(model) == 1


@pytest.mark.parametrize("is_short", [False, True], ids=["turns", "short form"])
def test_inputs_of_responses_are_compared_too(
    is_short: bool, upstream: FakeUpstream, server: RecollectServer
) -> None:
    """/v1/responses, in both forms of one turn."""
    model = unique("responses")

    def body(words: str) -> dict[str, Any]:
        turns = words if is_short else [{"role": "user", "content": words}]
        return {"model": model, "input": turns, "store": False}

    assert server.post(RESPONSES, body(QUESTION)).cache.stored
    assert becomes_meant(server, body(PARAPHRASE), path=RESPONSES)

    assert is_meant(server.post(RESPONSES, body(PARAPHRASE)))
    assert server.post(RESPONSES, body(PARAPHRASE)).cache.detail == "exact"
    assert upstream.calls(model) == 1


def test_shadow_counts_and_serves_nothing(upstream: FakeUpstream, server: RecollectServer) -> None:
    """What would have been a hit is asked for upstream, and counted."""
    model = unique("shadow-")
    looked = "recollect_semantic_lookups_total"
    server.chat(QUESTION, model=model)
    before = server.metric(looked, outcome="shadow")
    # Not findable from outside: so new words until one was found.
    words = iter(PARAPHRASES)

    def is_counted() -> bool:
        answer = server.chat(next(words), model=model)
        assert answer.status == 200
        assert not answer.cache.hit
        return server.metric(looked, outcome="shadow") > before

    assert wait_until(is_counted, FINDABLE_S)


def test_a_route_that_is_off_leaves_nothing_to_be_found(
    upstream: FakeUpstream, redis_server: RedisServer, server: RecollectServer
) -> None:
    """No vector record in Redis."""
    model = unique("off-")
    with redis_server.client() as client:
        learn(server, unique("before"))
        before = set(client.scan_iter(f"{NAMESPACE}:v:*"))

        for words in QUESTION, PARAPHRASE:
            assert server.chat(words, model=model).cache.stored

        learn(server, unique("after"))
        assert len(set(client.scan_iter(f"{NAMESPACE}:v:*")) - before) == 1


@pytest.mark.parametrize("mode", ["off", "shadow"])
def test_an_alias_is_followed_only_where_the_tier_is_on(
    mode: str,
    upstream: FakeUpstream,
    redis_server: RedisServer,
    server: RecollectServer,
    start_recollect: StartRecollect,
) -> None:
    """Whoever switches it off wants no more answers to other words, also not yesterday's."""
    model = unique("followed")
    learn(server, model)
    assert is_meant(server.chat(PARAPHRASE, model=model))
    routes = [{"models": ["followed*"], "semantic": mode}]
    settings = settings_of(redis={"namespace": NAMESPACE}, routes=routes)
    switched = start_recollect(upstream.url, redis_server.url, settings)

    for _ in range(4):
        assert peek(switched, chat_body(QUESTION, model=model)).status == 200
        assert peek(switched, chat_body(PARAPHRASE, model=model)).status == 504
    assert not switched.chat(PARAPHRASE, model=model).cache.hit
    assert upstream.calls(model) == 2


def learn_conversation(server: RecollectServer, model: str) -> list[str]:
    """Have three turns stored, and return their answers."""
    said: list[str] = []
    turns: list[str] = []
    for question in QUESTION, SECOND, THIRD:
        turns.append(question)
        answer = server.post(CHAT, {"model": model, "messages": conversation(*turns)})
        assert answer.cache.stored
        said.append(answer.text)
        turns.append(answer.text)
    return said


def paraphrased(said: list[str], *, first: str = PARAPHRASE) -> list[list[dict[str, str]]]:
    """Return the requests of the same conversation in other words."""
    return [
        conversation(first),
        conversation(first, said[0], SECOND_PARAPHRASE),
        conversation(first, said[0], SECOND_PARAPHRASE, said[1], THIRD_PARAPHRASE),
    ]


def names_with(text: str, client: Redis) -> list[bytes]:
    """Return the names in Redis under which `text` stands."""
    return [name for name in client.scan_iter() if text.encode() in (client.dump(name) or b"")]


def test_what_was_asked_leaves_redis_by_the_command_on_the_page(
    upstream: FakeUpstream, own_redis: RedisServer, start_recollect: StartRecollect
) -> None:
    """docs/semantic.md: for who switches the tier off and wants no question kept."""
    server = wait_listening(start_recollect(upstream.url, own_redis.url, settings_of()))
    model = unique("erased")
    server.chat(QUESTION, model=model)
    assert becomes_meant(server, chat_body(PARAPHRASE, model=model))
    page = (Path(__file__).parents[2] / "docs" / "semantic.md").read_text()
    (pattern,) = re.findall(r"redis-cli --scan --pattern '(.*)' \| xargs", page)

    with own_redis.client() as client:
        before = names_with(QUESTION, client)
        client.unlink(*client.scan_iter(pattern))
        after = names_with(QUESTION, client)

    assert before
    assert not after


def test_a_whole_conversation_is_answered_in_other_words(
    upstream: FakeUpstream, server: RecollectServer
) -> None:
    """history = chain: turns answered by the same stored responses count as equal."""
    model = unique("chain-")
    said = learn_conversation(server, model)

    for messages, text in zip(paraphrased(said), said, strict=True):
        body = {"model": model, "messages": messages}
        assert becomes_meant(server, body)
        assert is_meant(answer := server.post(CHAT, body))
        assert answer.text == text
    assert upstream.calls(model) == 3


def test_an_answer_that_was_altered_breaks_the_chain(
    upstream: FakeUpstream, server: RecollectServer
) -> None:
    """What the client says was answered is compared with what was."""
    model = unique("chain-")
    said = learn_conversation(server, model)
    one, two, three = ({"model": model, "messages": m} for m in paraphrased(said))
    for body in one, two:
        assert becomes_meant(server, body)
        assert is_meant(server.post(CHAT, body))
    assert becomes_meant(server, three)

    for turn, altered in ((3, said[1] + " Really."), (3, said[0]), (1, said[0].upper())):
        messages = [*three["messages"]]
        messages[turn] = {"role": "assistant", "content": altered}
        assert peek(server, {**three, "messages": messages}).status == 504


def test_without_the_setting_earlier_turns_are_compared_to_the_letter(
    upstream: FakeUpstream, server: RecollectServer
) -> None:
    """history = exact: other words now, the same words before."""
    model = unique("exact")
    said = learn_conversation(server, model)
    assert is_meant(server.post(CHAT, {"model": model, "messages": paraphrased(said)[0]}))

    same_before = conversation(QUESTION, said[0], SECOND_PARAPHRASE)
    assert becomes_meant(server, {"model": model, "messages": same_before})
    for messages in paraphrased(said)[1:]:
        assert peek(server, {"model": model, "messages": messages}).status == 504


@pytest.mark.alone
def test_what_one_host_learns_the_other_serves_within_a_second(
    upstream: FakeUpstream, server: RecollectServer, other_host: RecollectServer
) -> None:
    """Two hosts, an embedding process each, one Redis."""
    for here, there in ((server, other_host), (other_host, server)) * 2:
        model = unique("hosts")
        stored = here.chat(QUESTION, model=model)
        body = chat_body(PARAPHRASE, model=model)

        assert becomes_meant(there, body, timeout_s=LEARNT_ELSEWHERE_S)

        assert there.chat(PARAPHRASE, model=model).text == stored.text
        assert {here.chat(PARAPHRASE, model=model).cache.detail for _ in range(4)} == {"exact"}
        assert upstream.calls(model) == 1


async def at_once(server: RecollectServer, bodies: list[dict[str, Any]]) -> list[Answer]:
    """Send all requests at the same time, each on a connection of its own."""
    raws = [post_bytes(server.origin, CHAT, body) for body in bodies]
    return list(await asyncio.gather(*(exchange(server.origin, raw) for raw in raws)))


async def test_a_herd_of_one_new_question_is_one_call(
    upstream: FakeUpstream, server: RecollectServer
) -> None:
    """200 equal requests over two workers: looked up and fetched once."""
    model = unique("herd")

    answers = await at_once(server, [chat_body(QUESTION, model=model)] * 200)

    assert {answer.status for answer in answers} == {200}
    assert len({answer.text for answer in answers}) == 1
    assert upstream.calls(model) == 1


async def test_a_herd_in_other_words_is_no_call(
    upstream: FakeUpstream, server: RecollectServer
) -> None:
    """One paraphrase 200 times, then 50 different ones, all at once: all from the store."""
    model = unique("near herd")
    stored = await asyncio.to_thread(learn, server, model)

    answers = await at_once(server, [chat_body(PARAPHRASES[0], model=model)] * 200)
    answers += await at_once(server, [chat_body(p, model=model) for p in PARAPHRASES[1:51]])

    assert {answer.text for answer in answers} == {stored.text}
    assert all(answer.cache.hit for answer in answers[200:])
    assert {answer.cache.detail for answer in answers[200:]} <= {"semantic", "exact"}
    assert upstream.calls(model) == 1


async def test_many_new_questions_at_once_are_at_most_one_call_each(
    upstream: FakeUpstream, server: RecollectServer
) -> None:
    """50 questions that mean the same, four times each: one call per exact key, or none."""
    model = unique("new herd")
    bodies = [chat_body(words, model=model) for words in PARAPHRASES[:50]]

    answers = await at_once(server, bodies * 4)

    assert {answer.status for answer in answers} == {200}
    sent = [seen.body for seen in upstream.seen(model)]
    assert len(sent) == len(set(sent))
