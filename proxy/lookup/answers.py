"""A stored response as the proxy knows it: what the model said, ready to be said again.

`cachestore` keeps bytes; this module gives them their meaning. A `StoredAnswer` holds the
recording in the form in which it came and, once it was asked for, ready to send in each other
form; all of it counts towards its size in memory.
"""

from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Final, TypeVar

import orjson

from cachestore.entry import StoredResponse
from cachestore.vector_record import GROUP_BYTES, Answer
from proxy.wire.endpoint import Endpoint, Form
from proxy.wire.record import Recording
from proxy.wire.replay import fresh, render

_BESIDE_A_TEXT: Final = frozenset({"role", "reasoning", "reasoning_content", "annotations"})
_OVERHEAD_BYTES: Final = 800
"""What an entry costs in memory beside its content, measured over 100,000 small entries."""


@dataclass(slots=True)
class StoredAnswer:
    """One stored response, ready for replay.

    Attributes:
        key: The exact key.
        stored_at: When it was stored, in Unix seconds.
        lifetime_s: Freshness lifetime in seconds.
        keep_s: Seconds past its lifetime for which it may be served stale.
        initial_age_s: Its age when it was stored, in seconds.
        endpoint: Whose answer it is.
        recording: What the model said.
        headers: Header fields of the upstream that are replayed.
        vary: The request's fields, and their values, that must be equal (RFC 9111 §4.1).
        upstream_s: What it took the upstream, in seconds.
        asked: The text it may be found by in other words; empty where there is none.
        templates: Forms that were rendered; see `template()`.
    """

    key: bytes
    stored_at: float
    lifetime_s: float
    keep_s: float
    initial_age_s: float
    endpoint: Endpoint
    recording: Recording
    headers: tuple[tuple[bytes, bytes], ...]
    vary: tuple[tuple[str, str | None], ...]
    upstream_s: float
    asked: str = ""
    templates: dict[tuple[Form, bool], bytes | None] = field(default_factory=dict)

    def age_s(self, now: float) -> float:
        """Return its age at `now`, in seconds (RFC 9111 §4.2.3)."""
        return max(0.0, now - self.stored_at) + self.initial_age_s

    def is_kept(self, now: float) -> bool:
        """Return whether it may still be used at `now`, fresh or stale."""
        return self.age_s(now) < self.lifetime_s + self.keep_s

    @property
    def size_bytes(self) -> int:
        """What it takes in memory, templates included."""
        recording = self.recording
        templates = sum(
            len(template)
            for template in self.templates.values()
            if template is not None and template is not recording.body
        )
        fields = sum(len(name) + len(value) for name, value in self.headers)
        fields += sum(len(name) + len(value or "") for name, value in self.vary)
        content = len(recording.body) + len(recording.usage) + len(self.asked)
        return content + templates + fields + _OVERHEAD_BYTES

    def template(self, form: Form, include_usage: bool) -> tuple[bytes | None, bool]:
        """Return it ready to send in `form`, and whether it has just grown by that.

        None where it cannot be sent so: a stream with its usage, and the usage is not known.
        """
        wanted = (form, include_usage)
        if wanted in self.templates:
            return self.templates[wanted], False
        template = render(self.recording, self.endpoint, form, include_usage)
        self.templates[wanted] = template
        return template, True

    def stored_response(self) -> StoredResponse:
        """Return it as bytes for a store."""
        recording = self.recording
        head = {
            "endpoint": self.endpoint.value,
            "form": recording.form.value,
            "usage_bytes": len(recording.usage),
            "prompt_tokens": recording.prompt_tokens,
            "completion_tokens": recording.completion_tokens,
            "headers": [[name.decode("latin-1"), v.decode("latin-1")] for name, v in self.headers],
            "vary": self.vary,
            "upstream_s": self.upstream_s,
            "asked": self.asked,
        }
        return StoredResponse(
            key=self.key,
            stored_at=self.stored_at,
            lifetime_s=self.lifetime_s,
            keep_s=self.keep_s,
            head=orjson.dumps(head),
            body=recording.body + recording.usage,
            initial_age_s=self.initial_age_s,
        )


def read_stored(stored: StoredResponse) -> StoredAnswer:
    """Return the answer in `stored`.

    Raises:
        ValueError: It was written by something else; what its checksum does not show.
    """
    try:
        head = orjson.loads(stored.head)
        recording_bytes = len(stored.body) - _typed(head["usage_bytes"], int)
        if not 0 <= recording_bytes <= len(stored.body):
            raise ValueError("more usage than content")
        return StoredAnswer(
            key=stored.key,
            stored_at=stored.stored_at,
            lifetime_s=stored.lifetime_s,
            keep_s=stored.keep_s,
            initial_age_s=stored.initial_age_s,
            endpoint=Endpoint(head["endpoint"]),
            recording=Recording(
                form=Form(head["form"]),
                body=stored.body[:recording_bytes],
                usage=stored.body[recording_bytes:],
                prompt_tokens=_typed(head["prompt_tokens"], int),
                completion_tokens=_typed(head["completion_tokens"], int),
            ),
            headers=tuple(
                (name.encode("latin-1"), v.encode("latin-1")) for name, v in head["headers"]
            ),
            vary=tuple((_typed(name, str), value) for name, value in head["vary"]),
            upstream_s=_typed(head["upstream_s"], float),
            asked=_typed(head["asked"], str),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError("not a stored answer of this version") from error


def said_by(answer: StoredAnswer) -> str | None:
    """Return the text of a chat completion that says nothing but a text, else None."""
    template, _ = answer.template(Form.JSON, False)
    if template is None:
        return None
    match orjson.loads(fresh(template, b"", b"0")):
        case {"choices": [{"message": {"content": str(text), **more}}]}:
            extra = {name for name, value in more.items() if value not in (None, [], "")}
            return text if extra <= {"role"} else None
    return None


def answer_of(answer: StoredAnswer, partition: bytes) -> Answer:
    """Return what of a stored answer is compared with other answers.

    Two texts that differ in blanks only are one group. What is more than a text, a call of a tool,
    say, is compared as a whole, and has no text.

    Args:
        answer: What was answered.
        partition: The question's: answers of two partitions are of no common group.
    """
    # Not by `template()`, which remembers: who streams may never ask for a document.
    document = render(answer.recording, answer.endpoint, Form.JSON, False)
    whole = fresh(document or answer.recording.body, b"", b"0")
    text = _text_of(answer.endpoint, whole)
    compared = whole if text is None else " ".join(text.split()).encode("utf-8", "replace")
    group = blake2b(partition + compared, digest_size=GROUP_BYTES).digest()
    return Answer(group, answer.stored_at, text or "")


def _text_of(endpoint: Endpoint, whole: bytes) -> str | None:
    """Return what an answer says, if that is one text; how it was thought out does not count."""
    try:
        said = orjson.loads(whole)
    except orjson.JSONDecodeError:
        return None
    match endpoint, said:
        case Endpoint.CHAT, {"choices": [{"message": {"content": str(text), **more}}]}:
            extra = {name for name, value in more.items() if value not in (None, [], "")}
            return text if extra <= _BESIDE_A_TEXT else None
        case Endpoint.COMPLETIONS, {"choices": [{"text": str(text)}]}:
            return text
        case Endpoint.RESPONSES, {"output": list(items)}:
            messages = [item for item in items if item.get("type") != "reasoning"]
            match messages:
                case [{"type": "message", "content": [{"type": "output_text", "text": str(text)}]}]:
                    return text
    return None


_Kind = TypeVar("_Kind", int, float, str)


def _typed(value: object, kind: type[_Kind]) -> _Kind:
    if type(value) is not kind:
        raise TypeError(f"not of type {kind.__name__}")
    return value
