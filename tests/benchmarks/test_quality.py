"""The quality benchmark counts what the proxy would do, and no more than it sees."""

import pytest

from benchmarks import quality
from benchmarks.quality import Asked, Reader, interval, measure


@pytest.fixture(scope="module")
def reader() -> Reader:
    return Reader()


def test_hits_are_counted_by_whose_answer_they_get(reader: Reader) -> None:
    """The first of its kind is stored; what is near gets its answer, whether right or wrong."""
    stream = [
        Asked("How do I reset my password?", "reset"),
        Asked("How can I reset my password?", "reset"),
        Asked("How would I reset my password?", "another intent, says who labelled it"),
        Asked("How do I reset my password?", "reset"),
        Asked("What is the capital of France?", "Paris"),
    ]

    tally = measure(stream, reader.read(asked.text for asked in stream), 0.95, has_guards=True)

    assert (tally.asked, tally.hits, tally.wrong) == (4, 2, 1)


def test_vetoes_are_counted_by_whether_they_spared_a_wrong_answer(reader: Reader) -> None:
    """Without guards the same questions are hits."""
    stream = [
        Asked("How do I convert euros to dollars?", "0.92"),
        Asked("How do I convert dollars to euros?", "1.09"),
    ]
    known = reader.read(asked.text for asked in stream)

    guarded = measure(stream, known, 0.95, has_guards=True)
    bare = measure(stream, known, 0.95, has_guards=False)

    assert (guarded.hits, guarded.vetoed_right, guarded.vetoed_wrong) == (0, 0, 1)
    assert (bare.hits, bare.wrong) == (1, 1)


def test_what_is_only_stored_is_not_looked_up(reader: Reader) -> None:
    """As one side of a pair."""
    stream = [
        Asked("How do I reset my password?", "1", is_asked=False),
        Asked("How can I reset my password?", "2", is_asked=False),
        Asked("How would I reset my password?", "1"),
    ]

    tally = measure(stream, reader.read(asked.text for asked in stream), 0.95, has_guards=True)

    assert (tally.asked, tally.hits) == (1, 1)


def test_intervals_are_wilsons() -> None:
    """Brown, Cai and DasGupta (2001): it holds where nothing was found, too."""
    assert interval(0, 0) == (0.0, 1.0)
    assert interval(0, 100) == pytest.approx((0.0, 0.0370), abs=1e-4)
    assert interval(5, 100) == pytest.approx((0.0215, 0.1118), abs=1e-4)


@pytest.mark.skipif(not quality.are_there(), reason="needs the data that RECOLLECT_DATA names")
def test_each_stream_has_questions_and_labels() -> None:
    """As many as their authors published."""
    sizes = {name: len(read()) for name, (read, _) in quality.STREAMS.items()}

    assert sizes == {
        "Banking77": 10_003,
        "Clinc150 with questions out of scope": 18_200,
        "GPTCache's pairs": 2 * 999,
    }
