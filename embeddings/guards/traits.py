"""What the guards compare: the traits of a text, and how they are read from it.

A text is read chunk by chunk, by the reader of its script; what the language is, shows at the end.

Pure: no clock, no chance, no I/O. Every text takes time proportional to its length.
"""

import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from embeddings.guards import words_chinese as chinese
from embeddings.guards import words_grammar as grammar
from embeddings.guards import words_languages as languages
from embeddings.guards.chinese import read_han
from embeddings.guards.chunks import OUTER, read_chunk
from embeddings.guards.english import finish_words
from embeddings.guards.notes import Notes

_NONE: Final[frozenset[str]] = frozenset()
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
_PLAIN_HAN: Final = _PLAIN | {ord(old): new for old, new in chinese.TRADITIONAL.items()}


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
        plus: A bit for every axis of `words_meaning.AXES` of which one end is named.
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


def traits(text: str) -> Traits:
    """Return what `text` has that the guards compare. Any text will do, the empty one too."""
    plain = text.translate(_PLAIN) if text.isascii() else _plain(text)
    notes = Notes()
    key = " ".join(plain.casefold().split()).strip(OUTER)
    script = "" if plain.isascii() else _script(plain)
    if script == "zh":
        plain = plain.translate(_PLAIN_HAN)
        for run in _RUN.findall(plain):
            if _HAS_HAN.match(run):
                read_han(notes, run)
            else:
                read_chunk(notes, run)
    else:
        for chunk in plain.split():
            read_chunk(notes, chunk)
    quoted: tuple[str, ...] = ()
    if '"' in plain or "'" in plain or "`" in plain or not plain.isascii():
        quoted = tuple(
            content
            for found in _QUOTED.findall(plain)
            if (content := " ".join("".join(found).casefold().split()).strip(OUTER))
        )
    finish_words(notes)
    return _completed(notes, key, script, quoted)


def _completed(notes: Notes, key: str, script: str, quoted: tuple[str, ...]) -> Traits:
    words = frozenset(notes.words)
    language = script or _language(words)
    content = notes.content
    negations, tense = notes.negations, notes.tense
    names, fixed = frozenset(notes.names), frozenset(notes.fixed)
    if language == "zh":
        fixed |= words
        names = _NONE
        tense = notes.tense_han
    elif language not in ("", "en"):
        folded = [_folded(word) for word in notes.words]
        dropped = languages.FUNCTION.get(language, _NONE)
        content = [
            _ending_off(fold)
            for fold, word in zip(folded, notes.words, strict=True)
            if word not in dropped
        ]
        known = languages.NEGATIONS.get(language, _NONE)
        negations += sum(
            word in known and word not in languages.NEGATIONS["en"] for word in notes.words
        )
    # Where most words begin with a capital, a capital says nothing.
    if notes.capitals * 10 > len(notes.words) * 6 and notes.capitals > 3:
        names = _NONE
    asks, mentions = notes.questions.asked(words, language)
    marks = notes.marks
    return Traits(
        key=key,
        language=language,
        words=words,
        content=tuple(content),
        bag=frozenset(content),
        movable=frozenset(notes.movable),
        goals=frozenset(notes.goals),
        sources=frozenset(notes.sources),
        people=tuple(notes.people) if not grammar.THIRD_PERSON.isdisjoint(notes.people) else (),
        passive=notes.passive,
        figures=tuple(notes.figures),
        versions=frozenset(notes.versions),
        counted=frozenset(notes.counted),
        weak_numbers=frozenset(notes.weak_numbers),
        negations=negations,
        negated=frozenset(notes.negated),
        plus=notes.plus,
        minus=notes.minus,
        bare=frozenset(notes.bare),
        quoted=quoted,
        code=frozenset(notes.code),
        flags=frozenset(notes.flags),
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


def _language(words: frozenset[str]) -> str:
    """Return the language with most function words, "" if there is none or hardly any."""
    best, most = "en", len(words & languages.FUNCTION["en"])
    for language, known in languages.FUNCTION.items():
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
