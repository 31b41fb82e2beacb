"""A route's error budget: what it takes to serve, and what ends it."""

from dataclasses import replace

import numpy as np
import pytest

from embeddings.decision.budget import MOST_SAMPLES, Budget, interval
from embeddings.decision.consensus import Floats
from embeddings.decision.sample import Sample
from tests.embeddings.decision.samples import (
    CLEAR,
    DIM,
    GROUP,
    OTHER_GROUP,
    evidence,
    sample,
    serving,
    traffic,
)

LONG_AGO, NOW, LATER = 1.0, 1000.0, 2000.0


@pytest.mark.parametrize("max_error", [0.0, 1.0, -0.1, 2.0])
def test_budget_outside_of_its_range_is_refused(max_error: float) -> None:
    """At 0 nothing could ever be earned, and at 1 nothing lost."""
    with pytest.raises(ValueError, match="between 0 and 1"):
        Budget(max_error)


def test_budget_serves_nothing_before_it_has_earned_it() -> None:
    """It knows nothing: no probability, no threshold that could be reached."""
    budget = Budget(0.01)

    assert not budget.is_serving
    assert (budget.probability(CLEAR), budget.threshold, budget.samples) == (0.0, 1.0, 0)
    assert not budget.would_serve(0.999)


@pytest.mark.parametrize(("max_error", "needed"), [(0.01, 70), (0.1, 7), (0.02, 35)])
def test_hits_are_earned_by_right_answers_in_a_row(max_error: float, needed: int) -> None:
    """So many that the budget would have let 0.7 wrong ones through."""
    budget = Budget(max_error)

    budget.add_all(sample() for _ in range(needed - 1))
    assert not budget.is_serving

    budget.add_all([sample(), sample()])  # one more, as sums of floats are only nearly so
    assert budget.is_serving


def test_answers_that_were_not_sure_enough_earn_nothing() -> None:
    """They would not have been served, so they say nothing of what would be."""
    budget = Budget(0.01)
    budget.add_all(sample(would_serve=False) for _ in range(500))

    assert not budget.is_serving


def test_wrong_answer_takes_back_what_was_earned() -> None:
    """At 1 % a wrong one weighs as much as ninety-nine right ones."""
    budget = Budget(0.01)
    budget.add_all(sample() for _ in range(60))
    budget.add(sample(False))
    budget.add_all(sample() for _ in range(60))
    assert not budget.is_serving

    budget.add_all(sample() for _ in range(11))
    assert budget.is_serving


def test_route_whose_hits_are_wrong_goes_back_to_earning() -> None:
    """An alarm, within few answers; and it has to earn all of it again."""
    budget = serving()

    wrong = 0
    while budget.is_serving:
        budget.add(sample(False))
        wrong += 1
    assert wrong <= 5
    assert budget.alarms == 1

    budget.add_all(sample() for _ in range(69))
    assert not budget.is_serving
    budget.add_all([sample(), sample()])
    assert budget.is_serving


def test_route_that_keeps_to_its_budget_is_left_in_peace() -> None:
    """One wrong answer in two hundred is half of what is allowed, however long it goes on."""
    budget = serving()
    budget.add_all(sample(number % 200 != 0) for number in range(1, 4000))

    assert budget.is_serving
    assert budget.alarms == 0


def test_route_that_slightly_exceeds_its_budget_is_caught_in_the_long_run() -> None:
    """Seven times the budget: no single answer proves it, a few hundred together do."""
    budget = serving()
    budget.add_all(sample(number % 14 != 0) for number in range(1, 1000))

    assert budget.alarms >= 1


def test_answers_not_served_raise_no_alarm() -> None:
    """The budget is that of the hits."""
    budget = serving()
    budget.add_all(sample(False, would_serve=False, probability=0.0) for _ in range(500))

    assert budget.is_serving


def test_calibration_tells_clear_evidence_from_dim() -> None:
    """After some sixty samples, and the threshold then lies between the two."""
    budget = Budget(0.05)
    budget.add_all(traffic(59))
    assert budget.probability(CLEAR) == 0.0, "too few to say anything"

    budget.add_all(traffic(600, seed=2))
    assert budget.probability(CLEAR) > 0.95
    assert budget.probability(DIM) < 0.05
    assert budget.would_serve(budget.probability(CLEAR))
    assert not budget.would_serve(budget.probability(DIM))


def test_calibration_follows_what_comes() -> None:
    """It is fitted anew as samples grow in number, and old ones are forgotten."""
    budget = Budget(0.05)
    for one in traffic(300):
        budget.add(one)
    assert budget.probability(CLEAR) > 0.9

    for _ in range(MOST_SAMPLES):
        budget.add(sample(False, would_serve=False, probability=0.0))

    assert budget.probability(CLEAR) < 0.1


def mixed(count: int = 2000) -> list[Sample]:
    """Return samples that are the more often right, the stronger their evidence is."""
    chance = np.random.default_rng(3)
    strengths = chance.normal(1.0, 2.0, count)
    rights = chance.random(count) < 1 / (1 + np.exp(-2 * strengths))
    return [
        sample(bool(is_right), would_serve=False, probability=0.5, found=evidence(strength))
        for strength, is_right in zip(strengths, rights, strict=True)
    ]


def test_threshold_rises_when_max_error_falls() -> None:
    """The stricter the budget, the surer an answer has to be."""
    thresholds = []
    for max_error in (0.2, 0.1, 0.05, 0.01, 0.001):
        budget = Budget(max_error)
        budget.add_all(mixed())
        thresholds.append(budget.threshold)

    assert thresholds == sorted(thresholds)
    assert len(set(thresholds)) == len(thresholds)
    assert thresholds[-1] > 0.99


@pytest.mark.parametrize("max_error", [0.1, 0.05, 0.02])
def test_expected_share_of_wrong_answers_above_the_threshold_keeps_to_the_budget(
    max_error: float,
) -> None:
    """And it uses most of the budget: the threshold is the lowest that does."""
    budget = Budget(max_error)
    budget.add_all(mixed())
    found = np.array([budget.probability(one.evidence) for one in mixed()])
    served = found[found >= budget.threshold]

    assert max_error * 0.5 < float((1 - served).mean()) <= max_error


@pytest.mark.parametrize("max_error", [0.01, 0.02])
def test_no_answer_is_served_that_is_much_likelier_to_be_wrong_than_the_budget_says(
    max_error: float,
) -> None:
    """Though many sure ones beside it would leave room for it."""
    budget = Budget(max_error)
    for number in range(2000):
        # But for one in two hundred as sure as can be: all together keep to the budget.
        budget.saw(evidence(12.0 if number % 200 else 0.0))
    budget.add_all(mixed())

    assert 0.3 < budget.probability(evidence(0.0)) < 0.7
    assert budget.threshold >= 1 - 6 * max_error


def test_threshold_follows_the_questions_that_are_asked_now() -> None:
    """Where most are sure, there is room for some that are less so; where most are not, there
    is none."""
    thresholds = []
    for strength in (6.0, 0.5):
        budget = Budget(0.05)
        for number in range(1000):
            budget.saw(evidence(strength if number % 2 else number / 250))
        budget.add_all(mixed())
        thresholds.append(budget.threshold)

    assert thresholds[0] < thresholds[1]


def test_threshold_rises_where_more_was_wrong_than_was_expected() -> None:
    """What was said of the answers that were sure enough was too good."""
    thresholds = []
    for said in (0.99, 0.8):
        budget = Budget(0.2)
        budget.add_all(mixed())
        lessons = [sample(number % 5 != 0, probability=said) for number in range(200)]
        budget.add_all(lessons * 2)
        thresholds.append(budget.threshold)

    assert thresholds[0] > thresholds[1]


def test_many_samples_at_once_come_to_the_same_as_one_by_one() -> None:
    """A host that has just started agrees with those that have seen all."""
    stream = [*traffic(300), *(sample(at=400.0 + n) for n in range(80))]
    stream += [sample(False, at=500.0) for _ in range(6)] + [sample(at=600.0) for _ in range(75)]
    at_once, one_by_one = Budget(0.01), Budget(0.01)

    at_once.add_all(stream)
    for one in stream:
        one_by_one.add(one)

    for budget in (at_once, one_by_one):
        assert budget.is_serving
        assert budget.samples == len(stream)
        assert budget.alarms == 1
    assert at_once.measured() == one_by_one.measured()
    assert at_once.threshold == pytest.approx(one_by_one.threshold, abs=0.05)


def learnt() -> Budget:
    """Return a budget that has seen enough to know when the world has changed."""
    budget = Budget(0.01)
    budget.add_all(sample(at=NOW, group=b"%016d" % (n % 40)) for n in range(300))
    assert budget.is_serving
    return budget


def test_changed_world_silences_what_was_stored_before() -> None:
    """All answers are other ones than before: a new edition, another model behind the upstream."""
    budget = learnt()
    assert not budget.is_retired(GROUP, LONG_AGO)

    for number in range(40):
        budget.add(sample(False, at=LATER, group=b"%016d" % number))

    assert not budget.is_serving
    assert budget.is_retired(GROUP, LONG_AGO), "whatever group it is of"
    assert budget.is_retired(OTHER_GROUP, LATER)
    assert not budget.is_retired(GROUP, LATER + 1), "what was stored since speaks"


def test_few_odd_answers_are_no_changed_world() -> None:
    """Where one in fifty is wrong, though all were said to be nearly certain."""
    budget = learnt()
    budget.add_all(sample(number % 50 != 0, at=LATER) for number in range(1, 1000))

    assert not budget.is_retired(GROUP, LONG_AGO)


def test_four_odd_answers_in_a_row_are_no_changed_world() -> None:
    """It takes odds of 100,000: one model behind the upstream may have a bad minute."""
    budget = learnt()
    odd = [sample(False, at=LATER, group=b"%016d" % number) for number in range(5)]

    budget.add_all(odd[:4])
    assert not budget.is_retired(GROUP, LONG_AGO)

    budget.add(odd[4])
    assert budget.is_retired(GROUP, LONG_AGO)


def test_young_calibration_accuses_nobody() -> None:
    """Before the two hundredth sample wrong answers end serving, and silence nothing."""
    budget = serving()
    budget.add_all(sample(False, at=LATER) for _ in range(50))

    assert not budget.is_serving
    assert not budget.is_retired(GROUP, LONG_AGO)


def test_wrong_answers_that_were_said_to_be_wrong_do_not_end_serving() -> None:
    """However many: that something unlikely was not so says nothing of the world."""
    budget = learnt()
    budget.add_all(
        sample(False, at=LATER, group=OTHER_GROUP, probability=0.05, would_serve=False)
        for _ in range(2000)
    )

    assert budget.is_serving
    assert not budget.is_retired(GROUP, LONG_AGO)
    assert not budget.is_retired(OTHER_GROUP, LONG_AGO)


def test_world_that_has_changed_does_not_change_again_at_once() -> None:
    """What was said of the old world may be wrong for two hundred samples more."""
    budget = learnt()
    wrong = [sample(False, at=LATER, group=b"%016d" % number) for number in range(20)]
    while not budget.is_retired(GROUP, LATER):
        budget.add_all(wrong[:1])
    quiet = [replace(one, at=LATER + 1) for one in wrong]
    budget.add_all(quiet * 9)
    assert not budget.is_retired(GROUP, LATER + 1)

    budget.add_all(quiet * 2)
    assert budget.is_retired(GROUP, LATER + 1)


def test_group_that_is_contradicted_again_and_again_is_retired() -> None:
    """By itself: the answers around it are right, and stay."""
    budget = learnt()
    for _ in range(20):
        budget.add(sample(False, at=LATER, group=OTHER_GROUP))
        budget.add_all(sample(at=LATER, group=b"%016d" % n) for n in range(30))

    assert budget.is_retired(OTHER_GROUP, LONG_AGO)
    assert budget.is_retired(OTHER_GROUP, LATER)
    assert not budget.is_retired(OTHER_GROUP, LATER + 1)
    assert not budget.is_retired(GROUP, LONG_AGO)
    assert not budget.is_retired(b"%016d" % 3, LONG_AGO)


def test_group_that_is_wrong_now_and_then_is_not_retired() -> None:
    """What is right speaks for it as much as what is wrong speaks against it."""
    budget = learnt()
    for _ in range(100):
        budget.add(sample(False, at=LATER, group=OTHER_GROUP, probability=0.7))
        budget.add_all(sample(at=LATER, group=OTHER_GROUP, probability=0.7) for _ in range(5))

    assert not budget.is_retired(OTHER_GROUP, LONG_AGO)


def test_measured_share_counts_what_was_sure_enough_and_nothing_else() -> None:
    """Of the samples that are remembered."""
    budget = Budget(0.01)
    budget.add_all(sample(False, would_serve=False) for _ in range(50))
    budget.add_all(sample() for _ in range(9))
    budget.add(sample(False))

    seen = budget.measured()
    assert (seen.seen, seen.wrong) == (10, 1)
    assert seen.low < 0.1 < seen.high

    budget.add_all(sample(would_serve=False) for _ in range(MOST_SAMPLES))
    assert budget.measured().seen == 0
    assert budget.samples == 60 + MOST_SAMPLES


@pytest.mark.parametrize(
    ("found", "of", "low", "high"),
    [(0, 0, 0.0, 1.0), (0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (10, 10, 0.7225, 1.0)],
)
def test_interval_is_wilsons(found: int, of: int, low: float, high: float) -> None:
    """Newcombe 1998, Statistics in Medicine 17, table I's method 3; of nothing it says nothing."""
    assert interval(found, of) == pytest.approx((low, high), abs=1e-4)


def test_evidence_is_remembered_for_the_threshold_and_changes_no_probability() -> None:
    """Look-ups teach nothing of what is right."""
    one, other = Budget(0.05), Budget(0.05)
    strong: Floats = evidence(8.0)
    for _ in range(500):
        other.saw(strong)
    for budget in (one, other):
        budget.add_all(mixed())

    assert one.probability(strong) == other.probability(strong)
