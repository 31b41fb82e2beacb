"""Recollect with its semantic tier on, and questions that mean the same to the real model.

A test that takes a model name of its own has a partition of its own: nothing that another test
stored can be found there, whatever the words.
"""

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.support import processes
from tests.support.http_client import DEFAULT_KEY, Answer
from tests.support.recollect_server import CHAT, RecollectServer

MODELS = Path(__file__).parents[2] / "build" / "models"
"""Where exported encoders lie, kept between runs."""

ONLY_IF_CACHED = {"Cache-Control": "only-if-cached"}
SECRET = "one secret for all hosts"

START_S = 50.0
"""The first run of all exports the model."""
FINDABLE_S = 5.0
"""Far more than it takes: tests that measure say how long themselves."""

QUESTION = "How do I reset my password for the online bank?"
PARAPHRASE = "How can I reset my password for the online bank?"

_OPENINGS = ("How do I", "How can I", "How would I", "How could I", "How should I", "How do we")
_OBJECTS = (
    "my password for the online bank",
    "the password for my online bank",
    "my online bank password",
    "the password for the online bank",
    "my password for my online bank",
)
PARAPHRASES = [
    f"{opening} reset {what}{end}"
    for opening, what, end in itertools.product(_OPENINGS, _OBJECTS, ("?", ""))
    if f"{opening} reset {what}{end}" != QUESTION
]
"""59 questions whose cosine to `QUESTION` is .95 or more."""

SECOND = "What does it cost to cancel a booking in the last week?"
SECOND_PARAPHRASE = "How much does it cost to cancel a booking in the last week?"
THIRD = "Which documents must I bring to the airport?"
THIRD_PARAPHRASE = "Which documents do I have to bring to the airport?"


def settings_of(*, workers: int = 2, **sections: Mapping[str, object] | list[Any]) -> Any:
    """Return settings with the semantic tier on, and `sections` over them.

    The deadline is long, so that a busy machine does not decide: tests of it set their own.
    """
    own: dict[str, Any] = {
        "server": {"workers": workers},
        "semantic": {"mode": "on", "models_dir": str(MODELS), "deadline_ms": 5000},
        "tenancy": {"secret": SECRET},
    }
    for name, section in sections.items():
        own[name] = {**own.get(name, {}), **section} if isinstance(section, Mapping) else section
    return own


def wait_listening(server: RecollectServer) -> RecollectServer:
    """Return `server` when its embedding process can be asked."""
    server.wait_for_log("embeddings listening", START_S)
    return server


def embedding_pids(server: RecollectServer) -> list[int]:
    """Return the embedding processes alive now."""
    return [
        pid
        for pid in processes.children(server.pid)
        if "proxy.embedding.process" in processes.command_line(pid)
    ]


def peek(
    server: RecollectServer,
    body: object,
    *,
    path: str = CHAT,
    key: str = DEFAULT_KEY,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """Ask without letting anything be fetched, stored or learnt: 504 where nothing is found."""
    return server.post(path, body, key=key, headers={**(headers or {}), **ONLY_IF_CACHED})


def is_meant(answer: Answer) -> bool:
    """Return whether it is the answer to other words."""
    return answer.status == 200 and answer.cache.detail == "semantic"


def becomes_meant(
    server: RecollectServer, body: object, *, path: str = CHAT, timeout_s: float = FINDABLE_S
) -> bool:
    """Peek until the answer to other words is found; False when it was not within `timeout_s`."""
    return processes.wait_until(lambda: is_meant(peek(server, body, path=path)), timeout_s)
