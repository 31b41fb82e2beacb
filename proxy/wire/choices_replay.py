"""Completions as one document or as chunks: the one made from the other.

Chat completions and text completions differ in what a choice says: a message, which comes in
deltas, or a text.
"""

import re
from collections.abc import Sequence
from typing import Any, Final

import orjson

from proxy.wire import exact_json, json_spans
from proxy.wire.endpoint import Endpoint
from proxy.wire.template import (
    CREATED_MARK,
    CREATED_MARK_BYTES,
    ID_MARK,
    ID_MARK_BYTES,
    apply,
    frame,
    unmark,
)

JsonObject = dict[str, Any]

_DOCUMENT_KIND: Final = {
    Endpoint.CHAT: "chat.completion",
    Endpoint.COMPLETIONS: "text_completion",
}
_CHUNK_KIND: Final = {
    Endpoint.CHAT: "chat.completion.chunk",
    Endpoint.COMPLETIONS: "text_completion",
}

# Strings in deltas that name something and come whole, each time anew with some servers; all
# others are pieces of text. (`name` is a piece for openai-python too.)
_WHOLE_STRINGS: Final = frozenset({"role", "type", "id", "format", "status"})
# Of the document's members, those every chunk repeats. The others come with the last one.
_IN_EVERY_CHUNK: Final = frozenset(
    {"id", "object", "created", "model", "system_fingerprint", "service_tier", "provider"}
)
_SAID_USAGE: Final = re.compile(rb'"usage"\s*+:\s*+\{')


class NotMergeable(ValueError):
    """Two pieces of one value are of different kinds: say a string, then a list."""


def document(endpoint: Endpoint, events: Sequence[bytes]) -> bytes:
    """Put the chunks of a stream together into the document the upstream would have sent.

    Args:
        endpoint: Chat or text completions.
        events: All events of a recording, its usage chunk included.

    Raises:
        NotMergeable: The chunks use a form of pieces that we do not understand.
        TooDeep: A value in them is nested too deeply.
    """
    whole: JsonObject = {}
    choices: dict[int, JsonObject] = {}
    for event in events:
        chunk = exact_json.loads(unmark(_data(event)))
        for choice in chunk.pop("choices"):
            index = choice.pop("index", 0)
            _add_choice(choices.setdefault(index, {"index": index}), choice, endpoint)
        # Padding against eavesdroppers; no document has it.
        chunk.pop("obfuscation", None)
        for name, value in chunk.items():
            if value is not None:
                whole[name] = value
            else:
                whole.setdefault(name, None)
    stream = b"".join(events)
    if ID_MARK_BYTES in stream:
        whole["id"] = orjson.Fragment(f'"{ID_MARK}"')
    if CREATED_MARK_BYTES in stream:
        whole["created"] = orjson.Fragment(CREATED_MARK)
    usage = whole.pop("usage", None)
    whole["object"] = _DOCUMENT_KIND[endpoint]
    whole["choices"] = [_finished(choices[index]) for index in sorted(choices)]
    if usage is not None:
        whole["usage"] = usage
    return exact_json.dumps(whole, default=_Pieces.joined)


def chunks(endpoint: Endpoint, template: bytes) -> tuple[bytes, bytes]:
    """Cut a document into chunks: what each choice says, then how each one ends.

    Returns:
        The events of the chunks, and the event of the usage chunk, b"" if usage is not known.

    Raises:
        TooDeep: A value is nested too deeply.
    """
    whole = exact_json.loads(unmark(template))
    if ID_MARK_BYTES in template:
        whole["id"] = orjson.Fragment(f'"{ID_MARK}"')
    if CREATED_MARK_BYTES in template:
        whole["created"] = orjson.Fragment(CREATED_MARK)
    whole["object"] = _CHUNK_KIND[endpoint]
    choices = whole.pop("choices")
    usage = whole.pop("usage", None)
    common = {name: value for name, value in whole.items() if name in _IN_EVERY_CHUNK}
    rest = {name: value for name, value in whole.items() if name not in _IN_EVERY_CHUNK}
    begins: list[JsonObject] = []
    says: list[JsonObject] = []
    ends: list[JsonObject] = []
    for position, choice in enumerate(choices):
        said: JsonObject = {"index": choice.pop("index", position)}
        end: JsonObject = {**said}
        if endpoint is Endpoint.CHAT:
            message = choice.pop("message")
            # As OpenAI does it. Besides, openai-python counts the logprobs of a choice's first
            # chunk twice, so that it should have none.
            role = {"role": message.pop("role")} if "role" in message else {}
            begins.append({**said, "delta": role, "finish_reason": None})
            said["delta"] = _as_delta(message)
            end["delta"] = {}
        else:
            said["text"] = choice.pop("text")
            end["text"] = ""
        if "logprobs" in choice:
            said["logprobs"] = choice.pop("logprobs")
            end["logprobs"] = None
        said["finish_reason"] = None
        says.append(said)
        ends.append({**end, **choice})
    events = [_event({**common, "choices": [choice]}) for choice in begins + says + ends[:-1]]
    events.append(_event({**common, "choices": ends[-1:], **rest}))
    usage_event = b""
    if isinstance(usage, dict):
        usage_event = _event({**common, "choices": [], "usage": usage})
    return b"".join(events), usage_event


def without_usage(body: bytes) -> bytes:
    """Return the events with null in place of the usage they carry beside their choices."""
    # Most streams have none; that is seen at once, because in strings the quotes are escaped.
    if _SAID_USAGE.search(body) is None:
        return body
    text = body.decode()
    changes = [
        (start, end, "null")
        for found in re.finditer(r"^data: ", text, re.MULTILINE)
        for name, start, end in json_spans.members(text, found.end())
        if name == "usage"
    ]
    return apply(text, changes).encode()


def ends_with_usage(events: Sequence[bytes]) -> bool:
    """Tell whether the last chunk says the usage beside its choices."""
    last = orjson.loads(unmark(_data(events[-1])))
    return isinstance(last.get("usage"), dict)


def _event(chunk: JsonObject) -> bytes:
    return frame(exact_json.dumps(chunk).decode()).encode()


def _data(event: bytes) -> bytes:
    """Return the JSON of a framed event: its last line, behind `data: `."""
    return event[:-2].rpartition(b"\n")[2][6:]


class _Pieces:
    """A string that grows. Added to a string one by one, all pieces would be copied each time."""

    __slots__ = ("pieces",)

    def __init__(self, first: str) -> None:
        self.pieces = [first]

    def joined(self) -> str:
        return "".join(self.pieces)


def _add_choice(whole: JsonObject, piece: JsonObject, endpoint: Endpoint) -> None:
    if endpoint is Endpoint.CHAT:
        if "message" in piece:
            raise NotMergeable("a chunk holds a whole message")
        message = whole.setdefault("message", {"role": "assistant", "content": None})
        _merge(message, piece.pop("delta", None) or {})
    else:
        _merge(whole, {"text": piece.pop("text", None)})
    if not piece.get("finish_reason"):
        piece.pop("finish_reason", None)
    _collect(whole, piece)


def _merge(whole: JsonObject, delta: JsonObject) -> None:
    """Add a delta to what was said so far: strings and lists grow, all else is replaced."""
    for name, new in delta.items():
        old = whole.get(name)
        if new is None:
            whole.setdefault(name, None)
        elif isinstance(new, str):
            if name in _WHOLE_STRINGS:
                whole[name] = new or old or ""
            elif old is None:
                whole[name] = _Pieces(new)
            elif isinstance(old, _Pieces):
                old.pieces.append(new)
            else:
                raise NotMergeable(name)
        elif isinstance(new, list):
            _merge_entries(_own(whole, name, list), new)
        elif isinstance(new, dict):
            _merge(_own(whole, name, dict), new)
        elif isinstance(old, _Pieces | list | dict):
            raise NotMergeable(name)
        else:
            whole[name] = new


def _own(whole: JsonObject, name: str, kind: type) -> Any:
    """Return the member of that kind, made if there is none."""
    if whole.get(name) is None:
        whole[name] = kind()
    if not isinstance(whole[name], kind):
        raise NotMergeable(name)
    return whole[name]


def _merge_entries(whole: list[Any], entries: list[Any]) -> None:
    """Add to the entries with the same `index`; those without one are whole."""
    for entry in entries:
        if not isinstance(entry, dict):
            whole.append(entry)
            continue
        index = entry.get("index")
        known: JsonObject | None = None
        if type(index) is int:
            # From the end, because pieces of one entry follow each other.
            known = next((old for old in reversed(whole) if _index(old) == index), None)
        if known is None:
            known = {}
            whole.append(known)
        _merge(known, entry)


def _index(entry: object) -> object:
    return entry.get("index") if isinstance(entry, dict) else None


def _collect(whole: JsonObject, piece: JsonObject) -> None:
    """Add what is said about a choice: lists (of logprobs, of tokens) grow, the last word wins."""
    for name, new in piece.items():
        old = whole.get(name)
        if new is None:
            whole.setdefault(name, None)
        elif isinstance(new, list) and isinstance(old, list):
            old += new
        elif isinstance(new, dict) and isinstance(old, dict):
            _collect(old, new)
        else:
            whole[name] = new


def _finished(choice: JsonObject) -> JsonObject:
    message = choice.get("message")
    if isinstance(message, dict) and isinstance(calls := message.get("tool_calls"), list):
        calls = [call for call in calls if isinstance(call, dict)]
        calls.sort(key=lambda call: index if type(index := call.get("index")) is int else 0)
        # In documents the place in the list is the index.
        for call in calls:
            call.pop("index", None)
        message["tool_calls"] = calls
    return choice


def _as_delta(message: JsonObject) -> JsonObject:
    calls = message.get("tool_calls")
    if not isinstance(calls, list):
        return message
    indexed = [{**call, "index": index} for index, call in enumerate(calls)]
    return {**message, "tool_calls": indexed}
