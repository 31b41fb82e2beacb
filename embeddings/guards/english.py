"""Reading words: English, and what can be told of words in other Latin letters."""

from embeddings.guards import words_grammar as grammar
from embeddings.guards import words_languages as languages
from embeddings.guards import words_meaning as meaning
from embeddings.guards import words_quantity as quantity
from embeddings.guards.lexicon import LONGEST_KEPT, PARTICLE_AXIS, Word, known_word
from embeddings.guards.notes import Notes


def read_word(notes: Notes, word: str) -> None:
    """Read a word: letters, and apostrophes between them."""
    low = word.casefold()
    if "'" in low:
        if low.endswith("n't"):
            notes.negations += 1
            notes.is_negated = True
            low = {"ca": "can", "wo": "will", "sha": "shall"}.get(low[:-3], low[:-3])
            word = low
            if notes.tense == "" and low == "will":
                notes.tense = "future"
        else:
            low, _, ending = low.partition("'")
            if ending == "ll" and not notes.tense:
                notes.tense = "future"
            elif ending == "s" and low in grammar.QUESTION:
                _read(notes, low, word[: len(low)])
                _read(notes, "is", "is")
                return
            elif ending == "s":
                _read(notes, low, word[: len(low)])
                notes.is_owner = bool(known_word(low).stem) and bool(notes.content)
                return
        word = word[: len(low)]
    _read(notes, low, word)


def _read(notes: Notes, low: str, word: str) -> None:
    low = meaning.ALIASES.get(word, low)
    notes.words.append(low)
    entry = known_word(low) if len(low) <= LONGEST_KEPT else known_word.__wrapped__(low)
    is_name = word != low and not word.islower() and _is_name(notes, low, word, entry)
    if is_name:
        notes.names.add(low)
    notes.is_first = False
    notes.plus |= entry.plus
    notes.minus |= entry.minus
    if entry.bare:
        notes.bare.add(entry.bare)
    if entry.is_plain:
        notes.pending = ""
        stem = entry.stem
    else:
        stem = _read_special(notes, low, word, entry)
    questions = notes.questions
    if questions.is_how or questions.waits_for_auxiliary or low in grammar.QUESTION:
        questions.word(low, not notes.content or notes.previous in grammar.FUNCTION)
    if entry.marks and entry.marks[0][0] == "number":
        return
    if stem:
        notes.about(stem)
    notes.previous = low
    notes.previous_was_name = is_name
    if not entry.is_plain and (low in grammar.GOALS or low in grammar.LOOSE):
        notes.role = low
    if low not in ("a", "of"):
        notes.after_number = False


def _is_name(notes: Notes, low: str, word: str, entry: Word) -> bool:
    """Return whether a word with a capital is a name; note if it must stand in the other."""
    if word[0].isupper():
        notes.capitals += 1
        if low in meaning.NAMELESS or low in grammar.FUNCTION:
            return False
    is_mixed = not word.isupper() and any(map(str.isupper, word[1:]))
    if is_mixed:
        # iPhone, getValue, GitHub
        notes.fixed.add(low)
    elif notes.is_first and not (len(word) > 1 and word.isupper()):
        return False
    return not entry.marks or entry.marks[0][0] not in ("date", "currency", "unit", "time")


def _read_special(notes: Notes, low: str, word: str, entry: Word) -> str:
    """Note what a word of one of the lists does; return what it is about, if anything."""
    if low in languages.NEGATIONS["en"] and notes.previous != "or":
        notes.negations += 1
        notes.is_negated = True
    elif notes.is_negated and low in grammar.ASKED_FOR and notes.previous in grammar.MENTAL:
        # "I do not know why" asks why.
        notes.negations -= 1
        notes.is_negated = False
    elif low == "to" and notes.previous in ("fail", "fails", "failed"):
        notes.negations += 1
        notes.is_negated = True
    stem = _read_marked(notes, low, word, entry, entry.stem) if entry.marks else entry.stem
    if not notes.tense:
        notes.tense = grammar.TENSES.get(low) or ("perfect" if low in grammar.PAST else "")
    if low in grammar.PRONOUNS:
        if low == "you" and notes.previous in ("do", "will"):
            # "Do you know" and "will you tell me" are not what is asked.
            notes.tense = ""
        notes.people.append(low)
    elif low in grammar.BE:
        notes.passive += 1
    elif low in grammar.PARTICLE_VERBS:
        notes.has_particle_verb = True
    elif low in grammar.PARTICLES_UP or low in grammar.PARTICLES_DOWN:
        notes.particles.append(low)
    if low == "times" and notes.after_number and notes.figures:
        # "Two times" is twice.
        notes.weak_numbers.add("x" + notes.figures.pop())
    if notes.pending and low in quantity.PERIODS:
        notes.mark("then", notes.pending)
    notes.pending = low if low in ("last", "next", "previous", "past", "this") else ""
    if notes.previous == "a" and low in grammar.BEHIND_A_LETTER:
        # The variable, not the article: "subtract a from b".
        notes.about("a")
    return "" if notes.questions.is_how and low in grammar.HOW else stem


def _read_marked(notes: Notes, low: str, word: str, entry: Word, stem: str) -> str:
    """Note what a word of the lists stands for; return what it is about."""
    for kind, value in entry.marks:
        if kind == "number":
            notes.number_word(value)
        elif kind == "weak":
            if notes.figures and notes.previous.endswith("0") and value == "1":
                notes.number_word(value)
            else:
                notes.weak_numbers.add(value)
                notes.to_count = value
        elif kind == "unit":
            if low in quantity.SHORT_UNITS and not notes.after_number:
                if len(entry.marks) == 1:
                    stem = "" if low in grammar.FUNCTION else low
                continue
            notes.mark(kind, value)
        elif kind == "date":
            if (
                low not in quantity.CAPITAL_DATES
                or notes.after_number
                or notes.previous in ("in", "on", "of", "until", "since", "next", "last", "this")
                or (word[0].isupper() and notes.previous)
            ):
                notes.mark(kind, value)
            elif low not in grammar.FUNCTION:
                stem = low
        elif kind in ("then", "now"):
            if low in ("last", "next", "previous", "past", "this"):
                continue
            notes.mark(kind, value)
        elif kind == "time" and low in ("am", "ist", "est", "pst"):
            if notes.after_number or word.isupper():
                notes.mark(kind, value)
        elif kind == "time" and notes.previous == "good" and len(notes.words) == 2:
            # A greeting.
            notes.plus = notes.minus = 0
            notes.content.clear()
            stem = ""
        else:
            notes.mark(kind, value)
    return stem


def finish_words(notes: Notes) -> None:
    """Note what can only be told when the last word is read."""
    notes.questions.word("", False)
    if notes.previous == "a":
        notes.about("a")
    if notes.has_particle_verb:
        _switch(notes)
        for particle in notes.particles:
            if particle in grammar.PARTICLES_UP:
                notes.plus |= PARTICLE_AXIS
            else:
                notes.minus |= PARTICLE_AXIS
    notes.join()


def _switch(notes: Notes) -> None:
    """Take "turn it off" and "switch it off" for "disable it"."""
    verb = next((verb for verb in ("turn", "switch") if verb in notes.content), None)
    if verb is None or ("on" in notes.particles) == ("off" in notes.particles):
        return
    word = known_word("enable" if "on" in notes.particles else "disable")
    notes.content[notes.content.index(verb)] = word.stem
    notes.plus |= word.plus
    notes.minus |= word.minus
