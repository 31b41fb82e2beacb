"""The last vetoes: the same frame with another filling, or the same words in another order.

Looked at where nothing else speaks against two texts. How strictly, depends on what is known of
their language.

Pure: no clock, no chance, no I/O.
"""

from typing import Final

from embeddings.guards import words_languages as languages
from embeddings.guards.guard import Guard
from embeddings.guards.traits import Traits

_MOST_OTHER_WORDS: Final = 4
"""Two English texts are taken for one frame with another filling if they differ in no more words,
both texts' counted. Of Banking77's nearest neighbours (cosine of at least 0.8), 4 vetoes 1.8 % of
those with the same answer and 3.3 % of those with another (5: 2.6 and 5.0 %; any number: 8.5 and
12.5 %); on tests/embeddings/guards/pairs, all three find the same."""
_MOST_FILLING: Final = 2
_MOST_OTHER_CONTENT: Final = 4
_MOST_OTHER_CHARACTERS: Final = 4


def of_words(a: Traits, b: Traits) -> Guard | None:
    """Compare two English texts by what they are about."""
    if (_exchanged_goal(a.goals, b.goals, a.bag, b.bag)) or (
        _exchanged_goal(a.sources, b.sources, a.bag, b.bag)
    ):
        return Guard.COMPARISON if "than" in a.words and "than" in b.words else Guard.ORDER
    if a.content == b.content:
        if a.tense != b.tense and _other_tense(a, b):
            return Guard.TEMPORAL
        if a.people != b.people and a.people and b.people:
            return Guard.ORDER
        if _turned_round(a.words - b.words, b.words - a.words):
            return Guard.ORDER
        return Guard.ORDER if a.passive != b.passive and _by(a) != _by(b) else None
    if a.bag == b.bag:
        if "future" in (a.tense, b.tense) and _other_tense(a, b):
            return Guard.TEMPORAL
        if a.passive != b.passive:
            return None
        free = a.movable | b.movable
        if exchanged(a.movable, b.movable):
            free = a.movable & b.movable
        if not a.sources or not b.sources:
            # "The payment of my card" is "my card payment".
            free |= a.sources | b.sources
        one = [word for word in a.content if word not in free]
        other = [word for word in b.content if word not in free]
        if one == other or (_is_how_to(a) and _is_how_to(b) and _is_turned(one, other)):
            return None
        if len(a.words ^ b.words) > _MOST_OTHER_WORDS or not _one_has_moved(one, other):
            return None
        return Guard.COMPARISON if "than" in a.words and "than" in b.words else Guard.ORDER
    if len(a.words ^ b.words) <= _MOST_OTHER_WORDS and _another_slot(a.content, b.content):
        return Guard.SLOT
    return None


def _turned_round(a: frozenset[str], b: frozenset[str]) -> bool:
    """Return whether one has "from" for the other's "for", or "give" for "get"."""
    # "Can you give me" is "can I get".
    return (
        any(
            (one in a and other in b) or (one in b and other in a)
            for one, other in (("from", "for"), ("give", "get"))
        )
        and "you" not in a | b
    )


def _other_tense(a: Traits, b: Traits) -> bool:
    # "Will it cost" is "does it cost"; "why was it declined" is "why is it declined".
    tenses = {a.tense, b.tense}
    if "future" in tenses:
        return "past" in tenses or "perfect" in tenses
    return tenses == {"past", "present"} and "why" not in a.asks | b.asks


def _is_how_to(traits: Traits) -> bool:
    return "how" in traits.asks and traits.words.isdisjoint(("does", "did"))


def _is_turned(one: list[str], other: list[str]) -> bool:
    """Return whether `other` is the end of `one`, then its beginning."""
    return any(one[cut:] + one[:cut] == other for cut in range(1, min(len(one), 8)))


def _one_has_moved(one: list[str], other: list[str]) -> bool:
    """Return whether two words have changed places, or one stands elsewhere.

    Who does what to whom is turned round like this. Where more has moved, it is most often whole
    clauses, which may stand in any order.
    """
    if len(one) != len(other):
        return True
    start = 0
    while one[start] == other[start]:
        start += 1
    end = len(one) - 1
    while one[end] == other[end]:
        end -= 1
    first, second = one[start : end + 1], other[start : end + 1]
    return first[1:-1] == second[1:-1] or first[1:] == second[:-1] or first[:-1] == second[1:]


def _by(traits: Traits) -> bool:
    return "by" in traits.words


def _exchanged_goal(
    a: frozenset[str], b: frozenset[str], all_a: frozenset[str], all_b: frozenset[str]
) -> bool:
    if not a or not b or a == b or len(all_a ^ all_b) > _MOST_OTHER_CONTENT:
        return False
    return not (a - b).isdisjoint(all_b) and not (b - a).isdisjoint(all_a)


def _another_slot(a: tuple[str, ...], b: tuple[str, ...]) -> bool:
    """Return whether the two differ in one place, by at most two words, and share the rest."""
    shorter = min(len(a), len(b))
    start = 0
    while start < shorter and a[start] == b[start]:
        start += 1
    end = 0
    while end < shorter - start and a[-1 - end] == b[-1 - end]:
        end += 1
    one, other = a[start : len(a) - end], b[start : len(b) - end]
    return (
        0 < len(one) <= _MOST_FILLING
        and 0 < len(other) <= _MOST_FILLING
        and set(one).isdisjoint(other)
    )


def of_characters(a: Traits, b: Traits) -> Guard | None:
    """Compare two Chinese texts: names cannot be seen there, so nothing may be exchanged."""
    one, other = a.bag - _PEOPLE, b.bag - _PEOPLE
    if one != other:
        if exchanged(one, other) or len(one ^ other) > _MOST_OTHER_CHARACTERS:
            return Guard.SLOT
        # Chengdu is written with two function words: whose content is less, may hide one like it.
        if not (a.movable <= b.movable if one < other else b.movable <= a.movable):
            return Guard.SLOT
    first = "".join(sign for sign in a.content if sign in b.bag)
    second = "".join(sign for sign in b.content if sign in a.bag)
    if _is_within(first, second) or _is_within(second, first):
        return Guard.TEMPORAL if one == other and a.tense != b.tense else None
    # "How to cancel the order" may begin with either. Nobody acts there, so that roles cannot be
    # exchanged.
    if "how" in a.asks and "how" in b.asks and len(first) == len(second) and second in first * 2:
        return None
    return Guard.ORDER


def _is_within(short: str, long: str) -> bool:
    """Return whether `long` is `short` with more in between."""
    rest = iter(long)
    return all(sign in rest for sign in short)


_PEOPLE: Final = frozenset("我他她它们咱自己")


def of_unknown(a: Traits, b: Traits) -> Guard | None:
    """Compare two texts of any other language: no content may be exchanged, or move."""
    if a.content == b.content:
        return None
    if (a.language or b.language) not in languages.FUNCTION:
        return Guard.LANGUAGE
    if exchanged(a.bag, b.bag):
        return Guard.SLOT
    first = [word for word in a.content if word in b.bag]
    second = [word for word in b.content if word in a.bag]
    return None if first == second else Guard.ORDER


def exchanged(a: frozenset[str], b: frozenset[str]) -> bool:
    """Return whether each has what the other lacks."""
    return not (a <= b or b <= a)
