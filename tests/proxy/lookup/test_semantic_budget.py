"""The semantic tier within an error budget: what is asked, and what each decision becomes."""

import pytest

from embeddings.guards.guard import Guard
from embeddings.verdict import Verdict
from embeddings.wire import MOST_MATCHES, Decided
from proxy.lookup.meaning import Question, question_of
from proxy.lookup.semantic_tier import Looked, Near
from tests.proxy.lookup.test_semantic_tier import (
    ASKED,
    KEY,
    OTHER_KEY,
    OWN_KEY,
    Rig,
    asks,
    chat,
    near,
    user,
)

pytestmark = pytest.mark.virtual_time

_FAR = 0.4
"""Below any `min_score`: a budget does not look at it."""


def deciding(verdict: Verdict, *matches: bytes, **more: object) -> Rig:
    """Return a rig whose embedding process decides so."""
    rig = Rig(*(near(_FAR, key) for key in matches))
    rig.embeddings.decided = Decided(verdict, 0.9, **more)  # type: ignore[arg-type]
    return rig


async def test_question_is_asked_with_its_key_its_route_and_its_budget() -> None:
    """And for as many neighbours as there may be: they vote."""
    rig = deciding(Verdict.NOTHING)
    await rig.look_up(asks(max_error=0.02))

    (look_up,) = rig.embeddings.asked
    assert look_up.k == MOST_MATCHES
    assert look_up.budgeted is not None
    assert (look_up.budgeted.key, look_up.budgeted.route) == (OWN_KEY, "default")
    assert (look_up.budgeted.max_error, look_up.budgeted.check_share) == (0.02, 0.25)


async def test_nothing_is_checked_in_the_shadow() -> None:
    """Nothing is served there."""
    rig = deciding(Verdict.SERVE, KEY)
    await rig.store()

    found = await rig.look_up(asks(max_error=0.02, mode="shadow"))

    assert not isinstance(found, Near)
    assert rig.observer.outcomes == [Looked.SHADOW]
    budgeted = rig.embeddings.asked[0].budgeted
    assert budgeted is not None
    assert budgeted.check_share == 0


async def test_without_a_budget_nothing_is_decided() -> None:
    """The look-up is what it was: `min_score` decides."""
    rig = deciding(Verdict.SERVE, KEY)
    await rig.store()

    await rig.look_up(asks())

    assert rig.embeddings.asked[0].budgeted is None
    assert rig.observer.outcomes == [Looked.FAR]


@pytest.mark.parametrize("is_check", [False, True])
async def test_what_may_be_served_is_served_however_far_it_is(is_check: bool) -> None:
    """The score is told; `min_score` does not count."""
    rig = deciding(Verdict.SERVE, KEY, is_check=is_check)
    stored = await rig.store()

    found = await rig.look_up(asks(max_error=0.02))

    assert isinstance(found, Near)
    assert (found.answer.key, found.score, found.is_check) == (stored.key, _FAR, is_check)
    assert rig.observer.outcomes == [Looked.HIT]
    assert rig.observer.scores == [], "a histogram of what was nearest would mislead"


@pytest.mark.parametrize(
    ("verdict", "outcome"),
    [
        (Verdict.EARNING, Looked.EARNING),
        (Verdict.UNSURE, Looked.UNSURE),
        (Verdict.VETOED, Looked.VETOED),
        (Verdict.FORBIDDEN, Looked.FORBIDDEN),
        (Verdict.NOTHING, Looked.NOTHING),
    ],
)
async def test_every_other_decision_is_a_miss_and_counted_by_its_name(
    verdict: Verdict, outcome: Looked
) -> None:
    """Also where there is something that could be served."""
    rig = deciding(verdict, KEY)
    await rig.store()

    assert not isinstance(await rig.look_up(asks(max_error=0.02)), Near)
    assert rig.observer.outcomes == [outcome]


@pytest.mark.parametrize("verdict", list(Verdict))
async def test_guard_that_spoke_is_counted_once(verdict: Verdict) -> None:
    """Where the answer came from another question, too."""
    rig = deciding(verdict, KEY, guard=Guard.NUMBERS)
    await rig.store()

    await rig.look_up(asks(max_error=0.02))

    assert rig.observer.vetoes == [Guard.NUMBERS]


async def test_guards_that_were_asked_are_not_asked_again() -> None:
    """The embedding process has compared the questions; it knows what the record says."""
    rig = deciding(Verdict.SERVE, KEY)
    await rig.store(asked="How many people do not live in Paris in 1999?")

    assert isinstance(await rig.look_up(asks(max_error=0.02)), Near)
    assert rig.observer.vetoes == []


async def test_next_witness_answers_where_the_nearest_is_gone() -> None:
    """Its vector goes, too."""
    rig = deciding(Verdict.SERVE, OTHER_KEY, KEY, is_check=True)
    await rig.store()

    found = await rig.look_up(asks(max_error=0.02))

    assert isinstance(found, Near)
    assert (found.answer.key, found.is_check) == (KEY, True)
    assert rig.embeddings.removed == [OTHER_KEY]


async def test_witnesses_that_are_all_gone_are_a_miss() -> None:
    """And counted as that."""
    rig = deciding(Verdict.SERVE, OTHER_KEY, KEY)

    assert not isinstance(await rig.look_up(asks(max_error=0.02)), Near)
    assert rig.observer.outcomes == [Looked.GONE]


def partition(text: str, *, is_budgeted: bool) -> bytes:
    ask = asks(chat(user(text)))
    question = question_of(ask.request, ask.scope, is_budgeted=is_budgeted)
    assert isinstance(question, Question)
    return question.partition


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Can I pay in 3 rates, please tell me?", "Can I pay in 5 rates, please tell me?"),
        ("May I bring my dog with me there?", "May I not bring my dog with me there?"),
        ("Is the office in London open today?", "Is the office in Berlin open today?"),
    ],
)
def test_questions_that_differ_in_a_figure_or_a_name_are_neighbours_within_a_budget(
    one: str, other: str
) -> None:
    """Their answers vote; without a budget they are never compared."""
    assert partition(one, is_budgeted=True) == partition(other, is_budgeted=True)
    assert partition(one, is_budgeted=False) != partition(other, is_budgeted=False)
    assert partition(one, is_budgeted=True) != partition(one, is_budgeted=False)


async def test_other_conversations_are_other_partitions_within_a_budget_too() -> None:
    """Only the question is compared by meaning, as ever."""
    rig = deciding(Verdict.NOTHING)
    for system in ("Be brief.", "Be kind."):
        body = chat({"role": "system", "content": system}, user(ASKED))
        await rig.look_up(asks(body, max_error=0.02))

    first, second = rig.embeddings.asked
    assert first.partition != second.partition
