"""Which scripts a text is written in, and which ones an encoder was trained for.

Scripts bear the names of the Unicode script property: Latin, Cyrillic, Han, … Only letters are of
a script; digits, punctuation, marks and emoji are of none. Python has no table of the property, so
a letter's script is read off its name ("CYRILLIC SMALL LETTER A"); the exceptions are below.

A script is not a language: an encoder trained on English accepts a German text. Nothing here tells
languages apart, as no rule that is cheap and right does it for a sentence of five words.

Nothing here reads a clock or touches the network.
"""

import sys
import unicodedata
from functools import cache, lru_cache
from typing import Final

_BY_FIRST_WORD: Final = {"CJK": "Han", "IDEOGRAPHIC": "Han", "KATAKANA-HIRAGANA": "Katakana"}

# Letters by category that serve all scripts alike (Unicode script "Common"): an ordinal sign, the
# micro sign of "5 µm", mathematical letters. Whether the encoder knows them, its tokenizer decides.
_OF_NO_SCRIPT: Final = frozenset(
    {"ALEF", "ANGSTROM", "BET", "BLACK-LETTER", "CONSTANT", "DALET", "DOUBLE-STRUCK", "EULER"}
    | {"FEMININE", "GIMEL", "INFORMATION", "KELVIN", "MASCULINE", "MATHEMATICAL", "MICRO"}
    | {"MODIFIER", "OHM", "PLANCK", "SCRIPT", "TURNED", "VERTICAL"}
)
_WIDTHS: Final = frozenset({"FULLWIDTH", "HALFWIDTH"})

_LATIN: Final = frozenset({"Latin"})
_FIFTY_LANGUAGES: Final = _LATIN | {
    *("Arabic", "Armenian", "Cyrillic", "Devanagari", "Georgian", "Greek", "Gujarati", "Han"),
    *("Hangul", "Hebrew", "Hiragana", "Katakana", "Myanmar", "Thai"),
}
_HUNDRED_LANGUAGES: Final = _FIFTY_LANGUAGES | {
    *("Bengali", "Ethiopic", "Gurmukhi", "Kannada", "Khmer", "Lao", "Malayalam", "Oriya"),
    *("Sinhala", "Tamil", "Telugu"),
}

# The scripts of the languages that each model's card lists. Multilingual or not, a model's own
# vocabulary has the last word: what it does not know is refused too.
_TRAINED_FOR: Final = {
    # Trained on English; other languages in Latin letters come out, but less well.
    "all-MiniLM-L6-v2": _LATIN,
    "paraphrase-multilingual-MiniLM-L12-v2": _FIFTY_LANGUAGES,
    "paraphrase-multilingual-mpnet-base-v2": _FIFTY_LANGUAGES,
    "distiluse-base-multilingual-cased-v1": frozenset(
        {"Arabic", "Cyrillic", "Han", "Hangul", "Latin"}
    ),
    "distiluse-base-multilingual-cased-v2": _FIFTY_LANGUAGES,
    "multilingual-e5-small": _HUNDRED_LANGUAGES,
    "multilingual-e5-base": _HUNDRED_LANGUAGES,
    "multilingual-e5-large": _HUNDRED_LANGUAGES,
    "bge-m3": _HUNDRED_LANGUAGES,
    "LaBSE": _HUNDRED_LANGUAGES | {"Tibetan"},
}


def trained_for(model: str) -> frozenset[str]:
    """Return the scripts that `model`, a name or a path, was trained for.

    Latin alone for one that is not known here: to refuse costs a hit, to guess a wrong answer.
    """
    return _TRAINED_FOR.get(model.rstrip("/").rpartition("/")[2], _LATIN)


def scripts_of(text: str) -> frozenset[str]:
    """Return the scripts that the letters of `text` are written in; empty if it has no letter."""
    if text.isascii():
        return _LATIN if any(map(str.isalpha, text)) else frozenset()
    scripts = {_script_of(character) for character in set(text)}
    return frozenset(scripts - {""})


@cache
def all_scripts() -> frozenset[str]:
    """Return every script that `scripts_of` can name."""
    # Letters behind the second plane are more of Han.
    return scripts_of("".join(map(chr, range(min(0x20000, sys.maxunicode)))))


@lru_cache(maxsize=8192)
def _script_of(character: str) -> str:
    """Return the script of a letter, "" for what is of none."""
    if not character.isalpha():
        return ""
    words = unicodedata.name(character, "").split()
    if words and words[0] in _WIDTHS:
        words = words[1:]
    if not words or words[0] in _OF_NO_SCRIPT:
        return ""
    return _BY_FIRST_WORD.get(words[0], words[0].capitalize())
