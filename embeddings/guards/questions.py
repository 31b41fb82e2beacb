"""What kind of question a text asks: who, when, how many, …

A question word may ask ("when is it open") or not ("when it is open, I come"): what is embedded
is mentioned only.
"""

from typing import Final

from embeddings.guards import words_grammar as grammar
from embeddings.guards.word_lists import words


class Questions:
    """The questions of one text."""

    def __init__(self) -> None:
        self._found: list[tuple[str, bool]] = []
        """Kinds in their order, and whether each is asked."""
        self.is_how = False
        """Whether a "how" is just before."""
        self.waits_for_auxiliary = ""
        """A "when" or "where" just before, which asks if an auxiliary verb follows."""

    def add(self, kind: str) -> None:
        """Note that the text asks for this."""
        self._found.append((kind, True))

    def number(self, words_before: int) -> None:
        """Note that a number stands here, behind so many words."""
        if self._found and self._found[-1][0] == "amount" and words_before < 4:
            # "How much is 3 plus 4" asks what it is.
            self._found[-1] = ("what", True)
        self.is_how = False

    def word(self, low: str, may_begin: bool) -> None:
        """Read a word; `may_begin`: no content stands right before it."""
        if self.is_how:
            self.is_how = False
            self.add(grammar.HOW.get(low, "how"))
            if low in ("is", "are", "was"):
                self.add("what")
        if self.waits_for_auxiliary:
            self._found.append((self.waits_for_auxiliary, low in grammar.AUXILIARY))
            self.waits_for_auxiliary = ""
        kind = grammar.QUESTION.get(low)
        if kind is None:
            return
        if kind == "how":
            self.is_how = True
        elif kind in ("when", "where"):
            self.waits_for_auxiliary = kind
        elif kind in ("who", "what"):
            self._found.append((kind, may_begin))
        else:
            self.add(kind)

    def asked(self, all_words: frozenset[str], language: str) -> tuple[set[str], set[str]]:
        """Return the kinds that the text asks, and those it mentions, which are all of these too.

        One question may be put in two ways: "what is the reason" is "why".
        """
        asks = {kind for kind, is_asked in self._found if is_asked}
        mentions = {kind for kind, _ in self._found}
        if "what" in mentions and language != "zh":
            meant = {grammar.ASKED[word] for word in all_words & _ASKED}
            mentions |= meant
            if "what" in asks:
                asks |= meant
        if not all_words.isdisjoint(_PERIODS) and "number" in asks:
            asks.add("duration")
        if "how" in asks and not all_words.isdisjoint(_WORKING):
            # "What is it" and "how does it work".
            mentions.add("what")
        if not asks.isdisjoint(("when", "duration")):
            # "When will it come" and "how long will it take to come".
            mentions |= {"when", "duration"}
        if "where" in asks and not all_words.isdisjoint(_FINDING):
            # "Where do I find it" and "how do I find it".
            mentions.add("how")
        return asks, mentions | asks


_ASKED: Final = frozenset(grammar.ASKED)
_PERIODS: Final = frozenset(words("seconds minutes hours days weeks months years"))
_WORKING: Final = frozenset(words("work works differ differs"))
_FINDING: Final = frozenset(words("find get go see look order buy"))
