"""Which request goes where, and how it is counted and logged."""

import asyncio
import logging

import pytest

from proxy.upstreams.upstream import UpstreamCut
from tests.proxy.fakes import FakeUpstream, Play, Worker, chat, json_play, settle, stream_play
from tests.proxy.test_metrics import counted

pytestmark = pytest.mark.virtual_time

_ADMIN = 9090


@pytest.mark.parametrize(
    "path",
    ["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses"],
)
async def test_post_to_a_cacheable_endpoint_is_told_from_all_else(path: str) -> None:
    """Only POST is cached; every answer of such an endpoint says so."""
    upstream = FakeUpstream(json_play())
    worker = Worker(upstream)

    posted = await worker.get(b"{not json", path)
    got = await worker.get(path=path, method="GET")

    assert posted.cache_status == "recollect; fwd=bypass; detail=malformed"
    assert not got.all(b"cache-status")
    assert [sent.path for sent in upstream.sent] == [path.removeprefix("/v1")] * 2


@pytest.mark.parametrize(
    "path", ["/", "/v1", "/v2/models", "/docs", "/openapi.json", "/favicon.ico", "/V1/models"]
)
async def test_path_outside_the_base_is_not_found_in_openais_form(path: str) -> None:
    """Issue §5; and no docs pages on the data listener (promise 21)."""
    upstream = FakeUpstream(json_play())

    call = await Worker(upstream).get(path=path, method="GET")

    assert (call.status, call.error_code) == (404, "not_found")
    assert upstream.calls == 0


@pytest.mark.parametrize(
    "path",
    [
        "/v1/../admin",
        "/v1/..",
        "/v1/a/./b",
        "/v1/%2e%2e/admin",
        "/v1/%2E./admin",
        "/v1/a/..%2f..%2Fadmin",
        "/v1/..\\admin",
    ],
)
async def test_path_that_climbs_is_refused(path: str) -> None:
    """Promise 17: what is reached upstream lies under the configured base."""
    upstream = FakeUpstream(json_play())

    call = await Worker(upstream).get(path=path, method="GET")

    assert call.status == 404
    assert upstream.calls == 0


@pytest.mark.parametrize("path", ["/v1/a..b/c", "/v1/...", "/v1/files/x.y", "/v1/%252e%252e/x"])
async def test_path_with_innocent_dots_passes(path: str) -> None:
    """A dot segment is a whole segment (RFC 3986 §3.3)."""
    upstream = FakeUpstream(json_play())

    assert (await Worker(upstream).get(path=path, method="GET")).status == 200


async def test_admin_listener_has_health_and_nothing_else() -> None:
    """Promise 21: told by the listener's own port, whatever the Host field says."""
    upstream = FakeUpstream(json_play())
    worker = Worker(upstream, admin_port=_ADMIN)
    lies = {"host": f"localhost:{_ADMIN}", "x-forwarded-port": str(_ADMIN)}

    for path in ("/healthz", "/readyz", "/metrics"):
        there = await worker.get(path=path, method="GET", port=_ADMIN)
        here = await worker.get(path=path, method="GET", headers=lies)
        assert (there.status, here.status) == (200, 404), path
    for path, method in (("/v1/chat/completions", "POST"), ("/v1/models", "GET")):
        call = await worker.get(chat(), path, method=method, port=_ADMIN)
        assert call.status == 404, path
    assert upstream.calls == 0
    assert (await worker.get(chat())).status == 200


async def test_without_an_admin_listener_health_is_on_the_data_listener() -> None:
    """The default."""
    worker = Worker(FakeUpstream(json_play()))

    for path in ("/healthz", "/readyz", "/metrics"):
        assert (await worker.get(path=path, method="GET")).status == 200, path


async def test_every_request_is_counted_once_by_endpoint_and_outcome() -> None:
    """Issue §6."""
    gate = asyncio.Event()
    upstream = FakeUpstream(
        json_play(gate=gate),
        json_play(),
        Play([b"{}"], status=500),
        stream_play([UpstreamCut("c")]),
    )
    worker = Worker(upstream)
    expected = {
        ("chat", "miss"): 2,
        ("chat", "collapsed"): 1,
        ("chat", "hit-memory"): 1,
        ("chat", "hit-redis"): 1,
        ("chat", "not-cached"): 1,
        ("chat", "refused"): 1,
        ("chat", "bypass"): 1,
        ("chat", "upstream-error"): 2,
        ("chat", "gone"): 1,
        ("other", "passed"): 1,
        ("other", "refused"): 1,
    }
    before = counted("recollect_requests_total")

    both = [worker.ask(chat()), worker.ask(chat())]
    await settle()
    gate.set()
    for call in both:
        await call.done()
    await worker.get(chat())
    await settle()
    worker.forget()
    await worker.get(chat())
    await worker.get(chat("another"))
    await worker.get(chat("failing"))
    await worker.get(chat("cut", stream=True))
    await worker.get(chat("unknown"), headers={"cache-control": "only-if-cached"})
    await worker.get(chat(model=1))
    upstream.plays = [json_play()]
    await worker.get(b"{not json")
    await worker.get(path="/v1/models", method="GET")
    await worker.get(path="/elsewhere", method="GET")
    upstream.plays = [json_play(gate=asyncio.Event())]
    leaving = worker.ask(chat("never"))
    await settle()
    leaving.leave()
    await leaving.done()
    worker.metrics.flush()

    after = counted("recollect_requests_total")
    changes = {
        tuple(dict(labels).values()): round(value - before.get(labels, 0))
        for labels, value in after.items()
        if value != before.get(labels, 0)
    }
    assert changes == expected


class Defective(FakeUpstream):
    """Fails in a way that nobody has foreseen."""

    async def send(self, *args: object) -> object:  # type: ignore[override]
        """Fail."""
        raise ZeroDivisionError("the prompt was: secret")


async def test_defect_of_ours_is_told_in_openais_form(caplog: pytest.LogCaptureFixture) -> None:
    """Promise 19: no traceback and no plain text for the client; the operator gets a log line."""
    call = await Worker(Defective()).get(path="/v1/models", method="GET")

    assert (call.status, call.error_code) == (500, "defect")
    assert b"secret" not in call.body
    assert "a request failed by a defect" in caplog.text


async def test_defect_after_the_head_leaves_the_answer_open() -> None:
    """No second head, no ending: the client sees a cut."""
    upstream = FakeUpstream(Play([b"part", ZeroDivisionError()]))

    call = await Worker(upstream).get(path="/v1/models", method="GET")

    assert call.status == 200
    assert not call.is_ended


async def test_each_request_is_logged_once_where_that_is_wanted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """One structured line; without prompt, answer, credential or query (promise 20)."""
    caplog.set_level(logging.INFO, "recollect.request")
    worker = Worker(FakeUpstream(json_play("the answer")), log={"requests": True})

    await worker.get(
        chat("the prompt"), query="key=in-query", headers={"authorization": "Bearer the-key"}
    )

    (record,) = [r for r in caplog.records if r.name == "recollect.request"]
    fields = vars(record)
    assert record.getMessage() == "miss"
    assert fields["endpoint"] == "chat"
    assert fields["status"] == 200
    assert fields["cache_status"] == "recollect; fwd=miss; stored"
    for secret in ("the prompt", "the answer", "the-key", "in-query"):
        assert secret not in repr(fields)


async def test_requests_are_not_logged_by_default(caplog: pytest.LogCaptureFixture) -> None:
    """A line costs more than a hit."""
    caplog.set_level(logging.INFO)

    await Worker(FakeUpstream(json_play())).get(chat())

    assert not [r for r in caplog.records if r.name == "recollect.request"]
