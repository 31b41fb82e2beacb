"""Who may ask the admin paths, and what they say when they cannot answer."""

import json

import pytest

from proxy.semantic_admin import PATHS, Access
from tests.promises.test_semantic_budget import settings
from tests.proxy.fakes import FakeUpstream, Worker, json_play
from tests.support.fake_upstream import FakeUpstream as RealUpstream
from tests.support.recollect_server import StartRecollect, chat_body
from tests.support.redis_server import RedisServer, free_port

TOKEN = "the-admin-token"
BODY = json.dumps({"request": {"model": "m", "messages": []}, "verdict": "bad"}).encode()


@pytest.mark.parametrize(
    ("access", "authorization", "code"),
    [
        (Access(None, is_local=True), b"", None),
        (Access(None, is_local=False), b"", "admin_token_unset"),
        (Access(None, is_local=False), b"Bearer guess", "admin_token_unset"),
        (Access(TOKEN, is_local=True), b"", "invalid_admin_token"),
        (Access(TOKEN, is_local=True), b"Bearer wrong", "invalid_admin_token"),
        (Access(TOKEN, is_local=True), b"Basic the-admin-token", "invalid_admin_token"),
        (Access(TOKEN, is_local=True), b"Bearer \xff", "invalid_admin_token"),
        (Access(TOKEN, is_local=False), b"bearer the-admin-token", None),
    ],
)
def test_prompts_are_for_the_token_or_for_this_machine(
    access: Access, authorization: bytes, code: str | None
) -> None:
    """Without a token nobody from elsewhere; with one nobody without it."""
    refusal = access.refusal({b"authorization": authorization})

    assert (refusal.code if refusal is not None else None) == code


@pytest.mark.parametrize("field", [b"origin", b"x-forwarded-for", b"forwarded", b"via"])
def test_a_page_or_a_proxy_on_this_machine_is_not_its_operator(field: bytes) -> None:
    """Without a token; with one the token decides."""
    refusal = Access(None, is_local=True).refusal({field: b"https://elsewhere.example"})

    assert refusal is not None
    assert refusal.code == "admin_token_unset"
    fields = {field: b"x", b"authorization": b"Bearer the-admin-token"}
    assert Access(TOKEN, is_local=True).refusal(fields) is None


def test_a_request_nested_too_deep_is_refused(
    upstream: RealUpstream, redis_server: RedisServer, start_recollect: StartRecollect
) -> None:
    """With the field's name, and not as a defect of ours."""
    server = start_recollect(upstream.url, redis_server.url, settings())
    deep = '{"request": {"model": "m", "messages": ' + "[" * 400 + "]" * 400 + "}}"

    refused = server.post("/admin/explain", deep.encode())

    assert (refused.status, refused.json["error"]["param"]) == (400, "request")


@pytest.mark.parametrize("path", PATHS)
async def test_without_a_semantic_tier_there_is_nothing_to_tell(path: bytes) -> None:
    """409: it is off, which is no fault."""
    worker = Worker(FakeUpstream(json_play()))

    call = await worker.get(BODY, path=path.decode(), method=PATHS[path])

    assert (call.status, call.error_code) == (409, "semantic_off")


def test_an_embedding_process_that_is_away_is_said_so(
    upstream: RealUpstream, redis_server: RedisServer, start_recollect: StartRecollect
) -> None:
    """503, to be tried again; and completions go on."""
    own = settings(address=f"http://127.0.0.1:{free_port()}")
    server = start_recollect(upstream.url, redis_server.url, own)
    question = chat_body("How do I reset my password for the bank?")

    refused = [
        server.get("/admin/semantic"),
        server.post("/admin/explain", {"request": question}),
        server.post("/admin/feedback", {"request": question, "verdict": "bad"}),
    ]

    assert [answer.status for answer in refused] == [503, 503, 503]
    assert {answer.json["error"]["code"] for answer in refused} == {"semantic_unavailable"}
    assert server.post("/v1/chat/completions", question).status == 200


def test_feedback_without_redis_is_refused_and_can_be_given_again(
    upstream: RealUpstream, start_recollect: StartRecollect
) -> None:
    """Nothing is half done in silence."""
    own = settings()
    own["redis"] = {"deadline_ms": 200}
    server = start_recollect(upstream.url, f"redis://127.0.0.1:{free_port()}/0", own)

    refused = server.post("/admin/feedback", {"key": "0" * 64, "verdict": "bad"})

    assert (refused.status, refused.json["error"]["code"]) == (503, "store_unavailable")
