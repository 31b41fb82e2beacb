"""Reading a chunk with a digit in it: "5mg", "$20", "1st", "3.10", "2024-02-29"."""

import re
from typing import Final

from embeddings.guards import words_quantity as quantity
from embeddings.guards.lexicon import known_word
from embeddings.guards.notes import Notes

_FIGURE: Final = re.compile(r"(\W*)([0-9][0-9.,]*)(st|nd|rd|th)?([^\W\d_]*|%|°[cf]?|[$£€¥])")


def read_figure(notes: Notes, core: str) -> None:
    """Read a chunk with a digit in it."""
    if core in quantity.DATES or core[-3:] in quantity.DATES:
        notes.mark("date", quantity.DATES.get(core) or quantity.DATES[core[-3:]])
        return
    found = _FIGURE.fullmatch(core)
    if found is None:
        notes.number(core)
        notes.words.append(core)
        return
    before, digits, ordinal, after = found.groups()
    value = digits.rstrip(".,").replace(",", "") or digits
    for sign in before:
        if sign in quantity.CURRENCIES:
            notes.mark("currency", quantity.CURRENCIES[sign])
    if before.endswith("-"):
        value = "-" + value
    if ordinal:
        value = "#" + value
    if after in quantity.CURRENCIES:
        notes.mark("currency", quantity.CURRENCIES[after])
        after = ""
    unit = after.replace("°", "")
    known = known_word(unit).marks if unit else ()
    if unit and not known:
        value += unit
    notes.number(value)
    for kind, name in known:
        notes.mark(kind, name)
    if after in ("%", "°"):
        notes.mark("unit", quantity.UNITS[after])
