"""Vetoes between two questions that look alike to an encoder and have different answers.

An encoder hardly sees a changed figure, a "not", or two names that have changed places: such pairs
reach 0.95 to 0.99 by cosine. `traits` notes what of this kind a question has, once;
`conflict` tells whether two questions differ in it, and in which.

A veto that is wrong costs a hit. What no guard sees is left to the score: a passed pair is not
thereby the same question. What is not known here is treated more strictly, not less: in a Latin
script's other languages and in Chinese, no content may be exchanged for other; in any other script,
the words must be the same.

Pure: no clock, no chance, no I/O.
"""

import re
from itertools import zip_longest
from typing import Final

from embeddings.guards import words_quantity as quantity
from embeddings.guards.frame import exchanged, of_characters, of_unknown, of_words
from embeddings.guards.guard import Guard
from embeddings.guards.lexicon import COMPARING_AXES
from embeddings.guards.traits import Traits

_MOST_QUOTED: Final = 16


def conflict(asked: Traits, stored: Traits) -> Guard | None:
    """Return why the two questions may not share an answer, or None if nothing speaks against it.

    Symmetric. None for two texts that differ only in case, blanks and outer punctuation.
    """
    a, b = asked, stored
    if a.flags != b.flags:
        return Guard.CODE
    if a.key == b.key:
        return None
    if a.language != b.language and a.language and b.language:
        return Guard.LANGUAGE
    if a.figures != b.figures or _other_weak_number(a, b):
        return _kind_of_figures(a, b)
    if a.counted != b.counted and _countsexchanged(a.counted, b.counted):
        return Guard.NUMBERS
    if a.negations != b.negations and _one_is_negated(a, b):
        return Guard.NEGATION
    if a.negated != b.negated and not (
        (a.negated - b.negated).isdisjoint(b.bag) or (b.negated - a.negated).isdisjoint(a.bag)
    ):
        return Guard.NEGATION
    if a.units != b.units and exchanged(a.units, b.units):
        return Guard.UNITS
    if a.currencies != b.currencies and exchanged(a.currencies, b.currencies):
        return Guard.CURRENCIES
    if a.dates != b.dates:
        return Guard.DATES
    if a.times != b.times:
        return Guard.TIMES
    if a.temporal != b.temporal and _differ_in_time(a.temporal, b.temporal):
        return Guard.TEMPORAL
    if (a.plus & ~b.plus & b.minus & ~a.minus) | (b.plus & ~a.plus & a.minus & ~b.minus):
        return _kind_of_axis(a, b)
    if a.bare != b.bare and not (
        (a.bare - b.bare).isdisjoint(b.bag - a.bag) and (b.bare - a.bare).isdisjoint(a.bag - b.bag)
    ):
        return Guard.ANTONYM
    if a.code != b.code:
        return Guard.CODE
    if a.quoted != b.quoted and (_lacks(a.quoted, b) or _lacks(b.quoted, a)):
        return Guard.QUOTED
    if a.names != b.names and _other_names(a, b):
        return Guard.NAMES
    if not (a.fixed <= b.words and b.fixed <= a.words):
        return Guard.NAMES
    if a.asks and b.asks and a.asks.isdisjoint(b.mentions) and b.asks.isdisjoint(a.mentions):
        return Guard.QUESTION
    language = a.language or b.language
    if language == "zh":
        return of_characters(a, b)
    if language in ("", "en"):
        return of_words(a, b)
    return of_unknown(a, b)


def _one_is_negated(a: Traits, b: Traits) -> bool:
    if "zh" in (a.language, b.language):
        return True
    # Who writes two sentences for one, says "not" twice.
    return not a.negations or not b.negations


def _other_weak_number(a: Traits, b: Traits) -> bool:
    if a.weak_numbers == b.weak_numbers:
        return False
    # "First" and "twice" say nothing of each other.
    one = {number[0] if number[0] in "#x" else "" for number in a.weak_numbers - b.weak_numbers}
    other = {number[0] if number[0] in "#x" else "" for number in b.weak_numbers - a.weak_numbers}
    return not one.isdisjoint(other)


def _countsexchanged(a: frozenset[str], b: frozenset[str]) -> bool:
    """Return whether the same things are counted, otherwise: "2 cats, 1 dog", "1 cat, 2 dogs"."""
    return {each.partition(" ")[2] for each in a} == {each.partition(" ")[2] for each in b}


def _other_names(a: Traits, b: Traits) -> bool:
    return not (a.names <= b.words and b.names <= a.words)


def _lacks(quoted: tuple[str, ...], other: Traits) -> bool:
    return len(quoted) > _MOST_QUOTED or any(
        text not in other.quoted and (other.quoted or text not in other.key) for text in quoted
    )


def _differ_in_time(a: frozenset[str], b: frozenset[str]) -> bool:
    # "Now" is what a question means that names no time.
    return exchanged(a, b) or not (a ^ b <= _NOW)


_NOW: Final = frozenset(quantity.NOW.values()) | frozenset(("现在", "目前", "当前"))


def _kind_of_figures(a: Traits, b: Traits) -> Guard:
    pairs = zip_longest(a.figures, b.figures, fillvalue="")
    pair = next(((one, other) for one, other in pairs if one != other), ("", ""))
    if any(":" in figure for figure in pair):
        return Guard.TIMES
    if any(_DATE.fullmatch(figure) for figure in pair):
        return Guard.DATES
    if any(figure in a.versions | b.versions or figure.count(".") > 1 for figure in pair):
        return Guard.VERSIONS
    if any(_CODE.fullmatch(figure) for figure in pair):
        return Guard.CODE
    if a.dates and b.dates:
        return Guard.DATES
    return Guard.TIMES if a.times and b.times else Guard.NUMBERS


_DATE: Final = re.compile(r"(?:1[0-9]|20)[0-9][0-9]|[^-]*-[^-]*-[^-]*|[^/]*/[^/]*/[^/]*")
_CODE: Final = re.compile(r"[a-z][a-z.-]*[0-9].*", re.DOTALL)


def _kind_of_axis(a: Traits, b: Traits) -> Guard:
    split = (a.plus & ~b.plus & b.minus & ~a.minus) | (b.plus & ~a.plus & a.minus & ~b.minus)
    return (
        Guard.COMPARISON if split & COMPARING_AXES or "than" in a.words | b.words else Guard.ANTONYM
    )
