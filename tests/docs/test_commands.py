"""Commands, make targets, settings and files that the pages name are there, and all are named."""

import re
from typing import Any

import pytest
import typer.main

from admin.cli import app
from config.settings import RouteSettings, Settings
from tests.docs.pages import PAGES, ROOT, codes, prose, read, snippets

_IN_WORDS = "docs/operations.md"
_SETTING = re.compile(rf"(?:{'|'.join(Settings.model_fields)})\.[a-z][a-z0-9_]*")
# LiteLLM's field, and a file, which look like settings.
_NO_SETTINGS = {"cache.namespace", "redis.log"}


def commands() -> dict[str, set[str]]:
    """Return the options of each command, by its words behind `recollect`."""
    found = {}

    # Typer brings a click of its own along, whose classes have no public name.
    def walk(command: Any, words: tuple[str, ...]) -> None:
        for name, inner in getattr(command, "commands", {}).items():
            walk(inner, (*words, name))
        if not hasattr(command, "commands"):
            found[" ".join(words)] = {option for p in command.params for option in p.opts}

    walk(typer.main.get_command(app), ())
    return found


def settings() -> set[str]:
    keys = {f"routes.{name}" for name in RouteSettings.model_fields}
    for section, field in Settings.model_fields.items():
        keys |= {f"{section}.{name}" for name in getattr(field.annotation, "model_fields", {})}
    return keys


def make_targets() -> set[str]:
    [line] = re.findall(r"^\.PHONY: (.+)$", read("Makefile"), re.MULTILINE)
    return set(line.split())


def named_commands() -> list[str]:
    """Return what the pages say one may type after `recollect`."""
    texts = [path.read_text() for path in PAGES]
    lines = [line for text in texts for block in snippets(text, "sh") for line in block.split("\n")]
    lines += [code for text in texts for code in codes(prose(text))]
    found = [re.fullmatch(r"(?:\S+/)?recollect (\w.*)", line) for line in lines]
    return [match[1] for match in found if match is not None]


def test_every_command_is_documented() -> None:
    """In the table of the operators' page."""
    assert {f"recollect {words}" for words in commands()} <= set(codes(read(_IN_WORDS)))


@pytest.mark.parametrize("line", sorted(set(named_commands())))
def test_every_command_that_a_page_shows_exists(line: str) -> None:
    """With its options. Settings' values may be anything."""
    words = line.partition(" #")[0].split()
    name = next((name for name in commands() if words[: len(name.split())] == name.split()), None)

    assert name is not None
    options = {word.partition("=")[0] for word in words if word.startswith("--")}
    assert options <= commands()[name]


def test_every_make_target_is_documented_and_no_other() -> None:
    """But for the one that others call."""
    texts = [path.read_text() for path in PAGES]
    code = [*(c for t in texts for c in codes(prose(t)))]
    code += [line for t in texts for block in snippets(t, "sh") for line in block.split("\n")]
    named = {match[1] for line in code if (match := re.match(r"make ([a-z]+)", line))}

    assert named == make_targets() - {"clients"}


def test_every_setting_that_a_page_names_exists() -> None:
    """That every setting is documented is checked beside the settings."""
    named = {
        code
        for path in PAGES
        for code in codes(prose(path.read_text()))
        if _SETTING.fullmatch(code)
    }

    assert len(named) > 30
    assert named - settings() - _NO_SETTINGS == set()


def test_every_file_that_the_architecture_names_exists() -> None:
    """Those of the repository."""
    named = [code for code in codes(read("docs/architecture.md")) if code.endswith(".py")]

    assert len(named) > 20
    assert [name for name in named if not (ROOT / name).is_file()] == []
