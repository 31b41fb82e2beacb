"""Record answers of the Responses API, whole or streamed.

Both carry the same response object: a stream ends with the event `response.completed`, which
holds it. Its `status` says whether it is whole.
"""

from collections.abc import Iterable
from typing import Any, Final

import orjson

from proxy.wire import json_spans
from proxy.wire.endpoint import Form
from proxy.wire.recording import (
    NotStorable,
    NotStorableReason,
    Recording,
    RecordPolicy,
    carries_error,
    count_tokens,
)
from proxy.wire.template import ID_MARK, Edit, apply, edits, frame, one_line

# Some servers close this stream too as they close those of completions.
_DONE: Final = "[DONE]"
_COMPLETED: Final = "response.completed"
_BROKEN: Final = frozenset({"error", "response.failed", "response.cancelled"})


def verdict(response: dict[str, Any], policy: RecordPolicy) -> NotStorableReason | None:
    """Return why a response object may not be stored, or None if it may."""
    status = response.get("status")
    if carries_error(response) or status in ("failed", "cancelled"):
        return "error"
    if status == "incomplete" or response.get("incomplete_details"):
        # The word for max_output_tokens and content_filter at the other endpoints.
        return "finish-reason"
    output = response.get("output")
    if status != "completed" or not output:
        return "incomplete"
    if not isinstance(output, list):
        return "json"
    for item in output:
        if not _is_item(item):
            return "json"
        if item.get("status") not in ("completed", None):
            return "incomplete"
        if not policy.store_refusals and _refuses(item):
            return "refusal"
    return None


def record_events(
    events: Iterable[tuple[str, str]], policy: RecordPolicy
) -> Recording | NotStorable:
    """Record a streamed response, or say why it may not be stored.

    Args:
        events: Name and data of each event.
        policy: What the operator lets be stored.
    """
    frames: list[str] = []
    final: object = None
    is_done = False
    for name, data in events:
        if is_done:
            return NotStorable("incomplete")
        if data == _DONE:
            is_done = True
            continue
        try:
            event = orjson.loads(data)
        except orjson.JSONDecodeError:
            return NotStorable("error" if name == "error" else "json")
        if not isinstance(event, dict):
            return NotStorable("json")
        kind = event.get("type")
        if kind in _BROKEN or name in _BROKEN or carries_error(event):
            return NotStorable("error")
        if not isinstance(kind, str):
            return NotStorable("json")
        final = event.get("response") if kind == _COMPLETED else None
        if kind == "response.incomplete":
            return NotStorable("finish-reason")
        line = one_line(data)
        if "response" in event or "response_id" in event:
            line = apply(line, _marks(line))
        frames.append(frame(line, name))
    # Whatever follows the completed response is not what this API sends.
    if not isinstance(final, dict):
        return NotStorable("incomplete")
    reason = verdict(final, policy)
    if reason is not None:
        return NotStorable(reason)
    prompt_tokens, completion_tokens = count_tokens(final.get("usage"))
    return Recording(Form.SSE, "".join(frames).encode(), b"", prompt_tokens, completion_tokens)


def _marks(event: str) -> list[Edit]:
    marks: list[Edit] = []
    for name, start, end in json_spans.members(event):
        if name == "response" and event[start] == "{":
            marks += edits(event, start, "id", "created_at")
        elif name == "response_id" and event[start] == '"':
            marks.append((start + 1, end - 1, ID_MARK))
    return marks


def _is_item(item: object) -> bool:
    """Tell whether an output item has the shape that replay relies on."""
    if not isinstance(item, dict) or not isinstance(item.get("type"), str):
        return False
    lists = (item.get("content"), item.get("summary"))
    parts = [part for parts in lists if isinstance(parts, list) for part in parts]
    return all(isinstance(part, dict) and isinstance(part.get("type"), str) for part in parts)


def _refuses(item: dict[str, Any]) -> bool:
    parts = item.get("content")
    return isinstance(parts, list) and any(part["type"] == "refusal" for part in parts)
