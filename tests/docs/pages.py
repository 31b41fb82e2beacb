"""The pages, and what the tests read of them: marked parts, tables, snippets, headings.

A part that is checked against the code stands between `<!-- NAME:begin -->` and
`<!-- NAME:end -->`.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])

_CELL = re.compile(r"(?<!\\)\|")
_CODE = re.compile(r"`([^`\n]+)`")
_FENCE = re.compile(r"^```([a-z]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def read(name: str) -> str:
    """Return the text of a page; `name` counts from the repository's root."""
    return (ROOT / name).read_text()


def part(name: str, mark: str) -> str:
    """Return a page's part between its marks, which stand in it once."""
    text = read(name)
    [found] = re.findall(rf"<!-- {mark}:begin -->\n(.*?)<!-- {mark}:end -->", text, re.DOTALL)
    return str(found)


def rows(text: str) -> list[list[str]]:
    """Return the cells of all table rows in `text`, header rows left out."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    table = [[cell.strip() for cell in _CELL.split(line)[1:-1]] for line in lines]
    rules = [place for place, cells in enumerate(table) if set("".join(cells)) <= set("-: ")]
    headers = {place - 1 for place in rules}
    return [cells for place, cells in enumerate(table) if place not in headers | set(rules)]


def codes(text: str) -> list[str]:
    """Return what stands between backticks."""
    return _CODE.findall(text)


def snippets(text: str, language: str) -> list[str]:
    """Return the fenced blocks of one language."""
    return [content for name, content in _FENCE.findall(text) if name == language]


def prose(text: str) -> str:
    """Return a page without its fenced blocks."""
    return _FENCE.sub("", text)


def anchors(text: str) -> set[str]:
    """Return the headings of a page as GitHub makes anchors of them."""
    headings = re.findall(r"^#+ (.+)$", prose(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def syntax_of(folder: str) -> Iterator[ast.AST]:
    """Yield every node of the Python files under `folder`."""
    for path in sorted((ROOT / folder).rglob("*.py")):
        yield from ast.walk(ast.parse(path.read_text()))
