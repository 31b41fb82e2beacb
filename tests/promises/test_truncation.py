"""Promise 2: no truncated answer is ever stored, and no ending is invented."""

from collections.abc import Callable, Iterable

import pytest

from tests.support import sse
from tests.support.fake_upstream import FakeUpstream, Piece, Play
from tests.support.recollect_server import COMPLETIONS, RESPONSES, RecollectServer, unique

Mangle = Callable[[list[bytes]], Iterable[Piece]]

ERROR = b'data: {"error": {"message": "out of memory", "type": "server_error"}}\n\n'
JUNK = b"data: {broken\n\n"


def is_finish(event: bytes) -> bool:
    return b'"finish_reason": "stop"' in event


# What the upstream sends of the events it would, and whether it then cuts the connection.
SHAPES: dict[str, tuple[Mangle, bool]] = {
    "cut after some text": (lambda made: made[:5], True),
    "cut before the terminator": (lambda made: made[:-1], True),
    "cut inside an event": (lambda made: [*made[:4], made[4][:20]], True),
    "cut before any text": (lambda made: made[:1], True),
    "clean end after some text": (lambda made: made[:5], False),
    "clean end without the terminator": (lambda made: made[:-1], False),
    "clean end inside an event": (lambda made: [*made[:4], made[4][:20]], False),
    "no finish reason but a terminator": (
        lambda made: [event for event in made if not is_finish(event)],
        False,
    ),
    "error event, then an end": (lambda made: [*made[:4], ERROR], False),
    "error event, then the rest": (lambda made: [*made[:4], ERROR, *made[4:]], False),
    "junk in the middle": (lambda made: [*made[:4], JUNK, *made[4:]], False),
    "broken UTF-8": (lambda made: [*made[:4], b"data: \xff\xfe\n\n", *made[4:]], False),
    "nothing at all": (lambda made: [], False),
    "only the terminator": (lambda made: made[-1:], False),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_truncated_stream_is_not_stored(
    shape: str, upstream: FakeUpstream, recollect: RecollectServer
) -> None:
    """The next request gets a whole answer from the upstream."""
    prompt = unique(shape)
    mangle, is_cut = SHAPES[shape]
    upstream.on(prompt, Play(mangle=mangle, is_cut=is_cut), Play())

    first = recollect.chat(prompt, stream=True)
    second = recollect.chat(prompt, stream=True)

    assert upstream.calls(prompt) == 2
    assert not second.cache.hit
    assert second.is_complete
    assert sse.is_terminated(second.body)
    if is_cut:
        assert not first.is_complete, "the client must see the cut"


@pytest.mark.parametrize("shape", [name for name, (_, is_cut) in SHAPES.items() if not is_cut])
def test_streams_that_end_cleanly_pass_byte_for_byte(
    shape: str, upstream: FakeUpstream, recollect: RecollectServer
) -> None:
    """The first client gets what the upstream sent, no more and no less."""
    prompt = unique(shape)
    mangle, _ = SHAPES[shape]
    sent: list[bytes] = []

    def remember(made: list[bytes]) -> list[Piece]:
        sent.extend(piece for piece in mangle(made) if isinstance(piece, bytes))
        return list(sent)

    upstream.on(prompt, Play(mangle=remember))

    assert recollect.chat(prompt, stream=True).body == b"".join(sent)


@pytest.mark.parametrize(
    "shape", [name for name, (_, is_cut) in SHAPES.items() if is_cut and "before the" not in name]
)
def test_no_ending_is_invented_for_a_cut_stream(
    shape: str, upstream: FakeUpstream, recollect: RecollectServer
) -> None:
    """What came before the cut arrives; after it comes at most an error event (design §9)."""
    prompt = unique(shape)
    mangle, _ = SHAPES[shape]
    upstream.on(prompt, Play(mangle=mangle, is_cut=True))

    answer = recollect.chat(prompt, stream=True)

    assert b"[DONE]" not in answer.body
    assert not is_finish(answer.body)
    if answer.status != 200:  # cut so early that nothing had been passed on
        assert answer.json["error"]["type"]


def test_text_before_a_cut_has_reached_the_client(
    upstream: FakeUpstream, recollect: RecollectServer
) -> None:
    """The pause lets the bytes through before the reset can overtake them."""
    prompt = unique("text, then a cut")
    upstream.on(prompt, Play(mangle=lambda made: [*made[:5], 0.2], is_cut=True))

    answer = recollect.chat(prompt, stream=True)

    assert answer.status == 200
    assert not answer.is_complete
    assert answer.text.startswith("Réponse")
    assert '"error"' in sse.data_of(answer.body)[-1]


@pytest.mark.parametrize(
    "play",
    [
        Play(missing_bytes=100),
        Play(missing_bytes=100, is_cut=True),
        Play(mangle=lambda made: [made[0][:60], 0.1, made[0][60:80]], is_cut=True),
    ],
    ids=["closed early", "reset early", "reset between chunks"],
)
def test_truncated_document_is_cut_for_the_client_and_not_stored(
    play: Play, upstream: FakeUpstream, recollect: RecollectServer
) -> None:
    """A JSON answer shorter than its length, or without its last chunk, is none."""
    prompt = unique("document")
    upstream.on(prompt, play, Play())

    first = recollect.chat(prompt)
    second = recollect.chat(prompt)

    assert not first.is_complete or first.status == 502
    assert second.is_complete
    assert second.status == 200
    assert not second.cache.hit
    assert upstream.calls(prompt) == 2


def test_close_delimited_document_cut_by_a_reset_is_not_stored(
    upstream: FakeUpstream, recollect: RecollectServer
) -> None:
    """Where only the connection's end marks the end, broken JSON tells the cut."""
    prompt = unique("close delimited")
    half = Play(mangle=lambda made: [made[0][:60]], is_close_delimited=True)
    upstream.on(prompt, half, Play(is_close_delimited=True))

    given = [recollect.chat(prompt) for _ in range(3)]

    assert upstream.calls(prompt) == 2
    assert given[2].cache.hit
    assert given[2].text == given[1].text


@pytest.mark.parametrize("path", [COMPLETIONS, RESPONSES])
@pytest.mark.parametrize("is_cut", [False, True])
def test_other_endpoints_streams_without_an_end_are_not_stored(
    path: str, is_cut: bool, upstream: FakeUpstream, recollect: RecollectServer
) -> None:
    """The same for text completions and for responses."""
    prompt = unique(path)
    half = Play(mangle=lambda made: made[:6], is_cut=is_cut)
    upstream.on(prompt, half, Play())
    body = {"model": "m", "stream": True, "store": False}
    body["prompt" if path == COMPLETIONS else "input"] = prompt

    given = [recollect.post(path, body) for _ in range(3)]

    assert upstream.calls(prompt) == 2
    assert [answer.cache.hit for answer in given] == [False, False, True]
