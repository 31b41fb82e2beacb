"""What is noted while a text is read, and where the reading is.

The readers share it: a Chinese text has Latin words too. `previous`, `is_first` and the like say
where the reading is; the rest is what was found.
"""

from embeddings.guards import words_grammar as grammar
from embeddings.guards.questions import Questions


class Notes:
    """Notes on one text; the fields that `Traits` has too, are explained there."""

    def __init__(self) -> None:
        self.words: list[str] = []
        self.content: list[str] = []
        self.joined: list[int] = []
        """Where in `content` the second of two words stands that "and" or "or" joins."""
        self.movable: set[str] = set()
        self.goals: set[str] = set()
        self.sources: set[str] = set()
        self.people: list[str] = []
        self.passive = 0
        self.figures: list[str] = []
        self.versions: set[str] = set()
        self.counted: set[str] = set()
        self.weak_numbers: set[str] = set()
        self.negations = 0
        self.negated: set[str] = set()
        self.plus = 0
        self.minus = 0
        self.bare: set[str] = set()
        self.code: set[str] = set()
        self.flags: set[str] = set()
        self.names: set[str] = set()
        self.fixed: set[str] = set()
        self.capitals = 0
        self.questions = Questions()
        self.tense = ""
        self.tense_han = ""
        self.marks: dict[str, set[str]] = {}
        """Units, currencies, …, each in one spelling, by what they are."""
        self.has_particle_verb = False
        self.particles: list[str] = []

        self.previous = ""
        """The word or number before."""
        self.previous_was_name = False
        self.after_number = False
        self.is_first = True
        """Whether a sentence begins."""
        self.to_count = ""
        """A number whose noun has not come yet."""
        self.is_negated = False
        """Whether what a "not" stands before has not come yet."""
        self.role = ""
        """A preposition whose noun has not come yet."""
        self.pending = ""
        """A "last", "next" or "this", just before."""
        self.is_owner = False
        """Whether the word before had "'s"."""
        self.is_ordinal = False
        """Whether a 第 is just before."""

    def mark(self, kind: str, value: str) -> None:
        """Note a unit, a currency, a date, …"""
        self.marks.setdefault(kind, set()).add(value)

    def number(self, value: str) -> None:
        """Note a number in figures, or what it comes to."""
        if self.previous_was_name or self.previous == "version":
            self.versions.add(value)
        self.figures.append(value)
        self.to_count = value
        self.after_number = True
        self.previous = value
        self.previous_was_name = False
        self.questions.number(len(self.words))
        self.role = ""
        self.is_first = False

    def number_word(self, value: str) -> None:
        """Note a number written out: "twenty one", "two hundred", "two dozen"."""
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

    def about(self, stem: str) -> None:
        """Note a word that the text is about."""
        if self.previous in ("and", "or", "vs", "versus") and self.content:
            self.joined.append(len(self.content))
        if self.content and not self.role and self.previous not in grammar.FUNCTION:
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
            if self.role in grammar.GOALS:
                self.goals.add(stem)
            elif self.role in grammar.SOURCES:
                self.sources.add(stem)
            else:
                self.movable.add(stem)
            self.role = ""

    def join(self) -> None:
        """Give what "and" or "or" joins one order: "tea or coffee" is "coffee or tea"."""
        content = self.content
        for index in self.joined:
            if content[index] < content[index - 1]:
                content[index - 1], content[index] = content[index], content[index - 1]
