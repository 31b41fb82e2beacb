"""What recording gives: a recording, or the reason why there is none."""

from dataclasses import dataclass
from typing import Any, Literal

from proxy.wire.endpoint import Form

NotStorableReason = Literal[
    "encoding", "content-type", "json", "error", "incomplete", "finish-reason", "refusal", "size"
]


@dataclass(frozen=True, slots=True)
class RecordPolicy:
    """What the operator lets be stored.

    Attributes:
        finish_reasons: The finish reasons an answer may end with. The Responses API has none.
        store_refusals: Whether an answer in which the model refuses may be stored.
        max_bytes: The largest answer, without its content coding.
    """

    finish_reasons: frozenset[str]
    store_refusals: bool
    max_bytes: int


@dataclass(frozen=True, slots=True)
class NotStorable:
    """The answer may not be stored.

    Attributes:
        reason: One word for the header, the metric and the log.
            "encoding": unknown or damaged content coding, or too large once undone.
            "content-type": neither JSON nor an event stream.
            "json": not the JSON of such an answer: broken, empty, of another shape.
            "error": an error inside a 200.
            "incomplete": cut off, still going on, or nothing in it.
            "finish-reason": one the policy does not name, say `length`.
            "refusal": the model refused.
            "size": larger than the policy allows.
    """

    reason: NotStorableReason


@dataclass(frozen=True, slots=True)
class Recording:
    """One complete answer.

    Attributes:
        form: The form it was sent in.
        body: The JSON document; or all events but the usage chunk and `[DONE]`, each as one
            `data:` line (with an `event:` line where it was named). A template: id and time of
            creation are marked (see `template`).
        usage: The event of the usage chunk (no choices, but usage), b"" if there was none.
        prompt_tokens: As the upstream counted them, 0 if it did not say.
        completion_tokens: Likewise.
    """

    form: Form
    body: bytes
    usage: bytes
    prompt_tokens: int
    completion_tokens: int


def carries_error(answer: dict[str, Any]) -> bool:
    """Tell whether an answer, or a part of one, reports an error.

    OpenAI and those who follow it say so in `error`, which is null where all is well (Responses
    API). vLLM has also said `"object": "error"`.
    """
    return answer.get("error") not in (None, "", False) or answer.get("object") == "error"


def count_tokens(usage: object) -> tuple[int, int]:
    """Return the prompt's and the completion's tokens; 0 for what `usage` does not say."""
    if not isinstance(usage, dict):
        return 0, 0
    return (
        _count(usage, "prompt_tokens", "input_tokens"),
        _count(usage, "completion_tokens", "output_tokens"),
    )


def _count(usage: dict[str, Any], *names: str) -> int:
    for name in names:
        count = usage.get(name)
        if type(count) is int and count > 0:
            return count
    return 0
