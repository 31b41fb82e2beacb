"""The guards tell apart what an encoder takes for the same, and let through what is the same.

`pairs/guards.jsonl` holds pairs of questions: `a`, `b`, whether one answer serves both (`same`),
what they differ in (`kind`), and their language (`lang`). `pairs/missed.jsonl` holds pairs that
no guard sees. All are our own sentences.
"""

import json
from collections import Counter
from pathlib import Path
from time import perf_counter
from unicodedata import normalize

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from embeddings.guards.conflict import conflict
from embeddings.guards.guard import Guard
from embeddings.guards.traits import traits

PAIRS_FOLDER = Path(__file__).parent / "pairs"
PAIRS = [
    json.loads(line)
    for line in (Path(__file__).parent / "pairs" / "guards.jsonl").read_text("utf-8").splitlines()
]
MISSED = [
    json.loads(line) for line in (PAIRS_FOLDER / "missed.jsonl").read_text("utf-8").splitlines()
]
DIFFERENT = [(pair["a"], pair["b"]) for pair in PAIRS if not pair["same"]]
SAME = [(pair["a"], pair["b"]) for pair in PAIRS if pair["same"]]

# Words of all lists, figures, code, other scripts: what makes the reader take its turnings.
SNIPPETS = [
    *("How", "do", "I", "the", "a", "not", "don't", "can't", "know", "why", "when", "is", "it's"),
    *(
        "two",
        "twenty",
        "one",
        "first",
        "twice",
        "times",
        "million",
        "dozen",
        "5",
        "5mg",
        "-3",
        "1st",
    ),
    *("3.10", "v1.2.3", "14:00", "2024-02-29", "$50", "20%", "%", "90s", "E1001", "May", "last"),
    *("week", "Paris", "Paris's", "iPhone", "NASA", "of", "from", "to", "than", "and", "or", "by"),
    *(
        "turn",
        "off",
        "enable",
        "unhappy",
        "happy",
        '"x y"',
        "`ls`",
        "-a",
        "--hard",
        "a_b",
        "os.path",
    ),
    *(
        "!=",
        "C++",
        "and/or",
        "No,",
        "he",
        "him",
        "ist",
        "nicht",
        "größer",
        "怎么",
        "不",
        "三十",
        "第",
    ),
    *(
        "半",
        "两",
        "一",
        "《红楼梦》",
        "取消订单",
        "пароль",
        "パス",
        "비밀",
        "كلمة",
        ".",
        "?",
        "？",
        "'",
        '"',
    ),
]
texts = st.one_of(
    st.text(max_size=80),
    st.lists(st.sampled_from(SNIPPETS), max_size=12).map(" ".join),
    st.lists(st.sampled_from(SNIPPETS), max_size=12).map("".join),
)


def veto(a: str, b: str) -> Guard | None:
    return conflict(traits(a), traits(b))


def test_list_is_long_and_in_two_languages() -> None:
    """At least 300 pairs with different answers and 100 with the same."""
    counted = Counter((pair["same"], pair["lang"]) for pair in PAIRS)

    assert len(DIFFERENT) >= 300
    assert len(SAME) >= 100
    assert counted[False, "zh"] >= 100
    assert counted[True, "zh"] >= 40
    assert len({(pair["a"], pair["b"]) for pair in PAIRS}) == len(PAIRS)


def test_no_pair_with_different_answers_passes() -> None:
    """By the guards alone, without a threshold."""
    assert [pair for pair in DIFFERENT if veto(*pair) is None] == []


def test_known_misses_are_left_to_the_score() -> None:
    """No guard sees these; one that does moves its pair to the list."""
    assert [veto(pair["a"], pair["b"]) for pair in MISSED] == [None] * len(MISSED)


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_most_paraphrases_pass(lang: str) -> None:
    """At least 85 % of them; 60 % are asked for."""
    pairs = [(pair["a"], pair["b"]) for pair in PAIRS if pair["same"] and pair["lang"] == lang]

    passed = sum(veto(*pair) is None for pair in pairs)

    assert passed / len(pairs) >= 0.85


@pytest.mark.parametrize(
    ("a", "b", "guard"),
    [
        ("Give me five tips", "Give me ten tips", Guard.NUMBERS),
        ("Book for a dozen guests", "Book for 13 guests", Guard.NUMBERS),
        ("the second man on the moon", "the third man on the moon", Guard.NUMBERS),
        ("two cats and one dog", "one cat and two dogs", Guard.NUMBERS),
        ("推荐三本小说", "推荐五本小说", Guard.NUMBERS),
        ("What is the weather like in May?", "What is the weather like in June?", Guard.DATES),
        ("taxes in 2023", "taxes in 2024", Guard.DATES),
        ("Wake me at 6:30.", "Wake me at 7:30.", Guard.TIMES),
        ("Wake me at 6 am.", "Wake me at 6pm", Guard.TIMES),
        ("Is 5 mg too much?", "Is 5 g too much?", Guard.UNITS),
        ("How do I install Python 3.10?", "How do I install Python 3.12?", Guard.VERSIONS),
        ("How much is 20 euros?", "How much is $20?", Guard.CURRENCIES),
        ("Why was my card charged?", "Why was my card not charged?", Guard.NEGATION),
        ("Why can I log in but not pay?", "Why can I not log in but pay?", Guard.NEGATION),
        ("这个药饭前能吃吗？", "这个药饭前不能吃吗？", Guard.NEGATION),
        ("How do I enable it?", "How do I disable it?", Guard.ANTONYM),
        ("How do I turn on dark mode?", "How do I turn off dark mode?", Guard.ANTONYM),
        ("What makes people happy?", "What makes people unhappy?", Guard.ANTONYM),
        ("怎么打开蓝牙？", "怎么关闭蓝牙？", Guard.ANTONYM),
        ('Translate "good day"', 'Translate "good luck"', Guard.QUOTED),
        ("What does os.path.join do?", "What does os.path.split do?", Guard.CODE),
        ("What does ls -a show?", "What does ls -A show?", Guard.CODE),
        ("What does E1001 mean?", "What does E1010 mean?", Guard.CODE),
        ("What is the capital of France?", "What is the capital of Spain?", Guard.NAMES),
        ("怎么用Excel画图？", "怎么用Word画图？", Guard.NAMES),
        ("How long do dogs live?", "How long do cats live?", Guard.SLOT),
        ("狗能活多久？", "猫能活多久？", Guard.SLOT),
        ("How do I convert dollars to euros?", "How do I convert euros to dollars?", Guard.ORDER),
        ("Did Spain beat Italy?", "Did Italy beat Spain?", Guard.ORDER),
        ("狗追猫是为什么？", "猫追狗是为什么？", Guard.ORDER),
        ("When was it invented?", "Where was it invented?", Guard.QUESTION),
        ("Is gold heavier than lead?", "Is lead heavier than gold?", Guard.COMPARISON),
        ("more than 20 people", "less than 20 people", Guard.COMPARISON),
        ("Is it open today?", "Is it open tomorrow?", Guard.TEMPORAL),
        ("Who is the president?", "Who was the president?", Guard.TEMPORAL),
        ("How do I pay?", "Wie kann ich zahlen?", Guard.LANGUAGE),
        ("How do I pay?", "怎么付款？", Guard.LANGUAGE),
        ("Как включить звук?", "Как выключить звук?", Guard.LANGUAGE),
    ],
)
def test_veto_has_its_reason(a: str, b: str, guard: Guard) -> None:
    """The reason goes into metrics: it says what the two differ in."""
    assert veto(a, b) is guard
    assert veto(b, a) is guard


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("How do I reset my password?", "What is the way to reset my password?"),
        ("How do I reset my password?", "please tell me how I can reset my password"),
        ("Where is my order?", "Where's my order?"),
        ("My card hasn't arrived", "my card has not arrived yet"),
        ("Why was I charged?", "I do not know why I was charged"),
        ("Give me 5 tips", "Give me five tips"),
        ("a story of two hundred words", "a story of 200 words"),
        ("Book for twenty-one guests", "Book for 21 guests"),
        ("I was charged two times", "I was charged twice"),
        ("Do you have cards in the US?", "Do you have cards in America?"),
        ("My card won't work", "my card will not work"),
        ("Convert 10 km to miles", "Convert 10 kilometres to miles"),
        ("What is 15 % of 80?", "How much is 15 percent of 80?"),
        ("How do I use my card in Mexico?", "in mexico, how do i use my card"),
        ("What is the difference between TCP and UDP?", "difference between UDP and TCP"),
        ("How do I disable notifications?", "How do I turn off notifications?"),
        ("怎么取消订单？", "请问如何取消订单"),
        ("怎么取消订单？", "订单怎么取消"),
        ("推荐三本小说", "推荐3本小说"),
        ("怎麼重置密碼？", "怎么重置密码？"),
    ],
)
def test_what_is_only_worded_otherwise_passes(a: str, b: str) -> None:
    """Courtesy, contractions, spelling, numbers written out, and what may stand anywhere."""
    assert veto(a, b) is None
    assert veto(b, a) is None


def test_personal_questions_pass() -> None:
    """ "My" says nothing against an answer: whose it is, the partition tells."""
    assert veto("What is the status of my order?", "my order status?") is None


@given(texts)
def test_text_does_not_conflict_with_itself(text: str) -> None:
    """Nor does any text raise."""
    assert veto(text, text) is None


@given(texts)
def test_case_blanks_and_outer_punctuation_are_no_difference(text: str) -> None:
    """But for the case of one-letter options."""
    assume("-" not in text and text.isascii())

    assert veto(text, f'  "{text.upper()}" ?! ') is None
    assert veto(text, "  ".join(text.lower().split())) is None


@given(texts, texts)
def test_both_ways_are_the_same(a: str, b: str) -> None:
    """Whichever of the two was stored."""
    assert veto(a, b) is veto(b, a)


@given(st.sampled_from(PAIRS), st.sampled_from(PAIRS))
def test_both_ways_are_the_same_for_sentences(one: dict[str, str], other: dict[str, str]) -> None:
    """The same, for texts that have more in common."""
    assert veto(one["a"], one["b"]) is veto(one["b"], one["a"])
    assert veto(one["a"], other["b"]) is veto(other["b"], one["a"])


@pytest.mark.parametrize(
    "unit",
    [
        *(
            "a",
            " a",
            "'",
            '"',
            '"a" ',
            "'a' ",
            "`",
            "«",
            "《",
            "(",
            "1",
            "1,",
            "1.",
            "1:",
            "a.",
            "a_",
        ),
        *(
            "-",
            "/",
            "\\",
            "@",
            "不",
            "三",
            "万",
            "怎么",
            "A",
            "Ab ",
            "two ",
            "million ",
            "not ",
            "ß",
        ),
        *("to a ", "and b ", "\u0301", "ﷺ", "😀", "п", "n't ", "'s "),
    ],
)
def test_time_is_proportional_to_length(unit: str) -> None:
    """No pattern goes back over what it has read: 50,000 characters take well under a second."""
    text = unit * (50_000 // len(normalize("NFKC", unit)))
    began = perf_counter()

    assert veto(text, text + " b") in (None, *Guard)

    assert perf_counter() - began < 5
