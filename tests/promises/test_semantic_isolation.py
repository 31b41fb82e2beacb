"""What must be equal before words are compared at all: everything but the last turn's wording.

Each pair here is near enough for the real model to be taken for the same question: what keeps
them apart is that they are never compared. Asked with `only-if-cached`, so that one stored
response is there for all.
"""

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.fake_upstream import FakeUpstream
from tests.support.http_client import DEFAULT_KEY, Answer
from tests.support.processes import wait_until
from tests.support.recollect_server import (
    CHAT,
    COMPLETIONS,
    EMBEDDINGS,
    RESPONSES,
    RecollectServer,
    chat_body,
    unique,
)
from tests.support.redis_server import RedisServer
from tests.support.semantic import (
    FINDABLE_S,
    PARAPHRASE,
    QUESTION,
    becomes_meant,
    is_meant,
    peek,
    settings_of,
    wait_listening,
)


@pytest.fixture(scope="module")
def server(upstream: FakeUpstream, redis_server: RedisServer) -> Iterator[RecollectServer]:
    """One Recollect whose semantic tier is on."""
    server = RecollectServer(
        upstream.url, redis_server.url, settings_of(redis={"namespace": "apart"})
    )
    try:
        yield wait_listening(server)
    finally:
        server.close()


@dataclass
class Request:
    """A chat request, to be changed."""

    body: dict[str, Any]
    path: str = CHAT
    key: str = DEFAULT_KEY
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def messages(self) -> list[dict[str, Any]]:
        """System prompt, a question and its answer, and the last question."""
        found: list[dict[str, Any]] = self.body["messages"]
        return found

    def peek(self, server: RecollectServer) -> Answer:
        """Ask the cache alone."""
        return peek(server, self.body, path=self.path, key=self.key, headers=self.headers)


TOOL = {"type": "function", "function": {"name": "weigh", "parameters": {"type": "object"}}}


def request_of(model: str, words: str) -> Request:
    """Return a request that has something of everything."""
    return Request(
        {
            "model": model,
            "messages": [
                {"role": "system", "content": "You help customers of a bank."},
                {"role": "user", "content": "Which bank is this?"},
                {"role": "assistant", "content": "The online bank of Vienna."},
                {"role": "user", "content": words},
            ],
            "temperature": 0.25,
            "max_tokens": 300,
            "tools": [TOOL],
            "tool_choice": "none",
            "response_format": {"type": "json_object"},
        }
    )


Change = Callable[[Request], None]


def with_field(name: str, value: Any) -> Change:
    """Return a change of one field of the body."""

    def change(request: Request) -> None:
        request.body[name] = value

    return change


def with_message(at: int, **fields: Any) -> Change:
    """Return a change of one message."""

    def change(request: Request) -> None:
        request.messages[at].update(fields)

    return change


def with_header(name: str, value: str) -> Change:
    """Return a change of one header field."""

    def change(request: Request) -> None:
        request.headers[name] = value

    return change


def _other_model(request: Request) -> None:
    request.body["model"] += "-large"


def _other_tenant(request: Request) -> None:
    request.key = "sk-other-0123456789abcdef"


def _query(request: Request) -> None:
    request.path += "?api-version=2"


def _no_system_prompt(request: Request) -> None:
    request.messages[0]["role"] = "user"


def _one_turn_more(request: Request) -> None:
    request.messages[1:1] = [
        {"role": "user", "content": "Good morning to you."},
        {"role": "assistant", "content": "Good morning."},
    ]


def _one_part_more(request: Request) -> None:
    text = {"type": "text", "text": request.messages[-1]["content"]}
    request.messages[-1]["content"] = [{"type": "text", "text": "Of my mother's account:"}, text]


def _around(before: str, after: str) -> Change:
    def change(request: Request) -> None:
        last = request.messages[-1]
        if isinstance(last["content"], str):
            last["content"] = before + last["content"] + after
        else:
            last["content"][-1]["text"] = before + last["content"][-1]["text"] + after

    return change


_LONG = "\n\n".join(["The letter that came with my card says a great many things. " * 3] * 5)

# No two undo each other, so that any number of them is a different question.
CHANGES: dict[str, Change] = {
    "model": _other_model,
    "tenant": _other_tenant,
    "query": _query,
    "organization": with_header("OpenAI-Organization", "org-2"),
    "system prompt": with_message(0, content="You help customers of a bank"),
    "role of the system prompt": _no_system_prompt,
    "earlier question": with_message(1, content="What bank is this?"),
    "earlier answer": with_message(2, content="The online bank of Vienna!"),
    "name of who asks": with_message(3, name="ann"),
    "one turn more": _one_turn_more,
    "one part more": _one_part_more,
    "figure": _around("", " It ends in 7."),
    "quotation": _around("", ' It is "online".'),
    "what stands before": _around(_LONG + "\n\n", ""),
    "temperature": with_field("temperature", 0.5),
    "top_p": with_field("top_p", 0.9),
    "max_tokens": with_field("max_tokens", 301),
    "stop": with_field("stop", ["x"]),
    "seed": with_field("seed", 1),
    "n": with_field("n", 2),
    "logit_bias": with_field("logit_bias", {"50256": -100}),
    "reasoning_effort": with_field("reasoning_effort", "low"),
    "tools": with_field("tools", [TOOL, TOOL]),
    "tool_choice": with_field("tool_choice", "auto"),
    "response_format": with_field("response_format", {"type": "text"}),
    "logprobs": with_field("logprobs", True),
    "chat_template_kwargs": with_field("chat_template_kwargs", {"enable_thinking": False}),
    "unknown field": with_field("x_of_a_vendor", ""),
}


@pytest.fixture(scope="module")
def base(server: RecollectServer, upstream: FakeUpstream) -> Request:
    """The paraphrase of a request whose answer is stored; unchanged, it is a hit."""
    model = unique("base")
    # As a system prompt asks for it: JSON mode is not to make up another kind of answer.
    stored = request_of(model, QUESTION)
    assert server.post(CHAT, stored.body).cache.stored
    paraphrase = request_of(model, PARAPHRASE)
    assert becomes_meant(server, paraphrase.body)
    return paraphrase


def changed(base: Request, names: list[str]) -> Request:
    """Return `base` with changes."""
    request = deepcopy(base)
    for name in names:
        CHANGES[name](request)
    return request


@pytest.mark.parametrize("name", CHANGES)
def test_one_change_keeps_two_questions_apart(
    name: str, base: Request, server: RecollectServer
) -> None:
    """Whatever may change the answer is in the partition, known to us or not."""
    assert changed(base, [name]).peek(server).status == 504


@settings(max_examples=25, deadline=None)
@given(names=st.lists(st.sampled_from(sorted(CHANGES)), min_size=2, max_size=5, unique=True))
def test_no_set_of_changes_makes_them_meet(
    names: list[str], base: Request, server: RecollectServer
) -> None:
    """Changes do not cancel out; and the unchanged question is found all the while."""
    assert changed(base, names).peek(server).status == 504
    assert is_meant(base.peek(server))


@pytest.mark.parametrize("name", ["model", "tenant", "system prompt", "earlier answer", "tools"])
def test_a_changed_question_is_asked_upstream(
    name: str, base: Request, upstream: FakeUpstream, server: RecollectServer
) -> None:
    """Not only refused with `only-if-cached`: it gets an answer of its own."""
    request = changed(base, [name])
    request.body["messages"][-1]["content"] = PARAPHRASE
    model = base.body["model"]
    before = upstream.calls(model)

    answer = server.post(CHAT, request.body, key=request.key)

    assert answer.status == 200
    assert not answer.cache.hit
    assert upstream.calls(model) == before + 1


FROM_3_TO_5 = "How do I upgrade the database from version 3 to version 5?"
DENIED = 'What does the error "permission denied" mean in a shell?'
# What is stored, another question that is as near, and a paraphrase that is the same.
WORDINGS = {
    "order of figures": (
        FROM_3_TO_5,
        "How can I upgrade the database from version 5 to version 3?",
        "How can I upgrade the database from version 3 to version 5?",
    ),
    "quoted": (
        DENIED,
        DENIED.replace("permission", "permissions"),
        'What is the meaning of the error "permission denied" in a shell?',
    ),
    "case of what is quoted": (
        DENIED,
        'What does the error "Permission Denied" mean in a shell?',
        'What is the meaning of the error "permission denied" in a shell?',
    ),
    "code": (
        DENIED.replace('"', "`"),
        "What does the error `permissions denied` mean in a shell?",
        "What is the meaning of the error `permission denied` in a shell?",
    ),
}


@pytest.mark.parametrize("wording", WORDINGS)
def test_figures_and_quotations_are_compared_to_the_letter(
    wording: str, upstream: FakeUpstream, server: RecollectServer
) -> None:
    """An encoder takes "from 3 to 5" for "from 5 to 3"."""
    model = unique("letters")
    stored, other, same = WORDINGS[wording]
    assert server.chat(stored, model=model).cache.stored

    assert becomes_meant(server, chat_body(same, model=model))
    assert peek(server, chat_body(other, model=model)).status == 504


def turns(*contents: Any, roles: str = "ua") -> list[dict[str, Any]]:
    """Return messages of user and assistant in turn, or as `roles` says."""
    names = {"u": "user", "a": "assistant", "t": "tool"}
    return [
        {"role": names[roles[number % len(roles)]], "content": content}
        for number, content in enumerate(contents)
    ]


def _with_tool_turn(words: str) -> dict[str, Any]:
    call = {"id": "c", "type": "function", "function": {"name": "weigh", "arguments": "{}"}}
    asked = {"role": "assistant", "content": None, "tool_calls": [call]}
    found = {"role": "tool", "tool_call_id": "c", "content": "Nothing was found."}
    return {"messages": [*turns("What is there?"), asked, found, *turns(words)]}


def _with_image(words: str) -> dict[str, Any]:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}
    return {"messages": turns([image, {"type": "text", "text": words}])}


_RUN_ON = "of the many letters that came with my card and said a great many things to me " * 9
_LEANING = "And how do I reset it?", "And how can I reset it?"
_SHORT = "Password reset", "password reset?"
_BOTH = QUESTION, PARAPHRASE
_UNBROKEN = f"How do I make sense {_RUN_ON}", f"How can I make sense {_RUN_ON}"

Body = Callable[[str], dict[str, Any]]
EXACT_ONLY: dict[str, tuple[str, str, Body, tuple[str, str]]] = {
    "short": ("short", CHAT, lambda words: {"messages": turns(words)}, _SHORT),
    "leaning": ("leaning", CHAT, lambda words: {"messages": turns(words)}, _LEANING),
    "leaning, later": (
        *("leaning", CHAT),
        lambda words: {"messages": turns("Where is my card?", "In the post.", words)},
        _LEANING,
    ),
    "one long sentence": ("long", CHAT, lambda words: {"messages": turns(words)}, _UNBROKEN),
    "image": ("media", CHAT, _with_image, _BOTH),
    "tool turn": ("tool", CHAT, _with_tool_turn, _BOTH),
    "assistant's turn": ("turn", CHAT, lambda words: {"messages": turns("Hm?", words)}, _BOTH),
    "echo": ("echo", COMPLETIONS, lambda words: {"prompt": words, "echo": True}, _BOTH),
    "two prompts": ("tokens", COMPLETIONS, lambda words: {"prompt": [words, words]}, _BOTH),
    "tokens": (
        *("tokens", COMPLETIONS),
        lambda words: {"prompt": [1, 2, 3 if words == QUESTION else 4]},
        _BOTH,
    ),
    "embeddings": ("endpoint", EMBEDDINGS, lambda words: {"input": words}, _BOTH),
    "an answer as input": (
        *("turn", RESPONSES),
        lambda words: {"store": False, "input": [{"role": "assistant", "content": words}]},
        _BOTH,
    ),
}


@pytest.mark.parametrize("case", EXACT_ONLY)
def test_some_requests_are_for_the_exact_tier_only(
    case: str, upstream: FakeUpstream, server: RecollectServer
) -> None:
    """Each for a named reason, which is counted; the same request hits all the same."""
    reason, path, body_of, (stored, other) = EXACT_ONLY[case]
    model = unique("exact")
    asked, paraphrase = ({"model": model, **body_of(words)} for words in (stored, other))
    counter = "recollect_semantic_exact_only_total"
    before = server.metric(counter, reason=reason)

    assert not server.post(path, asked).cache.hit
    answer = server.post(path, paraphrase)

    assert answer.status == 200
    assert not answer.cache.hit
    assert upstream.calls(model) == 2
    assert server.post(path, asked).cache.detail == "exact"
    counted = lambda: server.metric(counter, reason=reason) >= before + 2  # noqa: E731
    assert wait_until(counted, FINDABLE_S)


def test_a_script_the_encoder_does_not_know_is_for_the_exact_tier_only(
    upstream: FakeUpstream, server: RecollectServer
) -> None:
    """The default encoder cannot tell Russian questions apart; the look-up says so."""
    model = unique("script")
    looked = "recollect_semantic_lookups_total"
    before = server.metric(looked, outcome="script")

    for words in "Как сбросить пароль в онлайн-банке?", "Как мне сбросить пароль в онлайн-банке?":
        assert not server.chat(words, model=model).cache.hit
        assert server.chat(words, model=model).cache.detail == "exact"

    assert upstream.calls(model) == 2
    refused = lambda: server.metric(looked, outcome="script") == before + 2  # noqa: E731
    assert wait_until(refused, FINDABLE_S)
