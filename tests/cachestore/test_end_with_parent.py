"""The launcher that makes a program end with its parent."""

import ctypes
import os
import sys

import pytest

from cachestore import end_with_parent

_PR_SET_PDEATHSIG = 1


@pytest.fixture
def became(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What this process would have become."""
    programs: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda path, args: programs.append(args))
    return programs


def test_the_launcher_becomes_the_program(
    became: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Same process id, arguments as they were."""
    arguments = ["launcher", str(os.getppid()), "/bin/program", "--option", "two words"]
    monkeypatch.setattr(sys, "argv", arguments)
    try:
        end_with_parent.main()
    finally:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, 0)

    assert became == [["/bin/program", "--option", "two words"]]


def test_the_launcher_starts_nothing_when_its_parent_has_ended_already(
    became: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between fork and prctl the parent may end: nobody would end the program."""
    monkeypatch.setattr(sys, "argv", ["launcher", str(os.getpid()), "/bin/program"])
    try:
        with pytest.raises(SystemExit, match="ended"):
            end_with_parent.main()
    finally:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, 0)

    assert became == []
