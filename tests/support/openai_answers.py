"""The answers of an OpenAI-compatible server, made up from the request.

Every answer depends on the whole request body and on the number of the call, so that
an answer of the cache can be told from a fresh one, and one request's answer from another's.
"""

import base64
import hashlib
import json
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

EPOCH = 1_700_000_000
DIMENSIONS = 8


@dataclass(frozen=True, slots=True)
class Said:
    """What the model says, before it has a form."""

    text: str
    finish_reason: str = "stop"
    refusal: str | None = None
    tool_call: tuple[str, str] | None = None
    """Name and JSON arguments of the function to call instead of saying `text`."""


def digest_of(body: bytes) -> str:
    """Return the mark of a request by which its answer is known."""
    return hashlib.sha256(body).hexdigest()[:16]


def said_to(body: bytes, request: dict[str, Any], call: int) -> Said:
    """Return what the model says to `request` in its `call`-th call."""
    text = f"Réponse {digest_of(body)} to call {call}: le renard 🦊 saute, 日本語 too."
    messages = request.get("messages")
    last = messages[-1] if isinstance(messages, list) and messages else {}
    tools = request.get("tools") or ()
    if tools and request.get("tool_choice") != "none" and last.get("role") in ("user", "system"):
        function = tools[0].get("function", tools[0])
        arguments = instance(function.get("parameters", {}), f"call-{call}")
        return Said("", "tool_calls", tool_call=(function["name"], json.dumps(arguments)))
    wanted = request.get("response_format") or {}
    if wanted.get("type") == "json_schema":
        return Said(json.dumps(instance(wanted["json_schema"]["schema"], f"call-{call}")))
    return Said(text)


def instance(schema: dict[str, Any], text: str) -> Any:
    """Return a value that fits `schema`, with `text` for every free string."""
    if "$ref" in schema or "anyOf" in schema:
        return None
    match schema.get("type"):
        case "object" | None:
            return {k: instance(v, text) for k, v in schema.get("properties", {}).items()}
        case "array":
            return [instance(schema.get("items", {}), text)]
        case "integer" | "number":
            return len(text)
        case "boolean":
            return True
        case _:
            choices: Sequence[Any] = schema.get("enum", [text])
            return choices[0]


def usage_of(body: bytes, said: Said) -> dict[str, int]:
    """Return token counts that fit the request's and the answer's size."""
    prompt, completion = len(body) // 4 + 1, len(said.text) // 4 + 1
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }


def pieces_of(text: str, most: int = 12) -> list[str]:
    """Cut `text` into at most `most` pieces, none empty."""
    size = max(1, -(-len(text) // most))
    return [text[at : at + size] for at in range(0, len(text), size)]


def choice_count(request: dict[str, Any]) -> int:
    """Return how many choices are asked for: one to eight."""
    wanted = request.get("n") or 1
    return min(8, wanted) if isinstance(wanted, int) else 1


def chat_json(request: dict[str, Any], said: Said, call: int, usage: dict[str, int]) -> bytes:
    """Return a chat completion."""
    message: dict[str, Any] = {"role": "assistant", "content": said.text, "refusal": said.refusal}
    if said.tool_call:
        name, arguments = said.tool_call
        message["content"] = None
        message["tool_calls"] = [
            {
                "id": f"call_{call}",
                "type": "function",
                "function": {"name": name, "arguments": arguments},
            }
        ]
    choices = [
        {"index": i, "message": message, "logprobs": None, "finish_reason": said.finish_reason}
        for i in range(choice_count(request))
    ]
    return _document(("chatcmpl", "chat.completion"), request, call, choices, usage)


def chat_events(
    request: dict[str, Any], said: Said, call: int, usage: dict[str, int]
) -> Iterator[bytes]:
    """Yield the events of a streamed chat completion."""
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    if said.tool_call:
        name, arguments = said.tool_call
        head = {"name": name, "arguments": ""}
        deltas.append(_tool_delta({"id": f"call_{call}", "type": "function", "function": head}))
        deltas += [_tool_delta({"function": {"arguments": x}}) for x in pieces_of(arguments, 4)]
    elif said.refusal is not None:
        deltas += [{"refusal": piece} for piece in pieces_of(said.refusal)]
    else:
        deltas += [{"content": piece} for piece in pieces_of(said.text)]
    for delta in deltas:
        for i in range(choice_count(request)):
            choice = {"index": i, "delta": delta, "logprobs": None, "finish_reason": None}
            yield _chunk(("chatcmpl", "chat.completion.chunk"), request, call, [choice])
    for i in range(choice_count(request)):
        choice = {"index": i, "delta": {}, "logprobs": None, "finish_reason": said.finish_reason}
        yield _chunk(("chatcmpl", "chat.completion.chunk"), request, call, [choice])
    if _asks_for_usage(request):
        yield _chunk(("chatcmpl", "chat.completion.chunk"), request, call, [], usage)
    yield b"data: [DONE]\n\n"


def completion_json(request: dict[str, Any], said: Said, call: int, usage: dict[str, int]) -> bytes:
    """Return a text completion."""
    choices = [
        {"index": i, "text": said.text, "logprobs": None, "finish_reason": said.finish_reason}
        for i in range(choice_count(request))
    ]
    return _document(("cmpl", "text_completion"), request, call, choices, usage)


def completion_events(
    request: dict[str, Any], said: Said, call: int, usage: dict[str, int]
) -> Iterator[bytes]:
    """Yield the events of a streamed text completion."""
    pieces = [(piece, None) for piece in pieces_of(said.text)] + [("", said.finish_reason)]
    for text, reason in pieces:
        for i in range(choice_count(request)):
            choice = {"index": i, "text": text, "logprobs": None, "finish_reason": reason}
            yield _chunk(("cmpl", "text_completion"), request, call, [choice])
    if _asks_for_usage(request):
        yield _chunk(("cmpl", "text_completion"), request, call, [], usage)
    yield b"data: [DONE]\n\n"


def embeddings_json(request: dict[str, Any], call: int) -> bytes:
    """Return one vector per input: made from the input, but its last number is the call."""
    given = request.get("input")
    inputs = given if isinstance(given, list) and not _is_tokens(given) else [given]
    items = []
    for index, value in enumerate(inputs):
        vector = vector_of(value, call)
        embedding: Any = list(vector)
        if request.get("encoding_format") == "base64":
            embedding = base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
        items.append({"object": "embedding", "index": index, "embedding": embedding})
    tokens = sum(len(json.dumps(value)) for value in inputs)
    return _json(
        {
            "object": "list",
            "data": items,
            "model": request.get("model"),
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }
    )


def vector_of(value: Any, call: int) -> tuple[float, ...]:
    """Return a vector whose numbers are exact in single precision."""
    digest = hashlib.sha256(json.dumps(value).encode()).digest()
    return (*(byte / 256 for byte in digest[: DIMENSIONS - 1]), float(call))


def responses_json(request: dict[str, Any], said: Said, call: int, usage: dict[str, int]) -> bytes:
    """Return a response of the Responses API."""
    return _json(_response(request, call, usage, _output(said, call)))


def responses_events(
    request: dict[str, Any], said: Said, call: int, usage: dict[str, int]
) -> Iterator[bytes]:
    """Yield the events of a streamed response."""
    (item,) = _output(said, call)
    whole = _response(request, call, usage, [item])
    begun = {**whole, "status": "in_progress", "output": [], "usage": None}
    at = {"output_index": 0, "item_id": item["id"]}
    inside = {**at, "content_index": 0}
    bare = {**item, "status": "in_progress", "content": []}
    empty = {"type": "output_text", "text": "", "annotations": []}
    events: list[dict[str, Any]] = [
        {"type": "response.created", "response": begun},
        {"type": "response.in_progress", "response": begun},
        {"type": "response.output_item.added", "output_index": 0, "item": bare},
        {"type": "response.content_part.added", **inside, "part": empty},
    ]
    events += [
        {"type": "response.output_text.delta", **inside, "delta": piece, "logprobs": []}
        for piece in pieces_of(said.text)
    ]
    events += [
        {"type": "response.output_text.done", **inside, "text": said.text, "logprobs": []},
        {"type": "response.content_part.done", **inside, "part": item["content"][0]},
        {"type": "response.output_item.done", "output_index": 0, "item": item},
        {"type": "response.completed", "response": whole},
    ]
    for number, event in enumerate(events):
        numbered = _json({**event, "sequence_number": number})
        yield b"event: " + event["type"].encode() + b"\ndata: " + numbered + b"\n\n"


def _output(said: Said, call: int) -> list[dict[str, Any]]:
    part = {"type": "output_text", "text": said.text, "annotations": [], "logprobs": []}
    return [
        {
            "type": "message",
            "id": f"msg_{call}",
            "status": "completed",
            "role": "assistant",
            "content": [part],
        }
    ]


def _response(
    request: dict[str, Any], call: int, usage: dict[str, int], output: list[dict[str, Any]]
) -> dict[str, Any]:
    return {
        "id": f"resp_up{call}",
        "object": "response",
        "created_at": EPOCH + call,
        "status": "completed",
        "error": None,
        "incomplete_details": None,
        "instructions": request.get("instructions"),
        "metadata": {},
        "model": request.get("model"),
        "output": output,
        "parallel_tool_calls": True,
        "temperature": 1.0,
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "text": {"format": {"type": "text"}},
        "usage": {
            "input_tokens": usage["prompt_tokens"],
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": usage["completion_tokens"],
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": usage["total_tokens"],
        },
    }


def _document(
    named: tuple[str, str],
    request: dict[str, Any],
    call: int,
    choices: list[dict[str, Any]],
    usage: dict[str, int] | None,
) -> bytes:
    prefix, kind = named
    return _json(
        {
            "id": f"{prefix}-up{call}",
            "object": kind,
            "created": EPOCH + call,
            "model": request.get("model"),
            "choices": choices,
            "system_fingerprint": "fp_fake",
            **({} if usage is None else {"usage": usage}),
        }
    )


def _chunk(
    named: tuple[str, str],
    request: dict[str, Any],
    call: int,
    choices: list[dict[str, Any]],
    usage: dict[str, int] | None = None,
) -> bytes:
    return b"data: " + _document(named, request, call, choices, usage) + b"\n\n"


def _tool_delta(piece: dict[str, Any]) -> dict[str, Any]:
    return {"tool_calls": [{"index": 0, **piece}]}


def _asks_for_usage(request: dict[str, Any]) -> bool:
    options = request.get("stream_options")
    return isinstance(options, dict) and options.get("include_usage") is True


def _is_tokens(given: list[Any]) -> bool:
    return all(isinstance(item, int) for item in given)


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()
