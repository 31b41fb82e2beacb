"""Near questions and their answers: every way in which a look-up by meaning can end."""

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest

from cachestore.errors import StoreError
from cachestore.leases import Leases
from cachestore.memory_store import MemoryStore
from cachestore.redis_store import RedisStore
from cachestore.vector_record import Meaning
from config.settings import Settings
from embeddings.client import EmbeddingsUnavailable, UnavailableKind
from embeddings.encoding.encoder import Refused
from embeddings.guards.guard import Guard
from embeddings.wire import Neighbour
from proxy.lookup.answers import StoredAnswer
from proxy.lookup.ask import Ask, Reader
from proxy.lookup.meaning import ExactOnly, Question, question_of
from proxy.lookup.policy import Reuse
from proxy.lookup.routes import Routes
from proxy.lookup.semantic_tier import Looked, Near, NoSemanticTier, SemanticTier
from proxy.lookup.tenants import Tenants
from proxy.lookup.tiers import Tiers
from proxy.wire.endpoint import Endpoint, Form
from proxy.wire.record import Recording, RecordPolicy, record
from tests.proxy.fakes import (
    FINGERPRINT,
    VECTOR,
    Clock,
    FakeEmbeddings,
    FakeLink,
    FakeRedis,
    completion,
)
from tests.proxy.lookup.keying import key, read

pytestmark = pytest.mark.virtual_time

ASKED = "How many people live in Paris?"
STORED = "How many people are living in Paris?"
KEY, OTHER_KEY, OWN_KEY = b"k" * 32, b"o" * 32, b"w" * 32
Json = dict[str, Any]


class Observer:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.tiers: list[str] = []
        self.outcomes: list[Looked] = []
        self.reasons: list[ExactOnly] = []
        self.scores: list[float] = []
        self.vetoes: list[Guard] = []

    def looked_up(self, tier: str, seconds: float) -> None:
        """Note a look-up."""
        assert 0 <= seconds < 60
        self.tiers.append(tier)

    def meant(self, outcome: Looked) -> None:
        """Note how one ended."""
        self.outcomes.append(outcome)

    def exact_only(self, reason: ExactOnly) -> None:
        """Note why there was none."""
        self.reasons.append(reason)

    def vetoed(self, guard: Guard) -> None:
        """Note what a question that was near differs in."""
        self.vetoes.append(guard)

    def nearest(self, score: float) -> None:
        """Note how near the nearest was."""
        self.scores.append(score)

    def store_failed(self, operation: str, error: StoreError) -> None:
        """Faults of the store are for the tiers' own tests."""

    def memory_holds(self, held_bytes: int, entries: int) -> None:
        """What memory holds is for the tiers' own tests."""

    def evicted(self, cause: str) -> None:
        """So is what leaves it."""


def recorded(text: str) -> Recording:
    """Return a recording of a chat completion."""
    policy = RecordPolicy(frozenset({"stop"}), store_refusals=False, max_bytes=1 << 20)
    recording = record(Endpoint.CHAT, b"application/json", b"", completion(text), policy)
    assert isinstance(recording, Recording)
    return recording


class Rig:
    """The tier over a fake Redis, and an embedding process that finds what it is told."""

    def __init__(self, *matches: Neighbour, deadline_s: float = 5.0) -> None:
        self.clock = Clock()
        self.redis = FakeRedis()
        self.observer = Observer()
        self.embeddings = FakeEmbeddings(*matches)
        link = FakeLink(self.redis)
        store = RedisStore(link, "test", 10_000, 100_000, clock=self.clock)
        leases = Leases(link, "test", b"me", 6.0)
        self.tiers = Tiers(MemoryStore[StoredAnswer](1_000_000), store, leases, self.observer)
        self.tier = SemanticTier(
            self.embeddings,
            self.tiers,
            self.observer,
            min_score=0.95,
            deadline_s=deadline_s,
            check_share=0.25,
            clock=self.clock,
        )

    def answer(self, key: bytes = KEY, said: str = "Two million.", **fields: Any) -> StoredAnswer:
        """Return an answer to be stored."""
        answer = StoredAnswer(
            key=key,
            stored_at=self.clock.now,
            lifetime_s=60.0,
            keep_s=0.0,
            initial_age_s=0.0,
            endpoint=Endpoint.CHAT,
            recording=recorded(said),
            headers=((b"content-type", b"application/json"),),
            vary=(),
            upstream_s=0.5,
            asked=STORED,
        )
        return replace(answer, **fields)

    async def store(self, key: bytes = KEY, **fields: Any) -> StoredAnswer:
        """Store an answer in Redis."""
        answer = self.answer(key, **fields)
        assert await self.tiers.store(answer, None)
        return answer

    async def look_up(self, ask: Ask) -> Near | Meaning | None:
        """Look up."""
        return await self.tier.look_up(ask, OWN_KEY)


def chat(*turns: Json, **fields: object) -> Json:
    return {"model": "m", "messages": list(turns), **fields}


def user(text: str) -> Json:
    return {"role": "user", "content": text}


def asks(body: Json | None = None, *, cache_control: str = "", **semantic: object) -> Ask:
    """Return what a request asks; the mode is `on` unless told otherwise."""
    settings = Settings.model_validate({"semantic": {"mode": "on", **semantic}})
    raw = json.dumps(chat(user(ASKED)) if body is None else body)
    headers = [(b"cache-control", cache_control.encode())] if cache_control else []
    reader = Reader(Routes(settings), Tenants(b"x" * 32, {}), ())
    return reader.read(read(raw), raw.encode(), headers, dict(headers), "")


def near(score: float = 0.97, key: bytes = KEY) -> Neighbour:
    return Neighbour(key, score)


def meaning(ask: Ask, fingerprint: str = FINGERPRINT, vector: bytes = VECTOR) -> Meaning:
    """Return what the answer to `ask` is to be stored with."""
    question = question_of(ask.request, ask.scope)
    assert isinstance(question, Question)
    return Meaning(question.partition, question.text, fingerprint, vector)


# What is asked.


async def test_the_question_is_looked_up_in_its_partition() -> None:
    """Nothing else of the request leaves the worker."""
    rig = Rig()
    ask = asks()

    await rig.look_up(ask)

    (look_up,) = rig.embeddings.asked
    assert (look_up.partition, look_up.text) == (meaning(ask).partition, ASKED)
    assert look_up.k >= 2, "the nearest may have expired"


async def test_nothing_is_looked_up_where_the_mode_is_off() -> None:
    """Nor counted."""
    rig = Rig(near())

    assert await rig.look_up(asks(mode="off")) is None

    assert not rig.embeddings.asked
    assert not rig.observer.outcomes
    assert not rig.observer.reasons


async def test_request_for_the_exact_tier_only_is_counted_by_its_reason() -> None:
    """It is not stored to be found by meaning either."""
    rig = Rig(near())

    assert await rig.look_up(asks(chat(user("Paris?")))) is None

    assert rig.observer.reasons == [ExactOnly.SHORT]
    assert not rig.embeddings.asked
    assert not rig.observer.outcomes


async def test_request_that_cannot_be_keyed_is_for_the_exact_tier_only() -> None:
    """Which lets it pass, too; it must not become an error here."""
    rig = Rig(near())

    for history in ("exact", "chain"):
        body = chat(user("Hello"), {"role": "assistant", "content": "Hi."}, user(ASKED), seed=1e19)
        assert await rig.look_up(asks(body, history=history)) is None

    assert rig.observer.reasons == [ExactOnly.TURN] * 2


# What is found.


@pytest.mark.parametrize("where", ["memory", "redis"])
async def test_stored_response_to_a_near_question_answers(where: str) -> None:
    """With its age, and how near the questions are."""
    rig = Rig(near())
    answer = await rig.store()
    if where == "memory":
        rig.tiers.keep(answer)
    rig.clock.now += 10

    found = await rig.look_up(asks())

    assert isinstance(found, Near)
    assert (found.reuse, found.score) == (Reuse(10.0, 50.0), 0.97)
    assert found.answer.stored_response() == answer.stored_response()
    assert rig.observer.outcomes == [Looked.HIT]
    assert rig.observer.scores == [0.97]
    assert rig.observer.tiers.count("semantic") == 1
    assert rig.observer.tiers.count("redis") == (where == "redis")


@pytest.mark.parametrize(("score", "shown"), [(0.95, 0.95), (1.0, 1.0), (1.0004, 1.0)])
async def test_score_at_the_threshold_is_near_enough(score: float, shown: float) -> None:
    """And one that rounding has brought above 1 is 1."""
    rig = Rig(near(score))
    await rig.store()

    found = await rig.look_up(asks())

    assert isinstance(found, Near)
    assert found.score == shown


async def test_nothing_near_enough_gives_what_to_store_the_new_answer_with() -> None:
    """The vector has been made already; and the score is noted, to choose a threshold by."""
    rig = Rig(near(0.9499))
    await rig.store()

    assert await rig.look_up(asks()) == meaning(asks())

    assert rig.observer.outcomes == [Looked.FAR]
    assert rig.observer.scores == [0.9499]


async def test_first_question_of_its_partition_finds_nothing() -> None:
    """There is no score to note."""
    rig = Rig()

    assert await rig.look_up(asks()) == meaning(asks())

    assert rig.observer.outcomes == [Looked.NOTHING]
    assert not rig.observer.scores
    assert not rig.embeddings.removed


async def test_response_that_is_gone_is_a_miss_and_its_vector_goes_too() -> None:
    """A removed entry is never served."""
    rig = Rig(near())

    assert await rig.look_up(asks()) == meaning(asks())

    assert rig.observer.outcomes == [Looked.GONE]
    assert rig.embeddings.removed == [KEY]


async def test_response_past_its_time_in_memory_is_gone_too() -> None:
    """An expired entry is never served, whoever still holds it."""
    rig = Rig(near())
    rig.tiers.keep(await rig.store())
    rig.clock.now += 60

    assert isinstance(await rig.look_up(asks()), Meaning)

    assert rig.observer.outcomes == [Looked.GONE]
    assert rig.embeddings.removed == [KEY]


async def test_the_next_nearest_answers_where_the_nearest_is_gone() -> None:
    """As long as it is near enough itself."""
    rig = Rig(near(0.99), near(0.96, OTHER_KEY))
    other = await rig.store(OTHER_KEY)

    found = await rig.look_up(asks())

    assert isinstance(found, Near)
    assert (found.answer.key, found.score) == (other.key, 0.96)
    assert rig.embeddings.removed == [KEY]
    assert rig.observer.scores == [0.99]


async def test_a_question_that_asks_something_else_does_not_answer_however_near() -> None:
    """To an encoder "Paris" and "Rome" are nearly one; the next nearest may ask the same."""
    rig = Rig(near(0.99), near(0.96, OTHER_KEY))
    await rig.store(asked="How many people live in Rome?")
    await rig.store(OTHER_KEY, asked=STORED)

    found = await rig.look_up(asks())

    assert isinstance(found, Near)
    assert found.answer.key == OTHER_KEY
    assert rig.observer.vetoes == [Guard.NAMES]
    assert rig.observer.outcomes == [Looked.HIT]
    assert not rig.embeddings.removed


async def test_where_all_that_is_near_asks_something_else_it_is_a_miss() -> None:
    """Counted as such, and stored with its meaning like any other."""
    rig = Rig(near(0.99))
    await rig.store(asked="How many people live in Rome?")

    assert await rig.look_up(asks()) == meaning(asks())

    assert rig.observer.outcomes == [Looked.VETOED]


async def test_an_answer_that_does_not_say_what_it_was_asked_does_not_answer() -> None:
    """Its vector may be of what lay there before; the guards could not look."""
    rig = Rig(near(0.99))
    await rig.store(asked="")

    assert isinstance(await rig.look_up(asks()), Meaning)

    assert rig.observer.outcomes == [Looked.NOT_REUSED]


async def test_what_is_too_far_is_not_even_fetched() -> None:
    """Matches come best first."""
    rig = Rig(near(0.99), near(0.5, OTHER_KEY))
    await rig.store(OTHER_KEY)

    assert isinstance(await rig.look_up(asks()), Meaning)

    assert rig.observer.tiers.count("redis") == 1
    assert rig.observer.outcomes == [Looked.GONE]


async def test_all_that_may_answer_is_fetched_in_one_trip() -> None:
    """The deadline is short, and the nearest may be gone."""
    keys = [bytes([number]) * 32 for number in range(4)]
    rig = Rig(*(near(0.99, key) for key in keys))
    await rig.store(keys[3])
    rig.redis.commands.clear()

    found = await rig.look_up(asks())

    assert isinstance(found, Near)
    assert found.answer.key == keys[3]
    assert rig.redis.commands == ["MGET"]
    assert rig.embeddings.removed == keys[:3]


async def test_redis_is_not_asked_where_the_nearest_is_in_memory() -> None:
    """Whatever else may be near."""
    rig = Rig(near(0.99), near(0.98, OTHER_KEY))
    rig.tiers.keep(await rig.store())
    rig.redis.commands.clear()

    assert isinstance(await rig.look_up(asks()), Near)

    assert not rig.redis.commands


@pytest.mark.parametrize("fault", ["down", "refused"])
async def test_redis_that_fails_is_a_miss_and_says_nothing_of_what_is_stored(fault: str) -> None:
    """That it is gone would cost the embedding process its vector, or a look at each."""
    rig = Rig(near(0.99), near(0.96, OTHER_KEY))
    await rig.store()
    rig.redis.is_down = fault == "down"
    rig.redis.refusals["MGET"] = "LOADING"

    assert await rig.look_up(asks()) == meaning(asks())

    assert rig.observer.outcomes == [Looked.FAILED]
    assert not rig.embeddings.removed


async def test_memory_answers_while_redis_fails() -> None:
    """Even where it does not hold the nearest."""
    rig = Rig(near(0.99), near(0.96, OTHER_KEY))
    rig.tiers.keep(await rig.store(OTHER_KEY))
    rig.redis.is_down = True

    found = await rig.look_up(asks())

    assert isinstance(found, Near)
    assert found.answer.key == OTHER_KEY
    assert not rig.embeddings.removed


@pytest.mark.parametrize(
    "directive", ["no-cache", "max-age=10", "max-age=0", "min-fresh=55", "max-age=5, max-stale"]
)
async def test_cache_directives_hold_as_for_an_exact_hit(directive: str) -> None:
    """RFC 9111 §5.2.1."""
    rig = Rig(near())
    await rig.store()
    rig.clock.now += 10

    assert isinstance(await rig.look_up(asks(cache_control=directive)), Meaning)

    assert rig.observer.outcomes == [Looked.NOT_REUSED]
    assert not rig.embeddings.removed, "it may answer others"


async def test_stale_response_answers_only_who_takes_it() -> None:
    """max-stale is the client's to say (RFC 9111 §5.2.1.2)."""
    rig = Rig(near())
    await rig.store(keep_s=60.0)
    rig.clock.now += 70

    assert isinstance(await rig.look_up(asks()), Meaning)
    assert isinstance(await rig.look_up(asks(cache_control="max-stale=20")), Near)


async def test_response_to_be_revalidated_is_not_served_for_other_words() -> None:
    """What is fetched instead would be the answer to these words, not to those."""
    rig = Rig(near())
    await rig.store(keep_s=60.0)
    rig.clock.now += 70
    ask = asks()
    rules = replace(ask.route.rules, stale_while_revalidate_s=60.0)
    ask = replace(ask, route=replace(ask.route, rules=rules))

    assert isinstance(await rig.look_up(ask), Meaning)

    assert rig.observer.outcomes == [Looked.NOT_REUSED]


async def test_response_that_depends_on_header_fields_is_for_who_sent_those() -> None:
    """RFC 9111 §4.1; another one that does not may still answer."""
    rig = Rig(near(0.99))
    await rig.store(vary=(("accept-language", "de"),))
    await rig.store(OTHER_KEY)

    assert isinstance(await rig.look_up(asks()), Meaning)
    assert rig.observer.outcomes == [Looked.NOT_REUSED]
    rig.embeddings.matches += (near(0.96, OTHER_KEY),)
    assert isinstance(await rig.look_up(asks()), Near)


async def test_shadow_counts_what_would_have_hit_and_serves_nothing() -> None:
    """So that an operator sees what the tier would do, at no risk."""
    rig = Rig(near())
    await rig.store()
    ask = asks(mode="shadow")

    assert await rig.look_up(ask) == meaning(ask)

    assert rig.observer.outcomes == [Looked.SHADOW]
    assert rig.observer.scores == [0.97]


async def test_shadow_that_finds_nothing_counts_as_ever() -> None:
    """Only hits are called otherwise."""
    rig = Rig(near(0.5))

    assert isinstance(await rig.look_up(asks(mode="shadow")), Meaning)

    assert rig.observer.outcomes == [Looked.FAR]


# Where there is no vector.


@pytest.mark.parametrize("why", Refused)
async def test_text_the_encoder_refuses_is_stored_without_a_vector(why: Refused) -> None:
    """Nobody finds it now; an encoder that comes later may take it."""
    rig = Rig(near())
    rig.embeddings.refused = why.value

    assert await rig.look_up(asks()) == meaning(asks(), "", b"")

    assert rig.observer.outcomes == [Looked(why.value)]


@pytest.mark.parametrize("why", ["phase-of-the-moon", "hit", "down"])
async def test_refusal_in_a_word_of_another_version_is_no_defect(why: str) -> None:
    """Embedding process and worker may be of two releases; no request fails of that."""
    rig = Rig(near())
    rig.embeddings.refused = why

    assert await rig.look_up(asks()) == meaning(asks(), "", b"")

    assert rig.observer.outcomes == [Looked.PROTOCOL]


async def test_redis_that_is_slow_holds_nobody_up_past_the_deadline() -> None:
    """The response is near, but not here in time: a miss, stored with what is known by then."""
    rig = Rig(near(), deadline_s=0.05)
    await rig.store()
    rig.redis.outbox = []

    assert await rig.look_up(asks()) == meaning(asks())

    assert rig.observer.outcomes == [Looked.DEADLINE]


async def test_history_that_is_looked_up_too_slowly_holds_nobody_up() -> None:
    """Nor does a chain's link; the process is not even asked."""
    rig = Rig(near(), deadline_s=0.05)
    rig.redis.outbox = []

    assert await rig.look_up(asks(third_turn(), history="chain")) is None

    assert rig.observer.outcomes == [Looked.DEADLINE]
    assert not rig.embeddings.asked


KINDS: list[UnavailableKind] = ["deadline", "down", "busy", "protocol", "open"]


@pytest.mark.parametrize("kind", KINDS)
async def test_process_that_does_not_answer_is_a_miss(kind: UnavailableKind) -> None:
    """The answer is stored with the text: whoever indexes it makes the vector."""
    rig = Rig(near())
    await rig.store()
    rig.embeddings.error = EmbeddingsUnavailable(kind, "why")

    assert await rig.look_up(asks()) == meaning(asks(), "", b"")

    assert rig.observer.outcomes == [Looked(kind)]
    assert "semantic" not in rig.observer.tiers, "how long it failed is no look-up's time"


async def test_what_was_stored_is_told_at_once() -> None:
    """This host need not wait for the change log."""
    rig = Rig()

    rig.tier.stored(KEY)

    assert rig.embeddings.added == [KEY]


async def test_answer_that_nothing_was_looked_up_for_is_stored_with_its_text() -> None:
    """Fetched anew at someone's wish: it is found in other words all the same."""
    rig = Rig(near())

    assert await rig.tier.meaning(asks()) == meaning(asks(), "", b"")
    assert await rig.tier.meaning(asks(mode="shadow")) is not None
    assert await rig.tier.meaning(asks(mode="off")) is None
    assert await rig.tier.meaning(asks(chat(user("Paris?")))) is None

    assert not rig.embeddings.asked
    assert not rig.observer.outcomes
    assert not rig.observer.reasons, "it is no miss that was not looked up"


async def test_without_an_embedding_process_every_request_is_for_the_exact_tier() -> None:
    """It stands in; nobody has to ask whether there is one."""
    tier = NoSemanticTier()
    tier.stored(KEY)

    found: object = await tier.look_up(asks(), KEY)  # type: ignore[func-returns-value]
    meant: object = await tier.meaning(asks())  # type: ignore[func-returns-value]

    assert (found, meant) == (None, None)


# Chains: earlier turns that the same stored response answered.

FIRST, PARAPHRASED = "Which city is the capital of France?", "What is the capital city of France?"
PARIS: Json = {"role": "assistant", "content": "Paris."}


def third_turn(first: str = FIRST, answer: Json = PARIS) -> Json:
    return chat(user(first), answer, user(ASKED))


async def partition_of(rig: Rig, body: Json, history: str = "chain") -> bytes:
    """Return the partition in which a request is looked up."""
    await rig.look_up(asks(body, history=history))
    return rig.embeddings.asked[-1].partition


async def conversation(rig: Rig, said: str = "Paris.") -> StoredAnswer:
    """Store the answer to FIRST, and let it answer PARAPHRASED too."""
    scope = asks().scope
    answer = await rig.store(key(chat(user(FIRST)), scope=scope), said=said)
    await rig.tiers.alias(key(chat(user(PARAPHRASED)), scope=scope), answer, None)
    return answer


@pytest.mark.parametrize("where", ["memory", "redis"])
async def test_paraphrased_conversation_shares_a_partition(where: str) -> None:
    """`semantic.history = chain`: the same stored response answered both earlier turns."""
    rig = Rig()
    answer = await conversation(rig)
    if where == "memory":
        rig.tiers.keep(answer)

    one = await partition_of(rig, third_turn())
    other = await partition_of(rig, third_turn(PARAPHRASED))

    assert one == other


async def test_question_that_was_answered_anew_begins_another_chain() -> None:
    """The same key, but not the same stored response: what follows is about something else."""
    rig = Rig()
    await conversation(rig)
    one = await partition_of(rig, third_turn())
    rig.tiers.invalidate(None)
    await conversation(rig, said="Lyon.")

    other = await partition_of(rig, third_turn(answer={"role": "assistant", "content": "Lyon."}))

    assert one != other


async def test_near_to_what_was_near_is_not_near() -> None:
    """An alias under the key that was found leads to an answer that nothing was compared with."""
    rig = Rig(near())
    answer = await rig.store(OTHER_KEY)
    rig.tiers.keep(answer)
    await rig.tiers.alias(KEY, answer, None)

    assert isinstance(await rig.look_up(asks()), Meaning)

    assert rig.observer.outcomes == [Looked.GONE]


async def test_answer_that_cannot_be_sent_as_asked_is_no_hit() -> None:
    """A stream with its usage, where the usage is not known: found out before anyone waits."""
    rig = Rig(near())
    answer = await rig.store()
    answer.templates[Form.SSE, True] = None
    rig.tiers.keep(answer)
    body = chat(user(ASKED), stream=True, stream_options={"include_usage": True})

    assert isinstance(await rig.look_up(asks(body)), Meaning)

    assert rig.observer.outcomes == [Looked.NOT_REUSED]


async def test_histories_are_equal_to_the_letter_unless_told_otherwise() -> None:
    """The default."""
    rig = Rig()
    await conversation(rig)

    one = await partition_of(rig, third_turn(), "exact")
    other = await partition_of(rig, third_turn(PARAPHRASED), "exact")

    assert one != other


async def test_answer_that_the_request_did_not_repeat_is_no_link_of_a_chain() -> None:
    """What the request says was answered is the client's word."""
    rig = Rig()
    await conversation(rig)
    forged = {"role": "assistant", "content": "Berlin."}

    exact = await partition_of(rig, third_turn(answer=forged), "exact")

    assert await partition_of(rig, third_turn(answer=forged)) == exact
    assert await partition_of(rig, third_turn()) != exact


@pytest.mark.parametrize("body", [third_turn(), chat(user(ASKED))])
async def test_conversation_that_nobody_answered_from_here_counts_to_the_letter(body: Json) -> None:
    """No stored response, or nothing earlier: there is nothing to chain."""
    rig = Rig()

    assert await partition_of(rig, body) == await partition_of(rig, body, "exact")


async def test_alias_is_no_link_where_answers_to_other_words_are_not_given() -> None:
    """In `shadow` nothing of a request's fate may depend on the semantic tier."""
    rig = Rig()
    await conversation(rig)
    rig.tiers.invalidate(None)

    await rig.look_up(asks(third_turn(PARAPHRASED), history="chain", mode="shadow"))

    exact = await partition_of(rig, third_turn(PARAPHRASED), "exact")
    assert rig.embeddings.asked[0].partition == exact


# One deadline for all that a look-up waits for.

SLACK_S = 0.3
"""The virtual clock goes on while code runs, too."""


@pytest.mark.parametrize(("redis_s", "is_asked"), [(0.0, True), (2.0, True), (9.0, False)])
async def test_redis_and_the_process_together_take_no_longer_than_the_deadline(
    redis_s: float, is_asked: bool
) -> None:
    """`semantic.deadline_ms` is for the whole look-up: the process gets what Redis leaves of it."""
    rig = Rig(deadline_s=3.0)
    rig.embeddings.gate = asyncio.Event()
    rig.redis.hold()
    loop = asyncio.get_running_loop()
    loop.call_later(redis_s, rig.redis.let_go)
    began = loop.time()

    await rig.look_up(asks(third_turn(), history="chain"))

    assert 3.0 <= loop.time() - began < 3.0 + SLACK_S
    assert rig.observer.outcomes == [Looked.DEADLINE]
    assert bool(rig.embeddings.asked) is is_asked


async def test_what_was_found_in_time_but_not_fetched_in_time_is_a_miss() -> None:
    """Three waits, for the history, the process and the response: one deadline."""
    rig = Rig(near(), deadline_s=3.0)
    await rig.store()
    rig.embeddings.gate = asyncio.Event()
    rig.redis.hold()
    loop = asyncio.get_running_loop()
    began = loop.time()

    def answer_history() -> None:
        rig.redis.let_go()
        rig.redis.hold()

    loop.call_later(1.0, answer_history)
    loop.call_later(2.0, rig.embeddings.gate.set)

    assert isinstance(await rig.look_up(asks(third_turn(), history="chain")), Meaning)

    assert 3.0 <= loop.time() - began < 3.0 + SLACK_S
    assert rig.observer.outcomes == [Looked.DEADLINE]
    assert rig.redis.commands[-1] == "MGET"


async def test_a_request_that_looks_nothing_up_waits_no_longer_for_its_history() -> None:
    """It goes upstream only then; its answer is found in its own words alone."""
    rig = Rig(deadline_s=3.0)
    rig.redis.hold()
    loop = asyncio.get_running_loop()
    began = loop.time()

    assert await rig.tier.meaning(asks(third_turn(), history="chain")) is None

    assert 3.0 <= loop.time() - began < 3.0 + SLACK_S
    assert rig.observer.outcomes == [Looked.DEADLINE]


async def test_history_that_comes_in_time_is_what_an_answer_is_stored_with() -> None:
    """Though nothing was looked up."""
    rig = Rig(deadline_s=3.0)
    await conversation(rig)
    ask = asks(third_turn(), history="chain")
    rig.redis.hold()
    asyncio.get_running_loop().call_later(2.0, rig.redis.let_go)

    found = await rig.tier.meaning(ask)

    assert found is not None
    assert found.partition == await partition_of(rig, third_turn())
    assert found.partition != meaning(ask).partition
