"""openai-python through Recollect: the first and the repeated call are equal."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from openai import AsyncOpenAI, InternalServerError, OpenAI
from pydantic import BaseModel

from tests.support.fake_upstream import FakeUpstream, Play
from tests.support.http_client import strip_volatile
from tests.support.recollect_server import RecollectServer, unique


class Place(BaseModel):
    """What a structured answer is read into."""

    city: str
    letters: int


TOOLS: Any = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
]


def user(prompt: str) -> Any:
    return [{"role": "user", "content": prompt}]


@pytest.fixture(scope="module")
def client(recollect: RecollectServer) -> Iterator[OpenAI]:
    """The library, with Recollect as its base URL and its own retries off."""
    with OpenAI(base_url=recollect.url, api_key="sk-python-0123456789", max_retries=0) as opened:
        yield opened


def streamed_chat(client: OpenAI, prompt: str) -> list[Any]:
    """Ask for a stream and return its chunks."""
    options: Any = {"include_usage": True}
    with client.chat.completions.create(
        model="m", messages=user(prompt), stream=True, stream_options=options
    ) as stream:
        return [chunk.model_dump() for chunk in stream]


def helped_stream(client: OpenAI, prompt: str) -> Any:
    """Use the library's own accumulation of a chat stream."""
    with client.chat.completions.stream(model="m", messages=user(prompt)) as stream:
        return stream.get_final_completion().model_dump()


def streamed_response(client: OpenAI, prompt: str) -> Any:
    """Use the library's own accumulation of a response's stream."""
    with client.responses.stream(model="m", input=prompt, store=False) as stream:
        return stream.get_final_response().model_dump()


def response_events(client: OpenAI, prompt: str) -> list[Any]:
    """Return the events of a streamed response as the library reads them."""
    with client.responses.create(model="m", input=prompt, store=False, stream=True) as stream:
        return [event.model_dump() for event in stream]


REQUESTS: dict[str, Callable[[OpenAI, str], Any]] = {
    "chat": lambda c, p: c.chat.completions.create(model="m", messages=user(p)).model_dump(),
    "chat with tools": lambda c, p: c.chat.completions.create(
        model="m", messages=user(p), tools=TOOLS
    ).model_dump(),
    "chat, three choices": lambda c, p: c.chat.completions.create(
        model="m", messages=user(p), n=3
    ).model_dump(),
    "chat stream": streamed_chat,
    "chat stream, accumulated": helped_stream,
    "structured output": lambda c, p: c.chat.completions.parse(
        model="m", messages=user(p), response_format=Place
    ).model_dump(warnings=False),
    "completions": lambda c, p: c.completions.create(model="m", prompt=p).model_dump(),
    "embeddings": lambda c, p: c.embeddings.create(model="e", input=[p, p + "!"]).model_dump(),
    "embeddings as numbers": lambda c, p: c.embeddings.create(
        model="e", input=p, encoding_format="float"
    ).model_dump(),
    "responses": lambda c, p: c.responses.create(model="m", input=p, store=False).model_dump(),
    "responses stream": response_events,
    "responses stream, accumulated": streamed_response,
}


def comparable(answer: Any) -> Any:
    """Return the answer without what is fresh on every call."""
    if isinstance(answer, list):
        return [strip_volatile(chunk) for chunk in answer]
    return strip_volatile(answer)


@pytest.mark.parametrize("name", REQUESTS)
def test_repeated_call_is_equal_and_costs_no_upstream_call(
    name: str, client: OpenAI, upstream: FakeUpstream
) -> None:
    """Promise 1, as the library's users see it."""
    prompt = unique(name)
    ask = REQUESTS[name]

    first, second = ask(client, prompt), ask(client, prompt)

    assert comparable(first) == comparable(second)
    assert upstream.calls(prompt) == 1


def test_second_call_is_a_hit(client: OpenAI) -> None:
    """The raw response shows what the cache did."""
    prompt = unique("raw")
    ask = client.chat.completions.with_raw_response.create

    given = [ask(model="m", messages=user(prompt)) for _ in range(2)]

    assert "fwd=miss" in given[0].headers["cache-status"]
    assert "recollect; hit" in given[1].headers["cache-status"]
    assert given[0].parse().id != given[1].parse().id


def test_vectors_are_the_same_in_either_encoding(client: OpenAI, upstream: FakeUpstream) -> None:
    """The library asks for base64 by default; numbers asked for later are as good."""
    prompt = unique("encoding")

    coded = client.embeddings.create(model="e", input=prompt)
    numbers = client.embeddings.create(model="e", input=prompt, encoding_format="float")

    assert len(coded.data[0].embedding) == len(numbers.data[0].embedding)
    assert coded.data[0].embedding[:-1] == numbers.data[0].embedding[:-1]


def test_structured_output_is_parsed_from_a_hit(client: OpenAI) -> None:
    """The schema's type comes back both times."""
    prompt = unique("parse")
    for _ in range(2):
        parsed = client.chat.completions.parse(
            model="m", messages=user(prompt), response_format=Place
        )
        assert isinstance(parsed.choices[0].message.parsed, Place)


def test_async_client_and_stream(recollect: RecollectServer, upstream: FakeUpstream) -> None:
    """Ten at once, streamed: equal texts, one upstream call."""
    prompt = unique("async")
    upstream.on(prompt, Play(delay_s=0.2))

    async def ask(client: AsyncOpenAI) -> str:
        stream = await client.chat.completions.create(model="m", messages=user(prompt), stream=True)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    async def ask_all() -> list[str]:
        async with AsyncOpenAI(base_url=recollect.url, api_key="sk-a", max_retries=0) as client:
            return await asyncio.gather(*(ask(client) for _ in range(10)))

    texts = asyncio.run(ask_all())

    assert len(set(texts)) == 1
    assert texts[0].startswith("Réponse")
    assert upstream.calls(prompt) == 1


def test_upstreams_error_is_the_librarys_error(client: OpenAI, upstream: FakeUpstream) -> None:
    """Status, message and code come through."""
    prompt = unique("error")
    body = b'{"error": {"message": "too busy", "type": "x", "param": null, "code": "busy"}}'
    upstream.on(prompt, Play(status=500, body=body))

    with pytest.raises(InternalServerError, match="too busy") as raised:
        client.chat.completions.create(model="m", messages=user(prompt))

    assert raised.value.code == "busy"


def test_models_list_passes(client: OpenAI) -> None:
    """What is not cached works as without us."""
    assert client.models.list().data == []
