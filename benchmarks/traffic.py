"""The requests of the benchmarks, and the answers of the upstream they name.

The model's name tells the fake upstream what to answer: `json-1024` a JSON
document of 1,024 bytes, `sse-paced` and `sse-burst` a stream of 200 chunks.
"""

import json

BODY_BYTES = 258
JSON_BYTES = 1024
CHUNKS = 200
JSON_MODEL = f"json-{JSON_BYTES}"
PACED_MODEL = "sse-paced"
BURST_MODEL = "sse-burst"

_CREATED = 1_760_000_000


def request(model: str, number: int, *, stream: bool = False, fields: bytes = b"") -> bytes:
    """Return a chat completion request, headers included, that differs for each number.

    Its body has 258 bytes.

    Args:
        model: What is to be answered; see the module's text.
        number: Stands in the prompt.
        stream: Whether the answer is wanted as a stream.
        fields: Further header fields, each with its line end.
    """

    def document(prompt: str) -> bytes:
        return _compact(
            {
                "model": model,
                "messages": [
                    {"role": "system", "content": "You are a helpful assistant."},
                    {"role": "user", "content": f"{number:09d} {prompt}"},
                ],
                "temperature": 0.2,
                "max_tokens": 256,
                "stream": stream,
            }
        )

    return _post(document(_prose(BODY_BYTES - len(document("")))), fields)


def question(text: str) -> bytes:
    """Return a chat completion request that asks `text`, headers included."""
    return _post(
        _compact(
            {
                "model": JSON_MODEL,
                "messages": [
                    {"role": "system", "content": "You are a helpful assistant."},
                    {"role": "user", "content": text},
                ],
                "temperature": 0.2,
                "max_tokens": 256,
            }
        ),
        b"",
    )


def gptcache(action: str, prompt: str, answer: str = "") -> bytes:
    """Return a request for GPTCache's server: `put` or `get`."""
    return _post(_compact({"prompt": prompt, "answer": answer}), b"", f"/{action}".encode())


def _post(body: bytes, fields: bytes, path: bytes = b"/v1/chat/completions") -> bytes:
    return (
        b"POST %b HTTP/1.1\r\n"
        b"Host: 127.0.0.1\r\n"
        b"Authorization: Bearer sk-benchmark-0123456789abcdef\r\n"
        b"Accept: application/json\r\n"
        b"Content-Type: application/json\r\n"
        b"%bContent-Length: %d\r\n\r\n%b" % (path, fields, len(body), body)
    )


def trace(number: int) -> bytes:
    """Return the field that tracing clients send, another one with each request."""
    return b"traceparent: 00-%032x-%016x-01\r\n" % (number, number)


def json_answer(model: str, body_bytes: int) -> bytes:
    """Return a chat completion of that many bytes."""

    def document(content: str) -> bytes:
        return _compact(
            {
                "id": "chatcmpl-0123456789abcdef01234567",
                "object": "chat.completion",
                "created": _CREATED,
                "model": model,
                "choices": [
                    {
                        "index": 0,
                        "message": {"role": "assistant", "content": content},
                        "logprobs": None,
                        "finish_reason": "stop",
                    }
                ],
                "usage": {"prompt_tokens": 42, "completion_tokens": 180, "total_tokens": 222},
            }
        )

    return document(_prose(body_bytes - len(document(""))))


def stream_events(model: str) -> list[bytes]:
    """Return the events of a streamed chat completion of 200 chunks, and its terminator."""
    deltas: list[dict[str, str]] = [{"role": "assistant", "content": ""}]
    deltas += [{"content": f" word{number:04d}"} for number in range(CHUNKS - 2)]
    deltas.append({})
    return [
        b"data: "
        + _compact(
            {
                "id": "chatcmpl-0123456789abcdef01234567",
                "object": "chat.completion.chunk",
                "created": _CREATED,
                "model": model,
                "choices": [
                    {"index": 0, "delta": delta, "finish_reason": None if delta else "stop"}
                ],
            }
        )
        + b"\n\n"
        for delta in deltas
    ] + [b"data: [DONE]\n\n"]


def _prose(length: int) -> str:
    text = "The quick brown fox jumps over the lazy dog. "
    return (text * (length // len(text) + 1))[:length]


def _compact(document: object) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()
