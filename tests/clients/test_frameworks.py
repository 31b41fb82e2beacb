"""langchain-openai and pydantic-ai through Recollect: first and repeated call are equal."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from openai import AsyncOpenAI
from pydantic import BaseModel, SecretStr
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

from tests.support.fake_upstream import FakeUpstream
from tests.support.recollect_server import RecollectServer, unique

T = TypeVar("T")
KEY = "sk-framework-0123456789"


class Place(BaseModel):
    """What a structured answer is read into."""

    city: str
    letters: int


@pytest.fixture
def chat(recollect: RecollectServer) -> ChatOpenAI:
    """LangChain's chat model."""
    return ChatOpenAI(model="m", base_url=recollect.url, api_key=SecretStr(KEY), max_retries=0)


def test_langchain_answers_are_equal(chat: ChatOpenAI, upstream: FakeUpstream) -> None:
    """`invoke`, twice."""
    prompt = unique("langchain")

    first, second = chat.invoke(prompt), chat.invoke(prompt)

    assert first.content == second.content
    assert first.usage_metadata == second.usage_metadata
    assert first.id != second.id
    assert upstream.calls(prompt) == 1


def test_langchain_streams_are_equal(chat: ChatOpenAI, upstream: FakeUpstream) -> None:
    """`stream`, twice; LangChain asks for usage by itself."""
    prompt = unique("langchain stream")

    first, second = ([chunk.content for chunk in chat.stream(prompt)] for _ in range(2))

    assert "".join(map(str, first)).startswith("Réponse")
    assert first == second
    assert upstream.calls(prompt) == 1


def test_langchain_structured_output_and_tools(chat: ChatOpenAI, upstream: FakeUpstream) -> None:
    """Both ways of getting an object."""
    for method in ("json_schema", "function_calling"):
        prompt = unique(method)
        ask: Any = chat.with_structured_output(Place, method=method)

        first, second = ask.invoke(prompt), ask.invoke(prompt)

        assert isinstance(first, Place)
        assert first == second
        assert upstream.calls(prompt) == 1


def test_langchain_embeddings_are_equal(recollect: RecollectServer, upstream: FakeUpstream) -> None:
    """Batches of texts, sent as text."""
    prompt = unique("langchain embedding")
    embeddings = OpenAIEmbeddings(
        model="e",
        base_url=recollect.url,
        api_key=SecretStr(KEY),
        check_embedding_ctx_length=False,
    )

    first, second = (embeddings.embed_documents([prompt, prompt + "!"]) for _ in range(2))

    assert first == second
    assert first[0] != first[1]
    assert upstream.calls(prompt) == 1


async def run_pydantic_ai(
    recollect: RecollectServer, run: Callable[[OpenAIChatModel], Awaitable[T]]
) -> list[T]:
    """Return what `run` returns for a model behind Recollect, twice."""
    async with AsyncOpenAI(base_url=recollect.url, api_key=KEY, max_retries=0) as client:
        model = OpenAIChatModel("m", provider=OpenAIProvider(openai_client=client))
        return [await run(model), await run(model)]


def test_pydantic_ai_runs_are_equal(recollect: RecollectServer, upstream: FakeUpstream) -> None:
    """A plain run and a typed one, twice each."""
    prompt = unique("pydantic-ai")

    async def run(model: OpenAIChatModel) -> tuple[str, Place]:
        plain = await Agent(model).run(prompt)
        typed = await Agent(model, output_type=Place).run(prompt)
        return plain.output, typed.output

    first, second = asyncio.run(run_pydantic_ai(recollect, run))

    assert first == second
    assert first[0].startswith("Réponse")
    assert isinstance(first[1], Place)
    assert upstream.calls(prompt) == 2


def test_pydantic_ai_stream_is_equal(recollect: RecollectServer, upstream: FakeUpstream) -> None:
    """A streamed run, twice."""
    prompt = unique("pydantic-ai stream")

    async def run(model: OpenAIChatModel) -> str:
        async with Agent(model).run_stream(prompt) as result:
            return await result.get_output()

    first, second = asyncio.run(run_pydantic_ai(recollect, run))

    assert first == second
    assert upstream.calls(prompt) == 1
