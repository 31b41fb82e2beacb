"""The forms a recording can be replayed in, and those it cannot."""

import json
from collections.abc import Iterator
from typing import Any, cast

import httpx
import pytest
from openai import OpenAI
from openai.types import Completion, CreateEmbeddingResponse

from proxy.wire.endpoint import Endpoint, Form
from proxy.wire.replay import fresh, new_id, render, split_events
from tests.proxy.wire.answers import (
    FRESH_CREATED,
    FRESH_ID,
    JSON_TYPE,
    REFUSALS_TOO,
    SSE_TYPE,
    chunk,
    chunks_of,
    datas,
    piece,
    recorded,
    replayed,
    stream,
)

CHAT, TEXT = Endpoint.CHAT, Endpoint.COMPLETIONS
EMBED, RESPOND = Endpoint.EMBEDDINGS, Endpoint.RESPONSES

_USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
_HI = chunk([piece({"role": "assistant", "content": "Hi"})])
_STOP = chunk([piece({}, finish="stop")])


def _document(*chunks: Any, endpoint: Endpoint = CHAT) -> dict[str, Any]:
    recording = recorded(endpoint, stream(chunks), Form.SSE)
    document: dict[str, Any] = json.loads(replayed(recording, endpoint, Form.JSON))
    return document


def _message(*deltas: dict[str, Any]) -> dict[str, Any]:
    document = _document(*(chunk([piece(delta)]) for delta in deltas), _STOP)
    message: dict[str, Any] = document["choices"][0]["message"]
    return message


@pytest.mark.parametrize("endpoint", list(Endpoint))
def test_ids_are_in_the_manner_of_the_endpoint(endpoint: Endpoint) -> None:
    """Clients sort by these prefixes."""
    prefix = {CHAT: b"chatcmpl-", TEXT: b"cmpl-", EMBED: b"embd-", RESPOND: b"resp_"}[endpoint]

    assert new_id(endpoint, b"\x00\xff") == prefix + b"00ff"


def test_numbers_keep_their_digits_in_every_form() -> None:
    """Not re-rounded, not re-formatted: -1.50E-05 and integers past 64 bits."""
    numbers = ["-1.50E-05", "12345678901234567890123", "0.1000000000000000055", "1.0"]
    text = ",".join(numbers)
    rest = f'"logprobs":{{"content":[{text}]}}'
    head = f'{{"id":"a","created":1,"x":[{text}],"choices":[{{"index":0,{rest}'
    chunk_text = f'{head},"delta":{{"content":"a"}},"finish_reason":null}}]}}'
    document_text = f'{head},"message":{{"content":"a"}},"finish_reason":"stop"}}]}}'
    recordings = [
        recorded(CHAT, stream([chunk_text, _STOP]), Form.SSE),
        recorded(CHAT, document_text.encode(), Form.JSON),
    ]

    for recording in recordings:
        for form in Form:
            assert replayed(recording, CHAT, form).decode().count(f"[{text}]") == 2


def test_usage_in_a_chunk_of_its_own_goes_only_to_those_who_ask() -> None:
    """OpenAI's `stream_options.include_usage`; promise 4."""
    recording = recorded(CHAT, stream([_HI, _STOP, chunk([], usage=_USAGE)]), Form.SSE)

    asked = chunks_of(replayed(recording, CHAT, Form.SSE, True))
    assert [one["choices"] == [] for one in asked] == [False, False, True]
    assert asked[-1]["usage"] == _USAGE
    assert chunks_of(replayed(recording, CHAT, Form.SSE)) == asked[:-1]
    assert json.loads(replayed(recording, CHAT, Form.JSON))["usage"] == _USAGE


def test_usage_said_on_request_in_every_chunk_is_null_for_those_who_did_not_ask() -> None:
    """vLLM's `continuous_usage_stats` comes with a usage chunk."""
    chunks = [{**_HI, "usage": _USAGE}, {**_STOP, "usage": _USAGE}, chunk([], usage=_USAGE)]
    chunks[0]["choices"][0]["delta"]["content"] = '"usage":{"usage": {'
    recording = recorded(CHAT, stream(chunks), Form.SSE)

    unasked = chunks_of(replayed(recording, CHAT, Form.SSE))
    assert [one["usage"] for one in unasked] == [None, None]
    assert unasked[0]["choices"] == chunks[0]["choices"]
    assert [one["usage"] for one in chunks_of(replayed(recording, CHAT, Form.SSE, True))] == [
        _USAGE
    ] * 3


def test_usage_of_a_server_that_always_puts_it_into_the_last_chunk_stays_as_sent() -> None:
    """DeepSeek, Mistral, llama.cpp's text completions."""
    recording = recorded(CHAT, stream([_HI, {**_STOP, "usage": _USAGE}]), Form.SSE)

    asked = chunks_of(replayed(recording, CHAT, Form.SSE, True))
    assert asked[-1]["usage"] == _USAGE
    assert asked[-1]["choices"]
    assert chunks_of(replayed(recording, CHAT, Form.SSE)) == asked
    assert json.loads(replayed(recording, CHAT, Form.JSON))["usage"] == _USAGE


def test_a_stream_without_usage_cannot_answer_who_asks_for_it() -> None:
    """The upstream has to."""
    recording = recorded(CHAT, stream([_HI, {**_STOP, "usage": None}]), Form.SSE)

    assert render(recording, CHAT, Form.SSE, True) is None
    assert json.loads(replayed(recording, CHAT, Form.JSON)).get("usage") is None


def test_null_usage_in_chunks_is_left_as_it_is() -> None:
    """OpenAI sends it beside the usage chunk."""
    chunks = [{**_HI, "usage": None}, {**_STOP, "usage": None}, chunk([], usage=_USAGE)]
    recording = recorded(CHAT, stream(chunks), Form.SSE)

    assert b'"usage": null' in replayed(recording, CHAT, Form.SSE)


def test_embeddings_are_documents_only() -> None:
    """There is no stream of embeddings. openai-python reads the document."""
    raw = json.dumps(
        {
            "object": "list",
            "id": "embd-first",
            "created": 1,
            "model": "m",
            "data": [{"object": "embedding", "index": 0, "embedding": [0.25, 1]}],
            "usage": {"prompt_tokens": 1, "total_tokens": 1},
        }
    ).encode()
    recording = recorded(EMBED, raw, Form.JSON)

    assert render(recording, EMBED, Form.SSE, False) is None
    read = CreateEmbeddingResponse.model_validate_json(replayed(recording, EMBED, Form.JSON))
    assert read.data[0].embedding == [0.25, 1]
    assert read.model_extra == {"id": FRESH_ID.decode(), "created": int(FRESH_CREATED)}


def test_embeddings_without_an_id_are_stored_byte_by_byte() -> None:
    """Most servers send none, and one must not appear."""
    raw = b'{ "object":"list", "data":[{"embedding":[1.50,-0.0]}] }'

    assert replayed(recorded(EMBED, raw, Form.JSON), EMBED, Form.JSON) == raw


def test_text_completions_go_both_ways() -> None:
    """Texts are joined, the four lists of logprobs too; a token named `index` is no index."""
    logprobs = [
        {
            "tokens": ["a"],
            "token_logprobs": [-2.5],
            "top_logprobs": [{"index": 0}],
            "text_offset": [0],
        },
        {
            "tokens": ["b"],
            "token_logprobs": [-1.5],
            "top_logprobs": [{"index": 0}],
            "text_offset": [1],
        },
        None,
    ]
    chunks = [
        {
            "id": "cmpl-1",
            "object": "text_completion",
            "created": 1,
            "model": "m",
            "choices": [{"index": 0, "text": text, "logprobs": entry, "finish_reason": finish}],
        }
        for text, entry, finish in zip("ab", logprobs[:2], (None, None), strict=True)
    ]
    end = {"index": 0, "text": "", "logprobs": None, "finish_reason": "stop"}
    chunks.append({**chunks[0], "choices": [end]})
    document = _document(*chunks, endpoint=TEXT)

    assert document["object"] == "text_completion"
    assert document["choices"] == [
        {
            "index": 0,
            "text": "ab",
            "logprobs": {
                "tokens": ["a", "b"],
                "token_logprobs": [-2.5, -1.5],
                "top_logprobs": [{"index": 0}, {"index": 0}],
                "text_offset": [0, 1],
            },
            "finish_reason": "stop",
        }
    ]
    Completion.model_validate(document)
    again = recorded(TEXT, json.dumps(document).encode(), Form.JSON)
    parts = chunks_of(replayed(again, TEXT, Form.SSE))
    assert [part["choices"][0]["text"] for part in parts] == ["ab", ""]
    assert [part["object"] for part in parts] == ["text_completion"] * 2
    assert _document(*parts, endpoint=TEXT)["choices"] == document["choices"]


def test_choices_of_a_document_without_indices_are_numbered() -> None:
    """Some servers leave `index` out."""
    choices = [{"message": {"content": text}, "finish_reason": "stop"} for text in "ab"]
    recording = recorded(CHAT, json.dumps({"choices": choices}).encode(), Form.JSON)

    parts = chunks_of(replayed(recording, CHAT, Form.SSE))
    assert [part["choices"][0]["index"] for part in parts] == [0, 1] * 3
    assert "id" not in parts[0]
    assert "created" not in parts[0]
    assert [choice["index"] for choice in _document(*parts)["choices"]] == [0, 1]


def test_choices_are_in_order_however_they_came() -> None:
    """With n > 1 they take turns as they are ready."""
    says = [chunk([piece({"content": str(index)}, index)]) for index in (2, 0, 1)]
    ends = [chunk([piece({}, index, "stop") for index in range(3)])]

    choices = _document(*says, *ends)["choices"]
    assert [(choice["index"], choice["message"]["content"]) for choice in choices] == [
        *((0, "0"), (1, "1"), (2, "2"))
    ]


@pytest.mark.parametrize(
    ("deltas", "message"),
    [
        ([], {"role": "assistant", "content": None}),
        ([{"role": "assistant"}, {"role": "assistant", "content": "a"}], {"content": "a"}),
        ([{"role": "tool"}, {"role": ""}], {"role": "tool"}),
        ([{"content": None}, {"content": "a"}, {"content": None}], {"content": "a"}),
        ([{"reasoning": "a"}, {"reasoning": "b"}], {"content": None, "reasoning": "ab"}),
        ([{"unknown": ["a"]}, {"unknown": ["b"]}], {"unknown": ["a", "b"]}),
        ([{"unknown": 1}, {"unknown": True}], {"unknown": True}),
        ([{"unknown": None}], {"unknown": None}),
        (
            [
                {"function_call": {"name": "f", "arguments": "{"}},
                {"function_call": {"arguments": "}"}},
            ],
            {"function_call": {"name": "f", "arguments": "{}"}},
        ),
        (
            [
                {"tool_calls": [{"index": 1, "id": "b", "function": {"arguments": "2"}}]},
                {"tool_calls": [{"index": 0, "id": "a", "type": "function"}]},
                {"tool_calls": [{"index": 1, "id": "b", "function": {"arguments": "3"}}]},
            ],
            {
                "tool_calls": [
                    {"id": "a", "type": "function"},
                    {"id": "b", "function": {"arguments": "23"}},
                ]
            },
        ),
        (
            [{"tool_calls": [{"index": 0, "id": "a"}, {"index": 0, "function": {"name": "f"}}]}],
            {"tool_calls": [{"id": "a", "function": {"name": "f"}}]},
        ),
        # Ollama and Gemini have sent whole calls without an index.
        (
            [{"tool_calls": [{"id": "a"}]}, {"tool_calls": [{"id": "b"}]}],
            {"tool_calls": [{"id": "a"}, {"id": "b"}]},
        ),
        (
            [
                {"reasoning_details": [{"index": 0, "type": "t", "format": "x", "text": "a"}]},
                {"reasoning_details": [{"index": 0, "type": "t", "format": "x", "text": "b"}]},
            ],
            {"reasoning_details": [{"index": 0, "type": "t", "format": "x", "text": "ab"}]},
        ),
    ],
)
def test_deltas_are_put_together(deltas: list[dict[str, Any]], message: dict[str, Any]) -> None:
    """Strings and lists grow, entries are told apart by their index, names stay whole."""
    whole = {"role": "assistant", "content": None, **message}

    assert _message(*deltas) == whole


@pytest.mark.parametrize(
    "deltas",
    [
        [{"content": "a"}, {"content": [{"type": "text"}]}],
        [{"content": [{"type": "text"}]}, {"content": "a"}],
        [{"audio": {"id": "a"}}, {"audio": "b"}],
        [{"audio": "b"}, {"audio": {"id": "a"}}],
        [{"x": "a"}, {"x": 1}],
    ],
)
def test_pieces_of_different_kinds_are_replayed_as_a_stream_but_not_as_a_document(
    deltas: list[dict[str, Any]],
) -> None:
    """What we do not understand, the upstream has to answer."""
    raw = stream([*(chunk([piece(delta)]) for delta in deltas), _STOP])
    recording = recorded(CHAT, raw, Form.SSE)

    assert render(recording, CHAT, Form.JSON, False) is None
    assert render(recording, CHAT, Form.SSE, False) is not None


def test_a_chunk_with_a_whole_message_is_not_put_together_with_deltas() -> None:
    """MiniMax repeats everything in its last chunk."""
    last = chunk([{"index": 0, "message": {"content": "Hi"}, "finish_reason": "stop"}])
    recording = recorded(CHAT, stream([_HI, last]), Form.SSE)

    assert render(recording, CHAT, Form.JSON, False) is None


@pytest.mark.parametrize("form", list(Form))
def test_what_is_nested_too_deeply_is_replayed_only_as_it_came(form: Form) -> None:
    """Valid JSON, but more than Python's writers do."""
    deep = "[" * 400 + "]" * 400
    said = '{"index":0,"%s":{"x":%s},"finish_reason":"stop"}'
    name = "message" if form is Form.JSON else "delta"
    text = f'{{"choices":[{said % (name, deep)}]}}'
    raw = text.encode() if form is Form.JSON else stream([text])
    recording = recorded(CHAT, raw, form)

    for wanted in Form:
        assert (render(recording, CHAT, wanted, False) is None) is (wanted is not form)


def test_what_is_said_of_a_choice_is_kept() -> None:
    """Azure's filter results, vLLM's token ids and stop reason; the last word wins."""
    document = _document(
        chunk([], prompt_filter_results=[{"prompt_index": 0}], object=""),
        chunk([piece({"content": "a"}, token_ids=[1], stop_reason=None)], obfuscation="xx"),
        chunk(
            [
                piece(
                    {"content": "b"},
                    token_ids=[2],
                    content_filter_results={"hate": {"filtered": True}},
                )
            ]
        ),
        chunk([piece({}, content_filter_results={"hate": {"filtered": False}, "sex": {}})]),
        chunk([piece({}, finish="stop", stop_reason="</s>")], timings={"ms": 1.5}, model="last"),
    )

    assert document["prompt_filter_results"] == [{"prompt_index": 0}]
    assert document["timings"] == {"ms": 1.5}
    assert document["model"] == "last"
    assert document["object"] == "chat.completion"
    assert "obfuscation" not in document
    assert document["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "ab"},
            "token_ids": [1, 2],
            "stop_reason": "</s>",
            "content_filter_results": {"hate": {"filtered": False}, "sex": {}},
            "finish_reason": "stop",
        }
    ]


def test_what_is_not_a_list_of_calls_is_passed_on() -> None:
    """`tool_calls: null`, and vLLM's empty list."""
    nothing: list[list[Any] | None] = [None, []]
    for calls in nothing:
        message = {"role": "assistant", "content": "a", "tool_calls": calls}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        recording = recorded(CHAT, json.dumps({"choices": [choice]}).encode(), Form.JSON)
        parts = chunks_of(replayed(recording, CHAT, Form.SSE))
        assert parts[1]["choices"][0]["delta"] == {"content": "a", "tool_calls": calls}
        assert _document(*parts)["choices"][0]["message"] == message


def test_odd_indices_of_calls_do_not_break_the_document() -> None:
    """They are the upstream's, and unchecked."""
    calls: list[Any] = [{"index": "x", "id": "a"}, 7, {"index": 1.5, "id": "b"}]

    assert _message({"tool_calls": calls})["tool_calls"] == [{"id": "a"}, {"id": "b"}]


_PART = {
    "type": "output_text",
    "text": "Hé 👋",
    "annotations": [
        {"type": "url_citation", "url": "u", "title": "t", "start_index": 0, "end_index": 1}
    ],
    "logprobs": [{"token": "H", "logprob": -0.5, "bytes": [72], "top_logprobs": []}],
}
_OUTPUT: list[dict[str, Any]] = [
    {
        "type": "reasoning",
        "id": "rs_1",
        "summary": [{"type": "summary_text", "text": "Thinking"}],
        "content": [{"type": "reasoning_text", "text": "Hm"}],
    },
    {
        "type": "message",
        "id": "msg_1",
        "role": "assistant",
        "status": "completed",
        "content": [_PART, {"type": "output_text", "text": "", "annotations": []}],
    },
    {
        "type": "function_call",
        "id": "fc_1",
        "call_id": "call_1",
        "name": "f",
        "arguments": '{"a":1}',
        "status": "completed",
    },
    {"type": "custom_tool_call", "id": "ct_1", "call_id": "c", "name": "g", "input": "x"},
]
_UNKNOWN: list[dict[str, Any]] = [
    {"type": "message", "id": "msg_2", "content": [{"type": "new"}], "summary": None},
    {"type": "mcp_call", "id": "mcp_1", "arguments": None},
    {"type": "function_call", "id": "fc_2", "call_id": "call_2", "arguments": "{}"},
    {"type": "newer"},
]
_RESPONSE = {
    "id": "resp_first",
    "object": "response",
    "created_at": 1700000000,
    "status": "completed",
    "model": "m",
    "output": _OUTPUT,
    "parallel_tool_calls": True,
    "tool_choice": "auto",
    "tools": [],
    "usage": {
        "input_tokens": 1,
        "output_tokens": 2,
        "total_tokens": 3,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens_details": {"reasoning_tokens": 1},
    },
}
_RENEWED = {**_RESPONSE, "id": FRESH_ID.decode(), "created_at": int(FRESH_CREATED)}


def _openai(body: bytes, content_type: bytes = SSE_TYPE) -> OpenAI:
    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, headers={"content-type": content_type.decode()}, content=body)

    return OpenAI(
        api_key="none",
        base_url="http://upstream.test/v1",
        # Any client of httpx's shape will do; the types name openai-python's own copy of it.
        http_client=cast(Any, httpx.Client(transport=httpx.MockTransport(answer))),
    )


@pytest.mark.parametrize("indent", [None, 2])
def test_a_response_becomes_events_from_which_openai_reads_the_same(indent: int | None) -> None:
    """openai-python's `responses.stream` checks every event against the state so far."""
    recording = recorded(RESPOND, json.dumps(_RESPONSE, indent=indent).encode(), Form.JSON)
    raw = replayed(recording, RESPOND, Form.SSE)

    events = [json.loads(text) for text in datas(raw)]
    assert [event["sequence_number"] for event in events] == [*range(len(events))]
    with (
        _openai(raw) as client,
        client.responses.stream(model="m", input="x") as responses,
    ):
        kinds = [event.type for event in responses]
        final = responses.get_final_response()
    with _openai(replayed(recording, RESPOND, Form.JSON), JSON_TYPE) as client:
        document = client.responses.parse(model="m", input="x")
    assert final.model_dump() == document.model_dump()
    assert final.id == FRESH_ID.decode()
    assert final.output_text == "Hé 👋"
    assert kinds == [event["type"] for event in events]
    assert kinds[:3] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
    ]
    assert events[0]["response"]["output"] == []
    assert events[0]["response"]["status"] == "in_progress"
    assert events[0]["response"]["usage"] is None
    assert events[-1]["response"] == _RENEWED


def test_the_deltas_of_a_response_say_what_its_items_say() -> None:
    """For clients that read deltas alone."""
    output = _OUTPUT + _UNKNOWN
    recording = recorded(RESPOND, json.dumps({**_RESPONSE, "output": output}).encode(), Form.JSON)
    events = [json.loads(text) for text in datas(replayed(recording, RESPOND, Form.SSE))]
    said = [
        (event["type"], event["item_id"], event["delta"]) for event in events if "delta" in event
    ]

    assert said == [
        ("response.reasoning_summary_text.delta", "rs_1", "Thinking"),
        ("response.reasoning_text.delta", "rs_1", "Hm"),
        ("response.output_text.delta", "msg_1", "Hé 👋"),
        ("response.output_text.delta", "msg_1", ""),
        ("response.function_call_arguments.delta", "fc_1", '{"a":1}'),
        ("response.custom_tool_call_input.delta", "ct_1", "x"),
        ("response.function_call_arguments.delta", "fc_2", "{}"),
    ]
    items = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert items == output
    begun = [event["item"] for event in events if event["type"] == "response.output_item.added"]
    assert begun[1] == {**_OUTPUT[1], "status": "in_progress", "content": []}
    assert begun[2] == {**_OUTPUT[2], "status": "in_progress", "arguments": ""}
    parts = [event["part"] for event in events if event["type"] == "response.content_part.added"]
    assert parts[1] == {**_PART, "text": "", "annotations": [], "logprobs": []}
    assert parts[3] == {"type": "new"}
    notes = [event for event in events if event["type"] == "response.output_text.annotation.added"]
    assert [note["annotation"] for note in notes] == _PART["annotations"]


def test_a_stored_refusal_of_the_responses_api_has_its_own_events() -> None:
    """Only where the operator lets refusals be stored."""
    item = {"type": "message", "id": "m", "content": [{"type": "refusal", "refusal": "No"}]}
    raw = json.dumps({**_RESPONSE, "output": [item]}).encode()
    recording = recorded(RESPOND, raw, Form.JSON, REFUSALS_TOO)
    kinds = [json.loads(text)["type"] for text in datas(replayed(recording, RESPOND, Form.SSE))]

    assert kinds[4:6] == ["response.refusal.delta", "response.refusal.done"]


@pytest.mark.parametrize("is_named", [True, False])
def test_a_response_stream_becomes_its_response_object_byte_by_byte(is_named: bool) -> None:
    """The last event holds it; not a byte but id and time changes."""
    response = json.dumps(_RESPONSE, ensure_ascii=False).replace("Hm", "data: {")
    text = f'data: {{"n":1.50, "type":"response.completed","response": {response} }}\n\n'
    if is_named:
        text = "event: response.completed\n" + text
    recording = recorded(RESPOND, text.encode(), Form.SSE)

    wanted = response.replace("resp_first", FRESH_ID.decode()).replace(
        "1700000000", FRESH_CREATED.decode()
    )
    assert replayed(recording, RESPOND, Form.JSON).decode() == wanted
    assert replayed(recording, RESPOND, Form.SSE).decode() == text.replace(response, wanted)


def test_a_response_without_id_or_time_gets_none() -> None:
    """Nothing is invented."""
    bare = {name: value for name, value in _RESPONSE.items() if name not in ("id", "created_at")}
    recording = recorded(RESPOND, json.dumps({**bare, "completed_at": 5}).encode(), Form.JSON)
    first = json.loads(datas(replayed(recording, RESPOND, Form.SSE))[0])["response"]

    assert "id" not in first
    assert "created_at" not in first
    assert first["completed_at"] is None


def test_events_are_cut_with_their_names() -> None:
    """For replay at a pace."""
    template = b"event: a\ndata: 1\n\ndata: 2\n\n"

    assert split_events(template) == [b"event: a\ndata: 1\n\n", b"data: 2\n\n"]
    assert split_events(b"") == []


def test_a_part_of_a_template_can_be_filled_in_by_itself() -> None:
    """Each chunk as it is sent."""
    recording = recorded(CHAT, stream([_HI, _STOP]), Form.SSE)
    template = render(recording, CHAT, Form.SSE, False)
    assert template is not None

    def parts() -> Iterator[bytes]:
        for event in split_events(template):
            yield fresh(event, FRESH_ID, FRESH_CREATED)

    assert b"".join(parts()) == fresh(template, FRESH_ID, FRESH_CREATED)
