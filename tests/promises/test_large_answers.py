"""Large and long answers pass whole, with bounded memory, and are stored if not too large."""

import json

import pytest

from tests.support import sse
from tests.support.fake_upstream import FakeUpstream, Play
from tests.support.http_client import comparable
from tests.support.openai_answers import Said
from tests.support.processes import resident_bytes
from tests.support.recollect_server import CHAT, RecollectServer, chat_body, unique

MEBIBYTE = 1024**2


def highest_resident_bytes(pid: int) -> int:
    """Return the most memory a process ever had in RAM."""
    with open(f"/proc/{pid}/status") as lines:
        (line,) = (line for line in lines if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


@pytest.mark.parametrize("is_stream", [False, True])
def test_answer_of_20_mb_passes_whole_and_is_not_stored(
    is_stream: bool, upstream: FakeUpstream, recollect: RecollectServer
) -> None:
    """Above `cache.max_entry_bytes` the bytes flow through; memory is bounded by that size."""
    prompt = unique("20 MB")
    (pid,) = recollect.worker_pids()
    recollect.chat(unique("before"))
    before = resident_bytes(pid)
    upstream.on(prompt, Play(said=Said("é" * 10 * MEBIBYTE)))

    given = [recollect.chat(prompt, stream=is_stream) for _ in range(2)]

    for answer in given:
        assert answer.is_complete
        assert answer.text == "é" * 10 * MEBIBYTE
        assert not answer.cache.hit
    assert upstream.calls(prompt) == 2
    if not is_stream:
        assert given[0].cache.detail == "size" or given[0].cache.fwd == "miss"
    # What is kept while it may still fit, twice over for copies.
    assert highest_resident_bytes(pid) < before + 4 * 8 * MEBIBYTE


def test_stream_of_10000_chunks_is_stored_and_replayed_chunk_by_chunk(
    upstream: FakeUpstream, recollect: RecollectServer
) -> None:
    """The same chunks again, and the same text as one document."""
    prompt = unique("10,000 chunks")

    def many(made: list[bytes]) -> list[bytes]:
        mark = b'"content": "'
        words = [made[1].replace(mark, mark + b"%d " % number) for number in range(10_000)]
        return [made[0], *words, *made[-2:]]

    upstream.on(prompt, Play(mangle=many))

    first, second = (recollect.chat(prompt, stream=True) for _ in range(2))
    document = recollect.chat(prompt)

    assert second.cache.hit
    assert len(sse.chunks_of(first.body)) == 10_002
    assert comparable(first) == comparable(second)
    assert document.text == first.text
    assert upstream.calls(prompt) == 1


def test_answer_just_below_the_limit_is_stored(
    upstream: FakeUpstream, recollect: RecollectServer
) -> None:
    """Seven megabytes fit the default of eight."""
    prompt = unique("7 MB")
    upstream.on(prompt, Play(said=Said("x" * 7 * MEBIBYTE)))

    given = [recollect.chat(prompt) for _ in range(2)]

    assert given[1].cache.hit
    assert given[0].text == given[1].text


def test_request_of_20_mb_is_forwarded_whole(
    upstream: FakeUpstream, recollect: RecollectServer
) -> None:
    """Images travel in the body; below `limits.body_bytes` they are keyed like any text."""
    prompt = unique("request")
    body = json.dumps(chat_body(prompt + "y" * 20 * MEBIBYTE)).encode()

    given = [recollect.post(CHAT, body) for _ in range(2)]

    assert [answer.cache.hit for answer in given] == [False, True]
    assert upstream.seen(prompt)[0].body == body
