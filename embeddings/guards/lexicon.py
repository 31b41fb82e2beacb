"""What each English word is, worked out once: its stem, its axes, what it stands for.

A word that no list knows is content, under its stem.
"""

from functools import lru_cache
from typing import Final, NamedTuple

from embeddings.guards import words_grammar as grammar
from embeddings.guards import words_languages as languages
from embeddings.guards import words_meaning as meaning
from embeddings.guards import words_quantity as quantity
from embeddings.guards.word_lists import axes, firsts, groups


class Word(NamedTuple):
    """What is known of a word wherever it stands."""

    stem: str
    """What it is about; "" if it is a function word."""
    plus: int = 0
    minus: int = 0
    marks: tuple[tuple[str, str], ...] = ()
    bare: str = ""
    is_plain: bool = True
    """Whether nothing but what is above has to be known of it."""


_AXES: Final = axes(meaning.AXES)
PARTICLE_AXIS: Final = 1 << len(meaning.AXES.strip().splitlines())
"""Of "on" and "off", "in" and "out", behind such verbs as have one."""
HAN_AXES_FROM: Final = len(_AXES) + 8
"""The first bit of the axes of Chinese words."""
COMPARING_AXES: Final = sum(
    1 << bit
    for bit, line in enumerate(meaning.AXES.strip().splitlines())
    if line.split()[0] in ("more", "most", "above", "big", "better", "high")
)
_IRREGULAR: Final = firsts(meaning.IRREGULAR)
_CANONICAL: Final[dict[str, str]] = {}
for _group in (*groups(meaning.SYNONYMS), *groups(meaning.AXES)):
    for _member in _group:
        _CANONICAL.setdefault(_member, _CANONICAL.get(_group[0], _group[0]))
_MARKED: Final[dict[str, list[tuple[str, str]]]] = {}
for _kind, _values in (
    ("number", quantity.NUMBERS),
    ("weak", quantity.WEAK_NUMBERS),
    ("unit", quantity.UNITS),
    ("currency", quantity.CURRENCIES),
    ("date", quantity.DATES),
    ("time", quantity.TIMES),
    ("then", quantity.NOT_NOW),
    ("now", quantity.NOW),
):
    for _member, _value in _values.items():
        _MARKED.setdefault(_member, []).append((_kind, _value))
_KNOWN: Final = frozenset((*_AXES, *_CANONICAL, *_MARKED, *_IRREGULAR, *grammar.FUNCTION))
_UNDONE: Final = ("un", "in", "im", "il", "ir", "dis", "non", "de", "mis", "a", "anti")
_SPECIAL: Final = frozenset().union(
    languages.NEGATIONS["en"],
    grammar.ASKED_FOR,
    grammar.PAST,
    grammar.PRONOUNS,
    grammar.BE,
    grammar.BEHIND_A_LETTER,
    grammar.LOOSE,
    grammar.GOALS,
    grammar.TENSES,
    grammar.HOW,
    grammar.PARTICLE_VERBS,
    grammar.PARTICLES_UP,
    grammar.PARTICLES_DOWN,
    quantity.PERIODS,
    ("last", "next", "previous", "past", "this", "times"),
)


def _uninflected(word: str) -> str:
    """Return the known word of which `word` is a form, or its stem."""
    if word in _KNOWN:
        return _IRREGULAR.get(word, word)
    tries: list[str] = []
    for ending, repairs in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            rest = word[: -len(ending)]
            tries += [rest + repair for repair in repairs]
            if len(rest) > 3 and rest[-1] == rest[-2]:
                tries.append(rest[:-1])
    for form in tries:
        if form in _KNOWN:
            return _IRREGULAR.get(form, form)
    for ending in ("ing", "ies", "ied", "es", "ed", "ly", "s"):
        if word.endswith(ending) and len(word) - len(ending) >= 3 and not word.endswith("ss"):
            word = word[: -len(ending)] + ("i" if ending[0] == "i" and ending != "ing" else "")
            if len(word) > 3 and word[-1] == word[-2] and word[-1] not in "sl":
                word = word[:-1]
            break
    if len(word) > 3 and word[-1] in "ey":
        word = word[:-1] + ("i" if word[-1] == "y" else "")
    return word


_ENDINGS: Final = (
    ("s", ("",)),
    ("es", ("", "e")),
    ("ies", ("y",)),
    ("ied", ("y",)),
    ("ed", ("", "e")),
    ("ing", ("", "e")),
    ("ly", ("",)),
    ("er", ("", "e")),
    ("ation", ("", "e")),
    ("ion", ("", "e")),
    ("ment", ("",)),
    ("al", ("", "e")),
)


LONGEST_KEPT: Final = 32
"""Longer words are worked out each time, so that the cache stays small."""


@lru_cache(maxsize=32768)
def known_word(word: str) -> Word:
    """Return what is known of `word`, which is in lower case."""
    marks = tuple(_MARKED.get(word, ()))
    form = _uninflected(word)
    if not marks and form != word:
        marks = tuple(mark for mark in _MARKED.get(form, ()) if mark[0] in ("unit", "currency"))
    plus, minus = _AXES.get(word) or _AXES.get(form, (0, 0))
    if word in languages.NEGATIONS["en"] or word in grammar.FUNCTION or form in grammar.FUNCTION:
        return Word("", plus, minus, marks, is_plain=word not in _SPECIAL and not marks)
    bare = ""
    for prefix in _UNDONE:
        if word.startswith(prefix) and len(word) - len(prefix) >= 4:
            rest = _uninflected(word[len(prefix) :])
            bare = _CANONICAL.get(rest, rest)
            break
    stem = _CANONICAL.get(form, form)
    for kind, value in marks:
        stem = "" if kind in ("number", "weak", "then", "now", "time", "date") else value
    return Word(stem, plus, minus, marks, bare, word not in _SPECIAL and not marks)
