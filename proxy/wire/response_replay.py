"""Answers of the Responses API as one document or as events: the one made from the other."""

from collections.abc import Iterator, Sequence
from typing import Any, Final

import orjson

from proxy.wire import exact_json, json_spans
from proxy.wire.template import (
    CREATED_MARK,
    CREATED_MARK_BYTES,
    ID_MARK,
    ID_MARK_BYTES,
    frame,
    one_line,
    unmark,
)

JsonObject = dict[str, Any]

# Members that are empty while a response is under way (API reference, the response object).
_NOT_YET: Final = ("usage", "completed_at")
_TEXT_MEMBER: Final = {
    "output_text": "text",
    "refusal": "refusal",
    "reasoning_text": "text",
    "summary_text": "text",
}
_TEXT_EVENT: Final = {
    "output_text": "response.output_text",
    "refusal": "response.refusal",
    "reasoning_text": "response.reasoning_text",
    "summary_text": "response.reasoning_summary_text",
}
_CALL_EVENT: Final = {
    "function_call": ("arguments", "response.function_call_arguments"),
    "mcp_call": ("arguments", "response.mcp_call_arguments"),
    "custom_tool_call": ("input", "response.custom_tool_call_input"),
}


def document(stream: Sequence[bytes]) -> bytes:
    """Return the response object of a recorded stream: its last event holds it."""
    text = stream[-1].decode()
    at = text.index("{", text.rindex("\ndata: ") if text.startswith("event: ") else 0)
    start, end = next(
        (start, end) for name, start, end in json_spans.members(text, at) if name == "response"
    )
    return text[start:end].encode()


def events(template: bytes) -> bytes:
    """Return the events with which a server would have streamed this response object.

    Each text comes as one delta. Numbers, unknown members and unknown kinds of items are
    carried along.

    Raises:
        TooDeep: A value is nested too deeply.
    """
    response = exact_json.loads(unmark(template))
    if ID_MARK_BYTES in template:
        response["id"] = orjson.Fragment(f'"{ID_MARK}"')
    if CREATED_MARK_BYTES in template:
        response["created_at"] = orjson.Fragment(CREATED_MARK)
    begun = {**response, "status": "in_progress", "output": []}
    begun.update({name: None for name in _NOT_YET if name in response})
    whole = orjson.Fragment(one_line(template.decode()))
    frames = []
    for number, event in enumerate(_events(response["output"], begun, whole)):
        kind = event["type"]
        data = exact_json.dumps({"type": kind, "sequence_number": number, **event})
        frames.append(frame(data.decode(), kind))
    return "".join(frames).encode()


def _events(
    output: list[JsonObject], begun: JsonObject, whole: orjson.Fragment
) -> Iterator[JsonObject]:
    yield {"type": "response.created", "response": begun}
    yield {"type": "response.in_progress", "response": begun}
    for output_index, item in enumerate(output):
        at = {"output_index": output_index}
        yield {"type": "response.output_item.added", **at, "item": _begun_item(item)}
        yield from _item_events(item, {"item_id": item.get("id", ""), **at})
        yield {"type": "response.output_item.done", **at, "item": item}
    yield {"type": "response.completed", "response": whole}


def _begun_item(item: JsonObject) -> JsonObject:
    begun = dict(item)
    if "status" in item:
        begun["status"] = "in_progress"
    for name in ("content", "summary"):
        if isinstance(item.get(name), list):
            begun[name] = []
    if (call := _CALL_EVENT.get(item.get("type", ""))) is not None and call[0] in item:
        begun[call[0]] = ""
    return begun


def _item_events(item: JsonObject, at: JsonObject) -> Iterator[JsonObject]:
    for list_name, index_name, part_event in (
        ("summary", "summary_index", "response.reasoning_summary_part"),
        ("content", "content_index", "response.content_part"),
    ):
        parts = item.get(list_name)
        for index, part in enumerate(parts if isinstance(parts, list) else []):
            yield from _part_events(part, {**at, index_name: index}, part_event)
    call = _CALL_EVENT.get(item.get("type", ""))
    if call is not None and isinstance(said := item.get(call[0]), str):
        member, event = call
        yield {"type": f"{event}.delta", **at, "delta": said}
        done = {"type": f"{event}.done", **at, member: said}
        if event == "response.function_call_arguments" and "name" in item:
            done["name"] = item["name"]
        yield done


def _part_events(part: JsonObject, at: JsonObject, part_event: str) -> Iterator[JsonObject]:
    kind = part.get("type", "")
    member = _TEXT_MEMBER.get(kind)
    text = part.get(member) if member is not None else None
    if member is None or not isinstance(text, str):
        yield {"type": f"{part_event}.added", **at, "part": part}
        yield {"type": f"{part_event}.done", **at, "part": part}
        return
    event = _TEXT_EVENT[kind]
    begun = {**part, member: ""}
    begun.update({name: [] for name in ("annotations", "logprobs") if name in part})
    yield {"type": f"{part_event}.added", **at, "part": begun}
    # openai-python reads the logprobs of every delta of a text.
    logprobs = {"logprobs": part.get("logprobs") or []} if kind == "output_text" else {}
    yield {"type": f"{event}.delta", **at, "delta": text, **logprobs}
    annotations = part.get("annotations")
    for index, annotation in enumerate(annotations if isinstance(annotations, list) else []):
        yield {
            "type": "response.output_text.annotation.added",
            **at,
            "annotation_index": index,
            "annotation": annotation,
        }
    yield {"type": f"{event}.done", **at, member: text, **logprobs}
    yield {"type": f"{part_event}.done", **at, "part": part}
