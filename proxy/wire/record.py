"""From what an upstream sent to what may be stored: a recording, or the reason why not.

Only a complete answer without a fault is recorded, because whatever is stored is given to
everybody who asks the same. In doubt, nothing is.

A recording is canonical: framing, comments and content codings of the transport are gone, but
every JSON value is as it was sent, digit by digit. Nothing here reads a clock or touches the
network.
"""

from typing import Any, Final

import orjson

from proxy.wire import record_choices, record_response
from proxy.wire.content_coding import CodingError, decode_content
from proxy.wire.endpoint import Endpoint, Form
from proxy.wire.events import EventsError, iterate_events
from proxy.wire.recording import (
    NotStorable,
    NotStorableReason,
    Recording,
    RecordPolicy,
    carries_error,
    count_tokens,
)
from proxy.wire.template import CREATED_MARK_BYTES, ID_MARK_BYTES, apply, edits

__all__ = ["NotStorable", "NotStorableReason", "RecordPolicy", "Recording", "record"]

_NUMBERS: Final = frozenset({int, float})


def record(
    endpoint: Endpoint,
    content_type: bytes,
    content_encoding: bytes,
    raw: bytes,
    policy: RecordPolicy,
) -> Recording | NotStorable:
    """Return the recording of an answer with status 200, or why it may not be stored.

    Args:
        endpoint: The endpoint that was asked.
        content_type: The answer's header field, b"" without one.
        content_encoding: The answer's header field, b"" without one.
        raw: The whole body, without its transfer coding, as far as it came.
        policy: What the operator lets be stored.
    """
    try:
        content = decode_content(raw, content_encoding, policy.max_bytes)
    except CodingError:
        return NotStorable("encoding")
    if len(content) > policy.max_bytes:
        return NotStorable("size")
    media_type = content_type.partition(b";")[0].strip().lower()
    if media_type == b"application/json":
        return _record_document(endpoint, content, policy)
    if media_type == b"text/event-stream" and endpoint is not Endpoint.EMBEDDINGS:
        return _record_stream(endpoint, content, policy)
    return NotStorable("content-type")


def _record_document(
    endpoint: Endpoint, content: bytes, policy: RecordPolicy
) -> Recording | NotStorable:
    try:
        # Also refuses what is no UTF-8, NaN, and lone surrogates.
        answer = orjson.loads(content)
    except orjson.JSONDecodeError:
        return NotStorable("json")
    if not isinstance(answer, dict):
        return NotStorable("json")
    created_name = "created"
    if endpoint is Endpoint.RESPONSES:
        reason = record_response.verdict(answer, policy)
        created_name = "created_at"
    elif endpoint is Endpoint.EMBEDDINGS:
        reason = _embeddings_verdict(answer)
    else:
        reason = record_choices.document_verdict(endpoint, answer, policy)
    if reason is not None:
        return NotStorable(reason)
    prompt_tokens, completion_tokens = count_tokens(answer.get("usage"))
    body = content
    # Embeddings usually have neither, and are long.
    if "id" in answer or created_name in answer:
        text = content.decode()
        body = apply(text, edits(text, 0, "id", created_name)).encode()
    return Recording(Form.JSON, body, b"", prompt_tokens, completion_tokens)


def _record_stream(
    endpoint: Endpoint, content: bytes, policy: RecordPolicy
) -> Recording | NotStorable:
    # No JSON text holds a mark; event names must not either.
    if ID_MARK_BYTES in content or CREATED_MARK_BYTES in content:
        return NotStorable("json")
    # With CRLF, a stream that was cut within its last line end is still a cut stream.
    if content.endswith(b"\r") and b"\r\n" in content:
        return NotStorable("incomplete")
    try:
        if endpoint is Endpoint.RESPONSES:
            return record_response.record_events(iterate_events(content), policy)
        return record_choices.record_events(iterate_events(content), policy)
    except EventsError:
        return NotStorable("json")


def _embeddings_verdict(answer: dict[str, Any]) -> NotStorableReason | None:
    if carries_error(answer):
        return "error"
    items = answer.get("data")
    if answer.get("object") != "list" or not isinstance(items, list):
        return "json"
    if not items:
        return "incomplete"
    for item in items:
        if not isinstance(item, dict):
            return "json"
        if carries_error(item):
            return "error"
        embedding = item.get("embedding")
        if not embedding:
            return "incomplete"
        # Base64, or numbers and nothing else: some servers write NaN as null.
        if not isinstance(embedding, str) and not (
            isinstance(embedding, list) and _NUMBERS.issuperset(map(type, embedding))
        ):
            return "json"
    return None
