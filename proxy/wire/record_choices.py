"""Record chat completions and text completions, whole or streamed.

A stream is complete when every choice that began has ended with a finish reason and `[DONE]` came
last. Both are needed: a server that runs into its own time limit ends with the one, a proxy that
loses its upstream with the other.

Speed: in a stream nearly all chunks are the same but for a few strings. Once a chunk has been
parsed and judged, those that differ from it only in the text said are known to be sound without
parsing them (see `_Shape`); that makes recording several times as fast.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

import orjson

from proxy.wire.endpoint import Endpoint, Form
from proxy.wire.recording import (
    NotStorable,
    NotStorableReason,
    Recording,
    RecordPolicy,
    carries_error,
    count_tokens,
)
from proxy.wire.template import Edit, apply, edits, frame, one_line

_DONE: Final = "[DONE]"
_SAID_IN: Final[Mapping[Endpoint, tuple[str, type]]] = {
    Endpoint.CHAT: ("message", dict),
    Endpoint.COMPLETIONS: ("text", str),
}

# Strings that differ from chunk to chunk and that no judgement looks at. `obfuscation` is OpenAI's
# padding against eavesdroppers who measure lengths.
_SAID: Final = re.compile(
    r'"(?:content|reasoning_content|reasoning|text|arguments|obfuscation)"\s*+:\s*+"'
)
_MOST_SHAPES: Final = 8
# More than any server gives, and within what every reader takes for an integer.
_MOST_CHOICES: Final = 2**31
# The inside of a JSON string (RFC 8259 §7) with the short escapes only: \u may be half a
# surrogate pair, which takes a parser to see.
_STRING_INSIDE: Final = re.compile(r'[^"\\\x00-\x1f]*+(?:\\["\\/bfnrt][^"\\\x00-\x1f]*+)*+')


def document_verdict(
    endpoint: Endpoint, answer: dict[str, Any], policy: RecordPolicy
) -> NotStorableReason | None:
    """Return why a whole completion may not be stored, or None if it may."""
    if carries_error(answer):
        return "error"
    choices = answer.get("choices")
    if not isinstance(choices, list):
        return "json"
    seen = _Choices(policy)
    for position, choice in enumerate(choices):
        reason = seen.see(choice, position)
        if reason is not None:
            return reason
        name, kind = _SAID_IN[endpoint]
        if not isinstance(choice.get(name), kind):
            return "json"
    return seen.verdict()


def record_events(
    events: Iterable[tuple[str, str]], policy: RecordPolicy
) -> Recording | NotStorable:
    """Record a streamed completion, or say why it may not be stored.

    Args:
        events: Name and data of each event.
        policy: What the operator lets be stored.
    """
    seen = _Choices(policy)
    shapes = _Shapes()
    pieces: list[str] = []
    usage_frame = ""
    usage: object = None
    is_done = False
    for name, data in events:
        if is_done:
            return NotStorable("incomplete")
        if not name and shapes.add_marked(data, pieces):
            continue
        if data == _DONE:
            is_done = True
            continue
        try:
            chunk = orjson.loads(data)
        except orjson.JSONDecodeError:
            return NotStorable("error" if name == "error" else "json")
        if not isinstance(chunk, dict):
            return NotStorable("json")
        if name == "error" or carries_error(chunk):
            return NotStorable("error")
        choices = chunk.get("choices")
        if not isinstance(choices, list):
            return NotStorable("json")
        for choice in choices:
            reason = seen.see(choice, 0)
            if reason is not None:
                return NotStorable(reason)
        line = one_line(data)
        marks = edits(line, 0, "id", "created")
        usage = chunk.get("usage") or usage
        marked = frame(apply(line, marks), name)
        if not choices and isinstance(chunk.get("usage"), dict):
            usage_frame = marked
            continue
        pieces.append(marked)
        # A chunk that ends a choice changes what was seen, and so must be judged each time.
        if not name and not any(choice.get("finish_reason") for choice in choices):
            shapes.learn(line, marks)
    if not is_done:
        return NotStorable("incomplete")
    reason = seen.verdict()
    if reason is not None:
        return NotStorable(reason)
    prompt_tokens, completion_tokens = count_tokens(usage)
    return Recording(
        Form.SSE, "".join(pieces).encode(), usage_frame.encode(), prompt_tokens, completion_tokens
    )


class _Choices:
    """The choices of one answer, as far as they were seen."""

    def __init__(self, policy: RecordPolicy) -> None:
        self._policy = policy
        self._finish_reasons: dict[int, object] = {}
        self._has_refused = False

    def see(self, choice: object, position: int) -> NotStorableReason | None:
        """Take in a choice or a piece of one.

        Args:
            choice: An element of `choices`.
            position: Its index, if it does not say.
        """
        if not isinstance(choice, dict):
            return "json"
        # OpenRouter reports a provider that failed halfway in the choice.
        if carries_error(choice):
            return "error"
        index = choice.get("index", position)
        said = choice.get("delta") or choice.get("message") or {}
        if type(index) is not int or not 0 <= index < _MOST_CHOICES:
            return "json"
        if not isinstance(said, dict):
            return "json"
        if said.get("refusal"):
            self._has_refused = True
        finish_reason = choice.get("finish_reason")
        # "" stands for null with some servers. A reason once given stays: Azure sends the
        # verdict of its content filter after it, with null.
        if finish_reason or index not in self._finish_reasons:
            self._finish_reasons[index] = finish_reason
        return None

    def verdict(self) -> NotStorableReason | None:
        """Return why the answer may not be stored, or None if it may."""
        reasons = self._finish_reasons.values()
        if not all(reasons) or not reasons:
            return "incomplete"
        allowed = self._policy.finish_reasons
        if not all(isinstance(reason, str) and reason in allowed for reason in reasons):
            return "finish-reason"
        if self._has_refused and not self._policy.store_refusals:
            return "refusal"
        return None


class _Shapes:
    """The last shapes met in a stream: reasoning, then content; or several choices by turns."""

    __slots__ = ("_fruitless", "_shapes")

    def __init__(self) -> None:
        self._shapes: list[_Shape] = []
        self._fruitless = 0

    def add_marked(self, data: str, pieces: list[str]) -> bool:
        """If the chunk has a known shape, append it, marked and framed, and return True."""
        for shape in self._shapes:
            if shape.add_marked(data, pieces):
                self._fruitless = 0
                return True
        return False

    def learn(self, data: str, marks: list[Edit]) -> None:
        """Expect more chunks like this one.

        Args:
            data: A chunk, parsed and judged, on one line, that ends no choice.
            marks: What marks its id and time of creation.
        """
        # With logprobs no two chunks have the same shape; to go on would cost and bring nothing.
        if self._fruitless == _MOST_SHAPES:
            self._shapes = []
            return
        shape = _Shape.of(data, marks)
        if shape is not None:
            self._fruitless += 1
            self._shapes = [shape, *self._shapes[: _MOST_SHAPES - 1]]


class _Shape:
    """A sound chunk, with holes where its strings of said text were.

    Why a text that fits needs no parser: in JSON, a quote after `content` cannot be an escaped
    one, so `"content":"` ends a member's name and begins its value, which is a string; it ends at
    the next quote that is not escaped. Another string in its place gives another JSON text with
    the same structure. And no judgement of a chunk looks at members of those names.
    """

    __slots__ = ("_leads", "_tail", "_tail_marked")

    def __init__(self, leads: list[tuple[str, str]], tail: str, tail_marked: str) -> None:
        self._leads = leads
        self._tail = tail
        self._tail_marked = tail_marked

    @classmethod
    def of(cls, data: str, marks: list[Edit]) -> "_Shape | None":
        """Return the shape of a chunk, or None if it says no text.

        Args:
            data: A chunk, parsed and judged, on one line.
            marks: What marks its id and time of creation.
        """
        leads = []
        marked_lead = "data: "
        at = 0
        for found in _SAID.finditer(data):
            start = found.end()
            leads.append((data[at:start], marked_lead + _marked(data, at, start, marks)))
            marked_lead = ""
            at = _end_of_inside(data, start)
        if not leads:
            return None
        return cls(leads, data[at:], _marked(data, at, len(data), marks) + "\n\n")

    def add_marked(self, data: str, pieces: list[str]) -> bool:
        """If the chunk has this shape, append it, marked and framed, and return True."""
        at = 0
        found: list[str] = []
        for lead, lead_marked in self._leads:
            if not data.startswith(lead, at):
                return False
            start = at + len(lead)
            at = _end_of_inside(data, start)
            found += lead_marked, data[start:at]
        if data[at:] != self._tail:
            return False
        pieces += found
        pieces.append(self._tail_marked)
        return True


def _marked(data: str, start: int, end: int, marks: list[Edit]) -> str:
    """Return `data[start:end]` with the marks that lie in it."""
    inside = [(a - start, b - start, mark) for a, b, mark in marks if start <= a < end]
    return apply(data[start:end], inside)


def _end_of_inside(data: str, start: int) -> int:
    inside = _STRING_INSIDE.match(data, start)
    assert inside is not None  # it matches the empty string
    return inside.end()
