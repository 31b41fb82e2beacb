"""What may be stored, and the one word that says why not."""

import json
from typing import Any

import pytest

from proxy.wire.endpoint import Endpoint, Form
from proxy.wire.record import NotStorable, Recording, RecordPolicy, record
from proxy.wire.replay import fresh
from proxy.wire.template import CREATED_MARK_BYTES, ID_MARK_BYTES
from tests.proxy.wire.answers import (
    JSON_TYPE,
    POLICY,
    REFUSALS_TOO,
    SSE_TYPE,
    chunk,
    outcome,
    piece,
    reason,
    recorded,
    stream,
)

CHAT, TEXT = Endpoint.CHAT, Endpoint.COMPLETIONS
EMBED, RESPOND = Endpoint.EMBEDDINGS, Endpoint.RESPONSES


def _choice(finish: Any = "stop", **more: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": "Hi"}
    return {"index": 0, "message": message, "finish_reason": finish, **more}


def _chat(*choices: Any, **more: Any) -> dict[str, Any]:
    return {"id": "chatcmpl-1", "created": 1700000000, "choices": [*choices], **more}


def _response(**more: Any) -> dict[str, Any]:
    part = {"type": "output_text", "text": "Hi", "annotations": []}
    item = {"type": "message", "id": "msg_1", "status": "completed", "content": [part]}
    return {"id": "resp_1", "created_at": 1, "status": "completed", "output": [item], **more}


_REFUSING = {"role": "assistant", "content": None, "refusal": "I can't."}
_REFUSING_ITEM = {"type": "message", "content": [{"type": "refusal", "refusal": "No."}]}


@pytest.mark.parametrize(
    ("endpoint", "answer", "wanted"),
    [
        (CHAT, _chat(_choice()), ""),
        (CHAT, _chat(_choice("tool_calls"), _choice("stop", index=1)), ""),
        (CHAT, _chat(_choice(), error=None), ""),
        (CHAT, [], "json"),
        (CHAT, "text", "json"),
        (CHAT, {}, "json"),
        (CHAT, {"choices": {}}, "json"),
        (CHAT, _chat(1), "json"),
        (CHAT, _chat({"finish_reason": "stop", "text": "of the other endpoint"}), "json"),
        (CHAT, _chat(_choice(message=None)), "json"),
        (CHAT, _chat(_choice(message="Hi")), "json"),
        (CHAT, _chat(_choice(index=True)), "json"),
        (CHAT, _chat(_choice(index=-1)), "json"),
        (CHAT, _chat(_choice(index=2**31)), "json"),
        (CHAT, {"error": {"message": "no"}}, "error"),
        (CHAT, _chat(_choice(), error={"code": 500}), "error"),
        (CHAT, _chat(_choice(), error="overloaded"), "error"),
        (CHAT, _chat(_choice(), error={}), "error"),
        (CHAT, _chat(_choice(), object="error"), "error"),
        (CHAT, _chat(_choice(error={"code": 502})), "error"),
        (CHAT, _chat(), "incomplete"),
        (CHAT, _chat(_choice(None)), "incomplete"),
        (CHAT, _chat(_choice("")), "incomplete"),
        (CHAT, _chat(_choice(), _choice(None, index=1)), "incomplete"),
        (CHAT, _chat(_choice("length")), "finish-reason"),
        (CHAT, _chat(_choice("content_filter")), "finish-reason"),
        (CHAT, _chat(_choice({"type": "stop"})), "finish-reason"),
        (CHAT, _chat(_choice(), _choice("length", index=1)), "finish-reason"),
        (CHAT, _chat(_choice(message=_REFUSING)), "refusal"),
        (TEXT, _chat({"index": 0, "text": "Hi", "finish_reason": "stop"}), ""),
        (TEXT, _chat({"index": 0, "text": "Hi", "finish_reason": "length"}), "finish-reason"),
        (TEXT, _chat({"index": 0, "text": None, "finish_reason": "stop"}), "json"),
        (TEXT, _chat(_choice()), "json"),
        (EMBED, {"object": "list", "data": [{"index": 0, "embedding": [0.5, 1]}]}, ""),
        (EMBED, {"object": "list", "data": [{"index": 0, "embedding": "AAAAPw=="}]}, ""),
        (EMBED, {"object": "list", "data": []}, "incomplete"),
        (EMBED, {"object": "list", "data": None}, "json"),
        (EMBED, {"data": [{"embedding": [0.5]}]}, "json"),
        (EMBED, {"object": "list", "data": [None]}, "json"),
        (EMBED, {"object": "list", "data": [{"index": 0}]}, "incomplete"),
        (EMBED, {"object": "list", "data": [{"embedding": [1], "error": "no"}]}, "error"),
        (EMBED, {"object": "list", "data": [{"embedding": []}]}, "incomplete"),
        (EMBED, {"object": "list", "data": [{"embedding": [0.5, None]}]}, "json"),
        (EMBED, {"object": "list", "data": [{"embedding": {"a": 1}}]}, "json"),
        (EMBED, {"object": "list", "data": [{"embedding": [1]}], "error": "no"}, "error"),
        (RESPOND, _response(), ""),
        (RESPOND, _response(error=None, incomplete_details=None), ""),
        (RESPOND, _response(error={"code": "server_error"}), "error"),
        (RESPOND, _response(status="failed"), "error"),
        (RESPOND, _response(status="cancelled"), "error"),
        (RESPOND, _response(status="in_progress"), "incomplete"),
        (RESPOND, _response(status="queued"), "incomplete"),
        (RESPOND, _response(status=None), "incomplete"),
        (RESPOND, _response(output=[]), "incomplete"),
        (RESPOND, _response(output=None), "incomplete"),
        (RESPOND, _response(output={"0": 1}), "json"),
        (RESPOND, _response(output=["text"]), "json"),
        (RESPOND, _response(output=[{"type": 1}]), "json"),
        (RESPOND, _response(output=[{"type": "message", "content": [1]}]), "json"),
        (RESPOND, _response(output=[{"type": "reasoning", "summary": [{}]}]), "json"),
        (RESPOND, _response(output=[{"type": "message", "status": "incomplete"}]), "incomplete"),
        (RESPOND, _response(output=[{"type": "message", "content": None}]), ""),
        (RESPOND, _response(status="incomplete"), "finish-reason"),
        (RESPOND, _response(incomplete_details={"reason": "max_output_tokens"}), "finish-reason"),
        (RESPOND, _response(output=[_REFUSING_ITEM]), "refusal"),
    ],
)
def test_a_document_is_stored_only_if_it_is_complete_and_sound(
    endpoint: Endpoint, answer: Any, wanted: str
) -> None:
    """Promise 1: errors inside a 200, and design §5: only a complete answer is stored."""
    assert reason(endpoint, json.dumps(answer).encode(), Form.JSON) == wanted


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b" ",
        b"<html></html>",
        b'{"choices":',
        b'{"choices":[]}}',
        b"\xff",
        b"\xef\xbb\xbf{}",
        b'{"a":NaN}',
        b'{"a":"\\ud800"}',
    ],
)
@pytest.mark.parametrize("endpoint", list(Endpoint))
def test_what_is_no_json_is_not_stored(endpoint: Endpoint, raw: bytes) -> None:
    """Promise 1: empty and broken JSON, HTML with the wrong label."""
    assert reason(endpoint, raw, Form.JSON) == "json"


_HI = chunk([piece({"role": "assistant", "content": "Hi"})])
_STOP = chunk([piece({}, finish="stop")])
_USAGE = chunk([], usage={"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5})


@pytest.mark.parametrize(
    ("raw", "wanted"),
    [
        (stream([_HI, _STOP]), ""),
        (stream([_HI, _STOP, _USAGE]), ""),
        (stream([_HI]), "incomplete"),
        (stream([_STOP]).removesuffix(b"data: [DONE]\n\n"), "incomplete"),
        (stream([_STOP]) + b"data: {}\n\n", "incomplete"),
        (stream([_STOP]) + b"data: [DONE]\n\n", "incomplete"),
        (stream([_STOP]) + b": bye\n\n", ""),
        (stream([]), "incomplete"),
        (stream([_USAGE]), "incomplete"),
        (b"", "incomplete"),
        (stream([chunk([piece({}, finish="length")])]), "finish-reason"),
        (stream([chunk([piece({"refusal": "No"})]), _STOP]), "refusal"),
        (stream([_HI]) + b"event: error\ndata: oops\n\n", "incomplete"),
        (b"event: error\ndata: oops\n\n" + stream([_STOP]), "error"),
        (b'event: error\ndata: {"choices":[]}\n\n' + stream([_STOP]), "error"),
        (b"data: oops\n\n" + stream([_STOP]), "json"),
        (b"data: \xff\n\n" + stream([_STOP]), "json"),
        (b"event: \x00\n" + stream([_STOP]), "json"),
        (b"event: \x01\n" + stream([_STOP]), "json"),
        (stream([_STOP]).replace(b"\n", b"\r\n"), ""),
        (stream([_STOP]).replace(b"\n", b"\r\n")[:-1], "incomplete"),
        (stream([_STOP]).replace(b"\n", b"\r"), ""),
    ],
)
def test_a_stream_is_stored_only_if_it_is_complete_and_sound(raw: bytes, wanted: str) -> None:
    """Promise 2."""
    assert reason(CHAT, raw, Form.SSE) == wanted
    assert reason(TEXT, raw, Form.SSE) == wanted


def test_a_finish_reason_stays_when_later_chunks_of_the_choice_have_none() -> None:
    """Azure's content filter speaks last, with `finish_reason: null`."""
    verdict = chunk([piece({}, content_filter_results={"hate": {"filtered": False}})])

    assert reason(CHAT, stream([_HI, _STOP, verdict]), Form.SSE) == ""


def _event(kind: str, **more: Any) -> str:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **more})}\n\n"


_CREATED = _event("response.created", response={"id": "resp_1", "status": "in_progress"})
_COMPLETED = _event("response.completed", response=_response())


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (_CREATED + _COMPLETED, ""),
        (_CREATED + _COMPLETED + "data: [DONE]\n\n", ""),
        (_COMPLETED + "data: [DONE]\n\ndata: [DONE]\n\n", "incomplete"),
        (_COMPLETED.replace("event: response.completed\n", ""), ""),
        ("", "incomplete"),
        (_CREATED, "incomplete"),
        (_CREATED + "data: [DONE]\n\n", "incomplete"),
        (_COMPLETED + _CREATED, "incomplete"),
        (_COMPLETED[:-1], "incomplete"),
        (_CREATED + "data: {\n\n" + _COMPLETED, "json"),
        (_CREATED + "data: 1\n\n" + _COMPLETED, "json"),
        (_CREATED + "data: {}\n\n" + _COMPLETED, "json"),
        (_event("response.completed", response=None), "incomplete"),
        (_event("response.completed", response=_response(output=[])), "incomplete"),
        (_event("response.incomplete", response=_response(status="incomplete")), "finish-reason"),
        (_event("error", message="no") + _COMPLETED, "error"),
        ("event: error\ndata: oops\n\n" + _COMPLETED, "error"),
        ('event: error\ndata: {"message":"no"}\n\n' + _COMPLETED, "error"),
        (_event("response.failed", response={}) + _COMPLETED, "error"),
        (_event("response.output_text.delta", error={"code": 1}) + _COMPLETED, "error"),
        (_event("response.completed", response=_response(output=[_REFUSING_ITEM])), "refusal"),
    ],
)
def test_a_response_stream_is_stored_only_if_it_ends_with_the_completed_response(
    text: str, wanted: str
) -> None:
    """Promise 2, for the Responses API."""
    assert reason(RESPOND, text.encode(), Form.SSE) == wanted


def test_a_response_stream_cut_at_any_byte_is_never_storable() -> None:
    """Promise 2."""
    raw = (_CREATED + _COMPLETED).encode()

    for size in range(len(raw)):
        assert reason(RESPOND, raw[:size], Form.SSE) != "", size


def test_refusals_are_stored_if_the_operator_allows_it() -> None:
    """Design §5: by default not."""
    chat = json.dumps(_chat(_choice(message=_REFUSING))).encode()
    response = json.dumps(_response(output=[_REFUSING_ITEM])).encode()

    assert reason(CHAT, chat, Form.JSON, REFUSALS_TOO) == ""
    assert reason(RESPOND, response, Form.JSON, REFUSALS_TOO) == ""


def test_finish_reasons_are_those_the_operator_allows() -> None:
    """`cache.store_finish_reasons`."""
    policy = RecordPolicy(frozenset({"length"}), False, POLICY.max_bytes)

    assert reason(CHAT, json.dumps(_chat(_choice("length"))).encode(), Form.JSON, policy) == ""
    assert (
        reason(CHAT, json.dumps(_chat(_choice("stop"))).encode(), Form.JSON, policy)
        == "finish-reason"
    )


@pytest.mark.parametrize(
    ("content_type", "endpoint", "wanted"),
    [
        (b"application/json", CHAT, ""),
        (b"Application/JSON; charset=utf-8", CHAT, ""),
        (b"application/problem+json", CHAT, "content-type"),
        (b"text/html", CHAT, "content-type"),
        (b"text/plain; x=application/json", CHAT, "content-type"),
        (b"", CHAT, "content-type"),
        (b"text/event-stream", EMBED, "content-type"),
    ],
)
def test_only_json_and_event_streams_are_answers(
    content_type: bytes, endpoint: Endpoint, wanted: str
) -> None:
    """Promise 1: HTML inside a 200."""
    result = record(endpoint, content_type, b"", json.dumps(_chat(_choice())).encode(), POLICY)

    assert (result.reason if isinstance(result, NotStorable) else "") == wanted


def test_an_answer_as_large_as_allowed_is_stored_and_a_byte_more_is_not() -> None:
    """`cache.max_entry_bytes`."""
    raw = json.dumps(_chat(_choice())).encode()

    for size, wanted in ((len(raw), ""), (len(raw) - 1, "size")):
        policy = RecordPolicy(POLICY.finish_reasons, False, size)
        assert reason(CHAT, raw, Form.JSON, policy) == wanted


def test_a_content_coding_that_cannot_be_undone_is_not_stored() -> None:
    """Brotli has no decoder here; claiming gzip does not make it so."""
    raw = json.dumps(_chat(_choice())).encode()

    for coding in (b"br", b"gzip"):
        assert record(CHAT, JSON_TYPE, coding, raw, POLICY) == NotStorable("encoding")
    assert isinstance(record(CHAT, JSON_TYPE, b"identity", raw, POLICY), Recording)


@pytest.mark.parametrize(
    ("raw", "body"),
    [
        (b'{"id":"a","created":1,"choices":C}', b'{"id":"I","created":T,"choices":C}'),
        (b'{ "id" : "a" , "created" : 1.5e9, "choices":C}', None),
        (b'{"choices":C,"created":1,"id":"a"}', b'{"choices":C,"created":T,"id":"I"}'),
        (b'{"id":"","created":0,"choices":C}', b'{"id":"","created":0,"choices":C}'),
        (b'{"id":null,"created":"1","choices":C}', b'{"id":null,"created":"1","choices":C}'),
        (b'{"\\u0069d":"a","choices":C}', b'{"\\u0069d":"I","choices":C}'),
        (b'{"x":{"id":"a","created":1},"choices":C}', b'{"x":{"id":"a","created":1},"choices":C}'),
        (b'{"a\\"id":"a","id":"b","choices":C}', b'{"a\\"id":"a","id":"I","choices":C}'),
        (b'{"x":12345678901234567890123,"y":1.50E-05,"id":"a","choices":C}', None),
        (b'{"choices":C}', b'{"choices":C}'),
    ],
)
def test_only_the_answers_own_id_and_time_are_marked_and_no_other_byte_changes(
    raw: bytes, body: bytes | None
) -> None:
    """Promise 1; numbers keep their digits."""
    choices = b'[{"index":0,"finish_reason":"stop","message":{"id":"a","created":1}}]'
    if body is None:
        body = raw.replace(b'"a"', b'"I"').replace(b"1.5e9", b"T")
    recording = recorded(CHAT, raw.replace(b"C", choices), Form.JSON)

    marked = fresh(recording.body, b"I", b"T")
    assert marked == body.replace(b"C", choices)


def test_tokens_are_those_the_upstream_counted() -> None:
    """Metrics count the tokens a hit has saved."""
    chat = _chat(_choice(), usage={"prompt_tokens": 7, "completion_tokens": 8})
    response = _response(usage={"input_tokens": 5, "output_tokens": 6})
    odd = _chat(_choice(), usage={"prompt_tokens": -1, "completion_tokens": "8"})
    none = _chat(_choice(), usage=None)
    inline = stream([_HI, {**_STOP, "usage": {"prompt_tokens": 1, "completion_tokens": 2}}])
    early = stream([{**_HI, "usage": {"prompt_tokens": 1, "completion_tokens": 2}}, _STOP])
    response_stream = _event("response.completed", response=response).encode()

    for endpoint, raw, form, wanted in [
        (CHAT, json.dumps(chat).encode(), Form.JSON, (7, 8)),
        (RESPOND, json.dumps(response).encode(), Form.JSON, (5, 6)),
        (RESPOND, response_stream, Form.SSE, (5, 6)),
        (CHAT, json.dumps(odd).encode(), Form.JSON, (0, 0)),
        (CHAT, json.dumps(none).encode(), Form.JSON, (0, 0)),
        (CHAT, stream([_HI, _STOP, _USAGE]), Form.SSE, (3, 2)),
        (CHAT, inline, Form.SSE, (1, 2)),
        (CHAT, early, Form.SSE, (1, 2)),
    ]:
        recording = recorded(endpoint, raw, form)
        assert (recording.prompt_tokens, recording.completion_tokens) == wanted


def test_a_response_keeps_its_items_ids_and_has_its_own_marked_in_every_event() -> None:
    """The response object travels in several events; the ids of its items are content."""
    text = (
        _CREATED
        + 'data: {"type":"x","response_id":"resp_1","item_id":"msg_1","id":"resp_1"}\n\n'
        + 'data: {"type":"x","response":null,"response_id":null}\n\n'
        + 'data: {"type":"x","id":"resp_1"}\n\n'
        + _COMPLETED
    )
    body = recorded(RESPOND, text.encode(), Form.SSE).body

    assert body.count(ID_MARK_BYTES) == 3
    assert body.count(CREATED_MARK_BYTES) == 1
    assert body.count(b"resp_1") == 2
    assert body.count(b"msg_1") == 2


def test_the_recording_of_a_stream_is_the_same_with_and_without_the_short_cut() -> None:
    """Chunks alike are not parsed; the outcome must not show it. White space hides the likeness."""
    chunks = [chunk([piece({"content": text})]) for text in ("a", 'b"', "\\", "é", "\n", "\x7f")]
    alike = outcome(CHAT, stream([*chunks, _STOP]), Form.SSE)
    apart = [json.dumps(one) + " " * place for place, one in enumerate(chunks)]
    parsed = outcome(CHAT, stream([*apart, _STOP]), Form.SSE)

    assert isinstance(alike, Recording)
    assert isinstance(parsed, Recording)
    assert alike.body == b"\n".join(line.rstrip(b" ") for line in parsed.body.split(b"\n"))


def test_an_event_keeps_its_name_also_among_chunks_alike() -> None:
    """A chunk of a known shape is not parsed, but its event may be named."""
    text = json.dumps(_HI)
    raw = f"data: {text}\n\nevent: message\ndata: {text}\n\n".encode() + stream([_STOP])

    body = recorded(CHAT, raw, Form.SSE).body
    assert [line for line in body.split(b"\n") if line.startswith(b"event")] == [b"event: message"]


def test_a_chunk_that_ends_a_choice_is_judged_each_time_it_comes() -> None:
    """Chunks alike are not parsed again, but the last finish reason of a choice counts."""
    ends = [
        chunk([piece({"content": text}, finish=finish)])
        for text, finish in (("a", "length"), ("b", "stop"), ("c", "length"))
    ]

    assert reason(CHAT, stream(ends), Form.SSE) == "finish-reason"


def test_a_text_that_only_begins_or_ends_like_the_last_one_is_parsed() -> None:
    """Else what stands between, an error say, would be stored unseen."""
    known = json.dumps(chunk([piece({"content": "a"})]))
    for odd in (
        known.replace('"a"}', '"a"}, "error": 1'),
        known.replace('"a"', '"a\t"'),
        known.replace('"a"', '"a\\"'),
        known.replace('"a"', '"\\ud800"'),
        known.replace('"a"', '"\\x"'),
        known.replace("}]}", '}], "error": {"code": 1}}'),
        known[:-1],
        known + "}",
    ):
        assert reason(CHAT, stream([known, odd, _STOP]), Form.SSE) in ("json", "error"), odd


def test_the_label_of_a_stream_decides_how_it_is_read() -> None:
    """An event stream that is labelled JSON is neither."""
    raw = stream([_HI, _STOP])

    assert record(CHAT, JSON_TYPE, b"", raw, POLICY) == NotStorable("json")
    assert isinstance(record(CHAT, SSE_TYPE + b";charset=UTF-8", b"", raw, POLICY), Recording)
