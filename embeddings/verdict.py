"""The words for what was decided, as the embedding process and the workers say them."""

from enum import StrEnum


class Verdict(StrEnum):
    """What becomes of a question under an error budget."""

    SERVE = "serve"
    """The answer may be served."""
    EARNING = "earning"
    """It would have been, but its route has yet to earn its hits."""
    UNSURE = "unsure"
    """The evidence is too weak for the budget."""
    VETOED = "vetoed"
    """A guard speaks against every stored question with that answer."""
    FORBIDDEN = "forbidden"
    """Somebody said that this answer is wrong for this question."""
    NOTHING = "nothing"
    """No stored question is there to compare with."""
