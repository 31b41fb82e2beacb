"""Reading what stands between two blanks: words, figures, code, operators."""

import re
from typing import Final

from embeddings.guards import words_grammar as grammar
from embeddings.guards import words_quantity as quantity
from embeddings.guards.english import read_word
from embeddings.guards.figures import read_figure
from embeddings.guards.notes import Notes
from embeddings.guards.word_lists import words

OUTER: Final = " \"'`.,;:!?()[]{}“”„«»「」『』《》、。…¿¡*"
"""Punctuation that says nothing at either end."""
_OPERATORS: Final = frozenset(words("< > <= >= == != = && || | + ** ^ -> => << >> ++ ??"))
_CODE_SIGNS: Final = re.compile(r"[_/\\@=<>|&#+$~^%]|\w\.\w|::|\(\)")
_PIECES: Final = re.compile(r"[^\W_]+(?:'[^\W_]+)*")
_DOTTED: Final = re.compile(r"(?:[^\W\d_]\.)+[^\W\d_]")


def read_chunk(notes: Notes, chunk: str) -> None:
    """Read what stands between two blanks."""
    core = chunk.strip(OUTER)
    if not notes.words and core in ("No", "no") and chunk[-1] == ",":
        # The answer to a question before.
        return
    if core.isalpha():
        read_word(notes, core)
    elif core:
        _read_mixed(notes, core, chunk)
    elif chunk in _OPERATORS:
        notes.code.add(chunk)
    if chunk[-1] in ".!?:;\n。":
        notes.is_first = True


def _read_mixed(notes: Notes, core: str, chunk: str) -> None:
    if "!=" in chunk or chunk in _OPERATORS:
        notes.code.add(chunk)
        return
    if not any(map(str.isalnum, core)):
        if core in _OPERATORS:
            notes.code.add(core)
        elif core in quantity.CURRENCIES:
            notes.mark("currency", quantity.CURRENCIES[core])
        elif core in quantity.UNITS:
            notes.mark("unit", quantity.UNITS[core])
        return
    if core[0] == "-" and len(core) > 1 and (core[1] == "-" or core[1].isalpha()):
        if len(core) == 2 and core[1].isalpha():
            notes.flags.add(core)
        else:
            notes.code.add(core.casefold())
        return
    if any(map(str.isdigit, core)):
        read_figure(notes, core.casefold())
        return
    if _DOTTED.fullmatch(core):
        read_word(notes, core.replace(".", ""))
        return
    if _CODE_SIGNS.search(core) and not _is_two_words(core):
        notes.code.add(core.casefold().removesuffix("()"))
        notes.words.append(core.casefold())
        notes.is_first = False
        return
    for piece in _PIECES.findall(core):
        read_word(notes, piece)


def _is_two_words(core: str) -> bool:
    """Return whether `core` is "and/or", "end.Begin" or "a&b"."""
    pieces = _PIECES.findall(core)
    if len(pieces) != 2 or len("".join(pieces)) + 1 != len(core):
        return False
    if "." in core:
        return pieces[1].casefold() in grammar.FUNCTION or (
            pieces[0].islower() and pieces[1].istitle() and len(pieces[0]) > 2
        )
    return "/" in core or "&" in core
