"""What an event stream says, read the way the WHATWG format is written down.

Written apart from `proxy.wire.events`, so that the two can disagree.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

_LINE_END = re.compile(r"\r\n|\n|\r")


def data_of(raw: bytes) -> list[str]:
    """Return the data of every dispatched event, in order."""
    text = raw.decode().removeprefix("\ufeff")
    events: list[str] = []
    lines: list[str] = []
    for line in _LINE_END.split(text):
        if line == "":
            if lines:
                events.append("\n".join(lines))
            lines = []
        elif line.startswith("data:"):
            lines.append(line[5:].removeprefix(" "))
    return events


def chunks_of(raw: bytes) -> list[dict[str, Any]]:
    """Return every event's JSON but the terminator `[DONE]`."""
    return [json.loads(data) for data in data_of(raw) if data != "[DONE]"]


def is_terminated(raw: bytes) -> bool:
    """Whether the stream ends the way a chat stream ends."""
    events = data_of(raw)
    return bool(events) and events[-1] == "[DONE]"


def assembled(raw: bytes) -> list[dict[str, Any]]:
    """Return the choices of a chat or completions stream, each put together from its pieces."""
    choices: dict[int, dict[str, Any]] = {}
    for chunk in chunks_of(raw):
        for piece in chunk.get("choices", ()):
            choice = choices.setdefault(
                piece["index"],
                {"index": piece["index"], "text": "", "tool_calls": {}, "finish_reason": None},
            )
            _add(choice, piece)
    return [choices[index] for index in sorted(choices)]


def _add(choice: dict[str, Any], piece: dict[str, Any]) -> None:
    delta = piece.get("delta", {})
    choice["text"] += piece.get("text") or delta.get("content") or ""
    choice["finish_reason"] = piece.get("finish_reason") or choice["finish_reason"]
    for call in delta.get("tool_calls") or ():
        known = choice["tool_calls"].setdefault(
            call["index"], {"id": "", "name": "", "arguments": ""}
        )
        function = call.get("function", {})
        known["id"] += call.get("id") or ""
        known["name"] += function.get("name") or ""
        known["arguments"] += function.get("arguments") or ""


def texts(raw: bytes) -> Iterator[str]:
    """Yield the text of each choice of a stream."""
    for choice in assembled(raw):
        yield choice["text"]
