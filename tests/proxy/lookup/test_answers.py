"""A stored answer survives the store, and knows what it weighs."""

from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cachestore.entry import StoredResponse
from proxy.lookup.answers import StoredAnswer, answer_of, read_stored, said_by
from proxy.wire.endpoint import Endpoint, Form
from proxy.wire.record import Recording, RecordPolicy, record
from proxy.wire.replay import fresh

POLICY = RecordPolicy(frozenset({"stop"}), store_refusals=False, max_bytes=1 << 20)
STREAM = (
    b'data: {"id":"i","created":1,"choices":[{"index":0,"delta":{"content":"Hi"},'
    b'"finish_reason":"stop"}]}\n\n'
    b'data: {"id":"i","created":1,"choices":[],'
    b'"usage":{"prompt_tokens":3,"completion_tokens":2}}\n\n'
    b"data: [DONE]\n\n"
)


def recorded(stream: bytes = STREAM) -> Recording:
    recording = record(Endpoint.CHAT, b"text/event-stream", b"", stream, POLICY)
    assert isinstance(recording, Recording)
    return recording


def answer(**changes: Any) -> StoredAnswer:
    fields: dict[str, Any] = {
        "key": b"k" * 32,
        "stored_at": 1000.0,
        "lifetime_s": 60.0,
        "keep_s": 30.0,
        "initial_age_s": 5.0,
        "endpoint": Endpoint.CHAT,
        "recording": recorded(),
        "headers": ((b"content-type", b"text/event-stream"), (b"x-\xff", b"\xfe")),
        "vary": (("accept-language", "de"), ("x-a", None)),
        "upstream_s": 1.5,
        "asked": "Who lives in Köln?",
    }
    return StoredAnswer(**{**fields, **changes})


def test_answer_comes_back_from_a_store_as_it_was() -> None:
    """All but the forms that were rendered, which are made anew."""
    kept = answer()
    kept.template(Form.JSON, False)

    assert read_stored(kept.stored_response()) == answer()


HEADER_BYTES = st.binary(max_size=5)
RECORDINGS = st.builds(
    Recording,
    form=st.sampled_from(Form),
    body=st.binary(max_size=50),
    usage=st.binary(max_size=10),
    prompt_tokens=st.integers(0, 2**53),
    completion_tokens=st.integers(0, 2**53),
)


@given(
    recording=RECORDINGS,
    endpoint=st.sampled_from(Endpoint),
    headers=st.lists(st.tuples(HEADER_BYTES, HEADER_BYTES), max_size=3).map(tuple),
    vary=st.lists(st.tuples(st.text(max_size=3), st.none() | st.just("x")), max_size=3).map(tuple),
)
@settings(deadline=None)
def test_any_answer_comes_back_from_a_store_as_it_was(**fields: Any) -> None:
    """Whatever bytes an upstream sent: body and usage part where they were joined."""
    assert read_stored(answer(**fields).stored_response()) == answer(**fields)


def head_with(**changes: Any) -> bytes:
    head = orjson.loads(answer().stored_response().head)
    return orjson.dumps({**head, **changes})


def head_without(name: str) -> bytes:
    head = orjson.loads(answer().stored_response().head)
    del head[name]
    return orjson.dumps(head)


FOREIGN: list[bytes] = [
    b"",
    b"\x80\x04K\x01.",
    b"null",
    b"7",
    b'"endpoint"',
    b"[]",
    b"{}",
    *(head_without(name) for name in orjson.loads(head_with())),
    head_with(endpoint="images"),
    head_with(endpoint=None),
    head_with(form="xml"),
    head_with(usage_bytes=-1),
    head_with(usage_bytes=10**9),
    head_with(usage_bytes="1"),
    head_with(usage_bytes=None),
    head_with(usage_bytes=1.0),
    head_with(prompt_tokens=None),
    head_with(completion_tokens="2"),
    head_with(upstream_s=None),
    head_with(asked=None),
    head_with(headers=None),
    head_with(headers=[7]),
    head_with(headers=[["a"]]),
    head_with(headers=[[1, 2]]),
    head_with(headers=[["a", "\u20ac"]]),
    head_with(vary=7),
    head_with(vary=[["a", "b", "c"]]),
    head_with(vary=[[1, 2]]),
]


@pytest.mark.parametrize("head", FOREIGN)
def test_what_is_no_answer_of_ours_is_refused(head: bytes) -> None:
    """A record that another version or program wrote is a miss, never an exception of its own."""
    stored = replace(answer().stored_response(), head=head)

    with pytest.raises(ValueError, match=r"."):
        read_stored(stored)


@given(st.binary(max_size=30), st.binary(max_size=30))
@settings(deadline=None)
def test_any_bytes_are_an_answer_or_refused(head: bytes, body: bytes) -> None:
    """Likewise."""
    stored = StoredResponse(
        key=b"k" * 32, stored_at=0.0, lifetime_s=1.0, keep_s=0.0, head=head, body=body
    )

    with pytest.raises(ValueError, match=r"."):
        read_stored(stored)


def test_age_counts_from_the_upstream() -> None:
    """RFC 9111 §4.2.3; a clock that was set back does not make it younger."""
    assert answer().age_s(1010.0) == 15.0
    assert answer().age_s(990.0) == 5.0


def test_answer_is_kept_through_its_lifetime_and_stale_time() -> None:
    """Not a moment longer."""
    assert answer().is_kept(1084.9)
    assert not answer().is_kept(1085.0)


def test_template_is_rendered_once_and_remembered() -> None:
    """And says when that made the answer larger, so that memory can count anew."""
    kept = answer()

    first, has_grown = kept.template(Form.JSON, False)
    again, has_grown_again = kept.template(Form.JSON, False)

    assert first is not None
    assert first is again
    assert orjson.loads(fresh(first, b"i", b"1"))["choices"][0]["message"]["content"] == "Hi"
    assert (has_grown, has_grown_again) == (True, False)


def test_forms_are_remembered_apart() -> None:
    """A stream with its usage is another than one without, and neither is a document."""
    kept = answer()

    forms = [(Form.SSE, True), (Form.SSE, False), (Form.JSON, False)]
    templates = {kept.template(*form)[0] for form in forms}

    assert None not in templates
    assert len(templates) == 3


def test_form_that_cannot_be_given_is_remembered_too() -> None:
    """A stream with usage, of an answer that came without."""
    without = STREAM.split(b"\n\n")[0] + b"\n\ndata: [DONE]\n\n"
    kept = answer(recording=recorded(without))

    assert kept.template(Form.SSE, True) == (None, True)
    assert kept.template(Form.SSE, True) == (None, False)
    assert kept.size_bytes == answer(recording=recorded(without)).size_bytes


def test_size_counts_all_that_is_held() -> None:
    """Body, usage, each form rendered, the fields that are replayed or compared."""
    recording = recorded()
    bare = answer(headers=(), vary=())
    content = len(recording.body) + len(recording.usage)

    assert content < bare.size_bytes < content + 2000
    assert answer(headers=((b"n" * 10, b"v" * 90),), vary=()).size_bytes == bare.size_bytes + 100
    assert answer(headers=(), vary=(("n" * 10, "v" * 90),)).size_bytes == bare.size_bytes + 100
    assert answer(headers=(), vary=(("n" * 10, None),)).size_bytes == bare.size_bytes + 10
    before = bare.size_bytes
    template, _ = bare.template(Form.JSON, False)
    assert template is not None
    assert bare.size_bytes == before + len(template)


def test_template_that_is_the_recording_itself_weighs_nothing() -> None:
    """The bytes are held once."""
    document = b'{"choices":[{"index":0,"message":{"content":"Hi"},"finish_reason":"stop"}]}'
    recording = record(Endpoint.CHAT, b"application/json", b"", document, POLICY)
    kept = answer(recording=recording)
    before = kept.size_bytes

    template, _ = kept.template(Form.JSON, False)

    assert template == document
    assert kept.size_bytes == before


def chat_answer(message: object, **more: object) -> StoredAnswer:
    """Return a stored chat completion of one choice."""
    choice = {"index": 0, "message": message, "finish_reason": "stop", **more}
    document = orjson.dumps({"id": "i", "created": 1, "choices": [choice]})
    recording = record(Endpoint.CHAT, b"application/json", b"", document, POLICY)
    assert isinstance(recording, Recording)
    return answer(recording=recording)


def test_what_was_said_is_known_of_a_stream_and_of_a_document() -> None:
    """To be compared with what a client says was answered."""
    assert said_by(answer()) == "Hi"
    assert said_by(chat_answer({"role": "assistant", "content": "Hi"})) == "Hi"


@pytest.mark.parametrize(
    "empty",
    [
        {"refusal": None},
        {"tool_calls": []},
        {"annotations": [], "audio": None, "reasoning_content": ""},
    ],
)
def test_members_that_say_nothing_do_not_count(empty: dict[str, object]) -> None:
    """Servers differ in which of them they send."""
    assert said_by(chat_answer({"role": "assistant", "content": "Hi", **empty})) == "Hi"


@pytest.mark.parametrize(
    "message",
    [
        {"role": "assistant", "content": None},
        {"role": "assistant", "content": [{"type": "text", "text": "Hi"}]},
        {"role": "assistant", "content": "Hi", "reasoning_content": "Hm."},
        {"role": "assistant", "content": "Hi", "annotations": [{"type": "url_citation"}]},
    ],
)
def test_answer_that_says_more_than_a_text_has_not_just_said_that_text(message: object) -> None:
    """A client that repeats the text alone does not repeat the answer."""
    assert said_by(chat_answer(message)) is None


def test_several_choices_have_not_said_one_thing() -> None:
    """Which of them the conversation went on with is not known."""
    choice = {"index": 0, "message": {"content": "Hi"}, "finish_reason": "stop"}
    document = orjson.dumps({"choices": [choice, {**choice, "index": 1}]})
    recording = record(Endpoint.CHAT, b"application/json", b"", document, POLICY)

    assert said_by(answer(recording=recording)) is None


def test_answer_that_is_no_document_has_not_said_a_text() -> None:
    """A stream of embeddings: there is no such thing, but a store may hold anything."""
    assert said_by(answer(endpoint=Endpoint.EMBEDDINGS)) is None


PARTITION = b"p" * 32


def test_answers_that_differ_in_blanks_only_are_one_group() -> None:
    """Their words are kept as they are; others are another group."""
    one, blank, other = (
        answer_of(chat_answer({"role": "assistant", "content": text}), PARTITION)
        for text in ("Two million.", " Two\n million. ", "Three million.")
    )

    assert one.group == blank.group != other.group
    assert len(one.group) == 16
    assert (one.text, other.text) == ("Two million.", "Three million.")
    assert one.stored_at == answer().stored_at


def test_comparing_an_answer_leaves_nothing_in_memory() -> None:
    """A stream's document may never be asked for."""
    said = chat_answer({"role": "assistant", "content": "Yes."})
    held_bytes = said.size_bytes

    answer_of(said, PARTITION)

    assert said.size_bytes == held_bytes
    assert not said.templates


def test_equal_answers_of_two_partitions_are_two_groups() -> None:
    """A group is a hash of words: nobody may tell by it what another tenant was answered."""
    said = chat_answer({"role": "assistant", "content": "Yes."})

    assert answer_of(said, PARTITION).group != answer_of(said, b"q" * 32).group


def test_how_an_answer_was_thought_out_does_not_count() -> None:
    """It is another each time."""
    one, other = (
        answer_of(
            chat_answer({"role": "assistant", "content": "Yes.", "reasoning_content": thought}),
            PARTITION,
        )
        for thought in ("Let me see.", "Hmm.")
    )

    assert one.group == other.group
    assert one.text == "Yes."


def document_of(message: object, number: int) -> Recording:
    """Return a recording of a chat completion that is one of several."""
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
    document = orjson.dumps({"id": f"chatcmpl-{number}", "created": number, "choices": [choice]})
    policy = replace(POLICY, finish_reasons=frozenset({"tool_calls"}))
    recording = record(Endpoint.CHAT, b"application/json", b"", document, policy)
    assert isinstance(recording, Recording)
    return recording


def test_answer_that_is_more_than_a_text_is_compared_as_a_whole() -> None:
    """It has no text; what is made anew for each replay, its id and its time, does not count."""
    call = {"type": "function", "id": "c", "function": {"name": "f", "arguments": "{}"}}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    renamed = {**message, "tool_calls": [{**call, "function": {"name": "g", "arguments": "{}"}}]}
    one, again, other = (
        answer_of(answer(recording=document_of(said, number)), PARTITION)
        for number, said in enumerate((message, message, renamed))
    )

    assert one.group == again.group != other.group
    assert one.text == ""
