"""What is compared by meaning, and that all else counts to the letter."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from proxy.lookup.keys import KeyScope, Unkeyable, exact_key
from proxy.lookup.meaning import COMPARED_CHARS, Earlier, ExactOnly, Question, earlier, question_of
from proxy.wire.endpoint import Endpoint
from proxy.wire.request import BadRequest, CacheableRequest, read_request
from tests.proxy.lookup.keying import SCOPE, Json, key, read

ASKED = "How many people live in Paris?"
IN_OTHER_WORDS = "What is the population of Paris?"
CHINESE = "法国的首都是哪里？"
USER: Json = {"role": "user", "content": ASKED}
SAID: Json = {"role": "assistant", "content": "In which year?"}
PART: Json = {"type": "text", "text": ASKED}
INPUT_PART: Json = {"type": "input_text", "text": ASKED}


def user(content: object) -> Json:
    return {"role": "user", "content": content}


def chat(*turns: Json, **fields: object) -> Json:
    return {"model": "m", "messages": list(turns), **fields}


def compared(
    body: Json, endpoint: Endpoint = Endpoint.CHAT, answered_by: bytes | None = None
) -> Question | ExactOnly:
    return question_of(read(json.dumps(body), endpoint), SCOPE, answered_by)


def asked(
    body: Json, endpoint: Endpoint = Endpoint.CHAT, answered_by: bytes | None = None
) -> Question:
    question = compared(body, endpoint, answered_by)
    assert isinstance(question, Question), question
    return question


def partition(text: str) -> bytes:
    return asked(chat(user(text))).partition


# What is compared.

TEXTS: list[tuple[Endpoint, Json, str]] = [
    (Endpoint.CHAT, chat(USER), ASKED),
    (Endpoint.CHAT, chat(user(f"  {ASKED}\r\n")), ASKED),
    (Endpoint.CHAT, chat(user([{"type": "text", "text": ASKED}])), ASKED),
    (Endpoint.CHAT, chat({"role": "system", "content": "Be brief."}, USER, SAID, USER), ASKED),
    (Endpoint.CHAT, chat(user([{"type": "text", "text": "A."}, PART])), ASKED),
    (Endpoint.COMPLETIONS, {"model": "m", "prompt": ASKED}, ASKED),
    (Endpoint.COMPLETIONS, {"model": "m", "prompt": [f"\n{ASKED} "]}, ASKED),
    (Endpoint.RESPONSES, {"model": "m", "input": ASKED}, ASKED),
    (Endpoint.RESPONSES, {"model": "m", "input": [USER]}, ASKED),
    (Endpoint.RESPONSES, {"model": "m", "input": [{"type": "message", **USER}]}, ASKED),
    (Endpoint.RESPONSES, {"model": "m", "input": [user([INPUT_PART])]}, ASKED),
    (
        Endpoint.RESPONSES,
        {
            "model": "m",
            "input": [
                USER,
                {"role": "assistant", "content": [{"type": "output_text", "text": "Two."}]},
                {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
                USER,
            ],
        },
        ASKED,
    ),
    (Endpoint.CHAT, chat(user("Capital of France")), "Capital of France"),
    (Endpoint.CHAT, chat(user(CHINESE)), CHINESE),
    (Endpoint.CHAT, chat(user("東京の人口は何人ですか")), "東京の人口は何人ですか"),
]  # fmt: skip


@pytest.mark.parametrize(("endpoint", "body", "text"), TEXTS)
def test_last_thing_the_user_said_is_compared(endpoint: Endpoint, body: Json, text: str) -> None:
    """Without outer white space, in each form that an endpoint takes."""
    question = asked(body, endpoint)

    assert question.text == text
    assert len(question.partition) == 32


def test_short_and_long_form_of_one_turn_are_one_question() -> None:
    """The Responses API says that a text stands for one message of the user's."""
    short = asked({"model": "m", "input": ASKED}, Endpoint.RESPONSES)

    assert asked({"model": "m", "input": [USER]}, Endpoint.RESPONSES) == short


def test_endpoints_are_kept_apart() -> None:
    """Their answers have other forms."""
    partitions = {asked(body, endpoint).partition for endpoint, body, _ in TEXTS[:1] + TEXTS[5:9:2]}

    assert len(partitions) == 3


# What is not.

CALL: Json = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
IMAGE: Json = {"type": "image_url", "image_url": {"url": "https://example.com/cat.png"}}

NOT_COMPARED: list[tuple[Endpoint, Json, ExactOnly]] = [
    (Endpoint.EMBEDDINGS, {"model": "m", "input": ASKED}, ExactOnly.ENDPOINT),
    # The last turn.
    (Endpoint.CHAT, {"model": "m"}, ExactOnly.TURN),
    (Endpoint.CHAT, chat(), ExactOnly.TURN),
    (Endpoint.CHAT, chat(USER, SAID), ExactOnly.TURN),
    (Endpoint.CHAT, chat({"role": "system", "content": ASKED}), ExactOnly.TURN),
    (Endpoint.CHAT, chat({"content": ASKED}), ExactOnly.TURN),
    (Endpoint.CHAT, chat({"role": "user"}), ExactOnly.TURN),
    (Endpoint.CHAT, chat(user([])), ExactOnly.TURN),
    (Endpoint.CHAT, chat(user(7)), ExactOnly.TURN),
    (Endpoint.CHAT, chat(user([{"type": "refusal", "refusal": ASKED}])), ExactOnly.TURN),
    (Endpoint.RESPONSES, {"model": "m"}, ExactOnly.TURN),
    (Endpoint.RESPONSES, {"model": "m", "input": []}, ExactOnly.TURN),
    (Endpoint.RESPONSES, {"model": "m", "input": [ASKED]}, ExactOnly.TURN),
    (Endpoint.RESPONSES, {"model": "m", "input": [{"type": "input_text", **USER}]}, ExactOnly.TURN),
    # Tools.
    (Endpoint.CHAT, chat(USER, {"role": "tool", "content": "2"}, USER), ExactOnly.TOOL),
    (Endpoint.CHAT, chat(USER, {"role": "function", "content": "2"}, USER), ExactOnly.TOOL),
    (Endpoint.CHAT, chat({"role": "assistant", "tool_calls": [CALL]}, USER), ExactOnly.TOOL),
    (Endpoint.CHAT, chat({"role": "assistant", "function_call": CALL}, USER), ExactOnly.TOOL),
    (Endpoint.RESPONSES, {"input": [{"type": "function_call_output"}, USER]}, ExactOnly.TOOL),
    (Endpoint.RESPONSES, {"input": [{"type": "reasoning", "summary": []}, USER]}, ExactOnly.TOOL),
    (Endpoint.RESPONSES, {"input": [{"type": "item_reference", "id": "i"}, USER]}, ExactOnly.TOOL),
    # Images and sound.
    (Endpoint.CHAT, chat(user([{"type": "text", "text": ASKED}, IMAGE])), ExactOnly.MEDIA),
    (Endpoint.CHAT, chat(user([IMAGE, {"type": "text", "text": ASKED}])), ExactOnly.MEDIA),
    (Endpoint.CHAT, chat(user([IMAGE]), SAID, USER), ExactOnly.MEDIA),
    (Endpoint.CHAT, chat({"role": "assistant", "audio": {"id": "a"}}, USER), ExactOnly.MEDIA),
    (Endpoint.CHAT, chat(user([ASKED])), ExactOnly.MEDIA),
    (Endpoint.CHAT, chat(user([{"type": "text", "text": 7}])), ExactOnly.MEDIA),
    (Endpoint.CHAT, chat(user([{"text": ASKED}])), ExactOnly.MEDIA),
    # Prompts that are no text.
    (Endpoint.COMPLETIONS, {"model": "m"}, ExactOnly.TOKENS),
    (Endpoint.COMPLETIONS, {"model": "m", "prompt": [1, 2, 3]}, ExactOnly.TOKENS),
    (Endpoint.COMPLETIONS, {"model": "m", "prompt": [[1, 2]]}, ExactOnly.TOKENS),
    (Endpoint.COMPLETIONS, {"model": "m", "prompt": [ASKED, ASKED]}, ExactOnly.TOKENS),
    (Endpoint.COMPLETIONS, {"model": "m", "prompt": []}, ExactOnly.TOKENS),
    (Endpoint.COMPLETIONS, {"model": "m", "prompt": ASKED, "echo": True}, ExactOnly.ECHO),
    (Endpoint.COMPLETIONS, {"model": "m", "prompt": ASKED, "prompt_logprobs": 0}, ExactOnly.ECHO),
    (Endpoint.CHAT, chat(user(ASKED), echo=True), ExactOnly.ECHO),
    (Endpoint.CHAT, chat(user(ASKED), return_token_ids=True), ExactOnly.ECHO),
    # Too little said.
    (Endpoint.CHAT, chat(user("")), ExactOnly.SHORT),
    (Endpoint.CHAT, chat(user("???")), ExactOnly.SHORT),
    (Endpoint.CHAT, chat(user("Paris?")), ExactOnly.SHORT),
    (Endpoint.CHAT, chat(user("巴黎")), ExactOnly.SHORT),
    (Endpoint.COMPLETIONS, {"model": "m", "prompt": "Once upon"}, ExactOnly.SHORT),
    (Endpoint.CHAT, chat(user("And how about Berlin?")), ExactOnly.LEANING),
    (Endpoint.CHAT, chat(user("What is its population?")), ExactOnly.LEANING),
    (Endpoint.CHAT, chat(user("Please describe the second one.")), ExactOnly.LEANING),
    (Endpoint.CHAT, chat(user("Explain the points above")), ExactOnly.LEANING),
    (Endpoint.CHAT, chat(user("Und wie viele in Berlin?")), ExactOnly.LEANING),
    # Too much.
    (Endpoint.CHAT, chat(user("x" * (COMPARED_CHARS + 1))), ExactOnly.LONG),
    (Endpoint.COMPLETIONS, {"model": "m", "prompt": "word " * COMPARED_CHARS}, ExactOnly.LONG),
]  # fmt: skip


@pytest.mark.parametrize(("endpoint", "body", "reason"), NOT_COMPARED)
def test_some_requests_are_for_the_exact_tier_only(
    endpoint: Endpoint, body: Json, reason: ExactOnly
) -> None:
    """Each for a reason of its own; docs/semantic.md names them."""
    assert compared(body, endpoint) is reason


def test_every_reason_has_its_case() -> None:
    """A reason that nothing has is one that was forgotten."""
    assert {reason for _, _, reason in NOT_COMPARED} == set(ExactOnly)


def test_a_word_that_leans_does_no_harm_in_a_long_sentence() -> None:
    """Six words or fewer are too few to say what "it" is."""
    assert compared(chat(user("And what is it?"))) is ExactOnly.LEANING
    assert asked(chat(user("And how many people lived in it when Paris was founded?"))).text


# All else is in the partition.


def test_the_same_question_in_other_words_is_in_the_same_partition() -> None:
    """Else nothing would ever be found."""
    assert partition(ASKED) == partition(IN_OTHER_WORDS)


MUTATED: list[tuple[str, Json]] = [
    ("model", chat(USER, model="n")),
    ("system prompt", chat({"role": "system", "content": "Be brief."}, USER)),
    ("earlier turn", chat(user("Hello"), SAID, USER)),
    ("temperature", chat(USER, temperature=0)),
    ("largest answer", chat(USER, max_tokens=7)),
    ("tools", chat(USER, tools=[CALL])),
    ("form of the answer", chat(USER, response_format={"type": "json_object"})),
    ("what nobody has heard of", chat(USER, flavour="mild")),
    ("name of the user", chat({**USER, "name": "Eve"})),
    ("part before", chat(user([{"type": "text", "text": "In 1900."}, PART]))),
    ("form of the turn", chat(user([{"type": "text", "text": ASKED}]))),
    ("field of the part", chat(user([{"type": "text", "text": ASKED, "cache": 1}]))),
]  # fmt: skip


def test_whatever_differs_beside_the_text_parts_two_questions() -> None:
    """Promise 2: nothing is shared across what may change the answer."""
    partitions = {name: asked(body).partition for name, body in MUTATED}

    assert len({partition(ASKED), *partitions.values()}) == 1 + len(MUTATED)


@pytest.mark.parametrize(
    "scope",
    [
        replace(SCOPE, tenant="hmac:2"),
        replace(SCOPE, revision=("r1", "")),
        replace(SCOPE, revision=("", "r1")),
        replace(SCOPE, headers=("org", None, None)),
        replace(SCOPE, query="api-version=2"),
        replace(SCOPE, namespace="n"),
    ],
)
@pytest.mark.parametrize(("endpoint", "body", "text"), [TEXTS[0], TEXTS[5], TEXTS[7]])
def test_tenants_and_all_of_a_scope_are_kept_apart(
    scope: KeyScope, endpoint: Endpoint, body: Json, text: str
) -> None:
    """As in the exact key: no vector of one tenant is ever compared with another's."""
    request = read(json.dumps(body), endpoint)
    other = question_of(request, scope)

    assert isinstance(other, Question)
    assert other.text == text
    assert other.partition != asked(body, endpoint).partition


SYSTEMS = st.sampled_from(["Be brief.", "Be long.", ""])
TURNS = st.lists(st.sampled_from(["Hello", "Hi", "What?"]), max_size=2)
FIELDS = st.fixed_dictionaries(
    {"model": st.sampled_from(["m", "n"])},
    optional={
        "temperature": st.sampled_from([0, 0.5]),
        "seed": st.sampled_from([1, 2]),
        "tools": st.just([CALL]),
    },
)
SCOPES = st.builds(
    lambda tenant, revision: replace(SCOPE, tenant=tenant, revision=(revision, "")),
    st.sampled_from(["a", "b"]),
    st.sampled_from(["", "r"]),
)
BESIDE = st.tuples(SYSTEMS, TURNS, FIELDS, SCOPES)
WORDS = st.sampled_from(
    ["How many people live in town?", "Count the citizens of the town, please!", CHINESE]
)


@given(one=BESIDE, other=BESIDE, text=WORDS, other_text=WORDS, is_same=st.booleans())
@settings(deadline=None)
def test_partitions_are_equal_exactly_if_all_beside_the_text_is(
    one: tuple[Any, ...], other: tuple[Any, ...], text: str, other_text: str, is_same: bool
) -> None:
    """Both ways: nothing is left out of it, and the text is not in it."""
    other = one if is_same else other

    def ask(beside: tuple[Any, ...], last: str) -> Question | ExactOnly:
        system, turns, fields, scope = beside
        earlier_turns = [{"role": "system", "content": system}, *map(user, turns)]
        body = {"messages": [*earlier_turns, user(last)], **fields}
        return question_of(read(json.dumps(body)), scope)

    first, second = ask(one, text), ask(other, other_text)

    assert isinstance(first, Question)
    assert isinstance(second, Question)
    assert (first.partition == second.partition) == (one == other)
    assert (first.text, second.text) == (text, other_text)


@given(text=st.text(max_size=50), more=st.sampled_from(["", " ", "\n", "\r\n"]))
@settings(deadline=None)
def test_requests_with_one_exact_key_ask_one_question(text: str, more: str) -> None:
    """What the exact tier takes for the same, the semantic tier does not tell apart."""
    one, other = chat(user(text)), chat(user(more + text + more))
    assert key(one) == key(other)

    assert compared(one) == compared(other)


# Of the text itself, what no encoder may be trusted with.

PARTED: list[tuple[str, str]] = [
    ("What happened in 1999?", "What happened in 2001?"),
    ("Is 5 more than 7, or not?", "Is 7 more than 5, or not?"),
    ("How do I install Python 3.11 here?", "How do I install Python 3.12 here?"),
    ("What does a flat of 80m² cost?", "What does a flat of 90m² cost?"),
    ("Convert 10 miles to feet", "Convert -10 miles to feet"),
    ("Convert ١٠ miles to feet", "Convert ٢٠ miles to feet"),
    ('Translate "cat" into French', 'Translate "dog" into French'),
    ("Explain the command `ls` to me", "Explain the command `rm` to me"),
    ("Translate “cat” into French", "Translate “dog” into French"),
    ("Übersetze bitte „Katze“ ins Englische", "Übersetze bitte „Hund“ ins Englische"),
    ("Traduisez « chat » en anglais", "Traduisez « chien » en anglais"),
    ("请翻译「猫」这个词成英文", "请翻译「狗」这个词成英文"),
    ("请翻译『猫』这个词成英文", "请翻译『狗』这个词成英文"),
    ("How far is it from Oslo to Rome by train?", "How far is it from Rome to Oslo by train?"),
    ("Which one is larger, Spain or Italy, in area?", "Which one is larger, Italy or Spain?"),
    ("Where did O'Brien die?", "Where did McCoy die?"),
    ("Give me three ways to save water", "Give me five ways to save water"),
    ("What is the first step of it all?", "What is the second step of it all?"),
    ("May I eat meat with fish?", "May I not eat meat with fish?"),
    ("Which birds can fly at night?", "Which birds can't fly at night?"),
    ("Which birds can’t fly at night?", "Which birds can fly at night?"),
    ("Darf man hier parken oder nicht?", "Darf man hier parken?"),
    ("Qui ne mange jamais de viande?", "Qui mange de la viande?"),
]


@pytest.mark.parametrize(("one", "other"), PARTED)
def test_figures_quotations_names_and_negations_count_to_the_letter(one: str, other: str) -> None:
    """Two questions that differ in nothing else are near for every encoder."""
    assert partition(one) != partition(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What happened in 1999?", "Tell me what happened in 1999, will you?"),
        ("How far is 5KM on foot?", "On foot, how far is (5km)?"),
        ('How do I translate "cat" well?', 'Give me a translation of "cat"'),
        ("Where in Rome do I park?", "Is there a place to park in ROME? Where?"),
        ("Now I'm lost. Where do I go?", "Being lost, where should one go?"),
        ("Who can't fly at night?", "By night, who is not able to fly?"),
    ],
)
def test_all_around_those_is_compared_by_meaning(one: str, other: str) -> None:
    """Punctuation beside a figure is none of it, nor is case; "I" is no name, nor what begins a
    sentence; one negation is like another."""
    assert partition(one) == partition(other)


# Long texts: only the end is compared.

LONG = "Some context that everybody needs for this. " * 20


@pytest.mark.parametrize("between", ["\n\n", "\n \n", "\n\n\n", "\n", "\n    "])
def test_of_a_long_text_the_last_paragraph_or_line_is_compared(between: str) -> None:
    """One changed word in a long text would not move its vector."""
    one = asked(chat(user(LONG + between + ASKED)))
    other = asked(chat(user(LONG + between + IN_OTHER_WORDS)))

    assert (one.text, other.text) == (ASKED, IN_OTHER_WORDS)
    assert one.partition == other.partition


def test_where_paragraph_and_line_are_too_long_the_last_sentence_is_compared() -> None:
    """From the coarsest part to the finest that is short enough."""
    assert asked(chat(user(f"First.\n\n{LONG}{ASKED}"))).text == ASKED
    assert asked(chat(user(f"{LONG}\n\nHello.\n{LONG}\nYes. {ASKED}"))).text == f"Yes. {ASKED}"


@pytest.mark.parametrize("end", ["", "？", "？！", "。」", "！ "])
def test_sentences_of_dense_scripts_need_no_blank_between_them(end: str) -> None:
    """And the sign that ends the last one begins no other."""
    context = "巴黎是法国的首都也是最大的城市。" * 50
    last = "那里现在一共住着多少人" + end

    assert asked(chat(user(context + last))).text == last.strip()


@given(
    before=st.text(st.characters(codec="utf-8"), min_size=COMPARED_CHARS, max_size=700),
    other=st.text(st.characters(codec="utf-8"), min_size=COMPARED_CHARS, max_size=700),
    between=st.sampled_from(["\n\n", "\n"]),
)
@settings(deadline=None, max_examples=50)
def test_what_is_not_compared_is_in_the_partition(before: str, other: str, between: str) -> None:
    """Whatever stands before the end of a long text."""
    one, changed = chat(user(before + between + ASKED)), chat(user(other + between + ASKED))
    assume(key(one) != key(changed))
    first, second = compared(one), compared(changed)
    assume(isinstance(first, Question) and isinstance(second, Question))

    assert first != second


@given(text=st.text(st.sampled_from('ab 1\n.。？"`'), max_size=900))
@settings(deadline=None, max_examples=200)
def test_two_texts_in_one_partition_differ_only_in_what_is_compared(text: str) -> None:
    """A prompt is its partition and its compared text put together: nothing of it is lost."""
    body: Json = {"model": "m", "prompt": text}
    question = compared(body, Endpoint.COMPLETIONS)
    if isinstance(question, Question):
        assert text.rstrip().endswith(question.text)
        assert 0 < len(question.text) <= COMPARED_CHARS
        cut = compared({**body, "prompt": "x" + text}, Endpoint.COMPLETIONS)
        assert question != cut


@pytest.mark.parametrize("text", [f" {ASKED}", f"{ASKED} ", f"{ASKED}\n", f"\n\n{ASKED}"])
def test_white_space_around_a_prompt_counts(text: str) -> None:
    """It changes how the prompt is completed; around what is said in a chat it does not."""
    bare = asked({"model": "m", "prompt": ASKED}, Endpoint.COMPLETIONS)
    padded = asked({"model": "m", "prompt": text}, Endpoint.COMPLETIONS)

    assert padded.text == bare.text
    assert padded.partition != bare.partition
    assert partition(text) == partition(ASKED)


def test_prompt_and_list_of_one_prompt_are_one_question() -> None:
    """They are answered alike (OpenAI's API reference)."""
    one = asked({"model": "m", "prompt": ASKED}, Endpoint.COMPLETIONS)

    assert asked({"model": "m", "prompt": [ASKED]}, Endpoint.COMPLETIONS) == one


# Conversations.

SYSTEM: Json = {"role": "system", "content": "Be brief."}
FIRST = user("Which city is the capital of France?")
ANSWER: Json = {"role": "assistant", "content": "Paris."}


def test_earlier_is_the_request_that_the_answer_in_the_history_was_given_to() -> None:
    """So that its stored response can be found, and compared with what the request repeats."""
    request = read(json.dumps(chat(SYSTEM, FIRST, ANSWER, USER, temperature=0)))

    assert earlier(request, SCOPE) == Earlier(key(chat(SYSTEM, FIRST, temperature=0)), "Paris.")


@pytest.mark.parametrize("empty", [{"tool_calls": []}, {"refusal": None}, {"name": ""}])
def test_members_that_say_nothing_are_no_part_of_an_answer(empty: Json) -> None:
    """Clients send back what they were sent, empty members too."""
    request = read(json.dumps(chat(FIRST, {**ANSWER, **empty}, USER)))

    assert earlier(request, SCOPE) == Earlier(key(chat(FIRST)), "Paris.")


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        (Endpoint.COMPLETIONS, {"model": "m", "prompt": ASKED}),
        (Endpoint.RESPONSES, {"model": "m", "input": [FIRST, ANSWER, USER]}),
        (Endpoint.CHAT, {"model": "m"}),
        (Endpoint.CHAT, chat(USER)),
        (Endpoint.CHAT, chat(ANSWER, USER)),
        (Endpoint.CHAT, chat(FIRST, USER, USER)),
        (Endpoint.CHAT, chat(FIRST, {**ANSWER, "tool_calls": [CALL]}, USER)),
        (Endpoint.CHAT, chat(FIRST, {**ANSWER, "name": "Bob"}, USER)),
        (Endpoint.CHAT, chat(FIRST, {"role": "assistant"}, USER)),
        (
            Endpoint.CHAT,
            chat(FIRST, {**ANSWER, "content": [{"type": "text", "text": "Paris."}]}, USER),
        ),
    ],
)
def test_there_is_nothing_earlier_without_an_answer_that_is_a_text(
    endpoint: Endpoint, body: Json
) -> None:
    """Then the history counts to the letter."""
    assert earlier(read(json.dumps(body), endpoint), SCOPE) is None


def test_histories_that_one_stored_response_answered_are_equal() -> None:
    """`semantic.history = chain`: the third turn of a paraphrased conversation can still hit."""
    paraphrased = user("What is the capital city of France?")
    one, other = chat(SYSTEM, FIRST, ANSWER, USER), chat(SYSTEM, paraphrased, ANSWER, USER)
    assert asked(one).partition != asked(other).partition

    chained = asked(one, answered_by=b"k" * 32)

    assert asked(other, answered_by=b"k" * 32) == chained
    assert chained.partition != asked(one, answered_by=b"o" * 32).partition
    assert chained.partition != asked(one).partition
    assert chained.partition != asked({**one, "temperature": 0}, answered_by=b"k" * 32).partition


def test_no_history_in_words_is_taken_for_one_in_keys() -> None:
    """What a client writes must not name a stored response."""
    forged = user((b"k" * 32).hex())

    chained = asked(chat(FIRST, ANSWER, USER), answered_by=b"k" * 32)

    assert chained.partition != asked(chat(forged, USER)).partition


@pytest.mark.parametrize(
    ("turns", "reason"),
    [
        ([{"role": "tool", "content": "2"}, ANSWER, USER], ExactOnly.TOOL),
        ([user([IMAGE]), ANSWER, USER], ExactOnly.MEDIA),
    ],
)
def test_a_chain_does_not_hide_what_keeps_a_conversation_exact(
    turns: list[Json], reason: ExactOnly
) -> None:
    """What a tool found, or an image shows, still stands behind the question."""
    assert compared(chat(*turns), answered_by=b"k" * 32) is reason


# Whatever comes.


def test_number_that_parsers_read_differently_is_not_keyed() -> None:
    """As in the exact key."""
    with pytest.raises(Unkeyable):
        compared(chat(USER, seed=1e19))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from(["", "text", "user", ASKED]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["role", "type", "content", "text", "tool_calls", "audio", "prompt"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(endpoint=st.sampled_from(Endpoint), given_input=JSON, more=JSON)
@settings(deadline=None, max_examples=300)
def test_any_readable_request_is_a_question_or_for_the_exact_tier(
    endpoint: Endpoint, given_input: object, more: object
) -> None:
    """No shape of a body is a defect of ours."""
    name = {Endpoint.CHAT: "messages", Endpoint.COMPLETIONS: "prompt"}.get(endpoint, "input")
    body = {"model": "m", name: given_input, "extra": more}
    try:
        request = read_request(endpoint, json.dumps(body).encode(), 128)
    except BadRequest:
        return
    assert isinstance(request, CacheableRequest)

    assert isinstance(question_of(request, SCOPE), Question | ExactOnly)
    before = earlier(request, SCOPE)
    assert before is None or len(before.key) == len(exact_key(request, SCOPE))
