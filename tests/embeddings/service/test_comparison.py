"""An answer that has come, against those of its neighbours: whose group it is of."""

from collections.abc import Sequence

import numpy as np
import pytest

from embeddings.encoding.batching import Busy
from embeddings.encoding.encoder import Refused, Vector
from embeddings.service.comparison import Comparison
from embeddings.service.source import SourceUnavailable, Witness
from tests.embeddings.fakes import FAR_FUTURE, PARTITION, FakeSource, FakeStore, key_of
from tests.embeddings.service.judging import group_of

FEES = "The fee for a late cancellation is 5 euros."
REWORDED = "You would pay 5 euros as a cancellation fee when it is late."
AGAIN = "Whoever cancels late owes us a fee of 5 euros."
LIBRARY = "Our library opens at nine on Mondays."
LIBRARY_TOO = "On Mondays we open the library when it strikes nine."
_DIMENSION = 128


class Rig:
    """A comparison whose encoder says what answers are about.

    Attributes:
        nearness: The cosine of two answers about the same.
        error: Raised instead of encoding.
    """

    def __init__(self) -> None:
        self.store = FakeStore()
        self.encoded: list[str] = []
        self.error: Exception | None = None
        self.nearness = 0.9
        self.comparison = Comparison(FakeSource(self.store, "5" * 32), self._encode)

    async def _encode(self, texts: Sequence[str]) -> list[Vector | Refused]:
        if self.error is not None:
            raise self.error
        self.encoded += texts
        return [
            Refused.SCRIPT if text.startswith("refuse") else self._vector(text) for text in texts
        ]

    def _vector(self, text: str) -> Vector:
        vector = np.zeros(_DIMENSION, dtype=np.float32)
        vector[int("library" in text)] = self.nearness**0.5
        aside = int.from_bytes(group_of(text)[:1]) % (_DIMENSION - 2)
        vector[2 + aside] = (1 - self.nearness) ** 0.5
        return vector

    def store_answer(self, name: str, answer: str, group: bytes | None = None) -> Witness:
        """Store a question's record and return it."""
        witness = Witness(
            key=key_of(name),
            partition=PARTITION,
            expires_at=FAR_FUTURE,
            text="What is it?",
            vector=b"\0\0\x80\x3f",
            group=group_of(answer) if group is None else group,
            words=group_of(answer),
            stored_at=1.0,
            answer=answer,
        )
        self.store.witnesses[witness.key] = witness
        return witness

    def group(self, name: str) -> bytes:
        """Return the group that a record has now."""
        return self.store.witnesses[key_of(name)].group


@pytest.fixture
def rig() -> Rig:
    return Rig()


async def test_answer_in_other_words_joins_its_neighbours_group(rig: Rig) -> None:
    """That is written down, for all hosts."""
    near, new = rig.store_answer("near", FEES), rig.store_answer("new", REWORDED)

    assert await rig.comparison.groups(new, [near], set(), 0.0) == {group_of(FEES)}
    assert rig.group("new") == rig.group("near") == group_of(FEES)
    assert [key for _, key in rig.store.log] == [key_of("new")]


async def test_answer_to_something_else_begins_a_group(rig: Rig) -> None:
    """Its own, which it has already: nothing is written."""
    near, new = rig.store_answer("near", FEES), rig.store_answer("new", LIBRARY)

    assert await rig.comparison.groups(new, [near], set(), 0.0) == {group_of(LIBRARY)}
    assert rig.store.log == []


async def test_same_words_are_the_same_group_without_any_comparison(rig: Rig) -> None:
    """Also where the others' group has another name by now."""
    near = rig.store_answer("near", FEES, group=b"n" * 16)
    new = rig.store_answer("new", FEES)

    assert await rig.comparison.groups(new, [near], set(), 0.0) == {b"n" * 16}
    assert rig.group("new") == b"n" * 16


async def test_groups_that_an_answer_fits_as_surely_are_merged(rig: Rig) -> None:
    """Under the name that has the most voices; all old names are told."""
    near = [
        rig.store_answer("one", AGAIN),
        rig.store_answer("two", FEES),
        rig.store_answer("three", FEES),
        rig.store_answer("other", LIBRARY),
    ]
    new = rig.store_answer("new", REWORDED)

    found = await rig.comparison.groups(new, near, set(), 0.0)

    assert found == {group_of(FEES), group_of(AGAIN)}
    assert {rig.group(name) for name in ("one", "two", "three", "new")} == {group_of(FEES)}
    assert rig.group("other") == group_of(LIBRARY)


async def test_neighbour_that_has_another_answer_by_now_is_left_alone(rig: Rig) -> None:
    """What it had is what was compared; the group is not that of its new answer."""
    near, again = rig.store_answer("near", FEES), rig.store_answer("again", AGAIN)
    new = rig.store_answer("new", REWORDED)
    rig.store_answer("again", LIBRARY)

    found = await rig.comparison.groups(new, [near, near, again], set(), 0.0)

    assert found == {group_of(FEES), group_of(AGAIN)}
    assert rig.group("new") == rig.group("near") == group_of(FEES)
    assert rig.group("again") == group_of(LIBRARY)


async def test_answer_without_a_text_is_compared_by_its_words_alone(rig: Rig) -> None:
    """A tool call, say: nothing of it is encoded."""
    near, new = rig.store_answer("near", FEES), rig.store_answer("new", "")

    assert await rig.comparison.groups(new, [near], set(), 0.0) == {group_of("")}
    assert rig.encoded == []


async def test_answer_that_the_encoder_refuses_begins_a_group(rig: Rig) -> None:
    """And one among the neighbours is passed over."""
    fees, refused = rig.store_answer("fees", FEES), rig.store_answer("no", "refuse this")

    assert await rig.comparison.groups(refused, [fees], set(), 0.0) == {group_of("refuse this")}
    new = rig.store_answer("new", REWORDED)
    assert await rig.comparison.groups(new, [refused, fees], set(), 0.0) == {group_of(FEES)}


async def test_each_answer_is_encoded_once(rig: Rig) -> None:
    """And no more of it than an encoder sees."""
    near, long = rig.store_answer("near", FEES), rig.store_answer("new", "library " * 1000)

    for _ in range(3):
        await rig.comparison.groups(long, [near, near], set(), 0.0)

    assert sorted(map(len, rig.encoded)) == [len(FEES), 600]


@pytest.mark.parametrize(("probability", "is_same"), [(0.0, False), (0.99, True), (0.01, False)])
async def test_what_the_questions_say_beforehand_tips_the_scale(
    rig: Rig, probability: float, is_same: bool
) -> None:
    """Where the answers alone leave it open."""
    near, new = rig.store_answer("near", LIBRARY), rig.store_answer("new", LIBRARY_TOO)
    rig.nearness = 0.12

    found = await rig.comparison.groups(new, [near], {near.group}, probability)

    assert (found == {near.group}) is is_same


async def test_what_the_questions_say_beforehand_counts_for_what_they_spoke_for_alone(
    rig: Rig,
) -> None:
    """Other neighbours' groups are as near as they are."""
    near, new = rig.store_answer("near", LIBRARY), rig.store_answer("new", LIBRARY_TOO)
    rig.nearness = 0.12

    found = await rig.comparison.groups(new, [near], {group_of(FEES)}, 0.99)

    assert found == {new.group}


async def test_what_the_questions_say_beforehand_merges_no_groups(rig: Rig) -> None:
    """It may say where one answer belongs, not that two groups are one."""
    same, near = rig.store_answer("same", LIBRARY_TOO), rig.store_answer("near", LIBRARY)
    new = rig.store_answer("new", LIBRARY_TOO)
    rig.nearness = 0.2

    found = await rig.comparison.groups(new, [same, near], {near.group}, 0.99)

    assert found == {new.group}
    assert rig.store.log == []


@pytest.mark.parametrize("error", [Busy("closed"), SourceUnavailable("down")])
async def test_what_fails_is_told(rig: Rig, error: Exception) -> None:
    """It may not have been written down."""
    near, new = rig.store_answer("near", FEES), rig.store_answer("new", REWORDED)
    if isinstance(error, Busy):
        rig.error = error
    else:
        rig.store.is_down = True

    with pytest.raises(type(error)):
        await rig.comparison.groups(new, [near], set(), 0.0)
