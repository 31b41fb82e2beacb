"""Reading Chinese: characters without blanks between them, the longest known phrase first."""

from typing import Final

from embeddings.guards import words_chinese as chinese
from embeddings.guards.lexicon import HAN_AXES_FROM, Word
from embeddings.guards.notes import Notes
from embeddings.guards.word_lists import axes, groups


def read_han(notes: Notes, run: str) -> None:
    """Read characters, the longest known phrase first."""
    index = 0
    while index < len(run):
        for length in range(_LONGEST_FROM.get(run[index], 0), 0, -1):
            phrase = run[index : index + length]
            entry = _WORDS.get(phrase)
            if entry is not None:
                break
        else:
            phrase, entry = run[index], None
        index += len(phrase)
        if phrase in _NUMERALS and not (phrase == "两" and notes.after_number):
            end = index
            while end < len(run) and run[end] in _NUMERALS:
                end += 1
            _number(notes, run[index - 1 : end])
            index = end
            continue
        if phrase == "第":
            notes.is_ordinal = True
            continue
        notes.is_ordinal = False
        if entry is None:
            notes.content.extend(phrase)
        else:
            notes.plus |= entry.plus
            notes.minus |= entry.minus
            notes.content.extend(entry.stem)
            if (
                len(phrase) == 1
                and phrase not in chinese.PARTICLES
                and not (entry.stem or entry.marks)
            ):
                notes.movable.update(phrase)
            for kind, value in entry.marks:
                if kind == "negation":
                    notes.negations += 1
                elif kind == "question":
                    notes.questions.add(value)
                elif kind == "tense":
                    notes.tense_han = value
                else:
                    notes.mark(kind, value)
        notes.after_number = False
    notes.previous = ""
    notes.is_first = False


def _number(notes: Notes, numerals: str) -> None:
    if numerals == "一" and not notes.is_ordinal:
        notes.weak_numbers.add("1")
        return
    value = _value(numerals)
    notes.number("#" + value if notes.is_ordinal else value)
    notes.previous_was_name = False


def _value(numerals: str) -> str:
    """Return the number that `numerals` say; digit by digit where they name no power of ten."""
    if not any(sign in chinese.POWERS for sign in numerals):
        return "".join("1/2" if sign == "半" else str(chinese.NUMERALS[sign]) for sign in numerals)
    total = section = digit = 0
    half = ""
    for sign in numerals[:32]:
        if sign == "半":
            half = "+1/2"
        elif sign in chinese.NUMERALS:
            digit = chinese.NUMERALS[sign]
        elif (power := chinese.POWERS[sign]) < 10_000:
            section += (digit or 1) * power
            digit = 0
        else:
            total = (total + section + digit or 1) * power
            section = digit = 0
    return f"{total + section + digit}{half}"


_NUMERALS: Final = frozenset((*chinese.NUMERALS, *chinese.POWERS, "半"))


def _words() -> dict[str, Word]:
    stems = {word: word for word in chinese.CONTENT}
    marks: dict[str, list[tuple[str, str]]] = {}
    ends = axes(chinese.AXES)
    for group in (*groups(chinese.AXES), *groups(chinese.SYNONYMS)):
        for member in group:
            stems.setdefault(member, group[0])
    stems.update(dict.fromkeys((*chinese.DROPPED, *chinese.QUESTIONS), ""))
    stems.update({word: word for word in chinese.PEOPLE})
    for kind, values in (
        ("question", chinese.QUESTIONS),
        ("negation", dict.fromkeys(chinese.NEGATIONS, "")),
        ("then", {word: word for word in chinese.TEMPORAL}),
        ("date", {word: word for word in chinese.DATES}),
        ("time", {word: word for word in chinese.TIMES}),
        ("unit", chinese.UNITS),
        ("currency", chinese.CURRENCIES),
        ("tense", {chinese.FUTURE: "future"}),
    ):
        for word, value in values.items():
            marks.setdefault(word, []).append((kind, value))
            if kind in ("negation", "then", "date", "time"):
                stems[word] = ""
            else:
                stems.setdefault(word, value)
    return {
        word: Word(
            stem,
            ends.get(word, (0, 0))[0] << HAN_AXES_FROM,
            ends.get(word, (0, 0))[1] << HAN_AXES_FROM,
            tuple(marks.get(word, ())),
        )
        for word, stem in stems.items()
    }


_WORDS: Final = _words()
_LONGEST_FROM: Final[dict[str, int]] = {}
for _member in _WORDS:
    _LONGEST_FROM[_member[0]] = max(len(_member), _LONGEST_FROM.get(_member[0], 0))
