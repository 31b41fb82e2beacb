"""What servers in the field send, cut to its shape, is stored and replayed in both forms."""

import json
from dataclasses import dataclass
from typing import Any

import pytest
from openai.types.chat import ChatCompletion

from proxy.wire.endpoint import Endpoint, Form
from proxy.wire.record import NotStorable
from tests.proxy.wire.answers import chunks_of, outcome, recorded, replayed


@dataclass(frozen=True)
class _Shape:
    """A stream of a server, and what it says.

    Attributes:
        server: Who sends it.
        raw: The stream; `~` stands for `"object":"chat.completion.chunk","created":7,"model":"m"`.
        content: The text of the message.
        more: What else the message of the document must have.
        usage: Whether its usage is known.
    """

    server: str
    raw: str
    content: str | None
    more: dict[str, Any]
    usage: bool = False


_CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}

_SHAPES = [
    _Shape(
        "OpenAI, with usage and padding",
        'data: {"id":"x",~,"choices":[{"index":0,"delta":{"role":"assistant","content":"",'
        '"refusal":null},"logprobs":null,"finish_reason":null}],"usage":null,"obfuscation":"aB"}\n\n'
        'data: {"id":"x",~,"choices":[{"index":0,"delta":{"content":"Hi"},"logprobs":null,'
        '"finish_reason":null}],"usage":null,"obfuscation":"aBcD"}\n\n'
        'data: {"id":"x",~,"choices":[{"index":0,"delta":{"content":"!"},"logprobs":null,'
        '"finish_reason":null}],"usage":null,"obfuscation":"q"}\n\n'
        'data: {"id":"x",~,"choices":[{"index":0,"delta":{},"logprobs":null,'
        '"finish_reason":"stop"}],"usage":null,"obfuscation":"aBc"}\n\n'
        'data: {"id":"x",~,"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2,'
        '"total_tokens":3},"obfuscation":""}\n\n'
        "data: [DONE]\n\n",
        "Hi!",
        {"refusal": None},
        usage=True,
    ),
    _Shape(
        "OpenAI, a tool call in pieces",
        'data: {"id":"x",~,"choices":[{"index":0,"delta":{"role":"assistant","content":null,'
        '"tool_calls":[{"index":0,"id":"c1","type":"function","function":{"name":"f",'
        '"arguments":""}}],"refusal":null},"finish_reason":null}]}\n\n'
        'data: {"id":"x",~,"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":'
        '{"arguments":"{\\"a\\""}}]},"finish_reason":null}]}\n\n'
        'data: {"id":"x",~,"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":'
        '{"arguments":":1}"}}]},"finish_reason":null}]}\n\n'
        'data: {"id":"x",~,"choices":[{"index":0,"delta":{},"finish_reason":"tool_calls"}]}\n\n'
        "data: [DONE]\n\n",
        None,
        {"tool_calls": [_CALL]},
    ),
    _Shape(
        "Azure, content filter first",
        'data: {"choices":[],"created":0,"id":"","model":"","object":"","prompt_filter_results":'
        '[{"prompt_index":0,"content_filter_results":{"hate":{"filtered":false}}}]}\n\n'
        'data: {"choices":[{"content_filter_results":{},"delta":{"content":"","role":"assistant"},'
        '"finish_reason":null,"index":0}],"id":"x",~}\n\n'
        'data: {"choices":[{"content_filter_results":{"hate":{"filtered":false,"severity":"safe"}},'
        '"delta":{"content":"Hi"},"finish_reason":null,"index":0}],"id":"x",~}\n\n'
        'data: {"choices":[{"content_filter_results":{},"delta":{},"finish_reason":"stop",'
        '"index":0}],"id":"x",~}\n\n'
        "data: [DONE]\n\n",
        "Hi",
        {},
    ),
    _Shape(
        "vLLM, reasoning",
        'data: {"id":"x",~,"choices":[{"index":0,"delta":{"role":"assistant","content":""},'
        '"logprobs":null,"finish_reason":null}],"prompt_token_ids":null}\n\n'
        'data: {"id":"x",~,"choices":[{"index":0,"delta":{"reasoning":"Hm","reasoning_content":'
        '"Hm"},"logprobs":null,"finish_reason":null,"token_ids":null}]}\n\n'
        'data: {"id":"x",~,"choices":[{"index":0,"delta":{"content":"Hi"},"logprobs":null,'
        '"finish_reason":null,"token_ids":null}]}\n\n'
        'data: {"id":"x",~,"choices":[{"index":0,"delta":{"content":""},"logprobs":null,'
        '"finish_reason":"stop","stop_reason":null,"token_ids":null}]}\n\n'
        "data: [DONE]\n\n",
        "Hi",
        {"reasoning": "Hm", "reasoning_content": "Hm"},
    ),
    _Shape(
        "SGLang",
        'data: {"id":"x",~,"choices":[{"index":0,"delta":{"role":"assistant","content":"",'
        '"reasoning_content":null,"tool_calls":null},"logprobs":null,"finish_reason":null,'
        '"matched_stop":null}],"usage":null}\n\n'
        'data: {"id":"x",~,"choices":[{"index":0,"delta":{"role":null,"content":"Hi",'
        '"reasoning_content":null,"tool_calls":null},"logprobs":null,"finish_reason":null,'
        '"matched_stop":null}],"usage":null}\n\n'
        'data: {"id":"x",~,"choices":[{"index":0,"delta":{"role":null,"content":null,'
        '"reasoning_content":null,"tool_calls":null},"logprobs":null,"finish_reason":"stop",'
        '"matched_stop":2}],"usage":null}\n\n'
        "data: [DONE]\n\n",
        "Hi",
        {"tool_calls": None},
    ),
    _Shape(
        "llama.cpp, id behind the choices",
        'data: {"choices":[{"finish_reason":null,"index":0,"delta":{"role":"assistant",'
        '"content":null}}],"created":7,"id":"x","model":"m","system_fingerprint":"b1",'
        '"object":"chat.completion.chunk"}\n\n'
        'data: {"choices":[{"finish_reason":null,"index":0,"delta":{"content":"Hi"}}],'
        '"created":7,"id":"x","model":"m","system_fingerprint":"b1",'
        '"object":"chat.completion.chunk"}\n\n'
        'data: {"choices":[{"finish_reason":"stop","index":0,"delta":{}}],"created":8,"id":"x",'
        '"model":"m","system_fingerprint":"b1","object":"chat.completion.chunk",'
        '"timings":{"prompt_ms":11.0120}}\n\n'
        "data: [DONE]\n\n",
        "Hi",
        {},
    ),
    _Shape(
        "Ollama, a whole tool call in a chunk",
        'data: {"id":"x",~,"system_fingerprint":"fp_ollama","choices":[{"index":0,"delta":'
        '{"role":"assistant","content":"","tool_calls":[{"id":"c1","index":0,"type":"function",'
        '"function":{"name":"f","arguments":"{\\"a\\":1}"}}]},"finish_reason":null}]}\n\n'
        'data: {"id":"x",~,"system_fingerprint":"fp_ollama","choices":[{"index":0,"delta":'
        '{"role":"assistant","content":""},"finish_reason":"tool_calls"}]}\n\n'
        "data: [DONE]\n\n",
        "",
        {"tool_calls": [_CALL]},
    ),
    _Shape(
        "TGI, no space behind the colon and an empty id",
        'data:{"object":"chat.completion.chunk","id":"","created":7,"model":"m",'
        '"system_fingerprint":"3.0","choices":[{"index":0,"delta":{"role":"assistant",'
        '"content":"Hi"},"logprobs":null,"finish_reason":null}],"usage":null}\n\n'
        'data:{"object":"chat.completion.chunk","id":"","created":7,"model":"m",'
        '"system_fingerprint":"3.0","choices":[{"index":0,"delta":{"role":"assistant",'
        '"content":""},"logprobs":null,"finish_reason":"stop"}],"usage":null}\n\n'
        "data: [DONE]\n\n",
        "Hi",
        {},
    ),
    _Shape(
        "OpenRouter, comments and reasoning details",
        ": OPENROUTER PROCESSING\n\n: OPENROUTER PROCESSING\n\n"
        'data: {"id":"x","provider":"P",~,"choices":[{"index":0,"delta":{"role":"assistant",'
        '"content":"","reasoning":"Hm","reasoning_details":[{"type":"reasoning.text","text":"Hm",'
        '"format":"unknown","index":0}]},"finish_reason":null,"native_finish_reason":null,'
        '"logprobs":null}]}\n\n'
        ": OPENROUTER PROCESSING\n\n"
        'data: {"id":"x","provider":"P",~,"choices":[{"index":0,"delta":{"role":"assistant",'
        '"content":"Hi"},"finish_reason":"stop","native_finish_reason":"STOP","logprobs":null}]}\n\n'
        'data: {"id":"x","provider":"P",~,"choices":[],"usage":{"prompt_tokens":1,'
        '"completion_tokens":2,"total_tokens":3,"cost":0.000012}}\n\n'
        "data: [DONE]\n\n",
        "Hi",
        {"reasoning": "Hm"},
        usage=True,
    ),
    _Shape(
        "DeepSeek, usage in the last chunk",
        'data: {"id":"x",~,"choices":[{"index":0,"delta":{"role":"assistant","content":null,'
        '"reasoning_content":""},"logprobs":null,"finish_reason":null}]}\n\n'
        'data: {"id":"x",~,"choices":[{"index":0,"delta":{"content":null,"reasoning_content":'
        '"Hm"},"logprobs":null,"finish_reason":null}]}\n\n'
        'data: {"id":"x",~,"choices":[{"index":0,"delta":{"content":"Hi","reasoning_content":'
        'null},"logprobs":null,"finish_reason":null}]}\n\n'
        'data: {"id":"x",~,"choices":[{"index":0,"delta":{"content":"","reasoning_content":null},'
        '"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":1,'
        '"completion_tokens":2,"total_tokens":3}}\n\n'
        "data: [DONE]\n\n",
        "Hi",
        {"reasoning_content": "Hm"},
        usage=True,
    ),
]


def _raw(shape: _Shape) -> bytes:
    return shape.raw.replace(
        "~", '"object":"chat.completion.chunk","created":7,"model":"m"'
    ).encode()


@pytest.mark.parametrize("shape", _SHAPES, ids=lambda shape: shape.server)
def test_a_servers_stream_goes_through_in_both_forms(shape: _Shape) -> None:
    """The same text, fresh and replayed; openai-python accepts the document."""
    recording = recorded(Endpoint.CHAT, _raw(shape), Form.SSE)
    document = json.loads(replayed(recording, Endpoint.CHAT, Form.JSON))

    message = document["choices"][0]["message"]
    assert message["content"] == shape.content
    assert {name: message[name] for name in shape.more} == shape.more
    assert document["choices"][0]["finish_reason"] in ("stop", "tool_calls")
    assert ("prompt_tokens" in (document.get("usage") or {})) is shape.usage
    ChatCompletion.model_validate(document)

    parts = chunks_of(replayed(recording, Endpoint.CHAT, Form.SSE, shape.usage))
    said = "".join(
        choice["delta"].get("content") or "" for part in parts for choice in part["choices"]
    )
    assert said == (shape.content or "")
    again = recorded(Endpoint.CHAT, json.dumps(document).encode(), Form.JSON)
    parts = chunks_of(replayed(again, Endpoint.CHAT, Form.SSE))
    assert [part["choices"][0]["finish_reason"] for part in parts[:-1]] == [None, None]


def test_digits_of_a_server_survive_the_way_to_the_document() -> None:
    """llama.cpp's timings, OpenRouter's cost."""
    for shape, digits in ((_SHAPES[5], b"11.0120"), (_SHAPES[8], b"0.000012")):
        recording = recorded(Endpoint.CHAT, _raw(shape), Form.SSE)
        assert digits in replayed(recording, Endpoint.CHAT, Form.JSON)


@pytest.mark.parametrize(
    ("server", "raw", "wanted"),
    [
        (
            "vLLM fails halfway",
            'data: {"id":"x",~,"choices":[{"index":0,"delta":{"content":"H"},'
            '"finish_reason":null}]}\n\n'
            'data: {"error": {"message": "out of memory", "type": "InternalServerError"}}\n\n'
            "data: [DONE]\n\n",
            "error",
        ),
        (
            "vLLM of old fails",
            'data: {"object":"error","message":"no","code":400}\n\ndata: [DONE]\n\n',
            "error",
        ),
        (
            "llama.cpp of old fails",
            'error: {"code":500,"message":"no","type":"server_error"}\n\n',
            "incomplete",
        ),
        (
            "TGI fails",
            'data: {"error":"Request failed during generation","error_type":"generation"}\n\n',
            "error",
        ),
        (
            "OpenRouter's provider fails halfway",
            'data: {"id":"x",~,"error":{"code":502,"message":"lost"},"choices":[{"index":0,'
            '"delta":{"content":""},"finish_reason":"error"}]}\n\ndata: [DONE]\n\n',
            "error",
        ),
        ("FastAPI's error", 'data: {"detail":"Internal Server Error"}\n\n', "json"),
        ("LiteLLM's error event", 'event: error\ndata: {"message":"no"}\n\n', "error"),
        ("a gateway's page", "<html><body>504</body></html>", "incomplete"),
        (
            "Azure filters",
            'data: {"id":"x",~,"choices":[{"index":0,"delta":{},"finish_reason":'
            '"content_filter"}]}\n\ndata: [DONE]\n\n',
            "finish-reason",
        ),
        (
            "a time limit of the server",
            'data: {"id":"x",~,"choices":[{"index":0,"delta":{"content":"H"},'
            '"finish_reason":null}]}\n\ndata: [DONE]\n\n',
            "incomplete",
        ),
    ],
)
def test_a_servers_way_to_fail_is_recognised(server: str, raw: str, wanted: str) -> None:
    """Promise 2."""
    text = raw.replace("~", '"object":"chat.completion.chunk","created":7,"model":"m"')

    assert outcome(Endpoint.CHAT, text.encode(), Form.SSE) == NotStorable(wanted), server  # type: ignore[arg-type]
