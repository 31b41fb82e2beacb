"""Templates: an answer whose id and time of creation are marked, to be filled in anew per replay.

The marks are control characters, which no JSON text can contain unescaped (RFC 8259 §2, §7), so
that nothing an upstream says can look like one, and filling in is a plain replacement of bytes.
They are single bytes because those are found ten times as fast as longer ones: a replayed stream
of 200 chunks holds 400 marks.
"""

from typing import Final

from proxy.wire import json_spans

ID_MARK: Final = "\x00"
CREATED_MARK: Final = "\x01"

ID_MARK_BYTES: Final = ID_MARK.encode()
CREATED_MARK_BYTES: Final = CREATED_MARK.encode()

Edit = tuple[int, int, str]
"""Put the text in place of `text[start:end]`."""


def edits(text: str, at: int, id_name: str, created_name: str) -> list[Edit]:
    """Return what marks the id and the time of creation of the object that begins at `at`.

    Marked are an id that is a string and a time that is a number. Those that say nothing (null,
    "", 0: Azure's first chunk) stay. Only the object's own members count, not those further in:
    the id of a tool call is part of the answer. Of a repeated name the first is marked.

    Args:
        text: A JSON text.
        at: Where the object begins.
        id_name: The name of the member that holds the id.
        created_name: The name of the member that holds the time of creation.

    Returns:
        At most two edits, in the order of the text.
    """
    found: list[Edit] = []
    names = {id_name, created_name}
    for name, start, end in json_spans.members(text, at):
        if name not in names:
            continue
        value = text[start:end]
        if name == id_name:
            if value[0] == '"' and value != '""':
                found.append((start + 1, end - 1, ID_MARK))
        elif value[0] in "123456789":
            found.append((start, end, CREATED_MARK))
        names.remove(name)
        # The rest of the text need not be read.
        if not names:
            break
    return found


def apply(text: str, changes: list[Edit]) -> str:
    """Return `text` with all changes, which must be in order and apart from each other."""
    pieces: list[str] = []
    at = 0
    for start, end, replacement in changes:
        pieces += text[at:start], replacement
        at = end
    pieces.append(text[at:])
    return "".join(pieces)


def unmark(template: bytes) -> bytes:
    """Return `template` as JSON: an empty id and time 0 where the marks were."""
    return template.replace(ID_MARK_BYTES, b"").replace(CREATED_MARK_BYTES, b"0")


def one_line(text: str) -> str:
    """Return a JSON text without line ends, so that it fits on one `data:` line.

    Inside of strings line ends are always escaped (RFC 8259 §7); elsewhere they are white space.
    """
    return text.replace("\n", " ").replace("\r", " ")


def frame(data: str, name: str = "") -> str:
    """Return one server-sent event. `data` must be without line ends."""
    return f"event: {name}\ndata: {data}\n\n" if name else f"data: {data}\n\n"
