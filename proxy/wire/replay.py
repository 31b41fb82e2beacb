"""From a recording to an answer ready to send, in the form that is asked for.

In the form it was recorded in, an answer goes out as it came, chunk by chunk. In the other form it
says the same: text, reasoning, refusal, tool calls, every choice, logprobs, finish reasons, usage
and fields unknown to us; numbers keep their digits.

Usage in streams. The chunk that carries nothing else goes only to those who ask for it
(`include_usage`). A stream that has such a chunk was recorded for somebody who asked, so what
other chunks say of usage was said on request too and is null for those who do not ask. A
stream without such a chunk came from a server that puts usage, if anything, into the last
chunk of every stream: that stays as it was sent, and answers those who ask.
"""

from typing import Final

from proxy.wire import choices_replay, response_replay
from proxy.wire.endpoint import Endpoint, Form
from proxy.wire.exact_json import TooDeep
from proxy.wire.recording import Recording
from proxy.wire.template import CREATED_MARK_BYTES, ID_MARK_BYTES

_DONE_EVENT: Final = b"data: [DONE]\n\n"

_ID_PREFIXES: Final = {
    Endpoint.CHAT: b"chatcmpl-",
    Endpoint.COMPLETIONS: b"cmpl-",
    Endpoint.EMBEDDINGS: b"embd-",
    Endpoint.RESPONSES: b"resp_",
}


def render(
    recording: Recording, endpoint: Endpoint, form: Form, include_usage: bool
) -> bytes | None:
    """Return the template of an answer, to be filled in by `fresh`.

    Args:
        recording: What is stored.
        endpoint: The endpoint it was recorded at, and is asked for at.
        form: The form that is asked for.
        include_usage: Whether a stream is wanted with its usage chunk. The other forms carry
            the usage they have anyway.

    Returns:
        None if this recording cannot be given in that form: a stream with usage, but the usage
        is not known; a stream of embeddings; pieces of a kind that cannot be put together.
    """
    try:
        if endpoint is Endpoint.RESPONSES:
            return _render_response(recording, form)
        if endpoint is Endpoint.EMBEDDINGS:
            return recording.body if form is recording.form else None
        return _render_choices(recording, endpoint, form, include_usage)
    except (TooDeep, choices_replay.NotMergeable):
        return None


def fresh(template: bytes, id: bytes, created: bytes) -> bytes:
    """Return the answer with its id and time of creation.

    Args:
        template: From `render`, or a part of it cut by `split_events`.
        id: From `new_id`.
        created: Whole Unix seconds, in decimal digits.
    """
    return template.replace(ID_MARK_BYTES, id).replace(CREATED_MARK_BYTES, created)


def new_id(endpoint: Endpoint, random: bytes) -> bytes:
    """Return an id in the manner of the endpoint.

    Args:
        endpoint: The endpoint that is answered.
        random: Random bytes, at least 16, so that no two answers share an id.
    """
    return _ID_PREFIXES[endpoint] + random.hex().encode()


def split_events(template: bytes) -> list[bytes]:
    """Return the events of a rendered stream one by one; joined they are the stream again."""
    return [event + b"\n\n" for event in template.split(b"\n\n")[:-1]]


def _render_choices(
    recording: Recording, endpoint: Endpoint, form: Form, include_usage: bool
) -> bytes | None:
    body, usage = recording.body, recording.usage
    if form is Form.JSON:
        if recording.form is Form.JSON:
            return body
        return choices_replay.document(endpoint, split_events(body + usage))
    if recording.form is Form.JSON:
        body, usage = choices_replay.chunks(endpoint, body)
    if not include_usage:
        if usage:
            body = choices_replay.without_usage(body)
        return body + _DONE_EVENT
    if usage or choices_replay.ends_with_usage(split_events(body)):
        return body + usage + _DONE_EVENT
    return None


def _render_response(recording: Recording, form: Form) -> bytes:
    if form is recording.form:
        return recording.body
    if form is Form.JSON:
        return response_replay.document(split_events(recording.body))
    return response_replay.events(recording.body)
