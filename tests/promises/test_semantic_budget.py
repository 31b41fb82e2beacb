"""With an error budget a route earns its hits, and gives them up when they are wrong.

Real model, real Redis, two workers. The upstream answers each question by what it is about.
"""

import itertools
import json
import random
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from tests.support.fake_upstream import FakeUpstream, Play
from tests.support.http_client import DEFAULT_KEY, Answer
from tests.support.openai_answers import Said
from tests.support.processes import wait_until
from tests.support.recollect_server import RecollectServer, StartRecollect, chat_body
from tests.support.redis_server import RedisServer
from tests.support.semantic import is_meant, settings_of, wait_listening

MAX_ERROR = 0.1
LEARNT_S = 10.0

_ASKED = {
    "password": (
        ("How do I", "How can I", "How would I", "How could I", "How should I", "How do we"),
        ("reset", "change", "restore"),
        ("my password for the online bank", "the password for my online bank"),
        ("?", "", " please?"),
    ),
    "booking": (
        ("What does it cost to", "How much is it to", "What would it cost to", "How much to"),
        ("cancel", "call off", "undo"),
        ("a booking in the last week", "my booking in the last week", "the booking this late"),
        ("?", "", " please?"),
    ),
    "airport": (
        ("Which documents must I", "Which documents should I", "What papers must I"),
        ("bring to", "take to", "carry to", "show at"),
        ("the airport", "my airport", "the airport counter"),
        ("?", "", " please?"),
    ),
}


def questions(mark: str) -> list[str]:
    """Return a hundred ways to ask about `mark`."""
    openings, verbs, objects, ends = _ASKED[mark]
    return [
        f"{opening} {verb} {what}{end}"
        for opening, verb, what, end in itertools.product(openings, verbs, objects, ends)
    ]


def answers_by_what_is_asked(upstream: FakeUpstream, edition: str = "first") -> None:
    for mark in _ASKED:
        upstream.on(mark, Play(said=Said(f"All about {mark}, {edition} edition.")))


def said(answer: Answer) -> str:
    text: str = answer.json["choices"][0]["message"]["content"]
    return text


def mark_of(question: str) -> str:
    return next(mark for mark in _ASKED if mark in question)


def stream(seed: int, first: int) -> list[str]:
    asked = [question for mark in _ASKED for question in questions(mark)]
    random.Random(seed).shuffle(asked)
    return asked[:first]


@pytest.fixture
def model_answers() -> Iterator[FakeUpstream]:
    """An upstream that says the same to all who ask about the same."""
    upstream = FakeUpstream()
    answers_by_what_is_asked(upstream)
    yield upstream
    upstream.close()


def settings(**semantic: object) -> Any:
    own = {"max_error": MAX_ERROR, "check_share": 0.1, **semantic}
    return settings_of(semantic=own)


def state(server: RecollectServer) -> Mapping[str, Any]:
    routes: dict[str, dict[str, Any]] = server.get("/admin/semantic").json["routes"]
    return routes.get("default", {})


def explained(server: RecollectServer, question: str) -> Any:
    """Return what is said of `question`, as the client that asks it would send it."""
    headers = {"Authorization": f"Bearer {DEFAULT_KEY}"}
    body = {"request": chat_body(question), "headers": headers}
    return server.post("/admin/explain", body).json


def taught(server: RecollectServer, seed: int = 0, first: int = 150) -> list[tuple[str, Answer]]:
    """Ask a stream of questions; return each with its answer."""
    return [(question, server.chat(question)) for question in stream(seed, first)]


def test_a_route_earns_its_hits_and_they_are_right(
    model_answers: FakeUpstream, redis_server: RedisServer, start_recollect: StartRecollect
) -> None:
    """From a cold start everything is forwarded; then what is sure enough is served."""
    own = settings()
    own["redis"] = {"namespace": "earns"}
    server = wait_listening(start_recollect(model_answers.url, redis_server.url, own))

    answered = taught(server)

    assert not any(is_meant(answer) for _, answer in answered[:60])
    hits = [(question, answer) for question, answer in answered if is_meant(answer)]
    assert len(hits) > 30
    assert all(said(answer).startswith(f"All about {mark_of(q)},") for q, answer in hits)
    assert wait_until(lambda: state(server)["compared"] > 0, LEARNT_S)
    assert state(server)["is_serving"]
    assert state(server)["wrong"] == 0
    assert server.metric("recollect_semantic_serving", route="default") == 1
    assert server.metric("recollect_semantic_decisions_total", verdict="serve") >= len(hits)


def test_what_was_earned_outlives_the_processes(
    model_answers: FakeUpstream, redis_server: RedisServer, start_recollect: StartRecollect
) -> None:
    """The samples lie in Redis: a new host knows what the others have learned."""
    own = settings()
    own["redis"] = {"namespace": "outlives"}
    first = wait_listening(start_recollect(model_answers.url, redis_server.url, own))
    answered = taught(first)
    assert any(is_meant(answer) for _, answer in answered)
    known = {question for question, _ in answered}
    first.close()

    second = wait_listening(start_recollect(model_answers.url, redis_server.url, own))
    fresh = [question for question in stream(0, 300) if question not in known]

    assert wait_until(lambda: is_meant(second.chat(fresh.pop())), LEARNT_S)


def test_a_route_whose_answers_change_gives_up_its_hits(
    model_answers: FakeUpstream, redis_server: RedisServer, start_recollect: StartRecollect
) -> None:
    """Checks and misses show it: from then on nothing of before is served."""
    own = settings(check_share=0.5)
    own["redis"] = {"namespace": "changes"}
    server = wait_listening(start_recollect(model_answers.url, redis_server.url, own))
    asked = stream(0, 290)
    for question in asked[:150]:
        server.chat(question)
    answers_by_what_is_asked(model_answers, "second")

    later = [server.chat(question) for question in asked[150:]]

    stale = [n for n, answer in enumerate(later) if "first edition" in said(answer)]
    assert len(stale) < 40
    assert not [n for n in stale if n > 70]


def test_an_answer_that_is_called_bad_is_never_given_again(
    model_answers: FakeUpstream, redis_server: RedisServer, start_recollect: StartRecollect
) -> None:
    """It leaves all workers, and that question never gets it again; others still do."""
    own = settings(check_share=0.01)
    own["redis"] = {"namespace": "feedback"}
    server = wait_listening(start_recollect(model_answers.url, redis_server.url, own))
    question, hit = next((q, a) for q, a in reversed(taught(server)) if is_meant(a))
    key = hit.cache.key
    assert key is not None

    told = server.post("/admin/feedback", {"key": key, "verdict": "bad"})

    assert told.status == 200, told.text
    assert told.json["evicted"]
    assert told.json["forbidden"]
    model_answers.on(question, Play(said=Said("Something else.")))
    again = [server.chat(question) for _ in range(4)]
    assert all(said(answer).startswith(("Something else", "All about")) for answer in again)
    assert not any(is_meant(answer) for answer in again)
    assert explained(server, question)["key"] == key


def test_a_question_is_explained(
    model_answers: FakeUpstream, redis_server: RedisServer, start_recollect: StartRecollect
) -> None:
    """Neighbours with scores, groups and guards; the probability; and why it is as it is."""
    own = settings()
    own["redis"] = {"namespace": "explains"}
    server = wait_listening(start_recollect(model_answers.url, redis_server.url, own))
    taught(server, first=100)

    decision = explained(server, "How do I not reset my online bank password?")["decision"]

    assert decision["verdict"] in ("serve", "earning", "unsure", "vetoed")
    assert 0 <= decision["probability"] <= 1
    assert decision["route"]["max_error"] == MAX_ERROR
    nearest = decision["neighbours"][0]
    assert "password" in nearest["text"]
    assert nearest["guard"] == "negation"
    assert nearest["score"] > 0.7
    assert explained(server, "And then?")["exact_only"] == "short"


def test_a_threshold_is_explained_too(
    model_answers: FakeUpstream, redis_server: RedisServer, start_recollect: StartRecollect
) -> None:
    """Without a budget: the nearest, what they ask, which guard speaks, and what is served."""
    own = settings_of(redis={"namespace": "explains-thresholds"})
    server = wait_listening(start_recollect(model_answers.url, redis_server.url, own))
    server.chat("How do I reset my password for the online bank?")
    near = "How can I reset my password for the online bank?"
    assert wait_until(lambda: bool(explained(server, near)["decision"]["neighbours"]), LEARNT_S)

    meant = explained(server, near)["decision"]
    vetoed = explained(server, "How don't I reset my password for the online bank?")["decision"]

    assert meant["verdict"] == "serve"
    assert meant["min_score"] == 0.95
    assert meant["neighbours"][0]["text"].startswith("How do I reset")
    assert meant["neighbours"][0]["guard"] is None
    assert vetoed["verdict"] == "unsure"
    told = server.post("/admin/feedback", {"key": "ab" * 32, "verdict": "bad"}).json
    assert not told["forbidden"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"verdict": "bad"}, "request"),
        ({"key": "12", "verdict": "bad"}, "key"),
        ({"key": "0" * 64, "verdict": "so-so"}, "verdict"),
        ({"request": {"model": "m"}, "verdict": "good"}, "request"),
    ],
)
def test_feedback_that_is_not_understood_is_refused(
    body: dict[str, Any], param: str, budgeted: RecollectServer
) -> None:
    """In OpenAI's envelope, with the field's name."""
    answer = budgeted.post("/admin/feedback", body)

    assert answer.status == 400
    assert answer.json["error"]["param"] == param


def test_admin_paths_want_their_method(budgeted: RecollectServer) -> None:
    """405 names it."""
    answer = budgeted.get("/admin/feedback")

    assert answer.status == 405
    assert answer.header("allow") == "POST"


@pytest.fixture(scope="module")
def budgeted(upstream: FakeUpstream, redis_server: RedisServer) -> Iterator[RecollectServer]:
    """One with a budget, which knows nothing."""
    own = settings()
    own["redis"] = {"namespace": "knows-nothing"}
    server = RecollectServer(upstream.url, redis_server.url, own)
    try:
        yield wait_listening(server)
    finally:
        server.close()


def test_prompts_are_shown_to_the_admin_token_alone(
    upstream: FakeUpstream, redis_server: RedisServer, start_recollect: StartRecollect
) -> None:
    """Who may ask completions may not look into what others asked."""
    own = settings()
    own["admin"] = {"token": "the-admin-token"}
    server = start_recollect(upstream.url, redis_server.url, own)
    body = json.dumps({"request": chat_body("How do I reset my password?")}).encode()

    def explain(*headers: tuple[str, str]) -> int:
        return server.send("POST", "/admin/explain", headers, body).status

    assert explain() == 401
    assert explain(("Authorization", "Bearer sk-client")) == 401
    wait_listening(server)
    assert explain(("Authorization", "Bearer the-admin-token")) == 200
