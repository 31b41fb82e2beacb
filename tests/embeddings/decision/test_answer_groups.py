"""Which answers say the same: near, about the same, with the same figures, no template refilled."""

import math
from collections.abc import Sequence

import numpy as np
import pytest

from embeddings.decision.answer_groups import (
    JOINS_FROM,
    MERGES_FROM,
    Vocabulary,
    Worded,
    log_odds,
    worded,
)
from embeddings.encoding.encoder import Vector

_DIMENSION = 64
_FEES = "The fee for a late cancellation is 5 euros."
_OTHERWISE = "You would pay 5 euros as a cancellation fee when it is late."


def near(cosine: float, aside: int = 1) -> Vector:
    """Return a vector with this cosine to all members'."""
    vector = np.zeros(_DIMENSION, dtype=np.float32)
    vector[0], vector[aside] = cosine, (1 - cosine**2) ** 0.5
    return vector


def member(text: str = _FEES) -> Worded:
    return worded(text, near(1.0))


@pytest.fixture
def vocabulary() -> Vocabulary:
    """Return what is known after many answers to whatever questions."""
    vocabulary = Vocabulary()
    for number in range(100):
        vocabulary.add(worded(f"You would have it late, thing number {number}.", near(0.0)))
    return vocabulary


def odds(
    vocabulary: Vocabulary,
    text: str = _OTHERWISE,
    cosine: float = 0.9,
    group: Sequence[Worded] | None = None,
) -> float:
    return log_odds(worded(text, near(cosine)), group or [member()], vocabulary)


def test_answer_in_other_words_joins_and_one_about_something_else_does_not(
    vocabulary: Vocabulary,
) -> None:
    """Near, with the same rare words and figures; or far, with others."""
    assert odds(vocabulary) > JOINS_FROM
    assert odds(vocabulary, "Our library opens at nine on Mondays.", 0.2) < JOINS_FROM


def test_odds_grow_with_nearness(vocabulary: Vocabulary) -> None:
    """All else being equal."""
    found = [odds(vocabulary, cosine=cosine) for cosine in (-0.2, 0.0, 0.3, 0.6, 0.9, 0.99)]

    assert found == sorted(found)
    assert found[0] < JOINS_FROM < found[-1]


@pytest.mark.parametrize(
    ("text", "is_less"),
    [
        ("You would pay 7 euros as a cancellation fee when it is late.", True),
        ("You would pay five euros as a cancellation fee when it is late.", False),
        ("You would pay 5 euros as a cancellation fee when it is late, up to 9 weeks.", True),
        ("You would pay some euros as a cancellation fee when it is late.", True),
    ],
    ids=["another", "written out", "one more", "none"],
)
def test_figures_count(vocabulary: Vocabulary, text: str, is_less: bool) -> None:
    """Others speak against it, fewer or more for less than the same; words for them are figures."""
    assert (odds(vocabulary, text) < odds(vocabulary) - 1) is is_less


def test_other_figures_speak_louder_than_none(vocabulary: Vocabulary) -> None:
    """What is not said is not contradicted."""
    none = odds(vocabulary, "You would pay some euros as a cancellation fee when it is late.")
    others = odds(vocabulary, "You would pay 7 euros as a cancellation fee when it is late.")

    assert others < none - 2


def test_same_template_with_other_words_in_it_never_says_the_same(vocabulary: Vocabulary) -> None:
    """However near; also among others that are no template of it."""
    frame = "Your order of {} was received and will be sent to you as soon as we can."
    refilled = [member(), member(frame.format("daffodils"))]

    assert odds(vocabulary, frame.format("tulips"), 0.999, refilled) == -math.inf


def test_answer_with_words_more_that_tell_nothing_says_the_same(vocabulary: Vocabulary) -> None:
    """A greeting that many answers have, in either of them; one that is not known is a doubt."""
    polite = f"Certainly! {_FEES} Glad to assist."
    assert odds(vocabulary, polite) == -math.inf
    for number in range(50):
        vocabulary.add(worded(f"Certainly! It is {number}. Glad to assist.", near(0.0)))

    assert odds(vocabulary, polite, 0.5) > MERGES_FROM
    assert log_odds(worded(_FEES, near(0.5)), [member(polite)], vocabulary) > MERGES_FROM
    other = polite.replace("5", "7")
    assert odds(vocabulary, other, 0.999) == -math.inf, "but figures do"


def test_group_is_judged_by_all_its_answers(vocabulary: Vocabulary) -> None:
    """Those that are far from it, too."""
    far = worded("Our library opens at 9 on Mondays.", near(0.0, aside=3))

    assert odds(vocabulary, group=[member(), far]) < odds(vocabulary)
    assert odds(vocabulary, group=[far]) < odds(vocabulary, group=[member(), far])


def test_rare_words_tell_more_than_common_ones() -> None:
    """By how many answers have them; one that all have tells nothing."""
    vocabulary = Vocabulary()
    for number in range(50):
        vocabulary.add(worded("invoice " + "harbour" * (number % 5 == 0), near(1.0)))

    common, rarer, unknown = (
        vocabulary.weight(worded(text, near(1.0)).stems)
        for text in ("invoice", "harbour", "pelican")
    )

    assert common < 0.1
    assert common < rarer < unknown


def test_shared_rare_words_speak_for_the_same(vocabulary: Vocabulary) -> None:
    """Others in their place do not."""
    shared = odds(vocabulary)
    others = odds(vocabulary, "You would pay 5 dollars as a library charge when it is late.")

    assert shared > others + 1


def test_vocabulary_begins_anew_after_many_answers() -> None:
    """Words may become rare again, and it does not grow without end."""
    vocabulary = Vocabulary()
    invoice, harbour = (worded(text, near(1.0)) for text in ("invoice", "harbour"))
    for _ in range(20_000):
        vocabulary.add(harbour)
    assert vocabulary.weight(invoice.stems) > 5
    assert vocabulary.is_idle(harbour.words)

    vocabulary.add(harbour)

    assert vocabulary.weight(invoice.stems) < 5
    assert not vocabulary.is_idle(harbour.words)


def test_nothing_to_say_gives_finite_odds() -> None:
    """Of answers without a word, and by a vocabulary that has seen none."""
    assert math.isfinite(log_odds(worded("?", near(0.9)), [worded("!!", near(1.0))], Vocabulary()))
    assert Vocabulary().weight(()) == 0


def test_merging_takes_more_than_joining() -> None:
    """A merge spreads an error."""
    assert MERGES_FROM > JOINS_FROM


def test_words_are_compared_in_lower_case() -> None:
    """Without the signs around them."""
    assert worded("It COSTS, all.", near(1.0)).words == ("it", "costs", "all")
