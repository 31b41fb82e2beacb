"""Measure, and print one table: `make bench`, with options in `ARGS`.

README.md beside this file says how it is measured and how to read the table.
"""

import argparse
import datetime
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import load, scenarios, semantic, servers
from benchmarks.compare import Size
from benchmarks.semantic_stage import LeftOut

_TITLE = "Server CPU time per request, 16 connections"
_COLUMNS = (
    "Recollect",
    "reference",
    "µs",
    "Redis µs",
    "reference µs",
    "ratio",
    "target",
    "",
)
_SEMANTIC_TITLE = "The semantic tier"
_SEMANTIC_COLUMNS = (
    "Recollect",
    "reference",
    "measured",
    "of the reference",
    "ratio",
    "target",
    "",
)
_LIBRARIES = (
    "uvicorn",
    "uvloop",
    "httptools",
    "aiohttp",
    "hiredis",
    "orjson",
    "onnxruntime",
    "faiss-cpu",
)
_START_NAME = "start"


@dataclass(frozen=True, slots=True)
class _Rows:
    """A table."""

    title: str
    columns: Sequence[str]
    rows: list[list[str]]

    def print(self, console: Console) -> None:
        """Print for people at a terminal."""
        table = Table(title=self.title)
        for column in self.columns:
            right = column.endswith("µs") or column in ("ratio", "target")
            table.add_column(column, justify="right" if right else "left")
        for row in self.rows:
            table.add_row(*row)
        console.print(table)

    def markdown(self) -> str:
        """Return the same as Markdown."""
        lines = [self.columns, ["---"] * len(self.columns), *self.rows]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)


@dataclass(frozen=True, slots=True)
class _Report:
    """One run: its tables, and what they were measured on."""

    tables: Sequence[_Rows]
    machine: str
    versions: str

    def print(self, console: Console) -> None:
        """Print for people at a terminal."""
        for table in self.tables:
            table.print(console)
        console.print(self.machine, self.versions, sep="\n", highlight=False)

    def markdown(self) -> str:
        """Return the same as Markdown."""
        tables = "\n\n".join(table.markdown() for table in self.tables)
        return f"{tables}\n\n{self.machine}\n{self.versions}\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for.

    Returns:
        The exit status: 1 when a row could not be measured, else 0. A target
        that is missed is said in the table and is no error.
    """
    names = [scenario.name for scenario in scenarios.SCENARIOS] + [_START_NAME]
    names += semantic.NAMES
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the load, more noise")
    parser.add_argument(
        "--only", action="append", choices=names, metavar="NAME", help=f"of: {', '.join(names)}"
    )
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table there too")
    options = parser.parse_args(arguments)
    # Where there is no terminal to fit into, rows stay on one line.
    console = Console(width=None if sys.stdout.isatty() else 160)
    costs = _Rows(_TITLE, _COLUMNS, [])
    meanings = _Rows(_SEMANTIC_TITLE, _SEMANTIC_COLUMNS, [])
    failed = False
    usual = [name for name in names if options.quick or name != semantic.LONG]
    for name in options.only or usual:
        with console.status(f"measuring {name} …"):
            try:
                if name in semantic.NAMES:
                    meanings.rows.extend(_semantic_rows(name, quick=options.quick))
                else:
                    costs.rows.append(_row(name, quick=options.quick))
            except LeftOut as reason:
                console.print(f"[yellow]{name} was left out:[/yellow]", str(reason), markup=True)
            except (load.UnexpectedAnswer, RuntimeError, OSError) as error:
                failed = True
                console.print(f"[red]{name} was not measured:[/red]", str(error), markup=True)
    tables = [table for table in (costs, meanings) if table.rows]
    report = _Report(tables, _machine(), _versions())
    report.print(console)
    if options.markdown:
        options.markdown.write_text(report.markdown())
    return 1 if failed else 0


def _row(name: str, *, quick: bool) -> list[str]:
    if name == _START_NAME:
        return _start_row(scenarios.START_QUICK if quick else scenarios.START_FULL)
    scenario = next(one for one in scenarios.SCENARIOS if one.name == name)
    measured = scenarios.run(scenario, scenario.quick if quick else scenario.full)
    return [
        scenario.what,
        scenario.reference,
        f"{measured.server_us:.1f}",
        f"{measured.redis_us:.1f}",
        f"{measured.reference_us:.1f}",
        f"{measured.ratio:.2f} ({measured.ratios[0]:.2f}–{measured.ratios[-1]:.2f})",
        f"≤ {scenario.target}",
        _verdict(measured.ratio <= scenario.target),
    ]


def _semantic_rows(name: str, *, quick: bool) -> list[list[str]]:
    return [
        [
            row.what,
            row.reference,
            row.measured,
            row.against,
            row.ratio,
            row.target,
            "–" if row.is_met is None else _verdict(row.is_met),
        ]
        for row in semantic.run(name, quick=quick)
    ]


def _start_row(size: Size) -> list[str]:
    measured = scenarios.start(size)
    is_met = (
        measured.worker_s <= scenarios.START_TARGET_S
        and measured.rss_bytes <= scenarios.RSS_TARGET_BYTES
    )
    return [
        f"worker start to first answer {measured.worker_s:.2f} s"
        f" (`recollect serve` {measured.serve_s:.2f} s), RSS {measured.rss_bytes / 1e6:.0f} MB",
        *["–"] * 5,
        f"≤ {scenarios.START_TARGET_S} s, ≤ {scenarios.RSS_TARGET_BYTES / 1e6:.0f} MB",
        _verdict(is_met),
    ]


def _verdict(is_met: bool) -> str:
    return "met" if is_met else "missed"


def _machine() -> str:
    model = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    return (
        f"{model[1] if model else platform.machine()}, {os.cpu_count()} cores, "
        f"{platform.system()} {platform.release().partition('-')[0]}; commit {_commit()}; {today}"
    )


def _versions() -> str:
    libraries = [f"{name} {metadata.version(name)}" for name in _LIBRARIES]
    programs = [
        _program_version("redis-server", [servers.redis_program(), "--version"], r"v=(\S+)")
    ]
    if nginx := shutil.which("nginx"):
        programs.append(_program_version("nginx", [nginx, "-v"], r"nginx/(\S+)"))
    return ", ".join([f"Python {platform.python_version()}", *libraries, *programs])


def _program_version(name: str, command: Sequence[str], pattern: str) -> str:
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    found = re.search(pattern, ran.stdout + ran.stderr)
    return f"{name} {found[1] if found else '?'}"


def _commit() -> str:
    if shutil.which("git") is None:
        return "unknown"
    git = ["git", "-C", str(Path(__file__).parent)]
    described = subprocess.run(
        [*git, "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    return described.stdout.strip() or "none"


if __name__ == "__main__":
    # So that SIGTERM, too, unwinds the stack and ends the servers.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main())
