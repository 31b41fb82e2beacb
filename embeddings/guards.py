"""Vetoes between two questions that look alike to an encoder and have different answers.

An encoder hardly sees a changed figure, a "not", or two names that have changed places: such pairs
reach 0.95 to 0.99 by cosine. `traits` notes what of this kind a question has, once; `conflict`
tells whether two questions differ in it, and in which.

A guard that is wrong costs a hit, never a wrong answer. What is not known here is treated more
strictly, not less: in a Latin script's other languages and in Chinese, no content may be exchanged
for other; in any other script, the words must be the same.

Pure: no clock, no chance, no I/O. Every text takes time proportional to its length.
"""

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from itertools import zip_longest
from typing import Final, NamedTuple

from embeddings import guard_words as lists


class Guard(StrEnum):
    """Why two questions may not share an answer."""

    NUMBERS = "numbers"
    DATES = "dates"
    TIMES = "times"
    UNITS = "units"
    VERSIONS = "versions"
    CURRENCIES = "currencies"
    NEGATION = "negation"
    ANTONYM = "antonym"
    QUOTED = "quoted"
    CODE = "code"
    """Identifiers, paths, addresses, flags, operators."""
    NAMES = "names"
    SLOT = "slot"
    """The same frame with other words in one place."""
    ORDER = "order"
    """The same words in another order, or with "from" and "to" exchanged."""
    QUESTION = "question"
    COMPARISON = "comparison"
    TEMPORAL = "temporal"
    LANGUAGE = "language"
    """Another language, or other words in a script whose words are not known here."""


MOST_OTHER_WORDS: Final = 4
"""Two English texts are taken for one frame with another filling if they differ in no more words,
both texts' counted. Of Banking77's nearest neighbours (cosine of at least 0.8), 4 vetoes 1.8 % of
those with the same answer and 3.3 % of those with another (5: 2.6 and 5.0 %; any number: 8.5 and
12.5 %); on tests/embeddings/pairs, all three find the same."""
_MOST_FILLING: Final = 2
_MOST_OTHER_CONTENT: Final = 4
_MOST_OTHER_CHARACTERS: Final = 4
_MOST_QUOTED: Final = 16

_NONE: Final[frozenset[str]] = frozenset()


@dataclass(frozen=True, slots=True)
class Traits:
    """What a text has that another must have too, to be answered alike.

    Attributes:
        key: The text without regard to case, blanks and outer punctuation.
        language: "en", "de", …, "zh"; the name of a script; "" if it cannot be told.
        words: Every word in lower case; in Chinese, every Latin one.
        content: What it is about: stems in order, function words left out; in Chinese, characters.
        bag: The same, as a set.
        movable: Those of it that may stand anywhere in a sentence ("in Python", "today"); in
            Chinese, characters left out of `content` that may yet be part of a name.
        goals: Those of it behind "to", "into", "than", "by".
        sources: Those of it behind "from".
        people: Pronouns in their order, where one is of the third person.
        passive: How many forms of "be" there are.
        figures: Numbers, dates, versions, in their order.
        versions: Those of `figures` that belong to a name.
        counted: Numbers with what they count ("2 cat").
        weak_numbers: "one", "first", "once", …
        negations: How many.
        negated: What they stand before.
        plus: A bit for every axis of `guard_words.AXES` of which one end is named.
        minus: The same for the other end.
        bare: Words without their "un-", "in-", "dis-".
        quoted: What stands in quotation marks.
        code: Identifiers, paths, addresses, operators.
        flags: One-letter options; the only thing whose case counts.
        names: Words with a capital inside a sentence.
        fixed: Words that the other text must have: iPhone, and Latin ones in a Chinese text.
        asks: Kinds of question: who, when, how, …
        mentions: The same, embedded ones included.
        tense: Of its first auxiliary verb.
        units, currencies, dates, times, temporal: As named, each in one spelling.
    """

    key: str
    language: str
    words: frozenset[str]
    content: tuple[str, ...]
    bag: frozenset[str]
    movable: frozenset[str]
    goals: frozenset[str]
    sources: frozenset[str]
    people: tuple[str, ...]
    passive: int
    figures: tuple[str, ...]
    versions: frozenset[str]
    counted: frozenset[str]
    weak_numbers: frozenset[str]
    negations: int
    negated: frozenset[str]
    plus: int
    minus: int
    bare: frozenset[str]
    quoted: tuple[str, ...]
    code: frozenset[str]
    flags: frozenset[str]
    names: frozenset[str]
    fixed: frozenset[str]
    asks: frozenset[str]
    mentions: frozenset[str]
    tense: str
    units: frozenset[str]
    currencies: frozenset[str]
    dates: frozenset[str]
    times: frozenset[str]
    temporal: frozenset[str]


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
    if a.counted != b.counted and _counts_exchanged(a.counted, b.counted):
        return Guard.NUMBERS
    if a.negations != b.negations and _one_is_negated(a, b):
        return Guard.NEGATION
    if a.negated != b.negated and not (
        (a.negated - b.negated).isdisjoint(b.bag) or (b.negated - a.negated).isdisjoint(a.bag)
    ):
        return Guard.NEGATION
    if a.units != b.units and _exchanged(a.units, b.units):
        return Guard.UNITS
    if a.currencies != b.currencies and _exchanged(a.currencies, b.currencies):
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
        return _of_characters(a, b)
    if language in ("", "en"):
        return _of_words(a, b)
    return _of_unknown(a, b)


def _one_is_negated(a: Traits, b: Traits) -> bool:
    if "zh" in (a.language, b.language):
        return True
    # Who writes two sentences for one, says "not" twice.
    return not a.negations or not b.negations


def _exchanged(a: frozenset[str], b: frozenset[str]) -> bool:
    """Return whether each has what the other lacks."""
    return not (a <= b or b <= a)


def _other_weak_number(a: Traits, b: Traits) -> bool:
    if a.weak_numbers == b.weak_numbers:
        return False
    # "First" and "twice" say nothing of each other.
    one = {number[0] if number[0] in "#x" else "" for number in a.weak_numbers - b.weak_numbers}
    other = {number[0] if number[0] in "#x" else "" for number in b.weak_numbers - a.weak_numbers}
    return not one.isdisjoint(other)


def _counts_exchanged(a: frozenset[str], b: frozenset[str]) -> bool:
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
    return _exchanged(a, b) or not (a ^ b <= _NOW)


_NOW: Final = frozenset(lists.NOW.values()) | frozenset(("现在", "目前", "当前"))


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
    return Guard.COMPARISON if split & _COMPARING or "than" in a.words | b.words else Guard.ANTONYM


def _of_words(a: Traits, b: Traits) -> Guard | None:
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
        return Guard.ORDER if a.passive != b.passive and _by(a) != _by(b) else None
    if a.bag == b.bag:
        if "future" in (a.tense, b.tense) and _other_tense(a, b):
            return Guard.TEMPORAL
        if a.passive != b.passive:
            return None
        free = a.movable | b.movable
        if _exchanged(a.movable, b.movable):
            free = a.movable & b.movable
        if not a.sources or not b.sources:
            # "The payment of my card" is "my card payment".
            free |= a.sources | b.sources
        one = [word for word in a.content if word not in free]
        other = [word for word in b.content if word not in free]
        if one == other or (_is_how_to(a) and _is_how_to(b) and _is_turned(one, other)):
            return None
        if len(a.words ^ b.words) > MOST_OTHER_WORDS or not _one_has_moved(one, other):
            return None
        return Guard.COMPARISON if "than" in a.words and "than" in b.words else Guard.ORDER
    if len(a.words ^ b.words) <= MOST_OTHER_WORDS and _another_slot(a.content, b.content):
        return Guard.SLOT
    return None


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


def _of_characters(a: Traits, b: Traits) -> Guard | None:
    """Compare two Chinese texts: names cannot be seen there, so nothing may be exchanged."""
    one, other = a.bag - _PEOPLE, b.bag - _PEOPLE
    if one != other:
        if _exchanged(one, other) or len(one ^ other) > _MOST_OTHER_CHARACTERS:
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


def _of_unknown(a: Traits, b: Traits) -> Guard | None:
    if a.content == b.content:
        return None
    if (a.language or b.language) not in lists.LANGUAGES:
        return Guard.LANGUAGE
    if _exchanged(a.bag, b.bag):
        return Guard.SLOT
    first = [word for word in a.content if word in b.bag]
    second = [word for word in b.content if word in a.bag]
    return None if first == second else Guard.ORDER


# What each word is, worked out once.


class _Word(NamedTuple):
    stem: str
    """What it is about; "" if it is a function word."""
    plus: int = 0
    minus: int = 0
    marks: tuple[tuple[str, str], ...] = ()
    bare: str = ""
    is_plain: bool = True
    """Whether nothing but what is above has to be known of it."""


def _groups(lines: str) -> Iterable[list[str]]:
    for line in lines.strip().splitlines():
        for group in line.split("|"):
            yield group.split()


def _axes(lines: str) -> dict[str, tuple[int, int]]:
    masks: dict[str, tuple[int, int]] = {}
    for bit, line in enumerate(lines.strip().splitlines()):
        plus, minus = (end.split() for end in line.split("|"))
        for word in plus:
            up, down = masks.get(word, (0, 0))
            masks[word] = (up | 1 << bit, down)
        for word in minus:
            up, down = masks.get(word, (0, 0))
            masks[word] = (up, down | 1 << bit)
    return masks


_AXES: Final = _axes(lists.AXES)
_PARTICLE_AXIS: Final = 1 << len(lists.AXES.strip().splitlines())
_COMPARING: Final = sum(
    1 << bit
    for bit, line in enumerate(lists.AXES.strip().splitlines())
    if line.split()[0] in ("more", "most", "above", "big", "better", "high")
)
_IRREGULAR: Final = {word: group[0] for group in _groups(lists.IRREGULAR) for word in group}
_CANONICAL: Final[dict[str, str]] = {}
for _group in (*_groups(lists.SYNONYMS), *_groups(lists.AXES)):
    for _member in _group:
        _CANONICAL.setdefault(_member, _CANONICAL.get(_group[0], _group[0]))
_NEGATIONS: Final = {
    language: frozenset(words.split()) for language, words in lists.NEGATIONS.items()
}
_LANGUAGES: Final = {
    language: frozenset(words.split()) for language, words in lists.LANGUAGES.items()
}
_MARKED: Final[dict[str, list[tuple[str, str]]]] = {}
for _kind, _words in (
    ("number", lists.NUMBERS),
    ("weak", lists.WEAK_NUMBERS),
    ("unit", lists.UNITS),
    ("currency", lists.CURRENCIES),
    ("date", lists.DATES),
    ("time", lists.TIMES),
    ("then", lists.NOT_NOW),
    ("now", lists.NOW),
):
    for _member, _value in _words.items():
        _MARKED.setdefault(_member, []).append((_kind, _value))
_KNOWN: Final = frozenset((*_AXES, *_CANONICAL, *_MARKED, *_IRREGULAR, *lists.FUNCTION))
_UNDONE: Final = ("un", "in", "im", "il", "ir", "dis", "non", "de", "mis", "a", "anti")
_VOWELS: Final = "aeiouy"


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


_LONGEST_KEPT: Final = 32


@lru_cache(maxsize=32768)
def _word(word: str) -> _Word:
    marks = tuple(_MARKED.get(word, ()))
    form = _uninflected(word)
    if not marks and form != word:
        marks = tuple(mark for mark in _MARKED.get(form, ()) if mark[0] in ("unit", "currency"))
    plus, minus = _AXES.get(word) or _AXES.get(form, (0, 0))
    if word in _NEGATIONS["en"] or word in lists.FUNCTION or form in lists.FUNCTION:
        return _Word("", plus, minus, marks, is_plain=word not in _SPECIAL and not marks)
    bare = ""
    for prefix in _UNDONE:
        if word.startswith(prefix) and len(word) - len(prefix) >= 4:
            rest = _uninflected(word[len(prefix) :])
            bare = _CANONICAL.get(rest, rest)
            break
    stem = _CANONICAL.get(form, form)
    for kind, value in marks:
        stem = "" if kind in ("number", "weak", "then", "now", "time", "date") else value
    return _Word(stem, plus, minus, marks, bare, word not in _SPECIAL and not marks)


_HAN: Final = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff〇"
_RUN: Final = re.compile(f"[{_HAN}]+|[^\\s{_HAN}]+")
_HAS_HAN: Final = re.compile(f"[{_HAN}]")
_QUOTED: Final = re.compile(
    r"\"([^\"\n]+)\"|`([^`\n]+)`|(?<!\w)'([^'\n]+)'(?!\w)"
    r"|«([^«»]+)»|「([^「」]+)」|『([^『』]+)』|《([^《》]+)》"
)
_PLAIN: Final = str.maketrans(
    {"’": "'", "‘": "'", "“": '"', "”": '"', "„": '"', "−": "-", "–": "-"}
)
_PLAIN_HAN: Final = _PLAIN | {ord(old): new for old, new in lists.HAN_TRADITIONAL.items()}
_OUTER: Final = " \"'`.,;:!?()[]{}“”„«»「」『』《》、。…¿¡*"
_OPERATORS: Final = frozenset(lists.words("< > <= >= == != = && || | + ** ^ -> => << >> ++ ??"))
_CODE_SIGNS: Final = re.compile(r"[_/\\@=<>|&#+$~^%]|\w\.\w|::|\(\)")
_FIGURE: Final = re.compile(r"(\W*)([0-9][0-9.,]*)(st|nd|rd|th)?([^\W\d_]*|%|°[cf]?|[$£€¥])")
_PIECES: Final = re.compile(r"[^\W_]+(?:'[^\W_]+)*")
_DOTTED: Final = re.compile(r"(?:[^\W\d_]\.)+[^\W\d_]")
_BEHIND_A_LETTER: Final = frozenset(
    lists.words("from to and or is by implies equals times plus minus")
)
_PAST: Final = frozenset(lists.PAST.split())
_MENTAL: Final = frozenset(
    lists.words("know understand sure remember certain see clear figure idea tell")
)
_ASKED_FOR: Final = frozenset(lists.words("why how what where when who which if whether that"))
_AUXILIARY: Final = frozenset(
    lists.words(
        "is are am was were do does did can could will would should shall has have had may"
        " might must 's"
    )
)
_THIRD: Final = frozenset(lists.words("he him she her they them his hers their"))
_PRONOUNS: Final = _THIRD | frozenset(lists.words("i me we us you my your our"))
_BE: Final = frozenset(
    lists.words("be is are was were been being am get gets got getting isn't aren't wasn't")
)
_PARTICLES_UP, _PARTICLES_DOWN = (frozenset(end.split()) for end in lists.PARTICLES.split("|"))
_LOOSE: Final = lists.MOVABLE | lists.SOURCES
_SPECIAL: Final = frozenset().union(
    _NEGATIONS["en"],
    _ASKED_FOR,
    _PAST,
    _PRONOUNS,
    _BE,
    _BEHIND_A_LETTER,
    _LOOSE,
    lists.GOALS,
    lists.TENSES,
    lists.HOW,
    lists.PARTICLE_VERBS,
    _PARTICLES_UP,
    _PARTICLES_DOWN,
    lists.PERIODS,
    ("last", "next", "previous", "past", "this", "times"),
)


def traits(text: str) -> Traits:
    """Return what `text` has that the guards compare. Any text will do, the empty one too."""
    plain = text.translate(_PLAIN) if text.isascii() else _plain(text)
    reader = _Reader()
    reader.key = " ".join(plain.casefold().split()).strip(_OUTER)
    script = "" if plain.isascii() else _script(plain)
    if script == "zh":
        plain = plain.translate(_PLAIN_HAN)
        for run in _RUN.findall(plain):
            if _HAS_HAN.match(run):
                reader.read_han(run)
            else:
                reader.read_chunk(run)
    else:
        for chunk in plain.split():
            reader.read_chunk(chunk)
    quoted: tuple[str, ...] = ()
    if '"' in plain or "'" in plain or "`" in plain or not plain.isascii():
        quoted = tuple(
            content
            for found in _QUOTED.findall(plain)
            if (content := " ".join("".join(found).casefold().split()).strip(_OUTER))
        )
    return reader.traits(script, quoted)


def _plain(text: str) -> str:
    return unicodedata.normalize("NFKC", text).translate(_PLAIN)


@lru_cache(maxsize=4096)
def _script_of_letter(letter: str) -> str:
    """Return "" for a Latin letter and for what is none, "zh" for Han, else a name."""
    if not letter.isalpha() or letter == "\u03bc":
        return ""
    if _HAS_HAN.match(letter):
        return "zh"
    script = unicodedata.name(letter, "UNNAMED").split()[0]
    return "" if script in ("LATIN", "MODIFIER") else script


def _script(text: str) -> str:
    scripts = {_script_of_letter(letter) for letter in set(text)} - {""}
    if not scripts:
        return ""
    # Japanese has Han characters and others.
    return "zh" if scripts == {"zh"} else min(scripts - {"zh"})


class _Reader:
    """Reads one text from its beginning to its end, and notes."""

    def __init__(self) -> None:
        self.key = ""
        self.words: list[str] = []
        self.content: list[str] = []
        self.joined: list[int] = []
        self.movable: set[str] = set()
        self.goals: set[str] = set()
        self.sources: set[str] = set()
        self.people: list[str] = []
        self.passive = 0
        self.figures: list[str] = []
        self.versions: set[str] = set()
        self.counted: set[str] = set()
        self.to_count = ""
        self.weak: set[str] = set()
        self.negations = 0
        self.negated: set[str] = set()
        self.is_negated = False
        self.plus = 0
        self.minus = 0
        self.bare: set[str] = set()
        self.code: set[str] = set()
        self.flags: set[str] = set()
        self.names: set[str] = set()
        self.fixed: set[str] = set()
        self.capitals = 0
        self.questions: list[tuple[str, bool]] = []
        self.tense = ""
        self.marks: dict[str, set[str]] = {}
        self.previous = ""
        self.previous_was_name = False
        self.after_number = False
        self.is_first = True
        self.role = ""
        self.pending = ""
        self.has_particle_verb = False
        self.particles: list[str] = []
        self.is_how = False
        self.is_ordinal = False
        self.is_owner = False
        self.waits_for_auxiliary = ""
        self.tense_han = ""

    def read_chunk(self, chunk: str) -> None:
        """Read what stands between two blanks."""
        core = chunk.strip(_OUTER)
        if not self.words and core in ("No", "no") and chunk[-1] == ",":
            # The answer to a question before.
            return
        if core.isalpha():
            self.word(core)
        elif core:
            self.mixed(core, chunk)
        elif chunk in _OPERATORS:
            self.code.add(chunk)
        if chunk[-1] in ".!?:;\n。":
            self.is_first = True

    def mixed(self, core: str, chunk: str) -> None:
        if "!=" in chunk or chunk in _OPERATORS:
            self.code.add(chunk)
            return
        if not any(map(str.isalnum, core)):
            if core in _OPERATORS:
                self.code.add(core)
            elif core in lists.CURRENCIES:
                self.mark("currency", lists.CURRENCIES[core])
            elif core in lists.UNITS:
                self.mark("unit", lists.UNITS[core])
            return
        if core[0] == "-" and len(core) > 1 and (core[1] == "-" or core[1].isalpha()):
            if len(core) == 2 and core[1].isalpha():
                self.flags.add(core)
            else:
                self.code.add(core.casefold())
            return
        if any(map(str.isdigit, core)):
            self.figure(core.casefold())
            return
        if _DOTTED.fullmatch(core):
            self.word(core.replace(".", ""))
            return
        if _CODE_SIGNS.search(core) and not self.is_two_words(core):
            self.code.add(core.casefold().removesuffix("()"))
            self.words.append(core.casefold())
            self.is_first = False
            return
        for piece in _PIECES.findall(core):
            self.word(piece)

    @staticmethod
    def is_two_words(core: str) -> bool:
        """Return whether `core` is "and/or", "end.Begin" or "a&b"."""
        pieces = _PIECES.findall(core)
        if len(pieces) != 2 or len("".join(pieces)) + 1 != len(core):
            return False
        if "." in core:
            return pieces[1].casefold() in lists.FUNCTION or (
                pieces[0].islower() and pieces[1].istitle() and len(pieces[0]) > 2
            )
        return "/" in core or "&" in core

    def mark(self, kind: str, value: str) -> None:
        self.marks.setdefault(kind, set()).add(value)

    def number(self, value: str) -> None:
        if self.previous_was_name or self.previous == "version":
            self.versions.add(value)
        self.figures.append(value)
        self.to_count = value
        self.after_number = True
        self.previous = value
        self.previous_was_name = False
        if self.questions and self.questions[-1][0] == "amount" and len(self.words) < 4:
            # "How much is 3 plus 4" asks what it is.
            self.questions[-1] = ("what", True)
        self.is_how = False
        self.role = ""
        self.is_first = False

    def figure(self, core: str) -> None:
        """Read a chunk with a digit in it."""
        if core in lists.DATES or core[-3:] in lists.DATES:
            self.mark("date", lists.DATES.get(core) or lists.DATES[core[-3:]])
            return
        found = _FIGURE.fullmatch(core)
        if found is None:
            self.number(core)
            self.words.append(core)
            return
        before, digits, ordinal, after = found.groups()
        value = digits.rstrip(".,").replace(",", "") or digits
        for sign in before:
            if sign in lists.CURRENCIES:
                self.mark("currency", lists.CURRENCIES[sign])
        if before.endswith("-"):
            value = "-" + value
        if ordinal:
            value = "#" + value
        if after in lists.CURRENCIES:
            self.mark("currency", lists.CURRENCIES[after])
            after = ""
        unit = after.replace("°", "")
        known = _word(unit).marks if unit else ()
        if unit and not known:
            value += unit
        self.number(value)
        for kind, name in known:
            self.mark(kind, name)
        if after in ("%", "°"):
            self.mark("unit", lists.UNITS[after])

    def word(self, word: str) -> None:
        """Read a word: letters, and apostrophes between them."""
        low = word.casefold()
        if "'" in low:
            if low.endswith("n't"):
                self.negations += 1
                self.is_negated = True
                low = {"ca": "can", "wo": "will", "sha": "shall"}.get(low[:-3], low[:-3])
                word = low
                if self.tense == "" and low == "will":
                    self.tense = "future"
            else:
                low, _, ending = low.partition("'")
                if ending == "ll" and not self.tense:
                    self.tense = "future"
                elif ending == "s" and low in lists.QUESTION:
                    self.note(low, word[: len(low)])
                    self.note("is", "is")
                    return
                elif ending == "s":
                    self.note(low, word[: len(low)])
                    self.is_owner = bool(_word(low).stem) and bool(self.content)
                    return
            word = word[: len(low)]
        self.note(low, word)

    def note(self, low: str, word: str) -> None:
        low = lists.ALIASES.get(word, low)
        self.words.append(low)
        entry = _word(low) if len(low) <= _LONGEST_KEPT else _word.__wrapped__(low)
        is_name = word != low and not word.islower() and self.is_name(low, word, entry)
        if is_name:
            self.names.add(low)
        self.is_first = False
        self.plus |= entry.plus
        self.minus |= entry.minus
        if entry.bare:
            self.bare.add(entry.bare)
        if entry.is_plain:
            self.pending = ""
            stem = entry.stem
        else:
            stem = self.special(low, word, entry)
        if self.is_how or self.waits_for_auxiliary or low in lists.QUESTION:
            self.question(low)
        if entry.marks and entry.marks[0][0] == "number":
            return
        if stem:
            self.about(stem)
        self.previous = low
        self.previous_was_name = is_name
        if not entry.is_plain and (low in lists.GOALS or low in _LOOSE):
            self.role = low
        if low not in ("a", "of"):
            self.after_number = False

    def is_name(self, low: str, word: str, entry: _Word) -> bool:
        """Return whether a word with a capital is a name; note if it must stand in the other."""
        if word[0].isupper():
            self.capitals += 1
            if low in lists.NAMELESS or low in lists.FUNCTION:
                return False
        is_mixed = not word.isupper() and any(map(str.isupper, word[1:]))
        if is_mixed:
            # iPhone, getValue, GitHub
            self.fixed.add(low)
        elif self.is_first and not (len(word) > 1 and word.isupper()):
            return False
        return not entry.marks or entry.marks[0][0] not in ("date", "currency", "unit", "time")

    def special(self, low: str, word: str, entry: _Word) -> str:
        """Note what a word of one of the lists does; return what it is about, if anything."""
        if low in _NEGATIONS["en"] and self.previous != "or":
            self.negations += 1
            self.is_negated = True
        elif self.is_negated and low in _ASKED_FOR and self.previous in _MENTAL:
            # "I do not know why" asks why.
            self.negations -= 1
            self.is_negated = False
        elif low == "to" and self.previous in ("fail", "fails", "failed"):
            self.negations += 1
            self.is_negated = True
        stem = self.marked(low, word, entry, entry.stem) if entry.marks else entry.stem
        if not self.tense:
            self.tense = lists.TENSES.get(low) or ("perfect" if low in _PAST else "")
        if low in _PRONOUNS:
            if low == "you" and self.previous in ("do", "will"):
                # "Do you know" and "will you tell me" are not what is asked.
                self.tense = ""
            self.people.append(low)
        elif low in _BE:
            self.passive += 1
        elif low in lists.PARTICLE_VERBS:
            self.has_particle_verb = True
        elif low in _PARTICLES_UP or low in _PARTICLES_DOWN:
            self.particles.append(low)
        if low == "times" and self.after_number and self.figures:
            # "Two times" is twice.
            self.weak.add("x" + self.figures.pop())
        if self.pending and low in lists.PERIODS:
            self.mark("then", self.pending)
        self.pending = low if low in ("last", "next", "previous", "past", "this") else ""
        if self.previous == "a" and low in _BEHIND_A_LETTER:
            # The variable, not the article: "subtract a from b".
            self.about("a")
        return "" if self.is_how and low in lists.HOW else stem

    def about(self, stem: str) -> None:
        if self.previous in ("and", "or", "vs", "versus") and self.content:
            self.joined.append(len(self.content))
        if self.content and not self.role and self.previous not in lists.FUNCTION:
            # "On a card payment": what is said of one word of a compound, is said of all.
            for role in (self.movable, self.goals, self.sources):
                if self.content[-1] in role:
                    role.add(stem)
        self.content.append(stem)
        if self.to_count:
            self.counted.add(f"{self.to_count} {stem}")
            self.to_count = ""
        if self.is_negated:
            self.negated.add(stem)
            self.is_negated = False
        if self.is_owner:
            # "Brazil's president" is the president of Brazil.
            self.is_owner = False
            self.content[-2:] = self.content[:-3:-1]
        if self.role:
            if self.role in lists.GOALS:
                self.goals.add(stem)
            elif self.role in lists.SOURCES:
                self.sources.add(stem)
            else:
                self.movable.add(stem)
            self.role = ""

    def marked(self, low: str, word: str, entry: _Word, stem: str) -> str:
        """Note what a word of the lists stands for; return what it is about."""
        for kind, value in entry.marks:
            if kind == "number":
                self.number_word(value)
            elif kind == "weak":
                if self.figures and self.previous.endswith("0") and value == "1":
                    self.number_word(value)
                else:
                    self.weak.add(value)
                    self.to_count = value
            elif kind == "unit":
                if low in lists.SHORT_UNITS and not self.after_number:
                    if len(entry.marks) == 1:
                        stem = "" if low in lists.FUNCTION else low
                    continue
                self.mark(kind, value)
            elif kind == "date":
                if (
                    low not in lists.CAPITAL_DATES
                    or self.after_number
                    or self.previous in ("in", "on", "of", "until", "since", "next", "last", "this")
                    or (word[0].isupper() and self.previous)
                ):
                    self.mark(kind, value)
                elif low not in lists.FUNCTION:
                    stem = low
            elif kind in ("then", "now"):
                if low in ("last", "next", "previous", "past", "this"):
                    continue
                self.mark(kind, value)
            elif kind == "time" and low in ("am", "ist", "est", "pst"):
                if self.after_number or word.isupper():
                    self.mark(kind, value)
            elif kind == "time" and self.previous == "good" and len(self.words) == 2:
                # A greeting.
                self.plus = self.minus = 0
                self.content.clear()
                stem = ""
            else:
                self.mark(kind, value)
        return stem

    def number_word(self, value: str) -> None:
        """Add a number written out: "twenty one", "two hundred", "two dozen"."""
        if self.figures and self.previous == self.figures[-1] and value.isdecimal():
            last = self.previous
            if last.isdecimal():
                one, two = int(last[-18:]), int(value)
                if two >= 100 or two == 12:
                    self.figures.pop()
                    value = str(one * two)
                elif one % 10 == 0 and 0 < two < 10 <= one:
                    self.figures.pop()
                    value = str(one + two)
        self.number(value)

    def question(self, low: str) -> None:
        if self.is_how:
            self.is_how = False
            self.questions.append((lists.HOW.get(low, "how"), True))
            if low in ("is", "are", "was"):
                self.questions.append(("what", True))
        if self.waits_for_auxiliary:
            self.questions.append((self.waits_for_auxiliary, low in _AUXILIARY))
            self.waits_for_auxiliary = ""
        kind = lists.QUESTION.get(low)
        if kind is None:
            return
        if kind == "how":
            self.is_how = True
        elif kind in ("when", "where"):
            self.waits_for_auxiliary = kind
        elif kind in ("who", "what"):
            self.questions.append((kind, not self.content or self.previous in lists.FUNCTION))
        else:
            self.questions.append((kind, True))

    def read_han(self, run: str) -> None:
        """Read characters, the longest known phrase first."""
        index = 0
        while index < len(run):
            for length in range(_LONGEST_FROM.get(run[index], 0), 0, -1):
                phrase = run[index : index + length]
                entry = _HAN_WORDS.get(phrase)
                if entry is not None:
                    break
            else:
                phrase, entry = run[index], None
            index += len(phrase)
            if phrase in _HAN_NUMERALS and not (phrase == "两" and self.after_number):
                end = index
                while end < len(run) and run[end] in _HAN_NUMERALS:
                    end += 1
                self.han_number(run[index - 1 : end])
                index = end
                continue
            if phrase == "第":
                self.is_ordinal = True
                continue
            self.is_ordinal = False
            if entry is None:
                self.content.extend(phrase)
            else:
                self.plus |= entry.plus
                self.minus |= entry.minus
                self.content.extend(entry.stem)
                if (
                    len(phrase) == 1
                    and phrase not in lists.HAN_PARTICLES
                    and not (entry.stem or entry.marks)
                ):
                    self.movable.update(phrase)
                for kind, value in entry.marks:
                    if kind == "negation":
                        self.negations += 1
                    elif kind == "question":
                        self.questions.append((value, True))
                    elif kind == "tense":
                        self.tense_han = value
                    else:
                        self.mark(kind, value)
            self.after_number = False
        self.previous = ""
        self.is_first = False

    def han_number(self, numerals: str) -> None:
        if numerals == "一" and not self.is_ordinal:
            self.weak.add("1")
            return
        value = _han_value(numerals)
        self.number("#" + value if self.is_ordinal else value)
        self.previous_was_name = False

    def switch(self) -> None:
        """Take "turn it off" and "switch it off" for "disable it"."""
        verb = next((verb for verb in ("turn", "switch") if verb in self.content), None)
        if verb is None or ("on" in self.particles) == ("off" in self.particles):
            return
        word = _word("enable" if "on" in self.particles else "disable")
        self.content[self.content.index(verb)] = word.stem
        self.plus |= word.plus
        self.minus |= word.minus

    def traits(self, script: str, quoted: tuple[str, ...]) -> Traits:
        self.question("")
        if self.previous == "a":
            self.about("a")
        words = frozenset(self.words)
        language = script or _language(words)
        if self.has_particle_verb:
            self.switch()
            for particle in self.particles:
                if particle in _PARTICLES_UP:
                    self.plus |= _PARTICLE_AXIS
                else:
                    self.minus |= _PARTICLE_AXIS
        content = self.content
        for index in self.joined:
            if content[index] < content[index - 1]:
                content[index - 1], content[index] = content[index], content[index - 1]
        negations, tense = self.negations, self.tense
        names, fixed = frozenset(self.names), frozenset(self.fixed)
        if language == "zh":
            fixed |= words
            names = _NONE
            tense = self.tense_han
        elif language not in ("", "en"):
            folded = [_folded(word) for word in self.words]
            dropped = _LANGUAGES.get(language, _NONE)
            content = [
                _ending_off(fold)
                for fold, word in zip(folded, self.words, strict=True)
                if word not in dropped
            ]
            known = _NEGATIONS.get(language, _NONE)
            negations += sum(word in known and word not in _NEGATIONS["en"] for word in self.words)
        # Where most words begin with a capital, a capital says nothing.
        if self.capitals * 10 > len(self.words) * 6 and self.capitals > 3:
            names = _NONE
        asks = {kind for kind, is_main in self.questions if is_main}
        mentions = {kind for kind, _ in self.questions}
        if "what" in mentions and language != "zh":
            asked = {lists.ASKED[word] for word in words & _ASKED}
            mentions |= asked
            if "what" in asks:
                asks |= asked
        if not words.isdisjoint(_PERIODS_ASKED) and "number" in asks:
            asks.add("duration")
        if "how" in asks and not words.isdisjoint(_WORKING):
            # "What is it" and "how does it work".
            mentions.add("what")
        if not asks.isdisjoint(("when", "duration")):
            # "When will it come" and "how long will it take to come".
            mentions |= {"when", "duration"}
        if "where" in asks and not words.isdisjoint(_FINDING):
            # "Where do I find it" and "how do I find it".
            mentions.add("how")
        mentions |= asks
        marks = self.marks
        return Traits(
            key=self.key,
            language=language,
            words=words,
            content=tuple(content),
            bag=frozenset(content),
            movable=frozenset(self.movable),
            goals=frozenset(self.goals),
            sources=frozenset(self.sources),
            people=tuple(self.people) if not _THIRD.isdisjoint(self.people) else (),
            passive=self.passive,
            figures=tuple(self.figures),
            versions=frozenset(self.versions),
            counted=frozenset(self.counted),
            weak_numbers=frozenset(self.weak),
            negations=negations,
            negated=frozenset(self.negated),
            plus=self.plus,
            minus=self.minus,
            bare=frozenset(self.bare),
            quoted=quoted,
            code=frozenset(self.code),
            flags=frozenset(self.flags),
            names=names,
            fixed=fixed,
            asks=frozenset(asks),
            mentions=frozenset(mentions),
            tense=tense,
            units=frozenset(marks.get("unit", ())),
            currencies=frozenset(marks.get("currency", ())),
            dates=frozenset(marks.get("date", ())),
            times=frozenset(marks.get("time", ())),
            temporal=frozenset(marks.get("then", ())) | frozenset(marks.get("now", ())),
        )


_ASKED: Final = frozenset(lists.ASKED)
_PERIODS_ASKED: Final = frozenset(lists.words("seconds minutes hours days weeks months years"))
_WORKING: Final = frozenset(lists.words("work works differ differs"))
_FINDING: Final = frozenset(lists.words("find get go see look order buy"))


def _language(words: frozenset[str]) -> str:
    """Return the language with most function words, "" if there is none or hardly any."""
    best, most = "en", len(words & _LANGUAGES["en"])
    for language, known in _LANGUAGES.items():
        count = len(words & known)
        if count > most and count > 1:
            best, most = language, count
    return best if most else ""


def _folded(word: str) -> str:
    return "".join(
        sign for sign in unicodedata.normalize("NFKD", word) if not unicodedata.combining(sign)
    )


def _ending_off(word: str) -> str:
    stem = word.rstrip("aeinos") if word.isascii() else word
    return stem if len(stem) > 2 else word


def _han_value(numerals: str) -> str:
    """Return the number that `numerals` say; digit by digit where they name no power of ten."""
    if not any(sign in lists.HAN_POWERS for sign in numerals):
        return "".join(
            "1/2" if sign == "半" else str(lists.HAN_NUMERALS[sign]) for sign in numerals
        )
    total = section = digit = 0
    half = ""
    for sign in numerals[:32]:
        if sign == "半":
            half = "+1/2"
        elif sign in lists.HAN_NUMERALS:
            digit = lists.HAN_NUMERALS[sign]
        elif (power := lists.HAN_POWERS[sign]) < 10_000:
            section += (digit or 1) * power
            digit = 0
        else:
            total = (total + section + digit or 1) * power
            section = digit = 0
    return f"{total + section + digit}{half}"


_HAN_NUMERALS: Final = frozenset((*lists.HAN_NUMERALS, *lists.HAN_POWERS, "半"))


def _han_words() -> dict[str, _Word]:
    stems = {word: word for word in lists.HAN_CONTENT}
    marks: dict[str, list[tuple[str, str]]] = {}
    axes = _axes(lists.HAN_AXES)
    for group in (*_groups(lists.HAN_AXES), *_groups(lists.HAN_SYNONYMS)):
        for member in group:
            stems.setdefault(member, group[0])
    stems.update(dict.fromkeys((*lists.HAN_DROPPED, *lists.HAN_QUESTIONS), ""))
    stems.update({word: word for word in lists.HAN_PEOPLE})
    for kind, values in (
        ("question", lists.HAN_QUESTIONS),
        ("negation", dict.fromkeys(lists.HAN_NEGATIONS, "")),
        ("then", {word: word for word in lists.HAN_TEMPORAL}),
        ("date", {word: word for word in lists.HAN_DATES}),
        ("time", {word: word for word in lists.HAN_TIMES}),
        ("unit", lists.HAN_UNITS),
        ("currency", lists.HAN_CURRENCIES),
        ("tense", {lists.HAN_FUTURE: "future"}),
    ):
        for word, value in values.items():
            marks.setdefault(word, []).append((kind, value))
            if kind in ("negation", "then", "date", "time"):
                stems[word] = ""
            else:
                stems.setdefault(word, value)
    bit = len(_AXES) + 8
    return {
        word: _Word(
            stem,
            axes.get(word, (0, 0))[0] << bit,
            axes.get(word, (0, 0))[1] << bit,
            tuple(marks.get(word, ())),
        )
        for word, stem in stems.items()
    }


_HAN_WORDS: Final = _han_words()
_LONGEST_FROM: Final[dict[str, int]] = {}
for _member in _HAN_WORDS:
    _LONGEST_FROM[_member[0]] = max(len(_member), _LONGEST_FROM.get(_member[0], 0))
