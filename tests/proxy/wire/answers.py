"""Answers for the tests of `proxy.wire`: built piece by piece, sent in any framing."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletionChunk

from proxy.wire.endpoint import Endpoint, Form
from proxy.wire.record import NotStorable, Recording, RecordPolicy, record
from proxy.wire.replay import fresh, render
from proxy.wire.template import CREATED_MARK, CREATED_MARK_BYTES, ID_MARK, ID_MARK_BYTES

Json = dict[str, Any]

JSON_TYPE = b"application/json"
SSE_TYPE = b"text/event-stream"
POLICY = RecordPolicy(
    finish_reasons=frozenset({"stop", "tool_calls", "function_call"}),
    store_refusals=False,
    max_bytes=8 * 1024 * 1024,
)
REFUSALS_TOO = RecordPolicy(POLICY.finish_reasons, True, POLICY.max_bytes)

FIRST_ID = "chatcmpl-first"
FIRST_CREATED = 1700000000
FRESH_ID = b"chatcmpl-fresh"
FRESH_CREATED = b"1800000000"


def outcome(
    endpoint: Endpoint, raw: bytes, form: Form, policy: RecordPolicy = POLICY
) -> Recording | NotStorable:
    """Record `raw` as an answer without content coding."""
    content_type = JSON_TYPE if form is Form.JSON else SSE_TYPE
    return record(endpoint, content_type, b"", raw, policy)


def recorded(
    endpoint: Endpoint, raw: bytes, form: Form, policy: RecordPolicy = POLICY
) -> Recording:
    """Record what must be storable."""
    result = outcome(endpoint, raw, form, policy)
    assert isinstance(result, Recording), result
    return result


def reason(endpoint: Endpoint, raw: bytes, form: Form, policy: RecordPolicy = POLICY) -> str:
    """Return why `raw` is not storable, "" if it is."""
    result = outcome(endpoint, raw, form, policy)
    return result.reason if isinstance(result, NotStorable) else ""


def replayed(
    recording: Recording, endpoint: Endpoint, form: Form, include_usage: bool = False
) -> bytes:
    """Render what must be renderable, with a fresh id and time."""
    template = render(recording, endpoint, form, include_usage)
    assert template is not None
    answer = fresh(template, FRESH_ID, FRESH_CREATED)
    assert ID_MARK_BYTES not in answer
    assert CREATED_MARK_BYTES not in answer
    return answer


def stream(chunks: Iterable[Json | str]) -> bytes:
    """Frame chunks plainly, `[DONE]` at the end."""
    texts = [chunk if isinstance(chunk, str) else json.dumps(chunk) for chunk in chunks]
    return "".join(f"data: {text}\n\n" for text in [*texts, "[DONE]"]).encode()


def chunk(choices: Sequence[Json], **more: Any) -> Json:
    """Return a chunk of the first answer."""
    return {
        "id": FIRST_ID,
        "object": "chat.completion.chunk",
        "created": FIRST_CREATED,
        "model": "m",
        "choices": list(choices),
        **more,
    }


def piece(
    delta: Json | None = None, index: int = 0, finish: str | None = None, **more: Any
) -> Json:
    """Return one choice of a chunk."""
    return {"index": index, "delta": delta or {}, "finish_reason": finish, **more}


def datas(answer: bytes) -> list[str]:
    """Return the data of each event of a plainly framed stream."""
    assert answer.endswith(b"\n\n")
    texts = []
    for block in answer.decode().removesuffix("\n\n").split("\n\n"):
        *names, line = block.split("\n")
        assert all(name.startswith("event: ") for name in names)
        assert line.startswith("data: ")
        texts.append(line.removeprefix("data: "))
    return texts


def chunks_of(answer: bytes) -> list[Json]:
    """Return the parsed chunks of a completion's stream, which must end with `[DONE]`."""
    *texts, last = datas(answer)
    assert last == "[DONE]"
    return [json.loads(text) for text in texts]


def accumulated(chunks: Iterable[Json]) -> Json:
    """Return what openai-python makes of a stream."""
    state: ChatCompletionStreamState[None] = ChatCompletionStreamState()
    for parsed in chunks:
        if parsed["choices"]:
            state.handle_chunk(ChatCompletionChunk.model_validate(parsed))
    snapshot = state.current_completion_snapshot
    return json.loads(snapshot.model_dump_json())  # type: ignore[no-any-return]


@dataclass
class Said:
    """What one choice says, in pieces."""

    content: list[str]
    reasoning: list[str]
    refusal: list[str]
    calls: list[tuple[str, str, list[str]]]
    logprobs: bool
    finish_reason: str

    def pieces(self, index: int) -> list[Json]:
        """Return its choices chunk by chunk."""
        deltas: list[Json] = [{"role": "assistant", "content": ""}]
        deltas += [{"reasoning_content": text} for text in self.reasoning]
        deltas += [{"content": text} for text in self.content]
        deltas += [{"refusal": text} for text in self.refusal]
        for place, (id, name, arguments) in enumerate(self.calls):
            function = {"name": name, "arguments": ""}
            call = {"index": place, "id": id, "type": "function", "function": function}
            deltas.append({"tool_calls": [call]})
            deltas += [
                {"tool_calls": [{"index": place, "function": {"arguments": text}}]}
                for text in arguments
            ]
        pieces = []
        for delta in deltas:
            logprobs = None
            if self.logprobs and delta.get("content"):
                logprobs = {"content": [_logprob(delta["content"])], "refusal": None}
            pieces.append(piece(delta, index, logprobs=logprobs))
        return [*pieces, piece({}, index, self.finish_reason, logprobs=None)]

    def matches(self, choice: Json) -> None:
        """Compare with a choice of a document."""
        message = choice["message"]
        assert message["role"] == "assistant"
        assert message["content"] == "".join(self.content)
        assert message.get("reasoning_content", "") == "".join(self.reasoning)
        assert (message.get("refusal") or "") == "".join(self.refusal)
        calls = message.get("tool_calls") or []
        assert [
            (call["id"], call["type"], call["function"]["name"], call["function"]["arguments"])
            for call in calls
        ] == [(id, "function", name, "".join(arguments)) for id, name, arguments in self.calls]
        logprobs = (choice.get("logprobs") or {}).get("content") or []
        said = [text for text in self.content if text] if self.logprobs else []
        assert [(entry["token"], entry["logprob"]) for entry in logprobs] == [
            (text, _logprob(text)["logprob"]) for text in said
        ]
        assert choice["finish_reason"] == self.finish_reason


@dataclass
class Answer:
    """A whole answer of several choices."""

    choices: list[Said]
    usage: Json | None
    order: list[int] = field(default_factory=list)

    def chunks(self) -> list[Json]:
        """Return its chunks, the choices taking turns as `order` says."""
        queues = [said.pieces(index) for index, said in enumerate(self.choices)]
        chunks = [chunk([queue.pop(0)]) for queue in queues]
        for number in self.order:
            queue = queues[number % len(queues)]
            if queue:
                chunks.append(chunk([queue.pop(0)]))
        chunks += [chunk([rest]) for queue in queues for rest in queue]
        if self.usage is not None:
            chunks.append(chunk([], usage=self.usage))
        return chunks

    def matches(self, document: Json) -> None:
        """Compare with a document."""
        assert [choice["index"] for choice in document["choices"]] == [*range(len(self.choices))]
        for said, choice in zip(self.choices, document["choices"], strict=True):
            said.matches(choice)


@dataclass
class Framing:
    """How a stream is put on the wire."""

    line_end: str
    has_bom: bool
    has_comments: bool
    indent: int | None
    ascii_only: bool
    space: str

    def frame(self, chunks: Sequence[Json | str]) -> bytes:
        """Return the stream, `[DONE]` at its end."""
        lines: list[str] = []
        for parsed in [*chunks, "[DONE]"]:
            if self.has_comments:
                lines += [": keep-alive", "", "id: 7"]
            text = parsed
            if not isinstance(parsed, str):
                text = json.dumps(parsed, ensure_ascii=self.ascii_only, indent=self.indent)
            lines += [f"data:{self.space}{line}" for line in str(text).split("\n")]
            lines.append("")
        return (
            ("\ufeff" if self.has_bom else "") + "".join(line + self.line_end for line in lines)
        ).encode()


def _logprob(text: str) -> Json:
    return {
        "token": text,
        "logprob": -len(text) / 7,
        "bytes": list(text.encode()),
        "top_logprobs": [],
    }


_TRAPS = st.sampled_from(
    [
        FIRST_ID,
        f'"id":"{FIRST_ID}"',
        f'{{"id":"{FIRST_ID}","created":{FIRST_CREATED},',
        '"created":123',
        f'"created": {FIRST_CREATED}',
        ID_MARK,
        CREATED_MARK,
        "\\u0000",
        "\\",
        '\\"',
        '"content":"',
        'data: {"error":{}}',
        "\r\n\r\ndata: [DONE]\r\n\r\n",
        "[DONE]",
        "👩‍👩‍👧‍👦",
        "\u2028\u0085\ufeff",
        "null",
        "",
    ]
)
TEXTS = st.one_of(_TRAPS, st.text(st.characters(codec="utf-8"), max_size=8))
PIECES = st.lists(TEXTS, max_size=4)
SAID = st.builds(
    Said,
    content=PIECES,
    reasoning=PIECES,
    refusal=st.one_of(st.just([]), PIECES),
    calls=st.lists(st.tuples(TEXTS, TEXTS, PIECES), max_size=3),
    logprobs=st.booleans(),
    finish_reason=st.sampled_from(["stop", "tool_calls"]),
)
USAGES = st.builds(
    lambda prompt, completion: {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    },
    st.integers(1, 10**6),
    st.integers(1, 10**6),
)
ANSWERS = st.builds(
    Answer,
    choices=st.lists(SAID, min_size=1, max_size=3),
    usage=st.one_of(st.none(), USAGES),
    order=st.lists(st.integers(0, 2), max_size=20),
)
FRAMINGS = st.builds(
    Framing,
    line_end=st.sampled_from(["\n", "\r\n", "\r"]),
    has_bom=st.booleans(),
    has_comments=st.booleans(),
    indent=st.sampled_from([None, 1]),
    ascii_only=st.booleans(),
    space=st.sampled_from(["", " "]),
)
