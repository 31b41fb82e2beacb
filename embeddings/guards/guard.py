"""What two questions may differ in, so that they may not share an answer."""

from enum import StrEnum


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
