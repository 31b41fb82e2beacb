"""The quality benchmark counts what the proxy would do, and no more than it sees."""

import random
import re

import pytest

from admin.tune_replay import by_budget, by_score
from benchmarks import quality, quality_streams
from benchmarks.quality import Asked, Reader, Tally, interval, tally
from benchmarks.quality_streams import STREAMS, Data, restaurant8k

needs_data = pytest.mark.skipif(
    not quality.are_there(), reason="needs the data that RECOLLECT_DATA names"
)


@pytest.fixture(scope="module")
def reader() -> Reader:
    return Reader()


def measured(
    reader: Reader, questions: list[Asked], min_score: float, *, has_guards: bool = True
) -> Tally:
    labelled = reader.read(questions)
    return tally(labelled, by_score(labelled.stream, min_score, has_guards=has_guards))


def test_hits_are_counted_by_whose_answer_they_get(reader: Reader) -> None:
    """The first of its kind is stored; what is near gets its answer, whether right or wrong."""
    stream = [
        Asked("How do I reset my password?", "reset"),
        Asked("How can I reset my password?", "reset"),
        Asked("How would I reset my password?", "another intent, says who labelled it"),
        Asked("How do I reset my password?", "reset"),
        Asked("What is the capital of France?", "Paris"),
    ]

    counted = measured(reader, stream, 0.95)

    assert (counted.asked, counted.hits, counted.wrong) == (4, 2, 1)


def test_what_is_for_the_exact_tier_only_is_asked_and_no_hit(reader: Reader) -> None:
    """A share of hits is one of all that was asked, but for repeats."""
    stream = [Asked("Why?", "because"), Asked("Why?", "because"), Asked("And why not?", "so")]

    counted = measured(reader, stream, 0.5)

    assert (counted.asked, counted.hits) == (2, 0)


def test_vetoes_are_counted_by_whether_they_spared_a_wrong_answer(reader: Reader) -> None:
    """Without guards the same questions are hits."""
    stream = [
        Asked("How do I convert euros to dollars?", "0.92"),
        Asked("How do I convert dollars to euros?", "1.09"),
    ]

    guarded = measured(reader, stream, 0.95)
    bare = measured(reader, stream, 0.95, has_guards=False)

    assert (guarded.hits, guarded.vetoed_right, guarded.vetoed_wrong) == (0, 0, 1)
    assert (bare.hits, bare.wrong) == (1, 1)


def test_what_is_only_stored_is_not_looked_up(reader: Reader) -> None:
    """As one side of a pair."""
    stream = [
        Asked("How do I reset my password?", "1", is_asked=False),
        Asked("How can I reset my password?", "2", is_asked=False),
        Asked("How would I reset my password?", "1"),
    ]

    counted = measured(reader, stream, 0.95)

    assert (counted.asked, counted.hits) == (1, 1)


def test_what_nothing_stored_is_right_for_is_counted_by_itself(reader: Reader) -> None:
    """A question out of scope that is answered from the cache, say."""
    stream = [
        Asked("How do I reset my password?", "reset"),
        Asked("How can I reset my password?", "reset"),
        Asked("How would I reset my password?", "beyond 1", is_beyond=True),
        Asked("What is the capital of France?", "beyond 2", is_beyond=True),
    ]

    counted = measured(reader, stream, 0.95)

    assert (counted.beyond, counted.beyond_hits, counted.wrong) == (2, 1, 1)
    assert counted.row(has_beyond=True)[-1] == "1 of 2"


def test_intervals_are_wilsons() -> None:
    """Brown, Cai and DasGupta (2001): it holds where nothing was found, too."""
    assert interval(0, 0) == (0.0, 1.0)
    assert interval(0, 100) == pytest.approx((0.0, 0.0370), abs=1e-4)
    assert interval(5, 100) == pytest.approx((0.0215, 0.1118), abs=1e-4)


def test_report_has_a_table_for_each_rule(
    reader: Reader, capsys: pytest.CaptureFixture[str]
) -> None:
    """And adds up the orders."""

    def read(order: int, first: int | None) -> list[Asked]:
        return [Asked(f"How do I reset my {thing}?", "so") for thing in ("phone", "old radio")]

    quality.report(Data("Little", read, beyond="out of scope"), reader, orders=2)

    printed = capsys.readouterr().out
    assert "**Little**" in printed
    for setting in (r"0\.01", r"0\.95, guards", r"0\.95, no guards"):
        assert re.search(rf"^\| {setting} \| 4 \|", printed, re.MULTILINE), setting
    for head in ("| max_error |", "| min_score |", "| vCache's bound |", "| said to be right"):
        assert head in printed
    assert "0 of 0" in printed


@needs_data
def test_each_stream_has_questions_and_labels() -> None:
    """As many as their authors published."""
    assert len(quality.banking77()) == 10_003
    assert len(quality.clinc150()) == 18_200
    assert sum(asked.is_beyond for asked in quality.clinc150()) == 200
    assert len(quality.gptcache()) == 2 * 999


@needs_data
def test_orders_differ_where_they_are_drawn() -> None:
    """By the same number the same order is drawn."""
    for data in STREAMS.values():
        assert data.read(0, 50) == data.read(0, 50)
        assert (data.read(0, 50) != data.read(1, 50)) == data.has_orders


@needs_data
def test_swapped_sentences_say_something_else() -> None:
    """Each has a value of the same slot that is not the same in other words."""
    questions = restaurant8k(random.Random(0))
    stored = [asked.text for asked in questions if not asked.is_asked]
    swapped = [asked.text for asked in questions if asked.is_beyond]

    assert len(stored) == len(swapped) > 2000
    assert not set(stored) & set(swapped)
    assert len({asked.answer for asked in questions}) == len(questions)


@pytest.mark.parametrize(
    ("one", "other", "differ"),
    [
        ("9 people", "2", True),
        ("four", "4", False),
        ("4 people", "4", False),
        ("7 pm", "19:00", False),
        ("7 pm", "8 pm", True),
        ("Ann Lee", "ann lee", False),
        ("Ann Lee", "Bob Lee", True),
        ("?", "2", False),
    ],
)
def test_values_differ_where_none_may_say_the_other(one: str, other: str, differ: bool) -> None:
    """In figures or words, on either clock."""
    assert quality_streams.differ(one, other) is differ


@needs_data
def test_no_swapped_sentence_is_served_within_a_budget(reader: Reader) -> None:
    """The route serves by then: what keeps them apart is what is compared, not its state."""
    bank = STREAMS["banking77"].read(0, 1200)
    labelled = reader.read(bank + restaurant8k(random.Random(0), 400))

    for max_error in (0.01, 0.05):
        answered = by_budget(labelled.stream, max_error, check_share=0.03, seed=0)
        counted = tally(labelled, answered)

        assert counted.hits > 50
        assert counted.beyond > 300
        assert counted.beyond_hits == 0
