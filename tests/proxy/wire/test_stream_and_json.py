"""Any answer, in any framing, says the same whether it is replayed as a stream or as JSON."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion

from proxy.wire.endpoint import Endpoint, Form
from proxy.wire.replay import render, split_events
from tests.proxy.wire.answers import (
    ANSWERS,
    FIRST_CREATED,
    FIRST_ID,
    FRAMINGS,
    FRESH_CREATED,
    FRESH_ID,
    REFUSALS_TOO,
    Answer,
    Framing,
    Said,
    accumulated,
    chunks_of,
    reason,
    recorded,
    replayed,
    stream,
)

CHAT = Endpoint.CHAT


@given(answer=ANSWERS, framing=FRAMINGS)
@settings(max_examples=150, deadline=None)
def test_a_stream_is_replayed_chunk_by_chunk_whatever_its_framing(
    answer: Answer, framing: Framing
) -> None:
    """Promises 1 and 4: all but id and created is equal, in the chunks it came in."""
    chunks = answer.chunks()
    recording = recorded(CHAT, framing.frame(chunks), Form.SSE, REFUSALS_TOO)

    wanted = [{**one, "id": FRESH_ID.decode(), "created": int(FRESH_CREATED)} for one in chunks]
    has_usage = answer.usage is not None
    assert chunks_of(replayed(recording, CHAT, Form.SSE, has_usage)) == wanted
    assert chunks_of(replayed(recording, CHAT, Form.SSE)) == wanted[: -1 if has_usage else None]
    if not has_usage:
        assert render(recording, CHAT, Form.SSE, True) is None


@given(answer=ANSWERS, framing=FRAMINGS)
@settings(max_examples=150, deadline=None)
def test_a_stream_becomes_the_document_that_says_the_same(answer: Answer, framing: Framing) -> None:
    """Design §5: content, reasoning, refusal, tool calls, choices, logprobs, usage, finish."""
    recording = recorded(CHAT, framing.frame(answer.chunks()), Form.SSE, REFUSALS_TOO)
    raw = replayed(recording, CHAT, Form.JSON)

    document = json.loads(raw)
    answer.matches(document)
    assert document.get("usage") == answer.usage
    assert document["id"] == FRESH_ID.decode()
    assert document["created"] == int(FRESH_CREATED)
    assert document["object"] == "chat.completion"
    ChatCompletion.model_validate_json(raw)


@given(answer=ANSWERS, framing=FRAMINGS)
@settings(max_examples=100, deadline=None)
def test_a_document_becomes_a_stream_from_which_openai_reads_the_same(
    answer: Answer, framing: Framing
) -> None:
    """There and back: stream, document, recorded as such, stream, openai-python's reading."""
    first = recorded(CHAT, framing.frame(answer.chunks()), Form.SSE, REFUSALS_TOO)
    document = replayed(first, CHAT, Form.JSON)
    recording = recorded(CHAT, document, Form.JSON, REFUSALS_TOO)
    chunks = chunks_of(replayed(recording, CHAT, Form.SSE))

    answer.matches(accumulated(chunks))
    answer.matches(accumulated(answer.chunks()))
    again = recorded(CHAT, stream(chunks), Form.SSE, REFUSALS_TOO)
    back = json.loads(replayed(again, CHAT, Form.JSON))
    once = json.loads(document)
    once.pop("usage", None)
    assert back == once
    if answer.usage is None:
        assert render(recording, CHAT, Form.SSE, True) is None
    else:
        *_, last = chunks_of(replayed(recording, CHAT, Form.SSE, True))
        assert (last["choices"], last["usage"]) == ([], answer.usage)


@given(answer=ANSWERS, framing=FRAMINGS)
@settings(max_examples=100, deadline=None)
def test_the_first_id_is_left_only_where_it_is_part_of_what_was_said(
    answer: Answer, framing: Framing
) -> None:
    """Promise 1: id and created are fresh, and what looks like them in the text survives."""
    recording = recorded(CHAT, framing.frame(answer.chunks()), Form.SSE, REFUSALS_TOO)
    for form in Form:
        raw = replayed(recording, CHAT, form)
        documents = chunks_of(raw) if form is Form.SSE else [json.loads(raw)]
        for document in documents:
            assert document["id"] == FRESH_ID.decode()
            assert document["created"] == int(FRESH_CREATED)


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_a_stream_cut_at_any_byte_is_never_storable(line_end: str) -> None:
    """Promise 2, byte by byte."""
    said = Said(["Hé", " 👋"], [], [], [("call_1", "f", ["{", "}"])], True, "tool_calls")
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    framing = Framing(line_end, False, True, None, False, " ")
    raw = framing.frame(Answer([said], usage).chunks())
    assert reason(CHAT, raw, Form.SSE) == ""

    for size in range(len(raw)):
        assert reason(CHAT, raw[:size], Form.SSE) != "", size


@given(answer=ANSWERS, framing=FRAMINGS, share=st.floats(0, 1, exclude_max=True))
@settings(max_examples=200, deadline=None)
def test_any_stream_cut_anywhere_is_never_storable(
    answer: Answer, framing: Framing, share: float
) -> None:
    """Promise 2, for any answer in any framing."""
    raw = framing.frame(answer.chunks())

    assert reason(CHAT, raw[: int(share * len(raw))], Form.SSE, REFUSALS_TOO) != ""


_JUNK: list[Any] = [
    "{",
    "not JSON",
    "[]",
    "1",
    '"text"',
    "null",
    "{}",
    '{"choices":null}',
    '{"choices":[null]}',
    '{"choices":[{"index":"0","delta":{}}]}',
    '{"choices":[{"index":0,"delta":"text"}]}',
    '{"choices":[{"index":0,"delta":{"content":"cut',
    '{"choices":[{"index":0,"delta":{"content":"\\ud83d"}}]}',
    '{"choices":[{"index":0,"delta":{"content":NaN}}]}',
    '{"error":{"message":"out of memory"}}',
    '{"error":"overloaded","choices":[]}',
    '{"object":"error","message":"no","choices":[]}',
    '{"choices":[{"index":0,"delta":{},"error":{"code":502}}]}',
    "<html>",
    "[DONE]",
]


@given(answer=ANSWERS, framing=FRAMINGS, junk=st.sampled_from(_JUNK), place=st.integers(0, 1000))
@settings(max_examples=300, deadline=None)
def test_a_stream_with_one_bad_chunk_anywhere_is_never_storable(
    answer: Answer, framing: Framing, junk: str, place: int
) -> None:
    """Promise 2: error event, unparsable chunk, data after the end."""
    chunks: list[Any] = [*answer.chunks()]
    chunks.insert(place % (len(chunks) + 1), junk)

    assert reason(CHAT, framing.frame(chunks), Form.SSE, REFUSALS_TOO) != ""


@pytest.mark.parametrize("junk", _JUNK)
def test_each_bad_chunk_is_refused_in_the_middle_of_chunks_alike(junk: str) -> None:
    """The short cut for chunks of a known shape must not let anything slip through."""
    plain = Answer([Said(["a", "b", "c", "d"], [], [], [], False, "stop")], None).chunks()
    for place in range(len(plain) + 1):
        assert reason(CHAT, stream([*plain[:place], junk, *plain[place:]]), Form.SSE) != ""
    assert reason(CHAT, stream(plain), Form.SSE) == ""


@given(answer=ANSWERS, dropped=st.integers(0, 2))
@settings(max_examples=50, deadline=None)
def test_a_choice_that_never_ended_is_not_storable(answer: Answer, dropped: int) -> None:
    """Promise 2: a clean end with `[DONE]`, but one choice has no finish reason."""
    index = dropped % len(answer.choices)
    chunks = answer.chunks()
    for one in chunks:
        for choice in one["choices"]:
            if choice["index"] == index:
                choice["finish_reason"] = None

    assert reason(CHAT, stream(chunks), Form.SSE, REFUSALS_TOO) == "incomplete"


@given(answer=ANSWERS)
@settings(max_examples=30, deadline=None)
def test_the_events_of_a_stream_joined_are_the_stream(answer: Answer) -> None:
    """Paced replay sends the same bytes."""
    recording = recorded(CHAT, stream(answer.chunks()), Form.SSE, REFUSALS_TOO)
    template = render(recording, CHAT, Form.SSE, False)
    assert template is not None
    events = split_events(template)

    assert b"".join(events) == template
    assert len(events) == len(chunks_of(replayed(recording, CHAT, Form.SSE))) + 1


def test_the_constants_of_these_tests_differ() -> None:
    """Else a replay that keeps the first id would pass."""
    assert FRESH_ID.decode() != FIRST_ID
    assert int(FRESH_CREATED) != FIRST_CREATED
