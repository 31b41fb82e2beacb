"""How the lists of words are written, and their reading.

Words stand between blanks. A line is a group, or several with `|` between them; the words of one
group mean the same, roughly, and the first stands for all. Where a line is an axis, it has two
groups: the words of its one end and the words of the other.

All are written as they stand in running text, in lower case; inflected forms are found by
`lexicon`.
"""

from collections.abc import Iterator


def words(text: str) -> list[str]:
    """Return the words of `text`."""
    return text.split()


def groups(lines: str) -> Iterator[list[str]]:
    """Yield the words of each group."""
    for line in lines.strip().splitlines():
        for group in line.split("|"):
            yield group.split()


def firsts(lines: str) -> dict[str, str]:
    """Return for each word the first of its group; a word's last group counts."""
    return {word: group[0] for group in groups(lines) for word in group}


def axes(lines: str) -> dict[str, tuple[int, int]]:
    """Return for each word a bit for every axis whose one end it names, and for the other end."""
    masks: dict[str, tuple[int, int]] = {}
    for bit, line in enumerate(lines.strip().splitlines()):
        plus, minus = (end.split() for end in line.split("|"))
        for word in plus:
            up, down = masks.get(word, (0, 0))
            masks[word] = (up | 1 << bit, down)
        for word in minus:
            up, down = masks.get(word, (0, 0))
            masks[word] = (up, down | 1 << bit)
    return masks
