"""What a request asks, in its own words, and all that must be equal before words are compared.

A question is compared by meaning in one text only: the last thing the user said. Everything else
is compared to the letter, by being part of the *partition*: tenant, model, system prompt, earlier
turns, tools, parameters, and of the text itself what no encoder may be trusted with: figures,
quotations, and whatever stands before the last paragraph of a long one. Only questions of one
partition are ever compared, so that none of this is a filter that could be forgotten.

Some requests are answered by the exact tier only; each for a named reason.

Pure: the same request gives the same partition on every machine.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final, assert_never

from proxy.lookup.keys import KeyScope, canonical_body, digest, exact_key
from proxy.wire.endpoint import Endpoint
from proxy.wire.request import CacheableRequest, JsonObject

FORMAT: Final = "recollect-partition-1"
"""Part of every partition: whoever changes what it is made of changes this."""

COMPARED_CHARS: Final = 200
"""Of a longer text only the end is compared by meaning. The longer a text, the less one changed
word moves its vector: at 140 characters 20 % of texts with one changed fact score 0.95 or more, at
290 characters 68 %, at 430 all (MiniLM; benchmarks/long_texts.py)."""

_FEWEST_WORDS: Final = 3
_TEXT_PARTS: Final = ("text", "input_text")
_ECHOES: Final = ("echo", "prompt_logprobs", "return_token_ids")
_TOOL_ROLES: Final = ("tool", "function")
_PLAIN_ANSWER: Final = frozenset({"role", "content"})

# Han, kana and Hangul are written without blanks: two characters stand for a word.
_DENSE: Final = re.compile("[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af]")
_WORD: Final = re.compile(r"\w+")
_FIGURE: Final = re.compile(r"\S*\d\S*")
_QUOTED: Final = re.compile(
    r"\"[^\"\n]+\"|`[^`]+`|“[^”]+”|«[^»]+»|„[^“”]+[“”]|「[^」]+」|『[^』]+』"
)
_PIECE: Final = re.compile(r"\w+(?:['’]\w+)*|[.!?:\n]")
# To an encoder "may I" and "may I not" are nearly one: 0.97 to 0.99 by cosine. English, and the
# most common words of its neighbours; one that means something else elsewhere costs a hit at most.
_NEGATIONS: Final = frozenset(
    {"no", "not", "never", "none", "nobody", "nothing", "neither", "nor", "without", "cannot"}
    | {"cant", "dont", "wont", "except", "unless", "nicht", "kein", "keine", "keinen", "nie"}
    | {"ohne", "pas", "jamais", "sans", "aucun", "rien", "sin", "nunca", "non", "senza", "mai"}
)
_NUMBER_WORDS: Final = frozenset(
    {"two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven"}
    | {"twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"}
    | {"twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety", "hundred"}
    | {"thousand", "million", "billion", "dozen", "half", "double", "twice", "triple", "first"}
    | {"second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth"}
)
_NEGATED: Final = ("n't", "n’t")
_OUTER: Final = "\"'`.,;:!?()[]{}<>“”„«»「」『』、。，！？；：…"
# Words that say nothing without the turn before. English and some neighbours, as an encoder for
# them is the default; a turn of one or two words is left out in any language.
_LEANING_FIRST: Final = frozenset(
    {"and", "also", "but", "continue", "go", "more", "next", "ok", "okay", "or", "so", "then"}
    | {"again", "yes", "yeah", "yep", "no", "nope", "sure", "thanks", "please", "same"}
    | {"und", "aber", "ja", "nein", "weiter", "noch", "et", "oui", "non", "encore", "y", "sí", "e"}
)
_LEANING_ANYWHERE: Final = frozenset(
    {"it", "its", "this", "that", "these", "those", "them", "they", "their", "he", "she", "him"}
    | {"her", "his", "instead", "former", "latter"}
)
_LEANING_LAST: Final = frozenset(
    {"above", "previous", "last", "first", "second", "third", "other", "one", "ones", "next"}
)
_MOST_WORDS_OF_LEANING: Final = 6
_PARAGRAPH: Final = re.compile(r"\n[ \t]*\n\s*")
_LINE: Final = re.compile(r"\n\s*")
# Where no blank is needed between two sentences, what closes the one must not begin the next.
_SENTENCE: Final = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])\s*(?=[^\s。！？」』”])")


class ExactOnly(StrEnum):
    """Why a request is not compared by meaning."""

    ENDPOINT = "endpoint"
    """Embeddings: its answer is about the very letters."""
    TURN = "turn"
    """The last turn is not the user's, or not of a form that is known."""
    MEDIA = "media"
    """The last turn has more than text, or the conversation holds images or sound."""
    TOOL = "tool"
    """A tool was called earlier in the conversation: what it found stands behind the question."""
    TOKENS = "tokens"
    """The prompt is given as numbers of tokens, or there are several."""
    ECHO = "echo"
    """The answer repeats the prompt."""
    SHORT = "short"
    """One or two words."""
    LEANING = "leaning"
    """A short turn that says nothing without what was said before."""
    LONG = "long"
    """The last paragraph, line and sentence are all longer than what is compared."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is compared.

    Attributes:
        partition: 32 bytes; only questions with the same are compared.
        text: What is compared by meaning.
    """

    partition: bytes
    text: str


@dataclass(frozen=True, slots=True)
class Earlier:
    """The conversation up to an answer that the request repeats.

    Attributes:
        key: The exact key of the request to which that was the answer.
        said: What the answer was, as the request repeats it.
    """

    key: bytes
    said: str


def question_of(
    request: CacheableRequest,
    scope: KeyScope,
    answered_by: bytes | None = None,
    *,
    is_budgeted: bool = False,
) -> Question | ExactOnly:
    """Return what is compared of `request`, or why nothing is.

    Args:
        request: What was sent.
        scope: What counts beside its body.
        answered_by: What stands for the stored response that is the last answer in its history,
            32 bytes; then it stands for the whole history (see `earlier`).
        is_budgeted: An error budget decides: then questions with other figures, names or negations
            are neighbours, too. Their answers count in the vote; a guard keeps them from being
            served for one another.

    Raises:
        Unkeyable: See `exact_key`.
    """
    match request.endpoint:
        case Endpoint.EMBEDDINGS:
            return ExactOnly.ENDPOINT
        case Endpoint.COMPLETIONS:
            return _of_prompt(request, scope, is_budgeted)
        case Endpoint.CHAT:
            return _of_turns(request, scope, "messages", answered_by, is_budgeted)
        case Endpoint.RESPONSES:
            return _of_turns(request, scope, "input", None, is_budgeted)
        case _:
            assert_never(request.endpoint)


def earlier(request: CacheableRequest, scope: KeyScope) -> Earlier | None:
    """Return what came before the last turn, if that ends in an answer of the model's."""
    if request.endpoint is not Endpoint.CHAT:
        return None
    messages = request.body.get("messages", ())
    if len(messages) < 3 or messages[-2].get("role") != "assistant":
        return None
    answer = {name: value for name, value in messages[-2].items() if value not in (None, [], "")}
    if answer.keys() != _PLAIN_ANSWER or type(answer["content"]) is not str:
        return None
    asked = replace(request, body={**request.body, "messages": messages[:-2]})
    return Earlier(exact_key(asked, scope), answer["content"])


def _of_prompt(
    request: CacheableRequest, scope: KeyScope, is_budgeted: bool
) -> Question | ExactOnly:
    body = canonical_body(request, scope)
    prompt = body.get("prompt")
    if type(prompt) is list and len(prompt) == 1:
        prompt = prompt[0]
    if type(prompt) is not str:
        return ExactOnly.TOKENS
    if _speaks_of_the_prompt(body):
        return ExactOnly.ECHO
    cut = _cut(prompt, is_budgeted)
    if isinstance(cut, ExactOnly):
        return cut
    body["prompt"] = cut.partition
    return Question(digest(FORMAT, request.endpoint, scope, body), cut.text)


def _speaks_of_the_prompt(body: JsonObject) -> bool:
    # 0 counts: vLLM gives the prompt's own probabilities for it.
    return any(body.get(name) not in (None, "") and body[name] is not False for name in _ECHOES)


def _of_turns(
    request: CacheableRequest,
    scope: KeyScope,
    name: str,
    answered_by: bytes | None,
    is_budgeted: bool,
) -> Question | ExactOnly:
    body = canonical_body(request, scope)
    if _speaks_of_the_prompt(body):
        return ExactOnly.ECHO
    turns = body.get(name)
    if type(turns) is str:
        # The Responses API's short form of one turn.
        turns = [{"role": "user", "content": turns}]
    if type(turns) is not list or not turns or not all(type(turn) is dict for turn in turns):
        return ExactOnly.TURN
    *history, last = turns
    if any(_is_about_tools(turn) for turn in turns):
        return ExactOnly.TOOL
    if any(_has_media(turn) for turn in turns):
        return ExactOnly.MEDIA
    if last.get("role") != "user" or last.get("type", "message") != "message":
        return ExactOnly.TURN
    content = last.get("content")
    beside: list[Any] = []
    if type(content) is list and content:
        # What stands in parts of its own before the last one is often what the question is about.
        beside = [*content[:-1], {**content[-1], "text": None}]
        content = content[-1].get("text")
    if type(content) is not str:
        return ExactOnly.TURN
    cut = _cut(content, is_budgeted)
    if isinstance(cut, ExactOnly):
        return cut
    body[name] = [
        *(history if answered_by is None else [answered_by.hex()]),
        {**last, "content": [*beside, cut.partition]},
    ]
    return Question(digest(FORMAT, request.endpoint, scope, body), cut.text)


def _is_about_tools(turn: JsonObject) -> bool:
    return (
        turn.get("role") in _TOOL_ROLES
        or bool(turn.get("tool_calls") or turn.get("function_call"))
        or turn.get("type", "message") not in ("message", *_TEXT_PARTS)
    )


def _has_media(turn: JsonObject) -> bool:
    content = turn.get("content")
    return bool(turn.get("audio")) or (
        type(content) is list and not all(_is_text(part) for part in content)
    )


def _is_text(part: Any) -> bool:
    return (
        type(part) is dict
        and part.get("type") in (*_TEXT_PARTS, "output_text", "refusal")
        and (type(part.get("text")) is str or part.get("type") == "refusal")
    )


@dataclass(frozen=True, slots=True)
class _Cut:
    """A text, parted: what is compared by meaning, and what to the letter."""

    text: str
    partition: JsonObject


def _cut(whole: str, is_budgeted: bool) -> _Cut | ExactOnly:
    text = whole.strip()
    start = 0
    if len(text) > COMPARED_CHARS:
        start = _last_part(text)
        if len(text) - start > COMPARED_CHARS:
            return ExactOnly.LONG
    compared = text[start:]
    words = _WORD.findall(compared.casefold())
    if (leaning := _leaning(words, compared)) is not None:
        return leaning
    begin = whole.find(text)
    # Outer white space changes how a prompt is completed.
    around = [whole[:begin], whole[begin + len(text) :]]
    equal: JsonObject = {"around": around, "before": text[:start]}
    if is_budgeted:
        equal["decided"] = "by budget"
    else:
        equal |= _to_the_letter(compared, words)
    return _Cut(compared, equal)


def _to_the_letter(compared: str, words: Sequence[str]) -> JsonObject:
    """Return what of a text no encoder is trusted with."""
    return {
        "figures": [figure.casefold().strip(_OUTER) for figure in _FIGURE.findall(compared)],
        "quoted": _QUOTED.findall(compared),
        "numbers": [word for word in words if word in _NUMBER_WORDS],
        "names": _names(compared),
        "negations": sum(
            word in _NEGATIONS or word.endswith(_NEGATED)
            for word in _PIECE.findall(compared.casefold())
        ),
    }


def _names(text: str) -> list[str]:
    """Return the words with a capital, but for those that begin a sentence, in their order.

    "Spain and Italy" and "Italy and Spain" are 0.999 by cosine.
    """
    names = []
    is_first = True
    for piece in _PIECE.findall(text):
        is_word = piece not in ".!?:\n"
        if is_word and not is_first and piece[0].isupper() and re.split("['’]", piece)[0] != "I":
            names.append(piece.casefold())
        is_first = not is_word
    return names


def _last_part(text: str) -> int:
    """Return where the last paragraph begins; if that is too long, the last line, or sentence."""
    start = 0
    for boundary in (_PARAGRAPH, _LINE, _SENTENCE):
        for found in boundary.finditer(text, start):
            start = found.end()
        if len(text) - start <= COMPARED_CHARS:
            break
    return start


def _leaning(words: Sequence[str], text: str) -> ExactOnly | None:
    dense = len(_DENSE.findall(text))
    # Each run of dense characters counted as one word, too.
    count = len(words) + dense // 2
    if count < _FEWEST_WORDS:
        return ExactOnly.SHORT
    if count <= _MOST_WORDS_OF_LEANING and (
        words[0] in _LEANING_FIRST
        or words[-1] in _LEANING_LAST
        or not _LEANING_ANYWHERE.isdisjoint(words)
    ):
        return ExactOnly.LEANING
    return None
